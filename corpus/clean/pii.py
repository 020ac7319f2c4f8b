"""Personal data and secrets in a text: found by kind, then replaced, dropped or kept.

E-mail and IP addresses are replaced by default, as FineWeb does; phone, payment-card and US
social-security numbers, API keys and private keys where the recipe asks for it. `KINDS`, at the
end, lists the kinds, their finders and placeholders.

Unlike FineWeb's, a replacement doesn't depend on what came before it. Scrubbing a second time
changes nothing: scrubbing repeats until nothing is found, because removing a span can join the
text around it into a new match.

Every finder takes linear time: it starts at a literal (@, a key's prefix) or at a number, and
reads a bounded window or each character at most twice. (FineWeb's e-mail expression tries every
word as the start of an address: hours for a megabyte of "a-a-a-…".)
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Literal, NamedTuple

import regex

from schemas import suffixes
from schemas.config import settings
from schemas.datasets import PII_KINDS

Span = tuple[int, int]
Action = Literal["replace", "drop", "keep"]

# Placeholders, none of them anybody's. The first two are FineWeb's (example.com is reserved, RFC
# 2606; the IP address is one of six that answered no ping when FineWeb chose them).
EMAIL_REPLACEMENT = "email@example.com"
IP_REPLACEMENT = "22.214.171.124"
IPV6_REPLACEMENT = "2001:db8::1"  # for documentation, RFC 3849
PHONE_REPLACEMENT = "202-555-0100"  # 555-0100 to 555-0199: for fiction, in every area (NANPA)
CARD_REPLACEMENT = "4242 4242 4242 4242"  # a payment processor's published test number (Stripe)
SSN_REPLACEMENT = "000-00-0000"  # no part of a number is ever all zeros (SSA, POMS RM 10201.035)
API_KEY_REPLACEMENT = "AKIAIOSFODNN7EXAMPLE"  # the access key of AWS's documentation
PRIVATE_KEY_REPLACEMENT = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----"

# Limits of scrubbing: rounds, and characters read after the second round. Only text built to
# outlast the scrubber needs more.
_MAX_ROUNDS = 16
_MAX_CHARS = 1_000_000


@settings
class Pii:
    """Section [pii]: each kind is replaced by its placeholder, dropped or kept."""

    emails: Action = "replace"
    ips: Action = "replace"
    phones: Action = "keep"
    cards: Action = "keep"
    ssns: Action = "keep"
    api_keys: Action = "keep"
    private_keys: Action = "keep"


@dataclass(frozen=True)
class Scrubbed:
    """A text without its personal data, and the spans removed by kind (`PII_KINDS`)."""

    text: str
    counts: dict[str, int]


class PiiSpan(NamedTuple):
    """`text[start:end]` is personal data of this kind."""

    start: int
    end: int
    kind: str
    placeholder: str


def scrub(text: str, settings: Pii) -> Scrubbed:
    """Remove personal data from `text` as `settings` say; placeholders aren't counted again."""
    counts = dict.fromkeys(PII_KINDS, 0)
    for number in range(_MAX_ROUNDS):
        if number > 2 and number * len(text) > _MAX_CHARS:
            break
        spans = find(text, settings)
        if not spans:
            break
        parts, done = [], 0
        for span in spans:
            new = span.placeholder if getattr(settings, span.kind) == "replace" else ""
            parts += [text[done : span.start], new]
            done = span.end
            counts[span.kind] += 1
        text = "".join([*parts, text[done:]])
    return Scrubbed(text, counts)


def find(text: str, settings: Pii) -> list[PiiSpan]:
    """All spans of the kinds that `settings` don't keep, from left to right, without overlaps.

    Overlapping spans are merged; the merged span has the kind that comes first in `KINDS`.
    """
    ranked = sorted(
        (start, end, rank)
        for rank, kind in enumerate(KINDS)
        if getattr(settings, kind.name) != "keep"
        for start, end in kind.find(text)
        if text[start:end] != kind.placeholder
    )
    merged: list[tuple[int, int, int]] = []
    for start, end, rank in ranked:
        if merged and start < merged[-1][1]:
            first, last, best = merged.pop()
            start, end, rank = first, max(last, end), min(best, rank)
        merged.append((start, end, rank))
    return [
        PiiSpan(start, end, KINDS[rank].name, KINDS[rank].placeholder)
        for start, end, rank in merged
    ]


# --- Secrets: strings that give access, recognised by their issuer's format ----------------------
#
# Only formats that nothing else has: a prefix that the issuer chose so that scanners find it, and
# a body of known length. Passwords and keys without a prefix (an AWS secret key is 40 characters
# of base64) look like any other string and are not found.

_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<kind>(?:[A-Z0-9]{1,16} ){0,2}PRIVATE KEY(?: BLOCK)?)-----"
    r"(?P<body>(?:(?!-----)[\x20-\x7e\s])++)"
    r"-----END (?P=kind)-----"
)
# 32 random bytes or more; elided (…) or scrubbed key material is shorter.
_KEY_MATERIAL = re.compile(r"[A-Za-z0-9+/=]{40}")


def find_private_keys(text: str) -> Iterator[Span]:
    """Spans of PEM blocks (RFC 7468) and OpenPGP blocks that hold a private key."""
    if "-----BEGIN " in text:
        for match in _PRIVATE_KEY.finditer(text):
            if _KEY_MATERIAL.search(match["body"]):
                yield match.span()


# Prefixes, and the rest of the key. Sources: the issuers' documentation (AWS "IAM identifiers",
# GitHub "Behind GitHub's new authentication token formats", GitLab "Token prefixes", Slack "Token
# types", Stripe "API keys", Twilio "API keys", RFC 7519 for JSON Web Tokens) and, for lengths that
# an issuer does not state, the rules of gitleaks (config/gitleaks.toml, v8).
_KEY_FORMATS = {
    # AWS: access key, temporary one. A digit among the 16: "ASIAPACIFIC…" in capitals is a word.
    "AKIA ASIA": "(?=[A-Z]{0,15}[2-7])[A-Z2-7]{16}",
    "ghp_ gho_ ghu_ ghs_": "[A-Za-z0-9]{36}",  # GitHub: personal, OAuth, user, server, refresh
    "ghr_": "[A-Za-z0-9]{36,76}",
    "github_pat_": "[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    "glpat- gldt- glrt-": "[A-Za-z0-9_-]{20,64}",  # GitLab: personal, deploy, runner
    "AIza": "[A-Za-z0-9_-]{35}",  # Google API key
    "GOCSPX-": "[A-Za-z0-9_-]{28}",  # Google OAuth client secret
    "xoxb- xoxp- xoxa- xoxr- xoxs-": "[0-9]{8,14}-[A-Za-z0-9-]{18,200}",  # Slack
    "xapp-": "[0-9]-[A-Z0-9]{8,14}-[0-9]{8,16}-[A-Za-z0-9]{32,64}",
    "hooks.slack.com/services/": "T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{24}",
    "sk_live_ rk_live_": "[A-Za-z0-9]{24,99}",  # Stripe: secret, restricted
    "sk-ant-": "[a-z]{3,6}[0-9]{2}-[A-Za-z0-9_-]{80,120}",  # Anthropic
    # OpenAI: "T3BlbkFJ" in the middle is base64 of "OpenAI".
    "sk-": "(?:(?:proj|svcacct|admin)-)?[A-Za-z0-9_-]{20,100}?T3BlbkFJ[A-Za-z0-9_-]{20,100}",
    "hf_": "[A-Za-z0-9]{34}",  # Hugging Face
    "npm_": "[A-Za-z0-9]{36}",
    "pypi-AgEIcHlwaS5vcmc": "[A-Za-z0-9_-]{50,500}",
    "SG.": r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    "SK": "[0-9a-f]{32}",  # Twilio
    "dop_v1_": "[0-9a-f]{64}",  # DigitalOcean
    "shpat_": "[0-9a-fA-F]{32}",  # Shopify
    "eyJ": r"[A-Za-z0-9_-]{10,}+\.eyJ[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]{10,}+",  # JSON Web Token
}
_KEYS = {
    prefix: re.compile(rf"(?<![\w-]){re.escape(prefix)}{rest}(?![\w-])")
    for prefixes, rest in _KEY_FORMATS.items()
    for prefix in prefixes.split()
}


def find_api_keys(text: str) -> Iterator[Span]:
    """Spans of keys with a known issuer's prefix, prefix by prefix."""
    for prefix, pattern in _KEYS.items():
        start = text.find(prefix)
        while start >= 0:
            match = pattern.match(text, start)
            if match:
                yield match.span()
            start = text.find(prefix, match.end() if match else start + 1)


# --- E-mail addresses ----------------------------------------------------------------------------
#
# Where FineWeb's expression finds an address, so does this one, except in versions, paths and file
# names; it also finds addresses in any script: local parts by RFC 6531, domains by RFC 5890.
# Quoted local parts and bracketed domains are not looked for.

_LOCAL = regex.compile(r"(?r)[\p{L}\p{M}\p{Nd}!#$%&'*+/=?^_`{|}~.-]++")
_LOCAL_MARKS = "!#$%&'*+/=?^`{|}~.-"  # not the first character of an address, as in FineWeb
_OTHER = r"[\p{L}--\p{Latin}]"  # a letter of another script than Latin
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
# Where a word ends and the address begins without a space: "邮箱jane@…", "почтаjane@…".
_SEAM = regex.compile(rf"(?V1){_OTHER}\p{{M}}*+(?=\p{{Latin}})|{_UNSPACED}\p{{M}}*+(?=\p{{Nd}})")
# A label after the first is all Latin or has no Latin: in "example.com谢谢" the last one is "com".
_DOMAIN_LABEL, _LATIN_LABEL, _OTHER_SCRIPT_LABEL = (
    rf"[{letters}\p{{Nd}}][{letters}\p{{M}}\p{{Nd}}]*+(?:-++[{letters}\p{{M}}\p{{Nd}}]++)*+"
    for letters in (r"\p{L}", r"\p{Latin}", _OTHER)
)
# Two kinds of dots (RFC 3490): `regex` searches for a literal one to the end of the text.
_DOMAIN = regex.compile(
    rf"(?V1){_DOMAIN_LABEL}(?:[.\uff0e](?:(?=[\p{{Nd}}-]*+{_OTHER}){_OTHER_SCRIPT_LABEL}|{_LATIN_LABEL}))++"
)
_TOP_LEVEL = re.compile("[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]")
_MAX_TOP_LEVEL = 63  # characters of a label (RFC 1035)
_MAX_DOMAIN = 253  # characters of a name (RFC 1035)
_UNSPACED_START = regex.compile(rf"{_UNSPACED}")
# Not domains: a package's version, a file's name (icon@2x.png).
_PACKAGE = re.compile(r"v?[0-9]+\.[0-9]+\.[0-9]", re.IGNORECASE)
_FILE_END = re.compile("avif|bmp|css|gif|heic|html?|jpe?g|js|json|pdf|png|svg|tiff?|txt|webp|xml")
_PATH = re.compile(r"[:/][\w~/.]")  # what follows git@host


def find_emails(text: str) -> Iterator[Span]:
    """Spans of e-mail addresses, from left to right.

    Addresses that nothing separates (a@b.com@c.com) are one span: as two, the placeholder of the
    first would join the second to a longer address. git@host:path is nobody's address.
    """
    start = end = 0
    at = text.find("@")
    while at >= 0:
        domain_end = at + 1 + _domain_length(text, at + 1)
        if domain_end > at + 1:
            local = _LOCAL.match(text, end, at)
            name = _local_part(local[0]) if local else ""
            if end and end == (local.start() if local else at) and _is_joined(text[end]):
                end = domain_end
            elif name and not (name == "git" and _PATH.match(text, domain_end)):
                if end:
                    yield start, end
                start, end = at - len(name), domain_end
        at = text.find("@", domain_end)
    if end:
        yield start, end


def _local_part(run: str) -> str:
    """The local part at the end of a run of its characters; empty for an @ in a path."""
    if run.endswith("/"):
        return ""  # example.com/@jane.doe
    seams = [] if run.isascii() else [seam.end() for seam in _SEAM.finditer(run)]
    return run[seams[-1] if seams else 0 :].lstrip(_LOCAL_MARKS)


def _is_joined(after: str) -> bool:
    """Whether this character after an address joins it to what comes next."""
    return after in "@.-_" or after.isalnum() or unicodedata.category(after).startswith("M")


def _domain_length(text: str, start: int) -> int:
    """Length of the domain name at `start`, 0 if there is none.

    It ends with a possible top-level domain: name@4.17.21 is a version. A domain with non-ASCII
    letters must end with an assigned one.
    """
    match = _DOMAIN.match(text, start)
    if not match:
        return 0
    name = match[0]
    return _known_length(name) if len(name) <= _MAX_DOMAIN else _length(name)


def _length(domain: str) -> int:
    """How much of `domain` is a domain name."""
    if _PACKAGE.match(domain):
        return 0
    labels = domain.replace("\uff0e", ".").split(".")
    first = next((n for n, label in enumerate(labels) if not label.isascii()), len(labels))
    while len(labels) > 1:
        last = labels.pop()
        length = _top_level_length(last, international=first < len(labels))
        if length:
            return len(".".join(labels)) + 1 + length
    return 0


_known_length = functools.lru_cache(maxsize=4096)(_length)  # pages repeat their domains


def _top_level_length(label: str, international: bool) -> int:
    """How much of a domain's last label is a top-level domain.

    `international`: a label before it is not ASCII.
    """
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


# --- Numbers: payment cards, social security, phones ---------------------------------------------
#
# Numbers of other kinds (dates, ISBNs, prices, versions, coordinates, orders) are far more
# frequent, so each kind requires its own punctuation and everything that its numbering plan says.
# A number that could also be something else stays, and so does one labelled as an order or score.

_SPACE = "[ \u00a0]"

# A label of a number of another kind: an order, a part, a score. Matched backwards from the number
# (?r), as most numbers have no label.
_OTHER_LABEL = regex.compile(
    r"(?r)(?:(?<![^\W\d_])(?:scores?|scored|results?|final|won|lost|beat|points|prices?|isbn|issn|ean|gtin|upc|sku|imei|meid|doi|patent"
    r"|parts?|items?|models?|serial|invoice|docket|tracking|versions?|build|lot|vin|uuid"
    r"|(?:order|case|ticket|account|policy|member|membership|reference|ref|product|claim|booking"
    r"|confirmation|catalog|catalogue|permit|licen[cs]e|reservation|shipment|file|record|job)"
    r"[. \u00a0]{0,2}(?:no|nr|num|number|id|code|#)"
    r"|[a-zäöü]{3,12}(?:nummer|nr)|aktenzeichen|ergebnis|resultado|risultato|résultat|pedido|factura"
    r"|fattura|ordine|commande|facture|référence|артикул|сч[её]т|заказа?|замовлення)"
    r"|订单号?|单号|编号|注文番号|型番|商品番号|주문번호)"
    r"(?:[ \u00a0](?:no|nr|n°|num|number|id|code|nº|№))?\.?"
    r"(?:[ \u00a0](?:was|were|is|of|are|von|de|di))?[ \u00a0]?[:：=#]?\s{0,2}",
    regex.IGNORECASE,
)


def _is_other_number(match: re.Match[str]) -> bool:
    """Whether a label before a number says that it is of another kind."""
    return _OTHER_LABEL.match(match.string, 0, match.start()) is not None


_CARD = re.compile(
    r"(?<![\w.,+=/#&%$€£-])(?:[0-9]{14,19}"
    r"|(?<![0-9]{4}[ ])[0-9]{4}(?P<a>[ -])[0-9]{4}(?P=a)[0-9]{4}(?P=a)[0-9]{4}(?!(?P=a)[0-9]{4})"
    r"|[0-9]{4}(?P<b>[ -])[0-9]{6}(?P=b)[0-9]{4,5})(?!\w|[-.,/][0-9])"
)
# Issuers' prefixes and lengths (ISO/IEC 7812 registrations as the networks publish them): Visa,
# Mastercard, American Express, Discover, JCB, Diners Club, UnionPay. 13-digit Visa cards are no
# longer issued; Maestro's 12 to 19 digits after 50 or 56 to 69 say too little.
_ISSUER = re.compile(
    "4[0-9]{15}(?:[0-9]{3})?"
    "|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    "|3[47][0-9]{13}"
    "|(?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12}"
    "|35(?:2[89]|[3-8][0-9])[0-9]{12}"
    "|3(?:0[0-5][0-9]|095|[689][0-9]{2})[0-9]{10}"
    "|62[0-9]{14,17}"
)


def find_cards(text: str) -> Iterator[Span]:
    """Spans of payment-card numbers: an issuer's prefix and length, check digit, even grouping."""
    for match in _CARD.finditer(text):
        digits = re.sub("[ -]", "", match[0])
        if not (_ISSUER.fullmatch(digits) and _has_luhn_check_digit(digits)):
            continue
        if not _is_other_number(match):
            yield match.span()


def _has_luhn_check_digit(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: every second digit from the right doubled, the sum ends with 0."""
    doubled = (2 * int(d) for d in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(d - 9 * (d > 9) for d in doubled)) % 10 == 0


# Area, group and serial that are never assigned: SSA, POMS RM 10201.035.
_SSN = re.compile(
    r"(?<![\w.,/+-])(?!000|666|9)[0-9]{3}([- ])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?!\w|[-./,][\w])"
)
_SSN_LABEL = re.compile(r"(?:SSN|Social Security)[^0-9\n]{0,20}\Z", re.IGNORECASE)
_SSN_WINDOW = 40


def find_ssns(text: str) -> Iterator[Span]:
    """Spans of US social-security numbers: 123-45-6789, or with spaces after a label."""
    for match in _SSN.finditer(text):
        before = text[max(0, match.start() - _SSN_WINDOW) : match.start()]
        if _SSN_LABEL.search(before) or (match[1] == "-" and not _is_other_number(match)):
            yield match.span()


_MARK = "[-./\u2010\u2011\u2013]"
_MORE_GROUPS = rf"(?:(?:{_SPACE}?{_MARK}{_SPACE}?|{_SPACE})\(?|\(|(?<=\)))[0-9]++\)?"
_INTERNATIONAL = re.compile(rf"(?<![\w+])\+\(?[0-9]++\)?(?:{_MORE_GROUPS}){{0,7}}+(?!\w)")
_NATIONAL = re.compile(rf"(?<![\w+.,/-])\(?[0-9]++\)?(?:{_MORE_GROUPS}){{0,7}}+(?!\w)")
_GROUP = re.compile("[0-9]+")

# Assigned country codes (ITU-T E.164, list of 2016).
_COUNTRY = re.compile(
    "1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    "|2[1-69][0-9]|3[578][0-9]|42[0-9]|5[09][0-9]|6[789][0-9]|8[0578][0-9]|96[0-8]|97[0-79]|99[2-68]"
)
_MAX_DIGITS = 15  # E.164, country code included
_NUMBER_WINDOW = 64  # more characters of eight groups are more than 15 digits
_MIN_INTERNATIONAL = 9
_MIN_NATIONAL = 7
_RUSSIAN = 10  # digits after +7, in Kazakhstan too
_COMPLETE = 11  # digits in one group: what comes next is another number

# North American Numbering Plan: neither the area nor the exchange starts with 0 or 1 or ends
# with 11 (911, 411 are services).
_NXX = "[2-9](?!11)[0-9]{2}"
_DASH = "[-.\u2010\u2011\u2013]"
_NORTH_AMERICAN = re.compile(
    rf"(?<![\w+#$€£])(?<!\w[-./])(?:1{_SPACE}?{_DASH}?{_SPACE}?)?"
    rf"(?:\({_NXX}\){_SPACE}?{_DASH}?{_SPACE}?{_NXX}{_DASH}"
    rf"|{_NXX}(?P<mark>{_DASH}){_NXX}(?P=mark)"
    rf"|{_NXX}[ /]{_NXX}-)[0-9]{{4}}(?!\w|[-./][\w])"
)
_NORTH_AMERICAN_DIGITS = re.compile(f"{_NXX}{_NXX}[0-9]{{4}}")

# A label of a phone number; then a colon or dot, or a number that starts like a phone number (0…
# or an area code in parentheses).
_PHONE_WORDS = (
    "tel|tél|ph|phone|telephone|telefon|telefono|teléfono|téléphone|telefone|telefoon|telefonisch"
    "|puhelin|fax|telefax|mobile|mobil|mob|cell|handy|hotline|helpline|whatsapp|call|ring"
    "|dial|тел|телефон|факс"
)
_PHONE_LABEL = regex.compile(
    rf"(?r)(?:(?<![^\W\d_])(?:{_PHONE_WORDS})|电话|電話|전화|โทร)"
    rf"(?:{_SPACE}?(?:no|nr|number))?(?:{_SPACE}(?:us|me))?"
    rf"(?:{_SPACE}(?:on|at|to|is|under|unter|au|al|op|på))?(?P<mark>(?:\s?[.:：]){{1,2}})?\s{{0,2}}",
    regex.IGNORECASE,
)
_DATE = re.compile(r"[0-9]{4}[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}([-./])[0-9]{1,2}\1[0-9]{2}")


def find_phones(text: str) -> Iterator[Span]:
    """Spans of phone numbers: +CC …, North American ones with separators, and labelled ones.

    A number that fits several forms comes more than once.
    """
    for match in _INTERNATIONAL.finditer(text):
        yield from _longest_number(match, _is_international)
    for match in _NORTH_AMERICAN.finditer(text):
        if "(" in match[0] or not _is_other_number(match):
            yield match.span()
    for match in _NATIONAL.finditer(text):
        if len(match[0]) < _MIN_NATIONAL or _NORTH_AMERICAN.match(text, match.start()):
            continue  # too short, or found already
        label = _PHONE_LABEL.match(text, 0, match.start())
        if label and (label["mark"] or match[0].startswith(("0", "("))):
            yield from _longest_number(match, _is_national)


def _longest_number(match: re.Match[str], accept: Callable[[str], bool]) -> Iterator[Span]:
    """The longest run of whole groups from the match's start that `accept` takes, if any."""
    number = match[0]
    for group in reversed([*_GROUP.finditer(number, 0, _NUMBER_WINDOW)]):
        if accept(number[: group.end()]):
            yield match.start(), match.start() + group.end()
            return


def _is_international(number: str) -> bool:
    """Whether a number that starts with + is a phone number by E.164."""
    first, *others = _GROUP.findall(number)
    digits = "".join([first, *others])
    country = _COUNTRY.match(first)
    if not country or not _MIN_INTERNATIONAL <= len(digits) <= _MAX_DIGITS:
        return False
    if others and len(first) >= _COMPLETE:
        return False
    if "." in number and not _is_dotted(number):
        return False  # +48.8566, 2.3522 is a place
    national = digits[country.end() :]
    if country[0] == "1":
        return bool(_NORTH_AMERICAN_DIGITS.fullmatch(national))
    if country[0] == "7" and len(national) != _RUSSIAN:
        return False  # +7 357 046 093 is a large number
    return not national.startswith("00")


def _is_dotted(number: str) -> bool:
    """Two dots or more and nothing else between the groups, but for a space after +CC."""
    marks = re.findall(r"[^0-9()+]+", re.sub(r"^(\+[0-9]{1,3}) ", r"\1.", number))
    return len(marks) > 1 and set(marks) == {"."}


def _is_national(number: str) -> bool:
    digits = "".join(_GROUP.findall(number))
    return _MIN_NATIONAL <= len(digits) <= _MAX_DIGITS and not _DATE.match(number)


# --- IP addresses --------------------------------------------------------------------------------

# Not in a longer dotted number, a word (v1.2.3.4), a product's version (Chrome/1.2.3.4) or a
# file's (package-1.2.3.4.zip).
_IPV4 = regex.compile(
    r"(?<![\w.])(?<![A-Za-z][/-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9]|-[A-Za-z])"
)
# A label of a version or price, or the name of a product whose versions have four numbers. (== may
# precede an address: ip.addr == 8.8.8.8.)
_VERSION = regex.compile(
    r"(?r)(?:(?:(?<![^\W\d_])(?:versions?|ver|versión|versiones|versione|versioni|versão|versões|versie"
    r"|versjon|verzi[aeó]|verze|wersj[aię]|sürüm|верс[иі][яіюйїе]|έκδοση|v|rev|revision|release"
    r"|build|firmware|driver|kernel|bios|patch|hotfix|update|upgraded|plugin|player|chrome|chromium"
    r"|firefox|opera|itunes|java|openssl|wordpress)|バージョン|版本|버전)"
    r"\.?(?:\s(?:is|to|number|no\.|from))?[\"'>]?\s?[:=–]?\s?[\"'(]?|[<>~]=\s?|~>\s?|\^|[€$£¥]\s?)",
    regex.IGNORECASE,
)
# Four small numbers are more often a section, figure or class than an address: as a heading
# ("12.2.2.4. Starting the Container"), before a title ("12.1.2, “LVM”") or a word ("第
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
# All assigned addresses are in 2000::/3 (RFC 4291, IANA): the first group has four digits.
_IPV6 = re.compile(
    r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){1,6}:[0-9A-Fa-f]{1,4}(?!\w|:[\w:])"
)


def find_ipv4(text: str) -> Iterator[Span]:
    """Spans of public IPv4 addresses, from left to right."""
    for match in _IPV4.finditer(text):
        if (
            _is_public(match[0])
            and not _VERSION.match(text, 0, match.start())
            and not _is_section(match)
        ):
            yield match.span()


@functools.lru_cache(maxsize=4096)
def _is_public(address: str) -> bool:
    try:
        parsed = IPv4Address(address)
    except AddressValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


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
    """Spans of global unicast IPv6 addresses, from left to right."""
    for match in _IPV6.finditer(text):
        try:
            address = IPv6Address(match[0])
        except AddressValueError:
            continue
        if address.is_global:
            yield match.span()


class Kind(NamedTuple):
    """A kind of personal data: its setting in `Pii`, its finder and its placeholder."""

    name: str
    find: Callable[[str], Iterator[Span]]
    placeholder: str


# In order of precedence: of overlapping spans, the first kind has the whole.
KINDS = (
    Kind("private_keys", find_private_keys, PRIVATE_KEY_REPLACEMENT),
    Kind("api_keys", find_api_keys, API_KEY_REPLACEMENT),
    Kind("emails", find_emails, EMAIL_REPLACEMENT),
    Kind("cards", find_cards, CARD_REPLACEMENT),
    Kind("ssns", find_ssns, SSN_REPLACEMENT),
    Kind("phones", find_phones, PHONE_REPLACEMENT),
    Kind("ips", find_ipv4, IP_REPLACEMENT),
    Kind("ips", find_ipv6, IPV6_REPLACEMENT),
)
