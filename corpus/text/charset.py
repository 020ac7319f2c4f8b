"""Bytes of a page to text, by scoring the candidate encodings.

Headers and meta tags are wrong on a few pages in a hundred, a detector on others, and one bad byte
makes strict UTF-8 fail. So a byte order mark decides; else UTF-8, if most bytes beyond ASCII are
valid UTF-8; else the candidate (HTTP header, meta tag, detector, windows-1252) whose text has the
fewest signs of wrong decoding. Labels mean what the WHATWG Encoding Standard says: iso-8859-1 is
windows-1252. Cost: one strict decoding for valid UTF-8; else a few.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from resiliparse.parse.encoding import detect_encoding

PRESCAN_BYTES = 16 << 10  # WHATWG says 1024; real pages have the tag after scripts too
_SAMPLE_BYTES = 64 << 10
_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16le",
    codecs.BOM_UTF16_BE: "utf-16be",
}
# Labels whose WHATWG encoding differs from Python's, and the codecs that decode as browsers do:
# https://encoding.spec.whatwg.org/#names-and-labels
_LABELS = {
    **dict.fromkeys(["ascii", "us-ascii", "iso-8859-1", "iso8859-1", "latin1"], "windows-1252"),
    **dict.fromkeys(["latin-1", "l1", "iso_8859-1", "cp1252", "ansi"], "windows-1252"),
    **dict.fromkeys(["iso-8859-9", "iso8859-9", "latin5", "cp1254"], "windows-1254"),
    **dict.fromkeys(["iso-8859-11", "iso8859-11", "tis-620", "cp874"], "windows-874"),
    **dict.fromkeys(["gb2312", "gb_2312-80", "x-gbk", "gb18030", "cp936"], "gbk"),
    **dict.fromkeys(["big5-hkscs", "cn-big5", "x-x-big5", "cp950"], "big5"),
    **dict.fromkeys(["x-sjis", "shift-jis", "sjis", "cp932", "ms_kanji"], "shift_jis"),
    **dict.fromkeys(["windows-31j", "ms932"], "shift_jis"),
    **dict.fromkeys(["euc_kr", "ks_c_5601-1987", "ksc5601", "cp949", "uhc"], "euc-kr"),
    **dict.fromkeys(["windows-949", "ks_c_5601-1989", "korean"], "euc-kr"),
    **dict.fromkeys(["euc_jp", "x-euc-jp"], "euc-jp"),
    **dict.fromkeys(["utf8", "utf-", "unicode-1-1-utf-8", "x-unicode20utf8"], "utf-8"),
    **dict.fromkeys(["mac", "x-mac-roman", "mac-roman"], "macintosh"),
}
_CODECS = {
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "windows-874": "cp874",
    "macintosh": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
}
_NOT_FOR_PAGES = {"utf-7", "idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"}
_TAG_ATTRIBUTE = re.compile(
    r"""([^\s"'<>/=]+)\s{0,9}=\s{0,9}(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))""", re.ASCII
)


# Pairs of characters that show wrong decoding, weighted by how rare they are in real text.
_FAULTS = [
    (10.0, re.compile("�")),
    (5.0, re.compile("[\x80-\x9f\ue000-\uf8ff]")),
    (
        3.0,
        re.compile("[a-zß-ÿ\u0430-\u044f][¡¢£¤¥¦§©¬®¯±¶¸¹²³ªº¿×÷†‡‰‹]+(?=[a-zß-ÿ\u0430-\u044f])"),
    ),
    (2.0, re.compile("[A-Za-z][\u0400-\u04ff\u0370-\u03ff]|[\u0400-\u04ff\u0370-\u03ff][A-Za-z]")),
    (2.0, re.compile("[¡-¿À-ÿ]{3}")),
    (1.0, re.compile("[a-zà-ÿ\u0430-\u044f][À-ÞŠŽ\u0410-\u042f]")),
]
# Rows of the East Asian standards that hold their everyday characters (GB 2312 and JIS X 0208
# level 1, Big5 level 1, the Hangul of KS X 1001), in the bytes of the codec named first.
_EVERYDAY_ROWS = {
    "euc-kr": ("euc_kr", range(0xB0, 0xC9)),
    "gbk": ("gb2312", range(0xB0, 0xD8)),
    "big5": ("big5", range(0xA4, 0xC7)),
    "shift_jis": ("euc_jp", range(0xB0, 0xD0)),
    "euc-jp": ("euc_jp", range(0xB0, 0xD0)),
}
_PUNCTUATION = [*range(0xA0, 0xC0), *range(0x2010, 0x2040), *range(0x3000, 0x3020)]
_FULL_WIDTH = range(0xFF01, 0xFF5F)
_KANA = range(0x3041, 0x3100)
_DEFAULT_LABEL = "windows-1252"  # what unconfigured servers say
_MIN_HIGH_BYTES = 60  # with fewer, the detector takes Dutch for Slovak


@dataclass(frozen=True)
class Decoded:
    """The text, and the encoding (WHATWG name) it was decoded with."""

    text: str
    charset: str


def decode(body: bytes, http_charset: str | None = None) -> Decoded:
    """Decode a page; bytes that are invalid in its encoding become U+FFFD."""
    for mark, charset in _BOMS.items():
        if body.startswith(mark):
            return _decoded(body[len(mark) :], charset)
    declared = [http_charset, meta_charset(body)]
    names = [name for name in map(encoding_of, declared) if name]
    if wide := _utf16_without_mark(body):
        return _decoded(body, wide)
    if b"\x1b$" in body and "iso-2022-jp" in names:
        return _decoded(body, "iso-2022-jp")
    try:
        return Decoded(body.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        if _mostly_utf8(body, "utf-8" in names):
            return _decoded(body, "utf-8")
    return _decoded(body, _best(body, [name for name in names if name != "utf-8"]))


def encoding_of(label: str | None) -> str | None:
    """The encoding of a label (WHATWG name), or None if the label is unknown."""
    name = (label or "").strip(" \t\r\n\"'").lower()
    if found := re.fullmatch(r"(?:windows|cp|x-cp)-?(125[0-8])", name):
        name = f"windows-{found[1]}"
    elif found := re.fullmatch(r"iso[-_]?8859[-_]?(\d{1,2})(?:-[ie])?(?::\d{4})?", name):
        name = f"iso-8859-{found[1]}"
    name = _LABELS.get(name, name)
    try:
        codec = codecs.lookup(_CODECS.get(name, name))
    except (LookupError, ValueError):
        return None
    if not codec._is_text_encoding or codec.name in _NOT_FOR_PAGES:
        return None
    return "utf-8" if name.startswith("utf-16") else name


def _decoded(body: bytes, charset: str) -> Decoded:
    return Decoded(body.decode(_CODECS.get(charset, charset), "replace"), charset)


def meta_charset(body: bytes) -> str | None:
    """The label in the page's meta tags or XML declaration, unchanged."""
    head = body[:PRESCAN_BYTES].decode("latin-1")
    for tag in meta_tags(head):
        if tag.get("charset"):
            return tag["charset"]
        if tag.get("http-equiv", "").lower() == "content-type":
            found = re.search(r"charset\s*=\s*[\"']?([^\s\"';,]+)", tag.get("content", ""), re.I)
            if found:
                return found[1]
    declaration = re.match(r"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([^\"'>]+)", head)
    return declaration[1] if declaration else None


def meta_tags(head: str) -> Iterator[dict[str, str]]:
    """The attributes of each meta tag in `head` outside comments; linear time."""
    lowered = head.lower()
    meta, comment = lowered.find("<meta"), lowered.find("<!--")
    while meta >= 0:
        if 0 <= comment < meta:
            past = lowered.find("-->", comment)
            if past < 0:
                break
            comment = lowered.find("<!--", past)
        else:
            past = lowered.find(">", meta)
            if past < 0:
                break
            found = _TAG_ATTRIBUTE.finditer(head[meta + 5 : min(past, meta + 2048)])
            yield {m[1].lower(): m[2] or m[3] or m[4] or "" for m in found}
            if 0 <= comment < past:
                comment = lowered.find("<!--", past)
        if meta < past:
            meta = lowered.find("<meta", past)


def _utf16_without_mark(body: bytes) -> str | None:
    """UTF-16 by its zero bytes; pages in other encodings have few."""
    head = body[:512]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < len(head) // 4 or min(even, odd) > len(head) // 32:
        return None
    return "utf-16le" if odd > even else "utf-16be"


def _mostly_utf8(body: bytes, declared: bool) -> bool:
    """Whether more characters beyond ASCII are valid UTF-8 than invalid; as many, if declared."""
    text = body.decode("utf-8", "replace")
    wrong = text.count("�")
    valid = sum(1 for c in text if c > "\x7f") - wrong
    return valid > wrong or (declared and valid == wrong)


def _best(body: bytes, declared: list[str]) -> str:
    """The candidate with the fewest faults per character beyond ASCII; earlier ones win ties."""
    sample = _beyond_ascii(body)
    guess = encoding_of(detect_encoding(body))
    num_high = sum(1 for byte in sample if byte > 0x7F)
    guesses = [guess] if guess else []
    if set(declared) <= {_DEFAULT_LABEL}:
        sure = num_high >= _MIN_HIGH_BYTES
        declared = [*guesses, _DEFAULT_LABEL] if sure else [_DEFAULT_LABEL, *guesses]
    names = dict.fromkeys([*declared, *guesses, _DEFAULT_LABEL, *_EVERYDAY_ROWS])
    trusted = {*declared} - {*guesses, _DEFAULT_LABEL}
    return min(
        (name for name in names if name != "utf-8"),
        key=lambda name: _badness(sample, name) - (0.1 if name in trusted else 0),
    )


def _beyond_ascii(body: bytes) -> bytes:
    """The words of the page that are not ASCII, up to 64 KiB."""
    parts, size = [], 0
    for word in re.split(rb"[\s<>]+", body):
        if not word.isascii():
            parts.append(word[:_SAMPLE_BYTES])
            size += len(word)
            if size > _SAMPLE_BYTES:
                break
    return b" ".join(parts)


def _badness(sample: bytes, name: str) -> float:
    """Weighted faults per character beyond ASCII, rounded so that a tiny difference is a tie."""
    text = sample.decode(_CODECS.get(name, name), "replace")
    beyond = [c for c in text if c > "\x7f"]
    faults = sum(weight * len(pattern.findall(text)) for weight, pattern in _FAULTS)
    if name in _EVERYDAY_ROWS:
        everyday = _everyday(name)
        faults += 0.7 * sum(1 for c in beyond if c not in everyday)
    return round(faults / max(1, len(beyond)), 2)


@functools.cache
def _everyday(name: str) -> frozenset[str]:
    """The characters that make up most of a text in this encoding."""
    codec, leads = _EVERYDAY_ROWS[name]
    trails = [*range(0x40, 0x7F), *range(0xA1, 0xFF)]
    rows = bytes(b for lead in leads for trail in trails for b in (lead, trail))
    everyday = {*map(chr, _PUNCTUATION), *map(chr, _FULL_WIDTH), *rows.decode(codec, "ignore")}
    return frozenset(everyday | ({*map(chr, _KANA)} if codec == "euc_jp" else set()))
