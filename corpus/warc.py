"""WARC records from a file that may be damaged, torn, or compressed in any of the usual ways.

Cost: one pass, one record in memory. Every record gives one `Record`, and so does every damaged
stretch. Framing is done here and not by a library, because those known end silently at the first
damage, take a torn file for a clean end, and leave gzip's checksums to chance.

What counts as one thing to lose is a *member*: a gzip member, zstd frame or lz4 frame that starts
with `WARC/`, together with the members after it that do not (bgzip cuts anywhere). After damage,
reading goes on at the next member that decompresses to `WARC/`; in an uncompressed file, at the
next line that starts a record. Record framing: ISO 28500, sections 4 and Annex D.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from corpus.compression import Codec, DamageError, Plain, Source, codec_of, head_of, next_member
from schemas.errors import UserError

MAX_HEADER_BYTES = 64 << 10
_BOUNDARY = re.compile(rb"\n([Ww][Aa][Rr][Cc]/[01]\.\d)")
_MAX_RATIO = 200  # text compresses 3 to 20 times; zeros, which a bomb is made of, 1,030 times
_START = b"WARC/"
_CUT = "the record's header is cut short"


class Headers:
    """Header lines in order; names compare without case. Values are text."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self.lines = lines

    def get(self, name: str) -> str | None:
        """The first value of `name`, or None."""
        return next((value for key, value in self.lines if key == name), None)

    def joined(self, name: str) -> str | None:
        """All values of `name` with commas between them (RFC 9110, 5.3), or None."""
        return ", ".join(value for key, value in self.lines if key == name) or None


@dataclass(frozen=True)
class Record:
    """One record, or one damaged stretch (`damage` says which reason, `detail` what was seen).

    `offset` is unique in the file: where the record, or the member that it opens, begins. The
    n-th further record of a member that holds several (a file that is one gzip member) has the
    member's offset + n. `length` is None there. `oversize`: the block is larger than the limit
    and was not kept.
    """

    offset: int
    next_offset: int
    length: int | None
    headers: Headers = field(default_factory=lambda: Headers([]))
    content: bytes = b""
    oversize: bool = False
    damage: str | None = None
    detail: str | None = None


def read_records(path: str, start: int = 0, max_record_bytes: int = 64 << 20) -> Iterator[Record]:
    """Yield the records of the WARC file at `path` from the one whose offset is `start` on.

    `start` is 0 or a `next_offset`. Where that lies inside a member, the file is read from the
    front and the records before it are passed over, so that any record can be resumed at.
    Raises `UserError` where the file is missing, or no WARC file.
    """
    with Source(path) as source:
        codec = codec_of(source)
        offset = start
        if codec is not Plain and not (head_of(source, codec, start) or b"").startswith(_START):
            offset = 0
        if offset == 0:
            _check_first_bytes(source, codec)
        while offset < source.size:
            stream = Stream(source, codec, offset, 4 * max_record_bytes)
            for record in _records_of(stream, max_record_bytes):
                if record.offset >= start:
                    yield record
            offset = stream.end


def first_record_at(path: str, offset: int) -> int:
    """Where the first record at or behind `offset` begins, or the file's size: a guess.

    What looks like a record may stand inside one (an archive that was crawled). It is the truth if
    reading from a known record on comes to begin one there.
    """
    if offset == 0:
        return 0
    with Source(path) as source:
        codec = codec_of(source)
        if codec is not Plain:
            return next_member(source, codec, offset, _START)
        stream = Stream(source, codec, offset - 1, 0)
        return stream.offset + stream.consumed if stream.find_boundary() else source.size


def check_format(path: str) -> None:
    """Raise `UserError` unless the file can be opened and starts as a WARC file does."""
    with Source(path) as source:
        _check_first_bytes(source, codec_of(source))


def _check_first_bytes(source: Source, codec: Codec) -> None:
    """A clear word about files that are something else, before any record is made of them."""
    try:
        head = Stream(source, codec, 0, 1 << 16).peek(1 << 16, inside=True)
    except DamageError:
        return
    if _START.startswith(head[:5].strip()) or head.lstrip(b"\r\n").startswith(_START):
        return
    if head.startswith(b"filedesc://"):
        raise UserError(f"{source.path}: is not a WARC file (ARC is not read yet)")
    # Damage in the first member alone makes no other file of it: a later one opens with a record.
    if codec is not Plain and next_member(source, codec, 1, _START) < source.size:
        return
    if not re.search(rb"\nWARC/[01]\.\d\r?\n", head):
        raise UserError(f"{source.path}: is not a WARC file; it starts with {head[:40]!r}")


class Stream:
    """The decompressed bytes of one member and of those that continue it, read forward once.

    A member is given up where one record decompresses to more than `slack` bytes and more than
    200 times what it takes in the file.
    """

    def __init__(self, source: Source, codec: Codec, offset: int, slack: int) -> None:
        self.source, self.codec, self.offset = source, codec, offset
        self.index = 0
        self.consumed = 0
        self.fault: DamageError | None = None
        self._member = codec(source, offset)
        self._member_offset = offset
        self._buffer = bytearray()
        self._slack = slack
        self._drawn, self._drawn_from = 0, offset
        self._member_ended = False
        self._end: int | None = None

    @property
    def end(self) -> int:
        """Where the next member starts: after this one, or found by search after damage."""
        if self._end is None:
            while self.fault is None and not self._member_ended:
                self._buffer.clear()
                self._draw()
            if self.fault is None:
                self._end = self._member.end
            else:
                self._end = next_member(self.source, self.codec, self._member_offset + 1, _START)
        return self._end

    @property
    def torn(self) -> bool:
        """The file ends inside this member: no damage that anything follows."""
        return self.fault is not None and self.fault.torn and self.end >= self.source.size

    def record_offset(self) -> int:
        """The offset of the record that begins here."""
        return self.offset + (self.consumed if self.codec is Plain else self.index)

    def begin_record(self) -> None:
        """Start counting anew what the record at the cursor draws."""
        self._drawn, self._drawn_from = 0, self._member.position

    def need(self, size: int, inside: bool = False) -> bool:
        """Have `size` bytes ahead of the cursor; False where the stream ends before.

        Only `inside` a record does a member that does not open with one continue this one: what
        stands between records and cannot be read must not cost the record before it.
        """
        while len(self._buffer) < size and self.fault is None:
            if self._member_ended and not (inside and self._continue()):
                break
            self._draw()
        return len(self._buffer) >= size

    def peek(self, size: int, inside: bool = False) -> bytes:
        """Up to `size` bytes ahead of the cursor."""
        self.need(size, inside)
        return bytes(self._buffer[:size])

    def take(self, size: int) -> bytes:
        """Up to `size` bytes, and move past them."""
        data = self.peek(size)
        self._drop(len(data))
        return data

    def skip(self, size: int) -> bool:
        """Move `size` bytes on without keeping them; False where the stream ends before."""
        while size > 0 and self.need(1, inside=True):
            step = min(size, len(self._buffer))
            self._drop(step)
            size -= step
        return size == 0

    def skip_blank_lines(self) -> None:
        """Move past CR and LF."""
        while self.need(1):
            rest = self._buffer.lstrip(b"\r\n")
            self._drop(len(self._buffer) - len(rest))
            if rest:
                break

    def find_boundary(self, at: int = 0) -> bool:
        """Move to the next line that starts a record, `at` or more bytes on; False at the end."""
        while True:
            more = self.need(at + (1 << 16), inside=True)
            match = _BOUNDARY.search(self._buffer, at)
            if match:
                self._drop(match.start(1))
                return True
            if not more:
                self._drop(len(self._buffer))
                return False
            self._drop(max(0, len(self._buffer) - 16))
            at = 0

    def _drop(self, size: int) -> None:
        del self._buffer[:size]
        self.consumed += size

    def _draw(self) -> None:
        try:
            data = self._member.read(1 << 18)
            read = self._member.position - self._drawn_from
            if self._drawn > self._slack + _MAX_RATIO * read:
                raise DamageError(f"{read} bytes decompress to more than {self._drawn}")
        except DamageError as damage:
            self.fault = damage
            return
        self._drawn += len(data)
        self._buffer += data
        self._member_ended = not data

    def _continue(self) -> bool:
        """Go on into the next member where that one does not open with a record."""
        at = self._member.end
        head = head_of(self.source, self.codec, at) if self.codec is not Plain else None
        if head is None or head.startswith(_START):
            return False
        self._member, self._member_offset = self.codec(self.source, at), at
        self._member_ended = False
        return True


def _records_of(stream: Stream, max_record_bytes: int) -> Iterator[Record]:
    """The records of one member; it ends where the member does, or cannot be read any more."""
    stream.begin_record()
    stream.skip_blank_lines()
    if not stream.need(1) and stream.fault is not None:
        yield _stretch(stream, stream.offset, Headers([]), stream.fault.detail)
    while stream.need(1):
        yield _next_record(stream, max_record_bytes)
        stream.index += 1
        stream.begin_record()


def _next_record(stream: Stream, max_record_bytes: int) -> Record:
    """The record at the cursor; leaves the cursor at the start of the one after it."""
    offset = stream.record_offset()
    start = stream.peek(5).upper()
    if start != _START:
        stream.find_boundary()
        cut = len(start) < len(_START) and _START.startswith(start)
        return _stretch(stream, offset, Headers([]), "bytes that belong to no record", cut)
    headers, size, fault = _read_header(stream)
    if fault:
        found = stream.find_boundary(1)
        return _stretch(stream, offset, headers, fault, cut=fault == _CUT and not found)
    stream.take(size)
    length = int(headers.get("content-length") or 0)
    fits = length <= max_record_bytes
    if not (stream.need(length, inside=True) if fits else _passable(stream, length)):
        return _short_record(stream, offset, headers, length)
    if not _ends_after(stream, length if fits else 0):
        stream.find_boundary()
        detail = f"Content-Length is {length}, but the record does not end there"
        return _stretch(stream, offset, headers, detail)
    content = stream.take(length) if fits else b""
    stream.skip_blank_lines()
    if stream.fault is not None and not stream.need(1):
        return _stretch(stream, offset, headers, stream.fault.detail)
    return _whole(stream, offset, headers, content, not fits)


def _ends_after(stream: Stream, length: int) -> bool:
    """Whether the record may end `length` bytes on: two line ends, or the file's end, or the next.

    Where it does not, the block may have swallowed the start of the next record, so it is not
    passed over before this is known.
    """
    tail = stream.peek(length + 9)[length:]
    rest = tail.lstrip(b"\r\n").upper()
    return tail.startswith(b"\r\n\r\n") or _START.startswith(rest) or rest.startswith(_START)


def _passable(stream: Stream, length: int) -> bool:
    """Move past a block too large to keep, where the file can hold it at all."""
    if stream.codec is Plain and stream.offset + stream.consumed + length > stream.source.size:
        return False
    return stream.skip(length)


def _short_record(stream: Stream, offset: int, headers: Headers, length: int) -> Record:
    """The block ends before Content-Length: a record may still begin inside what was claimed."""
    before = stream.consumed
    stream.find_boundary()
    detail = f"Content-Length is {length}, but only {stream.consumed - before} bytes follow"
    if stream.fault is not None:
        detail = f"{stream.fault.detail}, Content-Length {length}"
    return _stretch(stream, offset, headers, detail, cut=True)


def _read_header(stream: Stream) -> tuple[Headers, int, str | None]:
    """The header at the cursor, its size, and what is wrong with it; does not move."""
    block = stream.peek(size := 1 << 10)
    while not (end := re.search(rb"\n\r{0,2}\n", block)) and size <= MAX_HEADER_BYTES:
        block = stream.peek(size := 4 * size, inside=True)
    if end is None:
        cut = len(block) <= MAX_HEADER_BYTES
        fault = _CUT if cut else f"header of over {MAX_HEADER_BYTES} bytes"
        return parse_headers(block[: 1 << 13]), 0, fault
    headers = parse_headers(block[: end.start()])
    if _BOUNDARY.search(block, 1, end.start()):
        return headers, 0, "another record begins inside the record's header"
    length = headers.get("content-length")
    if length is None or not re.fullmatch(r"[0-9]{1,18}", length):
        return headers, 0, f"Content-Length is {length!r}"
    return headers, end.end(), None


def parse_headers(block: bytes) -> Headers:
    """Header lines after a first line (version or status), with continuation lines folded in."""
    lines: list[tuple[str, str]] = []
    # One decoding where all is ASCII; else each line by itself, since lines may differ.
    raws: list[Any] = block.decode().splitlines() if block.isascii() else block.splitlines()
    for raw in raws[1:]:
        text = raw if isinstance(raw, str) else _text(raw)
        if text[:1] in (" ", "\t") and lines:
            lines[-1] = (lines[-1][0], f"{lines[-1][1]} {text.strip()}".strip())
            continue
        name, colon, value = text.partition(":")
        if colon:
            lines.append((name.strip().lower(), value.strip()))
    return Headers(lines)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _whole(stream: Stream, offset: int, headers: Headers, content: bytes, oversize: bool) -> Record:
    following, length = _following(stream, offset)
    return Record(offset, following, length, headers, content, oversize)


def _stretch(
    stream: Stream, offset: int, headers: Headers, detail: str, cut: bool = False
) -> Record:
    """A damaged stretch that ends at the cursor; torn if it was `cut` by the end of the file."""
    following, length = _following(stream, offset)
    at_end = following >= stream.source.size
    torn = at_end and (cut if stream.codec is Plain else stream.torn)
    reason = "torn_record" if torn else "damaged_record"
    return Record(offset, following, length, headers, damage=reason, detail=detail)


def _following(stream: Stream, offset: int) -> tuple[int, int | None]:
    """Offset at which to go on, and the bytes from `offset` to there if they are this record's."""
    if stream.codec is Plain:
        following = stream.offset + stream.consumed
        return following, following - offset
    if stream.need(1):
        return offset + 1, None
    return stream.end, stream.end - offset if stream.index == 0 else None
