"""Treebank words against what NLTK 3.10's NLTKWordTokenizer gave, and sentences against Punkt's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.filters.treebank import (
    _LETTERS,
    _MARK,
    _NO_ENDS,
    _STEPS,
    count_sentences,
    split_lines,
    split_sentences,
    split_words,
    words_of_sentences,
)

NLTK_WORDS = [
    ("Don't you can't, we'll, it's, they're.", "Do n't you ca n't , we 'll , it 's , they 're ."),
    ("Cannot gimme gonna gotta lemme wanna go", "Can not gim me gon na got ta lem me wan na go"),
    ('He said "yes" (twice).', "He said `` yes '' ( twice ) ."),
    ('"Quoted," she said.', "`` Quoted , '' she said ."),
    ("$3.88 (roughly 3,36 euros) & 50%", "$ 3.88 ( roughly 3,36 euros ) & 50 %"),
    ("well-known -- really—yes", "well-known -- really — yes"),
    ("«quoted» “curly” ‘single’ it’s", "« quoted » “ curly ” ‘ single ’ it ’ s"),
    ("'em 'tis the dogs' 90's 'quoted'", "' em ' tis the dogs ' 90 's ' quoted '"),
    ("U.S. and Ph.D. e.g. this", "U.S. and Ph.D. e.g. this"),
    ("wait... what?! a,b a:b 12:30 1,000", "wait ... what ? ! a , b a : b 12:30 1,000"),
    ("[1] {x} <b> #tag @user *bold*", "[ 1 ] { x } < b > # tag @ user * bold *"),
    ("`code` ``quoted'' d'ye more'n", "` code ` `` quoted '' d 'ye more 'n"),
    ("http://example.com/a?b=c;d", "http : //example.com/a ? b=c ; d"),
]
PUNKT_SENTENCES = [
    ("One. Two! Three?", ["One.", "Two!", "Three?"]),
    ("Dr. Smith met Mr. J. Doe. Then he left.", ["Dr. Smith met Mr. J. Doe.", "Then he left."]),
    ("It is so... or not. really", ["It is so... or not.", "really"]),
    ('He said "Yes." Then left.', ['He said "Yes."', "Then left."]),
    ("At 5 p.m. it closed in the U.S. and elsewhere.", None),
    ("3.14 is pi. v1.2 came", ["3.14 is pi.", "v1.2 came"]),
]


@pytest.mark.parametrize(("text", "expected"), NLTK_WORDS)
def test_words_of_a_sentence_are_nltks(text: str, expected: str) -> None:
    assert list(words_of_sentences([text])) == [expected.split()]


@pytest.mark.parametrize(("text", "expected"), PUNKT_SENTENCES)
def test_sentences_are_punkts(text: str, expected: list[str] | None) -> None:
    assert split_sentences(text) == (expected or [text])


def test_a_sentence_gives_up_its_last_full_stop_only() -> None:
    assert split_words("I met Dr. No. He left.") == [
        "I",
        "met",
        "Dr.",
        "No",
        ".",
        "He",
        "left",
        ".",
    ]
    assert (count_sentences("I met Dr. No. He left."), count_sentences(" \t")) == (2, 0)


def test_the_record_is_what_an_installed_nltk_gives() -> None:
    nltk = pytest.importorskip("nltk.tokenize.destructive", reason="NLTK is no dependency")
    for text, expected in NLTK_WORDS:
        assert nltk.NLTKWordTokenizer().tokenize(text) == expected.split()


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="ab'\".,:;!?()`- ")))
def test_no_character_but_white_space_and_double_quotes_is_lost(text: str) -> None:
    kept = "".join(c for c in text if not c.isspace() and c not in "\"'`")
    found = "".join(split_words(text))
    assert "".join(c for c in found if c not in "'`") == kept


@pytest.mark.parametrize("piece", ["a ", ". ", "a.", ".)", "'", "`", ", ", "? ", "cannot ", "..."])
def test_time_is_linear_in_a_hostile_text(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    start = time.process_time()
    split_words(text)
    assert time.process_time() - start < 5


def slow_sentences(line: str) -> list[str]:
    """The rule as it reads: of each mark the whole line before it is split again."""
    ends = []
    for mark in _MARK.finditer(line):
        word = line[: mark.start() + 1].rsplit(maxsplit=1)[-1].lstrip("\"'“‘«([{")
        is_known = word.lower() in _NO_ENDS or _LETTERS.fullmatch(word)
        is_end = mark[1].isupper() if word.endswith("..") else not is_known
        if mark[0][0] != "." or is_end:
            ends.append(mark.end())
    bounds = zip([0, *ends], [*ends, len(line)], strict=True)
    return [s for s in (line[start:end].strip() for start, end in bounds) if s]


def slow_words(line: str) -> list[str]:
    """All steps on every sentence."""
    words = []
    for sentence in slow_sentences(line):
        sentence = sentence.replace("\n", " ")
        for pattern, replacement in _STEPS:
            sentence = pattern.sub(replacement, sentence)
        words += sentence.split()
    return words


_PIECES = st.sampled_from(
    [
        *("Dr.", "U.S.", "(", ".", "...", '"', "'", "”", "cannot", "wanna", "gimme", "a", "B"),
        *" " * 5,
    ]
)


@given(st.one_of(st.text(), st.lists(_PIECES).map("".join), st.text(alphabet="aB.?\"' \n\x1c_1")))
def test_sentences_and_words_are_those_of_the_slow_way(line: str) -> None:
    assert split_sentences(line) == slow_sentences(line)
    assert split_words(line) == slow_words(line)


@given(st.lists(st.one_of(st.text(), st.lists(_PIECES).map("".join))))
def test_lines_that_are_split_together_do_not_touch_each_other(lines: list[str]) -> None:
    assert split_lines(lines) == [split_words(line) for line in lines]


def test_sentences_and_words_of_real_texts_are_those_of_the_slow_way(shared: Path) -> None:
    lines = (shared / "corpora" / "wikitext2-valid.txt").read_text().splitlines()
    lines += (shared / "corpora" / "lambada_openai.jsonl").read_text().splitlines()[:500]
    assert [split_sentences(line) for line in lines] == [slow_sentences(line) for line in lines]
    assert split_lines(lines) == [slow_words(line) for line in lines]


@pytest.mark.parametrize("piece", ["a. ", "Dr. ", "... ", ". ", "x.) ", "B? "])
def test_sentences_are_counted_in_linear_time(piece: str) -> None:
    """A megabyte took 12 seconds, one of ". " took 50."""
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    count_sentences(text)
    assert time.process_time() - start < 5
