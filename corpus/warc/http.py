"""An HTTP response as a crawler stored it: status, headers, and the body without its encodings.

Headers lie. Common Crawl stores bodies already decoded, mostly under renamed headers
(`X-Crawler-Content-Encoding`), some archives under the original ones; servers announce gzip and
send text. So an encoding is undone where the body really has it, and a body that does not is
taken as it is. Output is bounded: a bomb stops at the limit. Sources: RFC 9110, 9112 section 7.1.

The MIME type of a response: what the crawler identified, what the server said, or the bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brotli
import zstandard

from corpus.warc.records import Headers, parse_headers

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


_STATUS_LINE = re.compile(rb"(?:HTTP|ICY)\S*\s+(\d{3})\b", re.IGNORECASE)
_HEADER_END = re.compile(rb"\n\r{0,2}\n")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,256})?\r?\n")
MAX_HTTP_HEADER_BYTES = 256 << 10
_MAX_ENCODINGS = 8  # of one body; servers send one or two
_MAX_MEMBERS = 250_000  # of a gzip body, each of which costs microseconds, even an empty one


@dataclass(frozen=True)
class Response:
    """Status code, headers, and the body as stored (still encoded)."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Body:
    """The decoded body, at most `limit` + 1 bytes of it; `broken` says which encoding gave out."""

    content: bytes
    broken: str | None = None


def parse_response(block: bytes) -> Response | None:
    """The HTTP response in a record's block, or None where it is none."""
    start = _STATUS_LINE.match(block)
    if start is None:
        return None
    end = _HEADER_END.search(block, 0, MAX_HTTP_HEADER_BYTES)
    head = block[: end.start()] if end else block[:MAX_HTTP_HEADER_BYTES]
    body = block[end.end() :] if end else b""
    return Response(int(start[1]), parse_headers(head), body)


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
    """The chunks' data; the body itself where it has no chunks, as crawlers often undo them."""
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
    """One encoding undone, or the body as it is where it turns out not to be so encoded."""
    if not _DECODERS[name].could_be(body):
        return body, None
    out = bytearray()
    try:
        complete = _DECODERS[name].decode(body, limit, out)
    except (zlib.error, brotli.error, zstandard.ZstdError):
        complete = False
    if complete or len(out) > limit:
        return bytes(out), None
    if not out and _looks_like_text(body):
        return body, None
    return bytes(out), name


def _looks_like_text(body: bytes) -> bool:
    head = body[:1024]
    return bool(head) and b"<" in head and not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head)


def _inflate(body: bytes, limit: int, out: bytearray, wbits: int) -> bool:
    """zlib streams one after the other (gzip may have several members) into `out`."""
    at = 0
    for _ in range(_MAX_MEMBERS):
        inflate = zlib.decompressobj(wbits)
        while at < len(body) and not inflate.eof and len(out) <= limit:
            piece = body[at : at + 4096]
            out += inflate.decompress(piece, limit + 1 - len(out))
            at += len(piece) - len(inflate.unconsumed_tail) - len(inflate.unused_data)
        if not inflate.eof:
            return False
        if wbits != 31 or not body.startswith(_GZIP, at):
            return True
    return False


def _deflate(body: bytes, limit: int, out: bytearray) -> bool:
    """`deflate` is a zlib stream (RFC 9110), and from some servers a raw one."""
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


@dataclass(frozen=True)
class _Decoder:
    decode: Callable[[bytes, int, bytearray], bool]
    magic: bytes = b""

    def could_be(self, body: bytes) -> bool:
        return bool(body) and body.startswith(self.magic)


_GZIP = b"\x1f\x8b"


def _gzip(body: bytes, limit: int, out: bytearray) -> Any:
    return _inflate(body, limit, out, 31)


_DECODERS = {
    "gzip": _Decoder(_gzip, _GZIP),
    "x-gzip": _Decoder(_gzip, _GZIP),
    "deflate": _Decoder(_deflate),
    "br": _Decoder(_brotli),
    "zstd": _Decoder(_zstd, b"\x28\xb5\x2f\xfd"),
}
