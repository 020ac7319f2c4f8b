"""Texts made up by the million, whose duplicates are known: planted clusters, and pairs.

A text is a row of words out of a vocabulary of made-up ones, all of five letters, so that a batch
of texts is one look-up into a table of bytes. Which word stands where is a hash of the seed, the
cluster and the place: any document can be made alone, in any order, on any machine, and nothing is
kept but each document's cluster. Some 20 µs a document of 300 words.

A changed word takes `NGRAM` shingles away and brings as many: c words, each far from the others and
from the ends, leave a Jaccard similarity of (S - 5c) / (S + 5c) to the original of S shingles.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

NGRAM = 5  # words in a shingle
NUM_WORDS = 300  # in a document
VOCABULARY = 100_000
MAX_CHANGES = 5
SIMILARITIES = (0.5, 0.6, 0.7, 0.8, 0.9)

_LETTERS = 5  # of a word
_SPREAD = 7_654_321  # no factor in common with 26^5, so that no two words are the same

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]


class Corpus(Protocol):
    """Documents by number, from 0; `labels` int64 (n,) is the planted cluster of each."""

    labels: Int64s

    def words(self, numbers: Int64s) -> UInt64s:
        """The words (m, w) of some documents, as places in the vocabulary."""


@dataclass(frozen=True)
class Planted:
    """`documents` texts; clusters of `largest`/1, /2, /3, ... down to 2 (Zipf), all others alone.

    A member is its cluster's original with 1 to `MAX_CHANGES` words changed; one is the original.
    """

    documents: int
    largest: int
    seed: int = 0

    @functools.cached_property
    def labels(self) -> Int64s:
        """Clusters of several come first in number; documents stand in no order."""
        sizes = self.largest // np.arange(1, self.largest // 2 + 1)
        sizes = sizes[np.cumsum(sizes) <= self.documents]
        alone = np.ones(self.documents - sizes.sum(), dtype=np.int64)
        labels = np.repeat(np.arange(len(sizes) + len(alone)), np.concatenate([sizes, alone]))
        order = np.argsort(_draw(self.seed, 1, np.arange(self.documents), np.zeros(1)).ravel())
        return labels[order]

    @functools.cached_property
    def changes(self) -> Int64s:
        """How many words of each document (n,) differ from its cluster's original."""
        numbers = np.arange(self.documents)
        drawn = _draw(self.seed, 2, numbers, np.zeros(1)).ravel() % np.uint64(MAX_CHANGES)
        changes = drawn.astype(np.int64) + 1
        changes[np.unique(self.labels, return_index=True)[1]] = 0
        return changes

    def words(self, numbers: Int64s) -> UInt64s:
        """Originals, then each change in a stretch of the text that is its own."""
        words = _originals(self.seed, self.labels[numbers], NUM_WORDS)
        stretch = NUM_WORDS // MAX_CHANGES
        for change in range(MAX_CHANGES):
            rows = np.flatnonzero(self.changes[numbers] > change)
            drawn = _draw(self.seed, 3 + change, numbers[rows], np.arange(2))
            room = np.uint64(stretch - 2 * NGRAM)  # changes are at least 2 * NGRAM words apart
            places = (drawn[:, 0] % room).astype(np.int64) + change * stretch + NGRAM
            _change(words, rows, places, drawn[:, 1] % np.uint64(VOCABULARY - 1))
        return words


@dataclass(frozen=True)
class NearIdentical:
    """One text, with another word changed in each document: no two texts are equal."""

    documents: int
    seed: int = 0

    @property
    def labels(self) -> Int64s:
        """All are in one cluster."""
        return np.zeros(self.documents, dtype=np.int64)

    def words(self, numbers: Int64s) -> UInt64s:
        """The one text, one word of it replaced: all places take turns, then the next word."""
        words = _originals(self.seed, np.zeros(len(numbers), dtype=np.int64), NUM_WORDS)
        others, places = np.divmod(numbers, NUM_WORDS)
        _change(words, np.arange(len(numbers)), places, others.astype(np.uint64))
        return words


@dataclass(frozen=True)
class Distinct:
    """Texts that have nothing in common."""

    documents: int
    seed: int = 0

    @property
    def labels(self) -> Int64s:
        """Each is alone."""
        return np.arange(self.documents)

    def words(self, numbers: Int64s) -> UInt64s:
        """Words of each document's own."""
        return _originals(self.seed, numbers, NUM_WORDS)


@dataclass(frozen=True)
class Pairs:
    """`pairs` pairs of texts, 2i and 2i + 1, whose shingle sets have one exact Jaccard similarity.

    Both begin alike and end in words of their own: `shared` common shingles and `own` of each are
    shared / (shared + 2 own). `ValueError` for a similarity that is none of `SIMILARITIES`.
    """

    similarity: float
    pairs: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            choices = ", ".join(map(str, SIMILARITIES))
            raise ValueError(f"similarity = {self.similarity}: must be one of {choices}")

    @property
    def documents(self) -> int:
        """Texts in all."""
        return 2 * self.pairs

    @property
    def shingles(self) -> tuple[int, int]:
        """Shingles that a pair shares, and that each of the two has alone."""
        return {0.5: (200, 100), 0.6: (240, 80), 0.7: (238, 51), 0.8: (240, 30), 0.9: (270, 15)}[
            self.similarity
        ]

    @property
    def labels(self) -> Int64s:
        """A pair is a cluster."""
        return np.arange(self.documents) // 2

    def words(self, numbers: Int64s) -> UInt64s:
        """The common beginning, and the end of each document's own."""
        shared, own = self.shingles
        beginning = _originals(self.seed, numbers // 2, shared + NGRAM - 1)
        end = _draw(self.seed, 9, numbers, np.arange(own)) % np.uint64(VOCABULARY)
        # The first word of the end must differ in the two, or they would share a shingle more.
        end[:, 0] ^= end[:, 0] & np.uint64(1) ^ (numbers % 2).astype(np.uint64)
        return np.concatenate([beginning, end], axis=1)


def texts(corpus: Corpus, start: int, stop: int) -> pa.StringArray:
    """The texts of documents `start` to `stop` of a corpus."""
    words = corpus.words(np.arange(start, min(stop, len(corpus.labels))))
    letters = _letters()[words].reshape(len(words), -1)[:, :-1]  # no space at the end
    offsets = np.arange(len(words) + 1, dtype=np.int32) * np.int32(letters.shape[1])
    data = pa.py_buffer(np.ascontiguousarray(letters))
    return pa.StringArray.from_buffers(len(words), pa.py_buffer(offsets), data)


@functools.cache
def _letters() -> npt.NDArray[np.uint8]:
    """The vocabulary (words, letters and a space) as bytes."""
    spelling = np.arange(VOCABULARY) * _SPREAD % 26**_LETTERS
    digits = spelling[:, None] // 26 ** np.arange(_LETTERS) % 26
    return np.pad(digits + ord("a"), ((0, 0), (0, 1)), constant_values=ord(" ")).astype(np.uint8)


def _originals(seed: int, clusters: Int64s, num_words: int) -> UInt64s:
    return _draw(seed, 0, clusters, np.arange(num_words)) % np.uint64(VOCABULARY)


def _change(words: UInt64s, rows: Int64s, places: Int64s, others: UInt64s) -> None:
    """Put another word at one place of each row; which one, counts from the word that was there."""
    words[rows, places] = (words[rows, places] + np.uint64(1) + others) % np.uint64(VOCABULARY)


def _draw(seed: int, stream: int, rows: npt.NDArray, columns: npt.NDArray) -> UInt64s:
    """A random number (rows, columns), the same wherever a row and a column meet."""
    start = _mix(np.array([(seed << 8) + stream], dtype=np.uint64))
    return _mix(_mix(start + rows.astype(np.uint64))[:, None] + columns.astype(np.uint64))


def _mix(values: UInt64s) -> UInt64s:
    """splitmix64 (Steele, Lea and Flood 2014): a step, then the finaliser."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
