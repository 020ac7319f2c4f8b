"""Words and sentences against what spaCy 3.8's blank "en" with its sentencizer gave."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.filters import words
from corpus.filters.words import count_sentences, is_symbol, split_words

SPACY_WORDS = [
    (
        "Don't you can't, we'll, I'd've, it's, they're.",
        "Do n't you ca n't , we 'll , I 'd 've , it 's , they 're .",
    ),
    (
        "cannot gonna let's y'all Wont wed ill",
        "can not gon na let 's y' all Wo nt we d ill",
    ),
    (
        "Mr. Smith's U.S. office, e.g. St. Paul, D.C. and Ph.D. etc.",
        "Mr. Smith 's U.S. office , e.g. St. Paul , D.C. and Ph.D. etc .",
    ),
    (
        '("well-known") state-of-the-art co-op--really—yes',
        '( " well - known " ) state - of - the - art co - op -- really — yes',
    ),
    (
        "$5.00 US$50 1,000.50 10km 5m/s 50% 3GB 20°C 72°F.",
        "$ 5.00 US$ 50 1,000.50 10 km 5 m/s 50 % 3 GB 20 ° C 72 ° F .",
    ),
    (
        "see http://example.com/a?b=c, www.example.co.uk. a.b@example.com! mailto:x@y.org",
        "see http://example.com/a?b=c , www.example.co.uk . a.b@example.com ! mailto:x@y.org",
    ),
    (
        "end... foo…bar ..hidden and so on....",
        "end ... foo … bar .. hidden and so on ....",
    ),
    (
        "5pm 10a.m. 2-3 4+5 x=y a/b and/or w/o",
        "5 pm 10 a.m. 2 - 3 4 + 5 x = y a / b and/or w/o",
    ),
    (
        "Hello,world The.End U.S.A. F.B.I.",
        "Hello , world The . End U.S.A. F.B.I.",
    ),
    (
        "(a :) fine ;-) <3 (foo): C++ C# #tag @user",
        "( a :) fine ;-) <3 ( foo ): C++ C # # tag @user",
    ),
    (
        "«quoted» “curly” ‘single’ it’s don’t",
        "« quoted » “ curly ” ‘ single ’ it ’s do n’t",
    ),
    (
        "1. First 2) Second [3] {x} |y| *bold* _it_",
        "1 . First 2 ) Second [ 3 ] { x } |y| * bold * _ it _",
    ),
    (
        "v1.2.3.4 192.168.1.1 8.8.8.8 1.5x",
        "v1.2.3.4 192.168.1.1 8.8.8.8 1.5x",
    ),
    (
        "rock'n'roll o'clock 'cause 90's the '80s dogs'",
        "rock'n'roll o'clock 'cause 90 's the ' 80s dogs '",
    ),
    (
        "100+ +44 -5 ~7 §3 №4 ©2020 ® ™",
        "100 + +44 -5 ~7 § 3 № 4 © 2020 ® ™",
    ),
    (
        "A:B c:d 12:30 key=value <b>bold</b>",
        "A : B c : d 12:30 key = value < b > bold</b >",
    ),
    (
        "Москва-Питер naïve.Naïve 中文。句子",
        "Москва - Питер naïve . Naïve 中文。句子",
    ),
    (
        "wait?!what !!! ??? ... --- ***",
        "wait?!what ! ! ! ? ? ? ... --- * * *",
    ),
]

SPACY_SENTENCES = [
    ("One. Two! Three?", 3),
    ("One... two.", 1),
    ('He said "Yes." Then left.', 2),
    ("No end", 1),
    ("Wait?! What. 3.14 is pi.", 3),
    ("Mr. Smith left. e.g. this", 2),
    ("...", 1),
    ("! ? !", 1),
    ("中文。句子。", 1),
    ("A.B. C", 1),
]


@pytest.mark.parametrize(("text", "expected"), SPACY_WORDS)
def test_words_are_spacys(text: str, expected: str) -> None:
    assert split_words(text) == expected.split()


@pytest.mark.parametrize(("text", "expected"), SPACY_SENTENCES)
def test_sentences_are_spacys(text: str, expected: int) -> None:
    assert count_sentences(split_words(text)) == expected


def test_the_record_is_what_an_installed_spacy_gives() -> None:
    spacy = pytest.importorskip("spacy", reason="spaCy is no dependency")
    english = spacy.blank("en")
    english.add_pipe("sentencizer")
    for text, expected in SPACY_WORDS:
        assert [token.text for token in english(text)] == expected.split()
    for text, sentences in SPACY_SENTENCES:
        assert len(list(english(text).sents)) == sentences


PIECES = st.sampled_from(["don't", "U.S.", "(", ")", "...", ".", "a@b.com", "http://", "5km", ":)"])
TEXTS = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3))).map("".join))


@settings(deadline=None)
@given(TEXTS)
def test_no_character_but_white_space_is_lost(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())


@settings(deadline=None)
@given(st.one_of(TEXTS, st.sampled_from(sorted(words._KNOWN)), st.from_regex(r"\w{1,5}[,.;:!?’]?")))
def test_shortcuts_give_what_the_affix_rules_give(text: str) -> None:
    for piece in text.split():
        for part in (piece, f"{piece},", f"{piece}."):
            assert words._split_piece(part) == words._split_affixes(part)


@settings(deadline=None)
@given(TEXTS)
def test_words_do_not_depend_on_what_was_split_before(text: str) -> None:
    first = split_words(text)
    words._cache.clear()
    assert split_words(text) == first


def test_the_cache_of_pieces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words._TokenCache, "MAX_PIECES", 10)
    words._cache.clear()
    split_words(" ".join(f"word{i}" for i in range(100)) + " " + "x" * 1000)
    assert len(words._cache) <= 10
    assert "x" * 1000 not in words._cache


@pytest.mark.parametrize(
    "piece", ["a-", "(", ".", "a@b.", "a.", "b.@", "'s", "5km", "http://", ":)", "1.", "://", "a@"]
)
def test_time_is_linear_in_a_hostile_text(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    start = time.process_time()
    split_words(text)
    assert time.process_time() - start < 5  # quadratic steps took 29 s for half a megabyte


def test_marks_are_no_words() -> None:
    assert [w for w in ["--", "…", "a", "１", "•", "5", "."] if is_symbol(w)] == [
        "--",
        "…",
        "１",
        ".",
    ]
