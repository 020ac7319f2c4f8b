"""FineWeb's own rules, found by comparing good and bad crawls: lists and menus aren't prose.

Penedo et al., "The FineWeb Datasets" (arXiv 2406.17557, section 3.5), with the thresholds and the
comparisons of datatrove 0.10, and by setting those of 0.2.0, which made the released data set;
measured on the text that C4's rules leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from corpus.filters.rules import (
    MAX_THRESHOLD,
    Document,
    Rule,
    Signals,
    Splitter,
    check_thresholds,
    first_fault,
    fraction,
    repeats,
    too_high,
    too_low,
)
from corpus.filters.words import TERMINAL_PUNCTUATION
from schemas.config import check_range


@dataclass(frozen=True)
class FineWebQuality:
    """Blank lines don't count; a line is short with at most `short_line_length` characters."""

    min_frac_punctuated_lines: float = 0.12
    max_frac_short_lines: float = 0.67
    short_line_length: int = 30
    max_frac_duplicate_line_chars: float = 0.01
    max_newlines_per_word: float = 0.3
    reject_at_threshold: bool = False  # a share equal to its threshold too, but for newlines
    terminal_punctuation: str = ""  # the marks; empty: Unicode's ends of sentences in all scripts
    words: Splitter = "spacy"

    MEASURING: ClassVar[tuple[str, ...]] = ("short_line_length", "terminal_punctuation", "words")
    SIGNALS: ClassVar[pa.StructType] = pa.struct(
        [
            (name, pa.float64())
            for name in (
                "frac_punctuated_lines",
                "frac_short_lines",
                "frac_duplicate_line_chars",
                "newlines_per_word",
            )
        ]
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        too_low(
            "too_few_punctuated_lines",
            "frac_punctuated_lines",
            "min_frac_punctuated_lines",
            at_threshold="reject_at_threshold",
        ),
        too_high(
            "too_many_short_lines",
            "frac_short_lines",
            "max_frac_short_lines",
            at_threshold="reject_at_threshold",
        ),
        too_high(
            "duplicate_line_chars",
            "frac_duplicate_line_chars",
            "max_frac_duplicate_line_chars",
            at_threshold="reject_at_threshold",
        ),
        too_high("list_like", "newlines_per_word", "max_newlines_per_word"),
    )

    def __post_init__(self) -> None:
        check_thresholds(self, self.RULES)
        if self.short_line_length < 0:
            raise ValueError(f"short_line_length = {self.short_line_length}: must be 0 or more")
        check_range(self, 0, MAX_THRESHOLD, "short_line_length")

    def measure(self, doc: Document) -> Signals:
        """All four shares; 0 of a text without lines."""
        lines = doc.nonblank_lines
        newlines = doc.text.count("\n")
        marks = self.terminal_punctuation or TERMINAL_PUNCTUATION
        punctuated = sum(line[-1] in marks for line in lines)
        short = sum(len(line) <= self.short_line_length for line in lines)
        return {
            "frac_punctuated_lines": fraction(punctuated, len(lines)),
            "frac_short_lines": fraction(short, len(lines)),
            "frac_duplicate_line_chars": fraction(repeats(lines)[1], len(doc.text) - newlines),
            "newlines_per_word": fraction(newlines, len(doc.words(self.words).flat)),
        }

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The first rule broken, or None."""
        return first_fault(self.RULES, signals, self)
