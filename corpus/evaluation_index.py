"""An index of evaluation sets by the hashes of their runs of words, in files that processes share.

Every text gives its runs of `ngram` words, a shorter one of at least `min_words` is one run. All
runs are at least min(ngram, min_words) long; a bitmap of how they begin, by the hash of so many
words, turns nearly every place of a document away before anything longer is hashed.

Cost: O(n log n) to build for n runs; 32 to 40 bytes each in arrays that are mapped, not read.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corpus import evaluation_sets
from corpus.word_hashes import Int64s, UInt64s, ngram_hashes, word_hashes
from schemas import json_text
from schemas.errors import UserError

FORMAT = 1  # changes with anything that changes what is looked for
_CHARS_AT_ONCE = 1 << 20  # of evaluation texts
_RUNS_AT_ONCE = 1 << 14  # × 13 words × 8 bytes: 1.7 MB
_SLOTS_A_RUN = 64  # of the bitmap: one place in 64 or more passes by chance
_DESCRIPTION = "index.json"

Bools = npt.NDArray[np.bool_]
UInt8s = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class EvaluationSet:
    """A set's name, its items, and those in which nothing is long enough to be looked for."""

    name: str
    items: int
    too_short: int


@dataclass(frozen=True, eq=False)
class Index:
    """What is looked for. Texts are numbered through all sets, and so are items.

    `hashes` (h,) ascend; the texts of the i-th are `texts[offsets[i]:offsets[i + 1]]`. A text has
    `num_runs` different hashes and belongs to item `items`. `bits` is a bitmap of 2^k slots, at the
    upper k bits of the hash of each run's first `head` words. `lengths` are the runs', in words.
    """

    hashes: UInt64s
    offsets: Int64s
    texts: Int64s
    num_runs: Int64s
    items: Int64s
    bits: UInt8s
    head: int
    lengths: tuple[int, ...]
    sets: tuple[EvaluationSet, ...]

    @functools.cached_property
    def first_items(self) -> Int64s:
        """Number of each set's first item."""
        sizes = [one.items for one in self.sets]
        return np.array([0, *itertools.accumulate(sizes)][:-1], np.int64)

    def find(self, words: UInt64s) -> tuple[Int64s, Int64s, Int64s]:
        """Runs of the index among `words` (w,): where they begin, their lengths, their entries.

        Three arrays (n,), ascending by place and length; a place may begin several.
        """
        begins = np.flatnonzero(self._might_begin(ngram_hashes(words, self.head)))
        parts = [np.empty((3, 0), np.int64)]
        for length in self.lengths:
            at = begins[begins + length <= len(words)]
            hashes = _hashes_at(words, at, length)
            entry = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
            sure = self.hashes[entry] == hashes
            parts.append(np.stack((at, np.full(len(at), length), entry))[:, sure])
        found = np.concatenate(parts, axis=1)
        at, lengths, entries = found[:, np.lexsort((found[1], found[0]))]
        return at, lengths, entries

    def _might_begin(self, heads: UInt64s) -> Bools:
        """Whether a run may begin with the words of each hash: never a false no."""
        slots = heads >> np.uint64(65 - (8 * len(self.bits)).bit_length())
        within = slots.astype(np.uint8) & np.uint8(7)
        held: Bools = (self.bits[slots >> np.uint64(3)] >> within & np.uint8(1)) == 1
        return held

    def save(self, folder: Path) -> None:
        """Write the index into `folder`: arrays as .npy, then the rest as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        described = {"head": self.head, "lengths": self.lengths}
        described["sets"] = [vars(one) for one in self.sets]
        (folder / _DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")


_ARRAYS = tuple(field.name for field in fields(Index)[:6])


@functools.lru_cache(maxsize=2)
def load(folder: Path) -> Index:
    """The index that `save` wrote, its arrays mapped; the same object a second time.

    Raises `UserError` where it is missing or damaged.
    """
    try:
        return _opened(folder)
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder}: not a readable index: {error}; delete the folder") from None


def _opened(folder: Path) -> Index:
    described = json_text.load(folder / _DESCRIPTION)
    arrays: dict[str, Any] = {
        # Without the class of memmap, whose every slice costs microseconds.
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
        for name in _ARRAYS
    }
    sets = tuple(EvaluationSet(**one) for one in described["sets"])
    return Index(**arrays, head=described["head"], lengths=tuple(described["lengths"]), sets=sets)


def build(sets: Mapping[str, Path], ngram: int, min_words: int) -> Index:
    """Read evaluation sets (name -> file); `UserError` for a bad file or nothing to look for."""
    runs = [_Runs.of([], ngram, min_words)]
    items, number, num_items = list[int](), 0, dict[str, int]()
    for name, path in sets.items():
        first = number
        for batch in _in_batches(evaluation_sets.read_items(path)):
            texts = [text for item in batch for text in item]
            runs.append(_Runs.of(texts, ngram, min_words, first=len(items)))
            items += [number + i for i, item in enumerate(batch) for _ in item]
            number += len(batch)
        num_items[name] = number - first
    found = _Runs.join(runs)
    if not len(found.hashes):
        raise UserError(
            f"decontaminate.min_words = {min_words}: no text of {', '.join(sets)} has so many "
            "words; there is nothing to look for"
        )
    return _index(found, np.array(items, np.int64), num_items, min(ngram, min_words))


def _in_batches(items: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    batch, size = list[list[str]](), 0
    for item in items:
        batch.append(item)
        size += sum(map(len, item))
        if size >= _CHARS_AT_ONCE:
            yield batch
            batch, size = [], 0
    yield batch


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of texts, (n,) each: hash, hash of the beginning, number of the text, length."""

    hashes: UInt64s
    heads: UInt64s
    texts: Int64s
    lengths: Int64s

    @classmethod
    def of(cls, texts: Sequence[str], ngram: int, min_words: int, first: int = 0) -> _Runs:
        """The runs that texts are looked for by; `first` is the first text's number."""
        words, starts = word_hashes(texts)
        sizes = np.diff(starts)
        owner = np.repeat(np.arange(len(texts)), sizes)
        left = starts[owner + 1] - np.arange(len(words))  # words of the text from there on
        # All runs of a text that has `ngram` words, else the one that is all of it.
        lengths = np.minimum(sizes, ngram)[owner]
        at = np.flatnonzero((left >= lengths) & (lengths >= min(ngram, min_words)))
        at = at[_tell_something(words, at, lengths[at])]
        lengths = lengths[at]
        hashes = np.empty(len(at), np.uint64)
        for length in np.unique(lengths).tolist():
            hashes[lengths == length] = _hashes_at(words, at[lengths == length], length)
        heads = _hashes_at(words, at, min(ngram, min_words))
        return cls(hashes, heads, owner[at] + first, lengths)

    @classmethod
    def join(cls, parts: Sequence[_Runs]) -> _Runs:
        """All runs one after the other."""
        return cls(*(np.concatenate(column) for column in zip(*(vars(p).values() for p in parts),
                                                              strict=True)))  # fmt: skip


def _hashes_at(words: UInt64s, at: Int64s, length: int) -> UInt64s:
    """Hashes of the runs of `length` words that begin there."""
    hashes = np.empty(len(at), np.uint64)
    for place, runs in _runs_at(words, at, length):
        hashes[place] = ngram_hashes(runs.reshape(-1), length)[::length]
    return hashes


def _tell_something(words: UInt64s, at: Int64s, lengths: Int64s) -> Bools:
    """Whether runs have as many different words as half their length.

    A run of numbers, which are all one word to the hashes, would be found in every table.
    """
    num_different = np.ones(len(at), np.int64)
    for length in np.unique(lengths).tolist():
        here = np.flatnonzero(lengths == length)
        for place, runs in _runs_at(words, at[here], length):
            changes = np.diff(np.sort(runs, axis=1), axis=1)
            num_different[here[place]] += np.count_nonzero(changes, axis=1)
    return 2 * num_different >= lengths


def _runs_at(words: UInt64s, at: Int64s, length: int) -> Iterator[tuple[slice, UInt64s]]:
    """The words of runs, (n, length), for some of the places `at` a time."""
    for start in range(0, len(at), _RUNS_AT_ONCE):
        place = slice(start, start + _RUNS_AT_ONCE)
        yield place, words[at[place, None] + np.arange(length)]


def _index(runs: _Runs, items: Int64s, num_items: dict[str, int], head: int) -> Index:
    order = np.lexsort((runs.texts, runs.hashes))
    hashes, texts = runs.hashes[order], runs.texts[order]
    is_new = np.append(True, (hashes[1:] != hashes[:-1]) | (texts[1:] != texts[:-1]))
    hashes, texts = hashes[is_new], texts[is_new]
    begins = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
    return Index(
        hashes=hashes[begins],
        offsets=np.append(begins, len(hashes)).astype(np.int64),
        texts=texts,
        num_runs=np.bincount(texts, minlength=len(items)),
        items=items,
        bits=_bitmap(runs.heads),
        head=head,
        lengths=tuple(np.unique(runs.lengths).tolist()),
        sets=_count_too_short(num_items, np.unique(items[texts])),
    )


def _bitmap(heads: UInt64s) -> UInt8s:
    exponent = max(10, (_SLOTS_A_RUN * len(heads) - 1).bit_length())
    slots = heads >> np.uint64(64 - exponent)
    bits = np.zeros(1 << exponent - 3, np.uint8)
    np.bitwise_or.at(bits, slots >> np.uint64(3), np.uint8(1) << (slots.astype(np.uint8) & 7))
    return bits


def _count_too_short(num_items: dict[str, int], with_runs: Int64s) -> tuple[EvaluationSet, ...]:
    ends = np.cumsum(list(num_items.values()))
    wanted = np.diff(np.searchsorted(with_runs, ends), prepend=0).tolist()
    sizes = zip(num_items.items(), wanted, strict=True)
    return tuple(EvaluationSet(name, items, items - found) for (name, items), found in sizes)
