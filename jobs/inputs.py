"""Which WARC files a run reads: paths, globs, or lists of paths as Common Crawl has them."""

from __future__ import annotations

import glob
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from corpus import warc
from schemas.errors import UserError

# Bytes at either end of a file that identify it, with its size: reading whole files twice would
# double the input of a run, and archives are written once.
_IDENTITY_BYTES = 64 * 1024


@dataclass(frozen=True)
class WarcFile:
    """An input: where it is, the name that keys its rows, its size, and what identifies it."""

    path: str
    file_path: str
    size: int
    identity: str


def resolve(patterns: tuple[str, ...]) -> list[WarcFile]:
    """All input files, by name; `UserError` names what is missing, empty, doubled or no WARC."""
    files = [_describe(path) for pattern in patterns for path in _expand(pattern)]
    by_name: dict[str, WarcFile] = {}
    for file in files:
        same = by_name.setdefault(file.file_path, file)
        if same.path != file.path:
            raise UserError(
                f"--input: {same.path} and {file.path} would both be '{file.file_path}' in the "
                "corpus; rename one"
            )
    return [by_name[name] for name in sorted(by_name)]


def _expand(pattern: str) -> list[str]:
    if "://" in pattern:
        raise UserError(f"--input {pattern}: only paths of a mounted file system are read")
    path = Path(pattern)
    if path.name.endswith((".paths", ".paths.gz")):
        return _read_list(path)
    if path.exists():
        if path.is_dir():
            raise UserError(f"--input {pattern}: is a folder; name files, e.g. {pattern}/*.warc.gz")
        return [str(path)]
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (absolute patterns)
    if not found:
        kind = "no file matches" if glob.has_magic(pattern) else "no such file"
        raise UserError(f"--input {pattern}: {kind}")
    return found


def _read_list(path: Path) -> list[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--input {path}: not a readable list of paths: {error}") from None
    if not lines:
        raise UserError(f"--input {path}: lists no file")
    return [str(path.parent / line) for line in lines]


def _describe(path: str) -> WarcFile:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"--input {path!r}: its name is not UTF-8, and names of files are stored as text; "
            "rename it"
        ) from None
    try:
        size = Path(path).stat().st_size
        with open(path, "rb") as file:
            head = file.read(_IDENTITY_BYTES)
            file.seek(max(0, size - _IDENTITY_BYTES))
            tail = file.read(_IDENTITY_BYTES)
    except OSError as error:
        raise UserError(f"--input {path}: cannot be read: {error.strerror}") from None
    warc.check_format(path)
    identity = hashlib.sha256(b"%d:" % size + head + tail).hexdigest()
    return WarcFile(str(Path(path).absolute()), _file_path(path), size, identity)


def _file_path(path: str) -> str:
    # Common Crawl's own name of a file starts at crawl-data/, wherever it was mounted.
    _, mark, rest = path.rpartition("crawl-data/")
    return mark + rest if mark else Path(path).name
