"""Good records of archives found in other projects, as gristmill, warcio and FastWARC read them.

    python benchmarks/archives.py                  # ../shared/hostile and ../shared/genuine
    python benchmarks/archives.py FOLDER ...       # every file in these
    python benchmarks/archives.py --all            # also the files that all three read alike

A good record is one that the reader gives whole. Gristmill says so; warcio and FastWARC do not
check, so of theirs each counts whose block is as long as its header says. CPU seconds are those of
one process that reads every file with all three, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator as FastWarcIterator
from rich import box
from rich.console import Console
from rich.table import Table
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from corpus.warc.records import read_records
from schemas.errors import UserError

SHARED = Path(__file__).parents[2] / "shared"
FOLDERS = [SHARED / "hostile", SHARED / "genuine"]


@dataclass
class Reading:
    """What a reader made of a file; `end` is "ok", or what it says is wrong."""

    num_good: int
    end: str
    cpu_seconds: float = 0.0
    num_damaged: int = 0


def by_gristmill(path: Path) -> Reading:
    """Whole records, and damaged stretches."""
    num_good = num_damaged = 0
    end = "ok"
    try:
        for record in read_records(str(path)):
            num_good += record.damage is None
            num_damaged += record.damage is not None
            end = record.damage or end
    except UserError as error:
        end = str(error)
    return Reading(num_good, end, num_damaged=num_damaged)


def by_warcio(path: Path) -> Reading:
    """Records whose block is as long as it should be, before the first error."""
    with open(path, "rb") as stream, contextlib.redirect_stderr(io.StringIO()):
        return _until_error(_warcio_records(stream))


def _warcio_records(stream: BinaryIO) -> Iterator[bool]:
    for record in WarcioIterator(stream, no_record_parse=True):
        headers = record.rec_headers
        name = "length" if record.format == "arc" else "Content-Length"
        # Of an ARC file's version block, its first two lines are not in the stream.
        is_version = headers.get_header("uri", "").startswith("filedesc:")
        yield is_version or headers.get_header(name) == str(len(record.raw_stream.read()))


def by_fastwarc(path: Path) -> Reading:
    """The same."""
    with open(path, "rb") as stream:
        return _until_error(
            record.headers.get("Content-Length") == str(len(record.reader.read()))
            for record in FastWarcIterator(stream, parse_http=False)
        )


def _until_error(records: Iterator[bool]) -> Reading:
    num_good = 0
    try:
        for is_whole in records:
            num_good += is_whole
    # What two libraries raise on broken files is any of a dozen types.
    except Exception as error:
        return Reading(num_good, f"{type(error).__name__}: {error}")
    return Reading(num_good, "ok")


READERS: dict[str, Callable[[Path], Reading]] = {
    "gristmill": by_gristmill,
    "warcio": by_warcio,
    "FastWARC": by_fastwarc,
}


def compare(path: Path) -> dict[str, Reading]:
    """Reader -> what it made of the file."""
    readings = {}
    for name, reader in READERS.items():
        before = time.process_time()
        readings[name] = reader(path)
        readings[name].cpu_seconds = time.process_time() - before
    return readings


def files_of(folders: list[Path]) -> list[Path]:
    """Every file of the folders that is no table about the others."""
    found = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    return [path for path in found if path.suffix != ".tsv"]


def main() -> None:
    """Print the table, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders (default: ../shared)")
    parser.add_argument("--all", action="store_true", help="list files that are read alike, too")
    arguments = parser.parse_args()
    table = Table("file", *READERS, "damaged", "what is said", box=box.SIMPLE)
    counts = dict.fromkeys(READERS, 0)
    seconds = dict.fromkeys(READERS, 0.0)
    num_files = num_fewer = 0
    for path in files_of(arguments.folders or FOLDERS):
        readings = compare(path)
        num_files += 1
        for name, reading in readings.items():
            counts[name] += reading.num_good
            seconds[name] += reading.cpu_seconds
        ours = readings["gristmill"]
        good = [reading.num_good for reading in readings.values()]
        num_fewer += ours.num_good < max(good)
        if arguments.all or len({*good}) > 1:
            table.add_row(path.name, *map(str, good), str(ours.num_damaged), ours.end[:60])
    table.add_section()
    table.add_row(f"{num_files} files", *[f"{counts[name]:,}" for name in READERS])
    table.add_row("CPU seconds", *[f"{seconds[name]:.2f}" for name in READERS])
    console = Console()
    console.print(table)
    console.print(f"{num_fewer} files where another reader gives more records")


if __name__ == "__main__":
    main()
