"""Large files in pieces, so that a few files keep all cores busy.

A piece is a range of a file's bytes: the records that begin there. Its first record is found by
searching, which a file can lead astray (an archive inside an archive looks like one). So a file's
pieces are put together only if each ended exactly where the next one began; if not, the file is
read again as a whole. Pieces stay on disk until then: a killed run goes on with those it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.datasets import ROWS_PER_GROUP
from jobs.inputs import WarcFile
from schemas import config, json_text, manifest
from schemas.datasets import DOCUMENTS

PIECE_BYTES = 8 << 20
MAX_PIECES = 64
# With this many files a core there is work for all cores without pieces, but for a short end.
FILES_PER_CORE = 4


@dataclass(frozen=True)
class Piece:
    """The records of a file that begin at `begin` or later and before `end` (None: the file's)."""

    name: str  # of the file of rows that it is, or is a part of
    path: str
    file_path: str
    size: int  # bytes of the piece
    begin: int = 0
    end: int | None = None
    whole: bool = True

    @property
    def target(self) -> str:
        """The file that its rows go to."""
        return self.name if self.whole else f".{self.name}.{self.begin:014d}.piece"


def split(missing: dict[str, WarcFile], num_cores: int) -> list[Piece]:
    """What to read, largest first: whole files, or pieces of the large ones where files are few."""
    few = len(missing) < FILES_PER_CORE * num_cores
    pieces = [
        piece
        for name, file in missing.items()
        for piece in _pieces_of(name, file, -(-file.size // PIECE_BYTES) if few else 1)
    ]
    return sorted(pieces, key=lambda piece: -piece.size)


def _pieces_of(name: str, file: WarcFile, wanted: int) -> Iterator[Piece]:
    number = max(1, min(wanted, MAX_PIECES))
    cuts = [file.size * i // number for i in range(number + 1)]
    for begin, end in pairwise(cuts):
        last = end == file.size
        yield Piece(
            name, file.path, file.file_path, end - begin, begin, None if last else end, number == 1
        )


class RowsWriter:
    """Writes rows of `documents` and, in the footer, what was read."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, DOCUMENTS, compression="zstd")
        self._waiting: list[pa.Table] = []
        self.counts: dict[str, int] = {}
        self.rowless: set[str] = set()

    def add(self, table: pa.Table) -> None:
        """Take rows; they are written when there are enough for a row group."""
        self._waiting.append(table)
        if sum(table.num_rows for table in self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def count(self, counts: dict[str, int], rowless: Iterable[str]) -> None:
        """Add what was read: outcome -> number, and which of these have no row."""
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number
        self.rowless.update(rowless)

    def close(self, **more: int) -> None:
        """Finish the file; `more` is kept beside the counts."""
        self._flush()
        noted = {"counts": self.counts, "rowless": sorted(self.rowless), **more}
        self._writer.add_key_value_metadata({"gristmill": config.canonical_json(noted)})
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).cast(DOCUMENTS))
            self._waiting = []


def noted(path: Path) -> dict[str, Any]:
    """What `RowsWriter.close` wrote into a file's footer."""
    found: dict[str, Any] = json_text.loads(pq.read_metadata(path).metadata[b"gristmill"])
    return found


def join(folder: Path, pieces: list[Piece]) -> bool:
    """Make the file of rows of all pieces of one file; False where they do not fit together."""
    ordered = sorted(pieces, key=lambda piece: piece.begin)
    paths = [folder / piece.target for piece in ordered]
    notes = [noted(path) for path in paths]
    fits = all(one["next"] == other["first"] for one, other in pairwise(notes))
    if fits:
        with manifest.atomic_path(folder / ordered[0].name) as target:
            writer = RowsWriter(target)
            for path, note in zip(paths, notes, strict=True):
                with pq.ParquetFile(path) as rows:
                    for group in range(rows.num_row_groups):
                        writer.add(rows.read_row_group(group))
                writer.count(note["counts"], note["rowless"])
            writer.close()
    for path in paths:
        path.unlink()
    return fits
