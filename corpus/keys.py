"""What dedup orders documents by: a 64-bit hash of the key, and the time of capture."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray


def nodes(file_paths: pa.Array, record_offsets: pa.Array) -> NDArray[np.int64]:
    """XXH3-64 of `file_path:record_offset`, as signed integers (the engines have no unsigned).

    Two of n documents share a node with probability n²/2⁶⁵ (0.2 for a dump of 2.6 billion); the
    dedup job counts them and refuses to go on if it happens.
    """
    names = zip(file_paths.to_pylist(), record_offsets.to_pylist(), strict=True)
    hashes = [xxhash.xxh3_64_intdigest(f"{path}:{offset}".encode()) for path, offset in names]
    return np.array(hashes, np.uint64).view(np.int64)


def seconds(dates: pa.Array) -> pa.Array:
    """WARC-Date strings as whole seconds since 1970 (int64); 0 where one says nothing."""
    return pa.array([_seconds(date) for date in dates.to_pylist()], pa.int64())


def _seconds(date: str | None) -> int:
    try:
        moment = datetime.fromisoformat(date or "")
    except ValueError:
        return 0
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
