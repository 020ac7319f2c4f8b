"""Files of chat datasets, row by row: JSON lines or one JSON array, also .gz and .zst.

What a file starts with decides which it is, not its name. An array is cut into its elements by
brackets outside of strings, before any is parsed: one damaged element costs only itself, and no
more than a row is held. What stands between elements and is no comma comes out as a row too, so
that every byte is in a row, a blank or a comma. Cost: a regular expression over the bytes.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpus.warc.codecs import CODECS, DamageError, unpacked
from schemas.errors import UserError

KINDS = tuple(f"{kind}{ending}" for kind in (".jsonl", ".json") for ending in CODECS)
MAX_ROW_BYTES = 64 << 20

_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
# A whole string, a bracket, or the quote of a string that goes on beyond what was read.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.S)


@dataclass(frozen=True)
class Row:
    """One row's JSON, the line that it starts in (from 1), its offset in the unpacked file."""

    line: int
    offset: int
    data: bytes


def resolve(patterns: Sequence[str]) -> tuple[Path, ...]:
    """All input files, by name; `UserError` names what is missing, of another kind, or doubled."""
    named: dict[str, Path] = {}
    for path in (path for pattern in patterns for path in _expand(pattern)):
        other = named.setdefault(path.name, path)
        if other.absolute() != path.absolute():
            raise UserError(f"--input: {other} and {path} have one name, by which tokens are "
                            "traced to their file; rename one")  # fmt: skip
    return tuple(named[name] for name in sorted(named))


def _expand(pattern: str) -> list[Path]:
    found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    if not found:
        kind = "no file matches" if glob.has_magic(pattern) else "no such file"
        raise UserError(f"--input {pattern}: {kind}")
    for path in map(Path, found):
        if path.is_dir():
            raise UserError(f"--input {path}: is a folder; name files, e.g. {path}/*.jsonl")
        if not path.name.endswith(KINDS):
            kinds = ", ".join(f"*{kind}" for kind in KINDS)
            raise UserError(f"--input {path}: must be one of {kinds}")
    return [Path(path) for path in found]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file in order; blank lines are none.

    Raises `UserError` for a file that is torn, altered or not to be read, and for a row of more
    than 64 MiB, naming its line.
    """
    try:
        yield from rows_of(unpacked(path))
    except (OSError, DamageError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except _TooBigError as error:
        raise UserError(
            f"{path}: line {error}: a row of more than {MAX_ROW_BYTES >> 20} MiB"
        ) from None


def rows_of(pieces: Iterator[bytes]) -> Iterator[Row]:
    """The rows of a file's content, which comes in pieces of any size."""
    first = _start(pieces)
    skipped = len(_BOM) if first.startswith(_BOM) else 0
    content = itertools.chain([first[skipped:]], pieces)
    is_array = first[skipped:].lstrip(_BLANKS).startswith(b"[")
    for row in _elements(content) if is_array else _lines(content):
        yield Row(row.line, row.offset + skipped, row.data)


def _start(pieces: Iterator[bytes]) -> bytes:
    """As much of the content as shows a byte order mark and what comes after it and blanks."""
    first = b""
    for piece in pieces:
        first += piece
        if len(first) >= len(_BOM) and first.removeprefix(_BOM).strip(_BLANKS):
            break
    return first


class _TooBigError(Exception):
    """A row over the limit; holds its line."""


def _lines(pieces: Iterator[bytes]) -> Iterator[Row]:
    line, offset = 1, 0
    for data in _split(pieces):
        if data is None or len(data) > MAX_ROW_BYTES:
            raise _TooBigError(line)
        if data.strip(_BLANKS):
            yield Row(line, offset, data)
        line, offset = line + 1, offset + len(data) + 1


def _split(pieces: Iterator[bytes]) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that grows beyond the limit."""
    begun: list[bytes] = []
    for piece in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        for other in others:
            yield b"".join(begun)
            begun = [other]
        if sum(map(len, begun)) > MAX_ROW_BYTES:
            yield None
    yield b"".join(begun)


class _Window:
    """The part of an array that is held: from the end of the last row given out on."""

    def __init__(self) -> None:
        self.data = b""
        self._begin, self._line, self._offset = 0, 1, 0  # of what was not given out

    def add(self, piece: bytes) -> int:
        """Put `piece` behind what was not given out; by how much positions move forward."""
        moved, self._begin = self._begin, 0
        self.data = self.data[moved:] + piece
        if len(self.data) - len(piece) > MAX_ROW_BYTES:
            raise _TooBigError(self._line)
        return moved

    def take(self, end: int) -> Row:
        """Give out what stands before `end` as a row, without blanks and commas around it."""
        taken = self.data[self._begin : end]
        start = len(taken) - len(taken.lstrip(_BLANKS + b","))
        row = Row(self._line + taken.count(b"\n", 0, start), self._offset + start,
                  taken[start:].rstrip(_BLANKS + b","))  # fmt: skip
        self._line, self._offset = self._line + taken.count(b"\n"), self._offset + len(taken)
        self._begin = end
        return row


def _elements(pieces: Iterator[bytes]) -> Iterator[Row]:
    """The elements of an array that are objects or lists, and whatever else stands there."""
    window, depth, at = _Window(), 0, 0
    for piece in pieces:
        at -= window.add(piece)
        while (mark := _MARK.search(window.data, at)) and mark[0] != b'"':
            at = mark.end()
            depth, end = _step(mark, depth)
            if end is not None and (row := window.take(end)).data not in (b"", b"[", b"]"):
                yield row
        at = mark.start() if mark else len(window.data)
    rest = window.take(len(window.data))
    if rest.data or depth:
        yield rest


def _step(mark: re.Match[bytes], depth: int) -> tuple[int, int | None]:
    """The depth after a mark, and where a row ends by it, if one does."""
    if mark[0] in (b"]", b"}"):
        return depth - 1, mark.end() if depth in (1, 2) else None
    if mark[0] in (b"[", b"{"):
        ends = {0: mark.end(), 1: mark.start()}  # the array's own bracket; what no element holds
        return depth + 1, ends.get(depth)
    return depth, None
