"""Members of a compressed file: gzip members, zstd frames and lz4 frames, each read by itself.

A reader starts at any offset of the file and returns bounded chunks, so neither a large file nor a
decompression bomb is ever held in memory. Checksums are verified where the format has them: gzip's
CRC-32 and length by zlib, zstd's by its library, lz4's here (FastWARC does not).

Sources: RFC 1952 (gzip), RFC 8878 (zstd), lz4_Frame_format.md 1.6, and the WARC-zstd proposal of
iipc/warc-specifications for dictionaries.
"""

from __future__ import annotations

import copy
import functools
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xxhash
import zstandard
from fastwarc.stream_io import Lz4Reader

from schemas.errors import UserError

STEP = 1 << 16  # how far a reader may be ahead in the file of what it returned
_FRAME_STEP = 1 << 13  # small: a buffer of this size is allocated per frame
_UNPACKED_CHUNK = 1 << 20
_ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"
_UNSUPPORTED = {b"BZh": "a bzip2", b"PK\x03\x04": "a zip (such as WACZ)", b"\xfd7zXZ": "an xz"}

MAX_RATIO = 200  # text compresses 3 to 20 times; zeros, which a bomb is made of, 1,030 times
# Costs and limits of `ReadBudget`. A decompressed byte costs 1 byte, a member or record 1 step.
BYTES_PER_BYTE_SEARCHED, BYTES_PER_BYTE_REREAD = 8, 32
_STEPS_PER_LZ4_READER, _STEPS_PER_BLOCK = 9, 1 / 16
_FREE_STEPS, _FILE_BYTES_PER_STEP = 2048, 64


class DamageError(Exception):
    """Bytes that cannot be read; `torn` where the file ends before the member does."""

    def __init__(self, detail: str, torn: bool = False) -> None:
        super().__init__(detail)
        self.detail, self.torn = detail, torn

    def copy(self) -> DamageError:
        """The same error without its traceback, safe to store.

        A traceback refers to the reader that stores it. Neither would be freed before the next
        garbage collection: gigabytes after thousands of damaged frames.
        """
        return DamageError(self.detail, self.torn)


class ReadBudget:
    """Keeps the time to read a file proportional to its size, whatever the file holds.

    A hostile file makes a reader do much work per byte: bombs, thousands of empty members,
    members nested in each other, damage that is searched again from every offset. Code that does
    such work adds its cost to one of two counters, which have limits:

        counter     cost                                               limit at a position
        num_bytes   1 per byte decompressed (and per compressed byte   `slack` + 200 per byte of
                    of a failed attempt), 8 per byte searched for a    the file
                    record, 32 per byte that will be read again
        num_steps   1 per member, record or possible member tried,     2,048 + 1 per 64 bytes of
                    9 per lz4 reader, 1/16 per block of a frame        the file

    The position is the furthest offset reached, so the limits grow as the file is read. Text
    compresses 3 to 20 times and a record takes over 100 bytes, so that only a file built for it
    exceeds a limit. That is not an error: while `exhausted` is true, expensive choices are replaced
    by cheap ones that may give up a record.

        possible_members        skips candidates closer than the codec's `min_bytes`
        head_of                 reads 4 KiB of a candidate, not up to 256 KiB
        Frame                   is damaged at its next block header
        Stream                  gives up a member at a ratio of 50, not 200, or at one record per
                                40 bytes; does not search a damaged member for others inside it
        records.read_records    skips members shorter than `min_bytes` as one damaged stretch, and
                                trusts or rejects a block's length without reading ahead
    """

    def __init__(self, slack: int) -> None:
        self._slack, self._furthest = slack, 0
        self.num_bytes, self.num_steps = 0, 0.0

    def exhausted(self, position: int) -> bool:
        """Whether reading up to `position` has cost more than its limits."""
        self._furthest = furthest = max(self._furthest, position)
        return (
            self.num_bytes > self._slack + MAX_RATIO * furthest
            or self.num_steps > _FREE_STEPS + furthest / _FILE_BYTES_PER_STEP
        )


class Source:
    """A file read by offset; its size is taken when it is opened."""

    def __init__(self, path: str, slack: int = 256 << 20) -> None:
        self.path = path
        self.budget = ReadBudget(slack)
        self.zstd_dictionary: zstandard.ZstdCompressionDict | None = None
        try:
            self._file = open(path, "rb")  # noqa: SIM115
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise UserError(f"{path}: cannot be opened: {error.strerror}") from None

    @functools.cached_property
    def zstd(self) -> zstandard.ZstdDecompressor:
        """A decompressor for one frame at a time, with the file's dictionary if it has one."""
        dictionary = self.zstd_dictionary
        return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << 28)

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        return os.pread(self._file.fileno(), min(size, max(0, self.size - offset)), offset)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Plain:
    """No compression: the rest of the file is one member."""

    magic = b""
    max_head_bytes = 0  # how much of a possible member `head_of` reads
    min_bytes = 0  # between the starts of two members, once the budget is exhausted

    def __init__(self, source: Source, offset: int) -> None:
        self._source, self.end = source, offset

    @property
    def position(self) -> int:
        """How far the file has been read."""
        return self.end

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end of the file."""
        data = self._source.read_at(self.end, size)
        self.end += len(data)
        return data

    def bookmark(self) -> Callable[[], Plain]:
        """A function that returns a reader at the present place."""
        source, at = self._source, self.end
        return lambda: Plain(source, at)


class Gzip:
    """One gzip member; `end` is known once it has been read to its end."""

    magic = b"\x1f\x8b\x08"
    max_head_bytes = 4096
    min_bytes = 128

    def __init__(self, source: Source, offset: int) -> None:
        self._source, self.position, self._tail = source, offset, b""
        self._inflate = zlib.decompressobj(31)
        self._step = 512  # small at first: the record's header is read before later damage is met
        self.end = offset
        self.must_begin_by = offset + (128 << 10)  # names and comments in a header may never end

    def read(self, size: int) -> bytes:
        """Up to `size` decompressed bytes; b"" once the member's checksum is verified."""
        while not self._inflate.eof:
            compressed = self._tail
            if not compressed:
                compressed = self._source.read_at(self.position, self._step)
                self.position += len(compressed)
                self._step = min(8 * self._step, STEP)
            try:
                data = self._inflate.decompress(compressed, size)
            except zlib.error as error:
                raise DamageError(f"gzip member: {error}") from None
            self._tail = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self.end = self.position - len(self._inflate.unused_data)
            if data:
                self.must_begin_by = self._source.size
                return data
            if not compressed and not self._inflate.eof:
                raise DamageError("the file ends inside a gzip member", torn=True)
            if self.position > self.must_begin_by:
                raise DamageError("gzip member: no data behind its header")
        return b""

    def bookmark(self) -> Callable[[], Gzip]:
        """A function that returns a reader at the present place."""
        return self._copy()._copy  # of a copy, since this reader moves on

    def _copy(self) -> Gzip:
        twin = copy.copy(self)
        twin._inflate = self._inflate.copy()
        return twin


class Frame:
    """One zstd or lz4 frame; its block headers are walked to find where it ends."""

    magic = b""
    max_head_bytes = 256 << 10  # a block decompresses only when all of it was read
    min_bytes = 128

    def __init__(self, source: Source, offset: int) -> None:
        self._source, self._offset, self._num_read = source, offset, 0
        self._section = _FrameBytes(source, offset, self.block_ends(source, offset))
        self._reader = self.open(source, io.BufferedReader(self._section, _FRAME_STEP))

    @property
    def position(self) -> int:
        """How far the file has been read."""
        return self._section.position

    @property
    def end(self) -> int:
        """The offset after the frame; the file's size where the frame is broken off."""
        self._section.walk_to_end()
        return self._source.size if self._section.fault else self._section.known_end

    @staticmethod
    def block_ends(source: Source, offset: int) -> Iterator[int]:
        """The offset after each block of the frame at `offset`; the last is the frame's end.

        Raises `DamageError` where there is no frame, or the file ends inside it.
        """
        raise NotImplementedError

    def open(self, source: Source, section: io.BufferedReader) -> Any:
        """A reader of the decompressed frame, None where nothing is to be decompressed."""
        raise NotImplementedError

    def read(self, size: int) -> bytes:
        """Up to `size` decompressed bytes; b"" at the end of the frame."""
        try:
            data = bytes(self._reader.read(size)) if self._reader else b""
        except (zstandard.ZstdError, OSError, ValueError) as error:
            fault = self._section.fault or DamageError(f"frame: {error}")
            raise fault.copy() from None
        if not data:
            self._section.walk_to_end()
            if self._section.fault:
                raise self._section.fault.copy()
        self._num_read += len(data)
        return data

    def bookmark(self) -> Callable[[], Frame]:
        """A function that returns a reader at the present place, by reading the frame again."""
        num_read = self._num_read

        def reread() -> Frame:
            twin = type(self)(self._source, self._offset)
            while twin._num_read < num_read:
                twin.read(min(1 << 18, num_read - twin._num_read))
            self._source.budget.num_bytes += num_read
            return twin

        return reread


class Zstd(Frame):
    """One zstd frame, or a skippable frame, which decompresses to nothing."""

    magic = b"\x28\xb5\x2f\xfd"

    @staticmethod
    def block_ends(source: Source, offset: int) -> Iterator[int]:
        """Block headers are three bytes, of which bit 0 is 'last', bits 1 and 2 the type."""
        head = source.read_at(offset, 18)
        if _is_skippable(head):
            yield offset + 8 + int.from_bytes(head[4:8], "little")
            return
        try:
            at = offset + zstandard.frame_header_size(head)
            checksum = 4 if zstandard.get_frame_parameters(head).has_checksum else 0
        except zstandard.ZstdError as error:
            raise DamageError(f"zstd frame: {error}", torn=len(head) < 18) from None
        last = False
        while not last:
            block = source.read_at(at, 3)
            if len(block) < 3:
                raise DamageError("the file ends inside a zstd frame", torn=True)
            word = int.from_bytes(block, "little")
            last, kind = bool(word & 1), word >> 1 & 3
            at += 3 + (1 if kind == 1 else word >> 3)
            yield at + (checksum if last else 0)

    def open(self, source: Source, section: io.BufferedReader) -> Any:
        """zstandard's reader, with the file's dictionary if it has one."""
        if section.peek(4)[:4] != self.magic:
            return None
        return source.zstd.stream_reader(section, _FRAME_STEP, False)


class Lz4(Frame):
    """One lz4 frame, decompressed by FastWARC; its checksum of the content is verified here."""

    magic = b"\x04\x22\x4d\x18"
    min_bytes = 1024  # FastWARC's reader takes a quarter of a millisecond to create

    def __init__(self, source: Source, offset: int) -> None:
        self._hash = xxhash.xxh32()
        flags = source.read_at(offset + 4, 1) or b"\0"
        self._has_checksum = bool(flags[0] & 4)
        source.budget.num_steps += _STEPS_PER_LZ4_READER
        super().__init__(source, offset)

    def read(self, size: int) -> bytes:
        """Up to `size` decompressed bytes; b"" once the frame's checksum is verified."""
        data = super().read(size)
        self._hash.update(data)
        if not data and self._has_checksum:
            expected = self._source.read_at(self.end - 4, 4)
            if expected != self._hash.digest()[::-1]:
                raise DamageError("lz4 frame: wrong checksum")
        return data

    @staticmethod
    def block_ends(source: Source, offset: int) -> Iterator[int]:
        """Block sizes are four bytes: the high bit is 'not compressed', 0 the end mark."""
        head = source.read_at(offset, 19)
        flags = head[4] if len(head) > 4 else 0
        size = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
        if head[:4] != Lz4.magic or len(head) < size:
            raise DamageError("no lz4 frame here", torn=len(head) < size)
        if xxhash.xxh32_digest(head[4 : size - 1])[2] != head[size - 1]:
            raise DamageError("lz4 frame: its header is damaged")
        at = offset + size
        block_checksum, content_checksum = (4 if flags & 16 else 0), (4 if flags & 4 else 0)
        while size := int.from_bytes(word := source.read_at(at, 4), "little") & 0x7FFFFFFF:
            at += 4 + size + block_checksum
            yield at
        if len(word) < 4:
            raise DamageError("the file ends inside an lz4 frame", torn=True)
        yield at + 4 + content_checksum

    def open(self, source: Source, section: io.BufferedReader) -> Any:
        """FastWARC's reader on the frame alone."""
        return Lz4Reader(section) if section.peek(4)[:4] == self.magic else None


class _FrameBytes(io.RawIOBase):
    """The compressed bytes of one frame as a stream; blocks are walked only as far as it is read.

    `known_end`: the offset up to which blocks were walked.
    """

    def __init__(self, source: Source, start: int, block_ends: Iterator[int]) -> None:
        self._source, self._start, self._block_ends = source, start, block_ends
        self.position = self.known_end = start
        self.fault: DamageError | None = None

    def walk_block(self) -> bool:
        """Walk one more block; False at the end of the frame or file, and where it is broken."""
        if self.fault is not None:
            return False
        try:
            end = next(self._block_ends, None)
        except DamageError as damage:
            self.fault, self.known_end = damage.copy(), self._source.size
            return False
        if end is None:
            return False
        budget = self._source.budget
        budget.num_steps += _STEPS_PER_BLOCK
        if end > self._source.size:
            self.fault = DamageError("the file ends inside a frame", torn=True)
        elif budget.exhausted(end):
            self.fault = DamageError("more blocks than its size allows")
        self.known_end = min(end, self._source.size)
        return self.fault is None

    def walk_to_end(self) -> None:
        """Walk all blocks that are left."""
        while self.walk_block():
            pass

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            self.walk_to_end()
        origin = (self._start, self.position, self.known_end)[whence]
        self.position = max(self._start, min(origin + offset, self._source.size))
        return self.position - self._start

    def readinto(self, buffer: Any) -> int:
        while self.known_end < self.position + len(buffer) and self.walk_block():
            pass
        size = min(len(buffer), max(0, self.known_end - self.position))
        data = self._source.read_at(self.position, size)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


Member = Plain | Gzip | Frame
Codec = type[Plain] | type[Gzip] | type[Zstd] | type[Lz4]


def codec_of(source: Source) -> Codec:
    """How an archive is compressed, by its first bytes; raises `UserError` if it is unsupported."""
    head = source.read_at(0, 8)
    if not head:
        raise UserError(f"{source.path}: is empty, not a WARC file")
    for magic, name in _UNSUPPORTED.items():
        if head.startswith(magic):
            raise UserError(f"{source.path}: is not a WARC file but {name} file; unpack it first")
    if head[:4] == _ZSTD_DICTIONARY:
        source.zstd_dictionary = _load_dictionary(source)
    if head[:4] == Zstd.magic or _is_skippable(head):
        return Zstd
    codecs: tuple[Codec, ...] = (Gzip, Lz4)
    return next((codec for codec in codecs if head.startswith(codec.magic)), Plain)


def _load_dictionary(source: Source) -> zstandard.ZstdCompressionDict:
    """The dictionary in the file's first, skippable frame; it may itself be compressed."""
    size = min(int.from_bytes(source.read_at(4, 4), "little"), 1 << 24)
    data = source.read_at(8, size)
    try:
        if data.startswith(Zstd.magic):
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 24)
        return zstandard.ZstdCompressionDict(data)
    except zstandard.ZstdError as error:
        raise UserError(f"{source.path}: its zstd dictionary cannot be read: {error}") from None


def _is_skippable(head: bytes) -> bool:
    """Whether `head` starts a zstd frame that holds no data of the archive."""
    return head[1:4] == _ZSTD_DICTIONARY[1:] and head[0] >> 4 == 5


def head_of(source: Source, codec: Codec, offset: int, size: int = 16) -> bytes | None:
    """The first `size` bytes that the member at `offset` decompresses to, without blank lines.

    Fewer where the member is shorter or damaged; None where nothing can be read.
    """
    head, member, budget = b"", codec(source, offset), source.budget
    budget.num_steps += 1
    max_bytes = 4096 if budget.exhausted(offset) else codec.max_head_bytes
    if isinstance(member, Gzip):
        member.must_begin_by = offset + max_bytes
    try:  # faster than contextlib.suppress
        while len(head) < size and member.position - offset <= max_bytes:
            data = member.read(max(64, size - len(head)))
            budget.num_bytes += len(data)
            if not data:
                return head.lstrip(b"\r\n")
            head += data
    except DamageError:
        pass
    if len(head) >= size:
        return head.lstrip(b"\r\n")
    budget.num_bytes += member.position - offset
    return head.lstrip(b"\r\n") or None


def possible_members(source: Source, codec: Codec, offset: int) -> Iterator[int]:
    """Offsets from `offset` on at which a member may start, by its magic number."""
    overlap = max(0, len(codec.magic) - 1)
    closest, size = 0, 1024
    while offset < source.size:
        block = source.read_at(offset, size := min(4 * size, 1 << 20))
        at = block.find(codec.magic)
        while at >= 0:
            if offset + at >= closest or not source.budget.exhausted(offset + at):
                closest = offset + at + codec.min_bytes
                yield offset + at
            at = block.find(codec.magic, at + 1)
        offset += max(1, len(block) - overlap)


CODECS: dict[str, Codec] = {"": Plain, ".gz": Gzip, ".zst": Zstd}  # by a file name's ending


def unpacked(path: Path) -> Iterator[bytes]:
    """The decompressed bytes of a `.gz`, `.zst` or plain file, in chunks of up to 1 MiB.

    Raises `DamageError` where the file is torn or altered.
    """
    codec, offset = CODECS.get(path.suffix, Plain), 0
    with Source(str(path)) as source:
        while offset < source.size:
            member = codec(source, offset)
            while chunk := member.read(_UNPACKED_CHUNK):
                yield chunk
            offset = member.end
