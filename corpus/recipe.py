"""The recipe: every setting that decides what the corpus holds, in one strict TOML file.

Each section is the settings class next to the code that it configures. Everything else (input,
root, engine) is a flag and does not change the corpus.
"""

from __future__ import annotations

from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from corpus.clean.contamination import Decontaminate
from corpus.clean.pii import Pii
from corpus.dedup.exact import Exact
from corpus.dedup.line_hashes import Passages
from corpus.dedup.minhash import MinHash
from corpus.dedup.precision_recall import Verify
from corpus.dedup.survivor import Survivor
from corpus.filters.c4 import C4
from corpus.filters.classifier import QualityClassifier
from corpus.filters.fineweb import FineWebQuality
from corpus.filters.gopher import GopherQuality, GopherRepetition
from corpus.filters.language import LanguageRule
from corpus.filters.refinedweb import RefinedWebLines
from corpus.filters.registry import FILTERS, FINEWEB_FILTERS
from corpus.filters.rules import Filter
from corpus.text.extract_page import Extract
from corpus.text.prescreen import Look
from corpus.text.url_filter import UrlRules
from corpus.tokens.bpe import TokenizerSettings
from corpus.tokens.shards import Shard
from schemas import config
from schemas.config import settings


@settings
class Recipe:
    """A whole recipe. `filters` lists the filters to apply, in order, by section name."""

    name: str = ""
    filters: tuple[str, ...] = FINEWEB_FILTERS
    url: UrlRules = field(default_factory=UrlRules)
    look: Look = field(default_factory=Look)
    extract: Extract = field(default_factory=Extract)
    language: LanguageRule = field(default_factory=LanguageRule)
    gopher_repetition: GopherRepetition = field(default_factory=GopherRepetition)
    gopher_quality: GopherQuality = field(default_factory=GopherQuality)
    c4: C4 = field(default_factory=C4)
    fineweb_quality: FineWebQuality = field(default_factory=FineWebQuality)
    refinedweb_lines: RefinedWebLines = field(default_factory=RefinedWebLines)
    quality_classifier: QualityClassifier = field(default_factory=QualityClassifier)
    exact: Exact = field(default_factory=Exact)
    minhash: MinHash = field(default_factory=MinHash)
    verify: Verify = field(default_factory=Verify)
    survivor: Survivor = field(default_factory=Survivor)
    passages: Passages = field(default_factory=Passages)
    pii: Pii = field(default_factory=Pii)
    decontaminate: Decontaminate = field(default_factory=Decontaminate)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    shard: Shard = field(default_factory=Shard)

    def __post_init__(self) -> None:
        for name in self.filters:
            if name not in FILTERS:
                raise ValueError(f"filters = {name!r}: must be among {', '.join(FILTERS)}")
        if len(set(self.filters)) < len(self.filters):
            raise ValueError(f"filters = {list(self.filters)}: each filter at most once")
        kept, screened = set(self.language.languages), set(self.look.languages)
        if screened and "language" in self.filters and (not kept or kept - screened):
            missing = ", ".join(sorted(kept - screened)) or "any"
            raise ValueError(
                f"look.languages = {sorted(screened)}: drops pages in languages that "
                f"language.languages keeps ({missing}); name the same in both"
            )

    def chosen_filters(self) -> dict[str, Filter]:
        """Filter name -> filter, in the order in which they judge."""
        return {name: getattr(self, name) for name in self.filters}

    def settings(self, *sections: str) -> dict[str, Any]:
        """The values of some sections as plain JSON; `filters` includes the sections it lists."""
        values = asdict(self)
        del values["decontaminate"]["against"]  # an input, identified by the files' content
        chosen = {name: values[name] for name in sections}
        if "filters" in sections:
            chosen.update({name: values[name] for name in self.filters})
        return config.to_json(chosen)


def load(path: str | Path) -> Recipe:
    """Read a recipe. Raises `UserError` naming the file, the key and the value that are wrong."""
    recipe = config.load_toml(path, Recipe)
    return recipe if recipe.name else Recipe(**{**vars(recipe), "name": Path(path).stem})
