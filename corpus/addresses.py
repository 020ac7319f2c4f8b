"""E-mail addresses and public IP addresses in a text; where they are, not what becomes of them.

The time is linear: an e-mail address is found from its @, and no character is looked at for two of
them. (FineWeb's expression tries every word as the start of an address: hours for a megabyte of
"a-a-a-…".)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import regex

Span = tuple[int, int]

_LOCAL = regex.compile(r"(?r)[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]++")
_LOCAL_MARKS = "!#$%&'*+/=?^`{|}~.-"  # not the first character of an address, as in FineWeb
_LABEL = "[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
# `re`, not `regex`: for each match `regex` looks for the dot as far as the end of the text.
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})++")
# Not in a longer dotted number, a word (v1.2.3.4) or a product's version (Chrome/1.2.3.4).
_IPV4 = regex.compile(r"(?<![\w.])(?<![A-Za-z]/)(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
# A section of a manual, which four small numbers are far more often than an address: as a heading
# ("12.2.2.4. Starting the Container"), before its title ("12.1.2, “LVM”") or after a word for it.
_HEADING = re.compile(r"\.?[ \t\u00a0]+[^\W\d_]|$|\n")
_TITLE = re.compile(r"\.[ \u00a0]|,?[ \u00a0][–—-]?[ \u00a0]?[\"'“”„«‘’「『(]")
_SECTION = re.compile(
    r"(?:sections?|chapters?|§|abschnitt|kapitel|kapitola|paragraaf|avsnitt|capítulo|sección|seção"
    r"|secció|sekce|τμήμα|раздел|节|節|章)[ \u00a0]?\Z",
    re.IGNORECASE,
)
_SECTION_WINDOW = 12
# 2000::/3 holds all addresses that are given out (RFC 4291, IANA): the first group is complete.
_IPV6 = re.compile(
    r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){1,6}:[0-9A-Fa-f]{1,4}(?!\w|:[\w:])"
)


def find_emails(text: str) -> Iterator[Span]:
    """Start and end of every e-mail address, from left to right.

    Addresses that nothing separates (a@b.com@c.com) are one: were they two, the first one's
    replacement and the rest would read as a longer address.
    """
    start = end = 0
    at = text.find("@")
    while at >= 0:
        domain_end = at + 1 + _domain_length(text, at + 1)
        if domain_end > at + 1:
            local = _LOCAL.match(text, end, at)
            name = local[0].lstrip(_LOCAL_MARKS) if local else ""
            if end and text[end] in "@.-" and end == (local.start() if local else at):
                end = domain_end
            elif name:
                if end:
                    yield start, end
                start, end = at - len(name), domain_end
        at = text.find("@", domain_end)
    if end:
        yield start, end


def _domain_length(text: str, start: int) -> int:
    """Length of the domain name at `start`, 0 if there is none.

    It ends with a label that can be a top-level one: name@4.17.21 is a version.
    """
    match = _DOMAIN.match(text, start)
    labels = match[0].split(".") if match else []
    while labels and not (len(labels[-1]) > 1 and labels[-1][0].isalpha()):
        labels.pop()
    return len(".".join(labels)) if len(labels) > 1 else 0


def find_ipv4(text: str) -> Iterator[Span]:
    """Start and end of every IPv4 address that belongs to somebody, from left to right."""
    for match in _IPV4.finditer(text):
        try:
            address = IPv4Address(match[0])
        except AddressValueError:
            continue
        if address.is_global and not address.is_multicast and not _is_section(match):
            yield match.span()


def _is_section(match: regex.Match[str]) -> bool:
    """Whether four numbers below 100 number a section."""
    text, (start, end) = match.string, match.span()
    if any(len(number) > 2 for number in match[0].split(".")):
        return False
    starts_line = start == 0 or text[start - 1] == "\n"
    before = text[max(0, start - _SECTION_WINDOW) : start]
    return bool(
        (starts_line and _HEADING.match(text, end))
        or _TITLE.match(text, end)
        or _SECTION.search(before)
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
