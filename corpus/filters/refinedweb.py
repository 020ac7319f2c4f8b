"""RefinedWeb's corrections by line: drop what is no sentence, and pages that lose too much by it.

Penedo et al. 2023, "The RefinedWeb Dataset" (arXiv 2306.01116, section G.2), in the numbers and the
order of DCLM's reproduction (Li et al. 2024, arXiv 2406.11794; dclm_baseline_refinedweb.yaml).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import pyarrow as pa

from corpus.filters.rules import Document, Rule, Signals, check_thresholds, first_fault, too_high
from schemas.config import check_range

_COUNTER = re.compile(
    r"\W*\d[\d.,]*[kmb]?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes"
    r"|downvotes|downloads|views|followers)\W*"
)
# DCLM's words: what fastText's white space separates, if it starts with a letter or a digit.
_WORD_START = re.compile(r"(?<![^ \n\r\t\v\f\0])[^\W_]")

_CAPITALS = string.ascii_uppercase.encode()
# What becomes of a line: num_..._lines sum to num_lines.
_FATES = ("kept", "uppercase", "numeric", "counter", "short", "phrase")


@dataclass(frozen=True)
class RefinedWebLines:
    """Lines are what newlines separate; blank ones stay. Phrases match in any case.

    A full stop in a phrase stands for any character, as DCLM's pattern has it: "Read more..." also
    finds "Read more >>". Phrases are cut out; a line of which nothing is left is dropped.
    """

    max_newlines: int = 2  # in a row
    max_frac_uppercase: float = 0.5  # of a line's characters
    drop_numeric_lines: bool = True
    drop_counter_lines: bool = True  # "3 likes"
    min_words_per_line: int = 2
    phrases: tuple[str, ...] = ("items in cart",)
    phrases_at_end: tuple[str, ...] = ("Read more...",)
    phrases_at_start: tuple[str, ...] = ("Sign-in",)
    max_words_around_phrase: int = 10  # in a line: a longer one is left alone
    max_frac_removed_words: float = 0.05

    MEASURING: ClassVar[tuple[str, ...]] = (
        "max_newlines",
        "max_frac_uppercase",
        "drop_numeric_lines",
        "drop_counter_lines",
        "min_words_per_line",
        "phrases",
        "phrases_at_end",
        "phrases_at_start",
        "max_words_around_phrase",
    )
    SIGNALS: ClassVar[pa.StructType] = pa.struct(
        [
            ("num_lines", pa.int64()),
            *((f"num_{fate}_lines", pa.int64()) for fate in _FATES),
            ("frac_removed_words", pa.float64()),
        ]
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        too_high("too_many_words_removed", "frac_removed_words", "max_frac_removed_words"),
    )

    def __post_init__(self) -> None:
        check_thresholds(self, self.RULES)
        for name in ("max_newlines", "min_words_per_line", "max_words_around_phrase"):
            least = int(name == "max_newlines")
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: must be {least} or more")
            check_range(self, least, 10**6, name)  # a counted repeat of a pattern
        if not 0 <= self.max_frac_uppercase <= 1:
            raise ValueError(f"max_frac_uppercase = {self.max_frac_uppercase}: must be 0 to 1")

    def measure(self, doc: Document) -> Signals:
        """Lines by what became of them, and the share of words that go; 1 of a text without any."""
        lines = _corrected(self, doc)
        fates = Counter(fate for fate, _, _ in lines)
        words = _count_words(doc.text)
        changed = ((old, new) for _, old, new in lines if old != new)
        removed = sum(_count_words(old) - _count_words(new) for old, new in changed)
        return {
            "num_lines": len(lines),
            **{f"num_{fate}_lines": fates[fate] for fate in _FATES},
            "frac_removed_words": removed / words if words else 1.0,
        }

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The first rule broken, or None."""
        return first_fault(self.RULES, signals, self)

    def rewrite(self, doc: Document) -> Document:
        """The document with only the lines kept, without the phrases."""
        kept = (line for fate, _, line in _corrected(self, doc) if fate == "kept")
        text = "\n".join(kept).strip()
        return doc if text == doc.text else doc.rewritten(text)

    def fate(self, line: str) -> str:
        """What the rules before those of phrases make of a line, as in `num_..._lines`."""
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


@lru_cache(maxsize=1)  # measure and rewrite ask one after the other
def _corrected(settings: RefinedWebLines, doc: Document) -> list[tuple[str, str, str]]:
    """Each line's fate, the line, and what is left of it."""
    most = settings.max_newlines
    text = re.sub(rf"\n{{{most + 1},}}", "\n" * most, doc.text)
    return [_correct(settings, line) for line in text.split("\n")]


def _correct(settings: RefinedWebLines, line: str) -> tuple[str, str, str]:
    fate = settings.fate(line)
    if not line or fate != "kept":
        return fate, line, ""
    cut = settings.cut_phrases(line)
    return ("kept" if cut.strip() else "phrase"), line, cut


@lru_cache(maxsize=4)
def _patterns(settings: RefinedWebLines) -> list[re.Pattern[str]]:
    """What finds the phrases anywhere, at a line's end and at its start, with the space beside."""
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
    if line.isascii():  # much the faster way
        return len(line) - len(line.encode().translate(None, _CAPITALS))
    return sum(map(str.isupper, line))


def _count_words(text: str) -> int:
    return len(_WORD_START.findall(text))
