"""Phone numbers, payment-card numbers and US social-security numbers in a text.

Numbers of other kinds (dates, ISBNs, prices, versions, coordinates, orders) are far more frequent,
so each kind asks for its own punctuation and for all that its numbering plan says; a number that
could as well be something else stays, and so does one that is called an order's or a score.
Linear: a number is looked at from where it starts, with a bounded number of words before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import regex

Span = tuple[int, int]

_SPACE = "[ \u00a0]"
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

# What says that a phone number follows, up to the number; then a colon or dot, or a number that
# starts like one (0… or an area code in parentheses).
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

_CARD = re.compile(
    r"(?<![\w.,+=/#&%$€£-])(?:[0-9]{14,19}"
    r"|(?<![0-9]{4}[ ])[0-9]{4}(?P<a>[ -])[0-9]{4}(?P=a)[0-9]{4}(?P=a)[0-9]{4}(?!(?P=a)[0-9]{4})"
    r"|[0-9]{4}(?P<b>[ -])[0-9]{6}(?P=b)[0-9]{4,5})(?!\w|[-.,/][0-9])"
)
# What says that a number of another kind follows: an order's, a part's, a score. Read from the
# number backwards (?r), as most have no such word before them.
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

# Area, group and serial that are never assigned: SSA, POMS RM 10201.035.
_SSN = re.compile(
    r"(?<![\w.,/+-])(?!000|666|9)[0-9]{3}([- ])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?!\w|[-./,][\w])"
)
_SSN_LABEL = re.compile(r"(?:SSN|Social Security)[^0-9\n]{0,20}\Z", re.IGNORECASE)
_SSN_WINDOW = 40


def find_phones(text: str) -> Iterator[Span]:
    """Phone numbers: +CC …, North American ones with separators, and those named as such.

    A number may come more than once, by different forms.
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


def _is_other_number(match: re.Match[str]) -> bool:
    """Whether what stands before a number says that it is of another kind."""
    return _OTHER_LABEL.match(match.string, 0, match.start()) is not None


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


def find_cards(text: str) -> Iterator[Span]:
    """Payment-card numbers: an issuer's prefix and length, the check digit, even grouping."""
    for match in _CARD.finditer(text):
        digits = re.sub("[ -]", "", match[0])
        if not (_ISSUER.fullmatch(digits) and _has_luhn_check_digit(digits)):
            continue
        if not _is_other_number(match):
            yield match.span()


def _has_luhn_check_digit(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: from the right, every second digit doubled, the sum ends with 0."""
    doubled = (2 * int(d) for d in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(d - 9 * (d > 9) for d in doubled)) % 10 == 0


def find_ssns(text: str) -> Iterator[Span]:
    """US social-security numbers: 123-45-6789, or with spaces where the text says so before it."""
    for match in _SSN.finditer(text):
        before = text[max(0, match.start() - _SSN_WINDOW) : match.start()]
        if _SSN_LABEL.search(before) or (match[1] == "-" and not _is_other_number(match)):
            yield match.span()
