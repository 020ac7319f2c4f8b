"""Which documents hold texts of evaluation sets: shared runs of words, found by their hashes.

A text of an evaluation item is searched by its runs of `ngram` words, a shorter one as a whole, as
GPT-3 did with 13 words (Brown et al. 2020, arXiv 2005.14165, appendix C). Words are compared as
`corpus.dedup.word_hashes` does: without case, punctuation, accents and the digits of a number.
GPT-3 cut 200 characters around a match out of the document; here a document stays or goes.

Evaluation sets are read from files (`resolve`, `read_items`), indexed by the hashes of their runs
(`build`), and documents looked up in the index (`examine`). The index's arrays are files that
processes map.

Cost: O(n log n) to build for n runs, at 32 to 40 bytes per run; to look a document up, less than
hashing its words, however many the sets. A bitmap of how runs begin, by the hash of the words that
every run has at least, rejects nearly every position before anything longer is hashed.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from corpus.arrays import Int64s, UInt8s, UInt64s
from corpus.dedup.word_hashes import ngram_hashes, normalise, word_hashes
from corpus.warc.codecs import CODECS, DamageError, unpacked
from schemas import json_text
from schemas.config import settings
from schemas.datasets import CONTAMINATION, KEY
from schemas.errors import UserError
from schemas.names import matching_files

Bools = npt.NDArray[np.bool_]

JSON_LINES = tuple(f".jsonl{ending}" for ending in CODECS)
PARAGRAPHS = tuple(f".txt{ending}" for ending in CODECS)
KINDS = (*JSON_LINES, *PARAGRAPHS)
FORMAT = 1  # changes with anything that changes what is found

_CHARS_PER_BATCH = 1 << 20  # of evaluation texts
_CHARS_AT_ONCE = 1 << 19  # of documents: their hashes fit a core's cache
_RUNS_AT_ONCE = 1 << 14  # × 13 words × 8 bytes: 1.7 MB
_SLOTS_PER_RUN = 64  # of the bitmap: at least, so that one position in 64 passes by chance
_DESCRIPTION = "index.json"

# Labels that evaluation harnesses add and web pages lack.
_LABEL = re.compile(r"\A\s*(?:question|answer|context|passage|premise|q|a)\s*:", re.I)
_URL = re.compile(r"\s*\w+://\S*\s*")


@settings
class Decontaminate:
    """Section [decontaminate]: paths or globs of evaluation sets, and what counts as found.

    A document is contaminated by a text with which it shares `min_matches` different runs of
    `ngram` words, or all that the text has. A text of fewer than `ngram` words, but at least
    `min_words`, must be in it whole.
    """

    against: tuple[str, ...] = ()
    ngram: Annotated[int, Field(ge=1, le=10**4)] = 13
    min_words: Annotated[int, Field(ge=1, le=10**9)] = 8
    min_matches: Annotated[int, Field(ge=1, le=10**9)] = 1
    action: Literal["drop", "flag"] = "drop"

    def __post_init__(self) -> None:
        if not all(self.against):
            raise ValueError(f"against = {list(self.against)}: must be paths of evaluation sets")


# --- Evaluation sets as files --------------------------------------------------------------------


def resolve(patterns: Sequence[str]) -> dict[str, Path]:
    """Name of each set -> its file, by name.

    A set's name is its file's without endings, preceded by the folders that distinguish it from
    others. Raises `UserError` naming what is missing, of another kind, or ambiguous.
    """
    paths: dict[Path, Path] = {}
    for path in sorted({p.absolute() for p in matching_files("--against", patterns, KINDS)}):
        ending = max((kind for kind in KINDS if path.name.endswith(kind)), key=len)
        plain = path.with_name(path.name.removesuffix(ending) or path.name)
        other = paths.setdefault(plain, path)
        if other != path:
            raise UserError(
                f"--against: {other} and {path} would both be the set '{plain}'; rename one"
            )
    return dict(sorted((_name(plain, list(paths)), path) for plain, path in paths.items()))


def _name(path: Path, others: list[Path]) -> str:
    """The shortest end of the path that no other has."""
    parts, alike = 0, len(others)
    while alike > 1:
        parts += 1
        alike = sum(other.parts[-parts:] == path.parts[-parts:] for other in others)
    return "/".join(path.parts[-max(1, parts) :])


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def read_items(path: Path) -> Iterator[list[str]]:
    """Yield the texts of each item; an item without strings has none.

    An item is a line of JSON or a paragraph of plain text. The texts of a line are its string
    values, also nested ones, without leading labels and without URLs. They are not joined: no file
    says which fields a page shows together, and a run inside one field finds the page anyway.

    Raises `UserError` naming file and line where it is not valid, and for a file without items.
    """
    read = _read_json_lines if path.name.endswith(JSON_LINES) else _read_paragraphs
    is_empty = True
    try:
        for item in read(path):
            is_empty = False
            yield item
    except (OSError, UnicodeDecodeError, DamageError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if is_empty:
        raise UserError(f"{path}: holds no item")


def _read_json_lines(path: Path) -> Iterator[list[str]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json_text.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not a line of JSON: {error}") from None
        yield [_LABEL.sub("", text, count=1) for text in _strings(row) if not _URL.fullmatch(text)]


def _read_paragraphs(path: Path) -> Iterator[list[str]]:
    for is_blank, lines in itertools.groupby(_lines(path), key=lambda line: not line.strip()):
        if not is_blank:
            yield [_LABEL.sub("", "\n".join(lines), count=1)]


def _lines(path: Path) -> Iterator[str]:
    begun: list[bytes] = []
    for block in unpacked(path):
        first, *others = block.split(b"\n")
        begun.append(first)
        for other in others:
            yield b"".join(begun).decode("utf-8")
            begun = [other]
    yield b"".join(begun).decode("utf-8")


def _strings(row: Any) -> Iterator[str]:
    """All string values of a JSON value in order, without keys."""
    waiting = [row]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value.encode("utf-8", "replace").decode("utf-8")  # JSON can hold lone surrogates
        elif isinstance(value, dict | list):
            waiting.extend(reversed(list(value.values() if isinstance(value, dict) else value)))


# --- The index -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationSet:
    """A set's name, the number of its items, and of those without a text long enough to find."""

    name: str
    items: int
    too_short: int


@dataclass(frozen=True, eq=False)
class Index:
    """The runs of all sets. Texts are numbered across sets, and so are items.

    `hashes` (h,) ascend; run i occurs in the texts `texts[offsets[i]:offsets[i + 1]]`. A text has
    `num_runs` different runs and belongs to item `items`. `bits` is a bitmap of 2^k slots, indexed
    by the upper k bits of the hash of each run's first `head` words. `lengths` are the runs', in
    words.
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
        """Runs of the index among `words` (w,): their positions, lengths and entries.

        Three arrays (n,), ascending by position and length; several runs may begin at one.
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
        """Whether a run may begin with the words of each hash; no false negatives."""
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
        described["sets"] = [asdict(one) for one in self.sets]
        (folder / _DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")


_ARRAYS = tuple(field.name for field in fields(Index)[:6])


@functools.lru_cache(maxsize=2)
def load(folder: Path) -> Index:
    """The index that `save` wrote, its arrays mapped; cached by folder.

    Raises `UserError` where it is missing or damaged.
    """
    try:
        described = json_text.load(folder / _DESCRIPTION)
        arrays: dict[str, Any] = {
            # Without the class of memmap, whose every slice costs microseconds.
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(
                np.ndarray
            )
            for name in _ARRAYS
        }
        sets = tuple(EvaluationSet(**one) for one in described["sets"])
        return Index(
            **arrays, head=described["head"], lengths=tuple(described["lengths"]), sets=sets
        )
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder}: not a readable index: {error}; delete the folder") from None


def build(sets: Mapping[str, Path], ngram: int, min_words: int) -> Index:
    """Index evaluation sets (name -> file); `UserError` for a bad file or no text to find."""
    runs = [_Runs.of([], ngram, min_words)]
    items, number, num_items = list[int](), 0, dict[str, int]()
    for name, path in sets.items():
        first = number
        for batch in _in_batches(read_items(path)):
            texts = [text for item in batch for text in item]
            runs.append(_Runs.of(texts, ngram, min_words, first=len(items)))
            items += [number + i for i, item in enumerate(batch) for _ in item]
            number += len(batch)
        num_items[name] = number - first
    columns = zip(*(vars(some).values() for some in runs), strict=True)
    found = _Runs(*map(np.concatenate, columns))
    if not len(found.hashes):
        raise UserError(
            f"decontaminate.min_words = {min_words}: no text of {', '.join(sets)} is long enough "
            "to be looked for"
        )
    return _index(found, np.array(items, np.int64), num_items, min(ngram, min_words))


def _in_batches(items: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    batch, size = list[list[str]](), 0
    for item in items:
        batch.append(item)
        size += sum(map(len, item))
        if size >= _CHARS_PER_BATCH:
            yield batch
            batch, size = [], 0
    yield batch


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of texts, (n,) each: hash, hash of the first words, number of the text, length."""

    hashes: UInt64s
    heads: UInt64s
    texts: Int64s
    lengths: Int64s

    @classmethod
    def of(cls, texts: Sequence[str], ngram: int, min_words: int, first: int = 0) -> _Runs:
        """The runs that texts are found by; `first` is the first text's number."""
        words, starts = word_hashes(texts)
        sizes = np.diff(starts)
        owner = np.repeat(np.arange(len(texts)), sizes)
        left = starts[owner + 1] - np.arange(len(words))  # words of the text from there on
        # All runs of a text that has `ngram` words, else the one that is all of it.
        lengths = np.minimum(sizes, ngram)[owner]
        at = np.flatnonzero((left >= lengths) & (lengths >= min(ngram, min_words)))
        at = at[_are_distinctive(words, at, lengths[at])]
        lengths = lengths[at]
        hashes = np.empty(len(at), np.uint64)
        for length in np.unique(lengths).tolist():
            hashes[lengths == length] = _hashes_at(words, at[lengths == length], length)
        heads = _hashes_at(words, at, min(ngram, min_words))
        return cls(hashes, heads, owner[at] + first, lengths)


def _hashes_at(words: UInt64s, at: Int64s, length: int) -> UInt64s:
    """Hashes of the runs of `length` words that begin at `at`."""
    hashes = np.empty(len(at), np.uint64)
    for place, runs in _runs_at(words, at, length):
        hashes[place] = ngram_hashes(runs.reshape(-1), length)[::length]
    return hashes


def _are_distinctive(words: UInt64s, at: Int64s, lengths: Int64s) -> Bools:
    """Whether at least half of a run's words are different.

    All numbers hash to one word, so a run of numbers would be found in every table.
    """
    num_different = np.ones(len(at), np.int64)
    for length in np.unique(lengths).tolist():
        here = np.flatnonzero(lengths == length)
        for place, runs in _runs_at(words, at[here], length):
            changes = np.diff(np.sort(runs, axis=1), axis=1)
            num_different[here[place]] += np.count_nonzero(changes, axis=1)
    return 2 * num_different >= lengths


def _runs_at(words: UInt64s, at: Int64s, length: int) -> Iterator[tuple[slice, UInt64s]]:
    """The words of runs, (n, length), for a slice of the positions `at` at a time."""
    for start in range(0, len(at), _RUNS_AT_ONCE):
        place = slice(start, start + _RUNS_AT_ONCE)
        yield place, words[at[place, None] + np.arange(length)]


def _index(runs: _Runs, items: Int64s, num_items: dict[str, int], head: int) -> Index:
    order = np.lexsort((runs.texts, runs.hashes))
    hashes, texts = runs.hashes[order], runs.texts[order]
    is_new = np.append(True, (hashes[1:] != hashes[:-1]) | (texts[1:] != texts[:-1]))
    hashes, texts = hashes[is_new], texts[is_new]
    begins = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))

    exponent = max(10, (_SLOTS_PER_RUN * len(runs.heads) - 1).bit_length())
    slots = runs.heads >> np.uint64(64 - exponent)
    bits = np.zeros(1 << exponent - 3, np.uint8)
    np.bitwise_or.at(bits, slots >> np.uint64(3), np.uint8(1) << (slots.astype(np.uint8) & 7))

    ends = np.cumsum(list(num_items.values()))
    long_enough = np.diff(np.searchsorted(np.unique(items[texts]), ends), prepend=0).tolist()
    return Index(
        hashes=hashes[begins],
        offsets=np.append(begins, len(hashes)).astype(np.int64),
        texts=texts,
        num_runs=np.bincount(texts, minlength=len(items)),
        items=items,
        bits=bits,
        head=head,
        lengths=tuple(np.unique(runs.lengths).tolist()),
        sets=tuple(
            EvaluationSet(name, count, count - found)
            for (name, count), found in zip(num_items.items(), long_enough, strict=True)
        ),
    )


# --- Documents -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """A document that holds texts of a set.

    `num_matches` counts different runs, `items` are the set's items found, from 0, `example` is
    the first shared run, normalised.
    """

    document: int
    set: str
    num_matches: int
    items: list[int]
    example: str


def examine(canonical: pa.RecordBatch, settings: Decontaminate, index: Index) -> pa.RecordBatch:
    """`canonical` (id, key, url, text) -> `contamination`: a row per matching document and set."""
    found = find(canonical["text"].to_pylist(), settings.min_matches, index)
    places = pa.array([match.document for match in found], pa.int64())
    columns = {name: canonical[name].take(places) for name in ("id", *KEY, "url")}
    for name in ("set", "num_matches", "items", "example"):
        values = [getattr(match, name) for match in found]
        columns[name] = pa.array(values, CONTAMINATION.field(name).type)
    columns["action"] = pa.array([settings.action] * len(found), pa.string())
    arrays = [columns[name] for name in CONTAMINATION.names]
    return pa.RecordBatch.from_arrays(arrays, schema=CONTAMINATION)


def find(texts: Sequence[str], min_matches: int, index: Index) -> list[Match]:
    """The matches of `texts`, by text, then set."""
    found: list[Match] = []
    for start, stop in _portions(texts):
        words, starts = word_hashes(texts[start:stop])
        at, lengths, entries = index.find(words)
        document = np.searchsorted(starts, at, "right") - 1
        inside = at + lengths <= starts[document + 1]
        hits = np.stack((at - starts[document], lengths, entries), axis=1)[inside]
        document = document[inside]
        for i in np.unique(document).tolist():
            own = hits[slice(*np.searchsorted(document, [i, i + 1]))]
            found += _matches(start + i, texts[start + i], own, min_matches, index)
    return found


def _portions(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Slices of `texts` of at most `_CHARS_AT_ONCE` characters, or of one longer text."""
    start = size = 0
    for i, text in enumerate(texts):
        if size and size + len(text) > _CHARS_AT_ONCE:
            yield start, i
            start, size = i, 0
        size += len(text)
    if start < len(texts):
        yield start, len(texts)


def _matches(
    document: int, text: str, hits: Int64s, min_matches: int, index: Index
) -> Iterator[Match]:
    """One document's match with each set; `hits` (n, 3): position, length, entry, in order."""
    entries, first = np.unique(hits[:, 2], return_index=True)  # first positions
    counts = index.offsets[entries + 1] - index.offsets[entries]
    hit = np.repeat(np.arange(len(entries)), counts)
    within = np.arange(len(hit)) - np.repeat(np.cumsum(counts) - counts, counts)
    owner = index.texts[index.offsets[entries[hit]] + within]
    known, place, shared = np.unique(owner, return_inverse=True, return_counts=True)
    enough = (shared >= np.minimum(min_matches, index.num_runs[known]))[place]
    hit, item = hit[enough], index.items[owner[enough]]
    of_set = np.searchsorted(index.first_items, item, "right") - 1
    for number in np.unique(of_set).tolist():
        own = of_set == number
        word, length, _ = hits[first[hit[own]].min()]
        yield Match(
            document=document,
            set=index.sets[number].name,
            num_matches=len(np.unique(hit[own])),
            items=np.unique(item[own] - index.first_items[number]).tolist(),
            example=" ".join(normalise(text).split()[word : word + length]),
        )
