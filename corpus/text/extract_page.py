"""One captured response to one `documents` row: gates, decoding, the look, main text, language.

The gates stand in the order of their cost, and the first one that fails names the row's
`rejected_by`. Cost: under 1 ms a page for the look, then 9 ms for trafilatura where it comes so far
(1.5 ms for resiliparse): `benchmarks/cascade.py`, `benchmarks/extraction_quality.py`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from corpus.clean import removals
from corpus.clean.removals import RemovalRequests
from corpus.text import clean_unicode, language_id
from corpus.text.charset import decode
from corpus.text.main_text import (
    Bounds,
    Engine,
    RejectedError,
    ResiliparsePage,
    extractor_name,
    limited,
    main_text,
)
from corpus.text.opt_out import rights_of
from corpus.text.prescreen import Look, look
from corpus.text.url_filter import CompiledRules
from corpus.warc.http import Response, decode_body, mime_type, parse_response
from corpus.warc.records import Record, read_records
from schemas.config import check_range
from schemas.datasets import DOCUMENTS

# What every later stage can be given, and so what it can cost. FineWeb and DCLM keep 100,000 words
# at most, of no more than 10 characters on average.
MAX_TEXT_CHARS = 1_000_000

_DUMP = re.compile(r"CC-MAIN-\d{4}-\d{2}")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';,]+)", re.IGNORECASE)
_CONTROLS = bytes([*range(9), *range(14, 27), *range(28, 32)])
_RECORD_TYPES = ("warcinfo", "request", "metadata", "revisit", "resource", "continuation")


@dataclass(frozen=True)
class Extract:
    """Settings of the extract stage, section [extract] of the recipe.

    `max_nodes` and `max_depth` bound the parsed page, `max_cpu_seconds` what one page may take
    (a backstop: the other limits are the same on every machine), `max_memory_mb` the address
    space of the process. `statuses` and `mime_types` are what is accepted. Of a text the first
    `language_chars` characters are identified (0: all), newlines as `language_newline`.
    """

    engine: Engine = "trafilatura"
    statuses: tuple[int, ...] = (200,)
    mime_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")
    max_record_bytes: int = 64 << 20
    max_html_bytes: int = 8 << 20
    min_broken_bytes: int = 4096
    max_nodes: int = 50_000
    max_depth: int = 250
    max_cpu_seconds: float = 60.0
    max_memory_mb: int = 3072
    language_model: str = ""
    language_chars: int = 0
    language_newline: str = " "
    honour_noai: bool = False
    honour_tdm: bool = False

    def __post_init__(self) -> None:
        limits = ("max_record_bytes", "max_html_bytes", "max_nodes", "max_depth", "max_memory_mb")
        for name in (*limits, "max_cpu_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        check_range(self, 1, 2**31 - 1, "max_record_bytes", "max_html_bytes", "max_nodes")
        check_range(self, 1, 1000, "max_depth")  # libxml2 reads no deeper an expression
        check_range(self, 0.01, 86_400, "max_cpu_seconds")  # a timer of 0 would be off
        check_range(self, 1, 2**24, "max_memory_mb")
        for name in ("min_broken_bytes", "language_chars"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be 0 or more")
        check_range(self, 0, 2**31 - 1, "min_broken_bytes", "language_chars")
        if self.language_newline not in ("", " "):
            raise ValueError(f"language_newline = {self.language_newline!r}: must be '' or ' '")
        for status in self.statuses:
            if not 100 <= status <= 999:
                raise ValueError(f"statuses = {status}: must be HTTP status codes, e.g. 200")
        for mime in self.mime_types:
            if "/" not in mime or mime != mime.lower():
                raise ValueError(f"mime_types = {mime!r}: must be like 'text/html'")


@dataclass(frozen=True)
class Gates:
    """All that decides what becomes of a record: three sections of the recipe, and the requests
    to forget that were made in the root.
    """

    extract: Extract = field(default_factory=Extract)
    look: Look = field(default_factory=Look)
    url: CompiledRules | None = None
    forgotten: RemovalRequests | None = None


@dataclass(frozen=True)
class Outcome:
    """What one record came to.

    `kind`: "document" (kept so far), "rejected", or the record type that gives no row; `row` has
    exactly the columns of `schemas.datasets.DOCUMENTS`, or is None; `next_offset`: where reading
    can start again after this record.
    """

    kind: str
    row: dict[str, Any] | None
    next_offset: int


def extract_file(
    path: str,
    file_path: str,
    gates: Gates,
    start: int = 0,
    crashed_at: int | None = None,
    stop: int | None = None,
) -> Iterator[Outcome]:
    """Yield one outcome a record of the WARC or ARC file at `path`, from the offset `start` on.

    `file_path` is the name in the rows' key. `start` is 0 or an outcome's `next_offset`. The
    first page at or after `crashed_at` is not looked into but recorded as extraction_crashed.
    Records that begin at `stop` or behind are left to others.
    Raises `UserError` where the file is missing or no WARC file.
    """
    dump = _dump_of(path, file_path, gates.extract)
    for record in read_records(path, start, gates.extract.max_record_bytes):
        if stop is not None and record.offset >= stop:
            return
        kind = (record.headers.get("warc-type") or "unknown").lower()
        if record.damage is None and kind not in ("response", "conversion"):
            yield Outcome(kind if kind in _RECORD_TYPES else "unknown", None, record.next_offset)
            continue
        row = _empty_row(record, file_path, dump)
        crashed = crashed_at is not None and record.offset >= crashed_at and not record.damage
        try:
            if crashed:
                crashed_at = None
                raise RejectedError("extraction_crashed", "the process ended on this page")
            _check_forgotten(row, gates.forgotten)
            _fill(row, record, kind, gates)
        except RejectedError as rejection:
            row.update(text=None, language=None, language_score=None)
            row.update(rejected_by=rejection.reason, detail=rejection.detail)
        yield Outcome("rejected" if row["rejected_by"] else "document", row, record.next_offset)


def _empty_row(record: Record, file_path: str, dump: str) -> dict[str, Any]:
    """A row with all that the record's place and header say."""
    row: dict[str, Any] = dict.fromkeys(DOCUMENTS.names)
    key = f"{file_path}:{record.offset}"
    row.update(
        id=record.headers.get("warc-record-id") or f"<urn:uuid:{_uuid(key)}>",
        dump=dump,
        url=_url(record),
        date=record.headers.get("warc-date"),
        file_path=file_path,
        record_offset=record.offset,
        record_length=record.length,
        truncated=record.headers.get("warc-truncated") is not None,
        noai=False,
        tdm_reservation=False,
    )
    return row


def _uuid(key: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, key)


def _url(record: Record) -> str | None:
    """WARC-Target-URI; wget puts it in angle brackets (WARC 1.0 allowed them)."""
    url = record.headers.get("warc-target-uri")
    return url.removeprefix("<").removesuffix(">") if url else None


def _dump_of(path: str, file_path: str, settings: Extract) -> str:
    """The crawl's name: from the path, else from the warcinfo record that opens the file."""
    named = _DUMP.search(file_path) or _DUMP.search(path)
    if named:
        return named[0]
    first = next(read_records(path, 0, settings.max_record_bytes), None)
    if first is None or (first.headers.get("warc-type") or "").lower() != "warcinfo":
        return ""
    part = re.search(rb"^isPartOf:[ \t]*([^\r\n]{1,200})", first.content, re.M | re.I)
    return part[1].decode("utf-8", "replace").strip() if part else ""


def _fill(row: dict[str, Any], record: Record, kind: str, gates: Gates) -> None:
    """Put into `row` what the record gives; raises `RejectedError` at the first gate that fails."""
    if record.damage:
        raise RejectedError(record.damage, record.detail or "")
    if kind == "conversion":
        _fill_plain(row, record, gates)
        return
    response = parse_response(record.content)
    if response is None and not record.oversize:
        raise RejectedError("not_http", f"the block starts with {record.content[:40]!r}")
    if response is not None:
        row["http_status"] = response.status
        row["payload_digest"] = _payload_digest(record, response)
        if response.status not in gates.extract.statuses:
            raise RejectedError("bad_status", f"status {response.status}")
    if response is None or record.oversize:
        raise RejectedError("too_large", f"Content-Length {record.headers.get('content-length')}")
    _fill_page(row, record, response, gates)


def _payload_digest(record: Record, response: Response) -> str:
    """What the record says, else SHA-1 (base32, as crawlers write it) of the body as stored."""
    stated = (record.headers.get("warc-payload-digest") or "").strip()
    return stated or f"sha1:{base64.b32encode(hashlib.sha1(response.body).digest()).decode()}"


def _fill_plain(row: dict[str, Any], record: Record, gates: Gates) -> None:
    """A WET record: text that somebody else extracted."""
    row.update(content_type="text/plain", charset="utf-8", html_bytes=len(record.content))
    row["extractor"] = "wet"
    _check_size(record.oversize, len(record.content), gates.extract)
    _check_url(row["url"], gates.url)
    _set_text(row, record.content.decode("utf-8", "replace").strip(), gates.extract)


def _fill_page(row: dict[str, Any], record: Record, response: Response, gates: Gates) -> None:
    settings = gates.extract
    body = decode_body(response, settings.max_html_bytes)
    declared = response.headers.get("content-type")
    identified = record.headers.get("warc-identified-payload-type")
    row["content_type"] = mime_type(identified, declared, body.content)
    row["x_robots_tag"] = response.headers.joined("x-robots-tag")
    if row["content_type"] not in settings.mime_types:
        raise RejectedError("not_html", row["content_type"])
    row["html_bytes"] = len(body.content)
    if body.broken and len(body.content) < max(1, settings.min_broken_bytes):
        raise RejectedError("undecodable_body", f"{body.broken} gives {len(body.content)} bytes")
    _check_size(record.oversize, len(body.content), settings)
    _check_url(row["url"], gates.url)
    label = _CHARSET.search(declared or "")
    decoded = decode(body.content, label[1] if label else None)
    row["charset"] = decoded.charset
    _check_text(decoded.text)
    rights = rights_of(response.headers, decoded.text)
    row.update(noai=rights.noai, tdm_reservation=rights.tdm_reservation)
    _check_rights(rights.noai, rights.tdm_reservation, settings)
    _set_text(row, _page_text(row, decoded.text, gates), settings)


def _page_text(row: dict[str, Any], html: str, gates: Gates) -> str:
    """The main text of a page that the look lets pass."""
    settings = gates.extract
    bounds = Bounds(settings.max_nodes, settings.max_depth)
    with limited(settings.max_cpu_seconds):
        page = ResiliparsePage(html, bounds)
        if gates.look.languages:
            _look(row, page, gates)
        row["extractor"] = extractor_name(settings.engine)
        if settings.engine == "resiliparse":
            return page.main_content  # parsed already, if the look had to
        return main_text(html, settings.engine, bounds)


def _look(row: dict[str, Any], page: ResiliparsePage, gates: Gates) -> None:
    seen = look(page, gates.look, gates.extract.language_model)
    row.update(look_chars=seen.num_chars, look_language=seen.language, look_score=seen.score)
    row["look_passage_chars"] = seen.passage_chars
    if not seen.passes(gates.look):
        raise RejectedError(
            "look.unwanted_language",
            f"look_score = {seen.score:.3f}, min_score = {gates.look.min_score}; {seen.language}",
        )


def _check_forgotten(row: dict[str, Any], requests: RemovalRequests | None) -> None:
    """First of all, so that nothing of the page gets into the row."""
    reason = requests.reason(row["id"], row["url"]) if requests else None
    if reason:
        raise RejectedError(removals.REASON, reason)


def _check_size(oversize: bool, size: int, settings: Extract) -> None:
    if oversize or size > settings.max_html_bytes:
        raise RejectedError("too_large", f"over {settings.max_html_bytes} bytes")
    if size == 0:
        raise RejectedError("empty_body", "0 bytes")


def _check_url(url: str | None, rules: CompiledRules | None) -> None:
    fault = rules.fault(url) if rules and url else None
    if fault:
        raise RejectedError(f"url.{fault.rule}", fault.entry)


def _check_text(text: str) -> None:
    """No text at all: a tenth of it is not characters (images and archives served as HTML)."""
    encoded = text.encode("utf-8", "surrogatepass")  # bytes lose characters faster than a text
    wrong = text.count("�") + len(encoded) - len(encoded.translate(None, _CONTROLS))
    if wrong > len(text) / 10:
        raise RejectedError("undecodable", f"{wrong} of {len(text)} characters")


def _check_rights(noai: bool, tdm: bool, settings: Extract) -> None:
    if noai and settings.honour_noai:
        raise RejectedError("reserved_rights", "noai")
    if tdm and settings.honour_tdm:
        raise RejectedError("reserved_rights", "tdm-reservation")


def _set_text(row: dict[str, Any], text: str, settings: Extract) -> None:
    """The text and its language; Arrow takes no lone surrogates."""
    text = clean_unicode.clean(text.encode("utf-8", "replace").decode("utf-8"))
    if not text.strip():
        raise RejectedError("no_text", "the extractor found no main text")
    if len(text) > MAX_TEXT_CHARS:
        detail = f"{len(text)} characters, at most {MAX_TEXT_CHARS} are taken"
        raise RejectedError("text_too_long", detail)
    row["text"] = text
    row["language"], row["language_score"] = language_id.identify(
        text[: settings.language_chars or None], settings.language_model, settings.language_newline
    )
