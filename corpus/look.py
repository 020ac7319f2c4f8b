"""A cheap look at a page, which tells whether extracting its text can pay.

Nine tenths of a crawl is dropped after its text was extracted at great cost, most of it for its
language. resiliparse's text takes a tenth of trafilatura's time and is good enough to tell that: of
the main content, or of the whole page where there is little of it, the first thousand characters
are identified. A page in two languages may start in one and keep to the other where it matters, so
before one is dropped its longest passages are looked at one by one.

Cost: 2 ms a page. What it saves and what it loses: `benchmarks/cascade.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from corpus import lid
from corpus.main_text import ResiliparsePage

# Less of main content says too little: mostly a menu, where the whole page has more to say.
_MIN_WORDS = 60
# A passage: a line of prose. What it is written in shows in its first characters.
_PASSAGE_CHARS, _PASSAGE_HEAD, _MAX_PASSAGES = 60, 300, 8
_PASSAGE_SCORE = 0.5


@dataclass(frozen=True)
class Look:
    """Settings, section [look] of the recipe.

    `languages` (ISO 639 codes): pages in none of them are not extracted; none listed, no look. A
    page passes if the first `max_chars` characters have these with a probability of `min_score`
    together, or if `min_passage_chars` characters of its longest passages are in one of them.
    """

    languages: tuple[str, ...] = ()
    min_score: float = 0.3
    max_chars: int = 1000
    min_passage_chars: int = 400

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score = {self.min_score}: must be from 0 to 1")
        if self.max_chars < 1:
            raise ValueError(f"max_chars = {self.max_chars}: must be 1 or more")
        if self.min_passage_chars < 1:
            raise ValueError(f"min_passage_chars = {self.min_passage_chars}: must be 1 or more")


@dataclass(frozen=True)
class Seen:
    """What the look measured: columns `look_...` of `documents`."""

    num_chars: int  # of the cheap text
    language: str  # the most probable one; "" without text
    score: float  # probability of the wanted languages together, 0 to 1
    passage_chars: int | None  # of passages in wanted languages; None where the score sufficed

    def passes(self, settings: Look) -> bool:
        """Whether the page is worth extracting."""
        enough = (self.passage_chars or 0) >= settings.min_passage_chars
        return enough or self.score >= settings.min_score


def look(page: ResiliparsePage, settings: Look, language_model: str = "") -> Seen:
    """Measure a page; `language_model` as `lid.probabilities` takes it."""
    text = page.main_content
    if len(text.split(maxsplit=_MIN_WORDS)) < _MIN_WORDS:
        text = page.all_text
    head = text[: settings.max_chars]
    found = lid.probabilities(head, language_model) if head.strip() else {}
    score = _wanted(found, settings.languages)
    language = max(found, key=found.__getitem__, default="")
    passage_chars = None
    if score < settings.min_score:
        passage_chars = sum(_wanted_passages(text, settings.languages, language_model))
    return Seen(len(text), language, score, passage_chars)


def _wanted(found: dict[str, float], languages: Iterable[str]) -> float:
    return min(1.0, sum(found.get(language, 0.0) for language in languages))


def _wanted_passages(text: str, languages: tuple[str, ...], language_model: str) -> Iterable[int]:
    """Lengths of the passages, among the longest, that are in one of `languages`."""
    passages = [line for line in text.split("\n") if len(line) >= _PASSAGE_CHARS]
    for passage in sorted(passages, key=len, reverse=True)[:_MAX_PASSAGES]:
        found = lid.probabilities(passage[:_PASSAGE_HEAD], language_model)
        if _wanted(found, languages) >= _PASSAGE_SCORE:
            yield len(passage)
