"""`gristmill forget`: takes documents out of every dataset of a root, down to the token shards.

1. The removal requests are recorded in `forgotten` before anything is removed. From then on extract
   checks every page against them, so that none comes back.
2. All datasets are searched, and the documents found are recorded too: their names, never a text.
3. The files that hold them are rewritten, from `documents` down to the shards; each manifest is
   replaced, and the old files deleted after it. Settings and inputs in the manifests stay, so no
   stage has to run again; the tokens of all other documents stay as they are.

Documents come first and shards last: a dataset rebuilt meanwhile is built without them. A killed
run is marked in `forgotten`; any further `gristmill forget` resumes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich.table import Table

from corpus.clean import removals
from corpus.clean.removals import KINDS, RemovalRequest, RemovalRequests, read_list
from jobs.engine import dataset_io
from jobs.engine.progress import track
from jobs.engine.roots import check_path, locked
from jobs.engine.session import Engine, add_engine_flags, open_engine
from jobs.takedown import rewrite
from jobs.takedown.rewrite import BLANKED, MATCH, DatasetFolder
from schemas import manifest
from schemas.datasets import FORGOTTEN, KEY
from schemas.errors import UserError
from schemas.manifest import DataFile, ForgottenExtra, Manifest
from schemas.printing import PlainConsole, printable

_CLUSTER = pa.schema([*(pa.field(name, FORGOTTEN.field(name).type) for name in KEY),
                      pa.field("id", pa.string()), pa.field("cluster", pa.int64())])  # fmt: skip
_EXAMPLES = """\
examples:
  gristmill forget --root out --urls urls.txt
  gristmill forget --root out --domains domains.txt --ids ids.txt --copies copies.txt
  gristmill forget --root out --ids copies.txt         # also the duplicates left
  gristmill forget --root out                          # resume a run that was killed
"""


@dataclass(frozen=True)
class TakedownResult:
    """The requests of this run that matched and that didn't, removed rows by folder, and tokens.

    `copies` are the ids of remaining documents whose cluster lost one, in this run or before.
    """

    matched: list[RemovalRequest]
    unmatched: list[RemovalRequest]
    rows: dict[str, int]
    tokens: int
    copies: list[str] = field(default_factory=list)


def run(root: Path, engine: Engine, asked: list[RemovalRequest]) -> TakedownResult:
    """Remove what is asked for now and was asked for before; `root` has to be locked."""
    root = root.absolute()  # tasks may run elsewhere
    places = rewrite.find_datasets(root)
    _clear(root / ".work")  # texts and tokens of a run that was killed
    record = RemovalRecord(root / "forgotten", engine)
    record.ask(asked)
    try:
        _record_matches(root, engine.spark, record, places)
        rows, tokens = dict[str, int](), 0
        for place in places:
            changes = rewrite.remove_from(root, engine.spark, record.folder, place)
            name = place.folder.name
            rows[name] = rows.get(name, 0) + sum(change.rows for change in changes)
            tokens += sum(change.counts.get("tokens", 0) for change in changes)
    finally:
        _clear(root / ".work")
    record.finish()
    matched, unmatched = _answered(engine.spark, record, asked)
    return TakedownResult(matched, unmatched, rows, tokens, _copies(engine.spark, root, record))


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


class RemovalRecord:
    """The dataset `forgotten`: requests, the documents they matched, and whether all are removed.

    One row per request, and one for every document that a request matched: names and places, no
    text. Extract reads the requests, the tasks of a takedown the places.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self._engine = folder, engine
        self._listed = manifest.read(folder) or Manifest(
            "forgotten", "", {}, {}, (), {}, ForgottenExtra()
        )

    def ask(self, requests: list[RemovalRequest]) -> None:
        """Record the requests that are new."""
        known = removals.load(self.folder)
        new = [asked for asked in RemovalRequests(requests).listed() if not known.find(asked)]
        if new:
            now = _now()
            rows = [{"by": r.by, "value": r.value, "forgotten_at": now} for r in new]
            table = pa.Table.from_pylist(rows, schema=FORGOTTEN)
            file = dataset_io.write_table(self.folder, table)
            self._add([dataclasses.replace(file, counts={"requests": file.rows})])

    def add_matches(self, frame: DataFrame) -> None:
        """Record the matched documents of `frame` (`FORGOTTEN`)."""
        files = dataset_io.write(frame, self.folder, FORGOTTEN)
        self._add([dataclasses.replace(f, counts={"matches": f.rows}) for f in files if f.rows])

    def matches(self, spark: SparkSession) -> DataFrame | None:
        """The matched documents; None where there are none."""
        files = [file for file in self._listed.files if file.counts.get("matches")]
        paths = [str(self.folder.absolute() / file.name) for file in files]
        return dataset_io.read_files(spark, paths, FORGOTTEN) if paths else None

    def finish(self) -> None:
        """Record that all documents are removed."""
        if manifest.extra_of(self._listed, ForgottenExtra).unfinished:
            dataset_io.sweep(self.folder, self._listed)
            self._commit(self._listed.files, unfinished=False)

    def _add(self, files: list[DataFile]) -> None:
        self._commit((*self._listed.files, *files), unfinished=True)

    def _commit(self, files: tuple[DataFile, ...], unfinished: bool) -> None:
        self._listed = dataclasses.replace(
            self._listed,
            files=files,
            counts=dataset_io.sum_counts(files),
            extra=ForgottenExtra(unfinished),
            made={"engine": self._engine.name, "finished": _now()},
        )
        manifest.write(self.folder, self._listed)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _record_matches(
    root: Path, spark: SparkSession, record: RemovalRecord, places: list[DatasetFolder]
) -> None:
    """Search all files, and record the documents that are not recorded yet."""
    work = root / ".work" / "forget"
    targets = [
        target
        for place in places
        for target in (*rewrite.targets_in(place), *rewrite.rejected_in(place))
    ]
    with track(root, "takedown: search", len(targets), "files") as tallies:
        search = functools.partial(_search, str(record.folder), tallies)
        schema = dataset_io.spark_schema(MATCH)
        found = rewrite.listed_frame(spark, targets).mapInArrow(search, schema)
        files = dataset_io.write(found, work, MATCH)
    if not sum(file.rows for file in files):
        return
    paths = [str((work / file.name).absolute()) for file in files]
    # Several datasets hold a document; some don't know its URL.
    rows = dataset_io.read_files(spark, paths, MATCH)
    found = rows.groupBy("by", "value", "id", *KEY).agg(F.max("url").alias("url"))
    known = record.matches(spark)
    if known is not None:
        found = found.join(known.select("by", "value", *KEY), ["by", "value", *KEY], "left_anti")
    record.add_matches(_with_cluster(spark, root, found).select(*FORGOTTEN.names))


def _with_cluster(spark: SparkSession, root: Path, found: DataFrame) -> DataFrame:
    found = found.withColumn("forgotten_at", F.lit(_now()))
    listed = manifest.read(root / "clusters")
    if listed is None:
        return found.withColumn("cluster", F.lit(None).cast("long"))
    clusters = dataset_io.read(spark, root / "clusters", listed, _CLUSTER).select(*KEY, "cluster")
    return found.join(clusters, on=list(KEY), how="left")


def _search(forgotten: str, tallies: str, batches: dataset_io.Batches) -> dataset_io.Batches:
    requests = removals.load(Path(forgotten))
    for target in rewrite.each_target(tallies, batches):
        yield from rewrite.matches(target, requests)


def _answered(
    spark: SparkSession, record: RemovalRecord, asked: list[RemovalRequest]
) -> tuple[list[RemovalRequest], list[RemovalRequest]]:
    """The requests of this run that ever matched a document, and the others."""
    frame = record.matches(spark)
    rows = [] if frame is None else frame.select("by", "value").distinct().toArrow().to_pylist()
    hits = RemovalRequests(RemovalRequest(row["by"], row["value"]) for row in rows)
    wanted = RemovalRequests(asked).listed()
    return [r for r in wanted if hits.find(r)], [r for r in wanted if not hits.find(r)]


def _copies(spark: SparkSession, root: Path, record: RemovalRecord) -> list[str]:
    """Ids of documents that are left in clusters that lost one."""
    listed, gone = manifest.read(root / "clusters"), record.matches(spark)
    if listed is None or gone is None:
        return []
    clusters = dataset_io.read(spark, root / "clusters", listed, _CLUSTER)
    of = gone.select("cluster").filter(F.col("cluster").isNotNull()).distinct()
    left = clusters.join(of, on="cluster", how="left_semi").select("id").distinct()
    return sorted(left.toArrow()["id"].to_pylist())


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the command to those of `gristmill`."""
    text = "take documents down: remove them from every dataset, by URL, domain or id"
    parser = commands.add_parser(
        "forget", help=text, description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--root", required=True, metavar="DIR", help="corpus directory")
    meaning = {"url": "all captures", "domain": "its host and those below", "id": "of documents"}
    for kind in KINDS:
        parser.add_argument(
            f"--{kind}s", nargs="+", default=[], type=Path, metavar="FILE",
            help=f"files with one {kind} per line ({meaning[kind]}); # before a comment",
        )  # fmt: skip
    parser.add_argument(
        "--copies", type=Path, metavar="FILE",
        help="write the ids of remaining duplicates of removed documents",
    )  # fmt: skip
    add_engine_flags(parser)
    parser.set_defaults(command=_forget)


def _forget(arguments: argparse.Namespace) -> int:
    asked = [
        request
        for kind in KINDS
        for path in getattr(arguments, f"{kind}s")
        for request in read_list(path, kind)
    ]
    root = Path(arguments.root)
    check_path("--root", root)
    rewrite.find_datasets(root)  # before the lock creates a folder of a mistyped name
    if not asked and manifest.read(root / "forgotten") is None:
        raise UserError("gristmill forget: no requests; name files with --urls, --domains or --ids")
    with locked(root), open_engine(arguments.master, arguments.remote, arguments.verbose) as engine:
        result = run(root, engine, asked)
    if arguments.copies:
        arguments.copies.write_text("".join(f"{i}\n" for i in result.copies), encoding="utf-8")
    PlainConsole().print(_table(root, result))
    for request in result.unmatched:
        print(printable(f"matched nothing: {request.by} {request.value}"))
    return 0


def _table(root: Path, result: TakedownResult) -> Table:
    table = Table(title=f"taken down in {root}", title_justify="left", show_edge=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    for kind in KINDS:
        found, missed = (
            sum(request.by == kind for request in requests)
            for requests in (result.matched, result.unmatched)
        )
        if found or missed:
            table.add_row(f"{kind}s requested", f"{found + missed:,}")
            table.add_row("  that matched documents", f"{found:,}")
            table.add_row("  that matched nothing", f"{missed:,}")
    table.add_section()
    for name, rows in result.rows.items():
        verb = "blanked in" if name in BLANKED else "removed from"
        table.add_row(f"rows {verb} {name}", f"{rows:,}")
    table.add_row("tokens removed from shards", f"{result.tokens:,}")
    table.add_row("remaining duplicates of removed documents", f"{len(result.copies):,}")
    return table
