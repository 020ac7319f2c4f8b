"""The parts of dedup.py on made-up documents: scale, growth, skew, recall."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator

import numpy as np
from rich.progress import track
from rich.table import Table

from common.bench import Bench, Figure, at_most, engine, figures_table
from corpus.dedup.minhash import MinHash, fingerprints
from dedup_parts.runs import Outcome, deduplicate
from dedup_parts.synthetic import SIMILARITIES, Distinct, NearIdentical, Pairs, Planted, texts
from jobs.engine.dataset_io import ROWS_PER_REQUEST

TEXTS_AT_ONCE = 2_000
AIMED_AT = (0.7, 0.8, 0.9)  # similarities; the others are told for information


def scale(bench: Bench, arguments: Namespace) -> Table:
    """Wall, CPU and memory on each engine, and how much of what was planted is found."""
    corpus = _planted(arguments.documents)
    masters = _masters(arguments)
    rows = [
        figure
        for master, outcome in zip(masters, deduplicate(bench, corpus, masters), strict=True)
        for figure in _scale_figures(engine(master), outcome)
    ]
    caption = "MB: peak resident memory; on Sail the engine is part of the main process"
    title = (
        f"scale: {corpus.documents:,} documents of 300 words, largest cluster {corpus.largest:,}"
    )
    return figures_table(title, rows, caption)


def growth(bench: Bench, arguments: Namespace) -> Table:
    """CPU of ten times as many documents."""
    masters = _masters(arguments)
    few, many = (
        deduplicate(bench, _planted(n), masters)
        for n in (arguments.documents // 10, arguments.documents)
    )
    rows = [Figure("signatures, CPU ms a document", "", f"{_signature_ms():.2f}")]
    more = arguments.documents - arguments.documents // 10
    for master, small, large in zip(masters, few, many, strict=True):
        ratio = large.cost.cpu_seconds / small.cost.cpu_seconds
        rows.append(Figure(f"{engine(master)}: CPU s of a tenth", "", _seconds(small)))
        rows.append(Figure(f"{engine(master)}: CPU s of all", "", _seconds(large)))
        rows.append(at_most(f"{engine(master)}: ratio", ratio, 11, "x"))
        marginal = (large.cost.cpu_seconds - small.cost.cpu_seconds) / more * 1e3
        rows.append(Figure(f"{engine(master)}: marginal CPU ms a document", "", f"{marginal:.2f}"))
    return figures_table(f"growth: a tenth of {arguments.documents:,} documents, and all", rows)


def skew(bench: Bench, arguments: Namespace) -> Table:
    """Near-identical documents against as many distinct ones."""
    n, rows, masters = arguments.skew_documents, list[Figure](), _masters(arguments)
    same, distinct = (
        deduplicate(bench, corpus, masters) for corpus in (NearIdentical(n), Distinct(n))
    )
    for master, alike, apart in zip(masters, same, distinct, strict=True):
        for name, outcome in (("near-identical", alike), ("distinct", apart)):
            walls = f"{outcome.cost.wall_seconds:.1f} s, {outcome.cost.cpu_seconds:.1f} CPU-s"
            rows.append(Figure(f"{engine(master)}: {name}", "", walls))
        wall = alike.cost.wall_seconds / apart.cost.wall_seconds
        cpu = alike.cost.cpu_seconds / apart.cost.cpu_seconds
        rows.append(at_most(f"{engine(master)}: time, ratio", wall, 2, "x"))
        rows.append(at_most(f"{engine(master)}: CPU, ratio", cpu, 2, "x"))
        together = alike.agreement.num_together / n
        rows.append(
            Figure(f"{engine(master)}: near-identical in one cluster", "", f"{together:.2%}")
        )
    return figures_table(f"skew: {n:,} documents with one word changed in each", rows)


def recall(bench: Bench, arguments: Namespace) -> Table:
    """Share of planted pairs that are found, by exact similarity, beside what theory says."""
    settings = MinHash()
    rows = []
    for similarity in SIMILARITIES:
        corpus = Pairs(similarity, arguments.pairs)
        share = _share_found(bench, corpus, settings)
        rows.append(_recall_figure("bands", similarity, share, settings))
        if arguments.job:
            found = deduplicate(bench, corpus)[0].agreement.num_together / corpus.documents
            # A pair that is apart has one of its two documents in its larger part.
            rows.append(_recall_figure("whole job", similarity, 2 * found - 1, settings))
    return figures_table(f"recall: {arguments.pairs:,} pairs at each Jaccard similarity", rows)


def _planted(documents: int) -> Planted:
    return Planted(documents, max(2, documents // 20))


def _masters(arguments: Namespace) -> list[str | None]:
    return [None, *([arguments.master] if arguments.master else [])]


def _signature_ms() -> float:
    """CPU of signatures, the quickest of three, of documents of the scale part's length."""
    made, seconds = texts(Distinct(TEXTS_AT_ONCE), 0, TEXTS_AT_ONCE).to_pylist(), []
    for _ in range(3):
        start = time.process_time()
        for first in range(0, TEXTS_AT_ONCE, ROWS_PER_REQUEST):
            fingerprints(made[first : first + ROWS_PER_REQUEST], MinHash())
        seconds.append(time.process_time() - start)
    return min(seconds) / TEXTS_AT_ONCE * 1e3


def _seconds(outcome: Outcome) -> str:
    return f"{outcome.cost.cpu_seconds:.1f}"


def _scale_figures(name: str, outcome: Outcome) -> Iterator[Figure]:
    cost, found = outcome.cost, outcome.agreement
    yield at_most(f"{name}: wall", cost.wall_seconds, 600, " s")
    yield Figure(f"{name}: CPU", "", f"{cost.cpu_seconds:,.1f} s")
    yield at_most(f"{name}: main process", cost.main_bytes / 1e6, 2000, " MB")
    if cost.jvm_bytes:
        yield Figure(f"{name}: JVM, driver and executor", "", f"{cost.jvm_bytes / 1e6:,.0f} MB")
    yield Figure(f"{name}: largest child", "", f"{cost.child_bytes / 1e6:,.0f} MB")
    for what, value in outcome.noted.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        yield Figure(f"{name}: {what}", "", shown)
    share = found.num_together / max(1, found.num_planted)
    together = f"{found.num_together:,} of {found.num_planted:,} ({share:.2%})"
    yield Figure(f"{name}: in one cluster with their own", "", together)
    yield Figure(f"{name}: clusters of documents that differ", "", f"{found.num_mixed:,}")


def _share_found(bench: Bench, corpus: Pairs, settings: MinHash) -> float:
    """Share of the pairs that have a band in common."""
    starts = range(0, corpus.documents, TEXTS_AT_ONCE)
    found = 0
    for start in track(
        starts, f"pairs at {corpus.similarity}", console=bench.console, transient=True
    ):
        made = texts(corpus, start, start + TEXTS_AT_ONCE).to_pylist()
        bands = fingerprints(made, settings).bands
        found += int((bands[0::2] == bands[1::2]).any(axis=1).sum())
    return found / corpus.pairs


def _recall_figure(way: str, similarity: float, share: float, settings: MinHash) -> Figure:
    expected = settings.match_probability(similarity)
    met = bool(np.abs(share - expected) <= 0.02) if similarity in AIMED_AT else None
    target = f"{expected:.2%}" + ("" if met is None else " ± 2 points")
    return Figure(f"{way}, similarity {similarity}", target, f"{share:.2%}", met)
