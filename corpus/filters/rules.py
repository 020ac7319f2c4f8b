"""The parts of a filter: documents to measure, rules that compare signals with thresholds."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from corpus.filters import treebank
from corpus.filters.words import split_words

Signals = dict[str, Any]  # name -> int, float or str, as the filter's SIGNALS declares them
MAX_THRESHOLD = 10**12  # above any count that a page can reach
# Settings that a signal is compared with.
Count = Annotated[int, Field(ge=0, le=MAX_THRESHOLD)]
Ratio = Annotated[float, Field(ge=0, le=MAX_THRESHOLD)]


def _is_outside(value: Any, allowed: tuple[str, ...]) -> Any:
    """Whether a string, or each of an array of strings, is not in `allowed`; empty allows all."""
    if isinstance(value, str):
        return bool(allowed) and value not in allowed
    return ~np.isin(value, allowed) if allowed else np.zeros(len(value), bool)


# How a signal must compare with its threshold -> whether it breaks the rule.
Sign = Literal[">=", ">", "<=", "<", "in"]
_BREAKS: dict[Sign, Callable[[Any, Any], Any]] = {
    ">=": operator.lt,
    ">": operator.le,
    "<=": operator.gt,
    "<": operator.ge,
    "in": _is_outside,
}
_STRICT: dict[Sign, Sign] = {">=": ">", "<=": "<"}


@dataclass(frozen=True)
class Threshold:
    """What one document's signal is compared with."""

    setting: str  # "min_words", or "min_score_of.sw" from a table
    value: Any
    sign: Sign  # how the signal must compare with `value`


@dataclass(frozen=True)
class Rule:
    """`signal` must compare with the value of `setting` as `sign` says; else `fault` is named.

    `at_threshold` names a bool setting that makes the comparison strict. `own` names a signal and a
    table of settings: values of that signal which are in the table have their own threshold.
    """

    fault: str
    signal: str
    sign: Sign
    setting: str
    at_threshold: str = ""
    own: tuple[str, str] | None = None

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of the signals that it reads."""
        return (self.signal, self.own[0]) if self.own else (self.signal,)

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of the settings that it reads."""
        return tuple(filter(None, (self.setting, self.at_threshold, self.own and self.own[1])))

    def breaks(self, signals: Mapping[str, Any], settings: object) -> Any:
        """Whether `signals` break it: a bool, or one per row where signals are NumPy arrays."""
        limit = getattr(settings, self.setting)
        if self.own and (table := getattr(settings, self.own[1])):
            key = signals[self.own[0]]
            if isinstance(key, str):
                limit = table.get(key, limit)
            else:
                limit = np.array([table.get(one, limit) for one in key])
        return _BREAKS[self._sign(settings)](signals[self.signal], limit)

    def threshold(self, signals: Mapping[str, Any], settings: object) -> Threshold:
        """The threshold for one document's `signals`."""
        setting, value = self.setting, getattr(settings, self.setting)
        if self.own:
            key, table = signals[self.own[0]], getattr(settings, self.own[1])
            if key in table:
                setting, value = f"{self.own[1]}.{key}", table[key]
        return Threshold(setting, value, self._sign(settings))

    def explain(self, signals: Mapping[str, Any], settings: object) -> str:
        """The signal and its threshold: "num_words = 31, min_words = 50"."""
        value, threshold = signals[self.signal], self.threshold(signals, settings)
        shown = f"{value:.6g}" if isinstance(value, float) else repr(value).strip("'")
        return f"{self.signal} = {shown}, {threshold.setting} = {threshold.value}"

    def _sign(self, settings: object) -> Sign:
        is_strict = self.at_threshold and getattr(settings, self.at_threshold)
        return _STRICT[self.sign] if is_strict else self.sign


class Filter:
    """Base of the filters: settings classes, whose fields are the recipe's section.

    Settings that `RULES` read do not change a signal or the text; all others may.
    """

    SIGNALS: ClassVar[pa.StructType]
    RULES: ClassVar[tuple[Rule, ...]]

    def measure(self, doc: Document) -> Signals:
        """Every signal of `SIGNALS`, for any document."""
        raise NotImplementedError

    def rewrite(self, doc: Document) -> Document:
        """The document that later filters and stages read."""
        return doc

    def broken_rule(self, signals: Mapping[str, Any]) -> Rule | None:
        """The first of `RULES` that the signals break, or None."""
        for rule in self.RULES:
            if rule.breaks(signals, self):
                return rule
        return None

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The fault that `broken_rule` names, or None."""
        rule = self.broken_rule(signals)
        return rule.fault if rule else None


# How words are found: spaCy's English tokenizer, NLTK's, white space, or runs of letters and
# digits (UAX #29, WB5 to WB13) without punctuation.
Splitter = Literal["spacy", "treebank", "spaces", "unicode"]
_UNICODE_WORD = re.compile(r"\w+(?:(?:(?<=[^\W\d_])['’.:·](?=[^\W\d_])|(?<=\d)['’.,;](?=\d))\w+)*")
_SPLIT: dict[Splitter, Callable[[list[str]], list[list[str]]]] = {
    "spacy": lambda lines: list(map(split_words, lines)),
    "treebank": treebank.split_lines,
    "spaces": lambda lines: list(map(str.split, lines)),
    "unicode": lambda lines: list(map(_UNICODE_WORD.findall, lines)),
}
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
        """Occurrences of each word, in the order of first occurrence."""
        return Counter(self.flat)


@dataclass(frozen=True)
class Document:
    """A text and its language; each view of the text is computed once, when first needed."""

    text: str
    language: str | None = None
    language_score: float | None = None
    before: Document | None = field(default=None, repr=False, compare=False)  # rewritten from it
    _words: dict[Splitter, Words] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def lines(self) -> list[str]:
        """`text.splitlines()`, blank lines included."""
        return self.text.splitlines()

    def words(self, splitter: Splitter = "spacy") -> Words:
        """The words as `splitter` finds them.

        A line that occurs several times, or that a rewrite kept, is split once.
        """
        if splitter not in self._words:
            words: dict[str, list[str]] = {}
            if self.before and splitter in self.before._words:
                old = self.before._words[splitter].by_line
                words = dict(zip(self.before.lines, old, strict=True))
            new = [line for line in dict.fromkeys(self.lines) if line not in words]
            words.update(zip(new, _SPLIT[splitter](new), strict=True))
            self._words[splitter] = Words([words[line] for line in self.lines])
        return self._words[splitter]

    def rewritten(self, text: str) -> Document:
        """The same document with another text."""
        return Document(text, self.language, self.language_score, before=self)

    @cached_property
    def paragraphs(self) -> list[str]:
        """The parts between blank lines; at least one, possibly empty."""
        text = self.text.strip()
        return _BLANK_LINES.split(text) if "\n\n" in text else [text]

    @cached_property
    def runs(self) -> list[str]:
        """The parts between newlines; an empty one where the text starts or ends with a newline."""
        first, *others = self.text.split("\n")
        return [first, *filter(None, others[:-1]), *others[-1:]]

    @cached_property
    def nonblank_lines(self) -> list[str]:
        """The parts between newlines that hold more than white space."""
        return [line for line in self.text.split("\n") if line.strip()]


def fraction(part: float, whole: float) -> float:
    """`part / whole`; 0 where `whole` is 0."""
    return part / whole if whole else 0.0


def repeats(parts: Sequence[str]) -> tuple[int, int]:
    """How many of `parts` equal an earlier one, and their characters."""
    kept = set(parts)
    return len(parts) - len(kept), sum(map(len, parts)) - sum(map(len, kept))
