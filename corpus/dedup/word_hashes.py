"""The words of a text as 64-bit hashes, which near-duplicates, passages and n-grams are found by.

Texts that differ in case, accents, digits or punctuation count as equal, as in FineWeb's
simplify_text (arXiv 2406.17557); `normalise` is the readable version, character by character.
Two things differ from FineWeb: marks that carry meaning stay (vowel signs of India and Indochina,
kana's voicing), and in a script written without spaces each character is a word, with the marks
that follow it, so that a run of words is a character n-gram there.

`word_hashes` does the same in NumPy: a table maps each code point to its replacement, and masks
find the words. A word's hash is splitmix64's finaliser of the sum of cᵢ·BASEⁱ mod 2^64 over its
code points c₀, c₁, ...: the difference of a running sum over the block between the word's ends,
times the inverse of the power at its start. A block may begin and end within a word. O(length),
without a Python object per word; memory O(longest text) in addition to the result.

Limits: ß is not ss, and a ligature is not its letters, since each code point has one replacement.
A polynomial mod 2^64 does not resist words made to collide, some thousand letters long. Properties
are those of the installed Python's Unicode, scripts those of `regex`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import regex

from corpus.arrays import Int64s, UInt8s, UInt32s, UInt64s

SCHEME = "gristmill-words-1"  # changes with anything that changes a hash

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse; 2^64 / golden ratio, as in splitmix64
CHARS_AT_ONCE = 1 << 16  # × 8 bytes per intermediate array: about a core's cache

# Scripts written without spaces: each of their characters counts as a word.
SPACELESS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
# Scripts that are readable without their marks, and accents of any script.
_UNMARKED = regex.compile(
    r"[\p{Common}\p{Inherited}\p{Latin}\p{Greek}\p{Cyrillic}\p{Hebrew}\p{Arabic}\p{Syriac}]"
)
# What may compose, or be reordered, with the character before it if nothing stands between them.
_LOOSE = regex.compile(r"[\p{M}\u1160-\u11FF\U00016D63-\U00016D67]")
_VOICING = "\u3099\u309a"  # of kana
_ZERO_WIDTH_SPACE, _KASHIDA = "\u200b", "\u0640"

# Kinds of characters, as bits. A code is the replacement's code point, shifted, and its kind.
SPACE = 1
ALONE = 2  # always begins a word
UNSPACED = 4  # of a script without spaces: only a mark of such a script continues the word
DIGIT = 8
LOOSE = 16
GONE = 32
LETTER = 64  # or mark, or other number
END = 128  # of a text
_SHIFT = np.uint32(8)

_CODES = np.zeros(0x110000, dtype=np.uint32)  # by code point; 0: not computed yet


class _Dropped(dict[int, int | None]):
    """A table for str.translate that removes dropped characters, filled on first use."""

    def __missing__(self, code_point: int) -> int | None:
        self[code_point] = value = None if _is_dropped(chr(code_point)) else code_point
        return value


def _is_dropped(character: str) -> bool:
    """Accents, points and harakat; soft hyphens, joiners and kashidas."""
    category = unicodedata.category(character)
    if category[0] == "M":
        return character not in _VOICING and bool(_UNMARKED.match(character))
    return character == _KASHIDA or (category == "Cf" and character != _ZERO_WIDTH_SPACE)


_DROPPED = _Dropped()


def normalise(text: str) -> str:
    """Lower-case words between single spaces, as they are hashed.

    Accents are removed; a run of digits becomes 0; all but letters, marks and numbers becomes a
    space. Idempotent. For people and tests: O(length), but character by character.
    """
    parts: list[str] = []
    before = SPACE
    for character in _without_accents(text):
        now, becomes = _fold(character)
        if now & before & DIGIT:
            continue
        if _begins_word(before, now):
            parts.append(" ")
        parts.append(becomes)
        before = now
    return "".join(parts).strip(" ")


def word_hashes(texts: Sequence[str]) -> tuple[UInt64s, Int64s]:
    """Hashes of all words of n texts, uint64 (w,), and where each text begins, int64 (n + 1,).

    Text i has the words from begins[i] up to begins[i + 1].
    """
    hasher = _WordHasher()
    for codes in _code_blocks(texts):
        for start in range(0, len(codes), CHARS_AT_ONCE):
            hasher.read(codes[start : start + CHARS_AT_ONCE])
    return hasher.words(), hasher.begins()


def ngram_hashes(words: UInt64s, n: int) -> UInt64s:
    """64-bit hash of every run of n words, in order, (max(0, len(words) - n + 1),), with repeats.

    The polynomial of the words, the first with the highest power, mixed.
    """
    count = max(0, len(words) - n + 1)
    combined = words[:count].copy()
    for i in range(1, n):
        combined *= np.uint64(BASE)
        combined += words[i : i + count]
    return mix(combined)


def mix(values: UInt64s) -> UInt64s:
    """splitmix64's finaliser: every bit of the input reaches every bit of the output."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _without_accents(text: str) -> str:
    """The text in NFC without the characters that are dropped."""
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFD", text).translate(_DROPPED)
    return unicodedata.normalize("NFC", apart)


@lru_cache(maxsize=1 << 14)
def _fold(character: str) -> tuple[int, str]:
    """The kind and the replacement of a character without accents."""
    small = character.lower().replace("ς", "σ")
    category = unicodedata.category(small)
    if category == "Nd":
        return DIGIT, "0"
    if category[0] not in "LMN":
        return SPACE, ""
    loose = LOOSE if _LOOSE.match(small) else 0
    if not (SPACELESS.match(small) or small in _VOICING):
        return LETTER | loose, small
    return (UNSPACED | loose) if category[0] == "M" else (UNSPACED | ALONE | loose), small


def _begins_word(before: int, now: int) -> bool:
    apart = before & SPACE or now & ALONE or before & ~now & UNSPACED
    return bool(apart) and not now & SPACE


def _code(code_point: int) -> int:
    kept = _without_accents(chr(code_point))
    if not kept:
        return GONE
    kind, becomes = _fold(kept[0])  # the only one, since texts are composed
    return (ord(becomes) << int(_SHIFT) if becomes else 0) | kind


def _codes(texts: list[str]) -> UInt32s:
    """The code of each character, and of an end after each text.

    Texts are looked up together, since they may be as short as lines. For a composed text the table
    equals `_without_accents`, unless a dropped character precedes a LOOSE one, which may then
    compose with the character before.
    """
    # Mostly cheap: NFC returns a text that is composed already.
    composed = [t if t.isascii() else unicodedata.normalize("NFC", t) for t in texts]
    codes = _looked_up(composed)
    kinds = codes.astype(np.uint8)
    gone_then_loose = (kinds[:-1] & np.uint8(GONE)) >> np.uint8(1) & kinds[1:]
    if gone_then_loose.any():
        return _looked_up([_without_accents(text) for text in composed])
    return codes


def _looked_up(texts: list[str]) -> UInt32s:
    joined = "\n".join([*texts, ""])
    codes = np.empty(len(joined), dtype=np.uint32)
    for start in range(0, len(joined), CHARS_AT_ONCE):
        part = joined[start : start + CHARS_AT_ONCE]
        points = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        found = codes[start : start + len(part)]
        _CODES.take(points, out=found, mode="clip")
        if found.min() == 0:
            new = np.unique(points[found == 0])
            _CODES[new] = [_code(point) for point in new.tolist()]
            _CODES.take(points, out=found, mode="clip")
    codes[np.cumsum([len(text) + 1 for text in texts]) - 1] = END | SPACE
    return codes


def _code_blocks(texts: Sequence[str]) -> Iterator[UInt32s]:
    """The codes of a few texts at a time, of at least `CHARS_AT_ONCE` characters."""
    waiting: list[str] = []
    count = 0
    for text in texts:
        waiting.append(text)
        count += len(text) + 1
        if count >= CHARS_AT_ONCE:
            yield _codes(waiting)
            waiting, count = [], 0
    if waiting:
        yield _codes(waiting)


@cache
def _powers(count: int) -> tuple[UInt64s, UInt64s]:
    """BASE to the powers 0 ... count, and their inverses mod 2^64."""
    up, down = np.full((2, count + 1), 1, dtype=np.uint64)
    up[1:], down[1:] = BASE, pow(BASE, -1, 1 << 64)
    return np.multiply.accumulate(up), np.multiply.accumulate(down)


class _WordHasher:
    """Hashes the words in blocks of codes; the last word is open until another begins."""

    def __init__(self) -> None:
        self._done: list[UInt64s] = []
        self._begins: list[Int64s] = [np.zeros(1, dtype=np.int64)]
        self._num_begun = 0
        self._before = np.full(1, SPACE, dtype=np.uint8)
        self._open = np.zeros(1, dtype=np.uint64)
        self._open_power = np.ones(1, dtype=np.uint64)

    def words(self) -> UInt64s:
        """Hashes of the words read."""
        if self._num_begun == 0:
            return np.empty(0, dtype=np.uint64)
        # The first is the word that was open before the first began.
        return mix(np.concatenate([*self._done, self._open])[1:])

    def begins(self) -> Int64s:
        """The number of words before each text, and in total."""
        return np.concatenate(self._begins)

    def read(self, codes: UInt32s) -> None:
        """Add the next block."""
        codes, kinds = self._kept(codes)
        if len(codes) == 0:
            return
        before, now = kinds[:-1], kinds[1:]
        self._before = kinds[-1:]
        starts = np.flatnonzero(_word_begins(before, now))
        ends = np.flatnonzero(now == np.uint8(END | SPACE))
        self._begins.append(self._num_begun + np.searchsorted(starts, ends))
        self._num_begun += len(starts)
        self._hash(codes >> _SHIFT, starts)

    def _kept(self, codes: UInt32s) -> tuple[UInt32s, UInt8s]:
        """The codes that are hashed, and their kinds after that of the previous block's last."""
        kinds = codes.astype(np.uint8)
        if (kinds & np.uint8(GONE)).any():
            codes = codes[(kinds & np.uint8(GONE)) == 0]
        kinds = np.concatenate([self._before, codes.astype(np.uint8)])
        again = kinds[1:] & kinds[:-1] & np.uint8(DIGIT)
        if again.any():
            codes = codes[again == 0]
            kinds = np.concatenate([self._before, codes.astype(np.uint8)])
        return codes, kinds

    def _hash(self, points: UInt32s, starts: npt.NDArray[np.intp]) -> None:
        powers, inverses = _powers(CHARS_AT_ONCE)
        count = len(points)
        sums = np.zeros(count + 1, dtype=np.uint64)  # of the terms before each place
        np.cumsum(points * powers[:count], out=sums[1:])
        at = np.append(sums[starts], sums[-1:])
        self._open += self._open_power * at[:1]
        if len(starts) == 0:
            self._open_power = self._open_power * powers[count]
            return
        words = np.diff(at) * inverses[starts]
        self._done += [self._open, words[:-1]]
        self._open = words[-1:]
        self._open_power = powers[count - starts[-1:]]


def _word_begins(before: UInt8s, now: UInt8s) -> npt.NDArray[np.bool_]:
    """`_begins_word` of each place."""
    apart = before & np.uint8(SPACE)
    apart |= (now & np.uint8(ALONE)) >> np.uint8(1)
    apart |= (before & ~now & np.uint8(UNSPACED)) >> np.uint8(2)
    apart &= ~now
    return apart.view(np.bool_)
