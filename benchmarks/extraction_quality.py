"""Extracted texts against human gold: words, snippets, CPU time, engine by engine.

    python benchmarks/extraction_quality.py                # needs ../shared
    python benchmarks/extraction_quality.py --limit 200 --engines trafilatura,resiliparse

Each page goes to all engines in turn. `trafilatura-plain` is the library in a process of its own,
called on the page as a string; where it runs beside `trafilatura`, the texts are compared, too.
Times are of one core, without reading, decoding and the first call of each engine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from common.gold import CRAWL, GOLD, Agreement, Gold, Page, agreement, mean, num_found, read_gold
from common.gold import read_pages as all_pages
from corpus.text.main_text import Bounds, Engine, RejectedError, limited, main_text

PLAIN = "trafilatura-plain"
ENGINES = ("trafilatura", PLAIN, "trafilatura-fast", "resiliparse")
BOUNDS = Bounds(max_nodes=50_000, max_depth=250)
WARM_UP = (
    "<html><body><article><p>" + "The engine's first page costs more. " * 20 + "</p></article>"
)
# Page -> its text, None where it is refused; and the CPU seconds that took.
Extractor = Callable[[str], tuple[str | None, float]]


@dataclass(frozen=True)
class Answer:
    """One engine's text of one page, held against the page's gold."""

    engine: str
    source: str
    kind: str
    text: str | None  # None: refused
    cpu_seconds: float
    agreement: Agreement | None  # None: the gold has no full text
    num_wanted: tuple[int, int]  # snippets found that must be, and all of them
    num_unwanted: tuple[int, int]  # snippets found that must not be, and all of them


@dataclass(frozen=True)
class Score:
    """The figures of one engine on some pages; shares from 0 to 1, None where no gold tells."""

    num_pages: int
    num_full_texts: int
    precision: float | None
    recall: float | None
    f1: float | None
    wanted_found: float | None
    unwanted_avoided: float | None
    cpu_ms: float


def main() -> None:
    """Ask every engine about every page, print the tables."""
    arguments = _arguments()
    gold = read_gold(arguments.gold)
    total = min(len(gold), arguments.limit or len(gold))
    pages = islice((p for p in all_pages(arguments.crawl) if p.payload_sha1 in gold), total)
    console = Console(stderr=True)
    with open_extractors(arguments.engines) as extractors:
        asked = track(pages, "pages", total, console=console, transient=True)
        answers = [x for page in asked for x in ask(extractors, page, gold[page.payload_sha1])]
    if not answers:
        raise SystemExit(f"--crawl {arguments.crawl}: no page has gold in {arguments.gold}")
    if arguments.json:
        print(json.dumps(as_json(arguments.engines, answers), indent=1))
        return
    show = Console(width=120).print
    show(source_table(arguments.engines, answers))
    show(kind_table(arguments.engines, answers))
    for line in remarks(arguments.engines, answers):
        show(line)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gold", type=Path, default=GOLD, help=f"default {GOLD}")
    parser.add_argument("--crawl", default=CRAWL, metavar="GLOB", help=f"default {CRAWL}")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pages")
    parser.add_argument(
        "--engines", type=_engines, default=ENGINES, help=f"default {','.join(ENGINES)}"
    )
    parser.add_argument("--json", action="store_true", help="figures as JSON instead of tables")
    return parser.parse_args()


def _engines(value: str) -> tuple[str, ...]:
    engines = tuple(value.split(","))
    for engine in engines:
        if engine not in ENGINES:
            raise argparse.ArgumentTypeError(f"{engine}: must be among {', '.join(ENGINES)}")
    return engines


@contextlib.contextmanager
def open_extractors(engines: Sequence[str]) -> Iterator[dict[str, Extractor]]:
    """Engine -> what extracts by it, once it has been warmed up."""
    with contextlib.ExitStack() as stack:
        extractors: dict[str, Extractor] = {}
        for engine in engines:
            ours = engine in get_args(Engine)
            extractors[engine] = _ours(engine) if ours else stack.enter_context(_plain())
            extractors[engine](WARM_UP)
        yield extractors


def _ours(engine: Any) -> Extractor:
    def extract(html: str) -> tuple[str | None, float]:
        text, start = None, time.process_time()
        with contextlib.suppress(RejectedError), limited(max_cpu_seconds=60):
            text = main_text(html, engine, BOUNDS)
        return text, time.process_time() - start

    return extract


@contextlib.contextmanager
def _plain() -> Iterator[Extractor]:
    """trafilatura in a fresh process, which answers page by page."""
    script = Path(__file__).parent / "peers" / "plain_trafilatura.py"
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        page, answer = process.stdin, process.stdout
        assert page is not None
        assert answer is not None

        def extract(html: str) -> tuple[str | None, float]:
            page.write(f"{json.dumps(html)}\n")
            page.flush()
            text, seconds = json.loads(answer.readline())
            return text, seconds

        yield extract


def ask(extractors: dict[str, Extractor], page: Page, gold: Gold) -> Iterator[Answer]:
    """Every engine's answer on a page."""
    for engine, extract in extractors.items():
        text, seconds = extract(page.html)
        found = text or ""
        yield Answer(
            engine,
            gold.source,
            gold.kind,
            text,
            seconds,
            None if gold.text is None else agreement(found, gold.text),
            (num_found(gold.wanted, found), len(gold.wanted)),
            (num_found(gold.unwanted, found), len(gold.unwanted)),
        )


def score(answers: Sequence[Answer]) -> Score:
    """The figures of one engine's answers: texts by page, snippets all together."""
    agreements = [answer.agreement for answer in answers if answer.agreement]
    average = mean(agreements)
    wanted, all_wanted = (sum(x) for x in zip(*(a.num_wanted for a in answers), strict=True))
    unwanted, all_unwanted = (sum(x) for x in zip(*(a.num_unwanted for a in answers), strict=True))
    return Score(
        num_pages=len(answers),
        num_full_texts=len(agreements),
        precision=average.precision if average else None,
        recall=average.recall if average else None,
        f1=average.f1 if average else None,
        wanted_found=wanted / all_wanted if all_wanted else None,
        unwanted_avoided=1 - unwanted / all_unwanted if all_unwanted else None,
        cpu_ms=1e3 * sum(answer.cpu_seconds for answer in answers) / len(answers),
    )


def scores_by(
    answers: Sequence[Answer], group: Callable[[Answer], str]
) -> dict[str, dict[str, Score]]:
    """Group -> engine -> its figures, the groups in the order of their names."""
    groups: dict[str, dict[str, list[Answer]]] = {}
    for answer in answers:
        groups.setdefault(group(answer), {}).setdefault(answer.engine, []).append(answer)
    return {name: {e: score(a) for e, a in groups[name].items()} for name in sorted(groups)}


def _source(answer: Answer) -> str:
    return answer.source


def _kind(answer: Answer) -> str:
    return f"{answer.source}: {answer.kind}" if answer.kind else answer.source


def num_differing(answers: Sequence[Answer]) -> tuple[int, int]:
    """Pages on which `trafilatura` gives another text than the plain library, and pages compared.

    A page that was refused by a bound has no text to compare.
    """
    quick = [answer.text for answer in answers if answer.engine == "trafilatura"]
    plain = [answer.text for answer in answers if answer.engine == PLAIN]
    pairs = [pair for pair in zip(quick, plain, strict=True) if pair[0] is not None]
    return sum(mine != theirs for mine, theirs in pairs), len(pairs)


def as_json(engines: Sequence[str], answers: Sequence[Answer]) -> dict[str, Any]:
    """All figures, by source, by kind and in all."""
    groupings = {"source": _source, "kind": _kind, "all": lambda answer: "all"}
    result: dict[str, Any] = {
        name: {
            group: {engine: asdict(figures) for engine, figures in scores.items()}
            for group, scores in scores_by(answers, key).items()
        }
        for name, key in groupings.items()
    }
    if {"trafilatura", PLAIN} <= set(engines):
        differing, compared = num_differing(answers)
        result["trafilatura_differs_from_plain"] = {"pages": differing, "of": compared}
    return result


def remarks(engines: Sequence[str], answers: Sequence[Answer]) -> Iterator[str]:
    """What stands under the tables."""
    for engine in engines:
        refused = sum(answer.engine == engine and answer.text is None for answer in answers)
        if refused:
            yield f"{engine}: {refused} pages refused by a bound, their text counts as empty"
    if {"trafilatura", PLAIN} <= set(engines):
        differing, compared = num_differing(answers)
        yield f"trafilatura and {PLAIN} differ on {differing} of {compared:,} pages"


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def source_table(engines: Sequence[str], answers: Sequence[Answer]) -> Table:
    """Every figure, by source and in all; the share of snippets found that must be, and avoided."""
    table = _table("texts against human gold", "source", "engine")
    for name in ("pages", "precision", "recall", "F1", "must", "must not", "CPU ms a page"):
        table.add_column(name, justify="right")
    groups = scores_by(answers, _source)
    if len(groups) > 1:
        groups |= scores_by(answers, lambda answer: "all")
    for group, scores in groups.items():
        for engine in engines:
            s = scores[engine]
            shares = (s.precision, s.recall, s.f1, s.wanted_found, s.unwanted_avoided)
            name, pages = (group, f"{s.num_pages:,}") if engine == engines[0] else ("", "")
            table.add_row(name, engine, pages, *map(_share, shares), f"{s.cpu_ms:.1f}")
        table.add_section()
    return table


def kind_table(engines: Sequence[str], answers: Sequence[Answer]) -> Table:
    """F1 of every engine by the kind of page, where there are full texts."""
    table = _table("F1 by kind of page", "kind")
    for name in ("pages", *engines):
        table.add_column(name, justify="right")
    for group, scores in scores_by(answers, _kind).items():
        pages = scores[engines[0]].num_full_texts
        if pages:
            table.add_row(group, f"{pages:,}", *(_share(scores[e].f1) for e in engines))
    return table


if __name__ == "__main__":
    main()
