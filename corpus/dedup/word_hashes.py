"""The words of a text as 64-bit hashes: what near-duplicates, passages and n-grams are compared by.

Texts count as equal that differ in case, accents, digits or punctuation, in the manner of FineWeb's
simplify_text (arXiv 2406.17557): `normalise` says it readably, character by character. Two things
are otherwise. Marks that carry meaning stay (vowel signs of India and Indochina, kana's voicing),
and each character of a script written without spaces is a word, with the marks that follow it, so
that there a run of words is a character n-gram.

`word_hashes` does the same in NumPy: code points, one table from code point to what becomes of it,
words found by masks. A word's hash is splitmix64's finaliser of the sum of cᵢ·BASEⁱ mod 2^64 over
its code points c₀, c₁ ...: one running sum over the whole block, between two of whose places a word
lies, times the inverse of the power that it began with. A block may begin and end within a word.
O(length), without a Python object a word; memory O(longest text) beside the result.

What one code point for one gives up: ß is not ss and a ligature not its letters. A polynomial mod
2^64 is no defence against words made to collide, some thousand letters long. Unicode's properties
are those that the installed Python knows, its scripts those of `regex`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import regex

SCHEME = "gristmill-words-1"  # changes with anything that changes a hash

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]
UInt32s = npt.NDArray[np.uint32]
UInt8s = npt.NDArray[np.uint8]

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse; 2^64 / golden ratio, as in splitmix64
CHARS_AT_ONCE = 1 << 16  # × 8 bytes for each pass's result: about a core's cache

# Scripts written without spaces: each of their characters counts as a word.
SPACELESS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
# Scripts that are read without their marks, and accents of any.
_UNMARKED = regex.compile(
    r"[\p{Common}\p{Inherited}\p{Latin}\p{Greek}\p{Cyrillic}\p{Hebrew}\p{Arabic}\p{Syriac}]"
)
# What may join, or change places with, a character before it once nothing stands between them.
_LOOSE = regex.compile(r"[\p{M}\u1160-\u11FF\U00016D63-\U00016D67]")
_VOICING = "\u3099\u309a"  # of kana
_ZERO_WIDTH_SPACE, _KASHIDA = "\u200b", "\u0640"

# What a character is, never 0; a code is the code point it becomes, shifted, and these bits.
SPACE = 1
ALONE = 2  # begins a word, whatever stands before it
UNSPACED = 4  # of a script without spaces: what follows begins a word, unless it is a mark of such
DIGIT = 8
LOOSE = 16
GONE = 32
LETTER = 64  # or mark, or other number
END = 128  # of a text; no character
_SHIFT = np.uint32(8)

_CODES = np.zeros(0x110000, dtype=np.uint32)  # 0: not met yet


class _Dropped(dict[int, int | None]):
    """For str.translate: whether a character is dropped, found out when it is first met."""

    def __missing__(self, code_point: int) -> int | None:
        self[code_point] = value = None if _is_dropped(chr(code_point)) else code_point
        return value


def _is_dropped(character: str) -> bool:
    """Accents, points and harakat; soft hyphens and joiners; what only stretches a word."""
    category = unicodedata.category(character)
    if category[0] == "M":
        return character not in _VOICING and bool(_UNMARKED.match(character))
    return character == _KASHIDA or (category == "Cf" and character != _ZERO_WIDTH_SPACE)


_DROPPED = _Dropped()


def normalise(text: str) -> str:
    """Lower-case words between single spaces, as they are hashed.

    Accents go, a run of digits becomes 0, what is no letter, mark or number becomes a space.
    Idempotent. For people and tests; O(length), but character by character.
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
    """Hashes of all words of n texts one after the other, uint64 (w,), and where each text's begin.

    The second array is int64 (n + 1,): text i has the words from its place i up to place i + 1.
    """
    reader = _Reader()
    for block in _blocks(texts):
        reader.read(block)
    return reader.words(), reader.begins()


def ngram_hashes(words: UInt64s, n: int) -> UInt64s:
    """64-bit hash of every run of n words, in order, (max(0, len(words) - n + 1),); repeats stay.

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
    """The text without what `_is_dropped`, composed."""
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFD", text).translate(_DROPPED)
    return unicodedata.normalize("NFC", apart)


@lru_cache(maxsize=1 << 14)
def _fold(character: str) -> tuple[int, str]:
    """What a character without accents is, and what it becomes."""
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
    kind, becomes = _fold(kept[0])  # there is one, in texts composed as `_codes` has them
    return (ord(becomes) << int(_SHIFT) if becomes else 0) | kind


def _codes(texts: list[str]) -> UInt32s:
    """What each character becomes, and after each text an end.

    All are looked up at once, since texts may be as short as lines. The table takes accents from
    a composed text as `_without_accents` does, unless something is dropped before what may then
    join the character before it.
    """
    # NFC is mostly a look, and the text itself.
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


def _blocks(texts: Sequence[str]) -> Iterator[UInt32s]:
    waiting: list[str] = []
    count = 0
    for text in texts:
        waiting.append(text)
        count += len(text) + 1
        if count >= CHARS_AT_ONCE:
            yield from _cut(_codes(waiting))
            waiting, count = [], 0
    if waiting:
        yield from _cut(_codes(waiting))


def _cut(codes: UInt32s) -> Iterator[UInt32s]:
    for start in range(0, len(codes), CHARS_AT_ONCE):
        yield codes[start : start + CHARS_AT_ONCE]


@cache
def _powers(count: int) -> tuple[UInt64s, UInt64s]:
    """BASE to the powers 0 ... count, and their inverses mod 2^64."""
    up, down = np.full((2, count + 1), 1, dtype=np.uint64)
    up[1:], down[1:] = BASE, pow(BASE, -1, 1 << 64)
    return np.multiply.accumulate(up), np.multiply.accumulate(down)


class _Reader:
    """Reads blocks of codes; the last word is open until another begins."""

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
        """How many words there were before each text read, and in all."""
        return np.concatenate(self._begins)

    def read(self, codes: UInt32s) -> None:
        """Read on from where the last block ended."""
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
        """The codes that count, and their kinds, the last block's last one before them."""
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
