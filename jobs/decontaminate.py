"""`canonical` -> `contamination`: which documents hold texts of which evaluation sets.

The driver indexes the sets (recipe: decontaminate.against, or --against FILES); worker processes
map the index and look every document up. The stage `shard` leaves out the documents to drop, so
`canonical` stays as it is, and other sets cost one more pass.

"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.table import Table
from rich.text import Text

from corpus import recipe, worker
from corpus.clean import contamination
from corpus.clean.contamination import EvaluationSet, Index
from corpus.dedup.word_hashes import SCHEME
from corpus.recipe import Recipe
from jobs.engine import dataset_io
from jobs.engine.progress import Tally, console, track
from jobs.engine.roots import locked, refuse_unfinished
from jobs.engine.session import add_engine_flags, open_engine
from jobs.engine.stage import Job, Stage, Written, balance, run_stage
from schemas import config, manifest, tokenizer
from schemas.datasets import CONTAMINATION, KEY
from schemas.errors import UserError
from schemas.manifest import ContaminationExtra, DataFile, Manifest, SetCounts, extra_of
from schemas.printing import printable

_EXAMPLES = """\
examples:
  gristmill decontaminate --recipe r.toml --root out --against 'evals/*.jsonl'
  gristmill decontaminate --recipe r.toml --root out --against gsm8k.jsonl.gz notes.txt --flag

The stage shard leaves out what was found, and rebuilds existing shards.
"""


def inputs(job: Job) -> dict[str, str]:
    """SHA-256 of each set's file, and the versions of words and index."""
    sets = _sets(job.recipe)
    hashes = {f"set {name}": contamination.sha256(path) for name, path in sets.items()}
    return hashes | {"words": SCHEME, "index": str(contamination.FORMAT)}


def run(job: Job) -> dict[str, Written]:
    """Index the sets, then look every document up in the index."""
    settings, work = job.recipe.decontaminate, job.root / ".work" / "decontaminate"
    try:
        with track(job.root, "decontaminate: index", 1, "step"):
            index = contamination.build(_sets(job.recipe), settings.ngram, settings.min_words)
            # A unique name for each index: workers cache one by its name.
            folder = work / config.json_hash([job.recipe.settings("decontaminate"), inputs(job)])
            index.save(folder)
        files = _examine(job, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"contamination": _describe(job, files, index)}


def check(job: Job, written: dict[str, Written]) -> None:
    """Every canonical document was looked up; every row is of one set."""
    found = written["contamination"]
    canonical = job.manifest("canonical").rows
    balance("decontaminate", "canonical documents", canonical, sum(found.counts.values()))
    by_set = sum(one.documents for one in extra_of(found, ContaminationExtra).sets)
    balance("decontaminate", "matches", sum(file.rows for file in found.files), by_set)


def check_files(chosen: Recipe) -> None:
    """Raise `UserError` where a named evaluation file cannot be used."""
    for path in _sets(chosen).values():
        for _ in contamination.read_items(path):
            pass


def _sets(chosen: Recipe) -> dict[str, Path]:
    if not chosen.decontaminate.against:
        raise UserError(
            "decontaminate.against = []: names no evaluation set; set it in the recipe or pass "
            "--against FILES"
        )
    return contamination.resolve(chosen.decontaminate.against)


def _examine(job: Job, index: Path) -> tuple[DataFile, ...]:
    folder, total = job.folder("contamination"), job.manifest("canonical").rows
    folder.mkdir(parents=True, exist_ok=True)
    columns = job.read("canonical").select("id", *KEY, "url", "text")
    with track(job.root, "decontaminate", total, "documents") as tallies:
        place = str(index.absolute())
        task = functools.partial(
            _examine_partition, str(folder.absolute()), job.recipe_values(), place, tallies
        )
        files = dataset_io.receipts(columns.mapInArrow(task, dataset_io.RECEIPT))
    return files or (dataset_io.write_table(folder, CONTAMINATION.empty_table()),)


def _examine_partition(
    folder: str, values: dict[str, Any], index: str, tallies: str, batches: dataset_io.Batches
) -> dataset_io.Batches:
    tally, num_read = Tally(tallies), 0
    found: list[pa.RecordBatch] = []  # of the whole partition: few documents match
    for batch in batches:
        for start in range(0, batch.num_rows, dataset_io.ROWS_PER_REQUEST):
            request = batch.slice(start, dataset_io.ROWS_PER_REQUEST)
            placed = request.replace_schema_metadata({b"index": index.encode()})
            answers = worker.map_rows("contaminated", values, placed)
            found += [answer for answer in answers if answer.num_rows]
            num_read += request.num_rows
            tally.add(request.num_rows)
    if num_read:
        table = pa.Table.from_batches(found, CONTAMINATION)
        file = dataset_io.write_table(Path(folder), table)
        yield dataset_io.receipt(dataclasses.replace(file, counts={"documents": num_read}))


def _describe(job: Job, files: tuple[DataFile, ...], index: Index) -> Written:
    paths = [str(job.folder("contamination").absolute() / file.name) for file in files]
    rows = dataset_io.read_files(job.spark, paths, CONTAMINATION)
    num_read = dataset_io.sum_counts(files).get("documents", 0)
    contaminated = rows.select(*KEY).distinct().count()
    counts = {"contaminated": contaminated, "clean": num_read - contaminated}
    sets = count_by_set(rows, index.sets)
    return Written(files, counts, ContaminationExtra(job.recipe.decontaminate.action, sets))


def count_by_set(
    rows: DataFrame, sets: Iterable[EvaluationSet | SetCounts]
) -> tuple[SetCounts, ...]:
    """Each of `sets` with its contaminated `documents` and its items `found` in `rows`."""
    items = rows.select("set", F.explode("items").alias("item")).distinct()
    documents, found = (
        {
            row["set"]: row["n"]
            for row in counted.groupBy("set").agg(F.count("*").alias("n")).toArrow().to_pylist()
        }
        for counted in (rows.select("set"), items)
    )
    return tuple(
        SetCounts(
            one.name, one.items, one.too_short, documents.get(one.name, 0), found.get(one.name, 0)
        )
        for one in sets
    )


def dropped(job: Job) -> Manifest | None:
    """The committed `contamination` whose documents shards leave out; None where there is none.

    `UserError` where `canonical` was rebuilt since.
    """
    folder = job.folder("contamination")
    found = manifest.read(folder)
    if found is None or not found.drops:
        return None
    if found.inputs["canonical"] != job.manifest("canonical").fingerprint:
        raise UserError(
            f"{folder}: was built from a different 'canonical'; run gristmill decontaminate "
            "again, or delete the folder to keep contaminated documents"
        )
    return found


def num_dropped(job: Job) -> int:
    """Canonical documents that shards leave out."""
    found = dropped(job)
    return found.counts["contaminated"] if found else 0


def clean(job: Job) -> DataFrame:
    """`canonical` without the documents that are dropped."""
    canonical = job.read("canonical")
    if not num_dropped(job):
        return canonical
    keys = job.read("contamination").select(*KEY).distinct()
    return canonical.join(keys, on=list(KEY), how="left_anti").select(*canonical.columns)


def shard_inputs(job: Job) -> dict[str, str]:
    """What shards are made from besides `canonical`."""
    found = dropped(job)
    made_from = {"contamination": found.fingerprint} if found else {}
    name = job.recipe.tokenizer.name
    if name.endswith(".json"):  # a different file of the same name has other ids
        made_from["tokenizer"] = tokenizer.find(name).hash
    return made_from


def table(listed: Manifest) -> Table:
    """What was found of each set, as a table."""
    total, hit = sum(listed.counts.values()), listed.counts["contaminated"]
    extra = extra_of(listed, ContaminationExtra)
    verb = {"drop": "left out of shards", "flag": "flagged"}[extra.action]
    spent = f"{listed.made['seconds']:.1f} s on {listed.made['engine']}"
    title = f"decontaminate: {spent}\n{hit:,} of {total:,} documents {verb} ({_share(hit, total)})"
    table = Table("set", title=title, title_justify="left", show_edge=False)
    for name in ("items", "too short", "items found", "share", "documents", "share"):
        table.add_column(name, justify="right")
    for one in extra.sets:
        table.add_row(
            Text(printable(one.name)), f"{one.items:,}", f"{one.too_short:,}",
            f"{one.found:,}", _share(one.found, one.items),
            f"{one.documents:,}", _share(one.documents, total),
        )  # fmt: skip
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / max(1, whole):.1%}"


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the command to those of `gristmill`."""
    text = "leave documents that hold evaluation texts out of shards, or flag them"
    parser = commands.add_parser("decontaminate", help=text, description=text, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--recipe", required=True, metavar="FILE", help="TOML file of all settings")
    parser.add_argument("--root", required=True, metavar="DIR", help="corpus directory")
    text = "evaluation sets, *.jsonl or *.txt, also .gz and .zst (default: decontaminate.against)"
    parser.add_argument("--against", nargs="+", metavar="FILE", help=text)
    text = "length in words of the runs to find (default: decontaminate.ngram)"
    parser.add_argument("--ngram", type=int, metavar="N", help=text)
    text = "list contaminated documents, but keep them in shards (decontaminate.action)"
    parser.add_argument("--flag", action="store_true", help=text)
    add_engine_flags(parser)
    text = "replace what other settings wrote"
    parser.add_argument("--overwrite", action="store_true", help=text)
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    chosen, root = with_flags(recipe.load(arguments.recipe), arguments), Path(arguments.root)
    check_files(chosen)
    with locked(root), open_engine(arguments.master, arguments.remote, arguments.verbose) as engine:
        refuse_unfinished(root)
        job = Job(chosen, root, engine, overwrite=arguments.overwrite)
        worked = run_stage(STAGE, job)
    console.print(table(job.manifest("contamination")))
    if not worked:
        console.print("decontaminate: done already and still valid, nothing to do")
    return 0


def with_flags(loaded: Recipe, arguments: argparse.Namespace) -> Recipe:
    """The recipe with the settings that flags override."""
    given: dict[str, str | int | Sequence[str]] = {}
    if arguments.against:
        given["against"] = tuple(arguments.against)
    if arguments.ngram is not None:
        given["ngram"] = arguments.ngram
    if arguments.flag:
        given["action"] = "flag"
    try:
        settings = dataclasses.replace(loaded.decontaminate, **given)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"--{error}") from None
    return dataclasses.replace(loaded, decontaminate=settings)


STAGE: Stage = Stage(
    name="decontaminate",
    reads=("canonical",),
    writes=("contamination",),
    sections=("decontaminate",),
    run=run,
    check=check,
    inputs=inputs,
)
