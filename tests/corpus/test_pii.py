"""Addresses go, whatever stands around them, and nothing else does."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.pii import EMAIL_REPLACEMENT, IP_REPLACEMENT, Pii, find_emails, find_ips, scrub
from schemas.config import from_dict
from schemas.errors import UserError

# Pieces that make addresses, halves of addresses, and addresses that touch each other.
PIECES = st.sampled_from(
    [
        "a@b.cc",
        "@",
        ".",
        "-",
        "b.cc",
        "x",
        "8.8.8.8",
        "1.",
        "9.9.9",
        "/",
        " ",
        "é",
        "'",
        "[",
        "]",
        "+",
    ]
)
TEXTS = st.one_of(st.lists(PIECES).map("".join), st.text())
ACTIONS = st.sampled_from(["replace", "drop", "keep"])


def emails(text: str) -> list[str]:
    return [text[start:end] for start, end in find_emails(text)]


def ips(text: str) -> list[str]:
    return [text[start:end] for start, end in find_ips(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+list@mail.example.org.", ["jane.doe+list@mail.example.org"]),
        ("(mailto:o'neil@x-y.co.uk)", ["o'neil@x-y.co.uk"]),
        ("'quoted@site.com'", ["quoted@site.com"]),
        ("one@a.com/two@b.com|three@c.com", ["one@a.com", "two@b.com", "three@c.com"]),
        ("a@b.c@d.com", ["b.c@d.com"]),
        ("x@xn--80ak6aa92e.com, y@президент.рф", ["x@xn--80ak6aa92e.com"]),
        ("x@y.com@z.com, a@b.cc.1+c@d.ee", ["x@y.com@z.com", "a@b.cc.1+c@d.ee"]),
        ("npm i lodash@4.17.21 and @scope/name", []),
        ("@handle, a@b, me at home.com, @@, x@.com", []),
    ],
)
def test_emails_are_found(text: str, expected: list[str]) -> None:
    assert emails(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 8.8.8.8, 1.1.1.1.", ["8.8.8.8", "1.1.1.1"]),
        ("http://93.184.216.34:80/ and 8.8.4.4/24", ["93.184.216.34", "8.8.4.4"]),
        ("10.0.0.1 172.16.0.9 192.168.1.1 127.0.0.1 169.254.1.1", []),
        ("192.0.2.7 198.51.100.3 203.0.113.9 0.0.0.0 224.0.0.1 255.255.255.255", []),
        ("1.2.3.4.5, v1.2.3.4, Chrome/119.0.0.0, 15.4.1.3.8. git", []),
        ("8.8.8 and 256.1.1.1 and 08.8.8.8", []),
    ],
)
def test_only_public_addresses_are_found(text: str, expected: list[str]) -> None:
    assert ips(text) == expected


def test_addresses_are_replaced_and_counted() -> None:
    scrubbed = scrub("a@b.com and c@d.org from 8.8.8.8", Pii())
    assert scrubbed.text == f"{EMAIL_REPLACEMENT} and {EMAIL_REPLACEMENT} from {IP_REPLACEMENT}"
    assert scrubbed.counts == {"emails": 2, "ips": 1}


def test_each_kind_can_be_dropped_or_kept() -> None:
    text = "a@b.com from 8.8.8.8"
    assert scrub(text, Pii(emails="drop", ips="keep")).text == " from 8.8.8.8"
    assert scrub(text, Pii(emails="keep", ips="drop")).text == "a@b.com from "
    assert scrub(text, Pii(emails="keep", ips="keep")).counts == {"emails": 0, "ips": 0}


@settings(deadline=None)
@given(TEXTS)
def test_no_address_is_left(text: str) -> None:
    replaced = scrub(text, Pii()).text
    assert set(emails(replaced)) <= {EMAIL_REPLACEMENT}
    assert set(ips(replaced)) <= {IP_REPLACEMENT}


@settings(deadline=None)
@given(TEXTS, ACTIONS, ACTIONS)
def test_scrubbing_twice_changes_nothing_more(text: str, mail: str, ip: str) -> None:
    settings = from_dict({"emails": mail, "ips": ip}, Pii, "r.toml")
    once = scrub(text, settings)
    again = scrub(once.text, settings)
    assert again.text == once.text
    assert again.counts == {"emails": 0, "ips": 0}


@settings(deadline=None)
@given(st.text().filter(lambda text: "@" not in text and not ips(text)))
def test_a_text_without_addresses_is_untouched(text: str) -> None:
    scrubbed = scrub(text, Pii())
    assert scrubbed.text == text
    assert scrubbed.counts == {"emails": 0, "ips": 0}


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_what_came_before_does_not_matter(before: str, text: str) -> None:
    alone = scrub(text, Pii())
    scrub(before, Pii())
    assert scrub(text, Pii()) == alone


@pytest.mark.parametrize("piece", ["a-", "a@", "a.a@", "b.", "1.", "a@b.c", "8.8.8.8"])
def test_time_is_linear_in_a_hostile_text(piece: str) -> None:
    text = "x@" + piece * (1_000_000 // len(piece))
    start = time.process_time()
    scrub(text, Pii())
    assert time.process_time() - start < 5  # FineWeb's expression takes hours for the first


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(UserError, match="emails = 'hide': must be one of"):
        from_dict({"emails": "hide"}, Pii, "r.toml")
    with pytest.raises(ValueError, match="ips = 'hide': must be replace, drop or keep"):
        Pii(ips="hide")  # type: ignore[arg-type]
