"""Lists of domains, URLs and words in files: one entry a line, `#` before a comment.

A list is a text file (UTF-8), the same compressed (`.gz`), or what the University of Toulouse
publishes (UT1, https://dsi.ut-capitole.fr/blacklists/): a folder a category with files `domains`
and `urls`, as a folder or a `.tar`, `.tar.gz` or `.tgz`. Of a folder or an archive all files of the
wanted name are read, at any depth; archives are read as streams and never unpacked to disk.

A list is an input of somebody else's: what it may unpack to, and the length of a line, are bounded.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO, cast

from schemas.errors import UserError

_ARCHIVES = (".tar", ".tar.gz", ".tgz")
# UT1's largest list, 4.6 million domains, has 100 MB; URLs longer than this are in no list.
MAX_LIST_BYTES = 2 << 30
MAX_LINE_CHARS = 1 << 16
_MAX_READ = 1 << 20  # at once: tarfile reads a member's extended headers whole
_GZIP = b"\x1f\x8b"

# An entry in another encoding can match nothing; it is no reason to refuse a million others.
_ENCODING, _ERRORS = "utf-8-sig", "replace"


def entries(path: str, name: str) -> Iterator[str]:
    """The entries of the list at `path`, stripped, in the files' order.

    `name` is the setting that names the list, and the name of the wanted files in a folder or an
    archive. Raises `UserError` naming both where the list cannot be read or is not text.
    """
    found = False
    with _named_errors(path, name):
        for file in _texts(Path(path), name):
            found = True
            yield from _entries_of(file)
        if not found:
            raise ValueError(f"it holds no file called {name!r}")


def sha256(path: str, name: str) -> str:
    """SHA-256 (hex) of the list's bytes on disk; of a folder, of its files called `name`."""
    digest = hashlib.sha256()
    with _named_errors(path, name):
        for file in _files(Path(path), name):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


@contextmanager
def _named_errors(path: str, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"url.{name} = {path!r}: not a readable list: {reason}") from None


def _files(path: Path, name: str) -> list[Path]:
    return sorted(p for p in path.rglob(name) if p.is_file()) if path.is_dir() else [path]


def _texts(path: Path, name: str) -> Iterator[TextIO]:
    if path.name.endswith(_ARCHIVES):
        yield from _members(path, name)
        return
    for file in _files(path, name):
        with _open(file, unpack=file.suffix == ".gz") as stream:
            yield _text(stream)


def _members(path: Path, name: str) -> Iterator[TextIO]:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    with _open(path, packed) as stream, _archive(stream) as archive:
        for member in archive:
            if member.size < 0:  # tarfile would look for the next one before it, again and again
                raise ValueError(f"its member {member.name!r} has {member.size} bytes")
            wanted = member.isfile() and PurePosixPath(member.name).name == name
            content = archive.extractfile(member) if wanted else None
            if content:
                yield _text(cast(BinaryIO, content))
            cast(Any, archive).members.clear()  # tarfile would remember all of them


def _archive(stream: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:")
    except tarfile.ReadError as error:
        raise ValueError(f"it could not be opened as an archive: {error}") from None


def _open(path: Path, unpack: bool) -> BinaryIO:
    return cast(BinaryIO, _Bounded(gzip.GzipFile(path) if unpack else path.open("rb")))


def _text(stream: BinaryIO) -> TextIO:
    return io.TextIOWrapper(stream, encoding=_ENCODING, errors=_ERRORS)


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more than `MAX_LIST_BYTES`, or very much at once."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise ValueError(f"it has a header of {size} bytes, at most {_MAX_READ} are read")
        found = self._stream.read(size)
        self._check(self._stream.tell())
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(min(len(buffer), _MAX_READ))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._check(offset)  # before a packed stream is read as far
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _check(self, end: int) -> None:
        if end > MAX_LIST_BYTES:
            raise ValueError(f"it unpacks to over {MAX_LIST_BYTES} bytes")


def _entries_of(file: TextIO) -> Iterator[str]:
    begun, at_end = "", False
    while not at_end:
        piece = file.read(MAX_LINE_CHARS)
        if "\0" in piece:
            raise ValueError("it holds a NUL, so it is not text")
        *lines, begun = (begun + piece).split("\n")
        if len(begun) > MAX_LINE_CHARS:
            raise ValueError(f"it has a line of over {MAX_LINE_CHARS} characters")
        if at_end := not piece:
            lines.append(begun)
        for entry in map(str.strip, lines):
            if entry and not entry.startswith("#"):
                yield entry
