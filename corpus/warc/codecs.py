"""Members of a compressed file: gzip members, zstd frames, lz4 frames, each read by itself.

Every reader starts at an offset in the file and gives bounded pieces of what is there, so that
neither a large file nor a bomb is ever held whole. Checksums are verified where the format has
them: gzip's CRC-32 and length by zlib, zstd's by its library, lz4's here (FastWARC does not).

Formats: RFC 1952 (gzip), RFC 8878 (zstd), lz4_Frame_format.md 1.6, and the WARC-zstd proposal of
iipc/warc-specifications for dictionaries.

Files of a user's that may be packed by gzip or zstd, told by their ending; read in pieces.
"""

from __future__ import annotations

import copy
import functools
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash
import zstandard
from fastwarc.stream_io import Lz4Reader

from schemas.errors import UserError

MAX_RATIO = 200  # text compresses 3 to 20 times; zeros, which a bomb is made of, 1,030 times
_FREE_STEPS, _BYTES_PER_STEP, _STEPS_PER_BLOCK = 2048, 64, 1 / 16
STEP = 1 << 16  # how far a reader may be ahead in the file of what it gave
_FRAME_STEP = 1 << 13  # small, so that where frames are many, no new memory is asked for each
_ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"
_OTHERS = {b"BZh": "bzip2", b"PK\x03\x04": "a zip, as WACZ is", b"\xfd7zXZ": "xz"}


class DamageError(Exception):
    """Bytes that cannot be read; `torn` where the file ends before the member does."""

    def __init__(self, detail: str, torn: bool = False) -> None:
        super().__init__(detail)
        self.detail, self.torn = detail, torn

    def copy(self) -> DamageError:
        """The same without its traceback, to be kept.

        A traceback refers to the reader that would keep it, so neither would be freed until the
        garbage collector comes: after thousands of damaged frames, gigabytes.
        """
        return DamageError(self.detail, self.torn)


class Effort:
    """What reading a file may cost, so that no file takes more time than its size earns.

    Two sums, which grow with the position reached in the file: decompressed bytes (`slack`, and
    200 for each byte of the file; a byte that is searched or read again counts more) and steps,
    each a member, record or possible member looked at (2,048, and one for 64 bytes). Archives
    decompress to 3 to 20 times their size, and a record takes 100 bytes and more, so only files
    made for it run out; what happens then is told where `exhausted` is asked.
    """

    def __init__(self, slack: int) -> None:
        self._slack, self._reached = slack, 0
        self.num_bytes, self.steps = 0, 0.0

    def exhausted(self, position: int) -> bool:
        """Whether more was spent than a file read up to `position` earns."""
        self._reached = reached = max(self._reached, position)
        return (
            self.num_bytes > self._slack + MAX_RATIO * reached
            or self.steps > _FREE_STEPS + reached / _BYTES_PER_STEP
        )


class Source:
    """A file read by offset; its size is what it was when it was opened."""

    def __init__(self, path: str, slack: int = 256 << 20) -> None:
        self.path = path
        self.effort = Effort(slack)
        self.zstd_dictionary: zstandard.ZstdCompressionDict | None = None
        try:
            self._file = open(path, "rb")  # noqa: SIM115
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise UserError(f"{path}: cannot be opened: {error.strerror}") from None

    @functools.cached_property
    def zstd(self) -> zstandard.ZstdDecompressor:
        """For one frame at a time; it knows the file's dictionary, if there is one."""
        dictionary = self.zstd_dictionary
        return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << 28)

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        return os.pread(self._file.fileno(), min(size, max(0, self.size - offset)), offset)

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()


class Plain:
    """No compression: the rest of the file is one member."""

    magic = b""
    max_head_bytes = 0  # how far what may be a member is read to see how it begins
    min_bytes = 0  # between the starts of two members, once the file's effort is exhausted

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
        """What gives a reader that goes on from here."""
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
        self._step = 512  # small at first: where damage follows, the record's header is still read
        self.end = offset
        self.must_begin_by = offset + (128 << 10)  # names and comments in a header may never end

    def read(self, size: int) -> bytes:
        """Up to `size` decompressed bytes; b"" once the member's checksum was found right."""
        while not self._inflate.eof:
            compressed = self._tail or self._feed()
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
        """What gives a reader that goes on from here."""
        here = self._twin()
        return here._twin

    def _twin(self) -> Gzip:
        twin = copy.copy(self)
        twin._inflate = self._inflate.copy()
        return twin

    def _feed(self) -> bytes:
        data = self._source.read_at(self.position, self._step)
        self.position, self._step = self.position + len(data), min(8 * self._step, STEP)
        return data


class Frame:
    """One zstd or lz4 frame; its block headers are walked over to know where it ends."""

    magic = b""
    max_head_bytes = 256 << 10  # of a block nothing is given before all was read
    min_bytes = 128

    def __init__(self, source: Source, offset: int) -> None:
        self._source, self._offset, self._num_read = source, offset, 0
        self._section = _Section(source, offset, self.walk(source, offset))
        self._reader = self.open(source, io.BufferedReader(self._section, _FRAME_STEP))

    @property
    def position(self) -> int:
        """How far the file has been read."""
        return self._section.position

    @property
    def end(self) -> int:
        """The offset after the frame; the file's size where the frame is broken off."""
        self._section.walk_to_end()
        return self._source.size if self._section.fault else self._section.known

    @staticmethod
    def walk(source: Source, offset: int) -> Iterator[int]:
        """Offsets up to which the frame at `offset` goes at least; the last is its end.

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
        """What gives a reader that goes on from here, by reading the frame up to here again."""
        num_read = self._num_read

        def again() -> Frame:
            twin = type(self)(self._source, self._offset)
            while twin._num_read < num_read:
                twin.read(min(1 << 18, num_read - twin._num_read))
            self._source.effort.num_bytes += num_read
            return twin

        return again


class Zstd(Frame):
    """One zstd frame, or a skippable frame, which decompresses to nothing."""

    magic = b"\x28\xb5\x2f\xfd"

    @staticmethod
    def walk(source: Source, offset: int) -> Iterator[int]:
        """Over block headers: three bytes, of which bit 0 is 'last', bits 1 and 2 the type."""
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
        """A reader that knows the file's dictionary, if it has one."""
        if section.peek(4)[:4] != self.magic:
            return None
        return source.zstd.stream_reader(section, _FRAME_STEP, False)


class Lz4(Frame):
    """One lz4 frame, decompressed by FastWARC; its checksum of the content is verified here."""

    magic = b"\x04\x22\x4d\x18"
    min_bytes = 1024  # FastWARC's reader takes a quarter of a millisecond to make

    def __init__(self, source: Source, offset: int) -> None:
        self._hash = xxhash.xxh32()
        flags = source.read_at(offset + 4, 1) or b"\0"
        self._has_checksum = bool(flags[0] & 4)
        source.effort.steps += 9
        super().__init__(source, offset)

    def read(self, size: int) -> bytes:
        """Up to `size` decompressed bytes; b"" once the frame's checksum was found right."""
        data = super().read(size)
        self._hash.update(data)
        if not data and self._has_checksum:
            expected = self._source.read_at(self.end - 4, 4)
            if expected != self._hash.digest()[::-1]:
                raise DamageError("lz4 frame: wrong checksum")
        return data

    @staticmethod
    def walk(source: Source, offset: int) -> Iterator[int]:
        """Over block sizes: four bytes each, the high bit 'not compressed', 0 the end mark."""
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


class _Section(io.RawIOBase):
    """The bytes of a frame as a stream; its blocks are walked over only as far as it is read."""

    def __init__(self, source: Source, start: int, walk: Iterator[int]) -> None:
        self._source, self._start, self._walk = source, start, walk
        self.position = self.known = start
        self.fault: DamageError | None = None

    def walk_on(self) -> bool:
        """Know one more block; False at the end of the frame or file, and where it is broken."""
        if self.fault is not None:
            return False
        try:
            known = next(self._walk, None)
        except DamageError as damage:
            self.fault, self.known = damage.copy(), self._source.size
            return False
        if known is None:
            return False
        effort = self._source.effort
        effort.steps += _STEPS_PER_BLOCK
        if known > self._source.size:
            self.fault = DamageError("the file ends inside a frame", torn=True)
        elif effort.exhausted(known):
            self.fault = DamageError("more blocks than its size allows")
        self.known = min(known, self._source.size)
        return self.fault is None

    def walk_to_end(self) -> None:
        """Know all that there is of the frame."""
        while self.walk_on():
            pass

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            self.walk_to_end()
        origin = (self._start, self.position, self.known)[whence]
        self.position = max(self._start, min(origin + offset, self._source.size))
        return self.position - self._start

    def readinto(self, buffer: Any) -> int:
        while self.known < self.position + len(buffer) and self.walk_on():
            pass
        size = min(len(buffer), max(0, self.known - self.position))
        data = self._source.read_at(self.position, size)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


Member = Plain | Gzip | Frame
Codec = type[Plain] | type[Gzip] | type[Zstd] | type[Lz4]


def codec_of(source: Source) -> Codec:
    """How the file is compressed, by its first bytes; raises `UserError` for what is not read."""
    head = source.read_at(0, 8)
    if not head:
        raise UserError(f"{source.path}: is empty, not a WARC file")
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise UserError(f"{source.path}: is not a WARC file ({name}, which is not read)")
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
    """Whether a zstd frame that holds no data of the archive starts with `head`."""
    return head[1:4] == _ZSTD_DICTIONARY[1:] and head[0] >> 4 == 5


def head_of(source: Source, codec: Codec, offset: int, size: int = 16) -> bytes | None:
    """What the member at `offset` decompresses to at its start, or None if there is none."""
    head, member, effort = b"", codec(source, offset), source.effort
    effort.steps += 1
    max_bytes = 4096 if effort.exhausted(offset) else codec.max_head_bytes
    if isinstance(member, Gzip):
        member.must_begin_by = offset + max_bytes
    try:
        while len(head) < size and member.position - offset <= max_bytes:
            data = member.read(max(64, size - len(head)))
            effort.num_bytes += len(data)
            if not data:
                return head.lstrip(b"\r\n")
            head += data
    except DamageError:
        pass
    else:
        if len(head) >= size:
            return head.lstrip(b"\r\n")
    effort.num_bytes += member.position - offset
    return head.lstrip(b"\r\n") or None


def possible_members(source: Source, codec: Codec, offset: int) -> Iterator[int]:
    """Where at or after `offset` a member may start, by its magic number.

    Once the file's effort is exhausted, those that stand too close to the one before are not given.
    """
    overlap = max(0, len(codec.magic) - 1)
    closest, size = 0, 1024
    while offset < source.size:
        block = source.read_at(offset, size := min(4 * size, 1 << 20))
        at = block.find(codec.magic)
        while at >= 0:
            if offset + at >= closest or not source.effort.exhausted(offset + at):
                closest = offset + at + codec.min_bytes
                yield offset + at
            at = block.find(codec.magic, at + 1)
        offset += max(1, len(block) - overlap)


CODECS: dict[str, Codec] = {"": Plain, ".gz": Gzip, ".zst": Zstd}
_STEP = 1 << 20


def unpacked(path: Path) -> Iterator[bytes]:
    """What the file holds, in pieces; raises `DamageError` where it is torn or altered."""
    codec, offset = CODECS.get(path.suffix, Plain), 0
    with Source(str(path)) as source:
        while offset < source.size:
            member = codec(source, offset)
            while piece := member.read(_STEP):
                yield piece
            offset = member.end
