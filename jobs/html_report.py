"""The funnel as one self-contained page: no script, no network, readable on any screen.

Names come from manifests, which somebody else may have written: they are escaped, and the page's
own policy forbids scripts and requests should that ever fail.
"""

from __future__ import annotations

import html

from jobs.report import Funnel, estimate_rows
from schemas.printable import printable

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 0; }
dt { font-size: .8rem; color: #666; } dd { margin: 0; font-size: 1.4rem; }
table { border-collapse: collapse; width: 100%; }
td { padding: .15rem .5rem; vertical-align: middle; }
td.count, td.share { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.bar { width: 45%; }
.bar span { display: block; height: .9rem; min-width: 1px; background: #b9c4d0; }
.bar span.rejected { background: #d98c5f; } .bar span.duplicate { background: #d9b95f; }
.bar span.kept { background: #4c8c5a; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181a1b; } dt { color: #999; }
}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_KEPT = ("canonical", "kept", "extracted")


def page(found: Funnel) -> str:
    """The page's HTML."""
    title = f"Gristmill: the funnel of '{_text(found.recipe)}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        f"{_numbers(found)}\n<h2>What became of {found.records:,} records</h2>\n"
        f"{_outcomes(found)}\n{_estimate(found)}<h2>Stages</h2>\n{_stages(found)}\n</body></html>\n"
    )


def _text(text: str) -> str:
    return html.escape(printable(text))


def _numbers(found: Funnel) -> str:
    names = ("records", "documents", "kept", "duplicates", "canonical", "shards", "tokens")
    pairs = (f"<div><dt>{n}</dt><dd>{getattr(found, n):,}</dd></div>" for n in names)
    return f"<dl>{''.join(pairs)}</dl>"


def _outcomes(found: Funnel) -> str:
    most = max(found.outcomes.values(), default=1)
    rows = (_row(found, name, count, most) for name, count in found.outcomes.items())
    return f"<table>{''.join(rows)}</table>"


def _row(found: Funnel, name: str, count: int, most: int) -> str:
    share = count / max(1, found.records)
    bar = f'<span class="{_kind(found, name)}" style="width:{100 * count / most:.1f}%"></span>'
    return (
        f'<tr><td>{_text(name)}</td><td class="count">{count:,}</td>'
        f'<td class="share">{share:.1%}</td><td class="bar">{bar}</td></tr>\n'
    )


def _kind(found: Funnel, name: str) -> str:
    if name in _KEPT:
        return "kept"
    if name in found.duplicates_by_kind:
        return "duplicate"
    return "rejected" if name in found.rejected else "no-document"


def _estimate(found: Funnel) -> str:
    rows = "".join(
        f'<tr><td>{_text(name.strip())}</td><td class="count">{_text(sampled)}</td>'
        f'<td class="share">{_text(share)}</td></tr>\n'
        for name, sampled, share in estimate_rows(found)
    )
    return f"<h2>Near-duplicates, by a sample</h2>\n<table>{rows}</table>\n" if rows else ""


def _stages(found: Funnel) -> str:
    rows = (
        f'<tr><td>{_text(name)}</td><td class="count">{seconds:,.1f} s</td>'
        f"<td>{_text(found.engines[name])}</td></tr>\n"
        for name, seconds in found.seconds.items()
    )
    return f"<table>{''.join(rows)}</table>"
