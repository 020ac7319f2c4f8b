"""FineWeb's rules at their thresholds, with the comparisons of datatrove 0.10."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.filters.fineweb import FineWebQuality
from corpus.filters.rules import Document

LONG = "This line is longer than thirty characters and has words"


def lines(*parts: str) -> str:
    return "\n".join(f"{part} {i} of a list, told apart" for i, part in enumerate(parts))


def fault(text: str) -> str | None:
    return FineWebQuality().fault(FineWebQuality().measure(Document(text)))


def test_prose_is_kept() -> None:
    assert fault(f"{LONG}.\n{LONG} too.") is None


@pytest.mark.parametrize(("punctuated", "expected"), [(12, None), (11, "too_few_punctuated_lines")])
def test_twelve_lines_of_a_hundred_must_end(punctuated: int, expected: str | None) -> None:
    numbered = [f"{LONG} {i}" for i in range(100)]
    text = "\n".join(line + "." * (i < punctuated) for i, line in enumerate(numbered))
    assert fault(text) == expected


@pytest.mark.parametrize(("short", "expected"), [(67, None), (68, "too_many_short_lines")])
def test_sixty_seven_lines_of_a_hundred_may_be_short(short: int, expected: str | None) -> None:
    numbered = [f"a line of {i} words at most." for i in range(short)]
    assert max(map(len, numbered)) <= 30
    assert fault("\n".join(numbered + [f"{LONG} {i}." for i in range(100 - short)])) == expected


def test_a_line_of_thirty_characters_is_short() -> None:
    measure = FineWebQuality().measure
    assert measure(Document("x" * 30 + "\n" + "x" * 31))["frac_short_lines"] == 0.5


def test_repeated_lines_are_named() -> None:
    body = "".join(f"{LONG} {i}.\n" for i in range(50))
    assert fault(f"{body}Read on.\nRead on.") is None
    assert fault(f"{body}{LONG}.\n{LONG}.") == "duplicate_line_chars"


def test_a_list_is_named() -> None:
    text = "\n".join(
        f"incomprehensibilities-{i}-antidisestablishmentarianism_{i}." for i in range(9)
    )
    assert FineWebQuality().measure(Document(text))["newlines_per_word"] < 0.3
    text = "\n".join(f"{'incomprehensibility' * 2}{i}." for i in range(9))
    assert fault(text) == "list_like"


@pytest.mark.parametrize("end", ["。", "؟", "!", "‽"])
def test_a_line_may_end_in_any_script(end: str) -> None:
    assert FineWebQuality().measure(Document(LONG + end))["frac_punctuated_lines"] == 1


def test_the_released_data_set_took_quotes_for_ends_and_rejected_at_the_threshold() -> None:
    released = FineWebQuality(terminal_punctuation=".'\"!?", reject_at_threshold=True)
    signals = released.measure(Document(f'{LONG}"\n{LONG}。\n{LONG}'))
    assert signals["frac_punctuated_lines"] == pytest.approx(1 / 3)
    at = {"frac_punctuated_lines": 0.12, "frac_short_lines": 0, "frac_duplicate_line_chars": 0}
    assert released.fault({**at, "newlines_per_word": 0}) == "too_few_punctuated_lines"
    assert FineWebQuality().fault({**at, "newlines_per_word": 0}) is None
    at |= {"frac_punctuated_lines": 1, "newlines_per_word": 0.3}
    assert released.fault(at) is None


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="ab .\n")))
def test_shares_stay_in_range(text: str) -> None:
    signals = FineWebQuality().measure(Document(text))
    assert list(signals) == [field.name for field in FineWebQuality.SIGNALS]
    assert all(0 <= signals[name] <= 1 for name in signals if name.startswith("frac_"))
    assert signals["newlines_per_word"] >= 0


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="short_line_length = -1"):
        FineWebQuality(short_line_length=-1)
    with pytest.raises(ValueError, match="max_newlines_per_word = nan"):
        FineWebQuality(max_newlines_per_word=float("nan"))
