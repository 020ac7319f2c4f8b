"""Connected components of the graph of duplicates, as DataFrames or in one process.

Large-star and small-star (Kiveris et al., "Connected Components in MapReduce and Beyond", SoCC
2014) halve the distance to a component's smallest node in about each round: a logarithmic number
of rounds, each one shuffle of the edges, no edge list ever larger than before. Each round is
written and read back, because a plan that grows with the rounds costs more than the disk.
"""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from corpus import components
from jobs import datasets
from schemas.manifest import DataFile

EDGES = pa.schema([("a", pa.int64()), ("b", pa.int64())])
State = tuple[int, Decimal | None, Decimal | None]
LABELS = pa.schema([("node", pa.int64()), ("cluster", pa.int64())])


def label(spark: SparkSession, edges: DataFrame, work: Path, max_local_edges: int) -> DataFrame:
    """(node, cluster) for every node of `edges` (a, b): the smallest node of its component.

    Up to `max_local_edges` edges they are solved in this process (SciPy), beyond that by the
    engine; the labels are the same.
    """
    files = datasets.write(edges, work / "edges", EDGES)
    frame = _stored(spark, work / "edges", files, EDGES)
    if sum(file.rows for file in files) <= max_local_edges:
        file = datasets.write_table(work / "labels", _label_locally(frame.toArrow()))
        return _stored(spark, work / "labels", (file,), LABELS)
    return _label_by_stars(spark, frame, work)


def _label_locally(edges: pa.Table) -> pa.Table:
    a = edges["a"].to_numpy().astype(np.int64)
    b = edges["b"].to_numpy().astype(np.int64)
    nodes = np.unique(np.concatenate([a, b]))
    return pa.table([nodes, components.connected_components(nodes, a, b)], schema=LABELS)


def _label_by_stars(spark: SparkSession, edges: DataFrame, work: Path) -> DataFrame:
    """Alternate the two steps until the edges no longer change: then each is (node, smallest)."""
    previous: State | None = None
    for number in range(1, 1000):
        step = small_star(large_star(edges))
        folder = work / f"round-{number}"
        edges = _stored(spark, folder, datasets.write(step, folder, EDGES), EDGES)
        shutil.rmtree(work / f"round-{number - 1}", ignore_errors=True)
        state = _state(edges)
        if state == previous:
            return _labels(edges)
        previous = state
    raise AssertionError("large-star and small-star did not converge")


def large_star(edges: DataFrame) -> DataFrame:
    """Link every neighbour larger than a node to the smallest node around it (itself included)."""
    both = edges.select("a", "b").union(edges.select(F.col("b").alias("a"), F.col("a").alias("b")))
    smallest = both.groupBy("a").agg(F.least(F.min("b"), F.col("a")).alias("m"))
    larger = both.filter(F.col("b") > F.col("a")).join(smallest, on="a", how="inner")
    return larger.select(F.col("b").alias("a"), F.col("m").alias("b")).distinct()


def small_star(edges: DataFrame) -> DataFrame:
    """Link a node and its smaller neighbours to the smallest of them."""
    down = edges.select(F.greatest("a", "b").alias("a"), F.least("a", "b").alias("b"))
    smallest = down.groupBy("a").agg(F.min("b").alias("m"))
    linked = down.join(smallest, on="a", how="inner").select(
        F.col("b").alias("a"), F.col("m").alias("b")
    )
    star = smallest.select("a", F.col("m").alias("b")).union(linked)
    return star.filter(F.col("a") != F.col("b")).distinct()


def _state(edges: DataFrame) -> State:
    """Number of edges and the exact sums of both ends: labels only fall, so equal means at rest."""
    # As decimals: a few million 64-bit hashes overflow the sum of an integer column.
    row = edges.select(*(F.col(end).cast("decimal(20,0)").alias(end) for end in "ab")).agg(
        F.count("*").alias("edges"), F.sum("a").alias("a"), F.sum("b").alias("b")
    )
    found = row.toArrow().to_pylist()[0]
    return found["edges"], found["a"], found["b"]


def _labels(edges: DataFrame) -> DataFrame:
    leaves = edges.select(F.col("a").alias("node"), F.col("b").alias("cluster"))
    centres = edges.select(F.col("b").alias("node"), F.col("b").alias("cluster"))
    return leaves.union(centres).distinct()


def _stored(
    spark: SparkSession, folder: Path, files: tuple[DataFile, ...], schema: pa.Schema
) -> DataFrame:
    return datasets.read_files(spark, [str(folder.absolute() / f.name) for f in files], schema)
