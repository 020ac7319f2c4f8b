"""NumPy array types, and unsigned 64-bit keys as the signed integers that the engines store."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt8s = npt.NDArray[np.uint8]
UInt32s = npt.NDArray[np.uint32]
UInt64s = npt.NDArray[np.uint64]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

SIGN_BIT = np.uint64(1 << 63)


def to_signed(keys: UInt64s) -> Int64s:
    """Keys minus 2^63, as int64, in the same order."""
    return (keys ^ SIGN_BIT).view(np.int64)


def to_unsigned(signed: Int64s) -> UInt64s:
    """The inverse of `to_signed`."""
    return signed.view(np.uint64) ^ SIGN_BIT
