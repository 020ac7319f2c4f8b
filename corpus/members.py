"""The decompressed bytes of an archive, member by member, and which members open with a record.

Cost: one pass. Formats of compression are in `corpus.compression`, records in `corpus.warc`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from corpus.compression import Codec, DamageError, Plain, Source, head_of, next_member

_MAX_RATIO = 200  # text compresses 3 to 20 times; zeros, which a bomb is made of, 1,030 times


class Framing(Protocol):
    """How the records of a format are told apart.

    `length_name`: what the format calls the length of a block, which is read from the header
    `content-length`. `boundary`: a line end and, as group 1, the start of a record, which may be
    sought in at most `reach` bytes.
    """

    length_name: str
    boundary: re.Pattern[bytes]
    reach: int

    def is_start(self, head: bytes) -> bool:
        """Whether a file that starts with `head` is of this format."""

    def opens(self, head: bytes) -> bool:
        """Whether a record may start with `head`, which may be cut anywhere."""

    def header_end(self, block: bytes) -> int | None:
        """The size of the header that `block` starts with, or None where its end is not seen."""

    def parse(self, header: bytes) -> list[tuple[str, str]]:
        """Names of WARC in small letters, and values; empty if it is no header."""

    def ends(self, tail: bytes) -> bool:
        """Whether a block may end before `tail`: `reach` bytes, or all there are."""


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
        block = Stream(self, offset, 0).peek(self.framing.reach).lstrip(b"\r\n")
        return self.framing.opens(block or head)

    def next_opening(self, offset: int) -> int:
        """The first member at or after `offset` that opens with a record, or the file's size."""
        while (offset := next_member(self.source, self.codec, offset, b"")) < self.source.size:
            if self.opens(offset):
                break
            offset += 1
        return offset


class Stream:
    """The decompressed bytes of one member and of those that continue it, read forward once.

    A member is given up where one record decompresses to more than `slack` bytes and more than
    200 times what it takes in the file.
    """

    def __init__(self, archive: Archive, offset: int, slack: int) -> None:
        self.archive, self.framing, self.offset = archive, archive.framing, offset
        self.source, self.codec = archive.source, archive.codec
        self.index = 0
        self.consumed = 0
        self.fault: DamageError | None = None
        self._member = self.codec(self.source, offset)
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
                self._end = self.archive.next_opening(self._member_offset + 1)
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

    def peek(self, size: int, inside: bool = False, at: int = 0) -> bytes:
        """Up to `size` bytes, `at` bytes ahead of the cursor."""
        self.need(at + size, inside)
        return bytes(self._buffer[at : at + size])

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
        reach = self.framing.reach
        while True:
            more = self.need(at + reach + (1 << 16), inside=True)
            match = self.framing.boundary.search(self._buffer, at)
            if match:
                self._drop(match.start(1))
                return True
            if not more:
                self._drop(len(self._buffer))
                return False
            self._drop(max(0, len(self._buffer) - reach))
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
        if self.codec is Plain or self.archive.opens(at) is not False:
            return False
        self._member, self._member_offset = self.codec(self.source, at), at
        self._member_ended = False
        return True
