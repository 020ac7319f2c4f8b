"""Components equal networkx's on either path and both engines, in few rounds."""

from __future__ import annotations

import itertools
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from jobs.dedup import components
from jobs.dedup.components import Labels
from jobs.engine import dataset_io
from jobs.engine.session import Engine

LOWEST, HIGHEST = -(2**63), 2**63 - 1
HERE, ROUNDS = 10**9, 0  # max_local_edges of either path
NUM_LONG = 100_000
IDS = st.sampled_from([LOWEST, LOWEST + 1, -1, 0, 1, 2, 2**53, 2**53 + 1, HIGHEST - 1, HIGHEST])


def _solve(
    engine: Engine, work: Path, pairs: np.ndarray, max_local_edges: int, partitions: int = 3
) -> Labels:
    table = pa.table([pairs[:, 0], pairs[:, 1]], schema=components.EDGES)
    file = dataset_io.write_table(work / "given", table)
    edges = dataset_io.read_files(engine.spark, [str(work / "given" / file.name)], components.EDGES)
    return components.label(engine.spark, edges.repartition(partitions), work, max_local_edges)


def _dict(labels: Labels) -> dict[int, int]:
    table = labels.frame.toArrow()
    found = dict(zip(*(table[name].to_pylist() for name in ("node", "cluster")), strict=True))
    assert len(found) == table.num_rows
    return found


def _oracle(pairs: np.ndarray) -> dict[int, int]:
    graph = nx.Graph(pairs.tolist())
    parts = nx.connected_components(graph)
    return {node: smallest for part in parts for smallest in [min(part)] for node in part}


def _random_graphs(count: int) -> np.ndarray:
    """Many sparse random graphs as one disjoint union, its nodes 64-bit and in no order."""
    random = np.random.default_rng(7)
    names = random.integers(LOWEST, HIGHEST, size=(count, 12))
    edges = []
    for number in range(count):
        edges.append(names[number][random.integers(0, 12, size=(random.integers(1, 14), 2))])
    return np.concatenate(edges)


def _chain(count: int, seed: int | None = 3) -> np.ndarray:
    nodes = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    return np.stack([nodes[1:], nodes[:-1]], axis=1)


def _star(count: int) -> np.ndarray:
    """Its centre has as many nodes below it as above."""
    nodes = np.arange(count)
    return np.stack([nodes, np.full(count, count // 2)], axis=1)


def test_random_graphs_a_chain_and_a_star_match_networkx_on_either_path(
    engine: Engine, tmp_path: Path
) -> None:
    """A thousand graphs, and 100,000 nodes in a chain and in a star, in a single job."""
    chain, star = _chain(NUM_LONG), NUM_LONG + _star(NUM_LONG)
    pairs = np.concatenate([_random_graphs(1000), chain, star])
    expected = _oracle(pairs)
    assert len(set(expected.values())) > 1002
    here = _solve(engine, tmp_path / "here", pairs, HERE)
    assert (_dict(here), here.rounds) == (expected, 0)
    in_rounds = _solve(engine, tmp_path / "rounds", pairs, ROUNDS)
    assert _dict(in_rounds) == expected
    assert 0 < in_rounds.rounds <= 12


@pytest.mark.parametrize("seed", [None, 3], ids=["ascending", "random"])
def test_rounds_grow_with_the_logarithm_of_a_chain(
    engines: Callable[[str], Engine], tmp_path: Path, seed: int | None
) -> None:
    """So many partitions that no task holds much of the chain: then a round halves it at least."""
    pairs = _chain(NUM_LONG, seed)
    labels = _solve(engines("sail"), tmp_path, pairs, ROUNDS, partitions=64)
    assert _dict(labels) == dict.fromkeys(range(NUM_LONG), 0)
    assert labels.rounds <= np.log2(NUM_LONG) + 2
    # The first two go by the chain's own numbers, along which each node only takes the one before.
    later = labels.edges[2:]
    assert all(after <= before * 0.6 + 10 for before, after in itertools.pairwise(later))


def test_labels_do_not_depend_on_partitions(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    pairs = np.concatenate([_random_graphs(300), _chain(500), 1000 + _star(500)])
    expected = _oracle(pairs)
    for partitions in (1, 7, 64):
        for path, limit in (("here", HERE), ("rounds", ROUNDS)):
            work = tmp_path / f"{path}-{partitions}"
            assert _dict(_solve(engines("sail"), work, pairs, limit, partitions)) == expected


@pytest.mark.soak
def test_labels_do_not_depend_on_partitions_of_spark(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    pairs = np.concatenate([_random_graphs(300), _chain(500), 1000 + _star(500)])
    expected = _oracle(pairs)
    for partitions in (1, 7, 64):
        work = tmp_path / f"{partitions}"
        assert _dict(_solve(engines("spark"), work, pairs, ROUNDS, partitions)) == expected


def test_one_process_solves_what_is_left_once_it_is_little(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    pairs = _chain(NUM_LONG)
    for rounds, limit in ((1, 60_000), (2, 20_000)):
        labels = _solve(engines("sail"), tmp_path / str(limit), pairs, limit, partitions=64)
        assert labels.rounds == rounds
        assert 0 < labels.edges[-1] <= limit < labels.edges[-2]
        assert _dict(labels) == dict.fromkeys(range(NUM_LONG), 0)


@settings(max_examples=12)
@given(pairs=st.lists(st.tuples(IDS, IDS), max_size=14), partitions=st.sampled_from([1, 5]))
def test_extreme_ids_loops_and_repeats_are_edges_like_others(
    engines: Callable[[str], Engine], pairs: list[tuple[int, int]], partitions: int
) -> None:
    given_pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    with tempfile.TemporaryDirectory() as folder:
        labels = _solve(engines("sail"), Path(folder), given_pairs, ROUNDS, partitions)
        assert _dict(labels) == _oracle(given_pairs)


def test_a_node_with_nothing_but_loops_is_its_own_cluster(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    pairs = np.array([[5, 5], [5, 5], [HIGHEST, LOWEST]])
    expected = {5: 5, HIGHEST: LOWEST, LOWEST: LOWEST}
    for limit in (HERE, ROUNDS):
        assert _dict(_solve(engines("sail"), tmp_path / str(limit), pairs, limit)) == expected


def test_no_edges_give_no_labels(engines: Callable[[str], Engine], tmp_path: Path) -> None:
    labels = _solve(engines("sail"), tmp_path, np.empty((0, 2), dtype=np.int64), ROUNDS)
    assert (_dict(labels), labels.edges) == ({}, (0,))


def test_what_a_killed_call_left_behind_is_deleted_and_not_read(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    left = pa.table([[1], [2]], schema=components.EDGES)
    paths = []
    for folder in ("edges-0", "taken-1", "edges-1", "rest"):
        file = dataset_io.write_table(tmp_path / "components" / folder, left)
        paths.append(tmp_path / "components" / folder / file.name)
    labels = _solve(engines("sail"), tmp_path, np.array([[8, 9]]), ROUNDS)
    assert _dict(labels) == {8: 8, 9: 8}
    assert not any(path.exists() for path in paths)


def test_the_engine_names_nodes_by_a_bijection(engine: Engine) -> None:
    """XXH64 of a node's eight bytes, seed 42: each of its steps can be undone."""
    nodes = [LOWEST, -1, 0, 1, 42, HIGHEST]
    table = engine.spark.createDataFrame([(node,) for node in nodes], "node long")
    rows = table.select("node", F.xxhash64("node").alias("name")).toArrow().to_pylist()
    for row in rows:
        digest = xxhash.xxh64_digest(struct.pack("<q", row["node"]), seed=42)
        assert row["name"] == int.from_bytes(digest, "big", signed=True)
    assert {row["node"] for row in rows} == set(nodes)
