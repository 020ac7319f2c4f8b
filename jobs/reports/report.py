"""The funnel of a run, from the manifests alone: every record read has exactly one outcome.

Conversations do not come from records: of a folder of theirs the report is that of its command.

The funnel as one self-contained page: no script, no network, readable on any screen.

Names come from manifests, which somebody else may have written: they are escaped, and the page's
own policy forbids scripts and requests should that ever fail.
"""

from __future__ import annotations

import dataclasses
import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from jobs import decontaminate
from jobs.engine.roots import refuse_unfinished, shards_folder
from jobs.engine.stage import balance
from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import CanonicalExtra, ClustersExtra, DocumentsFile, Manifest, extra_of
from schemas.printing import printable


@dataclass(frozen=True)
class Funnel:
    """What became of every record: `outcomes` adds up to `records`.

    `rejected`: documents by reason. `duplicates_by_kind`: dropped documents by kind of duplicate.
    `estimate`: precision and recall of the links from a sample
    (`schemas.manifest.Estimate`). `passages`: what was removed from documents that
    stay. `pii`: personal data items replaced in them. Before later stages have run, documents
    count as `extracted` or `kept`.
    """

    recipe: str
    records: int
    outcomes: dict[str, int]
    documents: int
    rejected: dict[str, int]
    kept: int
    duplicates: int
    duplicates_by_kind: dict[str, int]
    repeated_ids: int
    links: dict[str, int]
    estimate: dict[str, Any]
    passages: dict[str, int]
    canonical: int
    contaminated: int
    pii: dict[str, int]
    shards: int
    tokens: int
    tokens_by_split: dict[str, int]
    tokenizer: str
    seconds: dict[str, float]
    engines: dict[str, str]

    def to_json(self) -> str:
        """The funnel as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=1)


def funnel(root: Path, shards_name: str = "shards") -> Funnel:
    """Read the funnel of a root; `UserError` where nothing was extracted there."""
    refuse_unfinished(root)
    documents = manifest.read(root / "documents")
    if documents is None:
        raise UserError(f"--root {root}: no run was committed there; start with gristmill run")
    judged = _made_from(root / "judged", documents)
    bands = _made_from(root / "bands", judged)
    clusters = _made_from(root / "clusters", bands)
    scrubbed = _made_from(root / "canonical", bands)
    contamination = _made_from(root / "contamination", scrubbed)
    dropped = contamination if contamination and contamination.drops else None
    contaminated = dropped.counts["contaminated"] if dropped else 0
    shards = _made_from(shards_folder(root, shards_name), scrubbed)
    if shards and shards.inputs.get("contamination") != (dropped and dropped.fingerprint):
        shards = None  # made before documents were dropped, or dropped no more
    rowless, extracted = _split_rowless(documents)
    by_reason = dict(judged.counts) if judged else extracted
    kept = by_reason.pop("kept", 0) if judged else by_reason.pop("extracted", 0)
    duplicates = dict(clusters.counts) if clusters else {}
    canonical = duplicates.pop("kept", 0)
    left = {"canonical": canonical - contaminated}
    left |= {"contaminated": contaminated} if contaminated else {}
    last = left if clusters else {"kept" if judged else "extracted": kept}
    outcomes = rowless | by_reason | duplicates | last
    stages = (documents, judged, bands, clusters, contamination, shards)
    made = {listed.dataset: listed.made for listed in stages if listed}
    linked = extra_of(clusters, ClustersExtra) if clusters else ClustersExtra()
    cleaned = extra_of(scrubbed, CanonicalExtra) if scrubbed else CanonicalExtra()
    result = Funnel(
        recipe=documents.recipe,
        records=sum(documents.counts.values()),
        outcomes=_sorted(outcomes),
        documents=documents.rows,
        rejected=_sorted(by_reason),
        kept=kept,
        duplicates=sum(duplicates.values()),
        duplicates_by_kind=duplicates,
        repeated_ids=bands.counts["repeated_ids"] if bands else 0,
        links=linked.links or {},
        estimate=dataclasses.asdict(linked.estimate) if linked.estimate else {},
        passages=linked.passages or {},
        canonical=canonical,
        contaminated=contaminated,
        pii=cleaned.pii or {},
        seconds={name: m["seconds"] for name, m in made.items()},
        engines={name: m["engine"] for name, m in made.items()},
        **_shard_numbers(shards),
    )
    _check(root, result)
    return result


def conversations(root: Path, shards_name: str) -> Manifest | None:
    """The manifest of a folder of conversations; None where it holds anything else."""
    refuse_unfinished(root)
    found = manifest.read(shards_folder(root, shards_name))
    return found if found and found.has_conversations else None


def conversations_json(made: Manifest) -> str:
    """What became of the rows of chat files, as a JSON object."""
    named = ("forms", "reasons", "forgotten", "target_tokens")
    values = dataclasses.asdict(made.shards)
    told = {name: values[name] for name in named if values[name] is not None}
    seconds = {"seconds": {"conversations": made.made["seconds"]}}
    return json.dumps(
        {"kind": "conversations", **told, **_shard_numbers(made), **seconds}, indent=1
    )


def _made_from(folder: Path, source: Manifest | None) -> Manifest | None:
    """The manifest in `folder`, unless it was made of something else than what is there now."""
    found = manifest.read(folder)
    if source and found and found.inputs.get(source.dataset) == source.fingerprint:
        return found
    return None


def _split_rowless(documents: Manifest) -> tuple[dict[str, int], dict[str, int]]:
    names = {name for file in documents.files for name in extra_of(file, DocumentsFile).rowless}
    rowless = {k: v for k, v in documents.counts.items() if k in names}
    return rowless, {k: v for k, v in documents.counts.items() if k not in names}


def _shard_numbers(listed: Manifest | None) -> dict[str, Any]:
    if listed is None:
        return {"shards": 0, "tokens": 0, "tokens_by_split": {}, "tokenizer": ""}
    tokens = listed.shards.tokens
    return {
        "shards": len(listed.files),
        "tokens": sum(tokens.values()),
        "tokens_by_split": tokens,
        "tokenizer": listed.shards.tokenizer.name,
    }


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _check(root: Path, result: Funnel) -> None:
    balance(f"report {root}", "records", result.records, sum(result.outcomes.values()))


def stage_table(root: Path, stage: str, shards_name: str = "shards") -> Table:
    """What a stage did, in a table."""
    if stage == "decontaminate":
        made = manifest.read(root / "contamination")
        assert made is not None
        return decontaminate.table(made)
    found = funnel(root, shards_name)
    rows = {
        "extract": lambda: _extract_rows(root, found),
        "filter": lambda: _share_rows(found.rejected, found.kept, "kept"),
        "bands": lambda: _bands_rows(root),
        "dedup": lambda: _dedup_rows(found),
        "shard": lambda: _shard_rows(found),
    }[stage]()
    dataset = {"extract": "documents", "filter": "judged", "dedup": "clusters", "shard": "shards"}
    name = dataset.get(stage, stage)
    table = _table(f"{stage}: {found.seconds[name]:.1f} s on {found.engines[name]}")
    for row in rows:
        table.add_row(Text(printable(row[0])), *row[1:])
    return table


def funnel_table(found: Funnel) -> Table:
    """The whole funnel, in a table: records, outcomes, what was kept, tokens."""
    table = _table(f"funnel of recipe '{found.recipe}'")
    table.add_row("records read", f"{found.records:,}", "")
    for name, count in found.outcomes.items():
        table.add_row(
            Text(printable(f"  {name}")), f"{count:,}", f"{count / max(1, found.records):.1%}"
        )
    table.add_section()
    names = ("documents", "kept", "duplicates", "canonical", "contaminated", "shards", "tokens")
    for name in names if found.contaminated else (n for n in names if n != "contaminated"):
        table.add_row(name, f"{getattr(found, name):,}", "")
    said = estimate_rows(found)
    if said:
        table.add_section()
    for row in said:
        table.add_row(*row)
    return table


def _table(title: str) -> Table:
    table = Table(
        title=Text(printable(title), "table.title"), title_justify="left", show_edge=False
    )
    table.add_column("outcome")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    return table


def _extract_rows(root: Path, found: Funnel) -> list[tuple[str, str, str]]:
    documents = manifest.read(root / "documents")
    assert documents is not None
    rows = _share_rows(_sorted(documents.counts), found.records, "records read")
    return [rows[-1], *rows[:-1]]


def _share_rows(counts: dict[str, int], last: int, name: str) -> list[tuple[str, str, str]]:
    total = max(1, last if name == "records read" else last + sum(counts.values()))
    listed = {**counts, name: last}
    return [(key, f"{n:,}", f"{n / total:.1%}") for key, n in listed.items()]


def _bands_rows(root: Path) -> list[tuple[str, str, str]]:
    bands = manifest.read(root / "bands")
    assert bands is not None
    counts, total = bands.counts, max(1, bands.counts["documents"])
    names = {"unsigned": "too short for a signature", "repeated_ids": "ids that repeat"}
    rows = [(text, counts[name], counts[name] / total) for name, text in names.items()]
    rows.append(("documents", counts["documents"], 1.0))
    return [(name, f"{count:,}", f"{share:.1%}") for name, count, share in rows if count]


def _dedup_rows(found: Funnel) -> list[tuple[str, str, str]]:
    rows = _share_rows(found.duplicates_by_kind, found.canonical, "canonical")
    rows += estimate_rows(found)
    if found.links.get("unverified"):
        rows.append(("memberships left unverified", f"{found.links['unverified']:,}", ""))
    rows += [(f"passages: {name}", f"{count:,}", "") for name, count in found.passages.items()]
    taken = {kind: count for kind, count in found.pii.items() if count}
    return rows + [(f"{kind} taken out", f"{count:,}", "") for kind, count in taken.items()]


def estimate_rows(found: Funnel) -> list[tuple[str, str, str]]:
    """What a sample of pairs says of the near-duplicates: names, pairs compared, shares."""
    said = found.estimate
    if not said.get("num_pairs"):
        return []
    least = f"{said['threshold']:.2f}"
    low, high = said["precision_low"], said["precision_high"]
    rows = [
        (f"precision: links of similarity {least} or more", said["num_pairs"], said["precision"]),
        (f"  95% of such samples: {low:.1%} to {high:.1%}", None, None),
        ("recall: such pairs that are linked, estimated", None, said["recall"]),
        ("dropped, and so similar to what stays", said["num_survivors"], said["survivors"]),
    ]
    return [
        (name, "" if n is None else f"{n:,} sampled", "" if share is None else f"{share:.1%}")
        for name, n, share in rows
    ]


def _shard_rows(found: Funnel) -> list[tuple[str, str, str]]:
    documents = found.canonical - found.contaminated
    rows = [("documents", f"{documents:,}", ""), ("shards", f"{found.shards:,}", "")]
    for split, tokens in found.tokens_by_split.items():
        rows.append((f"{split} tokens", f"{tokens:,}", f"{tokens / max(1, found.tokens):.1%}"))
    return [*rows, (f"tokenizer {found.tokenizer}", "", "")]


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
