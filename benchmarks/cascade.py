"""What the look before extraction saves, and what it loses.

    python benchmarks/cascade.py                           # needs ../shared; minutes
    python benchmarks/cascade.py --limit 500 --recipe recipes/fineweb.toml

Every page is looked at, extracted and judged once, each step timed; what a setting of the look
would have cost and kept follows from that. Kept: what the recipe's filters keep, before
deduplication. Times are CPU time of one core, without reading and decoding
and the first page.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from common.gold import CRAWL, GOLD, Agreement, Gold, Page, agreement, mean, read_gold, read_pages
from corpus import recipe
from corpus.filters.registry import judge
from corpus.filters.rules import Document
from corpus.recipe import Recipe
from corpus.text import clean_unicode, language_id
from corpus.text.main_text import Bounds, RejectedError, ResiliparsePage, limited, main_text
from corpus.text.prescreen import Look, LookSignals, look

RECIPE = Path(__file__).parents[1] / "recipes" / "fineweb.toml"
MIN_SCORES = (0.1, 0.3, 0.5, 0.7)
WARM_UP = Page(
    "", "", f"<html><body>{'<p>The first page costs more than others do.' * 20}</body></html>"
)
REFUSED = LookSignals(0, "", 0.0, 0)  # a page that a bound keeps the look from
MAX_LISTED = 10


@dataclass(frozen=True)
class Setting:
    """A way to look: from which score a page passes, and whether passages can save it."""

    min_score: float | None  # None: no look
    passages: bool

    def __str__(self) -> str:
        if self.min_score is None:
            return "no look"
        return f"{self.min_score}, {'' if self.passages else 'no '}passages"


NO_LOOK = Setting(None, passages=False)


@dataclass(frozen=True)
class Trial:
    """A page looked at, extracted and judged; times in CPU seconds."""

    url: str
    seen: LookSignals  # its passages are measured whatever its score is
    score_seconds: float  # the look without passages
    passages_seconds: float  # what passages add to it
    extract_seconds: float
    kept: bool
    agreement: Agreement | None  # of the text with the page's gold, where it has a full text

    def passes(self, setting: Setting, min_passage_chars: int) -> bool:
        """Whether it would be extracted."""
        if setting.min_score is None or self.seen.score >= setting.min_score:
            return True
        return setting.passages and (self.seen.passage_chars or 0) >= min_passage_chars

    def look_seconds(self, setting: Setting) -> float:
        """What the look would take: passages are measured only where the score does not do."""
        if setting.min_score is None:
            return 0.0
        needed = setting.passages and self.seen.score < setting.min_score
        return self.score_seconds + (self.passages_seconds if needed else 0.0)


@dataclass(frozen=True)
class Result:
    """A setting's figures over all pages; times in CPU seconds."""

    setting: str
    num_pages: int
    num_passed: int
    look_seconds: float
    extract_seconds: float
    num_kept: int
    lost: tuple[str, ...]  # URLs that are kept without a look
    num_gold: int  # kept pages with a full text in the gold
    gold: Agreement | None

    @property
    def seconds(self) -> float:
        """Look and extraction together."""
        return self.look_seconds + self.extract_seconds


def main() -> None:
    """Try every page once, print what each setting would have made of it."""
    arguments = _arguments()
    chosen = recipe.load(arguments.recipe)
    languages = chosen.look.languages or chosen.language.languages
    if not languages:
        raise SystemExit(f"--recipe {arguments.recipe}: no languages in [look] or [language]")
    chosen = replace(chosen, look=replace(chosen.look, languages=languages))
    gold = read_gold(arguments.gold)
    attempt(WARM_UP, chosen, None)
    pages = _with_progress(itertools.islice(read_pages(arguments.crawl), arguments.limit))
    trials = [attempt(page, chosen, gold.get(page.payload_sha1)) for page in pages]
    own = Setting(chosen.look.min_score, passages=True)
    results = [result(trials, setting, chosen.look.min_passage_chars) for setting in settings(own)]
    if arguments.json:
        print(json.dumps([asdict(one) for one in results], indent=1))
        return
    console = Console(width=120)
    console.print(cost_table(results))
    console.print(lost_table(trials, results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE, help=f"default {RECIPE}")
    parser.add_argument("--crawl", default=CRAWL, metavar="GLOB", help=f"default {CRAWL}")
    parser.add_argument("--gold", type=Path, default=GOLD, help=f"default {GOLD}")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pages")
    parser.add_argument("--json", action="store_true", help="figures as JSON instead of tables")
    return parser.parse_args()


def _with_progress(pages: Iterator[Page]) -> Iterator[Page]:
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("pages", total=None)
        for page in pages:
            yield page
            bar.advance(task)
            bar.update(task, description=f"{bar.tasks[task].completed:,.0f} pages")


def settings(own: Setting) -> list[Setting]:
    """No look, then every score, the recipe's too, with passages and without."""
    scores = sorted({*MIN_SCORES, own.min_score or 0.0})
    return [NO_LOOK, *itertools.starmap(Setting, itertools.product(scores, (True, False)))]


def attempt(page: Page, chosen: Recipe, gold: Gold | None) -> Trial:
    """Look at a page in both ways, extract it, judge its text as the filter stage does.

    The first look pays for caches that the page before has filled, as it does in a run; what
    passages add is the difference of two later ones.
    """
    _, score_seconds = _look(page, chosen, min_score=0.0)
    seen, with_passages = _look(page, chosen, min_score=1.0)
    _, without = _look(page, chosen, min_score=0.0)
    text, start = "", time.process_time()
    with contextlib.suppress(RejectedError), limited(chosen.extract.max_cpu_seconds):
        text = main_text(page.html, chosen.extract.engine, _bounds(chosen))
    extract_seconds = time.process_time() - start
    return Trial(
        url=page.url,
        seen=seen,
        score_seconds=score_seconds,
        passages_seconds=with_passages - without,
        extract_seconds=extract_seconds,
        kept=_keeps(text, chosen),
        agreement=agreement(text, gold.text) if gold and gold.text is not None else None,
    )


def _bounds(chosen: Recipe) -> Bounds:
    return Bounds(chosen.extract.max_nodes, chosen.extract.max_depth)


def _look(page: Page, chosen: Recipe, min_score: float) -> tuple[LookSignals, float]:
    """What the look measures where it has to look as far as `min_score` asks, and CPU seconds."""
    ways: Look = replace(chosen.look, min_score=min_score)
    # A copy, since a string that resiliparse has read keeps its UTF-8, and later ones would gain.
    html = "".join((page.html, " "))
    seen, start = REFUSED, time.process_time()
    with contextlib.suppress(RejectedError), limited(chosen.extract.max_cpu_seconds):
        fresh = ResiliparsePage(html, _bounds(chosen))
        seen = look(fresh, ways, chosen.extract.language_model)
    return seen, time.process_time() - start


def _keeps(text: str, chosen: Recipe) -> bool:
    """Whether the recipe's filters keep an extracted text."""
    text = clean_unicode.clean(text.encode("utf-8", "replace").decode("utf-8"))
    if not text.strip():
        return False
    head = text[: chosen.extract.language_chars or None]
    language = language_id.identify(
        head, chosen.extract.language_model, chosen.extract.language_newline
    )
    return judge(Document(text, *language), chosen.chosen_filters()).rejected_by is None


def result(trials: Sequence[Trial], setting: Setting, min_passage_chars: int) -> Result:
    """What a setting passes, costs, keeps and loses."""
    passed = [trial for trial in trials if trial.passes(setting, min_passage_chars)]
    kept = [trial for trial in passed if trial.kept]
    agreements = [trial.agreement for trial in kept if trial.agreement]
    return Result(
        setting=str(setting),
        num_pages=len(trials),
        num_passed=len(passed),
        look_seconds=sum(trial.look_seconds(setting) for trial in trials),
        extract_seconds=sum(trial.extract_seconds for trial in passed),
        num_kept=len(kept),
        lost=tuple(
            trial.url
            for trial in trials
            if trial.kept and not trial.passes(setting, min_passage_chars)
        ),
        num_gold=len(agreements),
        gold=mean(agreements),
    )


def cost_table(results: Sequence[Result]) -> Table:
    """A row a setting; the first is no look, which the others are held against.

    "look ms" is CPU time a page, "extract ms" a page that passes, "both s" all pages together.
    """
    table = Table(title=_title(results[0]), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("look: min_score", no_wrap=True)
    for name in ("pass", "look ms", "extract ms", "both s", "of no look", "kept", "lost",
                 "with gold", "F1"):  # fmt: skip
        table.add_column(name, justify="right")
    for one in results:
        table.add_row(one.setting, *_cells(one, results[0]))
    return table


def _title(no_look: Result) -> str:
    return f"{no_look.num_pages:,} pages, {no_look.num_kept:,} of which are kept without a look"


def _cells(one: Result, no_look: Result) -> Iterator[Any]:
    yield f"{one.num_passed:,} ({one.num_passed / max(1, one.num_pages):.0%})"
    yield f"{1e3 * one.look_seconds / max(1, one.num_pages):.2f}"
    yield f"{1e3 * one.extract_seconds / max(1, one.num_passed):.1f}"
    yield f"{one.seconds:.1f}"
    yield f"{one.seconds / no_look.seconds:.0%}" if no_look.seconds else ""
    yield f"{one.num_kept:,}"
    yield f"{len(one.lost):,}"
    yield f"{one.num_gold:,}"
    yield f"{one.gold.f1:.4f}" if one.gold else ""


def lost_table(trials: Sequence[Trial], results: Sequence[Result]) -> Table:
    """The kept pages that a setting loses, those first that most of the settings lose.

    "seen" is the language that the look took the page for, "passages" the characters of those in
    a wanted language.
    """
    times = Counter(url for one in results for url in one.lost)
    title = f"kept without a look, lost by some setting: {len(times)}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("URL", overflow="fold")
    for name in ("seen", "score", "passages", "lost by"):
        table.add_column(name, justify="right")
    by_url = {trial.url: trial.seen for trial in trials if trial.kept}
    for url, count in times.most_common(MAX_LISTED):
        seen = by_url[url]
        cells = (seen.language or "none", f"{seen.score:.2f}", f"{seen.passage_chars}")
        table.add_row(url, *cells, f"{count} of {len(results) - 1}")
    return table


if __name__ == "__main__":
    main()
