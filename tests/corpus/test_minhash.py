"""MinHash against exact Jaccard, the LSH formula, datasketch and a table of golden values."""

from __future__ import annotations

import hashlib
import resource
import sys
from collections.abc import Sequence

import datasketch
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import minhash
from corpus.minhash import (
    MinHash,
    band_hashes,
    fingerprints,
    normalise,
    shingle_hashes,
    signatures,
    text_hash,
)

DEFAULT = MinHash()
ONE_WORD_EACH = MinHash(ngram=1)

# text, normalised text, text_hash, shingles, first place, SHA-256 of the signature, last band
GOLDEN = [
    (
        "The quick brown fox jumps over the lazy dog.",
        "the quick brown fox jumps over the lazy dog",
        -937876966914607829,
        5,
        0x1250E939DFD54A27,
        "50cbaece81a9c297",
        -2188345047196339250,
    ),
    (
        "Über 1,234.5 Straßen – «naïve» café",
        "uber 0 0 0 straßen naive cafe",
        4857116616261140818,
        3,
        0x3882070E1E6F5502,
        "979096b55b7825f8",
        6420332052287734746,
    ),
    (
        "吾輩は猫である。名前はまだ無い。",
        "吾 輩 は 猫 て あ る 名 前 は ま た 無 い",
        -1338310105000282555,
        10,
        0x24DD2E1CCA863B4A,
        "beb0ac333dd5c24a",
        3285961679066364908,
    ),
    (
        "สวัสดีครับ ผมชื่อ",
        "ส ว ส ด ค ร บ ผ ม ช อ",
        -8954346615157930583,
        7,
        0x3EDEC193FE17EA72,
        "e15948693b838d86",
        -3192925556999329965,
    ),
    (
        "नमस्ते दुनिया, यह एक छोटा सा वाक्य है",
        "नमसत दनिया यह एक छोटा सा वाकय ह",
        2980357866032251282,
        4,
        0x62C7227EECE80503,
        "e9e91501bbabccbf",
        2580983661382769736,
    ),
    (
        "one two three four",
        "one two three four",
        -3307129294794622183,
        0,
        2**64 - 1,
        "35b1fb2bd4d35a8b",
        0,
    ),
    ("", "", -5426141060434712860, 0, 2**64 - 1, "35b1fb2bd4d35a8b", 0),
]


def words(numbers: Sequence[int]) -> str:
    """A text whose shingles of one word are these numbers (in letters: digits would be alike)."""
    return " ".join(
        f"{number:o}".translate(str.maketrans("01234567", "abcdefgh")) for number in numbers
    )


def pair(shared: int, own: int, start: int) -> list[str]:
    """Two texts of similarity shared / (shared + 2 · own) in words; `start` makes them new."""
    common = list(range(start, start + shared))
    left = list(range(start + shared, start + shared + own))
    right = list(range(start + shared + own, start + shared + 2 * own))
    return [words(common + left), words(common + right)]


def jaccard(a: str, b: str, ngram: int = 5) -> float:
    """Exact similarity of the sets of n-grams of words, by Python's own sets."""
    sets = []
    for text in (a, b):
        parts = normalise(text).split()
        sets.append({tuple(parts[i : i + ngram]) for i in range(len(parts) - ngram + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row[1][:12])
def test_golden_values_have_not_moved(row: tuple[str, str, int, int, int, str, int]) -> None:
    text, normalised, exact, count, first, digest, last_band = row
    found, num_shingles = signatures([text], DEFAULT)
    bands, _ = band_hashes([text], DEFAULT)
    assert minhash.SCHEME == "gristmill-minhash-1"
    assert normalise(text) == normalised
    assert text_hash(text) == exact
    assert num_shingles[0] == count
    assert int(found[0, 0]) == first
    assert hashlib.sha256(found[0].astype("<u8").tobytes()).hexdigest()[:16] == digest
    assert bands[0, -1] == last_band


def test_the_estimate_is_within_the_theoretical_error_of_exact_jaccard() -> None:
    """112 places: an estimate's standard error is sqrt(s (1 - s) / 112)."""
    random = np.random.default_rng(2)
    errors = []
    for i in range(300):
        text = random.integers(0, 3000, 400)
        other = text.copy()
        changed = random.random(400) < random.random() ** 2 * 0.5
        other[changed] = random.integers(3000, 6000, int(changed.sum()))
        a, b = words(text.tolist()), words(other.tolist())
        found, _ = signatures([a, b], MinHash(seed=i))
        exact = jaccard(a, b)
        spread = np.sqrt(max(exact * (1 - exact), 1e-9) / 112)
        errors.append((float((found[0] == found[1]).mean()) - exact) / spread)
    assert abs(np.mean(errors)) < 3 / np.sqrt(300)
    assert 0.85 < np.std(errors) < 1.15
    assert max(map(abs, errors)) < 5


@pytest.mark.parametrize(("shared", "own"), [(60, 20), (70, 15), (75, 12), (80, 10), (85, 8)])
def test_pairs_share_a_band_as_often_as_the_formula_says(shared: int, own: int) -> None:
    num_pairs = 2000
    start = range(0, 200 * num_pairs, 200)
    texts = [text for first in start for text in pair(shared, own, first)]
    bands, num_shingles = band_hashes(texts, ONE_WORD_EACH)
    assert (num_shingles == shared + own).all()
    found = float((bands[0::2] == bands[1::2]).any(axis=1).mean())
    expected = DEFAULT.match_probability(shared / (shared + 2 * own))
    spread = np.sqrt(expected * (1 - expected) / num_pairs)
    assert abs(found - expected) < 4 * spread


def test_match_probability_is_finewebs() -> None:
    """arXiv 2406.17557, section 3.4: 56%, 77%, 92% and 98.8%."""
    found = [round(DEFAULT.match_probability(s), 3) for s in (0.7, 0.75, 0.8, 0.85)]
    assert found == [0.565, 0.772, 0.924, 0.988]


def test_the_estimate_agrees_with_datasketchs() -> None:
    ours, theirs, exact = [], [], []
    for i in range(60):
        a, b = pair(40 + i, 30, i * 1000)
        found, _ = signatures([a, b], MinHash(ngram=1, seed=i))
        ours.append(float((found[0] == found[1]).mean()))
        sketches = [datasketch.MinHash(num_perm=112, seed=i + 1) for _ in range(2)]
        for sketch, text in zip(sketches, (a, b), strict=True):
            sketch.update_batch([word.encode() for word in text.split()])
        theirs.append(sketches[0].jaccard(sketches[1]))
        exact.append((40 + i) / (100 + i))
    spread = np.sqrt(0.25 / 112 / 60)
    assert abs(np.mean(ours) - np.mean(exact)) < 4 * spread
    assert abs(np.mean(ours) - np.mean(theirs)) < 6 * spread


def test_unlike_texts_share_no_place_and_no_band() -> None:
    texts = [words(range(i * 500, i * 500 + 400)) for i in range(200)]
    found, _ = signatures(texts, DEFAULT)
    bands, _ = band_hashes(texts, DEFAULT)
    assert len(np.unique(found)) == found.size
    assert len(np.unique(bands)) == bands.size


def test_shingles_are_sets_of_five_words_in_order() -> None:
    text = "a b c d e f g"
    assert len(shingle_hashes(text, 5)) == 3
    assert set(shingle_hashes("b c d e f", 5)) < set(shingle_hashes(text, 5))
    assert not set(shingle_hashes("f e d c b", 5)) & set(shingle_hashes(text, 5))
    assert len(shingle_hashes(f"{text} {text} {text}", 5)) == 7


@given(st.lists(st.lists(st.integers(0, 40), max_size=60), min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_a_signature_does_not_depend_on_its_batch(
    lists: list[list[int]], data: st.DataObject
) -> None:
    texts = [words(numbers) for numbers in lists]
    together, num_shingles = signatures(texts, DEFAULT)
    i = data.draw(st.integers(0, len(texts) - 1))
    alone, alone_shingles = signatures([texts[i]], DEFAULT)
    assert (together[i] == alone[0]).all()
    assert num_shingles[i] == alone_shingles[0]


def test_chunks_of_a_long_document_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [words(range(3000)), "世界" * 400, "one " * 900]
    whole = band_hashes(texts, DEFAULT)
    monkeypatch.setattr(minhash, "CHARS_AT_ONCE", 7)
    monkeypatch.setattr(minhash, "SHINGLES_AT_ONCE", 11)
    monkeypatch.setattr(minhash, "WORDS_REMEMBERED", 5)
    in_parts = band_hashes(texts, DEFAULT)
    assert (whole[0] == in_parts[0]).all()
    assert (whole[1] == in_parts[1]).all()


def test_no_endless_word_is_remembered() -> None:
    band_hashes(["w" * 1000 + " one more two more three"], DEFAULT)
    assert max(map(len, minhash._WORD_HASHES)) <= minhash.CHARS_REMEMBERED


def test_the_seed_and_only_the_seed_chooses_the_functions() -> None:
    texts = [words(range(100))]
    one, _ = signatures(texts, MinHash(seed=1))
    other, _ = signatures(texts, MinHash(seed=2))
    longer, _ = signatures(texts, MinHash(seed=1, bands=20))
    assert not (one == other).any()
    assert (longer[:, :112] == one).all()


@pytest.mark.parametrize("text", ["", "   \n", "word", "one two three four", "!!! ???", "🎉"])
def test_fewer_words_than_a_shingle_give_no_signature(text: str) -> None:
    bands, num_shingles = band_hashes([text], DEFAULT)
    assert num_shingles.tolist() == [0]
    assert bands.tolist() == [[0] * 14]


def test_no_texts_give_empty_arrays() -> None:
    bands, num_shingles = band_hashes([], DEFAULT)
    assert bands.shape == (0, 14)
    assert num_shingles.shape == (0,)
    assert bands.dtype == num_shingles.dtype == np.int64


def test_fingerprints_are_text_hash_and_band_hashes() -> None:
    texts = [row[0] for row in GOLDEN] + ["🎉", "Ünïcode and some more words to have a shingle"]
    found = fingerprints(texts, DEFAULT)
    bands, num_shingles = band_hashes(texts, DEFAULT)
    assert found.text_hashes.tolist() == [text_hash(text) for text in texts]
    assert (found.bands == bands).all()
    assert (found.num_shingles == num_shingles).all()


def test_texts_that_read_alike_have_one_hash_and_texts_of_symbols_their_own() -> None:
    alike = ["Café: 12 (twelve)!", "cafe\u0301 99\u200btwelve", "  CAFE\n7  twel\u00adve "]
    assert len({text_hash(text) for text in alike}) == 1
    assert len({text_hash(text) for text in ["", "🎉", "!!!", "cafe 0", "cafe 0 0"]}) == 5


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert "  " not in once
    assert once == once.strip()


def test_every_character_there_is_normalises_to_a_fixed_point() -> None:
    everything = "\n".join(map(chr, range(sys.maxunicode + 1)))
    once = normalise(everything)
    assert normalise(once) == once
    assert normalise("ÀÉÎõü ﬁ Ⅷ ½ Σας İ") == "aeiou ﬁ ⅷ ½ σας i"


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("one word", "a" * 10_000_000, 0),
        ("one word repeated", "word " * 2_000_000, 1),
        ("accents", "a" + "\u0301" * 5_000_000, 0),
        ("punctuation", "a-" * 5_000_000, 1),
        ("numbers", "1 " * 5_000_000, 1),
        ("spaces", " " * 10_000_000, 0),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_ten_megabytes_of_nonsense_pass_in_bounded_memory(name: str, text: str, count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert band_hashes([text], DEFAULT)[1].tolist() == [count], name
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 * 1024, f"{grown} KiB more"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ngram": 0}, "ngram = 0: must be at least 1"),
        ({"bands": 0}, "bands = 0: must be at least 1"),
        ({"rows": -1}, "rows = -1: must be at least 1"),
        ({"seed": -1}, "seed = -1: must not be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinHash(**values)
