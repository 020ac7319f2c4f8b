"""Which document of a cluster of duplicates stays: an explicit, total order on documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

UInt64s = npt.NDArray[np.uint64]
_SIGN = np.uint64(1 << 63)
_LAST = np.uint64((1 << 64) - 1)
_DIGITS = 16  # of 64 bits in hexadecimal


@dataclass(frozen=True)
class Survivor:
    """Section [survivor]: what decides which document of a cluster stays.

    `longest`, `earliest` or `latest` capture, `first` by id, or `highest` or `lowest` value of
    `signal`, a numeric column of `judged` ("fineweb_quality.frac_punctuated_lines"). A document
    without a date or without the signal comes after those that have one. Ties go to the earlier
    date, then to the smaller node (a hash of the row's key), so that the same document stays
    whatever the order of the input.
    """

    keep: Literal["longest", "earliest", "latest", "first", "highest", "lowest"] = "longest"
    signal: str = ""

    def __post_init__(self) -> None:
        if self.by_signal and not self.signal:
            raise ValueError(f"keep = {self.keep!r}: name the `signal` that is compared")
        if self.signal and not self.by_signal:
            raise ValueError(
                f"signal = {self.signal!r}: is compared where keep = 'highest' or 'lowest'; "
                f"it is {self.keep!r}"
            )

    @property
    def by_signal(self) -> bool:
        """The policy compares a signal."""
        return self.keep in ("highest", "lowest")


def ranks(policy: Survivor, documents: pa.RecordBatch) -> pa.Array:
    """A string a document; of two documents the one with the smaller string is preferred.

    `documents` has `id`, `node`, `num_chars` (int64), `captured` (seconds, int64; 0: unknown) and
    `signal` (float64, null or NaN: none). One string, since the engines find the smallest of
    strings at a fraction of what that of several columns costs.
    """
    node = _of_integers(documents["node"].to_numpy())
    if policy.keep == "first":
        return _joined(documents["id"], _hex(node), separator="\x00")
    captured = documents["captured"].to_numpy()
    date = np.where(captured == 0, _LAST, _of_integers(captured))
    return _joined(_hex(_compared(policy, documents, date)), _hex(date), _hex(node))


def _compared(policy: Survivor, documents: pa.RecordBatch, date: UInt64s) -> UInt64s:
    """What the policy looks at first, the smallest preferred."""
    match policy.keep:
        case "longest":
            return _of_integers(-documents["num_chars"].to_numpy())
        case "latest":
            return np.where(date == _LAST, _LAST, ~date)
        case "highest":
            return _of_signal(documents["signal"], -1.0)
        case "lowest":
            return _of_signal(documents["signal"], 1.0)
    return date


def _joined(*parts: pa.Array, separator: str = "") -> pa.Array:
    return pc.binary_join_element_wise(*parts, separator)


def _of_integers(values: npt.NDArray[np.int64]) -> UInt64s:
    """Unsigned numbers in the same order."""
    return values.view(np.uint64) ^ _SIGN


def _of_signal(signal: pa.Array, sign: float) -> UInt64s:
    """Unsigned numbers in the order of sign · signal, the largest where there is none.

    The bits of IEEE 754 ascend with the value once the sign is turned, and the others as well
    where it is negative.
    """
    values = signal.fill_null(np.nan).to_numpy(zero_copy_only=False) * sign + 0.0  # no -0.0
    bits = values.view(np.uint64)
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return np.where(np.isnan(values), _LAST, ordered)


def _hex(values: UInt64s) -> pa.Array:
    """Sixteen digits each, which sort as the numbers do."""
    digits = values.astype(">u8").tobytes().hex()
    offsets = pa.array(np.arange(0, len(digits) + 1, _DIGITS, dtype=np.int32))
    return pa.StringArray.from_buffers(
        len(values), offsets.buffers()[1], pa.py_buffer(digits.encode())
    )
