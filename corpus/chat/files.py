"""Files of chat datasets, row by row: JSON lines or one JSON array, also .gz and .zst.

The first bytes of a file decide which it is, not its name. An array is cut into elements at
brackets outside of strings before any is parsed: a damaged element costs only itself, and at most
one row is held. Text between elements that is no comma is returned as a row too, so that every byte
is in a row, blank or comma. Cost: one regular expression over the bytes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpus.warc.codecs import CODECS, DamageError, unpacked
from schemas.errors import UserError
from schemas.names import matching_files

KINDS = tuple(f"{kind}{ending}" for kind in (".jsonl", ".json") for ending in CODECS)
MAX_ROW_BYTES = 64 << 20

_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
# A whole string, a bracket, or the quote of a string whose end was not read yet.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.S)


@dataclass(frozen=True)
class RawRow:
    """A row's JSON, the line that it starts in (from 1), its offset in the unpacked file."""

    line: int
    offset: int
    data: bytes


def resolve(patterns: Sequence[str]) -> tuple[Path, ...]:
    """All input files, by name.

    `UserError` names what is missing, of another kind, or has the same name as another.
    """
    named: dict[str, Path] = {}
    for path in matching_files("--input", patterns, KINDS):
        other = named.setdefault(path.name, path)
        if other.absolute() != path.absolute():
            raise UserError(
                f"--input: {other} and {path} have the same name, which identifies a row's file; "
                "rename one"
            )
    return tuple(named[name] for name in sorted(named))


def read_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a file in order, without blank lines.

    Raises `UserError` for a file that is torn, altered or unreadable, and for a row over 64 MiB,
    naming its line.
    """
    try:
        yield from rows_of(unpacked(path))
    except (OSError, DamageError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except _TooBigError as error:
        raise UserError(
            f"{path}: line {error}: a row of more than {MAX_ROW_BYTES >> 20} MiB"
        ) from None


def rows_of(blocks: Iterator[bytes]) -> Iterator[RawRow]:
    """The rows of a file's content, which comes in blocks of any size."""
    first = b""  # up to the first byte after a byte order mark and blanks
    for block in blocks:
        first += block
        if len(first) >= len(_BOM) and first.removeprefix(_BOM).strip(_BLANKS):
            break
    skipped = len(_BOM) if first.startswith(_BOM) else 0
    content = itertools.chain([first[skipped:]], blocks)
    is_array = first[skipped:].lstrip(_BLANKS).startswith(b"[")
    for row in _elements(content) if is_array else _lines(content):
        yield RawRow(row.line, row.offset + skipped, row.data)


class _TooBigError(Exception):
    """A row over the limit, with its line."""


def _lines(blocks: Iterator[bytes]) -> Iterator[RawRow]:
    line, offset = 1, 0
    for data in _split(blocks):
        if data is None or len(data) > MAX_ROW_BYTES:
            raise _TooBigError(line)
        if data.strip(_BLANKS):
            yield RawRow(line, offset, data)
        line, offset = line + 1, offset + len(data) + 1


def _split(blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that exceeds the limit."""
    begun: list[bytes] = []
    for block in blocks:
        first, *others = block.split(b"\n")
        begun.append(first)
        for other in others:
            yield b"".join(begun)
            begun = [other]
        if sum(map(len, begun)) > MAX_ROW_BYTES:
            yield None
    yield b"".join(begun)


class _Buffer:
    """The part of an array that is held: from the end of the last row taken."""

    def __init__(self) -> None:
        self.data = b""
        self._begin, self._line, self._offset = 0, 1, 0  # of what was not taken yet

    def add(self, block: bytes) -> int:
        """Append a block and drop what was taken; returns the number of bytes dropped."""
        dropped, self._begin = self._begin, 0
        self.data = self.data[dropped:] + block
        if len(self.data) - len(block) > MAX_ROW_BYTES:
            raise _TooBigError(self._line)
        return dropped

    def take(self, end: int) -> RawRow:
        """The bytes up to `end` as a row, without blanks and commas around it."""
        taken = self.data[self._begin : end]
        start = len(taken) - len(taken.lstrip(_BLANKS + b","))
        line, offset = self._line + taken.count(b"\n", 0, start), self._offset + start
        self._line, self._offset = self._line + taken.count(b"\n"), self._offset + len(taken)
        self._begin = end
        return RawRow(line, offset, taken[start:].rstrip(_BLANKS + b","))


def _elements(blocks: Iterator[bytes]) -> Iterator[RawRow]:
    """The elements of an array that are objects or lists, and anything else between them."""
    buffer, depth, at = _Buffer(), 0, 0
    for block in blocks:
        at -= buffer.add(block)
        while (mark := _MARK.search(buffer.data, at)) and mark[0] != b'"':
            at = mark.end()
            depth, end = _step(mark, depth)
            if end is not None and (row := buffer.take(end)).data not in (b"", b"[", b"]"):
                yield row
        at = mark.start() if mark else len(buffer.data)
    rest = buffer.take(len(buffer.data))
    if rest.data or depth:
        yield rest


def _step(mark: re.Match[bytes], depth: int) -> tuple[int, int | None]:
    """The depth after a mark, and the end of a row, if one ends at the mark."""
    if mark[0] in (b"]", b"}"):
        return depth - 1, mark.end() if depth in (1, 2) else None
    if mark[0] in (b"[", b"{"):
        ends = {0: mark.end(), 1: mark.start()}  # the array's own bracket; text between elements
        return depth + 1, ends.get(depth)
    return depth, None
