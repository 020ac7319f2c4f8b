"""Which documents hold an evaluation set's texts: shared runs of words, found by their hashes.

A text of an evaluation item is looked for by its runs of thirteen words, a shorter one whole, as
GPT-3 did (Brown et al. 2020, arXiv 2005.14165, appendix C). Words are those of
corpus/word_hashes.py: case, punctuation, accents and the digits of a number make no difference.
GPT-3 cut 200 characters around a match out of the document; here a document stays or goes.

Cost: less than hashing the document's words, however many the sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from corpus.evaluation_index import Index
from corpus.word_hashes import Int64s, normalise, word_hashes
from schemas.config import check_range
from schemas.datasets import CONTAMINATION, KEY

_CHARS_AT_ONCE = 1 << 19  # of a batch of documents: their hashes stay in a core's cache


@dataclass(frozen=True)
class Decontaminate:
    """Section [decontaminate]: paths or globs of evaluation sets, and what counts as found.

    A document is contaminated by a text with which it shares `min_matches` different runs of
    `ngram` words, or all that the text has. A text of fewer than `ngram` words, but at least
    `min_words`, must be in it whole.
    """

    against: tuple[str, ...] = ()
    ngram: int = 13
    min_words: int = 8
    min_matches: int = 1
    action: Literal["drop", "flag"] = "drop"

    def __post_init__(self) -> None:
        check_range(self, 1, 10**4, "ngram")
        check_range(self, 1, 10**9, "min_words", "min_matches")
        if not all(self.against):
            raise ValueError(f"against = {list(self.against)}: must be paths of evaluation sets")


@dataclass(frozen=True)
class Match:
    """A document that holds texts of a set.

    `num_matches` counts different runs of words, `items` the set's items from 0, `example` is the
    first shared run, normalised.
    """

    document: int
    set: str
    num_matches: int
    items: list[int]
    example: str


def examine(canonical: pa.RecordBatch, settings: Decontaminate, index: Index) -> pa.RecordBatch:
    """`canonical` (id, key, url, text) -> `contamination`: a row a document and set that match."""
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
    """What of the index is in `texts`, by text, then set."""
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
    """Stretches of `texts` of limited size; a longer text is one by itself."""
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
    """What one document has of each set; `hits` (n, 3): first word, length, entry, as they come."""
    entries, first = np.unique(hits[:, 2], return_index=True)  # where each comes first
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
            document,
            index.sets[number].name,
            len(np.unique(hit[own])),
            np.unique(item[own] - index.first_items[number]).tolist(),
            " ".join(normalise(text).split()[word : word + length]),
        )
