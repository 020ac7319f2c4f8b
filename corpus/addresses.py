"""E-mail addresses and public IP addresses in a text; where they are, not what becomes of them.

Where FineWeb's expressions find an address, so does this, but for versions, sections of a manual,
paths and file names; and it finds those with letters of any script: local parts by RFC 6531,
domains by RFC 5890. Local parts in quotes and domains in brackets are not looked for.

The time is linear: an e-mail address is found from its @, and no character is looked at for more
than two of them. (FineWeb's expression tries every word as the start of an address: hours for a
megabyte of "a-a-a-…".)
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import regex

from schemas import suffixes

Span = tuple[int, int]

_LOCAL = regex.compile(r"(?r)[\p{L}\p{M}\p{Nd}!#$%&'*+/=?^_`{|}~.-]++")
_LOCAL_MARKS = "!#$%&'*+/=?^`{|}~.-"  # not the first character of an address, as in FineWeb
_OTHER = r"[\p{L}--\p{Latin}]"  # a letter of another script than Latin
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
# Where a word ends and the address begins without a space: "邮箱jane@…", "почтаjane@…".
_SEAM = regex.compile(rf"(?V1){_OTHER}\p{{M}}*+(?=\p{{Latin}})|{_UNSPACED}\p{{M}}*+(?=\p{{Nd}})")
# A label after the first is all Latin or not at all: in "example.com谢谢" the last one is "com".
_LABEL, _LATIN_LABEL, _OTHER_LABEL = (
    rf"[{letters}\p{{Nd}}][{letters}\p{{M}}\p{{Nd}}]*+(?:-++[{letters}\p{{M}}\p{{Nd}}]++)*+"
    for letters in (r"\p{L}", r"\p{Latin}", _OTHER)
)
# Two kinds of dots (RFC 3490): for a literal one `regex` looks as far as the end of the text.
_DOMAIN = regex.compile(
    rf"(?V1){_LABEL}(?:[.\uff0e](?:(?=[\p{{Nd}}-]*+{_OTHER}){_OTHER_LABEL}|{_LATIN_LABEL}))++"
)
_TOP_LEVEL = re.compile("[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]")
_MAX_TOP_LEVEL = 63  # characters of a label (RFC 1035)
_UNSPACED_START = regex.compile(rf"{_UNSPACED}")
# Not domains, though they end like one: a package's version; a file's name (icon@2x.png).
_PACKAGE = re.compile(r"v?[0-9]+\.[0-9]+\.[0-9]", re.IGNORECASE)
_FILE_END = re.compile("avif|bmp|css|gif|heic|html?|jpe?g|js|json|pdf|png|svg|tiff?|txt|webp|xml")
_PATH = re.compile(r"[:/][\w~/.]")  # what follows git@host

# Not in a longer dotted number, a word (v1.2.3.4), a product's version (Chrome/1.2.3.4) or a
# file's (package-1.2.3.4.zip).
_IPV4 = regex.compile(
    r"(?<![\w.])(?<![A-Za-z][/-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9]|-[A-Za-z])"
)
# What says that a version or a price follows, and names of what has versions of four numbers.
# (After == stand addresses too: ip.addr == 8.8.8.8.)
_VERSION = regex.compile(
    r"(?r)(?:(?:(?<![^\W\d_])(?:versions?|ver|versión|versiones|versione|versioni|versão|versões|versie"
    r"|versjon|verzi[aeó]|verze|wersj[aię]|sürüm|верс[иі][яіюйїе]|έκδοση|v|rev|revision|release"
    r"|build|firmware|driver|kernel|bios|patch|hotfix|update|upgraded|plugin|player|chrome|chromium"
    r"|firefox|opera|itunes|java|openssl|wordpress)|バージョン|版本|버전)"
    r"\.?(?:\s(?:is|to|number|no\.|from))?[\"'>]?\s?[:=–]?\s?[\"'(]?|[<>~]=\s?|~>\s?|\^|[€$£¥]\s?)",
    regex.IGNORECASE,
)
# A section, a figure or a class, which four small numbers are far more often than an address: as a
# heading ("12.2.2.4. Starting the Container"), before a title ("12.1.2, “LVM”") or a word ("第
# 6.1.2.3 節"), or after a word for it.
_HEADING = re.compile(r"\.?[ \t\u00a0]+[^\W\d_]|$|\n")
_TITLE = re.compile(r"\.[ \u00a0]|,?[ \u00a0][–—-]?[ \u00a0]?[\"'“”„«‘’「『(]|[ \u00a0]?[節节章]")
_SECTION = regex.compile(
    r"(?r)(?:(?<![^\W\d_])(?:(?:sub)?sections?|chapters?|abschnitt|kapitel|kapitola|paragraaf|avsnitt"
    r"|capítulo|sección|seção|secció|sekce|τμήμα|раздел|paragraph|clause|article|art\.|annex|appendix"
    r"|figures?|fig\.|tables?|theorem|lemma|definition|equation|eq\.|requirement|control|ec)"
    r"|§|节|節|章|第)[ \u00a0]?",
    regex.IGNORECASE,
)
# 2000::/3 holds all addresses that are given out (RFC 4291, IANA): the first group is complete.
_IPV6 = re.compile(
    r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){1,6}:[0-9A-Fa-f]{1,4}(?!\w|:[\w:])"
)


def find_emails(text: str) -> Iterator[Span]:
    """Start and end of every e-mail address, from left to right.

    Addresses that nothing separates (a@b.com@c.com) are one: were they two, the first one's
    replacement and the rest would read as a longer address. git@host:path is nobody's address.
    """
    start = end = 0
    at = text.find("@")
    while at >= 0:
        domain_end = at + 1 + _domain_length(text, at + 1)
        if domain_end > at + 1:
            local = _LOCAL.match(text, end, at)
            name = _name(local[0]) if local else ""
            if end and end == (local.start() if local else at) and _is_joined(text[end]):
                end = domain_end
            elif name and not (name == "git" and _PATH.match(text, domain_end)):
                if end:
                    yield start, end
                start, end = at - len(name), domain_end
        at = text.find("@", domain_end)
    if end:
        yield start, end


def _name(run: str) -> str:
    """The local part at the end of a run of its characters; none where an @ stands in a path."""
    if run.endswith("/"):
        return ""  # example.com/@jane.doe
    seams = [] if run.isascii() else [seam.end() for seam in _SEAM.finditer(run)]
    return run[seams[-1] if seams else 0 :].lstrip(_LOCAL_MARKS)


def _is_joined(after: str) -> bool:
    """Whether the character after an address doesn't separate it from what comes next."""
    return after in "@.-_" or after.isalnum() or unicodedata.category(after).startswith("M")


def _domain_length(text: str, start: int) -> int:
    """Length of the domain name at `start`, 0 if there is none.

    It ends with a label that can be a top-level one: name@4.17.21 is a version. A domain in other
    letters than English ones must end with one that is given out.
    """
    match = _DOMAIN.match(text, start)
    if not match or _PACKAGE.match(match[0]):
        return 0
    labels = match[0].replace("\uff0e", ".").split(".")
    first = next((n for n, label in enumerate(labels) if not label.isascii()), len(labels))
    while len(labels) > 1:
        last = labels.pop()
        length = _top_level_length(last, international=first < len(labels))
        if length:
            return len(".".join(labels)) + 1 + length
    return 0


def _top_level_length(label: str, international: bool) -> int:
    """How much of a domain's last label is a top-level domain; `international`: what precedes."""
    english = _TOP_LEVEL.match(label)
    if english:
        name = english[0].lower()
        if _FILE_END.fullmatch(name):
            return 0
        known = not international or name.startswith("xn--") or name in _top_level_domains()
        return english.end() if known else 0
    if label.isascii():
        return 0
    if _UNSPACED_START.match(label):  # 中国谢谢
        ends = range(min(len(label), _MAX_TOP_LEVEL), 0, -1)
        return next((end for end in ends if label[:end] in _top_level_domains()), 0)
    return len(label) if label.lower() in _top_level_domains() else 0


@functools.cache
def _top_level_domains() -> frozenset[str]:
    return frozenset(name for name in suffixes.parser().tlds if "." not in name)


def find_ipv4(text: str) -> Iterator[Span]:
    """Start and end of every IPv4 address that belongs to somebody, from left to right."""
    for match in _IPV4.finditer(text):
        if _is_public(match[0]) and not _is_version(match) and not _is_section(match):
            yield match.span()


@functools.lru_cache(maxsize=4096)
def _is_public(address: str) -> bool:
    try:
        parsed = IPv4Address(address)
    except AddressValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


def _is_version(match: regex.Match[str]) -> bool:
    """Whether what stands before four numbers says that they are a version or a price."""
    return _VERSION.match(match.string, 0, match.start()) is not None


def _is_section(match: regex.Match[str]) -> bool:
    """Whether four numbers below 100 number a section."""
    text, (start, end) = match.string, match.span()
    if any(len(number) > 2 for number in match[0].split(".")):
        return False
    starts_line = start == 0 or text[start - 1] == "\n"
    return bool(
        (starts_line and _HEADING.match(text, end))
        or _TITLE.match(text, end)
        or _SECTION.match(text, 0, start)
    )


def find_ipv6(text: str) -> Iterator[Span]:
    """Start and end of every global unicast IPv6 address, from left to right."""
    for match in _IPV6.finditer(text):
        try:
            address = IPv6Address(match[0])
        except AddressValueError:
            continue
        if address.is_global:
            yield match.span()
