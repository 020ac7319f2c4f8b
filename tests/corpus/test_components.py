"""Components against networkx."""

from __future__ import annotations

import networkx
import numpy as np
import pytest

from corpus.components import Int64s, connected_components

NUM_LONG = 100_000


def oracle(nodes: Int64s, edges_a: Int64s, edges_b: Int64s) -> list[int]:
    graph = networkx.Graph()
    graph.add_nodes_from(nodes.tolist())
    graph.add_edges_from(zip(edges_a.tolist(), edges_b.tolist(), strict=True))
    smallest = {
        node: min(component)
        for component in networkx.connected_components(graph)
        for node in component
    }
    return [smallest[node] for node in nodes.tolist()]


def random_nodes(random: np.random.Generator, count: int) -> Int64s:
    """Distinct 64-bit numbers of both signs, in no order."""
    chosen = np.unique(random.integers(-(2**63), 2**63, count, dtype=np.int64))
    random.shuffle(chosen)
    return chosen


def test_a_thousand_random_graphs_equal_networkx() -> None:
    for seed in range(1000):
        random = np.random.default_rng(seed)
        nodes = random_nodes(random, int(random.integers(1, 60)))
        num_edges = int(random.integers(0, 2 * len(nodes)))
        a, b = random.choice(nodes, num_edges), random.choice(nodes, num_edges)
        assert connected_components(nodes, a, b).tolist() == oracle(nodes, a, b), seed


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_chain_is_one_component(shuffled: bool) -> None:
    nodes = np.arange(NUM_LONG, dtype=np.int64) - 7
    ends = nodes.copy()
    if shuffled:
        np.random.default_rng(0).shuffle(ends)
    assert (connected_components(nodes, ends[1:], ends[:-1]) == -7).all()


def test_a_star_is_one_component_whichever_node_is_its_centre() -> None:
    nodes = np.arange(NUM_LONG, dtype=np.int64)
    for centre in (0, 55_555, NUM_LONG - 1):
        assert (connected_components(nodes, np.full(NUM_LONG, centre), nodes) == 0).all()


def test_the_ends_of_the_64_bit_range_are_nodes_like_others() -> None:
    ends = np.array([2**63 - 1, -(2**63), 0], dtype=np.int64)
    assert connected_components(ends, ends[:1], ends[1:2]).tolist() == [-(2**63), -(2**63), 0]


def test_order_direction_and_repeats_of_edges_change_nothing() -> None:
    random = np.random.default_rng(5)
    nodes = random_nodes(random, 500)
    a, b = random.choice(nodes, 400), random.choice(nodes, 400)
    expected = connected_components(nodes, a, b)
    order = random.permutation(400)
    both = np.concatenate([a, b]), np.concatenate([b, a])
    assert (connected_components(nodes, b[order], a[order]) == expected).all()
    assert (connected_components(nodes, *both) == expected).all()


def test_repeated_nodes_are_answered_each_time() -> None:
    nodes = np.array([9, 3, 9, 3, 5], dtype=np.int64)
    found = connected_components(nodes, nodes[:1], nodes[1:2])
    assert found.tolist() == [3, 3, 3, 3, 5]


def test_without_edges_every_node_is_its_own_component() -> None:
    nodes, none = np.array([4, -1, 2], dtype=np.int64), np.array([], dtype=np.int64)
    assert connected_components(nodes, none, none).tolist() == [4, -1, 2]
    assert connected_components(none, none, none).tolist() == []


@pytest.mark.parametrize("nodes", [[], [1, 2]])
def test_an_edge_to_an_unknown_node_is_named(nodes: list[int]) -> None:
    known, end = np.array(nodes, dtype=np.int64), np.array([7], dtype=np.int64)
    with pytest.raises(ValueError, match="7 is not among the nodes"):
        connected_components(known, end, end)


def test_edge_columns_of_different_lengths_are_refused() -> None:
    nodes = np.array([1, 2], dtype=np.int64)
    with pytest.raises(ValueError, match="1 ends on one side, 2 on the other"):
        connected_components(nodes, nodes[:1], nodes)
