"""A cheap look at a page, which tells whether extracting its text can pay.

Nine tenths of a crawl is dropped after its text was extracted at great cost, most of it for its
language, and a few paragraphs tell that. They are taken from the source as it stands, `<p>` by
`<p>`, without parsing it; only where a page has next to none is it parsed, and resiliparse's text
looked at. A page in two languages may start in one and keep to the other where it matters, so
before one is dropped its longest passages are looked at one by one.

Cost: 0.7 ms a page on average, most of it where a page must be parsed. What it saves and what it
loses: `benchmarks/cascade.py`.
"""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from corpus.text import language_id
from corpus.text.main_text import ResiliparsePage
from schemas.config import check_range

# Less in paragraphs than this says too little of a page.
_ENOUGH_CHARS = 500
# Less of main content says too little, too: mostly a menu, where the whole page has more to say.
_MIN_WORDS = 60
# A passage: a paragraph or line of prose. What it is written in shows in its first characters. The
# text of a page will not be in a language that has less than a quarter of its prose.
_PASSAGE_CHARS, _PASSAGE_HEAD, _MAX_PASSAGES = 60, 150, 5
_PASSAGE_SCORE, _PASSAGE_SHARE = 0.5, 0.25

_OPENING = re.compile(
    "<(?:([pP])[\\s>]|(!--)|([sS][cC][rR][iI][pP][tT]|[sS][tT][yY][lL][eE])[\\s>])"
)
_CLOSING = {"script": re.compile("</script", re.I), "style": re.compile("</style", re.I)}
_CLOSING["!--"] = re.compile("-->")
# What ends a paragraph: another block (HTML standard, 8.1.2.4), of which these are the common ones.
_BLOCK = re.compile(
    "</?(?:[pP]|[dD][iIlL][vV]?|[uUoO][lL]|[lL][iI]|[tT][aA][bB][lL][eE]|[tT][dD]|[hH][1-6])[\\s>]"
)
_TAG = re.compile("<[^>]*(?:>|$)")
_MAX_PARAGRAPH = 1 << 14


@dataclass(frozen=True)
class Look:
    """Settings, section [look] of the recipe.

    `languages` (ISO 639 codes): pages in none of them are not extracted; none listed, no look. A
    page passes if the first `max_chars` characters have these with a probability of `min_score`
    together, or if `min_passage_chars` characters of its longest passages, and a quarter of all,
    are in one of them.
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
        check_range(self, 1, 10**9, "max_chars", "min_passage_chars")


@dataclass(frozen=True)
class Seen:
    """What the look measured: columns `look_...` of `documents`."""

    num_chars: int  # of the text that was looked at first
    language: str  # the most probable one; "" without text
    score: float  # probability of the wanted languages together, 0 to 1
    passage_chars: int | None  # of passages in wanted languages, 0 if they are under a quarter of
    # all; None where the score sufficed

    def passes(self, settings: Look) -> bool:
        """Whether the page is worth extracting."""
        enough = (self.passage_chars or 0) >= settings.min_passage_chars
        return enough or self.score >= settings.min_score


def look(page: ResiliparsePage, settings: Look, language_model: str = "") -> Seen:
    """Measure a page; `language_model` as `lid.probabilities` takes it."""
    more = paragraphs(page.html)
    first = list(_up_to(more, max(settings.max_chars, _ENOUGH_CHARS)))
    if sum(map(len, first)) < _ENOUGH_CHARS:
        first = _parsed_text(page).split("\n")
    head = "\n".join(first)[: settings.max_chars]
    found = language_id.probabilities(head, language_model) if head.strip() else {}
    score = _wanted(found, settings.languages)
    language = max(found, key=found.__getitem__, default="")
    passage_chars = None
    if score < settings.min_score:
        passages = [text for text in (*first, *more) if len(text) >= _PASSAGE_CHARS]
        passage_chars = sum(_wanted_passages(passages, settings.languages, language_model))
        if passage_chars < _PASSAGE_SHARE * sum(map(len, passages)):
            passage_chars = 0
    return Seen(len(head), language, score, passage_chars)


def paragraphs(source: str) -> Iterator[str]:
    """The text of every `<p>` of 60 characters or more in a page's source, in order.

    Without parsing: comments, scripts and styles are passed over, a paragraph ends where another
    block begins. Linear time.
    """
    at = 0
    while found := _OPENING.search(source, at):
        if not found[1]:
            end = _CLOSING[(found[2] or found[3]).lower()].search(source, found.end())
            if not end:
                return
            at = end.end()
            continue
        start = source.find(">", found.end() - 1) + 1
        if not start:
            return
        block = _BLOCK.search(source, start)
        at = block.start() if block else len(source)
        if at - start >= _PASSAGE_CHARS:
            text = _TAG.sub("", source[start : min(at, start + _MAX_PARAGRAPH)])
            with contextlib.suppress(ValueError):  # a reference of over 4,300 digits
                text = html.unescape(text)
            text = " ".join(text.split())
            if len(text) >= _PASSAGE_CHARS:
                yield text


def _up_to(texts: Iterator[str], num_chars: int) -> Iterator[str]:
    """Texts until they have `num_chars` characters."""
    while num_chars > 0 and (text := next(texts, None)) is not None:
        yield text
        num_chars -= len(text)


def _parsed_text(page: ResiliparsePage) -> str:
    text = page.main_content
    return page.all_text if len(text.split(maxsplit=_MIN_WORDS)) < _MIN_WORDS else text


def _wanted(found: dict[str, float], languages: Iterable[str]) -> float:
    return min(1.0, sum(found.get(language, 0.0) for language in languages))


def _wanted_passages(
    passages: list[str], languages: tuple[str, ...], language_model: str
) -> Iterator[int]:
    """Lengths of the passages, among the longest, that are in one of `languages`."""
    for passage in sorted(passages, key=len, reverse=True)[:_MAX_PASSAGES]:
        found = language_id.probabilities(passage[:_PASSAGE_HEAD], language_model)
        if _wanted(found, languages) >= _PASSAGE_SCORE:
            yield len(passage)
