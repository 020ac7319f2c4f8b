"""The decompressed bytes of an archive, member by member, and which members open with a record.

Cost: one pass. Formats of compression are in `corpus.warc.codecs`, records in `corpus.warc.records`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from corpus.warc.codecs import (
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

# What a record may decompress to, and how many a member may hold, whatever was spent before.
_FREE_BYTES, _LEAST_RATIO, _FREE_RECORDS, _BYTES_PER_RECORD = 4096, 50, 4, 40
# Times what a byte costs that is only decompressed: one searched, one to be read once more.
_COST_OF_SEARCH, _COST_OF_READING_AGAIN = 8, 32
_CHUNK = 1 << 18
_BLANK = re.compile(rb"[\r\n]+")


class Framing(Protocol):
    """How the records of a format are told apart.

    `length_name`: what the format calls the length of a block, which is read from the header
    `content-length`. `separator`: what stands after a block. `reach`: how many bytes `find` and
    `ends_well` may need to see.
    """

    length_name: str
    separator: bytes
    reach: int

    def is_start(self, head: bytes) -> bool:
        """Whether a file that starts with `head` is of this format."""

    def opens(self, head: bytes) -> bool:
        """Whether a record may start with `head`, which may be cut anywhere."""

    def starts(self, block: bytes | bytearray, at: int, end: int) -> Iterator[int]:
        """Where in `block[at:end]` a record seems to start, whatever stands before it."""

    def header_end(self, block: bytes) -> int | None:
        """The size of the header that `block` starts with, or None where its end is not seen."""

    def parse(self, header: bytes) -> list[tuple[str, str]]:
        """Names of WARC in small letters, and values; empty if it is no header."""

    def ends(self, tail: bytes) -> bool:
        """Whether a block may end before `tail`: `reach` bytes, or all there are."""

    def ends_well(self, tail: bytes) -> bool:
        """Whether `tail` is the separator and then the next record, or the end."""


def text_of(raw: bytes) -> str:
    """A header line as text: UTF-8, and where it is not, Latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@dataclass(frozen=True)
class Archive:
    """An open file, how it is compressed, and how its records are told apart."""

    source: Source
    codec: Codec
    framing: Framing

    def opens(self, offset: int) -> bool | None:
        """Whether the member there opens with a record; None where no member can be read."""
        head = head_of(self.source, self.codec, offset)
        if not head or not self.framing.opens(head):
            return None if head is None else False
        # Sixteen bytes tell a WARC record, but of an ARC record's line no more than the start.
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

    A member is given up where one record decompresses to more than `slack` bytes and more than
    200 times what it takes in the file; once the file's effort is exhausted, to more than 4 KiB
    and 50 times, or where it has more records than one for 40 bytes.
    """

    def __init__(self, archive: Archive, offset: int, slack: int = 0) -> None:
        self.archive, self.framing, self.offset = archive, archive.framing, offset
        self.source, self.codec = archive.source, archive.codec
        self.index = 0
        self.consumed = 0
        self.fault: DamageError | None = None
        self.gave_up = False
        self._effort = self.source.effort
        self._effort.steps += self.codec is not Plain
        self._member: Member = self.codec(self.source, offset)
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
                self._end = self.archive.next_readable(self._search_from())
        return self._end

    def _search_from(self) -> int:
        # What a damaged member has swallowed is searched too: a wrong bit in a length makes it run
        # over its neighbours. Members that are nested in each other would cost their square.
        passed = self._member.position - self._member_offset
        self._effort.num_bytes += _COST_OF_READING_AGAIN * passed
        again = not self._effort.exhausted(self._member.position)
        return self._member_offset + (1 if again else max(1, passed))

    @property
    def torn(self) -> bool:
        """The file ends inside this member: no damage that anything follows."""
        return self.fault is not None and self.fault.torn and self.end >= self.source.size

    def record_offset(self) -> int:
        """The offset of the record that begins here."""
        return self.offset + (self.consumed if self.codec is Plain else self.index)

    def begin_record(self) -> None:
        """Count anew what the record at the cursor draws; a fault where there are too many."""
        self._drawn = 0
        self._drawn_from = max(self._member_offset, self._member.position - STEP)
        if self.codec is Plain or self.index == 0:
            return
        self._effort.steps += 1
        num_bytes = self._member.position - self.offset
        too_many = self.index > _FREE_RECORDS + num_bytes / _BYTES_PER_RECORD
        if too_many and self._effort.exhausted(self._member.position):
            self._buffer.clear()
            self.gave_up = True
            self.fault = DamageError(f"{num_bytes} bytes hold more than {self.index} records")

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

    def peek(self, size: int, inside: bool = False, at: int = 0) -> bytes:
        """Up to `size` bytes, `at` bytes ahead of the cursor."""
        self.need(at + size, inside)
        with memoryview(self._buffer) as view:
            return bytes(view[at : at + size])

    def take(self, size: int) -> bytes:
        """Up to `size` bytes, and move past them."""
        data = self.peek(size)
        self._drop(len(data))
        return data

    def skip(self, size: int) -> bool:
        """Move `size` bytes on without keeping them; False where the stream ends before."""
        if self.codec is Plain and size > len(self._buffer):
            past = self.offset + self.consumed + size
            if past > self.source.size:
                return False
            self._buffer.clear()
            self.consumed += size
            self._member = Plain(self.source, past)
            return True
        while size > 0 and self.need(1, inside=True):
            step = min(size, len(self._buffer))
            self._drop(step)
            size -= step
        return size == 0

    def bookmark(self) -> Callable[[], None]:
        """What moves the cursor back to where it is now."""
        kept = self._member_offset, bytes(self._buffer), self.consumed, self._member_ended
        member, fault = self._member.bookmark(), self.fault
        drawn = self._drawn, self._drawn_from

        def back() -> None:
            self._member_offset, buffer, self.consumed, self._member_ended = kept
            self._buffer = bytearray(buffer)
            try:
                self._member, self.fault = member(), fault
            except DamageError as damage:
                self.fault = damage.copy()
            self._drawn, self._drawn_from = drawn

        return back

    def skip_blank_lines(self) -> None:
        """Move past CR and LF."""
        while self.need(1):
            blank = _BLANK.match(self._buffer)
            if blank is None:
                break
            self._drop(blank.end())

    def find_start(self, at: int = 0) -> bool:
        """Move to the next start of a record, `at` or more bytes on; False at the end."""
        reach = self.framing.reach
        while True:
            more = self.need(at + reach + (1 << 16), inside=True)
            start = next(self.framing.starts(self._buffer, at, len(self._buffer)), None)
            searched = len(self._buffer) - (reach if more else 0) if start is None else start
            self._effort.num_bytes += _COST_OF_SEARCH * max(0, searched - at)
            self._drop(max(0, searched))
            if start is not None or not more:
                return start is not None
            at = max(0, at - searched)

    def last_start(self, size: int) -> tuple[int, bytes] | None:
        """Move `size` bytes on; how far before the last start of a record was, and its head."""
        reach, found, left = self.framing.reach, None, size
        self._effort.num_bytes += _COST_OF_SEARCH * size
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
            self._drawn += len(data)
            self._effort.num_bytes += len(data)
            read = self._member.position - self._drawn_from
            if self._drawn > self._slack + MAX_RATIO * read or (
                self._drawn > _FREE_BYTES + _LEAST_RATIO * read
                and self._effort.exhausted(self._member.position)
            ):
                raise DamageError(f"{read} bytes decompress to more than {self._drawn}")
        except DamageError as damage:
            self.fault = damage.copy()
            return
        self._buffer += data
        self._member_ended = not data

    def _continue(self) -> bool:
        """Go on into the next member where that one does not open with a record."""
        at = self._member.end
        if self.codec is Plain or self.archive.opens(at) is not False:
            return False
        self._member, self._member_offset = self.codec(self.source, at), at
        self._member_ended = False
        return True
