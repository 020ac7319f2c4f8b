"""Packing and plans: every token once, full rows, the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from trainer.data.epoch_plan import _windows
from trainer.data.loader import CYCLE, Mixture
from trainer.data.packing import (
    BEGINS,
    CONTINUES,
    PADS,
    Rows,
    best_fit,
    concat,
    permutation,
    ranges,
)
from trainer.data.spec import DataSpec, Source, difference, from_json, require_same

LENGTHS = st.lists(st.integers(0, 90), max_size=60).map(lambda n: np.array(n, np.int32))


def tokens_and_rows(rows: Rows) -> list[list[int]]:
    """Each row's tokens as positions in the window; padding is -1."""
    split, first = [], 0
    for end in rows.row_ends.tolist():
        row: list[int] = []
        for i in range(first, end):
            start, length = int(rows.starts[i]), int(rows.lengths[i])
            pads = rows.kinds[i] == PADS
            row += [-1] * length if pads else range(start, start + length)
        split.append(row)
        first = end
    return split


@given(LENGTHS, st.integers(2, 40))
def test_concat_is_the_stream_cut_at_every_row(lengths: np.ndarray, seq_len: int) -> None:
    rows, total = concat(lengths, seq_len), int(lengths.sum())
    stream = list(range(total))
    cut = [stream[i : i + seq_len + 1] for i in range(0, total - seq_len, seq_len)]
    assert tokens_and_rows(rows) == cut
    assert rows.dropped == total - len({token for row in cut for token in row})
    starts = set((np.cumsum(lengths) - lengths)[lengths > 0].tolist())
    assert [k == BEGINS for k in rows.kinds] == [s in starts for s in rows.starts.tolist()]


@given(LENGTHS, st.integers(2, 40), st.booleans())
def test_best_fit_puts_every_token_in_a_row_or_counts_it(
    lengths: np.ndarray, seq_len: int, masked: bool
) -> None:
    total = int(lengths.sum())
    mask = permutation(total, 1) % 3 // 2
    rows = best_fit(lengths, seq_len, mask.astype(np.uint8) if masked else None)
    split = tokens_and_rows(rows)
    assert all(len(row) == seq_len + 1 and row[0] >= 0 for row in split)
    placed = [token for row in split for token in row if token >= 0]
    continued = int((rows.kinds == CONTINUES).sum())  # share a token with the piece before
    assert len(placed) - continued == total - rows.dropped
    assert sum(row.count(-1) for row in split) == rows.padding
    if not masked:
        assert rows.dropped == int((lengths == 1).sum())
    else:
        assert all(any(mask[token] for token in row[1:] if token >= 0) for row in split)


@given(LENGTHS, st.integers(2, 40))
def test_best_fit_leaves_no_two_rows_that_fit_into_one(lengths: np.ndarray, seq_len: int) -> None:
    used = sorted(sum(t >= 0 for t in row) for row in tokens_and_rows(best_fit(lengths, seq_len)))
    assert len(used) < 2 or used[0] + used[1] > seq_len + 1


@given(LENGTHS, st.integers(2, 40), st.integers(0, 2**64 - 1))
def test_shuffling_moves_whole_rows(lengths: np.ndarray, seq_len: int, seed: int) -> None:
    rows = best_fit(lengths, seq_len)
    before, after = tokens_and_rows(rows), tokens_and_rows(rows.shuffled(seed))
    assert sorted(before) == sorted(after)


def test_permutations_are_fixed_for_all_time() -> None:
    assert permutation(8, 0).tolist() == [2, 4, 6, 5, 1, 7, 0, 3]
    assert permutation(8, 2**64 - 1).tolist() != permutation(8, 0).tolist()
    assert permutation(0, 5).tolist() == []


@given(st.integers(0, 300), st.integers(0, 2**64 - 1))
def test_a_permutation_has_every_number_once(count: int, seed: int) -> None:
    assert sorted(permutation(count, seed).tolist()) == list(range(count))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9))))
def test_ranges_are_pythons(pairs: list[tuple[int, int]]) -> None:
    starts = np.array([s for s, _ in pairs], np.int64)
    counts = np.array([n for _, n in pairs], np.int64)
    assert ranges(starts, counts).tolist() == [x for s, n in pairs for x in range(s, s + n)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_windows_take_all_groups_in_order_up_to_their_size(sizes: list[int], most: int) -> None:
    tokens = np.array(sizes, np.int64)
    order = permutation(len(sizes), 3)
    windows = list(_windows(order, tokens, most))
    assert np.concatenate(windows).tolist() == order.tolist()
    assert all(tokens[w].sum() <= most or len(w) == 1 for w in windows)


WEIGHTS = st.lists(st.floats(0.05, 20), min_size=1, max_size=6).map(tuple)


@given(WEIGHTS, st.integers(0, 3 * CYCLE), st.integers(0, 500))
def test_each_row_of_the_run_is_one_row_of_one_source(
    weights: tuple[float, ...], first: int, count: int
) -> None:
    mixture = Mixture(weights)
    own = [mixture.rows_of(k, first, first + count) for k in range(len(weights))]
    places = [mixture.places(k, rows) for k, rows in enumerate(own)]
    assert sorted(np.concatenate(places).tolist()) == list(range(first, first + count))
    for k in range(len(weights)):
        rows = mixture.rows_of(k, 0, 5 * CYCLE)
        share = weights[k] / sum(weights)
        assert abs(len(rows) / (5 * CYCLE) - share) <= 1 / CYCLE
        assert rows.start == 0


def test_a_weight_too_small_for_any_row_is_refused() -> None:
    with pytest.raises(UserError, match=r"weight = 1e-06 of source 1: under 1 in 4096"):
        Mixture((1.0, 1e-6))


SPEC = DataSpec((Source("ab"), Source("cd", 2.0, 3)), 64, 8, "best_fit", 7)


def test_a_specification_survives_json_and_names_what_differs() -> None:
    again = from_json(SPEC.to_json(), "state.json")
    assert again == SPEC
    assert again.hash == SPEC.hash
    assert difference(SPEC, again) == ""
    other = DataSpec((Source("ab"), Source("cd", 1.0, 3)), 128, 8, "best_fit", 7)
    said = "seq_len = 64, now 128; sources[1].weight = 2.0, now 1.0"
    assert difference(SPEC, other) == said
    with pytest.raises(UserError, match=r"state\.json: has a different data specification: seq_"):
        require_same(SPEC, other, "state.json")
    fewer = DataSpec((Source("ab"),), 64, 8, "best_fit", 7)
    assert "sources[1].content_hash = cd, now none" in difference(SPEC, fewer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seq_len": 1}, "seq_len = 1: must be at least 2"),
        ({"rows": 0}, "rows = 0: must be at least 1"),
        ({"packing": "worst"}, "packing = 'worst': must be one of"),
        ({"sources": []}, "must name at least one folder"),
        ({"sources": [{"content_hash": "a"}] * 2}, "two folders hold the same shards"),
        ({"sources": [{"content_hash": "a", "weight": 0}]}, "weight = 0: must be above 0"),
        ({"sources": [{"content_hash": "a", "max_epochs": -1}]}, "max_epochs = -1: must be"),
        ({"seed": -1}, "seed = -1: must be at least 0"),
        ({"format": 99}, "format = 99: must be 1 in this version"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said.replace("[", r"\[").replace("(", r"\(")):
        from_json({**SPEC.to_json(), **change}, "state.json")
