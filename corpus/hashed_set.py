"""A read-only set of strings, kept as a sorted array of 64-bit hashes that processes share.

The file is mapped, not read: opening it takes a millisecond whatever its size, and its pages are
in memory once for all processes. Cost: 8 bytes an entry, about a microsecond a look-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from schemas import manifest
from schemas.errors import UserError


@dataclass(frozen=True, eq=False)
class HashedSet:
    """Strings known by their xxh3_64 hashes alone.

    A string that is not in a set of n is found in it with probability n / 2^64. With 4.6 million
    entries that is 2.5e-13: one page in 700 crawls of three billion pages, two look-ups a page.
    """

    hashes: NDArray[np.uint64]  # ascending, each once

    @classmethod
    def of(cls, entries: Iterable[str]) -> HashedSet:
        """The set of `entries`, in memory; they are hashed one by one and never held together."""
        hashes = np.fromiter(map(_hash, entries), np.uint64)
        hashes.sort()
        # np.unique takes 4 s for 4.6 million; the last of each run of equals takes none.
        return cls(hashes[np.append(hashes[1:] != hashes[:-1], True)[: len(hashes)]])

    @classmethod
    def open(cls, path: Path) -> HashedSet:
        """The set that `save` wrote to `path`, mapped; raises `UserError` for another file."""
        try:
            hashes = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path}: not a readable set of hashes: {error}") from None
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise UserError(f"{path}: not a set of hashes: {hashes.ndim}-d array of {hashes.dtype}")
        # Without the class of memmap, whose every slice costs microseconds.
        return cls(hashes.view(np.ndarray))

    def save(self, path: Path) -> None:
        """Put the set at `path` in one step (NumPy's .npy)."""
        with manifest.atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, self.hashes, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, text: str) -> bool:
        wanted = np.uint64(_hash(text))
        at = int(self.hashes.searchsorted(wanted))
        return at < len(self.hashes) and bool(self.hashes[at] == wanted)


def _hash(text: str) -> int:
    # A lone surrogate, which UTF-8 cannot hold, may stand in a URL and is no reason to stop.
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
