"""The MIME type of a response: what the crawler identified, what the server said, or the bytes."""

from __future__ import annotations

import re

_SNIFFED = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<script", b"<meta")


def mime_type(identified: str | None, content_type: str | None, body: bytes) -> str:
    """The MIME type that decides: what the crawler identified, else the header, else the bytes."""
    for value in (identified, content_type):
        mime = (value or "").split(";")[0].split(",")[0].strip().lower()
        if "/" in mime:
            return mime
    return sniff(body)


def sniff(body: bytes) -> str:
    """text/html where the body starts like a page (MIME Sniffing Standard, 7.1), else a guess."""
    head = body[:2048].lstrip(b"\xef\xbb\xbf \t\r\n\x0c").lower()
    while head.startswith(b"<!--") and b"-->" in head:
        head = head[head.find(b"-->") + 3 :].lstrip()
    if head.startswith(_SNIFFED) or (head.startswith(b"<?xml") and b"<html" in head):
        return "text/html"
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head):
        return "application/octet-stream"
    return "text/plain"
