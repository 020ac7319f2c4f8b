"""MinHash signatures and LSH bands: which documents say nearly the same.

A text is normalised as FineWeb's simplify_text does, cut into words, and every run of `ngram`
words (a shingle) gets one 64-bit hash: words by xxh3, a shingle by a polynomial over its words,
then splitmix64's finaliser. A signature is, for each of bands × rows hash functions
(a·x + b) mod 2^64 with odd a, the minimum over the document's shingles; two signatures agree in a
place with the probability of the documents' Jaccard similarity s (Broder 1997). A band hashes
`rows` places together, so that two documents share a band with probability 1 - (1 - s^rows)^bands.

Nothing depends on the batch, the machine's byte order or a library's random generator: a and b
come from SHA-256. Unicode properties do come from the installed Python.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import regex
import xxhash

SCHEME = "gristmill-minhash-1"  # changes with anything that changes a hash

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

SHINGLE_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd; 2^64 / golden ratio, as in splitmix64
NO_SHINGLE = np.uint64(0xFFFFFFFFFFFFFFFF)
CHARS_AT_ONCE = 1 << 20  # of a long document: bounds the Python strings alive at one time
SHINGLES_AT_ONCE = 512  # × 112 functions × 8 bytes = 450 kB, which stays in a core's cache
WORDS_REMEMBERED = 1 << 18
CHARS_REMEMBERED = 64  # of a word: a page may be one word of 10 MB

# Scripts written without spaces: each of their characters counts as a word.
SPACELESS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")


@dataclass(frozen=True)
class MinHash:
    """FineWeb's parameters (arXiv 2406.17557, section 3.4): 5-grams, 112 hashes as 14 × 8.

    A pair of similarity s is found with probability 1 - (1 - s^8)^14: 56% at 0.7, 77% at 0.75,
    92% at 0.8, 98.8% at 0.85. The seed 1 is datatrove's.
    """

    ngram: int = 5
    bands: int = 14
    rows: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("ngram", "bands", "rows"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: must not be negative")

    @property
    def num_hashes(self) -> int:
        """Length of a signature."""
        return self.bands * self.rows

    def match_probability(self, similarity: float) -> float:
        """Probability that a pair of this Jaccard similarity shares a band."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


@dataclass(frozen=True)
class Fingerprints:
    """What dedup needs of n texts: `text_hashes` (n,), `bands` (n, bands), `num_shingles` (n,)."""

    text_hashes: Int64s
    bands: Int64s
    num_shingles: Int64s


class _Replacements(dict[int, str | None]):
    """What each character becomes; worked out when it is first met."""

    def __missing__(self, codepoint: int) -> str | None:
        self[codepoint] = value = _replacement(chr(codepoint))
        return value


class _WordHashes(dict[str, int]):
    """xxh3-64 of each word's UTF-8 bytes; the short ones remembered until there are too many."""

    def __missing__(self, word: str) -> int:
        if len(self) >= WORDS_REMEMBERED:
            self.clear()
        value = xxhash.xxh3_64_intdigest(word.encode())
        if len(word) <= CHARS_REMEMBERED:
            self[word] = value
        return value


def _replacement(character: str) -> str | None:
    category = unicodedata.category(character)
    if category == "Nd":
        return "0"
    if category == "Mn" or (category == "Cf" and character != "\u200b"):
        return None  # accents; soft hyphens and joiners, but not the zero-width space
    if category[0] not in "LMN":
        return " "
    return f" {character} " if SPACELESS.match(character) else character


_REPLACEMENTS = _Replacements()
_WORD_HASHES = _WordHashes()


def normalise(text: str) -> str:
    """Lower-case words between single spaces, as FineWeb compares them.

    Accents go (NFD, then no nonspacing marks), a run of digits becomes 0, what is no letter, mark
    or number becomes a space, and so do the edges of a character of a spaceless script.
    Idempotent. Time and memory O(length), without a Python object a word.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFD", text)
    text = text.lower().translate(_REPLACEMENTS)
    for run, one in (("00", "0"), ("  ", " ")):
        while run in text:  # each pass halves the longest run
            text = text.replace(run, one)
    return text.strip(" ")


def text_hash(text: str) -> int:
    """Signed 64-bit hash (BLAKE2b) of the normalised text, for exact duplicates.

    A text that has no word left is hashed as it is, lest all pages of symbols be one.
    """
    return _text_hash(text, normalise(text))


def signatures(texts: Sequence[str], settings: MinHash) -> tuple[UInt64s, Int64s]:
    """Signatures uint64 (n, bands · rows) and distinct shingles int64 (n,) of n texts.

    A text of fewer than `ngram` words has 0 shingles, and 2^64 - 1 throughout its signature.
    """
    return _signatures(map(normalise, texts), len(texts), settings)


def band_hashes(texts: Sequence[str], settings: MinHash) -> tuple[Int64s, Int64s]:
    """Band hashes int64 (n, bands) and distinct shingles int64 (n,) of n texts.

    A hash differs from band to band, so that no pair meets in two different bands. The row of a
    text without shingles is 0 and means nothing.
    """
    found, num_shingles = signatures(texts, settings)
    return _bands(found, num_shingles, settings), num_shingles


def fingerprints(texts: Sequence[str], settings: MinHash) -> Fingerprints:
    """`text_hash` and `band_hashes` of n texts, each normalised once."""
    normalised = [normalise(text) for text in texts]
    hashes = (_text_hash(*pair) for pair in zip(texts, normalised, strict=True))
    found, num_shingles = _signatures(normalised, len(texts), settings)
    return Fingerprints(
        np.fromiter(hashes, dtype=np.int64, count=len(texts)),
        _bands(found, num_shingles, settings),
        num_shingles,
    )


def shingle_hashes(normalised: str, ngram: int) -> UInt64s:
    """Distinct 64-bit hashes of the runs of `ngram` words of a normalised text, ascending."""
    words = np.concatenate([np.empty(0, np.uint64), *_word_hashes(normalised)])
    count = len(words) - ngram + 1
    if count < 1:
        return np.empty(0, np.uint64)
    combined = words[:count].copy()
    for i in range(1, ngram):
        combined *= SHINGLE_BASE
        combined += words[i : i + count]
    return np.unique(_mix(combined))


def _text_hash(text: str, normalised: str) -> int:
    content = (normalised or text).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _word_hashes(normalised: str) -> Iterator[UInt64s]:
    start = 0
    while start < len(normalised):
        end = normalised.find(" ", start + CHARS_AT_ONCE)
        end = len(normalised) if end < 0 else end
        words = normalised[start:end].split(" ")
        hashes = map(_WORD_HASHES.__getitem__, words)
        yield np.fromiter(hashes, dtype=np.uint64, count=len(words))
        start = end + 1


def _mix(values: UInt64s) -> UInt64s:
    """splitmix64's finaliser: every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _hash_functions(seed: int, num_hashes: int) -> tuple[UInt64s, UInt64s]:
    """Columns (num_hashes, 1) of odd multipliers and of offsets."""
    digests = [hashlib.sha256(f"{SCHEME}:{seed}:{i}".encode()).digest() for i in range(num_hashes)]
    pairs = np.array([np.frombuffer(d, dtype="<u8", count=2) for d in digests], dtype=np.uint64)
    return pairs[:, :1] | np.uint64(1), pairs[:, 1:].copy()


def _signatures(
    normalised: Iterator[str] | Sequence[str], num_texts: int, settings: MinHash
) -> tuple[UInt64s, Int64s]:
    found = np.full((num_texts, settings.num_hashes), NO_SHINGLE)
    num_shingles = np.zeros(num_texts, dtype=np.int64)
    multiply, add = _hash_functions(settings.seed, settings.num_hashes)
    space = np.empty((settings.num_hashes, SHINGLES_AT_ONCE), dtype=np.uint64)
    for i, text in enumerate(normalised):
        shingles = shingle_hashes(text, settings.ngram)
        num_shingles[i] = len(shingles)
        for start in range(0, len(shingles), SHINGLES_AT_ONCE):
            part = shingles[start : start + SHINGLES_AT_ONCE]
            values = np.multiply(multiply, part, out=space[:, : len(part)])
            values += add
            np.minimum(found[i], values.min(axis=1), out=found[i])
    return found, num_shingles


def _bands(found: UInt64s, num_shingles: Int64s, settings: MinHash) -> Int64s:
    hashes = np.zeros((len(found), settings.bands), dtype=np.uint64)
    little = found.astype("<u8", copy=False).reshape(len(found), settings.bands, settings.rows)
    for i in np.flatnonzero(num_shingles):
        for band in range(settings.bands):
            hashes[i, band] = xxhash.xxh3_64_intdigest(little[i, band].tobytes(), seed=band)
    return hashes.view(np.int64)
