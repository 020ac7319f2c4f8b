"""RefinedWeb's corrections by line, against DCLM's order of them written out naively."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.filters.refinedweb import RefinedWebLines
from corpus.filters.rules import Document
from schemas.config import from_dict
from schemas.errors import UserError

PROSE = "The mill by the river ground corn for the whole valley, and people came to it with carts."
COUNTED = "likes shares comments retweets reposts quotes bookmarks upvotes downvotes downloads"


def measure(text: str, **settings: Any) -> dict[str, Any]:
    return RefinedWebLines(**settings).measure(Document(text))


def rewritten(text: str, **settings: Any) -> str:
    return RefinedWebLines(**settings).rewrite(Document(text)).text


def fault(text: str) -> str | None:
    return RefinedWebLines().fault(measure(text))


@pytest.mark.parametrize(
    ("line", "signal"),
    [
        ("READ THIS NOW or not", "num_uppercase_lines"),
        ("ЧИТАЙТЕ ЭТО сейчас", "num_uppercase_lines"),
        ("2024", "num_numeric_lines"),
        ("3 likes", "num_counter_lines"),
        ("- 1,204.5K Followers -", "num_counter_lines"),
        ("Menu", "num_short_lines"),
        ("  ", "num_short_lines"),
        ("Items in cart", "num_phrase_lines"),
        ("Read more >>", "num_phrase_lines"),
    ],
)
def test_a_line_is_dropped_and_counted(line: str, signal: str) -> None:
    text = f"{PROSE}\n{line}\n{PROSE}"
    assert rewritten(text) == f"{PROSE}\n{PROSE}"
    signals = measure(text)
    assert (signals[signal], signals["num_kept_lines"], signals["num_lines"]) == (1, 2, 3)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("3 items in cart", "3"),
        ("All about mills Read more...", "All about mills"),
        ("Sign-in to comment", "to comment"),
        ("sign-in first, then read more about it", "first, then read more about it"),
        (f"{PROSE} Read more...", f"{PROSE} Read more..."),  # longer than ten words
        ("we do like 3 likes", "we do like 3 likes"),
        ("HALF half", "HALF half"),
    ],
)
def test_a_phrase_is_cut_out_of_a_short_line(line: str, kept: str) -> None:
    assert rewritten(f"{PROSE}\n{line}") == f"{PROSE}\n{kept}"


def test_blank_lines_stay_two_at_most() -> None:
    assert rewritten("one line\n\n\n\nother line\n\nthird line") == (
        "one line\n\nother line\n\nthird line"
    )


def test_a_page_may_lose_one_word_in_twenty() -> None:
    words = " ".join(f"w{i}" for i in range(19))
    assert fault(f"{words}\nMenu") is None
    assert measure(f"{words}\nMenu")["frac_removed_words"] == pytest.approx(0.05)
    assert fault(f"{words[:-4]}\nMenu") == "too_many_words_removed"
    assert fault("") == fault("!!!") == "too_many_words_removed"


def naive(text: str) -> str:
    """DCLM's steps, one after the other over the whole page."""
    text = re.sub(r"\n{3,}", "\n\n", text)
    lines = text.split("\n")
    lines = [x for x in lines if not x or sum(c.isupper() for c in x) / len(x) <= 0.5]
    lines = [x for x in lines if not x or sum(c.isdigit() for c in x) / len(x) <= 0.999999]
    counter = rf"^\W*\d(?:,|\.|\d)*(?:k|m|b)?\s+(?:{'|'.join(COUNTED.split())}|views|followers)\W*$"
    lines = [x for x in lines if not re.search(counter, x.lower())]
    lines = [x for x in lines if not x or len(x.split()) >= 2]
    for pattern in (r"\s?(?:items in cart)", r"\s?(?:read more...)$", r"^(?:sign-in)\s?"):
        cut = [re.sub(pattern, "", x, flags=re.I) if len(x.split()) <= 10 else x for x in lines]
        pairs = zip(lines, cut, strict=True)
        lines = [new for old, new in pairs if not old or (new and not new.isspace())]
    return "\n".join(lines).strip()


WORDS = ["3", "likes", "12,5K", "ABC", "word", "Sign-in", "Read more...", "items in cart", "read"]
LINES = st.lists(st.sampled_from([*WORDS, "more", "*", "a"]), max_size=12).map(" ".join)


@settings(deadline=None)
@given(st.one_of(st.lists(st.one_of(LINES, st.just("")), max_size=8).map("\n".join), st.text()))
def test_the_text_is_what_dclms_steps_leave(text: str) -> None:
    assert rewritten(text) == naive(text)


@settings(deadline=None)
@given(st.one_of(st.lists(LINES, max_size=8).map("\n".join), st.text()))
def test_every_line_has_one_fate(text: str) -> None:
    signals = measure(text)
    fates = ("kept", "uppercase", "numeric", "counter", "short", "phrase")
    assert sum(signals[f"num_{fate}_lines"] for fate in fates) == signals["num_lines"]
    assert list(signals) == [field.name for field in RefinedWebLines.SIGNALS]
    assert 0 <= signals["frac_removed_words"] <= 1


def test_line_rules_can_be_turned_off() -> None:
    off: dict[str, Any] = {
        "max_frac_uppercase": 1.0,
        "drop_numeric_lines": False,
        "drop_counter_lines": False,
        "min_words_per_line": 0,
        "phrases": (),
        "phrases_at_end": (),
        "phrases_at_start": (),
    }
    text = "MENU\n2024\n3 likes\nread more...\nsign-in 3 items in cart"
    assert rewritten(text, **off) == text


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="max_newlines = 0: must be at least 1"):
        from_dict({"max_newlines": 0}, RefinedWebLines, "r.toml")
    with pytest.raises(UserError, match=r"max_frac_uppercase = 1\.5: must be at least 0 and at"):
        from_dict({"max_frac_uppercase": 1.5}, RefinedWebLines, "r.toml")
