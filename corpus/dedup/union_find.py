"""Connected components in one process: `contract` for few edges, `label` for many, in batches.

SciPy's traversal solves a batch of edges, O(edges) after a sort of its ends. Between batches only a
union-find over the nodes is kept (Tarjan, "Efficiency of a Good But Not Linear Set Union
Algorithm", JACM 1975), with finds and unions of whole batches as array operations: 8 bytes per node
and 4 for its parent. Listing the nodes takes the most memory: 16 bytes per edge, and as much again
while repeats are dropped. The result is exact, and independent of the order, direction and
repetition of edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from corpus.arrays import Int64s

Positions = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Edges = tuple[Int64s, Int64s]


def contract(a: Int64s, b: Int64s) -> Edges:
    """The same components in the fewest edges: each node and the smallest of its component.

    `a`, `b` (m,) int64, one undirected edge per row, loops and repeats allowed. Returns (node,
    smallest), both int64, ascending by node: n - c rows for n nodes in c components, and a loop
    for each node that has only loops.
    """
    nodes, at = np.unique(np.concatenate([a, b]), return_inverse=True)
    smallest = _smallest(len(nodes), at[: len(a)], at[len(a) :])
    is_alone = np.bincount(smallest, minlength=len(nodes)) == 1
    stays = is_alone | (smallest != np.arange(len(nodes)))
    return nodes[stays], nodes[smallest[stays]]


def label(read: Callable[[], Iterable[Edges]], num_edges: int) -> Edges:
    """Every node and the smallest node of its component, both (n,) int64, ascending by node.

    `read` yields the edges in batches; it is called more than once and must yield `num_edges` in
    total each time. Raises `ValueError` for another number of edges.
    """
    nodes = _nodes(read(), num_edges)
    count = len(nodes)
    parent: Positions = np.arange(count, dtype=np.int32) if count < 2**31 else np.arange(count)
    for a, b in read():
        _unite(parent, nodes, a, b)
    while ((up := parent[parent]) != parent).any():
        parent = up
    return nodes, nodes[parent]


def _nodes(batches: Iterable[Edges], num_edges: int) -> Int64s:
    """Every end once, ascending."""
    ends, read = np.empty((2, num_edges), dtype=np.int64), 0
    for a, b in batches:
        start, read = read, read + len(a)
        if read <= num_edges:
            ends[:, start:read] = a, b
    if read != num_edges:
        raise ValueError(f"edges: {read} read, {num_edges} expected")
    nodes = ends.reshape(-1)
    nodes.sort()
    is_new = np.ones(len(nodes), dtype=bool)
    np.not_equal(nodes[1:], nodes[:-1], out=is_new[1:])
    return nodes[is_new]


def _unite(parent: Positions, nodes: Int64s, a: Int64s, b: Int64s) -> None:
    """Put the trees that edges link under the smallest of their roots."""
    # In ascending order, since otherwise nearly every step of the search misses the cache.
    ends, at = np.unique(np.concatenate([a, b]), return_inverse=True)
    roots, tree = np.unique(_find(parent, np.searchsorted(nodes, ends)), return_inverse=True)
    at = tree[at]
    parent[roots] = roots[_smallest(len(roots), at[: len(a)], at[len(a) :])]


def _find(parent: Positions, nodes: Positions) -> Positions:
    """Roots of nodes. Each union adds at most one step to a path, and each find removes it."""
    roots = parent[nodes]
    while ((up := parent[roots]) != roots).any():
        roots = up
    parent[nodes] = roots
    return roots


def _smallest(num_nodes: int, a: Positions, b: Positions) -> Positions:
    """For each of the nodes 0, 1, ... the smallest of its component, (num_nodes,)."""
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(num_nodes, num_nodes))
    num_components, component = connected_components(graph, directed=False)
    smallest = np.empty(num_components, dtype=np.int64)
    # The last write wins, so write in descending order.
    smallest[component[::-1]] = np.arange(num_nodes - 1, -1, -1)
    return smallest[component]
