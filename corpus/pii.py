"""Personal data and secrets out of a text: e-mail and IP addresses as FineWeb takes them out, and
phone, card and social-security numbers, API keys and private keys where the recipe asks for it.

Unlike FineWeb's, a replacement doesn't depend on what came before it, and the time is linear.
Scrubbing a second time changes nothing: a text is gone over until nothing is found, because what
is taken out can bring together what stood around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from corpus.addresses import Span, find_emails, find_ipv4, find_ipv6
from corpus.credentials import find_api_keys, find_private_keys
from corpus.personal_numbers import find_cards, find_phones, find_ssns
from schemas.datasets import PII_KINDS

Action = Literal["replace", "drop", "keep"]

# Each stands for nobody's: FineWeb's first replacement of the first two kinds (example.com is
# reserved, RFC 2606; the address is one of six that answered no ping when FineWeb chose them) ...
EMAIL_REPLACEMENT = "email@example.com"
IP_REPLACEMENT = "22.214.171.124"
IPV6_REPLACEMENT = "2001:db8::1"  # for documentation, RFC 3849
PHONE_REPLACEMENT = "202-555-0100"  # 555-0100 to 555-0199: for fiction, in every area (NANPA)
CARD_REPLACEMENT = "4242 4242 4242 4242"  # a payment processor's published test number (Stripe)
SSN_REPLACEMENT = "000-00-0000"  # no part of a number is ever all zeros (SSA, POMS RM 10201.035)
API_KEY_REPLACEMENT = "AKIAIOSFODNN7EXAMPLE"  # the access key of AWS's documentation
PRIVATE_KEY_REPLACEMENT = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----"

# How often a text is gone over at most, and how many characters of it: a third time and more is
# for hidden text built to outlast it.
_MAX_ROUNDS = 16
_MAX_CHARS = 1_000_000


@dataclass(frozen=True)
class Pii:
    """What becomes of each kind: replaced by a fixed one of nobody's, dropped, or kept."""

    emails: Action = "replace"
    ips: Action = "replace"
    phones: Action = "keep"
    cards: Action = "keep"
    ssns: Action = "keep"
    api_keys: Action = "keep"
    private_keys: Action = "keep"

    def __post_init__(self) -> None:
        for name, action in dataclasses.asdict(self).items():
            if action not in ("replace", "drop", "keep"):
                raise ValueError(f"{name} = {action!r}: must be replace, drop or keep")


@dataclass(frozen=True)
class Scrubbed:
    """A text without its personal data, and how many pieces of each kind went (`PII_KINDS`)."""

    text: str
    counts: dict[str, int]


class Piece(NamedTuple):
    """A piece of personal data: `text[start:end]`, its kind, and what replaces it."""

    start: int
    end: int
    kind: str
    placeholder: str


# Where pieces overlap, the kind that stands first here has the whole of them.
_FINDERS: tuple[tuple[str, Callable[[str], Iterator[Span]], str], ...] = (
    ("private_keys", find_private_keys, PRIVATE_KEY_REPLACEMENT),
    ("api_keys", find_api_keys, API_KEY_REPLACEMENT),
    ("emails", find_emails, EMAIL_REPLACEMENT),
    ("cards", find_cards, CARD_REPLACEMENT),
    ("ssns", find_ssns, SSN_REPLACEMENT),
    ("phones", find_phones, PHONE_REPLACEMENT),
    ("ips", find_ipv4, IP_REPLACEMENT),
    ("ips", find_ipv6, IPV6_REPLACEMENT),
)


def scrub(text: str, settings: Pii) -> Scrubbed:
    """Take personal data out of `text` as `settings` say; a placeholder isn't counted again."""
    counts = dict.fromkeys(PII_KINDS, 0)
    for number in range(_MAX_ROUNDS):
        if number > 2 and number * len(text) > _MAX_CHARS:
            break
        pieces = find(text, settings)
        if not pieces:
            break
        text = _cut(text, pieces, settings)
        for piece in pieces:
            counts[piece.kind] += 1
    return Scrubbed(text, counts)


def find(text: str, settings: Pii) -> list[Piece]:
    """Every piece of the kinds that `settings` don't keep, from left to right; none overlap."""
    ranked = [
        (start, end, rank)
        for rank, (kind, find_kind, placeholder) in enumerate(_FINDERS)
        if getattr(settings, kind) != "keep"
        for start, end in find_kind(text)
        if text[start:end] != placeholder
    ]
    return [
        Piece(start, end, _FINDERS[rank][0], _FINDERS[rank][2])
        for start, end, rank in _joined(ranked)
    ]


def _joined(ranked: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Spans that overlap made one, with the smallest rank among them."""
    joined: list[tuple[int, int, int]] = []
    for start, end, rank in sorted(ranked):
        if joined and start < joined[-1][1]:
            first, last, best = joined.pop()
            start, end, rank = first, max(last, end), min(best, rank)
        joined.append((start, end, rank))
    return joined


def _cut(text: str, pieces: list[Piece], settings: Pii) -> str:
    """`text` with every piece replaced or dropped."""
    parts, done = [], 0
    for piece in pieces:
        new = piece.placeholder if getattr(settings, piece.kind) == "replace" else ""
        parts += [text[done : piece.start], new]
        done = piece.end
    return "".join([*parts, text[done:]])
