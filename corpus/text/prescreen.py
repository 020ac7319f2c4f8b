"""Pre-screening: identify a page's language before its text is extracted, from a few paragraphs.

Without it, nine tenths of a crawl would be extracted and then dropped, mostly for its language.
Paragraphs are cut out of the source, `<p>` by `<p>`, without parsing it. Only a page with almost
none is parsed, for resiliparse's text. A page in two languages may start in the wrong one, so
before a page is dropped its longest passages are identified one by one.

Cost: 0.7 ms per page on average, most of it for pages that must be parsed. What it saves and what
it loses: `benchmarks/cascade.py`.
"""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from corpus.text import language_id
from corpus.text.main_text import ResiliparsePage
from schemas.config import settings

UNWANTED_LANGUAGE = "look.unwanted_language"  # `rejected_by` of pages that do not pass

_ENOUGH_CHARS = 500  # in paragraphs; a page with fewer is parsed
_MIN_WORDS = 60  # of main content; less is mostly a menu, and the whole page's text is used
# A passage is a paragraph or line of prose; its first characters show its language. A page's text
# will not be in a language that has less than a quarter of its prose.
_PASSAGE_CHARS, _PASSAGE_HEAD, _MAX_PASSAGES = 60, 150, 5
_PASSAGE_SCORE, _PASSAGE_SHARE = 0.5, 0.25

_OPENING = re.compile(
    "<(?:([pP])[\\s>]|(!--)|([sS][cC][rR][iI][pP][tT]|[sS][tT][yY][lL][eE])[\\s>])"
)
_CLOSING = {"script": re.compile("</script", re.I), "style": re.compile("</style", re.I)}
_CLOSING["!--"] = re.compile("-->")
# A paragraph ends at another block (HTML standard, 8.1.2.4); these are the common ones.
_BLOCK = re.compile(
    "</?(?:[pP]|[dD][iIlL][vV]?|[uUoO][lL]|[lL][iI]|[tT][aA][bB][lL][eE]|[tT][dD]|[hH][1-6])[\\s>]"
)
_TAG = re.compile("<[^>]*(?:>|$)")
_MAX_PARAGRAPH = 1 << 14


@settings
class Look:
    """Settings, section [look] of the recipe.

    `languages` (ISO 639 codes): pages in none of them are not extracted; empty: no pre-screening.
    A page passes if the first `max_chars` characters are in these languages with a total
    probability of `min_score`, or if `min_passage_chars` characters of its longest passages, and a
    quarter of all passages, are in one of them.
    """

    languages: tuple[str, ...] = ()
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.3
    max_chars: Annotated[int, Field(ge=1, le=10**9)] = 1000
    min_passage_chars: Annotated[int, Field(ge=1, le=10**9)] = 400


@dataclass(frozen=True)
class LookSignals:
    """What pre-screening measured: columns `look_...` of `documents`.

    `score`: total probability of the wanted languages, 0 to 1, of the `num_chars` characters that
    were identified; `language`: the most probable one, "" without text. `passage_chars`: characters
    of passages in wanted languages, 0 if under a quarter of all, None if the score sufficed.
    """

    num_chars: int
    language: str
    score: float
    passage_chars: int | None

    def passes(self, settings: Look) -> bool:
        """Whether the page is worth extracting."""
        enough = (self.passage_chars or 0) >= settings.min_passage_chars
        return enough or self.score >= settings.min_score


def look(page: ResiliparsePage, settings: Look, language_model: str = "") -> LookSignals:
    """Pre-screen a page; `language_model` as for `language_id.probabilities`."""
    more = paragraphs(page.html)
    first: list[str] = []
    missing = max(settings.max_chars, _ENOUGH_CHARS)
    while missing > 0 and (text := next(more, None)) is not None:
        first.append(text)
        missing -= len(text)
    if sum(map(len, first)) < _ENOUGH_CHARS:
        content = page.main_content
        is_menu = len(content.split(maxsplit=_MIN_WORDS)) < _MIN_WORDS
        first = (page.all_text if is_menu else content).split("\n")
    head = "\n".join(first)[: settings.max_chars]
    found = language_id.probabilities(head, language_model) if head.strip() else {}
    score = _wanted(found, settings.languages)
    passage_chars = None
    if score < settings.min_score:
        passages = [text for text in (*first, *more) if len(text) >= _PASSAGE_CHARS]
        passage_chars = 0
        for passage in sorted(passages, key=len, reverse=True)[:_MAX_PASSAGES]:
            languages = language_id.probabilities(passage[:_PASSAGE_HEAD], language_model)
            if _wanted(languages, settings.languages) >= _PASSAGE_SCORE:
                passage_chars += len(passage)
        if passage_chars < _PASSAGE_SHARE * sum(map(len, passages)):
            passage_chars = 0
    language = max(found, key=found.__getitem__, default="")
    return LookSignals(len(head), language, score, passage_chars)


def _wanted(probabilities: dict[str, float], languages: tuple[str, ...]) -> float:
    return min(1.0, sum(probabilities.get(language, 0.0) for language in languages))


def paragraphs(source: str) -> Iterator[str]:
    """The text of every `<p>` of 60 characters or more in a page's source, in order, not parsed.

    Comments, scripts and styles are skipped; a paragraph ends where another block begins. Linear
    time.
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
