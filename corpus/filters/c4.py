"""C4's line rules: drop the lines of a page that aren't prose, then the pages that have none left.

Raffel et al. (JMLR 21, 2020, section 2.2) and its code (tensorflow_datasets' c4_utils.py), as
datatrove 0.10 runs them in FineWeb's pipeline: the rule of terminal punctuation is off.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import pyarrow as pa

from corpus.filters import treebank
from corpus.filters.rules import (
    MAX_THRESHOLD,
    Document,
    Rule,
    Signals,
    check_thresholds,
    first_fault,
    too_high,
    too_low,
)
from corpus.filters.words import count_sentences, split_words
from schemas.config import check_range

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_ENDS = (".", "?", "!", '"', "'")
_POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)

# A line has one fate: the counts from num_kept_lines to num_policy_lines sum to num_lines.
_SIGNALS = (
    "num_lines",
    "num_kept_lines",
    "num_long_word_lines",
    "num_unpunctuated_lines",
    "num_short_lines",
    "num_javascript_lines",
    "num_policy_lines",
    "num_lorem_ipsum_lines",
    "num_curly_bracket_lines",
    "num_sentences",
)


@dataclass(frozen=True)
class C4:
    """The settings of `MEASURING` choose lines: to change one, measure again.

    Lines with "lorem ipsum" or a curly bracket aren't dropped: they condemn the page.
    """

    require_terminal_punctuation: bool = False
    min_words_per_line: int = 3
    max_word_length: int = 1000
    remove_citations: bool = True
    drop_javascript_lines: bool = True
    drop_policy_lines: bool = True
    max_lorem_ipsum_lines: int = 0
    max_curly_bracket_lines: int = 0
    min_sentences: int = 5
    sentences: Literal["spacy", "treebank"] = "spacy"

    MEASURING: ClassVar[tuple[str, ...]] = (
        "require_terminal_punctuation",
        "min_words_per_line",
        "max_word_length",
        "remove_citations",
        "drop_javascript_lines",
        "drop_policy_lines",
        "sentences",
    )
    SIGNALS: ClassVar[pa.StructType] = pa.struct([(name, pa.int64()) for name in _SIGNALS])
    RULES: ClassVar[tuple[Rule, ...]] = (
        too_high("lorem_ipsum", "num_lorem_ipsum_lines", "max_lorem_ipsum_lines"),
        too_high("curly_bracket", "num_curly_bracket_lines", "max_curly_bracket_lines"),
        too_low("too_few_sentences", "num_sentences", "min_sentences"),
    )

    def __post_init__(self) -> None:
        check_thresholds(self, self.RULES)
        for name in ("min_words_per_line", "max_word_length"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be 0 or more")
        check_range(self, 0, MAX_THRESHOLD, "min_words_per_line", "max_word_length")

    def measure(self, doc: Document) -> Signals:
        """Lines by what became of them, and the sentences of those kept."""
        counts: Counter[str] = Counter(num_lines=len(doc.lines))
        for i, (fate, clean) in enumerate(_sorted_lines(self, doc)):
            counts[f"num_{fate}_lines"] += 1
            if fate in ("kept", "policy", "javascript") and "lorem ipsum" in clean.lower():
                counts["num_lorem_ipsum_lines"] += 1
            if fate in ("kept", "policy") and "{" in clean:
                counts["num_curly_bracket_lines"] += 1
            if fate == "kept":
                counts["num_sentences"] += self._sentences(doc, i, clean)
        return {name: counts[name] for name in _SIGNALS}

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The first rule broken, or None."""
        return first_fault(self.RULES, signals, self)

    def rewrite(self, doc: Document) -> Document:
        """The document with only the lines kept, stripped and without citation marks."""
        text = "\n".join(
            clean for fate, clean in _sorted_lines(self, doc) if fate == "kept"
        ).strip()
        return doc if text == doc.text else doc.rewritten(text)

    def _sentences(self, doc: Document, i: int, clean: str) -> int:
        """The sentences of line `i`, which would be kept as `clean`."""
        if self.sentences == "treebank":
            return treebank.count_sentences(clean)
        unchanged = len(clean) == len(doc.lines[i].strip())
        return count_sentences(doc.words().by_line[i] if unchanged else split_words(clean))

    def clean(self, line: str) -> str:
        """The line as it would be kept."""
        line = line.strip()
        return _CITATION.sub("", line) if self.remove_citations and "[" in line else line

    def fate(self, line: str, clean: str) -> str:
        """What becomes of a line: kept, or the first rule that drops it, as in `num_..._lines`."""
        limit = self.max_word_length
        if len(line) > limit and any(len(word) > limit for word in line.split()):
            return "long_word"
        ended = clean.endswith(_ENDS) and not clean.endswith("...")
        if self.require_terminal_punctuation and not ended:
            return "unpunctuated"
        # datatrove counts the words before it takes the citation marks out.
        if len(line.split(maxsplit=self.min_words_per_line)) < self.min_words_per_line:
            return "short"
        lowered = clean.lower()
        if self.drop_javascript_lines and "javascript" in lowered:
            return "javascript"
        if self.drop_policy_lines and _speaks_of_policy(lowered):
            return "policy"
        return "kept"


@lru_cache(maxsize=1)  # measure and rewrite ask one after the other
def _sorted_lines(settings: C4, doc: Document) -> list[tuple[str, str]]:
    """What becomes of each line, and the line as it would be kept."""
    cleaned = ((line, settings.clean(line)) for line in doc.lines)
    return [(settings.fate(line, clean), clean) for line, clean in cleaned]


def _speaks_of_policy(lowered: str) -> bool:
    # Nearly all lines have none of the three words, which is quicker to see than six phrases.
    has_word = "cookie" in lowered or "policy" in lowered or "terms of use" in lowered
    return has_word and any(phrase in lowered for phrase in _POLICY)
