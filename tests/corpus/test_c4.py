"""C4's line rules: what happens to a line, and to the page that has it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.filters.c4 import C4
from corpus.filters.rules import Document
from schemas.config import from_dict
from schemas.errors import UserError

FIVE = "One more line. And two. And three. And four. And five."
LINES = st.sampled_from(
    [
        FIVE,
        "Too short",
        "",
        "  ",
        "enable javascript to go on",
        "we use cookies here, yes.",
        "a {b} c d",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(LINES, st.text())).map("\n".join))


def measure(text: str, **settings: Any) -> dict[str, Any]:
    return C4(**settings).measure(Document(text))


def rewritten(text: str, **settings: Any) -> str:
    return C4(**settings).rewrite(Document(text)).text


def fault(text: str) -> str | None:
    return C4().fault(measure(text))


@pytest.mark.parametrize(
    ("line", "signal"),
    [
        ("two words", "num_short_lines"),
        ("", "num_short_lines"),
        (f"a word of {'x' * 1001} letters", "num_long_word_lines"),
        ("Please enable JavaScript to view this.", "num_javascript_lines"),
        ("By going on you accept our Privacy Policy.", "num_policy_lines"),
    ],
)
def test_a_line_is_dropped_and_counted(line: str, signal: str) -> None:
    text = f"{FIVE}\n{line}\n{FIVE}"
    assert rewritten(text) == f"{FIVE}\n{FIVE}"
    signals = measure(text)
    assert signals[signal] == 1
    assert signals["num_kept_lines"] == 2
    assert signals["num_sentences"] == 10


def test_lines_are_stripped_and_citations_go() -> None:
    assert rewritten(f"  {FIVE} \n A fact[12] that is known[citation needed]. ") == (
        f"{FIVE}\nA fact that is known."
    )


def test_a_text_without_a_fault_is_the_same_document() -> None:
    doc = Document(f"{FIVE}\n{FIVE}")
    assert C4().rewrite(doc) is doc


def test_words_are_counted_before_citations_go() -> None:
    assert rewritten("two words [1]") == "two words"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FIVE, None),
        ("One sentence here. Two of them. Three. Four.", "too_few_sentences"),
        (f"{FIVE}\nLorem ipsum dolor sit amet.", "lorem_ipsum"),
        (f"{FIVE}\nfunction f() {{ return 1 }}", "curly_bracket"),
        (f"{FIVE}\na {{", None),  # too short a line: dropped before it is looked at
        (f"{FIVE}\njavascript on this {{ line }}", None),
    ],
)
def test_a_page_is_condemned_by_name(text: str, expected: str | None) -> None:
    assert fault(text) == expected


def test_sentences_are_those_of_the_chosen_splitter() -> None:
    text = "And so on... Then he left."
    assert measure(text)["num_sentences"] == 1
    assert measure(text, sentences="treebank")["num_sentences"] == 2


def test_terminal_punctuation_can_be_required() -> None:
    text = f"{FIVE}\nA menu without an end\nAnd so it goes on...\n"
    assert rewritten(text) == f"{FIVE}\nA menu without an end\nAnd so it goes on..."
    assert rewritten(text, require_terminal_punctuation=True) == FIVE
    assert measure(text, require_terminal_punctuation=True)["num_unpunctuated_lines"] == 2


def test_line_rules_can_be_turned_off() -> None:
    text = "We use cookies and javascript[1] here.\nab"
    off = {"drop_policy_lines": False, "drop_javascript_lines": False, "min_words_per_line": 0}
    assert rewritten(text, remove_citations=False, **off) == text


@settings(deadline=None)
@given(TEXTS)
def test_every_line_has_one_fate(text: str) -> None:
    signals = measure(text)
    fates = ("kept", "long_word", "unpunctuated", "short", "javascript", "policy")
    assert sum(signals[f"num_{fate}_lines"] for fate in fates) == signals["num_lines"]
    assert list(signals) == [field.name for field in C4.SIGNALS]


@settings(deadline=None)
@given(TEXTS)
def test_what_is_kept_is_kept_again(text: str) -> None:
    once = rewritten(text, remove_citations=False)
    assert rewritten(once, remove_citations=False) == once


@pytest.mark.parametrize("name", ["min_words_per_line", "max_word_length", "min_sentences"])
def test_a_negative_limit_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} = -1: must be at least 0"):
        from_dict({name: -1}, C4, "r.toml")
