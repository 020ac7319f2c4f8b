"""The decompressed bytes of an archive, member by member, and which members start with a record.

Members are read by `corpus.warc.codecs`; records are made by `corpus.warc.records`. Cost: one pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from corpus.warc.codecs import (
    BYTES_PER_BYTE_REREAD,
    BYTES_PER_BYTE_SEARCHED,
    MAX_RATIO,
    STEP,
    Codec,
    DamageError,
    Member,
    Plain,
    Source,
    head_of,
    possible_members,
)

# Once the budget is exhausted: what a record may decompress to, and how many a member may hold.
_FREE_BYTES, _STRICT_RATIO, _FREE_RECORDS, _BYTES_PER_RECORD = 4096, 50, 4, 40
_CHUNK = 1 << 18
_BLANK = re.compile(rb"[\r\n]+")


class Framing(Protocol):
    """How the records of a format are delimited; `corpus.warc.records` has WARC and ARC.

    `length_name`: the format's name for the length of a block, which `parse` returns as
    `content-length`. `separator`: the bytes after a block. `reach`: how many bytes `opens`,
    `starts`, `ends` and `ends_well` may need to see.
    """

    length_name: str
    separator: bytes
    reach: int

    def is_start(self, head: bytes) -> bool:
        """Whether a file that starts with `head` has this format."""

    def opens(self, head: bytes) -> bool:
        """Whether a record may start with `head`, which may be cut off anywhere."""

    def starts(self, block: bytes | bytearray, at: int, end: int) -> Iterator[int]:
        """Where in `block[at:end]` a record seems to start, whatever precedes it."""

    def next_start(self, block: bytes | bytearray, at: int, end: int) -> tuple[int, int] | None:
        """One of `starts`, and how many before it can only be of damaged records without a name."""

    def header_end(self, block: bytes) -> int | None:
        """The size of the header that `block` starts with, or None if its end is not in `block`."""

    def parse(self, header: bytes) -> list[tuple[str, str]]:
        """Lowercase WARC names and their values; empty if it is not a header."""

    def ends(self, tail: bytes) -> bool:
        """Whether a block may end before `tail`, which has `reach` bytes or all that follow."""

    def ends_well(self, tail: bytes) -> bool:
        """Whether `tail` is the separator and then the next record or nothing."""


@dataclass(frozen=True)
class Archive:
    """An open file, how it is compressed, and how its records are delimited."""

    source: Source
    codec: Codec
    framing: Framing

    def opens(self, offset: int) -> bool | None:
        """Whether the member at `offset` opens with a record; None if no member can be read."""
        head = head_of(self.source, self.codec, offset)
        if not head or not self.framing.opens(head):
            return None if head is None else False
        # Sixteen bytes are enough for WARC, but show only the start of an ARC record's line.
        block = head_of(self.source, self.codec, offset, self.framing.reach)
        return self.framing.opens(block or head)

    def next_opening(self, offset: int) -> int:
        """The first member at or after `offset` that opens with a record, or the file's size."""
        members = possible_members(self.source, self.codec, offset)
        return next((at for at in members if self.opens(at)), self.source.size)

    def next_readable(self, offset: int) -> int:
        """The first member at or after `offset` that can be read at all, or the file's size."""
        members = possible_members(self.source, self.codec, offset)
        return next((at for at in members if self.opens(at) is not None), self.source.size)


class Stream:
    """The decompressed bytes of one member and of those that continue it, read forward.

    `consumed`: bytes before the cursor; `index`: records before it; `num_passed`: damaged ones that
    `find_start` passed over since `begin_record`; `fault`: why no more can be read. A member is
    given up where one record decompresses to more than `slack` bytes and more than 200 times its
    size in the file. Once the file's budget is exhausted, the limits are 4 KiB and 50 times, and
    one record per 40 bytes.
    """

    def __init__(self, archive: Archive, offset: int, slack: int = 0) -> None:
        self.archive, self.framing, self.offset = archive, archive.framing, offset
        self.source, self.codec = archive.source, archive.codec
        self.index = 0
        self.consumed = 0
        self.num_passed = 0
        self.fault: DamageError | None = None
        self.gave_up = False
        self._budget = self.source.budget
        self._budget.num_steps += self.codec is not Plain
        self._member: Member = self.codec(self.source, offset)
        self._member_offset = offset
        self._buffer = bytearray()
        self._slack = slack
        self._record_bytes, self._record_from = 0, offset  # decompressed for it; where it started
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
                # The bytes of a damaged member are searched too: a wrong bit in a length makes it
                # include its neighbours. With members nested in each other that is quadratic, so
                # it is charged, and skipped when the budget is exhausted.
                passed = self._member.position - self._member_offset
                self._budget.num_bytes += BYTES_PER_BYTE_REREAD * passed
                skipped = max(1, passed) if self._budget.exhausted(self._member.position) else 1
                self._end = self.archive.next_readable(self._member_offset + skipped)
        return self._end

    @property
    def torn(self) -> bool:
        """Whether the file ends inside this member, rather than the member being damaged."""
        return self.fault is not None and self.fault.torn and self.end >= self.source.size

    def record_offset(self) -> int:
        """The offset of the record at the cursor; see `corpus.warc.records.Record`."""
        return self.offset + (self.consumed if self.codec is Plain else self.index)

    def begin_record(self) -> None:
        """Start the count of what this record decompresses to; a fault if there are too many."""
        self.num_passed = 0
        self._record_bytes = 0
        self._record_from = max(self._member_offset, self._member.position - STEP)
        if self.codec is Plain or self.index == 0:
            return
        self._budget.num_steps += 1
        num_bytes = self._member.position - self.offset
        too_many = self.index > _FREE_RECORDS + num_bytes / _BYTES_PER_RECORD
        if too_many and self._budget.exhausted(self._member.position):
            self._buffer.clear()
            self.gave_up = True
            self.fault = DamageError(f"{num_bytes} bytes hold more than {self.index} records")

    def need(self, size: int, inside: bool = False) -> bool:
        """Buffer `size` bytes ahead of the cursor; False where the stream ends before.

        Reading continues into a next member that does not open with a record only `inside` a
        record: unreadable bytes between records must not cost the record before them.
        """
        while len(self._buffer) < size:
            if self.fault is not None or (self._member_ended and not (inside and self._continue())):
                return False
            self._draw()
        return True

    def peek(self, size: int, inside: bool = False, at: int = 0) -> bytes:
        """Up to `size` bytes, `at` bytes ahead of the cursor."""
        if len(self._buffer) < at + size:
            self.need(at + size, inside)
        return bytes(memoryview(self._buffer)[at : at + size])

    def take(self, size: int) -> bytes:
        """Up to `size` bytes, and move past them."""
        data = self.peek(size)
        self._drop(len(data))
        return data

    def may_hold(self, size: int) -> bool:
        """False if it is known without reading that the stream ends within `size` bytes."""
        end = self.offset + self.consumed + size
        return self.codec is not Plain or end <= self.source.size

    def skip(self, size: int) -> bool:
        """Move past `size` bytes without keeping them; False where the stream ends before."""
        if size <= len(self._buffer):
            self._drop(size)
            return True
        if not self.may_hold(size):
            return False
        if self.codec is Plain:
            self._buffer.clear()
            self.consumed += size
            self._member = Plain(self.source, self.offset + self.consumed)
            return True
        while size > 0 and self.need(1, inside=True):
            step = min(size, len(self._buffer))
            self._drop(step)
            size -= step
        return size == 0

    def bookmark(self) -> Callable[[], None]:
        """A function that moves the cursor back to where it is now."""
        kept = self._member_offset, bytes(self._buffer), self.consumed, self._member_ended
        member, fault = self._member.bookmark(), self.fault
        record = self._record_bytes, self._record_from

        def back() -> None:
            self._member_offset, buffer, self.consumed, self._member_ended = kept
            self._buffer = bytearray(buffer)
            try:
                self._member, self.fault = member(), fault
            except DamageError as damage:
                self.fault = damage.copy()
            self._record_bytes, self._record_from = record

        return back

    def skip_blank_lines(self) -> None:
        """Move past CR and LF."""
        while self.need(1):
            blank = _BLANK.match(self._buffer)
            if blank is None:
                break
            self._drop(blank.end())

    def find_start(self, at: int = 0) -> bool:
        """Move to the next start of a record, `at` or more bytes ahead; False at the end."""
        reach = self.framing.reach
        while True:
            more = self.need(at + reach + (1 << 16), inside=True)
            found = self.framing.next_start(self._buffer, at, len(self._buffer))
            start, self.num_passed = found or (None, 0)
            searched = len(self._buffer) - (reach if more else 0) if start is None else start
            self._budget.num_bytes += BYTES_PER_BYTE_SEARCHED * max(0, searched - at)
            self._drop(max(0, searched))
            if start is not None or not more:
                return start is not None
            at = max(0, at - searched)

    def last_start(self, size: int) -> tuple[int, bytes] | None:
        """Move past `size` bytes; how far back the last start of a record in them is, its head."""
        reach, found, left = self.framing.reach, None, size
        self._budget.num_bytes += BYTES_PER_BYTE_SEARCHED * size
        while left > 0 and self.need(1, inside=True):
            self.need(_CHUNK + reach, inside=True)
            step = min(left, max(1, len(self._buffer) - reach) if left > _CHUNK else left)
            end = min(step + reach, len(self._buffer))
            starts = [at for at in self.framing.starts(self._buffer, 0, end) if at < step]
            if starts:
                found = left - starts[-1], self.peek(_CHUNK, inside=True, at=starts[-1])
            self._drop(min(step, len(self._buffer)))
            left -= step
        return found

    def _drop(self, size: int) -> None:
        del self._buffer[:size]
        self.consumed += size

    def _draw(self) -> None:
        try:
            data = self._member.read(_CHUNK)
            self._record_bytes += len(data)
            self._budget.num_bytes += len(data)
            read = self._member.position - self._record_from
            if self._record_bytes > self._slack + MAX_RATIO * read or (
                self._record_bytes > _FREE_BYTES + _STRICT_RATIO * read
                and self._budget.exhausted(self._member.position)
            ):
                raise DamageError(f"{read} bytes decompress to more than {self._record_bytes}")
        except DamageError as damage:
            self.fault = damage.copy()
            return
        self._buffer += data
        self._member_ended = not data

    def _continue(self) -> bool:
        """Continue with the next member if it does not open with a record."""
        at = self._member.end
        if self.codec is Plain or self.archive.opens(at) is not False:
            return False
        self._member, self._member_offset = self.codec(self.source, at), at
        self._member_ended = False
        return True
