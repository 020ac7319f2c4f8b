"""Words and their hashes against plain Python: a pattern over kinds of characters, a slow sum."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from unittest import mock

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.dedup import word_hashes as module
from corpus.dedup.word_hashes import BASE, ngram_hashes, normalise, word_hashes

WITHOUT_SPACES = ["Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"]
ACCENTED = ["Common", "Inherited", "Latin", "Greek", "Cyrillic", "Hebrew", "Arabic", "Syriac"]
EVERYTHING = "".join(map(chr, range(sys.maxunicode + 1)))

# Where the rules meet: accents, marks that stay, what composes, what vanishes, what stands apart.
TRICKY = (
    "aZ éÅİßςΣ 01٣๒① \n.,-\u200b\u00ad\u200c\u200d\ufeff\u0640\u0301\u0323\u0345\u064e\u05b7\ufe0f"
    "\u3099\u309aかがハｶﾞ々〇世界ー ก\u0e31\u0e33\u0e48ญຂ\u0eb1ក\u17d2\u17bbမ\u103c\u1039"
    "क\u093c\u0958\u093f\u094dক\u09be\u09c7த\u0bbe\u0bc6\u0dd9\u0ddf가각ᄀ\u1161\u11a8\u11f0\u1fff"
    "\u0344\u212b\uf900\U0001d7ce\U0001f389\ud800"
)
texts = st.one_of(
    st.text(st.sampled_from(TRICKY), max_size=40),
    st.text(st.characters(codec=None), max_size=40),
)


def in_scripts(names: Sequence[str], character: str) -> bool:
    return any(regex.match(rf"\p{{Script={name}}}", character) for name in names)


@cache
def is_dropped(character: str) -> bool:
    if character in "\u3099\u309a\u200b":
        return False
    category = unicodedata.category(character)
    mark = category[0] == "M" and in_scripts(ACCENTED, character)
    return mark or category == "Cf" or character == "\u0640"


@cache
def kind(character: str) -> str:
    """A space, a character that stands (a)lone, a (m)ark on one, or an (o)rdinary one."""
    category = unicodedata.category(character)
    if category[0] not in "LMN":
        return " "
    if category == "Nd" or not (
        in_scripts(WITHOUT_SPACES, character) or character in "\u3099\u309a"
    ):
        return "o"
    return "m" if category[0] == "M" else "a"


def reference_words(text: str) -> list[str]:
    """The words of a text: by one pattern over the kinds of its characters."""
    apart = unicodedata.normalize("NFD", text)
    kept = unicodedata.normalize("NFC", "".join(c for c in apart if not is_dropped(c)))
    lowered = "".join("σ" if c == "ς" else c.lower() for c in kept)
    digits = "".join("0" if unicodedata.category(c) == "Nd" else c for c in lowered)
    single = re.sub("0+", "0", digits)
    kinds = "".join(map(kind, single))
    return [single[m.start() : m.end()] for m in re.finditer("am*|o+m*|m+", kinds)]


def reference_mix(value: int) -> int:
    """splitmix64's finaliser (Steele, Lea and Flood 2014), in Python's integers."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def reference_hash(word: str) -> int:
    return reference_mix(sum(ord(c) * pow(BASE, i, 2**64) for i, c in enumerate(word)) % 2**64)


def hashes_of(many: Sequence[str]) -> list[list[int]]:
    """The hashes of each text's words, as lists."""
    hashes, begins = word_hashes(many)
    assert (hashes.dtype, begins.dtype) == (np.uint64, np.int64)
    assert begins.shape == (len(many) + 1,)
    assert begins[0] == 0
    assert begins[-1] == len(hashes)
    return [part.tolist() for part in np.split(hashes, begins[1:-1])] if many else []


def ours(many: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """Normalised texts and the hashes of their words."""
    return [normalise(text) for text in many], hashes_of(many)


def reference(many: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """The same, word by word and character by character."""
    found = [reference_words(text) for text in many]
    hashes = [[reference_hash(word) for word in words] for words in found]
    return [" ".join(words) for words in found], hashes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  quick-brown FOX\n", "the quick brown fox"),
        ("ÀÉÎõü ﬁ Ⅷ ½ İ ΟΔΟΣ οδος x\u0323\u0301", "aeiou ﬁ ⅷ ½ i οδοσ οδοσ x"),
        ("1,234.5 5G ٣٤ ๒๓", "0 0 0 0g 0 0"),
        ("soft\u00adhyphen zero\u200bwidth 1\u00ad2", "softhyphen zero width 0"),
        ("नमस्ते दुनिया क़लम \u0958", "नमस्ते दुनिया क़लम क़"),
        ("தமிழ் বাংলা മലയാളം", "தமிழ் বাংলা മലയാളം"),
        ("العَرَبِيَّة آمن كتـــاب", "العربية امن كتاب"),
        ("שָׁלוֹם", "שלום"),
        ("한국어 한국어", "한국어 한국어"),
        ("吾輩は猫である。ガギ コーヒー", "吾 輩 は 猫 で あ る ガ ギ コ ー ヒ ー"),
        ("สวัสดีครับ ที่นี่", "ส วั ส ดี ค รั บ ที่ นี่"),
        ("ខ្ញុំ မြန်မာ ລາວ", "ខ្ ញុំ မြ န် မာ ລ າ ວ"),
        ("東京2024年 iPhoneを", "東 京 0 年 iphone を"),
        ("👍🏽 👨\u200d👩\u200d👧 🇩🇪 ❤\ufe0f", ""),
        ("", ""),
    ],
)
def test_words_read_like_this(text: str, expected: str) -> None:
    assert normalise(text) == unicodedata.normalize("NFC", expected)
    assert ours([text]) == reference([text])


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("word", 0x4D87B43E6CFE6E1D),
        ("Über", 0x61C37E6AED3E9671),
        ("नमस्ते", 0x54D8F9D6AF97790A),
        ("世", 0x4B0BF99732FE6A64),
        ("ที่", 0x7B4BE49BB18EDC11),
        ("한국어", 0x017054FBA1D30C3B),
        ("العَرَبِيَّة", 0x524C93400DAB506E),
        ("42", 0xA630657CB8C7F164),
        ("a" * 1000, 0x8EE03CFBBE9ACE1A),
    ],
    ids=lambda value: str(value)[:8],
)
def test_golden_hashes_have_not_moved(word: str, value: int) -> None:
    assert module.SCHEME == "gristmill-words-1"
    assert hashes_of([word]) == [[value]]
    assert reference_hash(normalise(word)) == value


@given(st.lists(texts, max_size=5), st.sampled_from([1, 2, 3, 7, 64, 1 << 16]))
@settings(max_examples=250)
def test_the_hashes_are_those_of_the_words_wherever_a_block_ends(
    many: list[str], block: int
) -> None:
    with mock.patch.object(module, "CHARS_AT_ONCE", block):
        assert ours(many) == reference(many)


@given(st.lists(texts, min_size=2, max_size=5))
@settings(max_examples=100)
def test_a_text_has_the_same_words_in_any_company(many: list[str]) -> None:
    assert hashes_of(many) == [hashes_of([text])[0] for text in many]


@given(texts)
@settings(max_examples=300)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert hashes_of([once]) == hashes_of([text])


def test_each_character_there_is_has_the_words_of_the_reference() -> None:
    usual = EVERYTHING[:0x3400] + EVERYTHING[0xA000:0xB000] + EVERYTHING[0xF900:0x12000]
    many = [usual, "\u00adx".join(usual)]
    assert ours(many) == reference(many)


@pytest.mark.soak
def test_all_of_unicode_has_the_words_of_the_reference() -> None:
    many = [EVERYTHING, " ".join(EVERYTHING), "\u00ad".join(EVERYTHING), "x".join(EVERYTHING)]
    assert ours(many) == reference(many)


def test_one_composed_character_becomes_one_at_most() -> None:
    """What the table of one code point for one relies on."""
    apart = [c for c in EVERYTHING if unicodedata.normalize("NFD", c) != c]
    composed = [c for c in apart if unicodedata.is_normalized("NFC", c)]
    assert len(composed) > 12_000
    assert [c for c in composed if len(module._without_accents(c)) > 1] == []


def test_what_may_join_a_character_before_it_is_known_as_loose() -> None:
    """All second halves of compositions, and all that canonical ordering may move."""
    joins = {c for c in EVERYTHING if unicodedata.combining(c)}
    for character in EVERYTHING:
        apart = unicodedata.normalize("NFD", character)
        if unicodedata.normalize("NFC", apart) == character:
            joins.update(apart[1:])
    kept = [c for c in joins if not is_dropped(c)]
    assert len(kept) > 300
    assert [c for c in kept if not module._code(ord(c)) & module.LOOSE] == []


def test_no_two_words_of_many_have_one_hash() -> None:
    consonants, vowels = "bcdfghjklmnprstvz", "aeiou"
    syllables = [c + v for c in consonants for v in vowels]
    text = " ".join(a + b + c for a in syllables for b in syllables for c in syllables[:30])
    hashes, _ = word_hashes([text])
    assert len(np.unique(hashes)) == len(hashes) == len(text.split())
    assert len(np.unique(hashes >> np.uint64(32))) > 0.9999 * len(hashes)  # every bit is mixed


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 6))
@settings(max_examples=100)
def test_ngrams_are_all_runs_of_n_words_in_order(numbers: list[int], n: int) -> None:
    words = np.array([reference_mix(i + 1) for i in numbers], dtype=np.uint64)
    found = ngram_hashes(words, n)
    runs = [words[i : i + n].tolist() for i in range(len(words) - n + 1)]
    expected = [
        reference_mix(sum(word * BASE ** (n - 1 - i) for i, word in enumerate(run)) % 2**64)
        for run in runs
    ]
    assert found.tolist() == expected
    assert found.dtype == np.uint64
    assert len(set(expected)) == len(set(map(tuple, runs)))


def test_no_texts_have_no_words() -> None:
    assert hashes_of([]) == []
    assert hashes_of(["", " \n", "🎉"]) == [[], [], []]
