"""One captured response to one `documents` row: gates, decoding, pre-screening, text, language.

The gates (`EXTRACT_GATES`) are checked in the order of their cost, and the first that fails names
the row's `rejected_by`. Cost per page: under 1 ms to pre-screen it, then 9 ms for trafilatura
(1.5 ms for resiliparse) if it passes: `benchmarks/cascade.py`, `benchmarks/extraction_quality.py`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from corpus.clean import removals
from corpus.clean.removals import RemovalRequests
from corpus.text import clean_unicode, fast_trafilatura, language_id
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
from corpus.text.prescreen import UNWANTED_LANGUAGE, Look, look
from corpus.text.url_filter import LISTS, RULES, CompiledRules
from corpus.warc.http import Response, decode_body, mime_type, parse_response
from corpus.warc.records import Record, read_records
from schemas.config import settings
from schemas.datasets import DOCUMENTS

# What every later stage can be given, and so what it can cost. FineWeb and DCLM keep 100,000 words
# at most, of no more than 10 characters on average.
MAX_TEXT_CHARS = 1_000_000

_DUMP = re.compile(r"CC-MAIN-\d{4}-\d{2}")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';,]+)", re.IGNORECASE)
_CONTROLS = bytes([*range(9), *range(14, 27), *range(28, 32)])
_RECORD_TYPES = ("warcinfo", "request", "metadata", "revisit", "resource", "continuation")


@dataclass(frozen=True)
class ExtractGate:
    """A check of the extract stage.

    `reasons`: the values of `rejected_by` that it gives, in the order checked. `settings`: those of
    the recipe that it depends on, as `section.key`.
    """

    name: str
    reasons: tuple[str, ...]
    settings: tuple[str, ...] = ()


# Every reason for which extract rejects a record, in the order in which a page meets the gates.
# Two exceptions: a record over `max_record_bytes` is too_large before its type is known, and
# pre-screening a page that must be parsed can give the reasons of "extraction".
EXTRACT_GATES = (
    ExtractGate("takedown", (removals.REASON,)),
    ExtractGate(
        "record", ("damaged_record", "torn_record", "not_http"), ("extract.max_record_bytes",)
    ),
    ExtractGate("status", ("bad_status",), ("extract.statuses",)),
    ExtractGate("type", ("not_html",), ("extract.mime_types",)),
    ExtractGate(
        "size",
        ("undecodable_body", "too_large", "empty_body"),
        ("extract.min_broken_bytes", "extract.max_html_bytes"),
    ),
    ExtractGate(
        "url", tuple(f"url.{rule}" for rule in RULES), tuple(f"url.{name}" for name in LISTS)
    ),
    ExtractGate("decoding", ("undecodable",)),
    ExtractGate("rights", ("reserved_rights",), ("extract.honour_noai", "extract.honour_tdm")),
    ExtractGate(
        "look",
        (UNWANTED_LANGUAGE,),
        ("look.languages", "look.min_score", "look.min_passage_chars"),
    ),
    ExtractGate(
        "extraction",
        (
            "extraction_crashed",
            "too_many_attributes",
            "too_many_nodes",
            "too_deep",
            "extraction_failed",
            "extraction_cpu_time",
            "extraction_memory",
        ),
        ("extract.max_nodes", "extract.max_depth", "extract.max_cpu_seconds"),
    ),
    ExtractGate("text", ("no_text", "text_too_long")),
)


@settings
class Extract:
    """Settings of the extract stage, section [extract] of the recipe.

    `statuses` and `mime_types` are what is accepted. `max_nodes` and `max_depth` bound the parsed
    page, `max_cpu_seconds` the time for one page (a last resort: the other limits are the same on
    every machine), `max_memory_mb` the address space of the process. The language is that of the
    first `language_chars` characters (0: all), with `language_newline` for each newline.
    """

    engine: Engine = "trafilatura"
    statuses: tuple[Annotated[int, Field(ge=100, le=999)], ...] = (200,)
    mime_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")
    max_record_bytes: Annotated[int, Field(ge=1, le=2**31 - 1)] = 64 << 20
    max_html_bytes: Annotated[int, Field(ge=1, le=2**31 - 1)] = 8 << 20
    min_broken_bytes: Annotated[int, Field(ge=0, le=2**31 - 1)] = 4096
    max_nodes: Annotated[int, Field(ge=1, le=2**31 - 1)] = 50_000
    max_depth: Annotated[int, Field(ge=1, le=1000)] = 250  # libxml2 evaluates no deeper expression
    max_cpu_seconds: Annotated[float, Field(ge=0.01, le=86400)] = 60.0  # a timer of 0 would be off
    max_memory_mb: Annotated[int, Field(ge=1, le=2**24)] = 3072
    language_model: str = ""
    language_chars: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    language_newline: str = " "
    honour_noai: bool = False
    honour_tdm: bool = False

    def __post_init__(self) -> None:
        if self.language_newline not in ("", " "):
            raise ValueError(f"language_newline = {self.language_newline!r}: must be '' or ' '")
        for mime in self.mime_types:
            if "/" not in mime or mime != mime.lower():
                raise ValueError(f"mime_types = {mime!r}: must be like 'text/html'")


@dataclass(frozen=True)
class Gates:
    """What the gates decide by: three sections of the recipe, and the root's removal requests."""

    extract: Extract = field(default_factory=Extract)
    look: Look = field(default_factory=Look)
    url: CompiledRules | None = None
    forgotten: RemovalRequests | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one record.

    `kind`: "document" (kept so far), "rejected", or the record type that gives no row. `row` has
    exactly the columns of `schemas.datasets.DOCUMENTS`, or is None. `next_offset`: where reading
    can resume after this record.
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
    """Yield one outcome per record of the WARC or ARC file at `path`, from offset `start` on.

    `file_path` is the name in the rows' key. `start` is 0 or an outcome's `next_offset`. The
    first page at or after `crashed_at` is not extracted but recorded as extraction_crashed.
    Records that begin at `stop` or later are left to other tasks.
    Raises `UserError` if the file is missing, or neither WARC nor ARC.
    """
    if gates.extract.engine != "resiliparse":
        fast_trafilatura.prepare()
    dump = _dump_of(path, file_path, gates.extract)
    for record in read_records(path, start, gates.extract.max_record_bytes):
        if stop is not None and record.offset >= stop:
            return
        kind = (record.headers.get("warc-type") or "unknown").lower()
        if record.damage is None and kind not in ("response", "conversion"):
            yield Outcome(kind if kind in _RECORD_TYPES else "unknown", None, record.next_offset)
            continue
        row = _new_row(record, file_path, dump)
        crashed = crashed_at is not None and record.offset >= crashed_at and not record.damage
        try:
            if crashed:
                crashed_at = None
                raise RejectedError("extraction_crashed", "the process ended on this page")
            extract_page(row, record, kind, gates)
        except RejectedError as rejection:
            row.update(text=None, language=None, language_score=None)
            row.update(rejected_by=rejection.reason, detail=rejection.detail)
        yield Outcome("rejected" if row["rejected_by"] else "document", row, record.next_offset)


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


def _new_row(record: Record, file_path: str, dump: str) -> dict[str, Any]:
    """A row with what the record's place and header say; all other columns are None."""
    row: dict[str, Any] = dict.fromkeys(DOCUMENTS.names)
    key = f"{file_path}:{record.offset}"
    url = record.headers.get("warc-target-uri")
    row.update(
        id=record.headers.get("warc-record-id")
        or f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, key)}>",
        dump=dump,
        # wget writes URLs in angle brackets, which WARC 1.0 allowed.
        url=url.removeprefix("<").removesuffix(">") if url else None,
        date=record.headers.get("warc-date"),
        file_path=file_path,
        record_offset=record.offset,
        record_length=record.length,
        truncated=record.headers.get("warc-truncated") is not None,
        noai=False,
        tdm_reservation=False,
    )
    return row


def extract_page(row: dict[str, Any], record: Record, kind: str, gates: Gates) -> None:
    """Fill `row` from a record; raises `RejectedError` at the first of `EXTRACT_GATES` that fails.

    `kind` is "response", "conversion" (WET) or, of a damaged record, anything.
    """
    settings = gates.extract
    removal = gates.forgotten.reason(row["id"], row["url"]) if gates.forgotten else None
    if removal:
        raise RejectedError(removals.REASON, removal)
    if record.damage:
        raise RejectedError(record.damage, record.detail or "")
    if kind == "conversion":
        text = _wet_text(row, record, gates)
    else:
        response = _response(row, record, settings)
        html = _html(row, record, response, gates)
        bounds = Bounds(settings.max_nodes, settings.max_depth)
        with limited(settings.max_cpu_seconds):
            page = ResiliparsePage(html, bounds)
            if gates.look.languages:
                _prescreen(row, page, gates)
            row["extractor"] = extractor_name(settings.engine)
            if settings.engine == "resiliparse":
                text = page.main_content  # parsed already, if pre-screening had to
            else:
                text = main_text(html, settings.engine, bounds)
    text = clean_unicode.clean(text.encode("utf-8", "replace").decode("utf-8"))  # no surrogates
    if not text.strip():
        raise RejectedError("no_text", "the extractor found no main text")
    if len(text) > MAX_TEXT_CHARS:
        detail = f"{len(text)} characters, at most {MAX_TEXT_CHARS} are taken"
        raise RejectedError("text_too_long", detail)
    row["text"] = text
    row["language"], row["language_score"] = language_id.identify(
        text[: settings.language_chars or None], settings.language_model, settings.language_newline
    )


def _wet_text(row: dict[str, Any], record: Record, gates: Gates) -> str:
    """The text of a WET record, which somebody else extracted."""
    row.update(content_type="text/plain", charset="utf-8", html_bytes=len(record.content))
    row["extractor"] = "wet"
    _check_size_and_url(row, gates, record.oversize)
    return record.content.decode("utf-8", "replace").strip()


def _response(row: dict[str, Any], record: Record, settings: Extract) -> Response:
    """The record's HTTP response, with a status that is accepted."""
    response = parse_response(record.content)
    if response is None and not record.oversize:
        raise RejectedError("not_http", f"the block starts with {record.content[:40]!r}")
    if response is not None:
        row["http_status"] = response.status
        digest = (record.headers.get("warc-payload-digest") or "").strip()
        if not digest:  # as crawlers write it: SHA-1 of the stored body, in base32
            sha1 = hashlib.sha1(response.body).digest()
            digest = f"sha1:{base64.b32encode(sha1).decode()}"
        row["payload_digest"] = digest
        if response.status not in settings.statuses:
            raise RejectedError("bad_status", f"status {response.status}")
    if response is None or record.oversize:
        raise RejectedError("too_large", f"Content-Length {record.headers.get('content-length')}")
    return response


def _html(row: dict[str, Any], record: Record, response: Response, gates: Gates) -> str:
    """The page's source as text, if its type, size, URL, encoding and rights are accepted."""
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
    _check_size_and_url(row, gates)

    label = _CHARSET.search(declared or "")
    decoded = decode(body.content, label[1] if label else None)
    text, row["charset"] = decoded.text, decoded.charset
    # Images and archives served as HTML: a tenth of the text is not characters.
    encoded = text.encode("utf-8", "surrogatepass")  # `translate` is faster on bytes
    wrong = text.count("�") + len(encoded) - len(encoded.translate(None, _CONTROLS))
    if wrong > len(text) / 10:
        raise RejectedError("undecodable", f"{wrong} of {len(text)} characters")

    rights = rights_of(response.headers, text)
    row.update(noai=rights.noai, tdm_reservation=rights.tdm_reservation)
    if rights.noai and settings.honour_noai:
        raise RejectedError("reserved_rights", "noai")
    if rights.tdm_reservation and settings.honour_tdm:
        raise RejectedError("reserved_rights", "tdm-reservation")
    return text


def _check_size_and_url(row: dict[str, Any], gates: Gates, oversize: bool = False) -> None:
    if oversize or row["html_bytes"] > gates.extract.max_html_bytes:
        raise RejectedError("too_large", f"over {gates.extract.max_html_bytes} bytes")
    if row["html_bytes"] == 0:
        raise RejectedError("empty_body", "0 bytes")
    fault = gates.url.fault(row["url"]) if gates.url and row["url"] else None
    if fault:
        raise RejectedError(f"url.{fault.rule}", fault.entry)


def _prescreen(row: dict[str, Any], page: ResiliparsePage, gates: Gates) -> None:
    seen = look(page, gates.look, gates.extract.language_model)
    row.update(look_chars=seen.num_chars, look_language=seen.language, look_score=seen.score)
    row["look_passage_chars"] = seen.passage_chars
    if not seen.passes(gates.look):
        detail = f"look_score = {seen.score:.3f}, min_score = {gates.look.min_score}"
        raise RejectedError(UNWANTED_LANGUAGE, f"{detail}; {seen.language}")
