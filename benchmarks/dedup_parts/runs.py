"""What the parts of dedup.py share: whole runs on made-up texts, and how a partition is scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.progress import track

from common.bench import Bench, engine
from dedup_parts.judged_root import DOCUMENTS_A_FILE, Cost, Root, cost
from dedup_parts.synthetic import Corpus, texts

Int64s = npt.NDArray[np.int64]
# What the stage may have noted of its work in a manifest, for the table.
NOTED = ("edges", "near", "exact", "path", "rounds", "passes", "unverified")


@dataclass(frozen=True)
class Agreement:
    """A partition of documents against the planted one.

    `num_planted` documents are in planted clusters of two or more, `num_together` of them in one
    found cluster with most of their own; `num_mixed` found clusters hold documents of several
    planted ones.
    """

    num_planted: int
    num_together: int
    num_mixed: int


@dataclass(frozen=True)
class Outcome:
    """What a run cost, how well it found what was planted, and what it noted of its work."""

    cost: Cost
    agreement: Agreement
    noted: dict[str, object]


def deduplicate(
    bench: Bench, corpus: Corpus, masters: Sequence[str | None] = (None,)
) -> list[Outcome]:
    """Deduplicate a made-up corpus on each engine, the quickest of `bench.repeat` runs.

    An outcome is remembered in `bench.found`, the corpus and its datasets are not.
    """
    if any((corpus, master) not in bench.found for master in masters):
        root = Root(bench.fresh(type(corpus).__name__.lower()))
        root.write(_files(bench, corpus))
        for master in masters * bench.repeat:
            _measure(bench, root, corpus, master)
        bench.clear(root.folder)
    return [bench.found[corpus, master] for master in masters]


def _files(bench: Bench, corpus: Corpus) -> Iterator[pa.StringArray]:
    starts = range(0, len(corpus.labels), DOCUMENTS_A_FILE)
    title = f"{len(corpus.labels):,} documents"
    for start in track(starts, title, console=bench.console, transient=True):
        yield texts(corpus, start, start + DOCUMENTS_A_FILE)


def _measure(bench: Bench, root: Root, corpus: Corpus, master: str | None) -> None:
    with bench.console.status(f"deduplicating on {engine(master)}"):
        run = cost(root.run(master))
    before = bench.found.get((corpus, master))
    if before is None or run.cpu_seconds < before.cost.cpu_seconds:
        found = agreement(corpus.labels, root.clusters())
        noted = root.noted(*NOTED)
        noted["bytes of a document in bands"] = round(root.bytes_a_document("bands"))
        bench.found[corpus, master] = Outcome(run, found, noted)


def agreement(planted: Int64s, found: Int64s) -> Agreement:
    """Hold a found cluster of each document (n,) against its planted one (n,)."""
    groups, count = _overlaps(planted, found)
    most = np.zeros(planted.max() + 1, dtype=np.int64)
    np.maximum.at(most, groups[0], count)
    several = np.bincount(planted) > 1
    mixed = np.bincount(groups[1]) > 1
    together = int(most[several].sum())
    return Agreement(int(np.bincount(planted)[several].sum()), together, int(mixed.sum()))


def _overlaps(one: Int64s, other: Int64s) -> tuple[tuple[Int64s, Int64s], Int64s]:
    """The pairs of clusters that share documents (labels of `other` by rank), and how many."""
    ranks = np.unique(other, return_inverse=True)[1]
    width = ranks.max() + 1
    keys, count = np.unique(one * width + ranks, return_counts=True)
    return (keys // width, keys % width), count
