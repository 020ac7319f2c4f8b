"""MinHash signatures and LSH bands: which documents are nearly the same.

Every run of `ngram` words of a text (a shingle) has a 64-bit hash (corpus/dedup/word_hashes.py). A
signature holds, for each of bands × rows hash functions a·x mod 2^64 with odd a, the minimum over
the document's shingles; two signatures agree in a place with a probability equal to the documents'
Jaccard similarity s (Broder 1997). No offset is added, since x is already mixed. A band hashes
`rows` places together: two documents share a band with probability 1 - (1 - s^rows)^bands.
O(words + shingles · functions), in blocks that fit a core's cache.

Nothing depends on the batch, the machine's byte order or a library's random generator: the a come
from SHA-256.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field

from corpus.arrays import Int64s, UInt64s
from corpus.dedup.word_hashes import mix, ngram_hashes, word_hashes
from schemas.config import settings

SCHEME = "gristmill-minhash-2"  # changes with anything that changes a hash

NO_SHINGLE = np.uint64(0xFFFFFFFFFFFFFFFF)  # throughout the signature of a short text
SHINGLES_AT_ONCE = 512  # × 112 functions × 8 bytes = 450 kB, which stays in a core's cache
MAX_HASHES = 4096
MAX_SIGNATURE = 16_384  # RefinedWeb's, the longest in use, is 20 · 450 = 9,000


@settings
class MinHash:
    """FineWeb's parameters (arXiv 2406.17557, section 3.4): 5-grams, 112 hashes as 14 × 8.

    A pair of similarity s is found with probability 1 - (1 - s^8)^14: 56% at 0.7, 77% at 0.75,
    92% at 0.8, 98.8% at 0.85. The seed 1 is datatrove's.

    A `threshold` above 0 sets `bands` and `rows` (`optimal_bands`), with
    bands · rows <= num_hashes and at least two bands.
    """

    ngram: Annotated[int, Field(ge=1, le=10**4)] = 5
    bands: Annotated[int, Field(ge=1, le=MAX_SIGNATURE)] = 14
    rows: Annotated[int, Field(ge=1, le=MAX_SIGNATURE)] = 8
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] = 1
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0: off
    num_hashes: Annotated[int, Field(ge=1, le=MAX_HASHES)] = 112

    def __post_init__(self) -> None:
        if self.signature_length > MAX_SIGNATURE:
            raise ValueError(
                f"bands = {self.bands} and rows = {self.rows}: their product must be at most "
                f"{MAX_SIGNATURE}"
            )
        if self.threshold > 0:
            bands, rows = optimal_bands(self.threshold, self.num_hashes)
            # Stored settings hold the chosen values.
            if (self.bands, self.rows) not in {(MinHash.bands, MinHash.rows), (bands, rows)}:
                raise ValueError(
                    f"bands = {self.bands} and rows = {self.rows}: must be left out with "
                    f"threshold = {self.threshold}, which sets bands = {bands} and rows = {rows}"
                )
            object.__setattr__(self, "bands", bands)
            object.__setattr__(self, "rows", rows)
        elif self.num_hashes != MinHash.num_hashes:
            raise ValueError(
                f"num_hashes = {self.num_hashes}: must be left out without a threshold; "
                f"bands = {self.bands} and rows = {self.rows} make {self.signature_length}"
            )

    @property
    def signature_length(self) -> int:
        """The number of hash functions, bands · rows."""
        return self.bands * self.rows

    @property
    def threshold_estimate(self) -> float:
        """The similarity where the match probability is about steepest, (1 / bands)^(1 / rows).

        Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.2.
        """
        return float((1 / self.bands) ** (1 / self.rows))

    def match_probability(self, similarity: float) -> float:
        """Probability that a pair of this Jaccard similarity shares a band."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


@lru_cache(maxsize=64)
def optimal_bands(threshold: float, num_hashes: int) -> tuple[int, int]:
    """The bands and rows that datasketch's MinHashLSH chooses for a threshold.

    They minimize the integral of the match probability below the threshold plus that of its
    complement above it. Raises `ValueError` where the choice would be a single band.
    """
    from datasketch import MinHashLSH  # here: costs 0.4 s, and most recipes have no threshold

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SciPy's, that an integral converges slowly
            index = MinHashLSH(threshold=threshold, num_perm=num_hashes)
    except ValueError:
        raise ValueError(
            f"threshold = {threshold}: must be lower with num_hashes = {num_hashes}, or num_hashes "
            "higher: datasketch finds no two bands for it; or leave both out and set bands and rows"
        ) from None
    return index.b, index.r


@dataclass(frozen=True)
class Fingerprints:
    """The hashes of n texts: `text_hashes` (n,), `bands` (n, bands), `num_shingles` (n,).

    The bands of a text without shingles are 0 and mean nothing.
    """

    text_hashes: Int64s
    bands: Int64s
    num_shingles: Int64s


def fingerprints(texts: Sequence[str], settings: MinHash) -> Fingerprints:
    """Text hashes, band hashes and numbers of distinct shingles of n texts."""
    words, begins = word_hashes(texts)
    parts = (words[start:end] for start, end in pairwise(begins.tolist()))
    hashes = (_text_hash(*pair) for pair in zip(texts, parts, strict=True))
    found, num_shingles = signatures(words, begins, settings)
    return Fingerprints(
        np.fromiter(hashes, dtype=np.int64, count=len(texts)),
        _bands(found, num_shingles, settings),
        num_shingles,
    )


def signatures(words: UInt64s, begins: Int64s, settings: MinHash) -> tuple[UInt64s, Int64s]:
    """Signatures uint64 (n, bands · rows) and distinct shingles int64 (n,) of n texts' words.

    A text of fewer than `ngram` words has 0 shingles and a signature of `NO_SHINGLE`.
    """
    found = np.full((len(begins) - 1, settings.signature_length), NO_SHINGLE)
    num_shingles = np.zeros(len(found), dtype=np.int64)
    multiply = _hash_functions(settings.seed, settings.signature_length)
    space = np.empty((len(multiply), SHINGLES_AT_ONCE), dtype=np.uint64)
    for i, shingles in enumerate(_shingles(words, begins, settings.ngram)):
        num_shingles[i] = len(shingles)
        for start in range(0, len(shingles), SHINGLES_AT_ONCE):
            part = shingles[start : start + SHINGLES_AT_ONCE]
            values = np.multiply(multiply, part, out=space[:, : len(part)])
            np.minimum(found[i], values.min(axis=1), out=found[i])
    return found, num_shingles


@cache
def _hash_functions(seed: int, count: int) -> UInt64s:
    """A column (count, 1) of odd multipliers."""
    digests = [hashlib.sha256(f"{SCHEME}:{seed}:{i}".encode()).digest() for i in range(count)]
    multipliers = [int.from_bytes(digest[:8], "little") | 1 for digest in digests]
    return np.array(multipliers, dtype=np.uint64)[:, None]


def _shingles(words: UInt64s, begins: Int64s, ngram: int) -> Iterator[UInt64s]:
    """The distinct shingles of each text, ascending."""
    runs = ngram_hashes(words, ngram)  # includes runs across two texts, which are skipped
    for start, end in pairwise(begins.tolist()):
        own = runs[start : max(start, end - ngram + 1)]
        own.sort()
        again = own[1:] == own[:-1]
        yield own[np.append(True, ~again)] if again.any() else own


def _bands(found: UInt64s, num_shingles: Int64s, settings: MinHash) -> Int64s:
    """Band hashes int64 (n, bands) of signatures; different bands have different hashes."""
    places = found.reshape(len(found), settings.bands, settings.rows)
    hashes = np.tile(np.arange(1, settings.bands + 1, dtype=np.uint64), (len(found), 1))
    for row in range(settings.rows):
        hashes = mix(hashes ^ places[:, :, row])
    hashes[num_shingles == 0] = 0
    return hashes.view(np.int64)


def _text_hash(text: str, words: UInt64s) -> int:
    """Signed 64-bit hash (BLAKE2b) of the text's words.

    A text without words is hashed as it is, so that pages of symbols are not all duplicates.
    """
    if len(words):
        little = words.astype("<u8", copy=False)
        digest = hashlib.blake2b(little.data, digest_size=8, person=b"words")
    else:
        symbols = text.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(symbols, digest_size=8, person=b"text")
    return int.from_bytes(digest.digest(), "little", signed=True)


def shingle_hashes(text: str, settings: MinHash) -> UInt64s:
    """Distinct 64-bit hashes of the runs of `ngram` words of a text, ascending."""
    return next(_shingles(*word_hashes([text]), settings.ngram))


def jaccard(a: UInt64s, b: UInt64s) -> float:
    """Jaccard similarity of two sets, each given as distinct hashes; 0 for two empty ones."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(1, len(a) + len(b) - shared)
