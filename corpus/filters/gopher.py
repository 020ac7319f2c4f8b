"""Gopher's rules: documents that repeat themselves, and documents that aren't prose.

Rae et al., "Scaling Language Models" (arXiv 2112.11446), section A.1.1 and table A1, as datatrove
0.10 runs them in FineWeb's pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from corpus.arrays import Int64s
from corpus.filters.rules import (
    Count,
    Document,
    Filter,
    Ratio,
    Rule,
    Signals,
    Splitter,
    Words,
    fraction,
    repeats,
)
from corpus.filters.words import is_symbol
from schemas.config import settings

_TOP_N = (2, 3, 4)
_DUPLICATE_N = (5, 6, 7, 8, 9, 10)
_REPETITION = (
    "frac_duplicate_paragraphs",
    "frac_duplicate_paragraph_chars",
    "frac_duplicate_lines",
    "frac_duplicate_line_chars",
    *(f"top_{n}_gram" for n in _TOP_N),
    *(f"frac_duplicate_{n}_grams" for n in _DUPLICATE_N),
)


@settings
class GopherRepetition(Filter):
    """Table A1. Shares are of the text's characters where a name says chars or gram.

    As in datatrove, the top n-gram may overlap itself, so that its share can exceed 1, and it needs
    no second occurrence: a text of ten words breaks `top_2_gram` before any rule about length.
    Lines are separated by runs of newlines, or ("all") are those of `str.splitlines`, blank ones
    included.
    """

    max_frac_duplicate_paragraphs: Ratio = 0.30
    max_frac_duplicate_paragraph_chars: Ratio = 0.20
    max_frac_duplicate_lines: Ratio = 0.30
    max_frac_duplicate_line_chars: Ratio = 0.20
    max_top_2_gram: Ratio = 0.20
    max_top_3_gram: Ratio = 0.18
    max_top_4_gram: Ratio = 0.16
    max_frac_duplicate_5_grams: Ratio = 0.15
    max_frac_duplicate_6_grams: Ratio = 0.14
    max_frac_duplicate_7_grams: Ratio = 0.13
    max_frac_duplicate_8_grams: Ratio = 0.12
    max_frac_duplicate_9_grams: Ratio = 0.11
    max_frac_duplicate_10_grams: Ratio = 0.10
    line_ends: Literal["newlines", "all"] = "newlines"
    words: Splitter = "spacy"

    RULES: ClassVar[tuple[Rule, ...]] = tuple(
        Rule(signal.removeprefix("frac_"), signal, "<=", f"max_{signal}") for signal in _REPETITION
    )
    SIGNALS: ClassVar[pa.StructType] = pa.struct([(name, pa.float64()) for name in _REPETITION])

    def measure(self, doc: Document) -> Signals:
        """All 13 shares."""
        chars, words = len(doc.text), doc.words(self.words)
        parts = doc.runs if self.line_ends == "newlines" else doc.lines
        paragraphs, paragraph_chars = repeats(doc.paragraphs)
        lines, line_chars = repeats(parts)
        signals = {
            "frac_duplicate_paragraphs": fraction(paragraphs, len(doc.paragraphs)),
            "frac_duplicate_paragraph_chars": fraction(paragraph_chars, chars),
            "frac_duplicate_lines": fraction(lines, len(parts)),
            "frac_duplicate_line_chars": fraction(line_chars, chars),
        }
        for grams in repeated_n_grams(words):
            if grams.n in _TOP_N:
                signals[f"top_{grams.n}_gram"] = fraction(grams.top_chars(), chars)
            else:
                repeated = grams.duplicate_chars()
                signals[f"frac_duplicate_{grams.n}_grams"] = fraction(repeated, chars)
        return signals


@settings
class GopherQuality(Filter):
    """Section A.1.1. `num_words` and the mean length ignore words that are only punctuation."""

    min_words: Count = 50
    max_words: Count = 100_000
    min_mean_word_length: Ratio = 3.0
    max_mean_word_length: Ratio = 10.0
    max_hashes_per_word: Ratio = 0.1
    max_ellipses_per_word: Ratio = 0.1
    max_frac_bullet_lines: Ratio = 0.9
    max_frac_ellipsis_lines: Ratio = 0.3
    min_frac_alphabetic_words: Ratio = 0.8
    min_stop_words: Count = 2
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    count_stop_word_occurrences: bool = False
    bullets: tuple[str, ...] = ("•", "-")
    words: Splitter = "spacy"

    SIGNALS: ClassVar[pa.StructType] = pa.struct(
        [
            ("num_words", pa.int64()),
            ("mean_word_length", pa.float64()),
            ("hashes_per_word", pa.float64()),
            ("ellipses_per_word", pa.float64()),
            ("frac_bullet_lines", pa.float64()),
            ("frac_ellipsis_lines", pa.float64()),
            ("frac_alphabetic_words", pa.float64()),
            ("num_stop_words", pa.int64()),
        ]
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("too_few_words", "num_words", ">=", "min_words"),
        Rule("too_many_words", "num_words", "<=", "max_words"),
        Rule("short_mean_word", "mean_word_length", ">=", "min_mean_word_length"),
        Rule("long_mean_word", "mean_word_length", "<=", "max_mean_word_length"),
        Rule("too_many_hashes", "hashes_per_word", "<=", "max_hashes_per_word"),
        Rule("too_many_ellipses", "ellipses_per_word", "<=", "max_ellipses_per_word"),
        Rule("too_many_bullet_lines", "frac_bullet_lines", "<=", "max_frac_bullet_lines"),
        Rule("too_many_ellipsis_lines", "frac_ellipsis_lines", "<=", "max_frac_ellipsis_lines"),
        Rule(
            "too_few_alphabetic_words", "frac_alphabetic_words", ">=", "min_frac_alphabetic_words"
        ),
        Rule("too_few_stop_words", "num_stop_words", ">=", "min_stop_words"),
    )

    def measure(self, doc: Document) -> Signals:
        """All signals; ratios to words count punctuation marks as words, as datatrove does."""
        words, lines, text = doc.words(self.words), len(doc.lines), doc.text
        total, counts = len(words.flat), words.counts
        num_words, chars, alphabetic = _word_totals(counts)
        bullets = sum(line.lstrip().startswith(self.bullets) for line in doc.lines)
        ellipses = sum(line.rstrip().endswith(("...", "…")) for line in doc.lines)
        stop_words = [counts[word] for word in set(self.stop_words) if word in counts]
        num_stop_words = sum(stop_words) if self.count_stop_word_occurrences else len(stop_words)
        return {
            "num_words": num_words,
            "mean_word_length": fraction(chars, num_words),
            "hashes_per_word": fraction(text.count("#"), total),
            "ellipses_per_word": fraction(text.count("...") + text.count("…"), total),
            "frac_bullet_lines": fraction(bullets, lines),
            "frac_ellipsis_lines": fraction(ellipses, lines),
            "frac_alphabetic_words": fraction(alphabetic, total),
            "num_stop_words": num_stop_words,
        }


def _word_totals(counts: Mapping[str, int]) -> tuple[int, int, int]:
    """(words that aren't only punctuation, their characters, words with an alphabetic one)."""
    num_words = chars = alphabetic = 0
    for word, count in counts.items():
        if word.isalpha() or any(map(str.isalpha, word)):
            alphabetic += count
        elif is_symbol(word):
            continue
        num_words += count
        chars += count * len(word)
    return num_words, chars, alphabetic


@dataclass(frozen=True)
class NGrams:
    """All occurrences of the n-grams of one length that occur more than once, in order."""

    n: int
    starts: Int64s  # of every word: the characters before it, with a space after each word
    places: Int64s  # the occurrence's first word
    ids: Int64s  # equal for equal n-grams
    counts: Int64s  # occurrences of this n-gram

    def chars(self, place: int) -> int:
        """Characters of the n-gram at `place`, its spaces included."""
        return int(self.starts[place + self.n] - self.starts[place]) - 1

    def top_chars(self) -> int:
        """Occurrences of the most frequent n-gram, of equals the first, times its length."""
        if len(self.places):
            top = int(np.argmax(self.counts))
            return self.chars(self.places[top]) * int(self.counts[top])
        return self.chars(0) if len(self.starts) > self.n else 0

    def duplicate_chars(self) -> int:
        """Characters of n-grams seen before, without spaces.

        Reads from the left and skips each repeat whole, so that no character counts twice.
        """
        seen: set[int] = set()
        chars = free = 0
        lengths = self.starts[self.places + self.n] - self.starts[self.places] - self.n
        found = (self.places, self.ids, lengths)
        for place, gram, length in zip(*(part.tolist() for part in found), strict=True):
            if place < free:
                continue
            if gram in seen:
                chars, free = chars + length, place + self.n
            else:
                seen.add(gram)
        return chars


def repeated_n_grams(words: Words) -> Iterator[NGrams]:
    """Yield the repeated n-grams for n = 2 to 10.

    A repeated n-gram starts with a repeated (n-1)-gram, so each n only examines the places found
    for n - 1; most documents have none beyond n = 4. An n-gram is identified by the id of its first
    n - 1 words and that of its last.
    """
    number = {word: i for i, word in enumerate(words.counts)}
    last = np.fromiter(map(number.__getitem__, words.flat), np.int64, len(words.flat))
    lengths = np.fromiter(map(len, words.flat), np.int64, len(words.flat))
    starts = np.concatenate(([0], np.cumsum(lengths + 1)))
    counts = np.fromiter(words.counts.values(), np.int64, len(number))[last]
    places, ids = np.flatnonzero(counts > 1), last[counts > 1]
    for n in range(_TOP_N[0], _DUPLICATE_N[-1] + 1):
        if len(places):
            places, ids, counts = _grow(places, ids, last, n)
        yield NGrams(n, starts, places, ids, counts)


def _grow(places: Int64s, ids: Int64s, last: Int64s, n: int) -> tuple[Int64s, Int64s, Int64s]:
    """Places and ids of repeated (n-1)-grams -> those of the repeated n-grams, and their counts."""
    inside = places + n <= len(last)
    places = places[inside]
    pairs = ids[inside] * len(last) + last[places + n - 1]
    _, ids, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    counts = counts[ids]
    repeated = counts > 1
    return places[repeated], ids[repeated], counts[repeated]
