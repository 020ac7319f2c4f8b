"""An HTTP response as a crawler stored it: status, headers, MIME type, and the decoded body.

Headers are unreliable. Common Crawl stores bodies already decoded, mostly under renamed headers
(`X-Crawler-Content-Encoding`), some archives under the original ones; servers announce gzip and
send text. So an encoding is undone only if the body has it; any other body is kept unchanged.
Output is bounded, so a bomb stops at the limit. Sources: RFC 9110; RFC 9112, section 7.1; WHATWG
MIME Sniffing Standard, section 7.1.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import brotli
import zstandard

from corpus.warc.records import Headers, parse_headers

MAX_HTTP_HEADER_BYTES = 256 << 10
_MAX_ENCODINGS = 8  # of one body; servers send one or two
_GZIP_WBITS = 31  # of zlib: a gzip header and trailer
_MAX_MEMBERS = 250_000  # of a gzip body, each of which costs microseconds, even an empty one
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SNIFFED = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<script", b"<meta")
_STATUS_LINE = re.compile(rb"(?:HTTP|ICY)\S*\s+(\d{3})\b", re.IGNORECASE)
_HEADER_END = re.compile(rb"\n\r{0,2}\n")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,256})?\r?\n")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True)
class Response:
    """Status code, headers, and the body as stored (still encoded)."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Body:
    """The decoded body, up to one byte over the limit; `broken`: the encoding that is damaged."""

    content: bytes
    broken: str | None = None


def parse_response(block: bytes) -> Response | None:
    """The HTTP response in a record's block, or None if it does not start with a status line."""
    start = _STATUS_LINE.match(block)
    if start is None:
        return None
    end = _HEADER_END.search(block, 0, MAX_HTTP_HEADER_BYTES)
    head = block[: end.start()] if end else block[:MAX_HTTP_HEADER_BYTES]
    body = block[end.end() :] if end else b""
    return Response(int(start[1]), parse_headers(head), body)


def mime_type(identified: str | None, content_type: str | None, body: bytes) -> str:
    """The type that the crawler identified, else that of the header, else of the bytes."""
    for value in (identified, content_type):
        mime = (value or "").split(";")[0].split(",")[0].strip().lower()
        if "/" in mime:
            return mime
    return sniff(body)


def sniff(body: bytes) -> str:
    """text/html if the body starts like a page, else text/plain or application/octet-stream."""
    head = body[:2048].lstrip(b"\xef\xbb\xbf \t\r\n\x0c").lower()
    while head.startswith(b"<!--") and b"-->" in head:
        head = head[head.find(b"-->") + 3 :].lstrip()
    if head.startswith(_SNIFFED) or (head.startswith(b"<?xml") and b"<html" in head):
        return "text/html"
    return "application/octet-stream" if _BINARY.search(head) else "text/plain"


def decode_body(response: Response, limit: int) -> Body:
    """Undo Transfer-Encoding, then the Content-Encodings from the last to the first."""
    content, broken = response.body, None
    if "chunked" in (response.headers.joined("transfer-encoding") or "").lower():
        content, broken = _unchunk(content, limit)
    names = (response.headers.joined("content-encoding") or "").lower().split(",")
    for name in [name.strip() for name in names[: -_MAX_ENCODINGS - 1 : -1]]:
        if name in _DECODERS and not broken:
            content, broken = _undo(name, content, limit)
    if content.startswith(_GZIP) and not broken:
        content, broken = _undo("gzip", content, limit)
    return Body(content[: limit + 1], broken)


def _unchunk(body: bytes, limit: int) -> tuple[bytes, str | None]:
    """The chunks' data; the body itself if it has no chunks, since crawlers often undo them."""
    parts: list[bytes] = []
    at = total = 0
    while (size := _CHUNK_SIZE.match(body, at)) and total <= limit:
        length = int(size[1], 16)
        if length == 0:
            return b"".join(parts), None
        parts.append(body[size.end() : size.end() + length])
        total += len(parts[-1])
        at = size.end() + length
        if at > len(body):
            return b"".join(parts), "chunked"
        at += 2 if body[at : at + 2] == b"\r\n" else 1 if body[at : at + 1] == b"\n" else 0
    if not parts:
        return body, None
    return b"".join(parts), None if total > limit else "chunked"


def _undo(name: str, body: bytes, limit: int) -> tuple[bytes, str | None]:
    """One encoding undone, or the body itself if it does not have that encoding."""
    decode, magic = _DECODERS[name]
    if not body or not body.startswith(magic):
        return body, None
    out = bytearray()
    try:
        complete = decode(body, limit, out)
    except (zlib.error, brotli.error, zstandard.ZstdError):
        complete = False
    if complete or len(out) > limit:
        return bytes(out), None
    head = body[:1024]
    if not out and b"<" in head and not _BINARY.search(head):
        return body, None  # text
    return bytes(out), name


def _inflate(body: bytes, limit: int, out: bytearray, wbits: int = _GZIP_WBITS) -> bool:
    """Decompress one zlib stream, or all members of a gzip body; whether it is complete."""
    at = 0
    for _ in range(_MAX_MEMBERS):
        inflate = zlib.decompressobj(wbits)
        while at < len(body) and not inflate.eof and len(out) <= limit:
            chunk = body[at : at + 4096]
            out += inflate.decompress(chunk, limit + 1 - len(out))
            at += len(chunk) - len(inflate.unconsumed_tail) - len(inflate.unused_data)
        if not inflate.eof:
            return False
        if wbits != _GZIP_WBITS or not body.startswith(_GZIP, at):
            return True
    return False


def _deflate(body: bytes, limit: int, out: bytearray) -> bool:
    """A zlib stream (RFC 9110); some servers send a raw deflate stream."""
    try:
        return _inflate(body, limit, out, 15)
    except zlib.error:
        if out:
            raise
        return _inflate(body, limit, out, -15)


def _brotli(body: bytes, limit: int, out: bytearray) -> bool:
    decoder = brotli.Decompressor()
    for at in range(0, len(body), 4096):
        out += decoder.process(body[at : at + 4096], output_buffer_limit=limit + 1 - len(out))
        while len(out) <= limit and not decoder.can_accept_more_data():
            out += decoder.process(b"", output_buffer_limit=limit + 1 - len(out))
        if len(out) > limit or decoder.is_finished():
            break
    return bool(decoder.is_finished())


def _zstd(body: bytes, limit: int, out: bytearray) -> bool:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    with decompressor.stream_reader(body, read_across_frames=True) as reader:
        while len(out) <= limit and (data := reader.read(min(1 << 16, limit + 1 - len(out)))):
            out += data
    return bool(out)


# Content-Encoding -> its decoder, and the bytes that a body starts with if it really has it.
_DECODERS: dict[str, tuple[Callable[[bytes, int, bytearray], bool], bytes]] = {
    "gzip": (_inflate, _GZIP),
    "x-gzip": (_inflate, _GZIP),
    "deflate": (_deflate, b""),
    "br": (_brotli, b""),
    "zstd": (_zstd, _ZSTD),
}
