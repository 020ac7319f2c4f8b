"""MIME types, URL lists, and what pages say about their use."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpus.gates import blocked_url, mime_type
from corpus.rights import rights_of
from corpus.warc import Headers
from schemas.errors import UserError


@pytest.fixture
def domains(tmp_path: Path) -> str:
    path = tmp_path / "domains.txt"
    path.write_text("# sites\nBad-Example.com\nevil.co.uk\nonly.host.example.org\n\n")
    return str(path)


@pytest.fixture
def words(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text("casino\nloan\n")
    return str(path)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://bad-example.com/page", "domain bad-example.com"),
        ("https://www.BAD-example.com:8080/page", "domain bad-example.com"),
        ("http://shop.evil.co.uk/", "domain evil.co.uk"),
        ("http://only.host.example.org/", "domain only.host.example.org"),
        ("http://example.org/", None),
        ("http://not.bad.example.com/bad-example.com", None),
        ("http://co.uk/", None),
        ("http://127.0.0.1/", None),
        ("not a url", None),
        ("", None),
    ],
)
def test_a_listed_domain_or_host_is_blocked(domains: str, url: str, found: str | None) -> None:
    assert blocked_url(url, domains_file=domains) == found


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://a.example/best-casino-games", "word 'casino'"),
        ("http://loan.example/", "word 'loan'"),
        ("http://a.example/casinos", None),
        ("http://a.example/aloane", None),
    ],
)
def test_a_listed_word_is_blocked_as_a_whole(words: str, url: str, found: str | None) -> None:
    assert blocked_url(url, words_file=words) == found


def test_a_list_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UserError, match=r"/none/words\.txt: not a readable list"):
        blocked_url("http://a.example/", words_file="/none/words.txt")


@pytest.mark.parametrize(
    ("identified", "header", "body", "mime"),
    [
        ("text/html", "application/pdf", b"%PDF", "text/html"),
        (None, "Text/HTML; charset=utf-8", b"", "text/html"),
        (None, "text/html,text/html", b"", "text/html"),
        (None, None, b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "text/html"),
        (None, "", b"<!-- a --><!-- b --><HTML>", "text/html"),
        (None, "garbage", b'<?xml version="1.0"?><html xmlns="x">', "text/html"),
        (None, None, b"%PDF-1.4\0\1\2", "application/octet-stream"),
        (None, None, b"hello", "text/plain"),
        (None, None, b"", "text/plain"),
    ],
)
def test_the_type_is_the_identified_one_then_the_header_then_the_bytes(
    identified: str | None, header: str | None, body: bytes, mime: str
) -> None:
    assert mime_type(identified, header, body) == mime


def rights(html: str = "", **headers: str) -> tuple[bool, bool]:
    lines = [(name.replace("_", "-"), value) for name, value in headers.items()]
    found = rights_of(Headers(lines), html)
    return found.noai, found.tdm_reservation


def test_reservations_are_read_from_headers_and_meta_tags() -> None:
    assert rights() == (False, False)
    assert rights(x_robots_tag="noindex, NoAI") == (True, False)
    assert rights(x_robots_tag="somebot: noimageai") == (True, False)
    assert rights(tdm_reservation="1") == (False, True)
    assert rights(tdm_reservation="0") == (False, False)
    assert rights('<META NAME="robots" content="noai, noimageai">') == (True, False)
    assert rights("<meta content=1 name='tdm-reservation'>") == (False, True)
    assert rights('<!-- <meta name="robots" content="noai"> -->') == (False, False)
    assert rights('<meta name="description" content="noai">') == (False, False)
    assert rights('<meta name="robots" content="noairport">') == (False, False)
