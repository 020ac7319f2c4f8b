"""Lines or paragraphs that several documents share: banners, boilerplate, quoted pages.

A text is split into units. A unit's hash is a polynomial over the hashes of its words, so case,
accents, punctuation and numbers make no difference (CCNet does so for every line of a page, Wenzek
et al. 2020, arXiv 1911.00359, section 3.1; C4 for spans of three sentences, Raffel et al. 2020,
arXiv 1910.10683, section 2.2). This module lists the units of a batch and cuts texts;
`jobs/dedup/repeated_lines.py` decides over all documents which units are removed.

Repeats of a unit within a document are removed too, as in CCNet. Two of n different units share a
hash with probability n²/2⁶⁵; one of them may then be removed wrongly. The cost is about that of
hashing the words, plus some arrays as long as the batch has words; a listed unit takes 21 bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain, groupby
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from corpus.arrays import Int64s, UInt64s
from corpus.dedup.word_hashes import mix, word_hashes
from schemas.config import settings

Unit = Literal["line", "paragraph"]

# Another base than that of n-grams, since a unit has any number of words. Odd, from 2^64 · π.
_BASE = np.uint64(0x243F6A8885A308D3)

UNIT = pa.struct(
    [
        ("hash", pa.int64()),
        ("place", pa.int32()),  # the unit's number in the text, from 0
        ("words", pa.int32()),
        ("chars", pa.int32()),
        ("again", pa.bool_()),  # repeats an earlier unit of the document
    ]
)
LISTED = pa.schema(
    [
        ("node", pa.int64()),
        ("num_units", pa.int64()),
        ("num_words", pa.int64()),
        ("units", pa.list_(UNIT)),  # those of `min_words` or more
    ]
)


@settings
class Passages:
    """Section [passages]: what counts as a passage, and which copies of it are removed.

    Off by default: FineWeb tried it across its dumps and trained worse models on the result (Penedo
    et al. 2024, arXiv 2406.17557, section E.3, also with 10 words). `keep`: the first document by
    the survivor policy keeps the passage, as in C4, or none does, as in CCNet. A document that
    loses passages and has fewer than `min_words_left` words left is dropped; 50 is Gopher's minimum
    for a page (arXiv 2112.11446, section A1.1).
    """

    unit: Literal["none", "line", "paragraph"] = "none"
    min_words: Annotated[int, Field(ge=1, le=10**9)] = 10
    min_documents: Annotated[int, Field(ge=2, le=10**9)] = 2
    keep: Literal["first", "none"] = "first"
    min_words_left: Annotated[int, Field(ge=1, le=10**9)] = 50


def units(text: str, unit: Unit) -> list[str]:
    """The text's units in order: nonblank lines, or ("paragraph") runs of them.

    Only a newline ends a line. A line of white space is blank.
    """
    lines = text.split("\n")
    if unit == "line":
        return [line for line in lines if not _is_blank(line)]
    blocks = groupby(lines, _is_blank)
    return ["\n".join(block) for is_blank, block in blocks if not is_blank]


def without(text: str, places: Collection[int], unit: Unit) -> str:
    """The text without the units at `places` (their numbers in `units`); `text` itself if empty.

    Where units are removed, the longer of the two runs of blank lines around them stays, and none
    at the text's start and end.
    """
    if not places:
        return text
    kept: list[str] = []
    gap: list[str] = []
    cut = False  # since the last kept line
    removed = frozenset(places)
    for place, block in _blocks(text, unit):
        if place in removed:
            cut = True
        elif place is None:
            gap = max(gap, block, key=len)
        else:
            kept += block if cut and not kept else gap + block
            gap, cut = [], False
    return "\n".join(kept if cut else kept + gap)


def cut(
    texts: Sequence[str], removed: Sequence[Collection[int] | None], settings: Passages
) -> list[str]:
    """Each of the texts `without` the units in `removed`; None removes nothing."""
    unit = settings.unit
    if unit == "none":
        return list(texts)
    return [without(t, places or (), unit) for t, places in zip(texts, removed, strict=True)]


def unit_hashes(found: Sequence[str]) -> tuple[UInt64s, Int64s]:
    """Hashes uint64 (n,) and numbers of words int64 (n,) of n units."""
    words, starts = word_hashes(found)
    lengths = np.diff(starts)
    # Each word times the base to the power of its place; a unit's sum is the difference of two
    # running sums, exact modulo 2^64.
    powers = np.full(max(1, lengths.max(initial=0)), _BASE)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    terms = words * powers[np.arange(len(words)) - np.repeat(starts[:-1], lengths)]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return mix(sums[starts[1:]] - sums[starts[:-1]]), lengths


def list_units(nodes: pa.Array, texts: Sequence[str], settings: Passages) -> pa.RecordBatch:
    """One row of `LISTED` per text, with its units of at least `min_words` words."""
    assert settings.unit != "none"
    found = [units(text, settings.unit) for text in texts]
    sizes = np.array([len(part) for part in found], np.int64)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    flat = list(chain.from_iterable(found))
    hashes, num_words = unit_hashes(flat)
    count = np.flatnonzero(num_words >= settings.min_words)
    owner = np.repeat(np.arange(len(texts)), sizes)
    columns = {
        "hash": hashes[count].view(np.int64),
        "place": (np.arange(len(flat)) - ends[owner])[count],
        "words": num_words[count],
        "chars": [len(flat[i]) for i in count],
        "again": _comes_again(owner[count], hashes[count]),
    }
    fields = [pa.array(columns[field.name], field.type) for field in UNIT]
    listed = pa.ListArray.from_arrays(
        pa.array(np.searchsorted(owner[count], np.arange(len(texts) + 1)), pa.int32()),
        pa.StructArray.from_arrays(fields, fields=list(UNIT)),
    )
    total = np.concatenate([[0], np.cumsum(num_words)])
    words = pa.array(total[ends[1:]] - total[ends[:-1]], pa.int64())
    return pa.RecordBatch.from_arrays([nodes, pa.array(sizes), words, listed], schema=LISTED)


def _is_blank(line: str) -> bool:
    return not line or line.isspace()


def _blocks(text: str, unit: Unit) -> Iterator[tuple[int | None, list[str]]]:
    """Yield runs of lines with the number of their unit, None for blank lines."""
    place = 0
    for is_blank, block in groupby(text.split("\n"), _is_blank):
        lines = list(block)
        if is_blank:
            yield None, lines
            continue
        for part in [lines] if unit == "paragraph" else ([line] for line in lines):
            yield place, part
            place += 1


def _comes_again(owner: Int64s, hashes: UInt64s) -> NDArray[np.bool_]:
    """Which units follow one with the same hash and owner."""
    order = np.lexsort((hashes, owner))  # stable: equal ones stay in the order of the text
    again = np.zeros(len(order), np.bool_)
    same = (np.diff(owner[order]) == 0) & (np.diff(hashes[order]) == 0)
    again[order[1:]] = same
    return again
