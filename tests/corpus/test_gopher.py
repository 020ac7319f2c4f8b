"""Gopher's rules against datatrove's definitions, written out naively, and at their thresholds."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.filters.gopher import GopherQuality, GopherRepetition
from corpus.filters.rules import Document
from schemas.config import from_dict
from schemas.errors import UserError

PROSE = (
    "The mill by the river ground corn for the whole valley, and people came to it with their "
    "carts in autumn. Nobody remembered who had built the wheel or when its stones were cut. "
    "Children were told that a miller who cheated would have to turn them himself until spring, "
    "which is why every sack was weighed twice while its owner watched."
)

FEW_WORDS = st.lists(st.sampled_from(["ab", "c", "dd", "eee", "f"]), max_size=60).map(" ".join)
TEXTS = st.one_of(FEW_WORDS, st.text())


def naive_top(words: list[str], n: int) -> int:
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not grams:
        return 0
    gram, count = Counter(grams).most_common(1)[0]
    return len(gram) * count


def naive_duplicate(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    chars = i = 0
    while i + n <= len(words):
        gram = tuple(words[i : i + n])
        if gram in seen:
            chars += len("".join(gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return chars


@settings(deadline=None)
@given(TEXTS)
def test_n_gram_signals_equal_the_naive_ones(text: str) -> None:
    doc = Document(text)
    signals = GopherRepetition().measure(doc)
    for n in (2, 3, 4):
        assert signals[f"top_{n}_gram"] * len(text) == pytest.approx(naive_top(doc.words().flat, n))
    for n in range(5, 11):
        share = signals[f"frac_duplicate_{n}_grams"]
        assert share * len(text) == pytest.approx(naive_duplicate(doc.words().flat, n))


@settings(deadline=None)
@given(TEXTS)
def test_shares_of_a_whole_stay_between_0_and_1(text: str) -> None:
    doc = Document(text)
    signals = {**GopherRepetition().measure(doc), **GopherQuality().measure(doc)}
    for name, value in signals.items():
        assert value >= 0
        assert math.isfinite(value)
        assert value <= 1 or not name.startswith("frac_")


@settings(deadline=None)
@given(TEXTS)
def test_what_is_measured_has_the_declared_names(text: str) -> None:
    for filter_ in GopherRepetition(), GopherQuality():
        assert list(filter_.measure(Document(text))) == [f.name for f in filter_.SIGNALS]


def fault(filter_: GopherQuality | GopherRepetition, text: str) -> str | None:
    return filter_.fault(filter_.measure(Document(text)))


def test_prose_is_kept() -> None:
    assert fault(GopherRepetition(), PROSE) is None
    assert fault(GopherQuality(), PROSE) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one paragraph\n\n" * 2 + "and another", "duplicate_paragraphs"),
        ("x" * 40 + "\n\n" + "x" * 40 + "\n\na\n\nb\n\nc", "duplicate_paragraph_chars"),
        ("same\nsame\nother one", "duplicate_lines"),
        ("x" * 40 + "\n" + "x" * 40 + "\na\nb\nc", "duplicate_line_chars"),
        ("over there " * 8, "top_2_gram"),
        (f"{PROSE}\n{PROSE[:170]}", "duplicate_5_grams"),
    ],
)
def test_a_repetition_is_named(text: str, expected: str) -> None:
    assert fault(GopherRepetition(), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROSE[:200], "too_few_words"),
        (f"{PROSE} " * 2000, "too_many_words"),
        ("I a be to of " * 20, "short_mean_word"),
        ("internationalisation the and " * 9 + "internationalisation " * 40, "long_mean_word"),
        (f"{PROSE} # # # # # # # # # # #", "too_many_hashes"),
        (PROSE.replace(" the ", " ... ").replace(" it", "…it") + " ..." * 5, "too_many_ellipses"),
        ("\n".join(f"- {w} the and" for w in PROSE.split()), "too_many_bullet_lines"),
        (f"{PROSE}\nand so on...\nread more…", "too_many_ellipsis_lines"),
        (f"{PROSE} " + "1234 567 " * 20, "too_few_alphabetic_words"),
        ("Mühle Wasser Korn Sack Stein Rad Müller " * 10, "too_few_stop_words"),
    ],
)
def test_what_is_no_prose_is_named(text: str, expected: str) -> None:
    assert fault(GopherQuality(), text) == expected


def test_thresholds_themselves_are_kept() -> None:
    signals = GopherQuality().measure(Document(PROSE))
    exact = GopherQuality(min_words=signals["num_words"], max_words=signals["num_words"])
    assert exact.fault(signals) is None
    assert GopherQuality(min_words=signals["num_words"] + 1).fault(signals) == "too_few_words"


def test_stop_words_count_once_each_and_by_their_case() -> None:
    measure = GopherQuality().measure
    assert measure(Document("the the the The"))["num_stop_words"] == 1
    assert measure(Document("the and that"))["num_stop_words"] == 3


def test_stop_words_can_count_by_occurrence() -> None:
    counting = GopherQuality(count_stop_word_occurrences=True)
    assert counting.measure(Document("the the the The"))["num_stop_words"] == 3
    assert counting.measure(Document("the and that"))["num_stop_words"] == 3


def test_blank_lines_are_lines_where_all_line_ends_count() -> None:
    text = "one\n\ntwo\n\nthree\n\nfour\u2028five"
    runs = GopherRepetition().measure(Document(text))
    lines = GopherRepetition(line_ends="all").measure(Document(text))
    assert runs["frac_duplicate_lines"] == 0
    assert lines["frac_duplicate_lines"] == pytest.approx(2 / 8)


def test_words_are_those_of_the_chosen_splitter() -> None:
    text = 'cannot say "so"'
    counts = {"spacy": 4, "treebank": 4, "spaces": 3}
    for splitter, num_words in counts.items():
        filter_ = from_dict({"words": splitter}, GopherQuality, "r.toml")
        assert filter_.measure(Document(text))["num_words"] == num_words
    quoted = {s: len(Document(text).words(s).flat) for s in counts}  # type: ignore[arg-type]
    assert quoted == {"spacy": 6, "treebank": 6, "spaces": 3}


def test_bullets_are_a_setting() -> None:
    text = "* one\n* two\nthree\nfour"
    assert GopherQuality().measure(Document(text))["frac_bullet_lines"] == 0
    assert GopherQuality(bullets=("*",)).measure(Document(text))["frac_bullet_lines"] == 0.5


def test_settings_come_from_toml_and_are_checked() -> None:
    built = from_dict({"min_words": 10, "stop_words": ["der", "die"]}, GopherQuality, "r.toml")
    assert built == GopherQuality(min_words=10, stop_words=("der", "die"))
    with pytest.raises(UserError, match=r"r\.toml: min_words = -1: must be at least 0"):
        from_dict({"min_words": -1}, GopherQuality, "r.toml")
    with pytest.raises(UserError, match="did you mean 'max_top_2_gram'"):
        from_dict({"max_top2_gram": 0.1}, GopherRepetition, "r.toml")
