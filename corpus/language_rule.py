"""Keep documents in the wanted languages that the identifier is sure enough about."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from corpus.document import Document, Rule, Signals, first_fault


def _unwanted(language: str, wanted: tuple[str, ...]) -> bool:
    return bool(wanted) and language not in wanted


@dataclass(frozen=True)
class LanguageRule:
    """FineWeb's rule (arXiv 2406.17557, section 3.3): English, with a score above 0.65.

    `languages` are ISO 639 codes as lid.176 names them; an empty list takes any language.
    """

    languages: tuple[str, ...] = ("en",)
    min_score: float = 0.65  # the score must be above it

    # The two are columns of `documents` already: `signals_schema` adds no column for them.
    SIGNALS: ClassVar[pa.StructType] = pa.struct(
        [("language", pa.string()), ("language_score", pa.float64())]
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("unwanted_language", "language", _unwanted, "languages"),
        Rule("low_language_score", "language_score", operator.le, "min_score"),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.min_score < 1:
            raise ValueError(f"min_score = {self.min_score}: must be at least 0 and below 1")
        if isinstance(self.languages, str):
            raise ValueError(f"languages = {self.languages!r}: must be a list of codes")

    def measure(self, doc: Document) -> Signals:
        """The language and its score, as extract identified them."""
        return {"language": doc.language or "", "language_score": doc.language_score or 0.0}

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The first rule broken, or None."""
        return first_fault(self.RULES, signals, self)
