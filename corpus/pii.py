"""E-mail addresses and public IPv4 addresses out of a text, as FineWeb takes them out.

Unlike FineWeb's, a replacement doesn't depend on what came before it, and the time is linear: an
address is found from its @, and no character is looked at for two of them. (FineWeb's expression
tries every word as the start of an address: hours for a megabyte of "a-a-a-…".)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Literal

import regex

Action = Literal["replace", "drop", "keep"]

# FineWeb's first replacement of each kind: example.com is reserved (RFC 2606), the address is one
# of six that answered no ping when FineWeb chose them.
EMAIL_REPLACEMENT = "email@example.com"
IP_REPLACEMENT = "22.214.171.124"


@dataclass(frozen=True)
class Pii:
    """What becomes of each kind: replaced by a fixed address, dropped, or kept."""

    emails: Action = "replace"
    ips: Action = "replace"

    def __post_init__(self) -> None:
        for name in ("emails", "ips"):
            if getattr(self, name) not in ("replace", "drop", "keep"):
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be replace, drop or keep")


@dataclass(frozen=True)
class Scrubbed:
    """A text without its personal data, and how many pieces of each kind went."""

    text: str
    counts: dict[str, int]


Span = tuple[int, int]

_LOCAL = regex.compile(r"(?r)[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]++")
_LOCAL_MARKS = "!#$%&'*+/=?^`{|}~.-"  # not the first character of an address, as in FineWeb
_LABEL = "[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
# `re`, not `regex`: for each match `regex` looks for the dot as far as the end of the text.
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})++")
# Not in a longer dotted number, a word (v1.2.3.4) or a product's version (Chrome/1.2.3.4).
_IP = regex.compile(r"(?<![\w.])(?<![A-Za-z]/)(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")


def scrub(text: str, settings: Pii) -> Scrubbed:
    """Take the addresses out of `text` as `settings` say; a placeholder isn't counted again."""
    counts = {"emails": 0, "ips": 0}
    if settings.emails != "keep" and "@" in text:
        new = EMAIL_REPLACEMENT if settings.emails == "replace" else ""
        text, counts["emails"] = _cut(text, find_emails(text), new)
    if settings.ips != "keep":
        new = IP_REPLACEMENT if settings.ips == "replace" else ""
        text, counts["ips"] = _cut(text, find_ips(text), new)
    return Scrubbed(text, counts)


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


def find_ips(text: str) -> Iterator[Span]:
    """Start and end of every IPv4 address that belongs to somebody, from left to right."""
    for match in _IP.finditer(text):
        try:
            address = IPv4Address(match[0])
        except AddressValueError:
            continue
        if address.is_global and not address.is_multicast:
            yield match.span()


def _cut(text: str, spans: Iterator[Span], new: str) -> tuple[str, int]:
    """`text` with `new` in place of every span, and how many spans held something else."""
    parts, done, count = [], 0, 0
    for start, end in spans:
        parts += [text[done:start], new]
        count += text[start:end] != new
        done = end
    return "".join([*parts, text[done:]]), count
