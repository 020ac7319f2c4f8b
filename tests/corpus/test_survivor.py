"""Ranks sort as the policy's tuples do, for numbers of every kind."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corpus.dedup.survivor import Survivor, ranks

POLICIES = ["longest", "earliest", "latest", "first", "highest", "lowest"]
INT64 = st.integers(-(2**63), 2**63 - 1)
DOCUMENTS = st.lists(
    st.tuples(
        st.text(max_size=4),
        INT64,
        st.integers(0, 2**40),
        st.sampled_from([0, 1, -5, 10**9]) | st.integers(-(2**40), 2**40),
        st.none() | st.floats(),
    ),
    max_size=12,
    unique_by=lambda row: row[1],
)


def _ranks(policy: Survivor, rows: list[tuple]) -> list[str]:
    columns = list(zip(*rows, strict=True)) or [()] * 5
    types = [pa.string(), *[pa.int64()] * 3, pa.float64()]
    names = ["id", "node", "num_chars", "captured", "signal"]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    return ranks(policy, pa.RecordBatch.from_arrays(arrays, names=names)).to_pylist()


def _oracle(keep: str, row: tuple) -> tuple:
    name, node, num_chars, captured, signal = row
    date = (captured == 0, captured)
    known = signal is not None and not math.isnan(signal)
    return {
        "longest": (-num_chars, date, node),
        "earliest": (date, node),
        "latest": (captured == 0, -captured, node),
        "first": (name.encode(), node),
        "highest": (not known, -signal if known else 0, date, node),
        "lowest": (not known, signal if known else 0, date, node),
    }[keep]


@example([("", 0, 0, 0, None), ("\0", 1, 0, 0, None)], "first")
@given(DOCUMENTS, st.sampled_from(POLICIES))
def test_ranks_sort_as_the_policy_says(rows: list[tuple], keep: str) -> None:
    policy = Survivor(keep, "s" if keep in ("highest", "lowest") else "")  # type: ignore[arg-type]
    found = _ranks(policy, rows)
    assert len(set(found)) == len(rows)
    in_order = sorted(range(len(rows)), key=lambda i: found[i].encode())
    assert in_order == sorted(range(len(rows)), key=lambda i: _oracle(keep, rows[i]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": "highest"}, "keep = 'highest': must come with a `signal`"),
        ({"signal": "x"}, "signal = 'x': must be left out with keep = 'longest'; only 'highest'"),
    ],
)
def test_a_policy_and_its_signal_go_together(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Survivor(**values)  # type: ignore[arg-type]
