"""MIME types, and what pages say about their use."""

from __future__ import annotations

import pytest

from corpus.text.opt_out import rights_of
from corpus.warc.http import mime_type
from corpus.warc.records import Headers


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
