"""Keep documents in the wanted languages, where the identifier is sure enough."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field

from corpus.filters.rules import Document, Filter, Rule, Signals
from schemas.config import settings


@settings
class LanguageRule(Filter):
    """FineWeb's rule (arXiv 2406.17557, section 3.3): English, with a score above 0.65.

    `languages` are ISO 639 codes as lid.176 names them; an empty list allows all. Identifiers are
    less sure of some languages: `min_score_of` sets the threshold of single languages, as FineWeb-2
    does for all (Penedo et al. 2025, arXiv 2506.20920, section 3.1).
    """

    languages: tuple[str, ...] = ("en",)
    min_score: Annotated[float, Field(ge=0, lt=1)] = 0.65  # the score must be above it
    min_score_of: dict[str, Annotated[float, Field(ge=0, lt=1)]] = field(
        default_factory=dict, hash=False
    )

    # Both are columns of `documents`, so that `judged` gets no struct for them.
    SIGNALS: ClassVar[pa.StructType] = pa.struct(
        [("language", pa.string()), ("language_score", pa.float64())]
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("unwanted_language", "language", "in", "languages"),
        Rule(
            "low_language_score",
            "language_score",
            ">",
            "min_score",
            own=("language", "min_score_of"),
        ),
    )

    def __post_init__(self) -> None:
        for code in self.min_score_of:
            if self.languages and code not in self.languages:
                wanted = ", ".join(self.languages)
                raise ValueError(
                    f"min_score_of.{code} = {self.min_score_of[code]}: must be among languages: "
                    f"{wanted}"
                )

    def measure(self, doc: Document) -> Signals:
        """The language and its score, as extract identified them."""
        return {"language": doc.language or "", "language_score": doc.language_score or 0.0}
