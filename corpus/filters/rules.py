"""A document as the filters see it, split once; and a rule: a signal, a threshold, a fault."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import numpy as np

from corpus.filters import treebank
from corpus.filters.words import split_words

# What a word is: spaCy's English, NLTK's, what white space leaves, or a run of letters and digits
# as Unicode has it (UAX #29, WB5 to WB13), without punctuation.
Splitter = Literal["spacy", "treebank", "spaces", "unicode"]
MAX_THRESHOLD = 10**12  # more of anything than a page has
_UNICODE_WORD = re.compile(r"\w+(?:(?:(?<=[^\W\d_])['’.:·](?=[^\W\d_])|(?<=\d)['’.,;](?=\d))\w+)*")
_SPLIT: dict[Splitter, Callable[[str], list[str]]] = {
    "spacy": split_words,
    "treebank": treebank.split_words,
    "spaces": str.split,
    "unicode": _UNICODE_WORD.findall,
}

Signals = dict[str, Any]  # name -> int, float or str, as the filter's SIGNALS declares them

_BLANK_LINES = re.compile(r"\n{2,}")


@dataclass(frozen=True)
class Words:
    """The words of each line, punctuation marks included."""

    by_line: list[list[str]]

    @cached_property
    def flat(self) -> list[str]:
        """All words in order."""
        return list(chain.from_iterable(self.by_line))

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each word occurs, in the order of first occurrence."""
        return Counter(self.flat)


@dataclass(frozen=True)
class Document:
    """A text and its language; each view of it is computed when first asked for, then kept."""

    text: str
    language: str | None = None
    language_score: float | None = None
    before: Document | None = field(default=None, repr=False, compare=False)  # what it was made of
    _words: dict[Splitter, Words] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def lines(self) -> list[str]:
        """`text.splitlines()`: blank lines count."""
        return self.text.splitlines()

    def words(self, splitter: Splitter = "spacy") -> Words:
        """The words as `splitter` finds them."""
        if splitter not in self._words:
            split, known = _SPLIT[splitter], self._known_lines(splitter)
            by_line = [known[line] if line in known else split(line) for line in self.lines]
            self._words[splitter] = Words(by_line)
        return self._words[splitter]

    def _known_lines(self, splitter: Splitter) -> dict[str, list[str]]:
        """Lines of the document before this one that have been split."""
        if self.before is None or splitter not in self.before._words:
            return {}
        return dict(zip(self.before.lines, self.before._words[splitter].by_line, strict=True))

    def rewritten(self, text: str) -> Document:
        """The same document with another text; lines that stay aren't split again."""
        return Document(text, self.language, self.language_score, before=self)

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
    """A document is at fault where `broken(signal's value, threshold)`.

    The threshold is the value of `setting`. Two further settings may move it: `at_threshold` names
    a bool under which the threshold itself is at fault too, `own` names a signal and a table of
    the thresholds that some values of that signal have of their own.
    """

    fault: str
    signal: str
    broken: Callable[[Any, Any], Any] = field(repr=False)
    setting: str
    at_threshold: str = ""
    own: tuple[str, str] | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of all settings that it reads."""
        named = (self.setting, self.at_threshold, self.own[1] if self.own else "")
        return tuple(name for name in named if name)

    def breaks(self, signals: Mapping[str, Any], settings: object) -> Any:
        """Whether `signals` break it: a bool, or one a row where signals are NumPy arrays."""
        value, threshold = signals[self.signal], self.threshold(signals, settings)
        broken = self.broken(value, threshold)
        if self.at_threshold and getattr(settings, self.at_threshold):
            return broken | (value == threshold)
        return broken

    def threshold(self, signals: Mapping[str, Any], settings: object) -> Any:
        """What the signal is held against; an array where it differs by row."""
        default, table = getattr(settings, self.setting), self._table(settings)
        if not self.own or not table:
            return default
        keys = signals[self.own[0]]
        if isinstance(keys, str):
            return table.get(keys, default)
        return np.array([table.get(key, default) for key in keys])

    def explain(self, signals: Mapping[str, Any], settings: object) -> str:
        """The signal against its threshold, for a person: "num_words = 31, min_words = 50"."""
        value, threshold = signals[self.signal], self.threshold(signals, settings)
        shown = f"{value:.6g}" if isinstance(value, float) else repr(value).strip("'")
        name = self.setting
        if self.own and signals[self.own[0]] in self._table(settings):
            name = f"{self.own[1]}.{signals[self.own[0]]}"
        return f"{self.signal} = {shown}, {name} = {threshold}"

    def _table(self, settings: object) -> dict[str, Any]:
        return getattr(settings, self.own[1]) if self.own else {}


def too_low(fault: str, signal: str, setting: str, at_threshold: str = "") -> Rule:
    """A rule that a signal below its threshold breaks."""
    return Rule(fault, signal, operator.lt, setting, at_threshold)


def too_high(fault: str, signal: str, setting: str, at_threshold: str = "") -> Rule:
    """A rule that a signal above its threshold breaks."""
    return Rule(fault, signal, operator.gt, setting, at_threshold)


def first_broken(
    rules: Sequence[Rule], signals: Mapping[str, Any], settings: object
) -> Rule | None:
    """The first of `rules` that `signals` break under the thresholds of `settings`."""
    for rule in rules:
        if rule.breaks(signals, settings):
            return rule
    return None


def first_fault(rules: Sequence[Rule], signals: Mapping[str, Any], settings: object) -> str | None:
    """The fault that the first broken rule names, or None."""
    rule = first_broken(rules, signals, settings)
    return rule.fault if rule else None


def check_thresholds(settings: object, rules: Sequence[Rule]) -> None:
    """Raise `ValueError` for a threshold that no signal can mean: below 0, or above 10^12."""
    for rule in rules:
        value = getattr(settings, rule.setting)
        if isinstance(value, int | float) and not value >= 0:
            raise ValueError(f"{rule.setting} = {value}: must be 0 or more")
        if isinstance(value, int | float) and not value <= MAX_THRESHOLD:
            raise ValueError(f"{rule.setting} = {value}: must be at most {MAX_THRESHOLD}")


def fraction(part: float, whole: float) -> float:
    """`part / whole`, and 0 of nothing."""
    return part / whole if whole else 0.0


def repeats(parts: Sequence[str]) -> tuple[int, int]:
    """How many of `parts` are equal to an earlier one, and how many characters those have."""
    kept = set(parts)
    return len(parts) - len(kept), sum(map(len, parts)) - sum(map(len, kept))
