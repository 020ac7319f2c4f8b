"""WARC files -> `documents`: one row for every captured response, kept or rejected.

Each WARC file is committed by itself: its rows go to a temporary file, renamed to a name made of
the file's identity and the settings. So a killed run goes on with the files that are not there.
A child process reads the file and extracts. A record that ends its process again and again
becomes a row; a process that is killed from outside is replaced, and no record is blamed. Where
files are few, large ones are read in pieces (`jobs.pieces`).

Also: spark-submit jobs/extract.py --recipe R --input 'crawl/*.warc.gz' --root ROOT
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import child, lid, url_rules
from corpus.recipe import Recipe
from corpus.tasks import EXTRACT_REQUEST, ROWS_PER_ANSWER
from corpus.warc import first_record_at
from jobs import datasets, pieces
from jobs.inputs import WarcFile, resolve
from jobs.pieces import Piece, RowsWriter
from jobs.progress import Tally, track
from jobs.stage import Job, Stage, Written, balance
from schemas import config, manifest
from schemas.errors import UserError
from schemas.manifest import DataFile

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
    lists = {f"url.{name}": sha256 for name, sha256 in url_rules.list_hashes(recipe.url).items()}
    return {"extract.language_model": lid.model_sha256(recipe.extract.language_model)} | lists


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
    return {"documents": Written(files, datasets.sum_counts(files), keep=keep)}


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
    wanted = pieces.split(missing, child.num_cores())
    _extract_pieces(job, folder, wanted, rules)
    apart: dict[str, list[Piece]] = {}
    for piece in wanted:
        if not piece.whole:
            apart.setdefault(piece.name, []).append(piece)
    again = [name for name, parts in apart.items() if not pieces.join(folder, parts)]
    if again:
        whole = pieces.split({name: missing[name] for name in again}, num_cores=0)
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
        datasets.receipts(listed.repartition(len(rows)).mapInArrow(task, datasets.RECEIPT))


def _url_rules(recipe: Recipe, folder: Path) -> str | None:
    """Where the compiled lists are, for all processes to share; those of other recipes go."""
    compiled = url_rules.build(recipe.url, folder) if url_rules.list_hashes(recipe.url) else None
    for old in folder.glob(".url_rules-*"):
        if old != compiled:
            shutil.rmtree(old)
    return str(compiled) if compiled else None


def _extract_partition(
    folder: str,
    recipe: dict[str, Any],
    lists: dict[str, str | None],
    tallies: str,
    batches: datasets.Batches,
) -> datasets.Batches:
    for batch in batches:
        for text in batch["piece"].to_pylist():
            piece = Piece(**json.loads(text))
            _extract_piece(Path(folder), recipe, lists, Tally(tallies), piece)
            yield datasets.receipt(describe(Path(folder) / piece.target))


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
            for answer in child.map_batch("extract", recipe, request):
                noted = json.loads(answer.schema.metadata[b"answer"])
                yield answer.replace_schema_metadata(None), noted
                ask = {**ask, "start": noted["next_offset"], "crashed_at": None}
                num_answers += 1
                crashed = killed = 0
            return
        except child.ChildDiedError as death:
            alone = num_answers == 0 and ask["single"] > 0
            if death.from_outside:
                killed += 1
                child.pause_after_kill(killed, death, f"{ask['path']}: byte {ask['start']}")
            elif alone or (death.over_cpu_limit and num_answers < ask["single"]):
                crashed += 1
                if crashed == child.MAX_CRASHES or death.over_cpu_limit:
                    ask = {**ask, "crashed_at": _blame(ask, death)}
                    crashed = 0
            ask = {**ask, "single": ROWS_PER_ANSWER}


def _blame(ask: dict[str, Any], death: child.ChildDiedError) -> int:
    """Where the page is that is not looked into again; raises where reading itself ends."""
    if ask["crashed_at"] is not None:
        raise RuntimeError(
            f"{ask['path']}: cannot be read from byte {ask['start']} on: every process that tries "
            f"ends with {child.describe(death)} before the next record"
        )
    return int(ask["start"])


def describe(path: Path) -> DataFile:
    """What the footer of a file of rows says that was read, for the manifest."""
    stated = pieces.noted(path)
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
