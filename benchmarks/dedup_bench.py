"""What the parts of dedup.py share: the runs, how a partition is scored, the table of figures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console
from rich.progress import track
from rich.table import Table

from judged_root import DOCUMENTS_A_FILE, Cost, Root, cost
from synthetic import Corpus, texts

Int64s = npt.NDArray[np.int64]
# What the stage may have noted of its work in a manifest, for the table.
NOTED = ("edges", "near", "exact", "path", "rounds", "passes", "unverified")


class Figure(NamedTuple):
    """A row of a table; `met` is None where nothing was aimed at."""

    what: str
    target: str
    measured: str
    met: bool | None = None


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


@dataclass
class Bench:
    """A folder for the runs; what a corpus took on an engine is remembered, its files are not."""

    work: Path
    console: Console
    repeat: int = 1
    keep: bool = False
    outcomes: dict[tuple[Corpus, str | None], Outcome] = field(default_factory=dict)

    def dedup(self, corpus: Corpus, masters: Sequence[str | None] = (None,)) -> list[Outcome]:
        """Deduplicate a made-up corpus on each engine, the quickest of `repeat` runs."""
        if any((corpus, master) not in self.outcomes for master in masters):
            root = self.root(type(corpus).__name__.lower())
            root.write(self._files(corpus))
            for master in masters * self.repeat:
                self._measure(root, corpus, master)
            self.clear(root)
        return [self.outcomes[corpus, master] for master in masters]

    def root(self, name: str) -> Root:
        """A fresh root in the folder."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        return Root(self.work / name)

    def clear(self, root: Root) -> None:
        """Make room, unless all is to be kept."""
        if not self.keep:
            shutil.rmtree(root.folder)

    def _files(self, corpus: Corpus) -> Iterator[pa.StringArray]:
        starts = range(0, len(corpus.labels), DOCUMENTS_A_FILE)
        title = f"{len(corpus.labels):,} documents"
        for start in track(starts, title, console=self.console, transient=True):
            yield texts(corpus, start, start + DOCUMENTS_A_FILE)

    def _measure(self, root: Root, corpus: Corpus, master: str | None) -> None:
        with self.console.status(f"deduplicating on {engine(master)}"):
            run = cost(root.run(master))
        before = self.outcomes.get((corpus, master))
        if before is None or run.cpu_seconds < before.cost.cpu_seconds:
            found = agreement(corpus.labels, root.clusters())
            noted = root.noted(*NOTED)
            noted["bytes of a document in bands"] = round(root.bytes_a_document("bands"))
            self.outcomes[corpus, master] = Outcome(run, found, noted)


def engine(master: str | None) -> str:
    """What a table calls the engine."""
    return f"Spark {master}" if master else "Sail"


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


def at_most(what: str, value: float, limit: float, unit: str = "") -> Figure:
    """A figure that is to be no more than `limit`."""
    return Figure(what, f"<= {limit:g}{unit}", f"{value:,.2f}{unit}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "") -> Figure:
    """A figure that is to be no less than `limit`."""
    return Figure(what, f">= {limit:g}{unit}", f"{value:,.2f}{unit}", value >= limit)


def figures_table(title: str, figures: Sequence[Figure], caption: str = "") -> Table:
    """The target beside what was measured."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("")
    for name in ("target", "measured", "met"):
        table.add_column(name, justify="right")
    for what, target, measured, met in figures:
        table.add_row(what, target, measured, {True: "yes", False: "NO", None: ""}[met])
    return table
