"""Lists of domains, URLs and words in files: one entry a line, `#` before a comment.

A list is a text file (UTF-8), the same compressed (`.gz`), or what the University of Toulouse
publishes (UT1, https://dsi.ut-capitole.fr/blacklists/): a folder a category with files `domains`
and `urls`, as a folder or a `.tar`, `.tar.gz` or `.tgz`. Of a folder or an archive all files of the
wanted name are read, at any depth; archives are read as streams and never unpacked to disk.
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
from typing import TextIO

from schemas.errors import UserError

_ARCHIVES = (".tar", ".tar.gz", ".tgz")
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
        open_ = gzip.open if file.suffix == ".gz" else open
        with open_(file, "rt", encoding=_ENCODING, errors=_ERRORS) as text:
            yield text


def _members(path: Path, name: str) -> Iterator[TextIO]:
    with tarfile.open(path) as archive:
        for member in archive:
            wanted = member.isfile() and PurePosixPath(member.name).name == name
            stream = archive.extractfile(member) if wanted else None
            if stream:
                yield io.TextIOWrapper(stream, encoding=_ENCODING, errors=_ERRORS)


def _entries_of(file: TextIO) -> Iterator[str]:
    for line in file:
        if "\0" in line:
            raise ValueError("it holds a NUL, so it is not text")
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield entry
