"""Treebank words against what NLTK 3.10's NLTKWordTokenizer gave, and sentences against Punkt's."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import treebank
from corpus.treebank import count_sentences, split_sentences, split_words

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
    assert treebank._split_sentence(text) == expected.split()


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
