"""One captured response to one `documents` row: gates, decoding, main text, language.

The gates stand in the order of their cost, and the first one that fails names the row's
`rejected_by`. Cost: 20 ms a page that reaches extraction (trafilatura), 1 ms with resiliparse.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from corpus import gates, lid
from corpus.charset import decode
from corpus.http_body import Response, decode_body, parse_response
from corpus.main_text import RejectedError, extractor_name, main_text
from corpus.rights import rights_of
from corpus.warc import Record, read_records
from schemas.datasets import DOCUMENTS

_DUMP = re.compile(r"CC-MAIN-\d{4}-\d{2}")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';,]+)", re.IGNORECASE)
_RECORD_TYPES = ("warcinfo", "request", "metadata", "revisit", "resource", "continuation")


@dataclass(frozen=True)
class Extract:
    """Settings of the extract stage, section [extract] of the recipe.

    `max_nodes` and `max_depth` bound the parsed page, `max_cpu_seconds` what one page may take
    (a backstop: the other limits are the same on every machine), `max_memory_mb` the address
    space of the process. `statuses` and `mime_types` are what is accepted.
    """

    engine: Literal["trafilatura", "trafilatura-fast", "resiliparse"] = "trafilatura"
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
    blocked_domains: str = ""
    blocked_words: str = ""
    honour_noai: bool = False
    honour_tdm: bool = False

    def __post_init__(self) -> None:
        limits = ("max_record_bytes", "max_html_bytes", "max_nodes", "max_depth", "max_memory_mb")
        for name in (*limits, "max_cpu_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        if self.min_broken_bytes < 0:
            raise ValueError(f"min_broken_bytes = {self.min_broken_bytes}: must be 0 or more")
        for status in self.statuses:
            if not 100 <= status <= 999:
                raise ValueError(f"statuses = {status}: must be HTTP status codes, e.g. 200")
        for mime in self.mime_types:
            if "/" not in mime or mime != mime.lower():
                raise ValueError(f"mime_types = {mime!r}: must be like 'text/html'")


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
    path: str, file_path: str, settings: Extract, start: int = 0, crashed_at: int | None = None
) -> Iterator[Outcome]:
    """Yield one outcome a record of the WARC file at `path`, from the offset `start` on.

    `file_path` is the name in the rows' key. `start` is 0 or an outcome's `next_offset`. The
    first page at or after `crashed_at` is not looked into but recorded as extraction_crashed.
    Raises `UserError` where the file is missing or no WARC file.
    """
    dump = _dump_of(path, file_path, settings)
    for record in read_records(path, start, settings.max_record_bytes):
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
            _fill(row, record, kind, settings)
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


def _fill(row: dict[str, Any], record: Record, kind: str, settings: Extract) -> None:
    """Put into `row` what the record gives; raises `RejectedError` at the first gate that fails."""
    if record.damage:
        raise RejectedError(record.damage, record.detail or "")
    if kind == "conversion":
        _fill_plain(row, record, settings)
        return
    response = parse_response(record.content)
    if response is None and not record.oversize:
        raise RejectedError("not_http", f"the block starts with {record.content[:40]!r}")
    if response is not None:
        row["http_status"] = response.status
        if response.status not in settings.statuses:
            raise RejectedError("bad_status", f"status {response.status}")
    if response is None or record.oversize:
        raise RejectedError("too_large", f"Content-Length {record.headers.get('content-length')}")
    _fill_page(row, record, response, settings)


def _fill_plain(row: dict[str, Any], record: Record, settings: Extract) -> None:
    """A WET record: text that somebody else extracted."""
    row.update(content_type="text/plain", charset="utf-8", html_bytes=len(record.content))
    row["extractor"] = "wet"
    _check_size(record.oversize, len(record.content), settings)
    _check_url(row, settings)
    _set_text(row, record.content.decode("utf-8", "replace").strip(), settings)


def _fill_page(row: dict[str, Any], record: Record, response: Response, settings: Extract) -> None:
    body = decode_body(response, settings.max_html_bytes)
    declared = response.headers.get("content-type")
    identified = record.headers.get("warc-identified-payload-type")
    row["content_type"] = gates.mime_type(identified, declared, body.content)
    row["x_robots_tag"] = response.headers.joined("x-robots-tag")
    if row["content_type"] not in settings.mime_types:
        raise RejectedError("not_html", row["content_type"])
    row["html_bytes"] = len(body.content)
    if body.broken and len(body.content) < max(1, settings.min_broken_bytes):
        raise RejectedError("undecodable_body", f"{body.broken} gives {len(body.content)} bytes")
    _check_size(record.oversize, len(body.content), settings)
    _check_url(row, settings)
    label = _CHARSET.search(declared or "")
    decoded = decode(body.content, label[1] if label else None)
    row["charset"] = decoded.charset
    _check_text(decoded.text)
    rights = rights_of(response.headers, decoded.text)
    row.update(noai=rights.noai, tdm_reservation=rights.tdm_reservation)
    _check_rights(rights.noai, rights.tdm_reservation, settings)
    row["extractor"] = extractor_name(settings.engine)
    text = main_text(
        decoded.text,
        settings.engine,
        settings.max_nodes,
        settings.max_depth,
        settings.max_cpu_seconds,
    )
    _set_text(row, text, settings)


def _check_size(oversize: bool, size: int, settings: Extract) -> None:
    if oversize or size > settings.max_html_bytes:
        raise RejectedError("too_large", f"over {settings.max_html_bytes} bytes")
    if size == 0:
        raise RejectedError("empty_body", "0 bytes")


def _check_url(row: dict[str, Any], settings: Extract) -> None:
    found = gates.blocked_url(row["url"] or "", settings.blocked_domains, settings.blocked_words)
    if found:
        raise RejectedError("url_blocked", found)


def _check_text(text: str) -> None:
    """No text at all: a tenth of it is not characters (images and archives served as HTML)."""
    wrong = text.count("�") + len(re.findall("[\x00-\x08\x0e-\x1a\x1c-\x1f]", text))
    if wrong > len(text) / 10:
        raise RejectedError("undecodable", f"{wrong} of {len(text)} characters")


def _check_rights(noai: bool, tdm: bool, settings: Extract) -> None:
    if noai and settings.honour_noai:
        raise RejectedError("reserved_rights", "noai")
    if tdm and settings.honour_tdm:
        raise RejectedError("reserved_rights", "tdm-reservation")


def _set_text(row: dict[str, Any], text: str, settings: Extract) -> None:
    """The text and its language; Arrow takes no lone surrogates, text has no use for NUL."""
    text = text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    if not text.strip():
        raise RejectedError("no_text", "the extractor found no main text")
    row["text"] = text
    row["language"], row["language_score"] = lid.identify(text, settings.language_model)
