"""MinHash against exact Jaccard, the LSH formula, datasketch and a table of golden values."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import datasketch
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.arrays import Int64s, UInt64s
from corpus.dedup import minhash
from corpus.dedup import word_hashes as words_module
from corpus.dedup.minhash import MinHash, fingerprints, jaccard, optimal_bands, shingle_hashes
from corpus.dedup.word_hashes import BASE, normalise, word_hashes

DEFAULT = MinHash()
ONE_WORD_EACH = MinHash(ngram=1)


def signatures(texts: Sequence[str], settings: MinHash) -> tuple[UInt64s, Int64s]:
    return minhash.signatures(*word_hashes(texts), settings)


def band_hashes(texts: Sequence[str], settings: MinHash) -> tuple[Int64s, Int64s]:
    found = fingerprints(texts, settings)
    return found.bands, found.num_shingles


def text_hash(text: str) -> int:
    return int(fingerprints([text], DEFAULT).text_hashes[0])


# text, text_hash, shingles, first place, SHA-256 of the signature, last band
GOLDEN = [
    (
        "The quick brown fox jumps over the lazy dog.",
        -3858971418809780643,
        5,
        0x298381475512E591,
        "92dbaa5c92ea9ed6",
        -1872557481414766490,
    ),
    (
        "Über 1,234.5 Straßen – «naïve» café",
        -8495753349193357897,
        3,
        0x165E43D88F984A09,
        "e9e0d096cd750353",
        4827765642431832911,
    ),
    (
        "吾輩は猫である。名前はまだ無い。",
        5398515533426470720,
        10,
        0x0BD90D4D323EEAAA,
        "2d1cf30a9b0d2cbb",
        292532148279954571,
    ),
    (
        "中华人民共和国,2024年",
        -6200930540471822741,
        5,
        0x0CEFE2C9094744FE,
        "92bc8845c7c8d8b8",
        8735425928157385338,
    ),
    (
        "สวัสดีครับ ผมชื่อ",
        5136732887577642000,
        7,
        0x0FEED5EC4A92EAB7,
        "60f1cd4339ba480c",
        7679990302136976564,
    ),
    (
        "नमस्ते दुनिया, यह एक छोटा सा वाक्य है",
        2551095096189691891,
        4,
        0x272B3C6BD6FFAFA6,
        "b584b4ae68c03edc",
        7499777560729246097,
    ),
    (
        "هٰذِهِ جُمْلَةٌ عَرَبِيَّةٌ قَصِيرَةٌ جِدًّا هُنَا",
        7632589399306724603,
        2,
        0x3CAAA4B85BF6D976,
        "119e3e6d71da38c2",
        -8739409208226805555,
    ),
    (
        "한국어 문장은 낱말 사이를 띄어 쓴다",
        -1090096960584438533,
        2,
        0x137627096FCDF4DE,
        "503dac368102e56b",
        -3987564569734259908,
    ),
    (
        "Only 🎉 five 👍🏽 words, and ❤️ emoji",
        5727102609125466608,
        1,
        0x1E631E067577FD9E,
        "454b2a8f4568406d",
        4776704888904384254,
    ),
    (
        "one two three four",
        -4605431524304359379,
        0,
        0xFFFFFFFFFFFFFFFF,
        "35b1fb2bd4d35a8b",
        0,
    ),
    (
        "🎉",
        -9135212902481340127,
        0,
        0xFFFFFFFFFFFFFFFF,
        "35b1fb2bd4d35a8b",
        0,
    ),
    (
        "",
        6380920831411508574,
        0,
        0xFFFFFFFFFFFFFFFF,
        "35b1fb2bd4d35a8b",
        0,
    ),
]


def mixed(value: int) -> int:
    """splitmix64's finaliser (Steele, Lea and Flood 2014), in Python's integers."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


class Reference:
    """The scheme in plain Python: what a text's words, shingles, signature and bands are."""

    def __init__(self, text: str, settings: MinHash = DEFAULT) -> None:
        self.text, self.settings = text, settings
        self.words = [self.word(part) for part in normalise(text).split()]
        n = settings.ngram
        runs = [self.words[i : i + n] for i in range(len(self.words) - n + 1)]
        self.shingles = {
            mixed(sum(word * BASE ** (n - 1 - i) for i, word in enumerate(run)) % 2**64)
            for run in runs
        }

    @staticmethod
    def word(part: str) -> int:
        return mixed(sum(ord(c) * BASE**i for i, c in enumerate(part)) % 2**64)

    @property
    def text_hash(self) -> int:
        content, person = self.text.encode(), b"text"
        if self.words:
            content, person = b"".join(w.to_bytes(8, "little") for w in self.words), b"words"
        digest = hashlib.blake2b(content, digest_size=8, person=person).digest()
        return int.from_bytes(digest, "little", signed=True)

    @property
    def signature(self) -> list[int]:
        count = self.settings.bands * self.settings.rows
        names = [f"gristmill-minhash-2:{self.settings.seed}:{i}" for i in range(count)]
        digests = [hashlib.sha256(name.encode()).digest() for name in names]
        odd = [int.from_bytes(digest[:8], "little") | 1 for digest in digests]
        return [min((a * x % 2**64 for x in self.shingles), default=2**64 - 1) for a in odd]

    @property
    def bands(self) -> list[int]:
        hashes = [0] * self.settings.bands
        rows = self.settings.rows
        for band in range(self.settings.bands if self.shingles else 0):
            value = band + 1
            for place in self.signature[band * rows : (band + 1) * rows]:
                value = mixed(value ^ place)
            hashes[band] = value - 2**64 if value >> 63 else value
        return hashes


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


def exact_jaccard(a: str, b: str, ngram: int = 5) -> float:
    """Exact similarity of the n-grams of two texts of `words`, by Python's own sets."""
    sets = []
    for text in (a, b):
        parts = text.split()
        sets.append({tuple(parts[i : i + ngram]) for i in range(len(parts) - ngram + 1)})
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row[0][:8])
def test_golden_values_have_not_moved(row: tuple[str, int, int, int, str, int]) -> None:
    text, exact, count, first, digest, last_band = row
    found, num_shingles = signatures([text], DEFAULT)
    bands, _ = band_hashes([text], DEFAULT)
    assert minhash.SCHEME == "gristmill-minhash-2"
    assert text_hash(text) == exact
    assert num_shingles[0] == count
    assert int(found[0, 0]) == first
    assert hashlib.sha256(found[0].astype("<u8").tobytes()).hexdigest()[:16] == digest
    assert bands[0, -1] == last_band


@pytest.mark.parametrize("text", [row[0] for row in GOLDEN], ids=lambda text: text[:8])
@pytest.mark.parametrize("chosen", [DEFAULT, MinHash(ngram=2, bands=3, rows=5, seed=7)])
def test_all_values_are_those_of_plain_python(text: str, chosen: MinHash) -> None:
    reference = Reference(text, chosen)
    assert text_hash(text) == reference.text_hash
    assert shingle_hashes(text, chosen).tolist() == sorted(reference.shingles)
    assert signatures([text], chosen)[0].tolist() == [reference.signature]
    assert band_hashes([text], chosen)[0].tolist() == [reference.bands]


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
        exact = exact_jaccard(a, b)
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
    def shingles(text: str) -> list[int]:
        return [int(value) for value in shingle_hashes(text, DEFAULT)]

    text = "a b c d e f g"
    assert len(shingles(text)) == 3
    assert set(shingles("b c d e f")) < set(shingles(text))
    assert not set(shingles("f e d c b")) & set(shingles(text))
    assert len(shingles(f"{text} {text} {text}")) == 7
    assert shingles(text) == sorted(shingles(text))


@given(st.lists(st.integers(0, 6), max_size=40), st.lists(st.integers(0, 6), max_size=40))
@settings(max_examples=100)
def test_jaccard_of_shingle_hashes_is_that_of_the_sets_of_words(a: list[int], b: list[int]) -> None:
    chosen = MinHash(ngram=2)
    found = jaccard(*(shingle_hashes(words(numbers), chosen) for numbers in (a, b)))
    assert found == exact_jaccard(words(a), words(b), 2)


def test_nothing_is_not_alike_nothing() -> None:
    assert jaccard(shingle_hashes("", DEFAULT), shingle_hashes("one two", DEFAULT)) == 0.0


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


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [words(range(3000)), "世界" * 400, "one " * 900, "", "a", "é" * 500]
    whole = fingerprints(texts, DEFAULT)
    monkeypatch.setattr(words_module, "CHARS_AT_ONCE", 7)
    monkeypatch.setattr(minhash, "SHINGLES_AT_ONCE", 11)
    in_parts = fingerprints(texts, DEFAULT)
    for name in ("text_hashes", "bands", "num_shingles"):
        assert (getattr(whole, name) == getattr(in_parts, name)).all()


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


def test_fingerprints_of_a_batch_are_those_of_its_texts() -> None:
    texts = [row[0] for row in GOLDEN] + ["🎉", "Ünïcode and some more words to have a shingle"]
    found = fingerprints(texts, DEFAULT)
    alone = [fingerprints([text], DEFAULT) for text in texts]
    for name in ("text_hashes", "bands", "num_shingles"):
        assert (getattr(found, name) == np.concatenate([getattr(one, name) for one in alone])).all()


def test_texts_that_read_alike_have_one_hash_and_texts_of_symbols_their_own() -> None:
    alike = ["Café: 12 (twelve)!", "cafe\u0301 99\u200btwelve", "  CAFE\n7  twel\u00adve "]
    assert len({text_hash(text) for text in alike}) == 1
    assert len({text_hash(text) for text in ["", "🎉", "!!!", "cafe 0", "cafe 0 0"]}) == 5


NONSENSE: dict[str, tuple[Callable[[], str], int]] = {
    "one word of 10 MB": (lambda: "a" * 10_000_000, 0),
    "one word repeated": (lambda: "word " * 2_000_000, 1),
    "accents": (lambda: "a" + "\u0301" * 5_000_000, 0),
    "accents apart": (lambda: "a\u0301" * 3_000_000, 0),
    "voicing after nothing": (lambda: "か\u00ad\u3099" * 300_000, 1),
    "punctuation": (lambda: "a-" * 5_000_000, 1),
    "numbers": (lambda: "1 " * 5_000_000, 1),
    "digits": (lambda: "1" * 10_000_000, 0),
    "spaces": (lambda: " " * 10_000_000, 0),
    "characters that are words": (lambda: "世界" * 1_600_000, 2),
    "a million words": (lambda: words(range(8**6, 8**6 + 10**6)), 999_996),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_ten_megabytes_of_nonsense_pass_in_bounded_memory(name: str) -> None:
    made, count = NONSENSE[name]
    text = made()
    tracemalloc.start()
    try:
        found = fingerprints([text], DEFAULT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.num_shingles.tolist() == [count]
    assert peak < 200 << 20, f"{peak >> 20} MiB"


def least_error(threshold: float, num_hashes: int) -> tuple[int, int]:
    """The bands and rows with the smallest integral of wrong matches and misses.

    By Gauss-Legendre quadrature, which is exact for polynomials of degree bands · rows.
    """
    at, weights = np.polynomial.legendre.leggauss(num_hashes // 2 + 1)
    below, above = threshold * (at + 1) / 2, 1 - (1 - threshold) * (at + 1) / 2
    errors = {
        (bands, rows): (1 - (1 - below**rows) ** bands) @ weights * threshold
        + (1 - above**rows) ** bands @ weights * (1 - threshold)
        for bands in range(1, num_hashes + 1)
        for rows in range(1, num_hashes // bands + 1)
    }
    return min(errors, key=errors.__getitem__)


@pytest.mark.parametrize("num_hashes", [10, 64, 112, 128])
def test_a_threshold_gives_the_bands_of_the_smallest_error(num_hashes: int) -> None:
    for threshold in (0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99):
        expected = least_error(threshold, num_hashes)
        if expected[0] > 1:
            assert optimal_bands(threshold, num_hashes) == expected
        else:
            with pytest.raises(ValueError, match=f"threshold = {threshold}: must be lower"):
                optimal_bands(threshold, num_hashes)


def test_only_a_threshold_costs_the_import_of_datasketch() -> None:
    code = (
        "import sys\n"
        "from corpus.recipe import MinHash, Recipe\n"
        "Recipe(), MinHash(bands=9, rows=13)\n"
        "assert 'datasketch' not in sys.modules\n"
        "MinHash(threshold=0.8)\n"
        "assert 'datasketch' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_threshold_sets_bands_and_rows() -> None:
    chosen = MinHash(threshold=0.8, num_hashes=128)
    assert (chosen.bands, chosen.rows, chosen.signature_length) == (9, 13, 117)
    assert chosen == MinHash(**vars(chosen))  # settings that were stored are read back
    assert band_hashes(["one two three four five"], chosen)[0].shape == (1, 9)
    assert abs(chosen.threshold_estimate - 0.8) < 0.05
    assert chosen.match_probability(0.9) > 0.9 > 0.1 > chosen.match_probability(0.6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ngram": 0}, "ngram = 0: must be at least 1"),
        ({"bands": 0}, "bands = 0: must be at least 1"),
        ({"rows": -1}, "rows = -1: must be at least 1"),
        ({"seed": -1}, "seed = -1: must be at least 0"),
        ({"threshold": 1.0}, "threshold = 1.0: must be at least 0 and below 1"),
        ({"threshold": float("nan")}, "threshold = nan: must be at least 0 and below 1"),
        ({"num_hashes": 0}, "num_hashes = 0: must be at least 1"),
        ({"num_hashes": 5000}, "num_hashes = 5000: must be at least 1 and at most 4096"),
        (
            {"num_hashes": 200},
            "num_hashes = 200: must be left out without a threshold; bands = 14 and rows = 8",
        ),
        (
            {"threshold": 0.99},
            "threshold = 0.99: must be lower with num_hashes = 112, or num_hashes",
        ),
        ({"threshold": 0.5, "num_hashes": 1}, "threshold = 0.5: must be lower with num_hashes = 1"),
        (
            {"threshold": 0.8, "bands": 20},
            "bands = 20 and rows = 8: must be left out with threshold = 0.8, which sets bands",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MinHash(**values)
