"""Components against networkx."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.arrays import Int64s
from corpus.dedup.union_find import Edges, contract, label

NUM_LONG = 100_000
# Neighbours, both ends of the range, and numbers that no float tells from the next.
IDS = st.sampled_from([-(2**63), 1 - 2**63, -1, 0, 1, 2, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1])
PAIRS = st.lists(st.tuples(IDS, IDS), max_size=15)


def oracle(a: Int64s, b: Int64s) -> dict[int, int]:
    graph = networkx.Graph(list(zip(a.tolist(), b.tolist(), strict=True)))
    parts = networkx.connected_components(graph)
    return {node: smallest for part in parts for smallest in [min(part)] for node in part}


def in_batches(a: Int64s, b: Int64s, size: int) -> Callable[[], Iterator[Edges]]:
    def read() -> Iterator[Edges]:
        for start in range(0, len(a), size):
            yield a[start : start + size], b[start : start + size]

    return read


def labelled(a: Int64s, b: Int64s, size: int = 7) -> dict[int, int]:
    nodes, smallest = label(in_batches(a, b, size), len(a))
    assert (nodes[1:] > nodes[:-1]).all()
    return dict(zip(nodes.tolist(), smallest.tolist(), strict=True))


def random_graph(seed: int) -> Edges:
    """Up to 120 edges between up to 60 numbers of both signs, 64 bits wide."""
    random = np.random.default_rng(seed)
    nodes = random.integers(-(2**63), 2**63, int(random.integers(1, 60)), dtype=np.int64)
    count = int(random.integers(0, 2 * len(nodes)))
    return random.choice(nodes, count), random.choice(nodes, count)


def test_a_thousand_random_graphs_equal_networkx_batch_by_batch() -> None:
    for seed in range(1000):
        a, b = random_graph(seed)
        assert labelled(a, b, 1 + seed % 40) == oracle(a, b), seed


def test_a_contracted_graph_has_the_same_components_in_the_fewest_edges() -> None:
    for seed in range(1000):
        a, b = random_graph(seed)
        expected = oracle(a, b)
        nodes, smallest = contract(a, b)
        assert oracle(nodes, smallest) == expected, seed
        members = list(expected.values())
        alone = sum(members.count(cluster) == 1 for cluster in set(members))
        assert len(nodes) == len(expected) - len(set(members)) + alone
        assert {n: expected[n] for n in nodes.tolist()} == dict(
            zip(nodes.tolist(), smallest.tolist(), strict=True)
        )


@given(PAIRS, st.integers(1, 4))
def test_extreme_ids_loops_and_repeats_are_edges_like_others(
    pairs: list[tuple[int, int]], size: int
) -> None:
    a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    assert labelled(a, b, size) == oracle(a, b)
    assert oracle(*contract(a, b)) == oracle(a, b)


@pytest.mark.parametrize("size", [999, 40_000, NUM_LONG])
@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_a_chain_is_one_component(order: str, size: int) -> None:
    chain = np.arange(NUM_LONG, dtype=np.int64) - 7
    if order == "random":
        np.random.default_rng(0).shuffle(chain)
    if order == "descending":
        chain = chain[::-1]
    nodes, smallest = label(in_batches(chain[1:], chain[:-1], size), NUM_LONG - 1)
    assert len(nodes) == NUM_LONG
    assert (smallest == -7).all()


@pytest.mark.parametrize("centre", [0, 55_555, NUM_LONG - 1])
def test_a_star_is_one_component_whichever_node_is_its_centre(centre: int) -> None:
    nodes = np.arange(NUM_LONG, dtype=np.int64)
    found, smallest = label(in_batches(nodes, np.full(NUM_LONG, centre), 9_999), NUM_LONG)
    assert (found == nodes).all()
    assert (smallest == 0).all()


def test_order_direction_and_repeats_of_edges_change_nothing() -> None:
    a, b = random_graph(5)
    order = np.random.default_rng(5).permutation(len(a))
    assert labelled(b[order], a[order]) == labelled(a, b)
    assert labelled(np.concatenate([a, b]), np.concatenate([b, a])) == labelled(a, b)


@pytest.mark.parametrize("expected", [4, 6])
def test_another_number_of_edges_than_expected_is_refused(expected: int) -> None:
    ends = np.arange(5, dtype=np.int64)
    with pytest.raises(ValueError, match=f"edges: 5 read, {expected} expected"):
        label(in_batches(ends, ends, 3), expected)
