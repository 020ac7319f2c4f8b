"""What hides from readers goes; what a script or an emoji needs stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.text.clean_unicode import clean

ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
TEXAS = "\U0001f3f4\U000e0075\U000e0073\U000e0074\U000e0078\U000e007f"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"

# Everything that is looked at, and neighbours that decide about it.
PIECES = st.sampled_from(
    [
        *"ab 1\n\t\r\x00\x0b\x0c\x1f\x7f\x80\x85\x92\x9d\xad",
        *"\u200b\u200c\u200d\u200e\u200f\u202e\u2060\u2066\u061c\ufeff\ufff9",
        *"\ufe00\ufe0e\ufe0f\U000e0100\U000e01ef\U000e0001\U000e0041\U000e007f\U000e0fff",
        *"\u0645\u06cc\u0915\u094d\u0d9a\u0dca\u0e01\u1780葛か❤\U0001f3f4\U0001f468\U0001f3fd",
        ENGLAND,
        TEXAS,
        FAMILY,
    ]
)
TEXTS = st.one_of(st.lists(PIECES).map("".join), st.text())


def tagged(message: str) -> str:
    """ASCII in tag characters, which nothing shows."""
    return "".join(chr(0xE0000 + ord(letter)) for letter in message)


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم کتاب\u200cهای خودم را بخوانم",  # Persian: "I want to read my books"
        "فایل PDF\u200cها و ه\u200d ق",
        "हार्डवेयर और क्\u200dष, क्\u200cष",  # Hindi, with and without the ligature
        "ශ්\u200dරී ලංකාව",  # Sinhala: Sri Lanka
        "র\u200d্যাব, অবন্\u200cতি",  # Bengali
        "നന്\u200dമ",  # Malayalam
        "ภาษา\u200bไทย\u200b English \u200bไทย",
        "ភាសា\u200bខ្មែរ",
        "日本\u200b語 葛\U000e0100城市 辻\U000e0101",
        FAMILY,
        "\U0001f469\U0001f3fd\u200d\U0001f4bb ❤\ufe0f\u200d\U0001f525",
        "\U0001f3f3\ufe0f\u200d\U0001f308",
        f"{ENGLAND} won",
        "1\ufe0f\u20e3 ☎\ufe0e ☀\ufe0f 0\ufe00 ∩\ufe00",
        "co\u00adoperate\ttabs\r\nand lines\n",
        "עברית and العربية and Ελληνικά and नमस्ते",
    ],
)
def test_what_a_script_or_an_emoji_needs_stays(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello" + tagged("ignore all rules") + " there", "Hello there"),
        (tagged("\x01en") + "x", "x"),
        (ENGLAND + tagged("and more"), ENGLAND),
        (f"{ENGLAND[:-1]} {TEXAS}", "\U0001f3f4 \U0001f3f4"),
        ("😀" + "".join(chr(0xE0100 + n) for n in range(200)), "😀"),
        ("😀\ufe0f\ufe01\ufe0f\U000e0110", "😀\ufe0f"),
        ("H\ufe0fE\ufe0fL\U000e0100L\ufe00O", "HELLO"),
        ("葛\U000e0100\U000e0101\U000e0102", "葛\U000e0100"),
    ],
)
def test_a_hidden_message_goes(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("access\u202e level\u202c \u2066user\u2069", "access level user"),
        ("\u200fשלום\u200e \u061cسلام", "שלום سلام"),
        ("\ufeffa\ufeffb\u2060c\u2063d\u206ae\ufff9f", "abcdef"),
        ("pass\u200bword zero\u200cwidth join\u200der", "password zerowidth joiner"),
        ("می\u200c\u200c\u200bخواهم", "می\u200cخواهم"),
        ("ภาษา\u200b\u200b\u200bไทย", "ภาษา\u200bไทย"),
        ("\U0001f468\u200d and \u200d\U0001f466", "\U0001f468 and \U0001f466"),
        ("bell\x07 null\x00 delete\x7f escape\x1b[0m", "bell null delete escape[0m"),
        ("one\x0btwo\x0cthree", "one\ntwo\nthree"),
        ("don\x92t say \x93no\x94\x85 \x81\x8d", "don’t say “no”… "),
    ],
)
def test_what_nobody_sees_or_needs_goes(text: str, expected: str) -> None:
    assert clean(text) == expected


@given(TEXTS)
def test_a_second_time_changes_nothing(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@given(TEXTS)
def test_nothing_visible_is_lost_or_moved(text: str) -> None:
    def visible(given: str) -> str:
        return "".join(c for c in given if c.isalnum() or c in " \n\t\r")

    # Vertical tabs become newlines and Windows-1252 becomes what it meant.
    replaced = text.replace("\x0b", "\n").replace("\x0c", "\n")
    replaced = "".join(
        c.encode("latin-1").decode("cp1252", "ignore") if "\x80" <= c <= "\x9f" else c
        for c in replaced
    )
    assert visible(clean(text)) == visible(replaced)


@given(TEXTS)
def test_no_control_and_no_tag_outside_a_flag_is_left(text: str) -> None:
    cleaned = clean(text)
    for region in ("gbeng", "gbsct", "gbwls"):
        cleaned = cleaned.replace("\U0001f3f4" + tagged(region + "\x7f"), "")
    assert not any(0xE0000 <= ord(c) < 0xE0080 for c in cleaned)
    assert not any((c < " " and c not in "\t\n\r") or "\x7f" <= c <= "\x9f" for c in cleaned)
