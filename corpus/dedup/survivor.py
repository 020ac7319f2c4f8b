"""Which document of a cluster of duplicates stays: a total order on documents."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.arrays import SIGN_BIT, UInt64s, to_unsigned
from schemas.config import settings

_LAST = np.uint64((1 << 64) - 1)
_DIGITS = 16  # of 64 bits in hexadecimal


@settings
class Survivor:
    """Section [survivor]: which document of a cluster stays.

    `longest`, `earliest` or `latest` capture, `first` by id, or `highest` or `lowest` value of
    `signal`, a numeric column of `judged` ("fineweb_quality.frac_punctuated_lines"). Documents
    without a date or the signal come last. Ties go to the earlier date, then to the smaller node (a
    hash of the row's key), so that the order of the input does not matter.
    """

    keep: Literal["longest", "earliest", "latest", "first", "highest", "lowest"] = "longest"
    signal: str = ""

    def __post_init__(self) -> None:
        if self.by_signal and not self.signal:
            raise ValueError(f"keep = {self.keep!r}: must come with a `signal` to compare")
        if self.signal and not self.by_signal:
            raise ValueError(
                f"signal = {self.signal!r}: must be left out with keep = {self.keep!r}; only "
                "'highest' and 'lowest' compare a signal"
            )

    @property
    def by_signal(self) -> bool:
        """Whether the policy compares a signal."""
        return self.keep in ("highest", "lowest")


def ranks(policy: Survivor, documents: pa.RecordBatch) -> pa.Array:
    """One string per document; the document with the smallest string stays.

    `documents` has `id`, `node`, `num_chars` (int64), `captured` (seconds, int64; 0: unknown) and
    `signal` (float64, null or NaN: none). A string, because the engines find the smallest string at
    a fraction of the cost of the smallest of several columns.
    """
    node = to_unsigned(documents["node"].to_numpy())
    if policy.keep == "first":
        # NULs of an id are escaped, so that "" sorts before them whatever the node is.
        names = pc.replace_substring(documents["id"], "\x00", "\x00\x01")
        return pc.binary_join_element_wise(names, _hex(node), "\x00\x00")
    captured = documents["captured"].to_numpy()
    date = np.where(captured == 0, _LAST, to_unsigned(captured))
    match policy.keep:  # what is compared first; the smallest stays
        case "longest":
            compared = to_unsigned(-documents["num_chars"].to_numpy())
        case "earliest":
            compared = date
        case "latest":
            compared = np.where(date == _LAST, _LAST, ~date)
        case "highest":
            compared = _ordered_floats(documents["signal"], -1.0)
        case "lowest":
            compared = _ordered_floats(documents["signal"], 1.0)
    return pc.binary_join_element_wise(_hex(compared), _hex(date), _hex(node), "")


def _ordered_floats(signal: pa.Array, sign: float) -> UInt64s:
    """Unsigned integers in the order of sign · signal; the largest for null and NaN.

    The bits of an IEEE 754 number, with the sign bit flipped, ascend with its value; those of a
    negative number do with all bits flipped.
    """
    values = signal.fill_null(np.nan).to_numpy(zero_copy_only=False) * sign + 0.0  # no -0.0
    bits = values.view(np.uint64)
    ordered = np.where(bits & SIGN_BIT, ~bits, bits | SIGN_BIT)
    return np.where(np.isnan(values), _LAST, ordered)


def _hex(values: UInt64s) -> pa.Array:
    """Sixteen digits each, which sort as the numbers do."""
    digits = values.astype(">u8").tobytes().hex()
    offsets = pa.array(np.arange(0, len(digits) + 1, _DIGITS, dtype=np.int32))
    return pa.StringArray.from_buffers(
        len(values), offsets.buffers()[1], pa.py_buffer(digits.encode())
    )
