"""Connected components of the duplicate graph: in one process, or in rounds on the engine.

In a round each node takes the first of itself and its neighbours, in an order that changes every
round, and nodes that took the same one are merged (local contraction; Łącki, Mirrokni and
Włodarczyk, "Connected Components at Scale via Local Contractions", 2018). Merged nodes were
neighbours of one node, so components are preserved. About half of the nodes disappear per round,
even on a chain, so each round costs half of the one before; large-star and small-star carry every
edge to the end. Once few edges are left, one process solves the rest, and the rounds are resolved
backwards: node -> taken -> ... -> smallest.

Before each round every task contracts the edges that it holds, which removes most edges of dense
clusters and solves stars and chains within one task.

A round shuffles at most 64 bytes per edge (both directions for the minimum, then once for each end)
and 32 per node, and 32 per node on the way back. No step collects a node's neighbours: the minimum
is combined before the shuffle, and joins have one row per node on one side. So a node may have any
number of neighbours, and a task holds one batch. Each round is written and read back: a plan that
grows with the rounds costs more than the disk, and a lost task repeats only one round.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from corpus.dedup import union_find
from corpus.dedup.union_find import Edges
from jobs.engine import dataset_io
from schemas.manifest import DataFile

EDGES = pa.schema([("a", pa.int64()), ("b", pa.int64())])
TAKEN = pa.schema([("node", pa.int64()), ("taken", pa.int64())])
LABELS = pa.schema([("node", pa.int64()), ("cluster", pa.int64())])
# Edges in one batch of work, some 100 bytes each while it is sorted and solved.
EDGES_PER_BATCH = 500_000
# A round that merges nothing is next to impossible; this many are a bug.
MAX_ROUNDS = 200


@dataclass(frozen=True)
class Labels:
    """(node, cluster) for every node of an edge.

    `edges`: the number left before each round and after the last, after the tasks' contraction. The
    first is the size of the contracted graph, the last what one process solved.
    """

    frame: DataFrame
    edges: tuple[int, ...]

    @property
    def rounds(self) -> int:
        """Rounds of the engine; none where one process solved the graph."""
        return len(self.edges) - 1


def label(spark: SparkSession, edges: DataFrame, work: Path, max_local_edges: int) -> Labels:
    """The smallest node of its component for every node of `edges` (a, b), each once.

    Once at most `max_local_edges` edges are left, this process solves them; labels do not depend on
    that number. `work` is a folder that every task can reach, for the rounds. After a kill all
    rounds are repeated: the first costs about as much as all later ones together.
    """
    work = work / "components"
    shutil.rmtree(work, ignore_errors=True)
    left, rounds = _contract(edges, work / "edges-0"), list[DataFrame]()
    counts = [_rows(left)]
    while counts[-1] > max_local_edges:
        number = len(counts)
        assert number <= MAX_ROUNDS, f"components: {counts} edges left, round by round"
        graph = dataset_io.stored(spark, work / f"edges-{number - 1}", left, EDGES).frame
        taken = dataset_io.store(spark, _take_first(graph, number), work / f"taken-{number}", TAKEN)
        rounds.append(taken.frame)
        left = _contract(_merge(graph, rounds[-1]), work / f"edges-{number}")
        shutil.rmtree(work / f"edges-{number - 1}")
        counts.append(_rows(left))
    rest = _label_here(work / f"edges-{len(rounds)}", left)
    file = dataset_io.write_table(work / "rest", rest)
    labels = dataset_io.stored(spark, work / "rest", (file,), LABELS).frame
    return Labels(_read_back(spark, rounds, labels, work), tuple(counts))


def _take_first(graph: DataFrame, number: int) -> DataFrame:
    """Each node and the first of itself and its neighbours, under that one's name from here on.

    What is left after the second round and each later one is named by the XXH64 of its name, so
    that each round, and the tasks before it, go by an order of their own. XXH64 of eight bytes is
    a bijection: no two nodes ever get one name. The first rounds go by the nodes' own order: what
    is linked to its smallest node, as duplicates are, is solved by one.
    """
    pairs = graph.select(F.col("a").alias("node"), F.col("b").alias("other"))
    both = pairs.union(graph.select(F.col("b").alias("node"), F.col("a").alias("other")))
    smallest = both.groupBy("node").agg(F.min("other").alias("smallest"))
    first = F.least("node", "smallest")
    return smallest.select("node", (first if number == 1 else F.xxhash64(first)).alias("taken"))


def _merge(graph: DataFrame, taken: DataFrame) -> DataFrame:
    """The edges between what nodes were taken for; those inside one are gone."""
    of_a = taken.select(F.col("node").alias("a"), F.col("taken").alias("new_a"))
    of_b = taken.select(F.col("node").alias("b"), F.col("taken").alias("new_b"))
    joined = graph.join(of_a, on="a", how="inner").join(of_b, on="b", how="inner")
    kept = joined.filter(F.col("new_a") != F.col("new_b"))
    return kept.select(F.col("new_a").alias("a"), F.col("new_b").alias("b"))


def _read_back(
    spark: SparkSession, rounds: list[DataFrame], labels: DataFrame, work: Path
) -> DataFrame:
    """From labels of what is left after the last round to labels of the nodes of the first."""
    for number in range(len(rounds), 0, -1):
        if number == 1 and len(rounds) > 1:
            labels = _by_smallest(labels)
        found = labels.select(F.col("node").alias("taken"), "cluster")
        joined = rounds[number - 1].join(found, on="taken", how="left")
        step = joined.select("node", F.coalesce("cluster", "taken").alias("cluster"))
        labels = dataset_io.store(spark, step, work / f"labels-{number}", LABELS).frame
    return labels


def _by_smallest(labels: DataFrame) -> DataFrame:
    """Clusters named by hashes, named by their smallest node instead.

    These are the nodes after the first round, which still have their own names; the smallest node
    of a component takes itself in that round, so it is among them.
    """
    smallest = labels.groupBy("cluster").agg(F.min("node").alias("smallest"))
    joined = labels.join(smallest, on="cluster", how="inner")
    return joined.select("node", F.col("smallest").alias("cluster"))


def _label_here(folder: Path, files: tuple[DataFile, ...]) -> pa.Table:
    def read() -> Iterator[Edges]:
        for file in files:
            with pq.ParquetFile(folder / file.name) as opened:
                yield from _in_batches(opened.iter_batches(EDGES_PER_BATCH))

    found = union_find.label(read, _rows(files))
    return pa.table(list(found), schema=LABELS)


def _contract(edges: DataFrame, folder: Path) -> tuple[DataFile, ...]:
    """Write `edges` in fewer: each task's own components, a batch at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    made = edges.mapInArrow(functools.partial(_write_contracted, str(folder)), dataset_io.RECEIPT)
    return dataset_io.receipts(made) or (dataset_io.write_table(folder, EDGES.empty_table()),)


def _write_contracted(folder: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for a, b in _in_batches(batches):
        table = pa.table(list(union_find.contract(a, b)), schema=EDGES)
        yield dataset_io.receipt(dataset_io.write_table(Path(folder), table))


def _in_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[Edges]:
    """Small batches of (a, b) put together to large ones, as arrays."""
    held, rows = list[pa.RecordBatch](), 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= EDGES_PER_BATCH:
            yield _ends(held)
            held, rows = [], 0
    if rows:
        yield _ends(held)


def _ends(batches: list[pa.RecordBatch]) -> Edges:
    table = pa.Table.from_batches(batches)
    return table["a"].to_numpy(), table["b"].to_numpy()


def _rows(files: tuple[DataFile, ...]) -> int:
    return sum(file.rows for file in files)
