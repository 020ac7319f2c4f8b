"""A document as the filters see it, split once; and a rule: a signal, a threshold, a fault."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from corpus.words import split_words

Signals = dict[str, Any]  # name -> int, float or str, as the filter's SIGNALS declares them

_BLANK_LINES = re.compile(r"\n{2,}")


@dataclass(frozen=True)
class Document:
    """A text and its language; each view of it is computed when first asked for, then kept."""

    text: str
    language: str | None = None
    language_score: float | None = None

    @cached_property
    def lines(self) -> list[str]:
        """`text.splitlines()`: blank lines count."""
        return self.text.splitlines()

    @cached_property
    def line_words(self) -> list[list[str]]:
        """The words of each of `lines`."""
        return [split_words(line) for line in self.lines]

    @cached_property
    def words(self) -> list[str]:
        """All words in order, punctuation marks included."""
        return list(chain.from_iterable(self.line_words))

    @cached_property
    def word_counts(self) -> Counter[str]:
        """How often each word occurs."""
        return Counter(self.words)

    @cached_property
    def paragraphs(self) -> list[str]:
        """What blank lines separate; at least one, perhaps empty."""
        text = self.text.strip()
        return _BLANK_LINES.split(text) if "\n\n" in text else [text]

    @cached_property
    def runs(self) -> list[str]:
        """What one or more newlines separate; an empty one where the text starts or ends so."""
        first, *others = self.text.split("\n")
        return [first, *filter(None, others[:-1]), *others[-1:]]

    @cached_property
    def nonblank_lines(self) -> list[str]:
        """What newlines separate, without the lines that hold only white space."""
        return [line for line in self.text.split("\n") if line.strip()]


@dataclass(frozen=True)
class Rule:
    """A document is at fault where `broken(signal's value, setting's value)`."""

    fault: str
    signal: str
    broken: Callable[[Any, Any], bool] = field(repr=False)
    setting: str

    def explain(self, signals: Mapping[str, Any], settings: object) -> str:
        """The signal against its threshold, for a person: "num_words = 31, min_words = 50"."""
        value, threshold = signals[self.signal], getattr(settings, self.setting)
        shown = f"{value:.6g}" if isinstance(value, float) else repr(value).strip("'")
        return f"{self.signal} = {shown}, {self.setting} = {threshold}"


def too_low(fault: str, signal: str, setting: str) -> Rule:
    """A rule that a signal below its threshold breaks."""
    return Rule(fault, signal, operator.lt, setting)


def too_high(fault: str, signal: str, setting: str) -> Rule:
    """A rule that a signal above its threshold breaks."""
    return Rule(fault, signal, operator.gt, setting)


def first_broken(
    rules: Sequence[Rule], signals: Mapping[str, Any], settings: object
) -> Rule | None:
    """The first of `rules` that `signals` break under the thresholds of `settings`."""
    for rule in rules:
        if rule.broken(signals[rule.signal], getattr(settings, rule.setting)):
            return rule
    return None


def first_fault(rules: Sequence[Rule], signals: Mapping[str, Any], settings: object) -> str | None:
    """The fault that the first broken rule names, or None."""
    rule = first_broken(rules, signals, settings)
    return rule.fault if rule else None


def check_thresholds(settings: object, rules: Sequence[Rule]) -> None:
    """Raise `ValueError` for a threshold below 0, which no signal can mean."""
    for rule in rules:
        value = getattr(settings, rule.setting)
        if isinstance(value, int | float) and not value >= 0:
            raise ValueError(f"{rule.setting} = {value}: must be 0 or more")


def fraction(part: float, whole: float) -> float:
    """`part / whole`, and 0 of nothing."""
    return part / whole if whole else 0.0


def repeats(parts: Sequence[str]) -> tuple[int, int]:
    """How many of `parts` are equal to an earlier one, and how many characters those have."""
    kept = set(parts)
    return len(parts) - len(kept), sum(map(len, parts)) - sum(map(len, kept))
