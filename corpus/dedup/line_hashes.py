"""Lines or paragraphs that several documents hold: banners, forms of words, quoted pages.

A text is cut into units; a unit's hash is a polynomial over the hashes of its words, so that case,
accents, punctuation and numbers tell no two apart (as in CCNet, Wenzek et al. 2020, arXiv
1911.00359, section 3.1, which hashes every line of a page; C4 does so with spans of three
sentences, Raffel et al. 2020, arXiv 1910.10683, section 2.2). Which units go is decided over all
documents (`jobs/dedup/repeated_lines.py`); here one batch is listed, and texts are cut.

A unit that one document has twice loses the second, as in CCNet. Two of n different units share a
hash with probability n²/2⁶⁵, and then one is lost that should not be.

Cost: about that of hashing the words, and some arrays as long as the batch has words; a unit that
counts is listed in 21 bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from corpus.dedup.word_hashes import Int64s, UInt64s, mix, word_hashes
from schemas.config import check_range

Unit = Literal["line", "paragraph"]

# One more base than that of n-grams: a unit is a run of any number of words. Odd, from 2^64 · π.
_BASE = np.uint64(0x243F6A8885A308D3)

UNIT = pa.struct(
    [
        ("hash", pa.int64()),
        ("place", pa.int32()),  # the unit's number among all of the text, from 0
        ("words", pa.int32()),
        ("chars", pa.int32()),
        ("again", pa.bool_()),  # the same document has it before
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


@dataclass(frozen=True)
class Passages:
    """Section [passages]: what counts as a passage, and which copies of one are cut out.

    Off by default: FineWeb tried it over its dumps, and models learned less from what was left
    (Penedo et al. 2024, arXiv 2406.17557, section E.3; its 10 words are `min_words`). `keep` says
    whether the first document by the survivor policy keeps its passage, as in C4, or none does,
    as in CCNet. A document that loses some and has fewer than `min_words_left` words then goes
    whole; 50 is what Gopher asks of a page (arXiv 2112.11446, section A1.1).
    """

    unit: Literal["none", "line", "paragraph"] = "none"
    min_words: int = 10
    min_documents: int = 2
    keep: Literal["first", "none"] = "first"
    min_words_left: int = 50

    def __post_init__(self) -> None:
        for name, least in (("min_words", 1), ("min_documents", 2), ("min_words_left", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} = {value}: must be at least {least}")
            check_range(self, least, 10**9, name)


def units(text: str, unit: Unit) -> list[str]:
    """The text's units in order: lines with something on them, or runs of such lines.

    A line ends with a newline alone; a line of white space separates paragraphs and is no unit.
    """
    lines = text.split("\n")
    if unit == "line":
        return [line for line in lines if not _is_blank(line)]
    blocks = groupby(lines, _is_blank)
    return ["\n".join(block) for is_blank, block in blocks if not is_blank]


def without(text: str, places: Collection[int], unit: Unit) -> str:
    """The text without the units at `places` (their numbers in `units`); itself if none is.

    What stays is joined as it stood. Where units went, the blank lines before and after them
    become those of the longer of the two, and none at the text's start and end.
    """
    if not places:
        return text
    kept: list[str] = []
    gap: list[str] = []
    cut = False  # between the last kept line and the next
    going = frozenset(places)
    for place, block in _blocks(text, unit):
        if place in going:
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
    """`without` of n texts; the places of one that loses nothing may be None."""
    if settings.unit == "none":
        return list(texts)
    unit: Unit = settings.unit
    return [without(t, places or (), unit) for t, places in zip(texts, removed, strict=True)]


def unit_hashes(found: Sequence[str]) -> tuple[UInt64s, Int64s]:
    """Hashes uint64 (n,) and numbers of words int64 (n,) of n units."""
    words, starts = word_hashes(found)
    lengths = np.diff(starts)
    # Each word times the base to the power of its place; a unit's sum is the difference of two
    # running ones, exact modulo 2^64.
    powers = np.full(max(1, lengths.max(initial=0)), _BASE)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    terms = words * powers[np.arange(len(words)) - np.repeat(starts[:-1], lengths)]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return mix(sums[starts[1:]] - sums[starts[:-1]]), lengths


def list_units(nodes: pa.Array, texts: Sequence[str], settings: Passages) -> pa.RecordBatch:
    """The units of n texts that have words enough to count, as rows of `LISTED`."""
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
    """Runs of lines with the number of their unit; of blank ones, with None."""
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
    """Which of the units stand behind one of the same hash and owner."""
    order = np.lexsort((hashes, owner))  # stable: of equals, the first in the text comes first
    again = np.zeros(len(order), np.bool_)
    same = (np.diff(owner[order]) == 0) & (np.diff(hashes[order]) == 0)
    again[order[1:]] = same
    return again
