"""FineWeb's own rules against lists and menus, measured on the text that C4's line rules leave.

Penedo et al., "The FineWeb Datasets" (arXiv 2406.17557, section 3.5), with the thresholds and
comparisons of datatrove 0.10; settings give those of 0.2.0, which made the released data set.
"""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from corpus.filters.rules import (
    Count,
    Document,
    Filter,
    Ratio,
    Rule,
    Signals,
    Splitter,
    fraction,
    repeats,
)
from corpus.filters.words import TERMINAL_PUNCTUATION
from schemas.config import settings

_STRICT = "reject_at_threshold"


@settings
class FineWebQuality(Filter):
    """Blank lines don't count; a line is short with at most `short_line_length` characters."""

    min_frac_punctuated_lines: Ratio = 0.12
    max_frac_short_lines: Ratio = 0.67
    short_line_length: Count = 30
    max_frac_duplicate_line_chars: Ratio = 0.01
    max_newlines_per_word: Ratio = 0.3
    reject_at_threshold: bool = False  # also reject shares equal to the threshold; not newlines
    terminal_punctuation: str = ""  # the marks; empty: sentence ends of all scripts, by Unicode
    words: Splitter = "spacy"

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "too_few_punctuated_lines",
            "frac_punctuated_lines",
            ">=",
            "min_frac_punctuated_lines",
            _STRICT,
        ),
        Rule("too_many_short_lines", "frac_short_lines", "<=", "max_frac_short_lines", _STRICT),
        Rule(
            "duplicate_line_chars",
            "frac_duplicate_line_chars",
            "<=",
            "max_frac_duplicate_line_chars",
            _STRICT,
        ),
        Rule("list_like", "newlines_per_word", "<=", "max_newlines_per_word"),
    )
    SIGNALS: ClassVar[pa.StructType] = pa.struct([(rule.signal, pa.float64()) for rule in RULES])

    def measure(self, doc: Document) -> Signals:
        """All four shares; 0 for a text without lines."""
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
