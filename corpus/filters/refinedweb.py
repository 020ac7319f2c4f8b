"""RefinedWeb's line corrections: drop lines that aren't sentences, and pages that lose too much.

Penedo et al. 2023, "The RefinedWeb Dataset" (arXiv 2306.01116, section G.2), with the numbers and
the order of DCLM's reproduction (Li et al. 2024, arXiv 2406.11794; dclm_baseline_refinedweb.yaml).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from functools import lru_cache
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field

from corpus.filters.rules import Document, Filter, Ratio, Rule, Signals
from schemas.config import settings

_COUNTER = re.compile(
    r"\W*\d[\d.,]*[kmb]?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes"
    r"|downvotes|downloads|views|followers)\W*"
)
# DCLM's words: separated by fastText's white space, starting with a letter or a digit.
_WORD_START = re.compile(r"(?<![^ \n\r\t\v\f\0])[^\W_]")

_CAPITALS = string.ascii_uppercase.encode()
# The outcomes of a line: num_..._lines sum to num_lines.
_OUTCOMES = ("kept", "uppercase", "numeric", "counter", "short", "phrase")


@settings
class RefinedWebLines(Filter):
    """Lines are separated by newlines; blank ones stay. Phrases match in any case.

    As in DCLM's pattern, a full stop in a phrase matches any character: "Read more..." also matches
    "Read more >>". Phrases are cut out; a line that is then blank is dropped.
    """

    max_newlines: Annotated[int, Field(ge=1, le=10**6)] = 2  # in a row
    max_frac_uppercase: Annotated[float, Field(ge=0, le=1)] = 0.5  # of a line's characters
    drop_numeric_lines: bool = True
    drop_counter_lines: bool = True  # "3 likes"
    min_words_per_line: Annotated[int, Field(ge=0, le=10**6)] = 2
    phrases: tuple[str, ...] = ("items in cart",)
    phrases_at_end: tuple[str, ...] = ("Read more...",)
    phrases_at_start: tuple[str, ...] = ("Sign-in",)
    max_words_around_phrase: Annotated[int, Field(ge=0, le=10**6)] = (
        10  # in a line: phrases in longer ones stay
    )
    max_frac_removed_words: Ratio = 0.05

    SIGNALS: ClassVar[pa.StructType] = pa.struct(
        [
            ("num_lines", pa.int64()),
            *((f"num_{outcome}_lines", pa.int64()) for outcome in _OUTCOMES),
            ("frac_removed_words", pa.float64()),
        ]
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("too_many_words_removed", "frac_removed_words", "<=", "max_frac_removed_words"),
    )

    def measure(self, doc: Document) -> Signals:
        """Lines by outcome, and the share of words that is removed; 1 for a text without words."""
        lines = _corrected(self, doc)
        outcomes = Counter(outcome for outcome, _, _ in lines)
        words = _count_words(doc.text)
        changed = ((old, new) for _, old, new in lines if old != new)
        removed = sum(_count_words(old) - _count_words(new) for old, new in changed)
        return {
            "num_lines": len(lines),
            **{f"num_{outcome}_lines": outcomes[outcome] for outcome in _OUTCOMES},
            "frac_removed_words": removed / words if words else 1.0,
        }

    def rewrite(self, doc: Document) -> Document:
        """The document with only the kept lines, without the phrases."""
        kept = (line for outcome, _, line in _corrected(self, doc) if outcome == "kept")
        text = "\n".join(kept).strip()
        return doc if text == doc.text else doc.rewritten(text)

    def outcome(self, line: str) -> str:
        """The first rule that drops the line before phrases are cut; else "kept"."""
        if not line:
            return "kept"
        if _count_capitals(line) / len(line) > self.max_frac_uppercase:
            return "uppercase"
        if self.drop_numeric_lines and line.isdigit():
            return "numeric"
        if self.drop_counter_lines and _COUNTER.fullmatch(line.lower()):
            return "counter"
        return "kept" if len(line.split()) >= self.min_words_per_line else "short"

    def cut_phrases(self, line: str) -> str:
        """The line without the phrases."""
        if len(line.split()) > self.max_words_around_phrase:
            return line
        for pattern in _patterns(self):
            line = pattern.sub("", line)
        return line


@lru_cache(maxsize=1)  # rewrite follows measure
def _corrected(settings: RefinedWebLines, doc: Document) -> list[tuple[str, str, str]]:
    """Each line's outcome, the line, and what is left of it."""
    most = settings.max_newlines
    text = re.sub(rf"\n{{{most + 1},}}", "\n" * most, doc.text)
    return [_correct(settings, line) for line in text.split("\n")]


def _correct(settings: RefinedWebLines, line: str) -> tuple[str, str, str]:
    outcome = settings.outcome(line)
    if not line or outcome != "kept":
        return outcome, line, ""
    cut = settings.cut_phrases(line)
    return ("kept" if cut.strip() else "phrase"), line, cut


@lru_cache(maxsize=4)
def _patterns(settings: RefinedWebLines) -> list[re.Pattern[str]]:
    """Find the phrases anywhere, at a line's end and at its start, with one space beside them."""
    sides = (
        (settings.phrases, r"\s?(?:{})"),
        (settings.phrases_at_end, r"\s?(?:{})$"),
        (settings.phrases_at_start, r"^(?:{})\s?"),
    )
    return [
        re.compile(side.format("|".join(map(_as_pattern, phrases))), re.IGNORECASE)
        for phrases, side in sides
        if phrases
    ]


def _as_pattern(phrase: str) -> str:
    return ".".join(map(re.escape, phrase.split(".")))


def _count_capitals(line: str) -> int:
    if line.isascii():  # the fast path
        return len(line) - len(line.encode().translate(None, _CAPITALS))
    return sum(map(str.isupper, line))


def _count_words(text: str) -> int:
    return len(_WORD_START.findall(text))
