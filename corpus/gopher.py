"""Gopher's rules: documents that repeat themselves, and documents that aren't prose.

Rae et al., "Scaling Language Models" (arXiv 2112.11446), section A.1.1 and table A1, as datatrove
0.10 runs them in FineWeb's pipeline; "words" are `corpus.words`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from typing import Any, ClassVar

import pyarrow as pa

from corpus.document import (
    Document,
    Rule,
    Signals,
    check_thresholds,
    first_fault,
    fraction,
    repeats,
    too_high,
    too_low,
)
from corpus.words import is_symbol

_TOP_N = (2, 3, 4)
_DUPLICATE_N = (5, 6, 7, 8, 9, 10)


@dataclass(frozen=True)
class GopherRepetition:
    """Table A1. Shares are of the text's characters where a name says chars or n-gram.

    As in datatrove, the top n-gram may overlap itself, so that its share can pass 1, and it needs
    no second occurrence: a text of ten words breaks `top_2_gram` before any rule about length.
    """

    max_frac_duplicate_paragraphs: float = 0.30
    max_frac_duplicate_paragraph_chars: float = 0.20
    max_frac_duplicate_lines: float = 0.30
    max_frac_duplicate_line_chars: float = 0.20
    max_top_2_gram: float = 0.20
    max_top_3_gram: float = 0.18
    max_top_4_gram: float = 0.16
    max_frac_duplicate_5_grams: float = 0.15
    max_frac_duplicate_6_grams: float = 0.14
    max_frac_duplicate_7_grams: float = 0.13
    max_frac_duplicate_8_grams: float = 0.12
    max_frac_duplicate_9_grams: float = 0.11
    max_frac_duplicate_10_grams: float = 0.10

    RULES: ClassVar[tuple[Rule, ...]] = (
        *(
            too_high(fault, f"frac_{fault}", f"max_frac_{fault}")
            for fault in (
                "duplicate_paragraphs",
                "duplicate_paragraph_chars",
                "duplicate_lines",
                "duplicate_line_chars",
            )
        ),
        *(too_high(f"top_{n}_gram", f"top_{n}_gram", f"max_top_{n}_gram") for n in _TOP_N),
        *(
            too_high(f"{name}_grams", f"frac_{name}_grams", f"max_frac_{name}_grams")
            for name in (f"duplicate_{n}" for n in _DUPLICATE_N)
        ),
    )
    SIGNALS: ClassVar[pa.StructType] = pa.struct([(rule.signal, pa.float64()) for rule in RULES])

    def __post_init__(self) -> None:
        check_thresholds(self, self.RULES)

    def measure(self, doc: Document) -> Signals:
        """All 13 shares."""
        chars = len(doc.text)
        paragraphs, paragraph_chars = repeats(doc.paragraphs)
        lines, line_chars = repeats(doc.runs)
        signals = {
            "frac_duplicate_paragraphs": fraction(paragraphs, len(doc.paragraphs)),
            "frac_duplicate_paragraph_chars": fraction(paragraph_chars, chars),
            "frac_duplicate_lines": fraction(lines, len(doc.runs)),
            "frac_duplicate_line_chars": fraction(line_chars, chars),
        }
        for n, grams in repeated_n_grams(doc):
            if n in _TOP_N:
                signals[f"top_{n}_gram"] = fraction(top_n_gram_chars(doc.words, n, grams), chars)
            else:
                repeated = duplicate_n_gram_chars(n, grams)
                signals[f"frac_duplicate_{n}_grams"] = fraction(repeated, chars)
        return signals

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The first rule broken, or None."""
        return first_fault(self.RULES, signals, self)


@dataclass(frozen=True)
class NGrams:
    """The n-grams of one length that occur more than once: their places and texts, in order."""

    places: list[int]
    texts: list[str]  # words joined by a space
    counts: Counter[str]


def repeated_n_grams(doc: Document) -> Iterator[tuple[int, NGrams]]:
    """Yield (n, the repeated n-grams) for n = 2 to 10.

    A repeated n-gram starts with a repeated (n-1)-gram, so each n looks only where the last one
    found a repeat; beyond n = 4 that is nowhere in most documents.
    """
    words, text = doc.words, " ".join(doc.words)
    starts = list(accumulate((len(word) + 1 for word in words), initial=0))
    places = [i for i, word in enumerate(words) if doc.word_counts[word] > 1]
    for n in range(_TOP_N[0], _DUPLICATE_N[-1] + 1):
        places = [i for i in places if i + n < len(starts)]
        texts = [text[starts[i] : starts[i + n] - 1] for i in places]
        counts = Counter(texts)
        repeated = [counts[gram] > 1 for gram in texts]
        places = list(compress(places, repeated))
        yield n, NGrams(places, list(compress(texts, repeated)), counts)


def top_n_gram_chars(words: Sequence[str], n: int, grams: NGrams) -> int:
    """Occurrences of the most frequent n-gram times its length; of equals, the first counts."""
    if grams.texts:
        top = max(grams.counts, key=grams.counts.__getitem__)
        return len(top) * grams.counts[top]
    return len(" ".join(words[:n])) if len(words) >= n else 0


def duplicate_n_gram_chars(n: int, grams: NGrams) -> int:
    """Characters of the n-grams seen before, spaces aside.

    Read from the left; a repeat is stepped over as a whole, so that no character counts twice.
    """
    seen: set[str] = set()
    chars = free = 0
    for place, text in zip(grams.places, grams.texts, strict=True):
        if place < free:
            continue
        if text in seen:
            chars, free = chars + len(text) - (n - 1), place + n
        seen.add(text)
    return chars


@dataclass(frozen=True)
class GopherQuality:
    """Section A.1.1. `num_words` and the mean length leave out words that are only punctuation."""

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_length: float = 3.0
    max_mean_word_length: float = 10.0
    max_hashes_per_word: float = 0.1
    max_ellipses_per_word: float = 0.1
    max_frac_bullet_lines: float = 0.9
    max_frac_ellipsis_lines: float = 0.3
    min_frac_alphabetic_words: float = 0.8
    min_stop_words: int = 2
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")

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
        too_low("too_few_words", "num_words", "min_words"),
        too_high("too_many_words", "num_words", "max_words"),
        too_low("short_mean_word", "mean_word_length", "min_mean_word_length"),
        too_high("long_mean_word", "mean_word_length", "max_mean_word_length"),
        too_high("too_many_hashes", "hashes_per_word", "max_hashes_per_word"),
        too_high("too_many_ellipses", "ellipses_per_word", "max_ellipses_per_word"),
        too_high("too_many_bullet_lines", "frac_bullet_lines", "max_frac_bullet_lines"),
        too_high("too_many_ellipsis_lines", "frac_ellipsis_lines", "max_frac_ellipsis_lines"),
        too_low("too_few_alphabetic_words", "frac_alphabetic_words", "min_frac_alphabetic_words"),
        too_low("too_few_stop_words", "num_stop_words", "min_stop_words"),
    )

    def __post_init__(self) -> None:
        check_thresholds(self, self.RULES)

    def measure(self, doc: Document) -> Signals:
        """All signals; ratios to words count punctuation marks as words, as datatrove does."""
        words, lines, text = len(doc.words), len(doc.lines), doc.text
        num_words, chars, alphabetic = _word_totals(doc.word_counts)
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in doc.lines)
        ellipses = sum(line.rstrip().endswith(("...", "…")) for line in doc.lines)
        return {
            "num_words": num_words,
            "mean_word_length": fraction(chars, num_words),
            "hashes_per_word": fraction(text.count("#"), words),
            "ellipses_per_word": fraction(text.count("...") + text.count("…"), words),
            "frac_bullet_lines": fraction(bullets, lines),
            "frac_ellipsis_lines": fraction(ellipses, lines),
            "frac_alphabetic_words": fraction(alphabetic, words),
            "num_stop_words": sum(word in doc.word_counts for word in set(self.stop_words)),
        }

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The first rule broken, or None."""
        return first_fault(self.RULES, signals, self)


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
