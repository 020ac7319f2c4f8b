"""Units of a text by hash, and texts without some of them."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.dedup import line_hashes
from corpus.dedup.line_hashes import Passages, Unit
from corpus.dedup.word_hashes import normalise
from schemas.config import from_dict
from schemas.errors import UserError

UNITS: tuple[Unit, ...] = ("line", "paragraph")
# Few words, so that lines repeat; other letters, marks and blanks that all mean the same.
LINES = st.lists(
    st.sampled_from(
        ["one", "One!", "two", "two 7", "two 8", "дом", "家", "-", "\u00a0", "\t", "\r"]
    ),
    max_size=4,
).map(" ".join)
TEXTS = st.lists(st.one_of(LINES, st.text(max_size=5)), max_size=12).map("\n".join)


def rows(*texts: str, **settings: object) -> list[dict]:
    chosen = from_dict({"unit": "line", "min_words": 1, **settings}, Passages, "r.toml")
    nodes = pa.array(range(len(texts)), pa.int64())
    return line_hashes.list_units(nodes, texts, chosen).to_pylist()


def oracle(text: str, unit: Unit, min_words: int) -> list[tuple[str, int, int, int, bool]]:
    """(normalised unit, place, words, characters, again) of the units that count."""
    found, seen = [], Counter[str]()
    for place, part in enumerate(slow_units(text, unit)):
        words = normalise(part)
        if len(words.split()) >= min_words:
            found.append((words, place, len(words.split()), len(part), seen[words] > 0))
            seen[words] += 1
    return found


def slow_units(text: str, unit: Unit) -> list[str]:
    found, open_block = [], False
    for line in text.split("\n"):
        if not line.strip():
            open_block = False
        elif unit == "paragraph" and open_block:
            found[-1] += f"\n{line}"
        else:
            found.append(line)
            open_block = True
    return found


def test_lines_and_paragraphs_are_what_stands_between_blank_lines() -> None:
    text = "\n \na first line\nits second\n\t\n\nanother\u2028line\n"
    assert line_hashes.units(text, "line") == ["a first line", "its second", "another\u2028line"]
    assert line_hashes.units(text, "paragraph") == ["a first line\nits second", "another\u2028line"]


@pytest.mark.parametrize(
    ("text", "places", "expected"),
    [
        ("a\nb\nc", [1], "a\nc"),
        ("a\n\nb\n\nc", [1], "a\n\nc"),
        ("a\nb\n\nc", [1], "a\n\nc"),  # a paragraph's end stays one
        ("a\n\nb\n\n\nc\n\nd", [1, 2], "a\n\n\nd"),
        ("a\n\nb\n", [1], "a"),
        ("\n\na\n\nb", [0], "b"),
        ("\na\n\nb\n", [], "\na\n\nb\n"),
        ("\na\nb\nc\n", [1], "\na\nc\n"),
        ("a\nb", [0, 1], ""),
        ("", [], ""),
    ],
)
def test_what_stays_is_joined_without_a_trace(text: str, places: list[int], expected: str) -> None:
    assert line_hashes.without(text, places, "line") == expected


def test_paragraphs_go_whole() -> None:
    text = "a\nb\n\nc\nd\n\ne\nf"
    assert line_hashes.without(text, [1], "paragraph") == "a\nb\n\ne\nf"


@given(TEXTS, st.sampled_from(UNITS), st.sets(st.integers(0, 12)))
def test_the_other_units_stay_as_they_are(text: str, unit: Unit, chosen: set[int]) -> None:
    before = line_hashes.units(text, unit)
    assert before == slow_units(text, unit)
    places = chosen & set(range(len(before)))
    after = line_hashes.without(text, places, unit)
    assert line_hashes.units(after, unit) == [u for i, u in enumerate(before) if i not in places]
    if not places:
        assert after is text


@given(st.lists(TEXTS, max_size=4), st.sampled_from(UNITS), st.integers(1, 4))
def test_listed_units_are_those_of_the_oracle(texts: list[str], unit: Unit, least: int) -> None:
    listed = rows(*texts, unit=unit, min_words=least)
    hash_of: dict[str, int] = {}
    for node, (text, row) in enumerate(zip(texts, listed, strict=True)):
        assert row["node"] == node
        assert row["num_units"] == len(slow_units(text, unit))
        assert row["num_words"] == len(normalise(text).split())
        expected = oracle(text, unit, least)
        fields = ("place", "words", "chars", "again")
        assert [tuple(u[f] for f in fields) for u in row["units"]] == [e[1:] for e in expected]
        for (words, *_), found in zip(expected, row["units"], strict=True):
            assert hash_of.setdefault(words, found["hash"]) == found["hash"]
    assert len(set(hash_of.values())) == len(hash_of)


def test_the_order_and_number_of_words_tell_units_apart() -> None:
    lines = ["a b c", "c b a", "a b", "a a", "a a a", "b", "a", "a b c d"]
    (row,) = rows("\n".join(lines))
    assert len({unit["hash"] for unit in row["units"]}) == len(lines)


def test_a_batch_gives_what_its_texts_give_alone() -> None:
    texts = ["", "one two\nthree", "\n", "three\nthree", "one two"]
    alone = [row["units"] for text in texts for row in rows(text)]
    assert [row["units"] for row in rows(*texts)] == alone
    assert rows() == []


def test_words_of_scripts_without_spaces_count_one_by_one() -> None:
    assert [unit["words"] for unit in rows("東京都に住む")[0]["units"]] == [6]


def test_a_line_of_ten_megabytes_and_a_million_lines_are_listed_and_cut() -> None:
    line = "five words and no end " * 450_000
    many = "\n".join(f"w{chr(97 + i % 26)} x" for i in range(1_000_000))
    settings = Passages(unit="line", min_words=2)
    listed = line_hashes.list_units(pa.array([1, 2]), [line, many], settings)
    assert listed["num_units"].to_pylist() == [1, 1_000_000]
    assert listed["num_words"].to_pylist() == [2_250_000, 2_000_000]
    found = listed["units"].values
    assert found[0]["words"].as_py() == 2_250_000
    again = found.filter(found.field("again"))
    assert len(found) - len(again) == 1 + 26
    assert (
        len(line_hashes.without(many, again.field("place").to_pylist(), "line").split("\n")) == 26
    )


def test_without_the_option_texts_are_as_they_were() -> None:
    assert line_hashes.cut(["a\na"], [[1]], Passages()) == ["a\na"]
    assert line_hashes.cut(["a\na", "b"], [[1], None], Passages(unit="line")) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("min_words", 0, 1), ("min_documents", 1, 2), ("min_words_left", 0, 1)],
)
def test_a_setting_that_makes_no_sense_is_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(UserError, match=f"{name} = {value}: must be at least {least}"):
        from_dict({name: value}, Passages, "r.toml")
