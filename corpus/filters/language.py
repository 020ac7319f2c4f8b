"""Keep documents in the wanted languages that the identifier is sure enough about."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from corpus.filters.rules import Document, Rule, Signals, first_fault


def _unwanted(language: Any, wanted: tuple[str, ...]) -> Any:
    """Whether a language, or each of an array of languages, is none of those wanted."""
    if isinstance(language, str):
        return bool(wanted) and language not in wanted
    return ~np.isin(language, wanted) if wanted else np.zeros(len(language), bool)


@dataclass(frozen=True)
class LanguageRule:
    """FineWeb's rule (arXiv 2406.17557, section 3.3): English, with a score above 0.65.

    `languages` are ISO 639 codes as lid.176 names them; an empty list takes any language. An
    identifier is surer of some languages than of others: `min_score_of` gives thresholds of their
    own to some, as FineWeb-2 does to all (Penedo et al. 2025, arXiv 2506.20920, section 3.1).
    """

    languages: tuple[str, ...] = ("en",)
    min_score: float = 0.65  # the score must be above it
    min_score_of: dict[str, float] = field(default_factory=dict, hash=False)

    MEASURING: ClassVar[tuple[str, ...]] = ()
    # The two are columns of `documents` already: `signals_schema` adds no column for them.
    SIGNALS: ClassVar[pa.StructType] = pa.struct(
        [("language", pa.string()), ("language_score", pa.float64())]
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("unwanted_language", "language", _unwanted, "languages"),
        Rule(
            "low_language_score",
            "language_score",
            operator.le,
            "min_score",
            own=("language", "min_score_of"),
        ),
    )

    def __post_init__(self) -> None:
        if isinstance(self.languages, str):
            raise ValueError(f"languages = {self.languages!r}: must be a list of codes")
        _check_score("min_score", self.min_score)
        for code, score in self.min_score_of.items():
            _check_score(f"min_score_of.{code}", score)
            if self.languages and code not in self.languages:
                wanted = ", ".join(self.languages)
                raise ValueError(
                    f"min_score_of.{code} = {score}: must be among languages: {wanted}"
                )

    def measure(self, doc: Document) -> Signals:
        """The language and its score, as extract identified them."""
        return {"language": doc.language or "", "language_score": doc.language_score or 0.0}

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The first rule broken, or None."""
        return first_fault(self.RULES, signals, self)


def _check_score(name: str, score: float) -> None:
    if not 0 <= score < 1:
        raise ValueError(f"{name} = {score}: must be at least 0 and below 1")
