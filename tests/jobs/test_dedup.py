"""Clusters equal an exact oracle, and do not depend on partitions, order or engine."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from corpus import minhash
from corpus.minhash import MinHash
from jobs import components, datasets, dedup
from jobs.session import Engine
from schemas.datasets import BANDS


def _texts() -> list[str]:
    """Sixty texts of 120 words: twenty alone, the rest copies with ever more words changed."""
    random = np.random.default_rng(11)
    # Letters only: normalising takes all numbers for one.
    words = np.array(["".join(letters) for letters in itertools.product("abcdefgh", repeat=4)])
    texts = []
    for number in range(20):
        original = random.choice(words, 120)
        texts.append(" ".join(original))
        for changed in range(0, 2 * (number % 5), 2):
            copy = original.copy()
            copy[random.integers(0, 120, changed)] = "changed"
            texts.append(" ".join(copy))
    return texts


def _bands(texts: list[str]) -> pa.Table:
    found = minhash.fingerprints(texts, MinHash())
    n = len(texts)
    nodes = np.random.default_rng(5).integers(-(2**63), 2**63 - 1, n)
    columns = {
        "node": nodes,
        "id": [f"id-{i:03}" for i in range(n)],
        "file_path": [f"file-{i % 3}" for i in range(n)],
        "record_offset": list(range(n)),
        "num_chars": [len(text) for text in texts],
        "captured": [1000 - 7 * i for i in range(n)],
        "text_hash": found.text_hashes,
        "num_shingles": found.num_shingles,
        "bands": found.bands.tolist(),
    }
    return pa.table(columns, schema=BANDS)


def _oracle(table: pa.Table) -> dict[int, int]:
    """Node -> smallest node of its component, over all pairs that share a band or the text."""
    rows = table.to_pylist()
    graph = nx.Graph()
    graph.add_nodes_from(row["node"] for row in rows)
    for one, two in itertools.combinations(rows, 2):
        shares_band = any(a == b for a, b in zip(one["bands"], two["bands"], strict=True))
        if shares_band or one["text_hash"] == two["text_hash"]:
            graph.add_edge(one["node"], two["node"])
    return {n: min(part) for part in nx.connected_components(graph) for n in part}


def _clusters(
    engine: Engine, table: pa.Table, work: Path, partitions: int, keep: str
) -> list[dict]:
    file = datasets.write_table(work / "bands", table)
    nodes = datasets.read_files(engine.spark, [str(work / "bands" / file.name)], BANDS)
    nodes = nodes.repartition(partitions)
    labels = components.label(engine.spark, dedup._edges(nodes), work, 10**6)
    chosen = dedup._choose(nodes, labels, dedup._preference(keep)).orderBy(F.col("node"))
    return chosen.toArrow().to_pylist()


def test_clusters_equal_the_oracle_for_any_number_of_partitions(
    engine: Engine, tmp_path: Path
) -> None:
    table = _bands(_texts())
    oracle = _oracle(table)
    assert 20 <= len(set(oracle.values())) < len(oracle)
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    results = [
        _clusters(engine, given, tmp_path / str(n), n, "longest")
        for n, given in ((1, table), (7, shuffled))
    ]
    assert results[0] == results[1]
    assert {row["node"]: row["cluster"] for row in results[0]} == oracle


@pytest.mark.parametrize("keep", ["longest", "earliest", "latest", "first"])
def test_the_survivor_is_the_one_that_the_policy_names(
    engines: Callable[[str], Engine], tmp_path: Path, keep: str
) -> None:
    table = _bands(_texts())
    rows = {row["id"]: row for row in table.to_pylist()}
    best = {
        "longest": lambda r: (-r["num_chars"], r["captured"], r["id"]),
        "earliest": lambda r: (r["captured"], r["id"]),
        "latest": lambda r: (-r["captured"], r["id"]),
        "first": lambda r: r["id"],
    }[keep]
    found = _clusters(engines("sail"), table, tmp_path, 3, keep)
    sizes = Counter(row["cluster"] for row in found)
    for row in found:
        members = [rows[other["id"]] for other in found if other["cluster"] == row["cluster"]]
        survivor = min(members, key=best)["id"]
        assert row["cluster_size"] == sizes[row["cluster"]]
        assert row["duplicate_of"] == (None if row["id"] == survivor else survivor)
        assert (row["duplicate_kind"] is None) == (row["id"] == survivor)


def test_a_band_that_many_share_costs_one_edge_a_document(engine: Engine, tmp_path: Path) -> None:
    table = _bands(["the same few words in every one of these texts"] * 500)
    file = datasets.write_table(tmp_path, table)
    nodes = datasets.read_files(engine.spark, [str(tmp_path / file.name)], BANDS)
    assert dedup._edges(nodes).count() == 499


def test_two_documents_on_one_node_are_refused(engine: Engine, tmp_path: Path) -> None:
    table = _bands(["one text of five words", "another text of five words"])
    node = pa.array([7, 7], pa.int64())
    file = datasets.write_table(tmp_path, table.set_column(0, BANDS.field("node"), node))
    nodes = datasets.read_files(engine.spark, [str(tmp_path / file.name)], BANDS)
    with pytest.raises(RuntimeError, match="distinct nodes"):
        dedup._count_repeated_ids(nodes)


def test_repeated_ids_are_counted(engine: Engine, tmp_path: Path) -> None:
    table = _bands([f"text of five words {letter}" for letter in "abcd"])
    ids = pa.array(["same", "same", "other", "same"])
    file = datasets.write_table(tmp_path, table.set_column(1, BANDS.field("id"), ids))
    nodes = datasets.read_files(engine.spark, [str(tmp_path / file.name)], BANDS)
    assert dedup._count_repeated_ids(nodes) == 2
