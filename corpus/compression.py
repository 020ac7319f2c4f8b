"""Members of a compressed file: gzip members, zstd frames, lz4 frames, each read by itself.

Every reader starts at an offset in the file and gives bounded pieces of what is there, so that
neither a large file nor a bomb is ever held whole. Checksums are verified where the format has
them: gzip's CRC-32 and length by zlib, zstd's by its library, lz4's here (FastWARC does not).

Formats: RFC 1952 (gzip), RFC 8878 (zstd), lz4_Frame_format.md 1.6, and the WARC-zstd proposal of
iipc/warc-specifications for dictionaries.
"""

from __future__ import annotations

import io
import os
import zlib
from types import TracebackType
from typing import Any

import xxhash
import zstandard
from fastwarc.stream_io import Lz4Reader

from schemas.errors import UserError

_STEP = 1 << 16
_SKIPPABLE = (b"\x50\x2a\x4d\x18", b"\x5f\x2a\x4d\x18")
_ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"
_OTHERS = {b"BZh": "bzip2", b"PK\x03\x04": "a zip, as WACZ is", b"\xfd7zXZ": "xz"}


class DamageError(Exception):
    """Bytes that cannot be read; `torn` where the file ends before the member does."""

    def __init__(self, detail: str, torn: bool = False) -> None:
        super().__init__(detail)
        self.detail, self.torn = detail, torn


class Source:
    """A file read by offset; its size is what it was when it was opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.zstd_dictionary: zstandard.ZstdCompressionDict | None = None
        try:
            self._file = open(path, "rb")  # noqa: SIM115
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise UserError(f"{path}: cannot be opened: {error.strerror}") from None

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


class Gzip:
    """One gzip member; `end` is known once it has been read to its end."""

    magic = b"\x1f\x8b\x08"

    def __init__(self, source: Source, offset: int) -> None:
        self._source, self.position, self._tail = source, offset, b""
        self._inflate = zlib.decompressobj(31)
        self._step = 512  # small at first: where damage follows, the record's header is still read
        self.end = offset

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
                return data
            if not compressed and not self._inflate.eof:
                raise DamageError("the file ends inside a gzip member", torn=True)
        return b""

    def _feed(self) -> bytes:
        data = self._source.read_at(self.position, self._step)
        self.position, self._step = self.position + len(data), _STEP
        return data


class Frame:
    """One zstd or lz4 frame. Its end is found first, by walking over its block headers."""

    magic = b""

    def __init__(self, source: Source, offset: int) -> None:
        try:
            self.end = self.walk(source, offset)
            self._torn = self.end > source.size
        except DamageError as damage:
            self.end, self._torn = source.size, damage.torn
            self._fault: DamageError | None = damage
        else:
            self._fault = (
                DamageError("the file ends inside a frame", torn=True) if self._torn else None
            )
        self.end = min(self.end, source.size)
        self._section = _Section(source, offset, self.end)
        self._reader = self.open(source, io.BufferedReader(self._section, _STEP))

    @property
    def position(self) -> int:
        """How far the file has been read."""
        return self._section.position

    def walk(self, source: Source, offset: int) -> int:
        """The offset after the frame at `offset`; raises `DamageError` where there is none."""
        raise NotImplementedError

    def open(self, source: Source, section: io.BufferedReader) -> Any:
        """A reader of the decompressed frame."""
        raise NotImplementedError

    def read(self, size: int) -> bytes:
        """Up to `size` decompressed bytes; b"" at the end of the frame."""
        try:
            data = bytes(self._reader.read(size)) if self._reader else b""
        except (zstandard.ZstdError, OSError, ValueError) as error:
            raise self._fault or DamageError(f"frame: {error}") from None
        if not data and self._fault:
            raise self._fault
        return data


class Zstd(Frame):
    """One zstd frame, or a skippable frame, which decompresses to nothing."""

    magic = b"\x28\xb5\x2f\xfd"

    def walk(self, source: Source, offset: int) -> int:
        """Over block headers: three bytes, of which bit 0 is 'last', bits 1 and 2 the type."""
        head = source.read_at(offset, 18)
        if _SKIPPABLE[0] <= head[:4] <= _SKIPPABLE[1] and head[1:4] == _SKIPPABLE[0][1:]:
            return offset + 8 + int.from_bytes(head[4:8], "little")
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
        return at + checksum

    def open(self, source: Source, section: io.BufferedReader) -> Any:
        """A reader that knows the file's dictionary, if it has one."""
        if section.peek(4)[:4] != self.magic:
            return None
        dictionary = source.zstd_dictionary
        decompressor = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << 28)
        return decompressor.stream_reader(section, read_across_frames=False)


class Lz4(Frame):
    """One lz4 frame, decompressed by FastWARC; its checksum of the content is verified here."""

    magic = b"\x04\x22\x4d\x18"

    def __init__(self, source: Source, offset: int) -> None:
        self._hash, self._expected = xxhash.xxh32(), b""
        super().__init__(source, offset)

    def read(self, size: int) -> bytes:
        """Up to `size` decompressed bytes; b"" once the frame's checksum was found right."""
        data = super().read(size)
        self._hash.update(data)
        if not data and self._expected not in (b"", self._hash.digest()[::-1]):
            raise DamageError("lz4 frame: wrong checksum")
        return data

    def walk(self, source: Source, offset: int) -> int:
        """Over block sizes: four bytes each, the high bit 'not compressed', 0 the end mark."""
        head = source.read_at(offset, 6)
        if head[:4] != self.magic:
            raise DamageError("no lz4 frame here", torn=len(head) < 6)
        flags = head[4] if len(head) > 4 else 0
        at = offset + 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
        block_checksum, content_checksum = (4 if flags & 16 else 0), (4 if flags & 4 else 0)
        while size := int.from_bytes(word := source.read_at(at, 4), "little") & 0x7FFFFFFF:
            at += 4 + size + block_checksum
        if len(word) < 4:
            raise DamageError("the file ends inside an lz4 frame", torn=True)
        self._expected = source.read_at(at + 4, content_checksum)
        return at + 4 + content_checksum

    def open(self, source: Source, section: io.BufferedReader) -> Any:
        """FastWARC's reader on the frame alone."""
        return Lz4Reader(section) if section.peek(4)[:4] == self.magic else None


class _Section(io.RawIOBase):
    """The bytes of a file between two offsets, as a stream."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source, self._start, self._end = source, start, end
        self.position = start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = (self._start, self.position, self._end)[whence]
        self.position = max(self._start, min(origin + offset, self._end))
        return self.position - self._start

    def readinto(self, buffer: Any) -> int:
        data = self._source.read_at(self.position, min(len(buffer), self._end - self.position))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


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
    if head[:4] == Zstd.magic or (head[1:4] == _SKIPPABLE[0][1:] and head[0] >> 4 == 5):
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


def head_of(source: Source, codec: Codec, offset: int) -> bytes | None:
    """What the member at `offset` decompresses to at its start, or None if there is none."""
    try:
        member = codec(source, offset)
        head = b""
        while len(head) < 16 and (data := member.read(64)):
            head += data
    except DamageError:
        return head.lstrip(b"\r\n") or None
    return head.lstrip(b"\r\n")


def next_member(source: Source, codec: Codec, offset: int, start: bytes) -> int:
    """The first member at or after `offset` that decompresses to `start`, or the file's size."""
    while offset < source.size:
        block = source.read_at(offset, 1 << 20)
        at = block.find(codec.magic)
        if at < 0:
            offset += max(1, len(block) - len(codec.magic) + 1)
            continue
        if (head_of(source, codec, offset + at) or b"").startswith(start):
            return offset + at
        offset += at + 1
    return source.size
