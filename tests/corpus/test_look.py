"""The look drops pages in other languages, and none that are partly in a wanted one."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.text.main_text import Bounds, ResiliparsePage
from corpus.text.prescreen import Look, LookSignals, look, paragraphs
from schemas.config import from_dict
from schemas.errors import UserError

ENGLISH = (
    "The committee met in the old town hall on Tuesday and decided, after three hours of talk, "
    "that the bridge over the river would be repaired before the winter comes."
)
GERMAN = (
    "Der Ausschuss trat am Dienstag im alten Rathaus zusammen und beschloss nach drei Stunden, "
    "dass die Brücke über den Fluss noch vor dem Winter instand gesetzt werden soll."
)
ENGLISH_ONLY = Look(languages=("en",))


def see(*paragraphs: str, settings: Look = ENGLISH_ONLY) -> LookSignals:
    body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    page = f"<html><body><article>{body}</article></body></html>"
    return look(ResiliparsePage(page, Bounds(1000, 100)), settings)


def test_a_page_in_a_wanted_language_passes_on_its_first_characters() -> None:
    seen = see(*[ENGLISH] * 5)
    assert seen.passes(ENGLISH_ONLY)
    assert (seen.language, seen.passage_chars) == ("en", None)
    assert seen.score > 0.9


def test_a_page_in_another_language_does_not() -> None:
    seen = see(*[GERMAN] * 5)
    assert not seen.passes(ENGLISH_ONLY)
    assert (seen.language, seen.passage_chars) == ("de", 0)


def test_any_of_several_languages_will_do() -> None:
    both = Look(languages=("de", "en"))
    assert see(*[GERMAN] * 5, settings=both).passes(both)
    assert see(*[ENGLISH] * 5, settings=both).passes(both)


def test_a_page_that_turns_to_a_wanted_language_later_passes_on_its_passages() -> None:
    mixed = see(*[GERMAN] * 12, *[ENGLISH * 2] * 3)
    assert mixed.score < 0.3
    assert mixed.passage_chars is not None
    assert mixed.passage_chars >= 6 * len(ENGLISH)
    assert mixed.passes(ENGLISH_ONLY)


def test_one_short_passage_is_not_enough() -> None:
    seen = see(*[GERMAN] * 2, ENGLISH)
    assert seen.passage_chars == len(ENGLISH)
    assert not seen.passes(ENGLISH_ONLY)


def test_a_page_without_text_does_not_pass() -> None:
    assert see("") == LookSignals(0, "", 0.0, 0)
    assert not see("").passes(ENGLISH_ONLY)


def test_where_there_is_little_main_content_the_whole_page_is_looked_at() -> None:
    menu = "".join(f"<li><a href=x>{word}</a></li>" for word in ENGLISH.split())
    page = f"<html><body><nav><ul>{menu}</ul></nav><p>Kurz.</p></body></html>"
    assert look(ResiliparsePage(page, Bounds(1000, 100)), ENGLISH_ONLY).language == "en"


@pytest.mark.parametrize("values", [{"min_score": 1.5}, {"max_chars": 0}, {"min_passage_chars": 0}])
def test_settings_that_make_no_sense_are_named(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"r\.toml: {next(iter(values))} = "):
        from_dict(values, Look, "r.toml")


LONG = "The committee met in the old town hall on Tuesday & decided to go on"


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        (f"<p>{LONG}</p><P class=x>{LONG}", [LONG, LONG]),
        (f"<p>{LONG.replace('&', '&amp;')}<div>{LONG}</div>", [LONG]),
        (f"<p>{LONG[:30]}<b>{LONG[30:]}</b>\n</p>", [LONG]),
        (f"<p>{LONG}<p>short</p><pre>{LONG}</pre>", [LONG]),
        (f"<!-- <p>{LONG}</p> --><p>{LONG}", [LONG]),
        (f'<script>"<p>{LONG}</p>"</script><style><p>{LONG}</style><p>{LONG}', [LONG]),
        (f"<p><img src='data:{'x' * 20_000}", []),
        (f"<p>{LONG}<img src='data:{'x' * 20_000}'>", [LONG]),
        (f"<p {LONG}", []),
        (f"<script><p>{LONG}", []),
        ("", []),
    ],
)
def test_paragraphs_are_found_in_the_source(source: str, texts: list[str]) -> None:
    assert list(paragraphs(source)) == texts


@pytest.mark.parametrize(
    "piece", ["<p>", "<p", "<p><", "<!--", "<script>", "<p>&", "<p><b", "</p>", f"<p>{LONG}<"]
)
def test_hostile_sources_give_little_and_end(piece: str) -> None:
    """Each would take minutes if anything looked at the rest of the source for every piece."""
    assert len(list(paragraphs(piece * 100_000))) <= 100_000


@given(
    st.lists(st.sampled_from(["<p>", "</p>", "<div>", "<!--", "-->", "<b>", LONG, "\n", "&lt;"]))
)
def test_what_is_found_is_text_of_the_page(pieces: list[str]) -> None:
    source = "".join(pieces)
    for text in paragraphs(source):
        assert len(text) >= 60
        assert text == " ".join(text.split())
        assert LONG in text or text in html.unescape(source)


def test_a_reference_of_thousands_of_digits_is_text_like_any_other() -> None:
    """`html.unescape` raises for it, and the page was lost."""
    [text] = paragraphs(f"<p>{ENGLISH} &#{'9' * 5000}; {ENGLISH}</p>")
    assert text.startswith(ENGLISH)
