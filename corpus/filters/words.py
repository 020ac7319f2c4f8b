"""English words and sentences: the tokens of spaCy's blank "en", without spaCy.

Thresholds such as "at least 50 words" depend on the tokenizer that they were set with, and
datatrove uses spaCy's. Its algorithm: split at white space; strip prefixes and suffixes from each
piece until a known form is left, or nothing to strip; keep URLs and e-mail addresses; split the
rest at infixes. Each step reads a bounded stretch or consumes what it reads: O(length).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from unicodedata import category

import regex

# Ends of sentences in all scripts: datatrove's TERMINAL_PUNCTUATION, which is Unicode's property
# Sentence_Terminal (version 14 or so), written out so that no Unicode update changes a decision.
TERMINAL_PUNCTUATION = frozenset(
    "!.?\u0589\u061d\u061e\u061f\u06d4\u0700\u0701\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965"
    "\u104a\u104b\u1362\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u17d6\u17d9\u17da\u1803\u1809"
    "\u1944\u1945\u1aa8\u1aa9\u1aaa\u1aab\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d\u1b7e\u1c3b\u1c3c\u1c7e"
    "\u1c7f\u203c\u203d\u2047\u2048\u2049\u2e2e\u2e3c\u2e53\u2e54\u3002\ua4ff\ua60e\ua60f\ua6f3"
    "\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d\uaa5e\uaa5f\uaaf0\uaaf1\uabeb\ufe52"
    "\ufe56\ufe57\uff01\uff0e\uff1f\uff61\U00010a56\U00010a57\U00010f55\U00010f56\U00010f57"
    "\U00010f58\U00010f59\U00010f86\U00010f87\U00010f88\U00010f89\U00011047\U00011048\U000110be"
    "\U000110bf\U000110c0\U000110c1\U00011141\U00011142\U00011143\U000111c5\U000111c6\U000111cd"
    "\U000111de\U000111df\U00011238\U00011239\U0001123b\U0001123c\U000112a9\U0001144b\U0001144c"
    "\U000115c2\U000115c3\U000115c9\U000115ca\U000115cb\U000115cc\U000115cd\U000115ce\U000115cf"
    "\U000115d0\U000115d1\U000115d2\U000115d3\U000115d4\U000115d5\U000115d6\U000115d7\U00011641"
    "\U00011642\U0001173c\U0001173d\U0001173e\U00011944\U00011946\U00011a42\U00011a43\U00011a9b"
    "\U00011a9c\U00011c41\U00011c42\U00011ef7\U00011ef8\U00011f43\U00011f44\U00016a6e\U00016a6f"
    "\U00016af5\U00016b37\U00016b38\U00016b44\U00016e98\U0001bc9f\U0001da88"
)

# Characters that are no word on their own: datatrove's PUNCTUATION_SET with its oddities (it has a
# full-width 1, but neither the bullet nor the en dash nor the opening single quote).
_CONTROLS = "".join(chr(c) for c in (*range(9), 11, 12, *range(13, 32), *range(127, 160)))
PUNCTUATION = (
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
    + _CONTROLS
    + "".join(sorted(TERMINAL_PUNCTUATION))
)

# Contractions as spaCy knows them, with either apostrophe or none: "I'd've" and "Idve" are three.
_CONTRACTIONS = (
    ("i", "'m 'm+a"),
    ("i you he she it we they", "'ll 'll+'ve 'd 'd+'ve"),
    ("who what when where why how there that this these those", "'ll 'll+'ve 'd 'd+'ve"),
    ("i you we they who what when where why how there these those", "'ve"),
    ("could might must should would", "'ve"),
    ("you we they who what when where why how there these those", "'re"),
    ("he she it who what when where why how there that this", "'s"),
    ("ca could do does did had may might must need ought sha should wo would", "n't n't+'ve"),
    ("ai are is was were have has dare", "n't"),
    ("not", "'ve"),
)
_AMBIGUOUS = ("ill", "its", "hell", "shell", "shed", "were", "well", "whore")
_IRREGULAR = "y'+all y+all how+'d+'y can+not gon+na got+ta let+'s c'm+on °+c+. °+f+. °+C+. °+F+."

# Forms that keep their punctuation.
_ABBREVIATIONS = """
    Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind.
    Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y.
    Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. a.m. p.m. Adm.
    Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs.
    Mo. Mont. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. C++ and/or w/o <space>
    a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü."""
_APOSTROPHES = """
    ' '' 's 'S ‘s ‘S 'd 're 'em 'll 'nuff 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am
    Ma'am o'clock O'clock doin' Doin' goin' Goin' nothin' Nothin' nuthin' Nuthin' ol' Ol'
    somethin' Somethin' lovin' Lovin' havin' Havin'"""
_EMOTICONS = """
    :) :-) :)) :-)) :))) (: (-: =) (= ;) ;-) (; :( :-( :(( :((( :D :-D ;D =D xD XD 8D 8) 8-) :P
    :-P :p :-p :o :-o :O :-O :0 :x :X :-X :| :-| :/ :-/ =/ :] :[ [: =] ]= :} :> :* :-* :3 :1 :'(
    :') >:( >.< >.> <.< <3 <33 <333 </3 ^_^ -_- -__- o.o o.O O.o O.O o_o o_O O_o O_O 0_0 0.0 0_o
    o_0 @_@ ;_; v_v v.v V_V V.V ._. ): )-: [= [-: (-; (-8 (o: \\")"""


def _known_forms() -> Iterator[tuple[str, ...]]:
    """Every special case of spaCy's English, as the tuple of its tokens."""
    for hosts, endings in _CONTRACTIONS:
        for host in hosts.split():
            for ending in endings.split():
                yield from _spellings(host, ending.split("+"))
    for form in _IRREGULAR.split():
        yield from {tuple(form.split("+")), tuple((form[0].upper() + form[1:]).split("+"))}
    for hour in range(1, 13):
        for half in ("a.m.", "am", "p.m.", "pm"):
            yield str(hour), half
    for form in f"{_ABBREVIATIONS} {_APOSTROPHES} {_EMOTICONS}".split():
        yield (form,)
        yield (form.replace("'", "’"),)


def _spellings(host: str, endings: list[str]) -> Iterator[tuple[str, ...]]:
    for start in (host, host.title()):
        for apostrophe in "'", "’", "":
            parts = (start, *(e.replace("'", apostrophe) for e in endings))
            if "".join(parts).lower() not in _AMBIGUOUS:
                yield parts


_KNOWN = {"".join(parts): parts for parts in _known_forms()}
_LONGEST_KNOWN = max(map(len, _KNOWN))
_KNOWN_STARTS = frozenset(form[:end] for form in _KNOWN for end in range(1, len(form) + 1))
_MOST_PARTS = 5  # most tokens that the affix rules make of a known form

_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_PUNCT = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_MARKS = regex.escape(_PUNCT + _QUOTES, special_only=False)
_ONE_MARK = frozenset(_PUNCT + _QUOTES)  # each a prefix and a suffix by itself
_LOWER, _UPPER = r"\p{Ll}\p{Lo}", r"\p{Lu}\p{Lt}\p{Lo}"
_UNITS = (
    "km|km²|km³|m|m²|m³|dm|dm²|dm³|cm|cm²|cm³|mm|mm²|mm³|ha|µm|nm|yd|in|ft|kg|g|mg|µg|t|lb|oz|m/s|"
    "km/h|kmh|mph|hPa|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K|%"
)
_PREFIX = regex.compile(rf"\.\.+|(?:US|C|A)\$|\+(?![0-9])|[§%=—–{_MARKS}\p{{Sc}}\p{{So}}]")
# Matched backwards from the end of the piece, hence (?r).
_SUFFIX = regex.compile(
    rf"(?r)\.\.+|['’][sS]|[—–{_MARKS}\p{{So}}]|(?<=[0-9])(?:\+|US\$|[CA]\$|\p{{Sc}}|{_UNITS})"
    rf"|(?<=[0-9{_LOWER}%²\-+|{_MARKS}])\.|(?<=[{_UPPER}][{_UPPER}]|°[CcFfKk])\."
)
_INFIX = regex.compile(
    r"\.\.+|[…\p{So}]|(?<=[0-9])[+\-*^](?=[0-9-])"
    rf"|(?<=[{_LOWER}{regex.escape(_QUOTES)}])\.(?=[{_UPPER}{regex.escape(_QUOTES)}])"
    r"|(?<=\p{L}),(?=\p{L})|(?<=[\p{L}0-9])(?:---|--|——|[-–—~])(?=\p{L})"
    r"|(?<=[\p{L}0-9])[:<>=/](?=\p{L})"
)
# After spaCy's URL_PATTERN (Diego Perini's, MIT): an address without the part before an @, and with
# at most 126 labels, the most that a domain name of 253 characters can have.
_SCHEME = regex.compile(r"[\w+.\-]{2,32}://")
_ADDRESS = regex.compile(
    r"(?:(?!(?:10|127)(?:\.\d{1,3}){3}|(?:169\.254|192\.168)(?:\.\d{1,3}){2})"
    r"(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])(?:\.(?:1?\d{1,2}|2[0-4]\d|25[0-5])){2}"
    r"\.(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-4])"
    r"|(?:(?:[A-Za-z0-9¡-\uffff][A-Za-z0-9¡-\uffff_-]{0,62})?[A-Za-z0-9¡-\uffff]\.){1,126}"
    rf"[{_LOWER}]{{2,63}})(?::\d{{2,5}})?(?:[/?#]\S*)?"
)


class _TokenCache(dict[str, tuple[str, ...]]):
    """The tokens of recent pieces: most pieces of a text are common words.

    Long pieces rarely repeat and aren't kept; a full cache is cleared.
    """

    MAX_PIECES, MAX_CHARS = 1 << 16, 24

    def __missing__(self, piece: str) -> tuple[str, ...]:
        tokens = _split_piece(piece)
        if len(piece) <= self.MAX_CHARS:
            if len(self) >= self.MAX_PIECES:
                self.clear()
            self[piece] = tokens
        return tokens


_cache = _TokenCache()


def split_words(text: str) -> list[str]:
    """The words of `text` in order, punctuation marks included: "Don't!" is Do, n't, !."""
    return list(chain.from_iterable(map(_cache.__getitem__, text.split())))


def count_sentences(words: Sequence[str]) -> int:
    """Sentences in `words`, as spaCy's sentencizer counts them; 0 without words.

    After a terminal mark, the next word that isn't punctuation starts a sentence.
    """
    count, ended = min(len(words), 1), False
    for word in words:
        if word in TERMINAL_PUNCTUATION:
            ended = True
        elif ended and not all(category(c).startswith("P") for c in word):
            count, ended = count + 1, False
    return count


def is_symbol(word: str) -> bool:
    """Whether `word` is only punctuation, which Gopher does not count as a word."""
    return not word.strip(PUNCTUATION)


def _split_piece(piece: str) -> tuple[str, ...]:
    """The tokens of a piece of text without white space."""
    if piece not in _KNOWN:
        if piece.isalpha():
            return (piece,)
        core, mark = piece[:-1], piece[-1]
        ended = mark in ",;:!?" or (mark == "." and "a" <= piece[-2:-1] <= "z")
        if ended and core.isalpha() and core not in _KNOWN:
            return core, mark
    return _split_affixes(piece)


def _split_affixes(piece: str) -> tuple[str, ...]:
    """The tokens of any piece, without the shortcuts of `_split_piece`."""
    start, end, head, tail = 0, len(piece), [], []
    without_prefix = without_suffix = -1  # a start and an end where none was found
    while start < end and not _known(piece, start, end):
        # Most affixes are one mark, found without the patterns.
        inner, outer = start + 1, end - 1
        if start == without_prefix:
            inner = start
        elif piece[start] not in _ONE_MARK:
            prefix = _PREFIX.match(piece, start, end)
            inner = prefix.end() if prefix else start
            if not prefix and piece[start] != "+":  # a prefix once no digit follows
                without_prefix = start
        if inner > start and _known(piece, inner, end):
            head.append(piece[start:inner])
            start = inner
            break
        if end == without_suffix or inner == end:
            outer = end
        elif piece[outer] not in _ONE_MARK:
            suffix = _SUFFIX.match(piece, inner, end)
            outer = suffix.start() if suffix else end
            if not suffix:
                without_suffix = end
        if outer < end:
            tail.append(piece[outer:end])
            if _known(piece, start, outer):
                end = outer
                break
        if inner > start:
            head.append(piece[start:inner])
        if inner == start and outer == end:
            break
        start, end = inner, outer
    return _rejoin((*head, *_split_core(piece, start, end), *reversed(tail)))


def _known(piece: str, start: int, end: int) -> tuple[str, ...]:
    """The tokens of a known form, or ()."""
    return _KNOWN.get(piece[start:end], ()) if end - start <= _LONGEST_KNOWN else ()


def _split_core(piece: str, start: int, end: int) -> Sequence[str]:
    """The tokens between the affixes: a known form, an address, or a word split at its infixes."""
    if start == end:
        return ()
    if known := _known(piece, start, end):
        return known
    core = piece[start:end]
    if core.isalpha() or _is_address(core):
        return (core,)
    tokens, done = [], 0
    for infix in _INFIX.finditer(core):
        if infix.start() > done:
            tokens.append(core[done : infix.start()])
        if infix.start() > 0:
            tokens.append(infix[0])
            done = infix.end()
    return [*tokens, core[done:]] if done < len(core) else tokens


def _is_address(core: str) -> bool:
    """Whether `core` is a URL or an e-mail address, also without a scheme."""
    if "." not in core:
        return False
    scheme = _SCHEME.match(core)
    starts = {scheme.end() if scheme else 0}
    if core.find("@") > 0:
        starts |= {core.find("@") + 1, core.rfind("@") + 1}
    return any(_ADDRESS.fullmatch(core, start) for start in starts)


def _rejoin(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Restore known forms that the affix rules split: "(a :)" ends in ":)"."""
    if not any(first + second in _KNOWN_STARTS for first, second in pairwise(tokens)):
        return tokens
    joined: list[str] = []
    i = 0
    while i < len(tokens):
        size, form = 1, tokens[i : i + 1]
        if "".join(tokens[i : i + 2]) in _KNOWN_STARTS:
            for longer in range(min(_MOST_PARTS, len(tokens) - i), 1, -1):
                if known := _KNOWN.get("".join(tokens[i : i + longer])):
                    size, form = longer, known
                    break
        joined.extend(form)
        i += size
    return tuple(joined)
