"""C4's line rules: drop the lines of a page that aren't prose, then reject pages with too few left.

Raffel et al. (JMLR 21, 2020, section 2.2) and its code (tensorflow_datasets' c4_utils.py), as
datatrove 0.10 runs them in FineWeb's pipeline: the rule of terminal punctuation is off.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import ClassVar, Literal

import pyarrow as pa

from corpus.filters import treebank
from corpus.filters.rules import Count, Document, Filter, Rule, Signals
from corpus.filters.words import count_sentences, split_words
from schemas.config import settings

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

# Each line has one outcome: the counts from num_kept_lines to num_policy_lines sum to num_lines.
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


@settings
class C4(Filter):
    """A line with "lorem ipsum" or a curly bracket isn't dropped: it rejects the page."""

    require_terminal_punctuation: bool = False
    min_words_per_line: Count = 3
    max_word_length: Count = 1000
    remove_citations: bool = True
    drop_javascript_lines: bool = True
    drop_policy_lines: bool = True
    max_lorem_ipsum_lines: Count = 0
    max_curly_bracket_lines: Count = 0
    min_sentences: Count = 5
    sentences: Literal["spacy", "treebank"] = "spacy"

    SIGNALS: ClassVar[pa.StructType] = pa.struct([(name, pa.int64()) for name in _SIGNALS])
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("lorem_ipsum", "num_lorem_ipsum_lines", "<=", "max_lorem_ipsum_lines"),
        Rule("curly_bracket", "num_curly_bracket_lines", "<=", "max_curly_bracket_lines"),
        Rule("too_few_sentences", "num_sentences", ">=", "min_sentences"),
    )

    def measure(self, doc: Document) -> Signals:
        """Lines by outcome, and the sentences of those kept."""
        counts: Counter[str] = Counter(num_lines=len(doc.lines))
        for i, (outcome, clean) in enumerate(_line_outcomes(self, doc)):
            counts[f"num_{outcome}_lines"] += 1
            if outcome in ("kept", "policy", "javascript") and "lorem ipsum" in clean.lower():
                counts["num_lorem_ipsum_lines"] += 1
            if outcome in ("kept", "policy") and "{" in clean:
                counts["num_curly_bracket_lines"] += 1
            if outcome == "kept":
                counts["num_sentences"] += self._count_sentences(doc, i, clean)
        return {name: counts[name] for name in _SIGNALS}

    def rewrite(self, doc: Document) -> Document:
        """The document with only the kept lines, stripped and without citation marks."""
        kept = (clean for outcome, clean in _line_outcomes(self, doc) if outcome == "kept")
        text = "\n".join(kept).strip()
        return doc if text == doc.text else doc.rewritten(text)

    def clean(self, line: str) -> str:
        """The line as it would be kept."""
        line = line.strip()
        return _CITATION.sub("", line) if self.remove_citations and "[" in line else line

    def outcome(self, line: str, clean: str) -> str:
        """The first rule that drops the line, named as in `num_..._lines`; else "kept"."""
        limit = self.max_word_length
        if len(line) > limit and any(len(word) > limit for word in line.split()):
            return "long_word"
        ended = clean.endswith(_ENDS) and not clean.endswith("...")
        if self.require_terminal_punctuation and not ended:
            return "unpunctuated"
        # Like datatrove, count the words with their citation marks.
        if len(line.split(maxsplit=self.min_words_per_line)) < self.min_words_per_line:
            return "short"
        lowered = clean.lower()
        if self.drop_javascript_lines and "javascript" in lowered:
            return "javascript"
        if self.drop_policy_lines and _mentions_policy(lowered):
            return "policy"
        return "kept"

    def _count_sentences(self, doc: Document, i: int, clean: str) -> int:
        """The sentences of line `i`, which is kept as `clean`."""
        if self.sentences == "treebank":
            return treebank.count_sentences(clean)
        unchanged = len(clean) == len(doc.lines[i].strip())
        return count_sentences(doc.words().by_line[i] if unchanged else split_words(clean))


@lru_cache(maxsize=1)  # rewrite follows measure
def _line_outcomes(settings: C4, doc: Document) -> list[tuple[str, str]]:
    """The outcome of each line, and the line as it would be kept."""
    cleaned = ((line, settings.clean(line)) for line in doc.lines)
    return [(settings.outcome(line, clean), clean) for line, clean in cleaned]


def _mentions_policy(lowered: str) -> bool:
    # Most lines have none of the three words, which is faster to test than six phrases.
    has_word = "cookie" in lowered or "policy" in lowered or "terms of use" in lowered
    return has_word and any(phrase in lowered for phrase in _POLICY)
