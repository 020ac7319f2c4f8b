"""The engine's components equal the exact ones, on both engines."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from jobs import components, datasets
from jobs.session import Engine


def _label(engine: Engine, work: Path, pairs: np.ndarray, max_local_edges: int) -> dict[int, int]:
    table = pa.table([pairs[:, 0], pairs[:, 1]], schema=components.EDGES)
    file = datasets.write_table(work / "given", table)
    edges = datasets.read_files(engine.spark, [str(work / "given" / file.name)], components.EDGES)
    labels = components.label(engine.spark, edges, work, max_local_edges).toArrow().to_pylist()
    assert len({row["node"] for row in labels}) == len(labels)
    return {row["node"]: row["cluster"] for row in labels}


def _oracle(pairs: np.ndarray) -> dict[int, int]:
    graph = nx.Graph(pairs.tolist())
    return {n: min(part) for part in nx.connected_components(graph) for n in part}


def _random_graphs(count: int) -> np.ndarray:
    """Many sparse random graphs as one disjoint union, its nodes 64-bit and in no order."""
    random = np.random.default_rng(7)
    names = random.integers(-(2**63), 2**63 - 1, size=(count, 12))
    edges = []
    for number in range(count):
        ends = random.integers(0, 12, size=(random.integers(1, 14), 2))
        edges.append(names[number][ends[ends[:, 0] != ends[:, 1]]])
    return np.concatenate(edges)


def test_a_thousand_random_graphs_match_networkx_on_either_path(
    engine: Engine, tmp_path: Path
) -> None:
    pairs = _random_graphs(1000)
    expected = _oracle(pairs)
    assert _label(engine, tmp_path / "local", pairs, max_local_edges=10**9) == expected
    assert _label(engine, tmp_path / "stars", pairs, max_local_edges=0) == expected


def test_millions_of_edges_are_summed_exactly(engine: Engine) -> None:
    """Hubs are the smallest of their component, so their sum soon leaves 64 bits."""
    lowest, count = -(2**63), 3_000_000
    ends = engine.spark.range(count)
    for last in (lowest, lowest + 1):
        hub = F.when(F.col("id") == count - 1, F.lit(last)).otherwise(F.lit(lowest))
        edges = ends.select(F.col("id").alias("a"), hub.cast("long").alias("b"))
        expected = (count, count * (count - 1) // 2, lowest * (count - 1) + last)
        assert components._state(edges) == expected


@pytest.mark.parametrize("shape", ["chain", "star"])
def test_a_chain_and_a_star_converge(engine: Engine, tmp_path: Path, shape: str) -> None:
    nodes = np.random.default_rng(3).permutation(2000)
    other = nodes[:-1] if shape == "chain" else np.full(1999, nodes[0])
    pairs = np.stack([nodes[1:], other], axis=1)
    assert _label(engine, tmp_path, pairs, max_local_edges=0) == _oracle(pairs)
