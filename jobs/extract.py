"""WARC files -> `documents`: one row for every captured response, kept or rejected.

The rows of a WARC file go to one Parquet file, named by the input's identity and the settings and
put in place by a rename. A killed run resumes with the files that are missing.

Where there are few files, large ones are read in pieces so that all cores have work. A piece is a
byte range: the records that begin in it. Its first record is found by searching, and the search can
be misled (an archive stored inside an archive). So pieces are joined only if each ended exactly
where the next began; otherwise the file is read again as a whole.

Extraction runs in child processes. A record that repeatedly ends its process becomes a rejected
row. A process killed from outside is replaced, and no record is blamed.
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
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import worker
from corpus.recipe import Recipe
from corpus.text import language_id, url_filter
from corpus.warc import records
from corpus.worker_tasks import ROWS_PER_ANSWER, ExtractAnswer, ExtractRequest
from jobs.engine import dataset_io
from jobs.engine.dataset_io import ROWS_PER_GROUP
from jobs.engine.progress import Tally, track
from jobs.engine.stage import Job, Stage, Written, balance
from schemas import config, json_text, manifest
from schemas.datasets import DOCUMENTS
from schemas.errors import UserError
from schemas.manifest import DataFile, DocumentsFile, extra_of

# Bytes at either end of a file that, with its size, identify it: hashing whole files would double
# the input of a run, and archives are written once.
_IDENTITY_BYTES = 64 * 1024
PIECE_BYTES = 8 << 20
MAX_PIECES = 64
FILES_PER_CORE = 4  # from here on files alone keep all cores busy, but for a short end
_UNSAFE_IN_NAMES = re.compile(r"[\[\]{}?*\\:\x00-\x1f\x7f]")
_NAME_BYTES = 150  # leaves room for the hash and for what temporary names add
FAILURES = ("extraction_failed", "extraction_crashed")
MIN_FAILURES = 20  # fewer do not end a run: a share of a handful of pages says nothing


# --- Input files ---


@dataclass(frozen=True)
class WarcFile:
    """An input file: its path, the name that keys its rows, its bytes, and what identifies it."""

    path: str
    file_path: str
    size: int
    identity: str


def resolve(patterns: tuple[str, ...]) -> list[WarcFile]:
    """All input files, by name, of paths, globs and lists of paths (`*.paths`, `*.paths.gz`).

    Raises `UserError` for files that are missing, empty, not WARC, or share a name.
    """
    by_name: dict[str, WarcFile] = {}
    for path in (path for pattern in patterns for path in _expand(pattern)):
        file = _describe(path)
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
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8") as file:
                lines = [line.strip() for line in file if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--input {path}: not a readable list of paths: {error}") from None
        if not lines:
            raise UserError(f"--input {path}: lists no file")
        return [str(path.parent / line) for line in lines]
    if path.exists():
        if path.is_dir():
            raise UserError(f"--input {pattern}: is a folder; name files, e.g. {pattern}/*.warc.gz")
        return [str(path)]
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (absolute patterns)
    if not found:
        kind = "no file matches" if glob.has_magic(pattern) else "no such file"
        raise UserError(f"--input {pattern}: {kind}")
    return found


def _describe(path: str) -> WarcFile:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"--input {path!r}: the file's name is not UTF-8, and names are stored as text; "
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
    # Common Crawl's own name of a file starts at crawl-data/, wherever it is mounted.
    _, mark, rest = path.rpartition("crawl-data/")
    return WarcFile(
        str(Path(path).absolute()), mark + rest if mark else Path(path).name, size, identity
    )


# --- The stage ---


def inputs(job: Job) -> dict[str, str]:
    """WARC file name -> identity, and the same for the files that the recipe names."""
    if not job.inputs:
        raise UserError("--input: name the WARC files to read")
    return {file.file_path: file.identity for file in resolve(job.inputs)} | _named_files(
        job.recipe
    )


def _named_files(recipe: Recipe) -> dict[str, str]:
    """Setting -> SHA-256 of the file that it names: another model or list is another input."""
    lists = url_filter.list_hashes(recipe.url)
    return {
        "extract.language_model": language_id.model_sha256(recipe.extract.language_model),
        **{f"url.{name}": sha256 for name, sha256 in lists.items()},
    }


def run(job: Job) -> dict[str, Written]:
    """Extract the files that are not committed yet, and list all."""
    folder = job.folder("documents")
    folder.mkdir(parents=True, exist_ok=True)
    made_with = [job.recipe.settings(*STAGE.sections), _named_files(job.recipe)]
    wanted = {_rows_name(file, made_with): file for file in resolve(job.inputs)}
    missing = {name: file for name, file in wanted.items() if not (folder / name).exists()}
    if missing:
        lists = (_compile_url_lists(job.recipe, folder), str(job.root / "forgotten"))
        pieces = split(missing, worker.num_cores())
        _extract_all(job, folder, pieces, lists)
        by_file: dict[str, list[Piece]] = {}
        for piece in pieces:
            if not piece.whole:
                by_file.setdefault(piece.name, []).append(piece)
        again = {name: missing[name] for name, ps in by_file.items() if not join(folder, ps)}
        _extract_all(job, folder, split(again, num_cores=0), lists)
    files = tuple(describe(folder / name) for name in sorted(wanted))
    # Rows of files that are not inputs now are kept: they cost most, and may be inputs again.
    keep = () if job.overwrite else tuple(path.name for path in folder.glob("*.parquet"))
    return {"documents": Written(files, dataset_io.sum_counts(files), keep=keep)}


def check(job: Job, written: dict[str, Written]) -> None:
    """Rows and records without a row add up to the records read, and few pages failed."""
    for file in written["documents"].files:
        rows = sum(
            n
            for name, n in file.counts.items()
            if name not in extra_of(file, DocumentsFile).rowless
        )
        balance(f"extract {file.name}", "rows", file.rows, rows)
    counts = written["documents"].counts
    failed = sum(counts.get(name, 0) for name in FAILURES)
    tried = failed + counts.get("extracted", 0)
    if failed >= MIN_FAILURES and failed > job.max_failed_share * tried:
        raise UserError(
            f"extract: {failed:,} of {tried:,} pages ({failed / tried:.1%}) ended as "
            f"{' or '.join(FAILURES)}, more than --max-failed-share {job.max_failed_share:g}. "
            "Column `detail` of the rows says why; with a higher share the same command accepts "
            "them without extracting again"
        )


def _rows_name(file: WarcFile, made_with: list[dict[str, Any]]) -> str:
    """The name of the file of rows: changes with the input, the settings and the format."""
    made_from = [file.file_path, file.identity, made_with, manifest.FORMAT]
    # Engines take some characters of a path for a pattern and skip files that start with "." or
    # "_"; the hash tells files apart whose names become equal here.
    plain = _UNSAFE_IN_NAMES.sub("_", Path(file.file_path).name).lstrip("._")
    cut = plain.encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"{cut}-{config.json_hash(made_from)[:16]}.parquet"


def _compile_url_lists(recipe: Recipe, folder: Path) -> str | None:
    """The folder of compiled URL lists, shared by all processes; deletes those of other recipes."""
    compiled = url_filter.build(recipe.url, folder) if url_filter.list_hashes(recipe.url) else None
    for old in folder.glob(".url_rules-*"):
        if old != compiled:
            shutil.rmtree(old)
    return str(compiled) if compiled else None


def _extract_all(
    job: Job, folder: Path, pieces: list[Piece], lists: tuple[str | None, str]
) -> None:
    """Extract the pieces that are not there yet, one per task."""
    missing = [piece for piece in pieces if not (folder / piece.target).exists()]
    if not missing:
        return
    with track(job.root, "extract", sum(piece.size for piece in missing), "bytes") as tallies:
        task = functools.partial(_extract_pieces, str(folder), job.recipe_values(), lists, tallies)
        rows = [(json.dumps(dataclasses.asdict(piece)),) for piece in missing]
        listed = job.spark.createDataFrame(rows, "piece string")
        # The default would put all these small rows into one partition.
        dataset_io.receipts(
            listed.repartition(len(rows)).mapInArrow(task, dataset_io.RECEIPT), "documents"
        )


def _extract_pieces(
    folder: str,
    recipe: dict[str, Any],
    lists: tuple[str | None, str],
    tallies: str,
    batches: dataset_io.Batches,
) -> dataset_io.Batches:
    """The engine's task: pieces in, receipts of their files of rows out."""
    for batch in batches:
        for text in batch["piece"].to_pylist():
            piece, tally = Piece(**json.loads(text)), Tally(tallies)
            first = done = records.first_record_at(piece.path, piece.begin)
            request = ExtractRequest(piece.path, piece.file_path, *lists, first, piece.end)
            target = Path(folder) / piece.target
            with manifest.atomic_path(target) as path:
                writer = RowsWriter(path)
                has_records = piece.whole or first < piece.begin + piece.size
                for rows, answer in _answers(recipe, request) if has_records else ():
                    writer.add(pa.Table.from_batches([rows]))
                    writer.count(answer.outcomes, answer.rowless)
                    tally.add(answer.next_offset - done)
                    done = answer.next_offset
                writer.close(first=first, next=done)
            yield dataset_io.receipt(describe(target))


def _answers(
    recipe: dict[str, Any], request: ExtractRequest
) -> Iterator[tuple[pa.RecordBatch, ExtractAnswer]]:
    """All answers to a request, from as many child processes as it takes.

    After a process died, the next records are answered one by one, so that another death can be
    located. A record is blamed if it was the first of its process and ended it
    `worker.MAX_CRASHES` times, or once by its CPU limit. A process killed from outside is replaced.
    """
    crashed = killed = 0
    while True:
        num_answers = 0
        try:
            for batch in worker.map_batch("extract", recipe, request.to_batch()):
                answer = ExtractAnswer.of(batch)
                yield batch.replace_schema_metadata(None), answer
                request = replace(request, start=answer.next_offset, crashed_at=None)
                num_answers += 1
                crashed = killed = 0
            return
        except worker.ChildDiedError as death:
            alone = num_answers == 0 and request.single > 0
            if death.from_outside:
                killed += 1
                worker.pause_after_kill(killed, death, f"{request.path}: byte {request.start}")
            elif alone or (death.over_cpu_limit and num_answers < request.single):
                crashed += 1
                if crashed == worker.MAX_CRASHES or death.over_cpu_limit:
                    if request.crashed_at is not None:
                        raise RuntimeError(
                            f"{request.path}: cannot be read from byte {request.start} on: every "
                            f"process that tries ends with {worker.describe(death)} before the "
                            "next record"
                        ) from None
                    request = replace(request, crashed_at=request.start)
                    crashed = 0
            request = replace(request, single=ROWS_PER_ANSWER)


# --- Pieces of a file, and files of rows ---


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
        """The name of the file that its rows go to."""
        return self.name if self.whole else f".{self.name}.{self.begin:014d}.piece"


def split(missing: dict[str, WarcFile], num_cores: int) -> list[Piece]:
    """What to read, largest first: whole files, or pieces of large ones where files are few."""
    few = len(missing) < FILES_PER_CORE * num_cores
    pieces = []
    for name, file in missing.items():
        number = min(max(1, -(-file.size // PIECE_BYTES)), MAX_PIECES) if few else 1
        cuts = [file.size * i // number for i in range(number + 1)]
        for begin, end in pairwise(cuts):
            last = None if end == file.size else end
            pieces.append(
                Piece(name, file.path, file.file_path, end - begin, begin, last, number == 1)
            )
    return sorted(pieces, key=lambda piece: -piece.size)


class RowsWriter:
    """Writes rows of `documents` and, in the footer, what was read."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, DOCUMENTS, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._counts = Counter[str]()
        self._rowless: set[str] = set()

    def add(self, table: pa.Table) -> None:
        """Take rows; they are written once there are enough for a row group."""
        self._waiting.append(table)
        if sum(table.num_rows for table in self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def count(self, counts: dict[str, int], rowless: Iterable[str]) -> None:
        """Add what was read: outcome -> number, and which of these have no row."""
        self._counts.update(counts)
        self._rowless.update(rowless)

    def close(self, **more: int) -> None:
        """Finish the file; `more` is kept in the footer with the counts."""
        self._flush()
        noted = {"counts": self._counts, "rowless": sorted(self._rowless), **more}
        self._writer.add_key_value_metadata({"gristmill": config.canonical_json(noted)})
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).cast(DOCUMENTS))
            self._waiting = []


def join(folder: Path, pieces: list[Piece]) -> bool:
    """Join the pieces of one file into its file of rows; False where they do not fit together."""
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


def noted(path: Path) -> dict[str, Any]:
    """What `RowsWriter.close` wrote into a file's footer."""
    found: dict[str, Any] = json_text.loads(pq.read_metadata(path).metadata[b"gristmill"])
    return found


def describe(path: Path) -> DataFile:
    """The manifest's entry for a file of rows, from its footer."""
    stated = noted(path)
    return DataFile(
        path.name,
        pq.read_metadata(path).num_rows,
        path.stat().st_size,
        counts=stated["counts"],
        extra=DocumentsFile(tuple(stated["rowless"])),
    )


STAGE = Stage(
    name="extract",
    reads=(),
    writes=("documents",),
    sections=("url", "look", "extract"),
    run=run,
    check=check,
    inputs=inputs,
)
