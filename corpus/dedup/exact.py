"""Exact duplicates: documents whose normalised text, URL or payload digest has the same hash.

Hashes are 64-bit XXH3 as signed integers, since the engines have no unsigned ones.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import xxhash

from corpus.arrays import Int64s
from schemas.config import settings

Key = Literal["text", "url", "payload"]
# Column of `bands` -> the kind of duplicate that agreeing in it makes.
COLUMNS: dict[Key, str] = {"text": "text_hash", "url": "url_hash", "payload": "payload_hash"}
KINDS: dict[Key, str] = {
    "text": "exact_duplicate",
    "url": "url_duplicate",
    "payload": "payload_duplicate",
}


@settings
class Exact:
    """Section [exact]: what documents are compared by, in order, before MinHash.

    A document that one comparison drops takes no part in the next.
    """

    by: tuple[Key, ...] = ("text",)

    def __post_init__(self) -> None:
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by = {list(self.by)}: each at most once")


def url_hashes(urls: pa.Array) -> pa.Array:
    """Hashes of URLs without their fragment; null for null."""
    return _hashes(urls, lambda url: url.partition("#")[0])


def payload_hashes(digests: pa.Array) -> pa.Array:
    """Hashes of payload digests, ignoring case; null for null."""
    return _hashes(digests, str.lower)


def nodes(file_paths: pa.Array, record_offsets: pa.Array) -> Int64s:
    """Hash of `file_path:record_offset`, by which dedup knows a document, int64 (n,).

    Two of n documents share a node with probability n²/2⁶⁵ (0.2 for a dump of 2.6 billion); the
    dedup job counts them and stops if it happens.
    """
    names = zip(file_paths.to_pylist(), record_offsets.to_pylist(), strict=True)
    hashes = [xxhash.xxh3_64_intdigest(f"{path}:{offset}".encode()) for path, offset in names]
    return np.array(hashes, np.uint64).view(np.int64)


def seconds(dates: pa.Array) -> pa.Array:
    """WARC-Date strings as whole seconds since 1970 (int64); 0 for null or an invalid date."""
    return pa.array([_seconds(date) for date in dates.to_pylist()], pa.int64())


def _seconds(date: str | None) -> int:
    try:
        moment = datetime.fromisoformat(date or "")
    except ValueError:
        return 0
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())


def _hashes(values: pa.Array, normalised: Callable[[str], str]) -> pa.Array:
    hashes = [
        None if value is None else xxhash.xxh3_64_intdigest(normalised(value).encode())
        for value in values.to_pylist()
    ]
    return pa.array(hashes, pa.uint64()).view(pa.int64())
