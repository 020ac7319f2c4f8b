"""Records of a WARC or ARC file, which may be damaged, torn, or compressed in any usual way.

`read_records` yields one `Record` per record and per damaged stretch. Framing is done here and not
by a library: those available end silently at the first damage, take a torn file for a complete one,
and do not verify gzip's checksums.

The unit of loss is a *member*: a gzip member, zstd frame or lz4 frame that opens with a record, and
the members after it that do not (bgzip cuts anywhere). After a damaged member, reading resumes at
the next readable one; after a damaged record, at the next start of a record behind its header,
whatever its length says. A length is trusted if the block ends as blocks do, so that a crawled
archive stays one record. Time is bounded by `corpus.warc.codecs.ReadBudget`. Cost: one pass, one
record in memory.

Sources: ISO 28500 (WARC), section 4 and annex D; Burner and Kahle, ARC File Format 1.0,
archive.org/web/researcher/ArcFileFormat.php, which also has the longer lines of version 2.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from corpus.warc.codecs import Plain, Source, codec_of, possible_members
from corpus.warc.stream import Archive, Stream
from schemas.errors import UserError

MAX_HEADER_BYTES = 64 << 10
_MAX_SWALLOWED_BYTES = 64 << 20
_LENGTH = re.compile(r"[0-9]{1,18}")
_BLANK_LINE = re.compile(rb"\n\r{0,2}\n")
_NAMES = ("warc-type", "warc-record-id", "warc-target-uri")
_CUT = "the record's header is cut short"
_NESTED = "another record begins inside the record's header"
_NO_RECORD = "bytes that belong to no record"

Lines = list[tuple[str, str]]


class Headers:
    """Header lines in order: lowercase names and text values."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def get(self, name: str) -> str | None:
        """The first value of `name`, or None."""
        return next((value for key, value in self.lines if key == name), None)

    def joined(self, name: str) -> str | None:
        """All values of `name` with commas between them (RFC 9110, 5.3), or None."""
        return ", ".join(value for key, value in self.lines if key == name) or None


def parse_headers(block: bytes) -> Headers:
    """Header lines after a first line (version or status), with continuation lines folded in."""
    lines: Lines = []
    # ASCII is decoded at once; else each line by itself, since their encodings may differ.
    raws: list[Any] = block.decode().splitlines() if block.isascii() else block.splitlines()
    for raw in raws[1:]:
        text = raw if isinstance(raw, str) else _text_of(raw)
        if text[:1] in (" ", "\t") and lines:
            lines[-1] = (lines[-1][0], f"{lines[-1][1]} {text.strip()}".strip())
            continue
        name, colon, value = text.partition(":")
        if colon:
            lines.append((name.strip().lower(), value.strip()))
    return Headers(lines)


def _text_of(raw: bytes) -> str:
    """A header line as text: UTF-8, else Latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@dataclass(frozen=True)
class Record:
    """One record, or a damaged stretch: `damage` is the reason, `detail` what was found.

    Neighbouring stretches are joined if the later ones have no type, id or URL; `detail` then has
    their number and, where it is known, their size in the file.

    `offset` is unique in the file: where the record, or the member that it opens, begins. Record n
    of a member that holds several (a file that is one gzip member), counted from 0, has the
    member's offset + n, and `length` None. `oversize`: the block is larger than the limit and was
    not kept. `num_joined`: how many more damaged stretches are in it.
    """

    offset: int
    next_offset: int
    length: int | None
    headers: Headers = field(default_factory=lambda: Headers([]))
    content: bytes = b""
    oversize: bool = False
    damage: str | None = None
    detail: str | None = None
    num_joined: int = 0


def read_records(path: str, start: int = 0, max_record_bytes: int = 64 << 20) -> Iterator[Record]:
    """Yield the records of the WARC or ARC file at `path`, from offset `start` on.

    `start` is 0 or a `next_offset`. If it lies inside a member, the file is read from the front and
    the records before it are skipped, so reading can resume at any record.
    Raises `UserError` if the file is missing, or neither WARC nor ARC.
    """
    with Source(path, 4 * max_record_bytes) as source:
        archive = _archive_of(source)
        offset = start if archive.codec is Plain or archive.opens(start) else 0
        records = _all_records(archive, offset, max_record_bytes)
        yield from _joined(record for record in records if record.offset >= start)


def _all_records(archive: Archive, offset: int, max_record_bytes: int) -> Iterator[Record]:
    budget = archive.source.budget
    while offset < archive.source.size:
        stream = Stream(archive, offset, 4 * max_record_bytes)
        yield from _records_of(stream, max_record_bytes)
        least, offset = offset + archive.codec.min_bytes, stream.end
        if offset < least and budget.exhausted(offset):
            resumed = archive.next_readable(least)
            detail = f"members of less than {archive.codec.min_bytes} bytes"
            yield Record(offset, resumed, resumed - offset, damage="damaged_record", detail=detail)
            offset = resumed


def _joined(records: Iterator[Record]) -> Iterator[Record]:
    """`records` with each damaged stretch that has no name joined to the one before it."""
    first = last = None
    num_more = 0
    for record in records:
        if (
            first
            and first.damage == record.damage == "damaged_record"
            and not any(name in _NAMES and value for name, value in record.headers.lines)
        ):
            last, num_more = record, num_more + 1 + record.num_joined
            continue
        if first and last:
            yield _stretch_up_to(first, last, num_more)
        first = last = record if record.damage else None
        num_more = record.num_joined
        if first is None:
            yield record
    if first and last:
        yield _stretch_up_to(first, last, num_more)


def _stretch_up_to(first: Record, last: Record, num_more: int) -> Record:
    """Damaged stretches joined: the offset and header of the first, and how many follow it."""
    if num_more == 0:
        return first
    num_bytes = last.next_offset - first.offset
    known = first.length is not None and last.length is not None
    size = f", {num_bytes} bytes in all" if known else ""
    detail = f"{first.detail}; {num_more} more damaged stretches follow{size}"
    length = num_bytes if known else None
    following = last.next_offset
    return replace(first, next_offset=following, length=length, detail=detail, num_joined=num_more)


def first_record_at(path: str, offset: int) -> int:
    """A guess at where the first record at or after `offset` begins; the file's size if none does.

    What looks like a record may be inside one (a crawled archive). The guess is right if reading
    from a known record on arrives at it.
    """
    if offset == 0:
        return 0
    with Source(path) as source:
        archive = _archive_of(source)
        if archive.codec is not Plain:
            return archive.next_opening(offset)
        stream = Stream(archive, offset - 1)
        return stream.offset + stream.consumed if stream.find_start(1) else source.size


def check_format(path: str) -> None:
    """Raise `UserError` unless the file can be opened and starts like a WARC or ARC file."""
    with Source(path) as source:
        _archive_of(source)


def _archive_of(source: Source) -> Archive:
    """The file and its format, by its first bytes; `UserError` if it is neither WARC nor ARC."""
    archives = [Archive(source, codec_of(source), framing) for framing in (Warc(), Arc())]
    head = Stream(archives[0], 0, 1 << 16).peek(1 << 16, inside=True).lstrip(b"\r\n")
    fitting = [archive for archive in archives if archive.framing.is_start(head)]
    # A damaged start followed by a record is still an archive.
    fitting += [archive for archive in archives if any(archive.framing.starts(head, 0, len(head)))]
    if not fitting and archives[0].codec is not Plain:  # of the first member that opens a record
        members = possible_members(source, archives[0].codec, 1)
        opening = ([archive for archive in archives if archive.opens(at)] for at in members)
        fitting = next(filter(None, opening), [])
    if not fitting and head:
        raise UserError(f"{source.path}: is not a WARC file; it starts with {head[:40]!r}")
    return (fitting or archives)[0]


def _records_of(stream: Stream, max_record_bytes: int) -> Iterator[Record]:
    """The records of one member, up to its end or the damage that ends it."""
    stream.begin_record()
    stream.skip_blank_lines()
    while stream.need(1):
        yield _next_record(stream, max_record_bytes)
        stream.index += 1
        stream.begin_record()
    if stream.fault is not None and (stream.index == 0 or stream.gave_up):
        yield _stretch(stream, stream.record_offset(), Headers([]), stream.fault.detail)


def _next_record(stream: Stream, max_record_bytes: int) -> Record:
    """The record at the cursor; leaves the cursor at the start of the one after it."""
    offset = stream.record_offset()
    if not stream.framing.opens(stream.peek(16)):
        stream.find_start()
        return _stretch(stream, offset, Headers([]), _NO_RECORD)
    headers, size, fault = _read_header(stream)
    stream.skip(size)
    if fault:
        found = fault == _NESTED or stream.find_start(1)
        return _stretch(stream, offset, headers, fault, cut=fault == _CUT and not found)
    length = int(headers.get("content-length") or 0)
    return _record_of(stream, offset, headers, length, oversize=length > max_record_bytes)


def _record_of(
    stream: Stream, offset: int, headers: Headers, length: int, oversize: bool
) -> Record:
    """The record whose block begins at the cursor; the block is kept unless `oversize`."""
    # The block may include the next record, so the cursor passes it only once its end is checked.
    reach = stream.framing.reach
    if oversize:
        complete = stream.may_hold(length)
        complete = complete and not stream.source.budget.exhausted(stream.source.size)
        tail = b""
        if complete:
            back = stream.bookmark()
            complete = stream.skip(length)
            tail = stream.peek(reach) if complete else b""
            back()
    else:
        complete = stream.need(length, inside=True)
        tail = stream.peek(reach, at=length) if complete else b""
    if not complete:
        return _short_record(stream, offset, headers, length)
    if not stream.framing.ends(tail) or _has_swallowed(stream, length, tail):
        stream.find_start()  # before or after the stated end
        detail = f"{stream.framing.length_name} is {length}, but the record does not end there"
        return _stretch(stream, offset, headers, detail)
    content = b""
    if oversize:
        stream.skip(length)
    else:
        content = stream.take(length)
    stream.skip_blank_lines()
    if stream.fault is not None and not stream.need(1):
        return _stretch(stream, offset, headers, stream.fault.detail)
    following, num_bytes = _following(stream, offset)
    return Record(offset, following, num_bytes, headers, content, oversize)


def _has_swallowed(stream: Stream, length: int, tail: bytes) -> bool:
    """Whether the block at the cursor ends inside another record, whose own end is right.

    Never if a record follows the block and its separator. A block may hold records of another file
    (a crawled archive), but those end inside it.
    """
    framing, budget = stream.framing, stream.source.budget
    size = length - len(framing.separator)
    if size <= 0 or framing.ends_well(tail) or budget.exhausted(stream.source.size):
        return False
    back = stream.bookmark()
    inner = stream.last_start(size)
    swallowed = inner is not None and _ends_well(stream, *inner)
    back()
    return swallowed


def _ends_well(stream: Stream, num_passed: int, head: bytes) -> bool:
    """Whether the record with this head, `num_passed` bytes back, ends well after the cursor."""
    size = stream.framing.header_end(head)
    length = dict(stream.framing.parse(head[:size])).get("content-length", "") if size else ""
    if not size or not _LENGTH.fullmatch(length):
        return False
    left = size + int(length) - num_passed
    if not 0 < left < _MAX_SWALLOWED_BYTES or not stream.need(left, inside=True):
        return False
    return stream.framing.ends_well(stream.peek(stream.framing.reach, at=left))


def _short_record(stream: Stream, offset: int, headers: Headers, length: int) -> Record:
    """The block ends before its stated length; a record may still begin inside what is there."""
    before = stream.consumed
    stream.find_start()
    name = stream.framing.length_name
    detail = f"{name} is {length}, but only {stream.consumed - before} bytes follow"
    if stream.fault is not None:
        detail = f"{stream.fault.detail}, {name} {length}"
    return _stretch(stream, offset, headers, detail, cut=True)


def _read_header(stream: Stream) -> tuple[Headers, int, str | None]:
    """The header at the cursor, how many bytes to move past, and its fault; does not move.

    The bytes are 0 for a fault. If other records begin inside the header, they reach to the last
    one, so that a header with thousands of beginnings is read once.
    """
    framing = stream.framing
    block = stream.peek(size := 1 << 10)
    while (end := framing.header_end(block)) is None and size <= MAX_HEADER_BYTES:
        # Into the next member only if the header does not end in this one.
        is_whole = len(block) == size
        more = stream.peek(size := 4 * size, inside=not is_whole)
        if len(more) == len(block) and not is_whole:
            break
        block = more
    starts = [
        at for at in framing.starts(block, 1, end or len(block)) if block[at - 1] not in b" /"
    ]
    if starts:
        return Headers(framing.parse(block[: min(starts[0], 1 << 13)])), starts[-1], _NESTED
    if end is None:
        cut = len(block) <= MAX_HEADER_BYTES
        fault = _CUT if cut else f"header of over {MAX_HEADER_BYTES} bytes"
        return Headers(framing.parse(block[: 1 << 13])), 0, fault
    headers = Headers(framing.parse(block[:end]))
    length = headers.get("content-length")
    if length is None or not _LENGTH.fullmatch(length):
        return headers, 0, f"{framing.length_name} is {length!r}" if headers.lines else _NO_RECORD
    return headers, end, None


def _stretch(
    stream: Stream, offset: int, headers: Headers, detail: str, cut: bool = False
) -> Record:
    """A damaged stretch that ends at the cursor; torn if it was `cut` by the end of the file."""
    following, length = _following(stream, offset)
    at_end = following >= stream.source.size
    torn = at_end and (cut if stream.codec is Plain else stream.torn)
    reason = "torn_record" if torn else "damaged_record"
    return Record(
        offset, following, length, headers, damage=reason, detail=detail,
        num_joined=stream.num_passed,
    )  # fmt: skip


def _following(stream: Stream, offset: int) -> tuple[int, int | None]:
    """The offset to resume at, and the bytes from `offset` to there if only this record's."""
    if stream.codec is Plain:
        following = stream.offset + stream.consumed
        return following, following - offset
    if stream.need(1):
        return offset + 1, None
    return stream.end, stream.end - offset if stream.index == 0 else None


class Warc:
    """WARC: a version line, header lines, a blank line, the block, two line ends."""

    length_name = "Content-Length"
    separator = b"\r\n\r\n"
    reach = 128
    _start = b"WARC/"
    # After "WARC", a version and a field's name: a version line alone is no readable record. The
    # pattern begins with its rarest literal, for which `re` searches fastest.
    _version_and_field = re.compile(rb"/[01]\.\d{1,2}[ \t]{0,8}\r{0,2}\n[^\s:]{1,64}+[ \t]{0,8}:")
    _length_or_name = re.compile(
        b"content-length|" + b"|".join(name.encode() for name in _NAMES), re.IGNORECASE
    )

    def is_start(self, head: bytes) -> bool:
        """A record, or as much of its version as there is."""
        return head != b"" and self.opens(head)

    def opens(self, head: bytes) -> bool:
        """`WARC/`, or the part of it that `head` has."""
        head = head[: len(self._start)].upper()
        return self._start.startswith(head)

    def starts(self, block: bytes | bytearray, at: int, end: int) -> Iterator[int]:
        """Each version line with a field after it."""
        for match in self._version_and_field.finditer(block, at + 4, end):
            start = match.start() - 4
            if block[start : start + 4].upper() == b"WARC":
                yield start

    def next_start(self, block: bytes | bytearray, at: int, end: int) -> tuple[int, int] | None:
        """The last start before the first field by which a record can be read, or its loss named.

        A header without any is one more damaged stretch with no name, which `_joined` would add to
        the one before: thousands of them are passed over at once.
        """
        num_passed = 0
        starts = self.starts(block, at, end)
        last = next(starts, None)
        if last is None:
            return None
        named = self._length_or_name.search(block, last, end)
        for start in starts:
            if named and start > named.start():
                break
            last, num_passed = start, num_passed + 1
        return last, num_passed

    def header_end(self, block: bytes) -> int | None:
        """After the first blank line."""
        end = _BLANK_LINE.search(block)
        return end.end() if end else None

    def parse(self, header: bytes) -> Lines:
        """The lines after the version."""
        return parse_headers(header).lines

    def ends(self, tail: bytes) -> bool:
        """Two line ends, the end of the file, or the next record."""
        return tail.startswith(self.separator) or self.opens(tail.lstrip(b"\r\n"))

    def ends_well(self, tail: bytes) -> bool:
        """Two line ends, then the next record or nothing."""
        return tail.startswith(self.separator) and self.opens(tail[4:].lstrip(b"\r\n"))


MAX_LINE_BYTES = 64 << 10
# A line cut off within "http" must not pass for one that starts with "ttp://" or "p://".
_SCHEME = r"(?!t?tps?:)[A-Za-z][A-Za-z0-9+.\-]{2,31}:"
# Length first: most lines that are no header lack it, so the slow search for a date is rare.
_LINE = (
    _SCHEME.encode() + rb"(?=[^\r\n]{0,%d} [0-9]{1,18} *\r?\n)"
    rb"[^\r\n]*? [^ \r\n]+ [0-9]{12,18} [^\r\n]" % MAX_LINE_BYTES
)
# Where other bytes run into a line: a URL without spaces, quotes or tags, and an IPv4 address.
_LINE_INSIDE = (
    rb"(?:https?|ftp|dns|filedesc):[^ \r\n\0\"<>]{1,500}+ [0-9]{1,3}(?:\.[0-9]{1,3}){3} [0-9]{14} "
    rb"[^\r\n]{0,200}?[0-9]{1,18} *\r?\n"
)
_LINE_END = re.compile(rb"\r?\n|\r")
_LENGTH_FIELD = re.compile(rb" [0-9]{1,18}\Z")
_DATE_FIELD = re.compile(rb" [^ \r\n]+ [0-9]{12,18} [^\r\n]")
_DATES = re.compile(rb"(?=" + _DATE_FIELD.pattern + rb")")  # those that overlap, too
_PREFIX = re.compile(_SCHEME.encode() + rb"|[A-Za-z][A-Za-z0-9+.\-]{0,31}\Z")
_URL = re.compile(_SCHEME)
_DATE = re.compile(r"[0-9]{12,18}")
_RESPONSE_TYPE = "application/http; msgtype=response"
_WARC_TYPES = {  # by a URL's scheme; others are "resource"
    "http": "response",
    "https": "response",
    "filedesc": "warcinfo",
    "metadata": "metadata",
}


class Arc:
    """ARC (Internet Archive, 1996; Common Crawl to 2012): one line of fields before each block.

        URL IP-address Archive-date Content-type [more fields] Archive-length

    The length counts from after that line; a line end stands between records. URLs and types may
    hold spaces, so a line is taken apart from its date. Fields get the names of WARC, so that the
    rest of the code knows one format.
    """

    length_name = "Archive-length"
    separator = b"\n"
    boundary = re.compile(rb"[\n\0](" + _LINE + rb")")
    reach = MAX_LINE_BYTES + 128
    _start = re.compile(rb"[\n\0](" + _SCHEME.encode() + rb")|(" + _LINE_INSIDE + rb")")
    _version = b"filedesc://"
    _line = re.compile(_LINE)

    def is_start(self, head: bytes) -> bool:
        """A version block, or as much of one as there is, or any record."""
        version = head[: len(self._version)]
        is_version = version != b"" and self._version.startswith(version)
        return is_version or self._line.match(head) is not None

    def opens(self, head: bytes) -> bool:
        """A line of fields with a date, or the start of a URL."""
        line, end, _ = head.partition(b"\n")
        return bool(_fields(_text_of(line)) if end else _PREFIX.match(head))

    def starts(self, block: bytes | bytearray, at: int, end: int) -> Iterator[int]:
        """A line of fields after a line end or NUL; inside a line, a stricter pattern.

        What stands at a line's end is looked at once per line, however many URLs the line has.
        """
        place, line_end, dates = max(0, at - 1), -1, list[int]()
        while match := self._start.search(block, place, end):
            place = match.end()
            if match.lastindex == 1:
                if place > line_end:
                    line_end, dates = self._end_and_dates(block, place, end)
                date = next(iter(dates[bisect_left(dates, place) :]), None)
                if date is None or line_end - place > MAX_LINE_BYTES:
                    place = match.start() + 1
                    continue
                field = _DATE_FIELD.match(block, date)
                place = field.end() if field else place
            if match.start(match.lastindex or 0) >= at:
                yield match.start(match.lastindex or 0)

    def next_start(self, block: bytes | bytearray, at: int, end: int) -> tuple[int, int] | None:
        """The first of `starts`: whatever looks like a line of fields has a name and a length."""
        start = next(self.starts(block, at, end), None)
        return None if start is None else (start, 0)

    def _end_and_dates(
        self, block: bytes | bytearray, begin: int, end: int
    ) -> tuple[int, list[int]]:
        """Where a line ends, and its date fields begin: none if it does not end in a length."""
        stop = _LINE_END.search(block, begin, end)
        if stop is None or stop[0] == b"\r":
            return stop.start() if stop else end, []
        if not _LENGTH_FIELD.search(bytes(block[begin : stop.start()]).rstrip(b" ")[-19:]):
            return stop.start(), []
        return stop.start(), [m.start() for m in _DATES.finditer(block, begin, stop.end())]

    def header_end(self, block: bytes) -> int | None:
        """After the first line end."""
        return block.find(b"\n") + 1 or None

    def parse(self, header: bytes) -> Lines:
        """The line's fields as WARC headers; empty if it is not a line of fields."""
        fields = _fields(_text_of(header))
        return _as_warc(*fields) if fields else []

    def ends(self, tail: bytes) -> bool:
        """A line end, the end of the file, or the next record (lengths that count the line end)."""
        return tail[:1] in (b"", b"\r", b"\n") or self._line.match(tail) is not None

    def ends_well(self, tail: bytes) -> bool:
        """A line end, then the next record or nothing."""
        rest = tail.lstrip(b"\r\n")
        return rest != tail and (rest == b"" or self._line.match(rest) is not None)


def _fields(line: str) -> tuple[str, str, str, str, str] | None:
    """URL, IP address, date, type and length of a header line; None for any other line.

    The last date counts: a URL with spaces may hold what looks like one. All fields but the length
    may be a dash.
    """
    words = line.rstrip(" \r\n").split(" ")
    inner = range(2, len(words) - 1)
    dates = [i for i in inner if _DATE.fullmatch(words[i])]
    dashes = [i for i in inner if words[i - 1] == words[i] == "-"]
    if not _URL.match(words[0]) or not (dates or dashes):
        return None
    at = dates[-1] if dates else dashes[0]
    url, content_type = " ".join(words[: at - 1]), " ".join(words[at + 1 : -1])
    return url.strip(), words[at - 1], words[at], content_type.strip(), words[-1]


def _as_warc(url: str, address: str, date: str, content_type: str, length: str) -> Lines:
    kind = _WARC_TYPES.get(url.partition(":")[0].lower(), "resource")
    lines = [
        ("warc-type", kind),
        ("warc-target-uri", url),
        ("warc-date", _iso_date(date)),
        ("warc-ip-address", address),
        ("content-type", _RESPONSE_TYPE if kind == "response" else content_type),
        ("content-length", length),
    ]
    return [(name, value) for name, value in lines if value not in ("", "-")]


def _iso_date(digits: str) -> str:
    """YYYYMMDDhhmm[ss...] in ISO 8601, without fractions; "" if it is not a date."""
    year, rest = digits[:4], digits[4:14].ljust(10, "0")
    try:
        month, day, hour, minute, second = (int(rest[at : at + 2]) for at in range(0, 10, 2))
        moment = datetime(int(year), month, day, hour, minute, second)
    except ValueError:
        return ""
    return f"{moment.isoformat()}Z"
