"""Write captures as WARC records with warcio, one gzip member each, as Common Crawl does.

A capture becomes a request, a response (or revisit) and a metadata record. The payload digest is
that of the entity body: chunked framing removed, content encoding left on.
"""

import base64
import gzip
import hashlib
import random
import uuid
import zlib
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from warcio.recordloader import ArcWarcRecord
from warcio.statusandheaders import StatusAndHeaders, StatusAndHeadersParser
from warcio.warcwriter import WARCWriter

from captures import Capture

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://gristmill.example/samples")
Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Placed:
    """Where a capture's answer lies."""

    capture: Capture
    warc: str
    offset: int


def record_id(key: str, kind: str = "response") -> str:
    """The WARC-Record-ID of a capture's record, angle brackets included."""
    return f"<{uuid.uuid5(NAMESPACE, f'{kind}/{key}').urn}>"


def digest(data: bytes) -> str:
    """A SHA-1 as WARC writes it, in base 32."""
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


def write_warc(path: Path, captures: list[Capture]) -> list[Placed]:
    """Write one file and return the place of each answer. A torn capture must come last."""
    placed = []
    with path.open("wb") as out:
        out.write(_member(*_warcinfo(path.name)))
        for capture in captures:
            out.write(_member(*_request(capture)))
            placed.append(Placed(capture, path.name, out.tell()))
            out.write(_answer_member(capture, path.name))
            if capture.damage != "torn":
                out.write(_member(*_metadata(capture)))
    return placed


def _answer_member(capture: Capture, file_name: str) -> bytes:
    headers, block = _answer(capture, file_name)
    if capture.damage == "length":
        headers = [(n, "9" + v if n == "Content-Length" else v) for n, v in headers]
    member = _member(headers, block)
    middle = len(member) // 2
    if capture.damage == "torn":
        return member[:middle]
    if capture.damage == "bytes":
        # No byte may look like the start of a gzip member (1f 8b).
        return member[:middle] + b"\xff\x00\xaa\x55" * 8 + member[middle + 32 :]
    return member


class _Writer(WARCWriter):
    """warcio's writer, with the digests that the headers state and no others."""

    def ensure_digest(self, *_: object, **__: object) -> None:
        pass


def _member(headers: Headers, block: bytes) -> bytes:
    """The record in a gzip member of its own."""
    stated, http = dict(headers), None
    if stated["WARC-Type"] == "revisit":  # of which warcio writes the HTTP header alone
        http = StatusAndHeadersParser(["HTTP/1.1"]).parse(BytesIO(block))
    record = ArcWarcRecord(
        "warc",
        stated["WARC-Type"],
        StatusAndHeaders("", headers, "WARC/1.0"),
        BytesIO(block),
        http,
        stated["Content-Type"],
        int(stated["Content-Length"]),
    )
    out = BytesIO()
    _Writer(out, gzip=True).write_record(record)
    return out.getvalue()


def _headers(kind: str, key: str, date: datetime, block: bytes, content_type: str) -> Headers:
    return [
        ("WARC-Type", kind),
        ("WARC-Date", date.strftime("%Y-%m-%dT%H:%M:%SZ")),
        ("WARC-Record-ID", record_id(key, "response" if kind == "revisit" else kind)),
        ("Content-Length", str(len(block))),
        ("Content-Type", content_type),
    ]


def _warcinfo(file_name: str) -> tuple[Headers, bytes]:
    block = (
        b"isPartOf: SAMPLE-2026-08\r\npublisher: Gristmill\r\n"
        b"description: An invented crawl for tests and demonstrations\r\n"
        b"software: samples/generate.py\r\nformat: WARC File Format 1.0\r\n"
    )
    date = datetime(2026, 2, 9, 3, 0, 0)
    headers = _headers("warcinfo", file_name, date, block, "application/warc-fields")
    return [*headers, ("WARC-Filename", file_name)], block


def _request(capture: Capture) -> tuple[Headers, bytes]:
    parts = urlsplit(capture.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    block = (
        f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: samplebot/1.0\r\n"
        "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n"
        "Accept-Encoding: gzip, deflate\r\nConnection: Keep-Alive\r\n\r\n"
    ).encode()
    kind = "application/http; msgtype=request"
    headers = _headers("request", capture.key, capture.date, block, kind)
    return [
        *headers,
        ("WARC-IP-Address", capture.address),
        ("WARC-Target-URI", capture.url),
        ("WARC-Block-Digest", digest(block)),
    ], block


def _answer(capture: Capture, file_name: str) -> tuple[Headers, bytes]:
    payload, block = http_block(capture)
    kind = "application/http; msgtype=response"
    headers = _headers(capture.record, capture.key, capture.date, block, kind)
    headers += [
        ("WARC-Warcinfo-ID", record_id(file_name, "warcinfo")),
        ("WARC-Concurrent-To", record_id(capture.key, "request")),
        ("WARC-IP-Address", capture.address),
        ("WARC-Target-URI", capture.url),
        ("WARC-Payload-Digest", digest(payload)),
        ("WARC-Block-Digest", digest(block)),
    ]
    if capture.record == "revisit":
        profile = "http://netpreserve.org/warc/1.0/revisit/identical-payload-digest"
        headers += [("WARC-Profile", profile), ("WARC-Refers-To-Target-URI", capture.url)]
    else:
        headers.append(("WARC-Identified-Payload-Type", capture.identified))
    return headers, block


def http_block(capture: Capture) -> tuple[bytes, bytes]:
    """Return a capture's entity body and the whole HTTP answer around it."""
    payload, headers = capture.body, list(capture.headers)
    if "gzip" in capture.transfer:
        payload = gzip.compress(payload, 6, mtime=0)
        headers.append(("Content-Encoding", "gzip"))
    if "deflate" in capture.transfer:
        payload = zlib.compress(payload)
        headers.append(("Content-Encoding", "deflate"))
    body = payload
    if "chunked" in capture.transfer:
        body = _chunks(payload, random.Random(f"chunks/{capture.key}"))
        headers.append(("Transfer-Encoding", "chunked"))
    elif capture.record == "response":
        # The crawler undoes compression and notes what it was, as Common Crawl's does.
        if not capture.transfer and len(capture.key) % 2:
            headers.append(("X-Crawl-Content-Encoding", "gzip"))
            headers.append(("X-Crawl-Content-Length", str(len(zlib.compress(payload)) + 12)))
        headers.append(("Content-Length", str(len(payload))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    block = f"HTTP/1.1 {capture.status}\r\n{lines}\r\n".encode("latin-1") + body
    return payload, block if capture.record == "response" else block[: -len(body) or None]


def _chunks(payload: bytes, rng: random.Random) -> bytes:
    out, start = [], 0
    while start < len(payload):
        piece = payload[start : start + rng.randrange(500, 4096)]
        out.append(b"%x\r\n%s\r\n" % (len(piece), piece))
        start += len(piece)
    return b"".join(out) + b"0\r\n\r\n"


def _metadata(capture: Capture) -> tuple[Headers, bytes]:
    fetch_time = random.Random(f"time/{capture.key}").randrange(30, 2400)
    lines = [f"fetchTimeMs: {fetch_time}"]
    if capture.charset:
        lines.append(f"charset-detected: {capture.charset}")
    block = ("\r\n".join(lines) + "\r\n").encode()
    headers = _headers("metadata", capture.key, capture.date, block, "application/warc-fields")
    concurrent = ("WARC-Concurrent-To", record_id(capture.key))
    return [*headers, concurrent, ("WARC-Target-URI", capture.url)], block
