"""Cheap tests before a page is parsed: MIME type and URL.

The URL rules are FineWeb's (datatrove's URLFilter): a listed registered domain, a listed host, or
a listed word between two non-alphanumeric characters of the URL. A list of 4.6 million domains
takes 37 MB, as sorted 64-bit hashes.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import tldextract
import xxhash
from numpy.typing import NDArray

from schemas.errors import UserError

_TOKEN = re.compile("[^a-zA-Z0-9]+")
_SNIFFED = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<script", b"<meta")
_suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


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


def blocked_url(url: str, domains_file: str = "", words_file: str = "") -> str | None:
    """What of the URL is on a list, or None. Files hold one entry a line; '' is no file."""
    if domains_file:
        parts = _suffixes(url)
        listed = _hashes(domains_file)
        host = ".".join(filter(None, (parts.subdomain, parts.domain, parts.suffix)))
        for name in (parts.top_domain_under_public_suffix, host):
            if name and _holds(listed, name.lower()):
                return f"domain {name.lower()}"
    if words_file:
        words = _words(words_file)
        found = next((token for token in _TOKEN.split(url) if token in words), None)
        return f"word {found!r}" if found else None
    return None


def _lines(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").lower().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list: {error}") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@functools.lru_cache(maxsize=4)
def _words(path: str) -> frozenset[str]:
    return frozenset(_lines(path))


@functools.lru_cache(maxsize=4)
def _hashes(path: str) -> NDArray[np.uint64]:
    lines = _lines(path)
    hashes = np.fromiter(
        (xxhash.xxh3_64_intdigest(line.encode()) for line in lines), np.uint64, len(lines)
    )
    return np.sort(hashes)


def _holds(hashes: NDArray[np.uint64], name: str) -> bool:
    wanted = np.uint64(xxhash.xxh3_64_intdigest(name.encode()))
    at = int(np.searchsorted(hashes, wanted))
    return at < len(hashes) and bool(hashes[at] == wanted)
