"""WARC files -> `documents`: one row for every captured response, kept or rejected.

Each WARC file is committed by itself: its rows go to a temporary file, renamed to a name made of
the file's identity and the settings. So a killed run goes on with the files that are not there.
A child process reads the file and extracts. A record that ends its process again and again
becomes a row; a process that is killed from outside is replaced, and no record is blamed. Where
files are few, large ones are read in pieces (`jobs.extract`).

Also: spark-submit jobs/extract.py --recipe R --input 'crawl/*.warc.gz' --root ROOT

Large files in pieces, so that a few files keep all cores busy.

A piece is a range of a file's bytes: the records that begin there. Its first record is found by
searching, which a file can lead astray (an archive inside an archive looks like one). So a file's
pieces are put together only if each ended exactly where the next one began; if not, the file is
read again as a whole. Pieces stay on disk until then: a killed run goes on with those it has.

Which WARC files a run reads: paths, globs, or lists of paths as Common Crawl has them.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import gzip
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import worker
from corpus.recipe import Recipe
from corpus.text import language_id, url_filter
from corpus.warc import records
from corpus.warc.records import first_record_at
from corpus.worker_tasks import EXTRACT_REQUEST, ROWS_PER_ANSWER
from jobs.engine import dataset_io
from jobs.engine.dataset_io import ROWS_PER_GROUP
from jobs.engine.progress import Tally, track
from jobs.engine.stage import Job, Stage, Written, balance
from schemas import config, json_text, manifest
from schemas.datasets import DOCUMENTS
from schemas.errors import UserError
from schemas.manifest import DataFile

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
    records.check_format(path)
    identity = hashlib.sha256(b"%d:" % size + head + tail).hexdigest()
    return WarcFile(str(Path(path).absolute()), _file_path(path), size, identity)


def _file_path(path: str) -> str:
    # Common Crawl's own name of a file starts at crawl-data/, wherever it was mounted.
    _, mark, rest = path.rpartition("crawl-data/")
    return mark + rest if mark else Path(path).name


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


_PATTERNS = re.compile(r"[\[\]{}?*\\:\x00-\x1f\x7f]")
_NAME_BYTES = 150  # leaves room for the hash and for what temporary names add


def inputs(job: Job) -> dict[str, str]:
    """WARC file name -> identity, and the same for the files that the recipe names."""
    if not job.inputs:
        raise UserError("--input: name the WARC files to read")
    files = {file.file_path: file.identity for file in resolve(job.inputs)}
    return files | _named_files(job.recipe)


def _named_files(recipe: Recipe) -> dict[str, str]:
    """Setting -> SHA-256 of the files that it names: another model or list is another input."""
    lists = {f"url.{name}": sha256 for name, sha256 in url_filter.list_hashes(recipe.url).items()}
    return {
        "extract.language_model": language_id.model_sha256(recipe.extract.language_model)
    } | lists


def run(job: Job) -> dict[str, Written]:
    """Extract the files that are not committed yet, and list all."""
    folder = job.folder("documents")
    folder.mkdir(parents=True, exist_ok=True)
    made_with = [job.recipe.settings(*STAGE.sections), _named_files(job.recipe)]
    wanted = {_committed_name(file, made_with): file for file in resolve(job.inputs)}
    missing = {name: file for name, file in wanted.items() if not (folder / name).exists()}
    if missing:
        _extract_missing(job, folder, missing)
    files = tuple(describe(folder / name) for name in sorted(wanted))
    # Rows of files that are not asked for now are kept: they cost most, and may be asked for again.
    keep = () if job.overwrite else tuple(path.name for path in folder.glob("*.parquet"))
    return {"documents": Written(files, dataset_io.sum_counts(files), keep=keep)}


def check(job: Job, written: dict[str, Written]) -> None:
    """Rows and records without a row add up to the records read."""
    for file in written["documents"].files:
        rows = sum(n for name, n in file.counts.items() if name not in file.extra["rowless"])
        balance(f"extract {file.name}", "rows", file.rows, rows)


def _committed_name(file: WarcFile, made_with: list[dict[str, Any]]) -> str:
    made_from = [file.file_path, file.identity, made_with, manifest.FORMAT]
    # Engines take some characters of a path for a pattern, and pass over files that start with
    # these two; the hash tells files apart whose names become equal, or are cut to fit a folder.
    plain = _PATTERNS.sub("_", Path(file.file_path).name).lstrip("._").encode()[:_NAME_BYTES]
    return f"{plain.decode(errors='ignore')}-{config.json_hash(made_from)[:16]}.parquet"


def _extract_missing(job: Job, folder: Path, missing: dict[str, WarcFile]) -> None:
    rules = _url_rules(job.recipe, folder)
    wanted = split(missing, worker.num_cores())
    _extract_pieces(job, folder, wanted, rules)
    apart: dict[str, list[Piece]] = {}
    for piece in wanted:
        if not piece.whole:
            apart.setdefault(piece.name, []).append(piece)
    again = [name for name, parts in apart.items() if not join(folder, parts)]
    if again:
        whole = split({name: missing[name] for name in again}, num_cores=0)
        _extract_pieces(job, folder, whole, rules)


def _extract_pieces(job: Job, folder: Path, wanted: list[Piece], rules: str | None) -> None:
    todo = [piece for piece in wanted if not (folder / piece.target).exists()]
    if not todo:
        return
    with track(job.root, "extract", sum(piece.size for piece in todo), "bytes") as tallies:
        # What a root was asked to forget stays away, whatever the recipe: no part of its settings.
        lists = {"url_rules": rules, "forgotten": str(job.root / "forgotten")}
        task = functools.partial(
            _extract_partition, str(folder), job.recipe_values(), lists, tallies
        )
        rows = [(json.dumps(dataclasses.asdict(piece)),) for piece in todo]
        listed = job.spark.createDataFrame(rows, "piece string")
        # One piece a task: the default would put all these small rows into one.
        dataset_io.receipts(listed.repartition(len(rows)).mapInArrow(task, dataset_io.RECEIPT))


def _url_rules(recipe: Recipe, folder: Path) -> str | None:
    """Where the compiled lists are, for all processes to share; those of other recipes go."""
    compiled = url_filter.build(recipe.url, folder) if url_filter.list_hashes(recipe.url) else None
    for old in folder.glob(".url_rules-*"):
        if old != compiled:
            shutil.rmtree(old)
    return str(compiled) if compiled else None


def _extract_partition(
    folder: str,
    recipe: dict[str, Any],
    lists: dict[str, str | None],
    tallies: str,
    batches: dataset_io.Batches,
) -> dataset_io.Batches:
    for batch in batches:
        for text in batch["piece"].to_pylist():
            piece = Piece(**json.loads(text))
            _extract_piece(Path(folder), recipe, lists, Tally(tallies), piece)
            yield dataset_io.receipt(describe(Path(folder) / piece.target))


def _extract_piece(
    folder: Path, recipe: dict[str, Any], lists: dict[str, str | None], tally: Tally, piece: Piece
) -> None:
    first = done = first_record_at(piece.path, piece.begin)
    ask: dict[str, Any] = {"path": piece.path, "file_path": piece.file_path, **lists}
    ask |= {"start": first, "stop": piece.end, "crashed_at": None}
    ask |= {"rows": ROWS_PER_ANSWER, "single": 0}
    with manifest.atomic_path(folder / piece.target) as path:
        writer = RowsWriter(path)
        has_records = piece.whole or first < piece.begin + piece.size
        for answer, noted in _answers(recipe, ask) if has_records else ():
            writer.add(pa.Table.from_batches([answer]))
            writer.count(noted["outcomes"], noted["rowless"])
            tally.add(noted["next_offset"] - done)
            done = noted["next_offset"]
        writer.close(first=first, next=done)


def _answers(
    recipe: dict[str, Any], ask: dict[str, Any]
) -> Iterator[tuple[pa.RecordBatch, dict[str, Any]]]:
    """All answers to `ask`, over as many processes as it takes.

    After a death the next records come one by one, so that a second one is at a known place. A
    record is blamed when it was the first of its process and ended it `child.MAX_CRASHES` times,
    or once by its CPU limit. A process that is killed from outside is only replaced.
    """
    crashed = killed = 0
    while True:
        num_answers = 0
        try:
            request = pa.RecordBatch.from_pylist([ask], schema=EXTRACT_REQUEST)
            for answer in worker.map_batch("extract", recipe, request):
                noted = json.loads(answer.schema.metadata[b"answer"])
                yield answer.replace_schema_metadata(None), noted
                ask = {**ask, "start": noted["next_offset"], "crashed_at": None}
                num_answers += 1
                crashed = killed = 0
            return
        except worker.ChildDiedError as death:
            alone = num_answers == 0 and ask["single"] > 0
            if death.from_outside:
                killed += 1
                worker.pause_after_kill(killed, death, f"{ask['path']}: byte {ask['start']}")
            elif alone or (death.over_cpu_limit and num_answers < ask["single"]):
                crashed += 1
                if crashed == worker.MAX_CRASHES or death.over_cpu_limit:
                    ask = {**ask, "crashed_at": _blame(ask, death)}
                    crashed = 0
            ask = {**ask, "single": ROWS_PER_ANSWER}


def _blame(ask: dict[str, Any], death: worker.ChildDiedError) -> int:
    """Where the page is that is not looked into again; raises where reading itself ends."""
    if ask["crashed_at"] is not None:
        raise RuntimeError(
            f"{ask['path']}: cannot be read from byte {ask['start']} on: every process that tries "
            f"ends with {worker.describe(death)} before the next record"
        )
    return int(ask["start"])


def describe(path: Path) -> DataFile:
    """What the footer of a file of rows says that was read, for the manifest."""
    stated = noted(path)
    return DataFile(
        path.name,
        pq.read_metadata(path).num_rows,
        path.stat().st_size,
        counts=stated["counts"],
        extra={"rowless": stated["rowless"]},
    )


STAGE: Stage = Stage(
    name="extract",
    reads=(),
    writes=("documents",),
    sections=("url", "look", "extract"),
    run=run,
    check=check,
    inputs=inputs,
)

if __name__ == "__main__":
    from jobs.cli import main

    raise SystemExit(main(["extract", *sys.argv[1:]]))
