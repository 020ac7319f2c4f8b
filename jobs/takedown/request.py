"""`gristmill forget`: takes documents out of every dataset of a root, down to the token shards.

1. What is asked for is recorded in `forgotten`, before anything is removed. From then on extract
   asks it of every page, so that none comes back.
2. All datasets are searched, and the documents found are recorded too: names, never a text.
3. The files that hold them are written anew, from `documents` down to the shards, and the old ones
   deleted once the new manifest is in place. Settings and inputs in the manifests stay, so what was
   done stays done; the tokens of all other documents stay as they are.

Documents come first and shards last: whatever is made anew in between, it is made without them. A
run that was killed is marked in `forgotten` and gone on with by any further `gristmill forget`.

The dataset `forgotten`: what was asked for, what that matched, and whether it is all gone.

One row a request, and one for every document that a request matched: names and places, no text.
Extract reads the requests, the tasks of `forget` the places.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich.table import Table

from corpus.clean import removals
from corpus.clean.removals import KINDS, RemovalRequest, RemovalRequests, read_list
from jobs.engine import dataset_io
from jobs.engine.progress import track
from jobs.engine.roots import check_path, locked
from jobs.engine.session import Engine, open_engine
from jobs.takedown import rewrite
from jobs.takedown.rewrite import (
    EMPTIED,
    MATCH,
    Place,
    each_target,
    find_places,
    forget_in,
    listed_frame,
    rejected_in,
    targets_in,
)
from schemas import manifest
from schemas.datasets import FORGOTTEN, KEY
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from schemas.printing import PlainConsole, printable

_CLUSTER = pa.schema([*(pa.field(name, FORGOTTEN.field(name).type) for name in KEY),
                      pa.field("id", pa.string()), pa.field("cluster", pa.int64())])  # fmt: skip


class Record:
    """The dataset `forgotten`: what was asked for, what that matched, and whether it is done."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self._engine = folder, engine
        self._listed = manifest.read(folder) or Manifest(
            "forgotten", "", {}, {}, (), {}, {"unfinished": False}
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
        """Record the documents of `frame` (`FORGOTTEN`)."""
        files = dataset_io.write(frame, self.folder, FORGOTTEN)
        self._add([dataclasses.replace(f, counts={"matches": f.rows}) for f in files if f.rows])

    def matches(self, spark: SparkSession) -> DataFrame | None:
        """The rows of documents; None where there are none."""
        files = [file for file in self._listed.files if file.counts.get("matches")]
        paths = [str(self.folder.absolute() / file.name) for file in files]
        return dataset_io.read_files(spark, paths, FORGOTTEN) if paths else None

    def finish(self) -> None:
        """Note that all of it is gone."""
        if self._listed.extra["unfinished"]:
            dataset_io.sweep(self.folder, self._listed)
            self._commit(self._listed.files, unfinished=False)

    def _add(self, files: list[DataFile]) -> None:
        self._commit((*self._listed.files, *files), unfinished=True)

    def _commit(self, files: tuple[DataFile, ...], unfinished: bool) -> None:
        self._listed = dataclasses.replace(
            self._listed,
            files=files,
            counts=dataset_io.sum_counts(files),
            extra={"unfinished": unfinished},
            made={"engine": self._engine.name, "finished": _now()},
        )
        manifest.write(self.folder, self._listed)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def record_matches(root: Path, spark: SparkSession, record: Record, places: list[Place]) -> None:
    """Search all files, and record the documents that are not recorded yet."""
    work = root / ".work" / "forget"
    targets = [target for place in places for target in (*targets_in(place), *rejected_in(place))]
    with track(root, "forget: search", len(targets), "files") as tallies:
        search = functools.partial(_search, str(record.folder), tallies)
        schema = dataset_io.spark_schema(MATCH)
        files = dataset_io.write(
            listed_frame(spark, targets).mapInArrow(search, schema), work, MATCH
        )
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
    for target in each_target(tallies, batches):
        yield from rewrite.matches(target, requests)


def answered(
    spark: SparkSession, record: Record, asked: list[RemovalRequest]
) -> tuple[list[RemovalRequest], list[RemovalRequest]]:
    """The requests asked for that ever matched a document, and the others."""
    rows: list[dict[str, Any]] = []
    frame = record.matches(spark)
    if frame is not None:
        rows = frame.select("by", "value").distinct().toArrow().to_pylist()
    hits = RemovalRequests(RemovalRequest(row["by"], row["value"]) for row in rows)
    wanted = RemovalRequests(asked).listed()
    return [r for r in wanted if hits.find(r)], [r for r in wanted if not hits.find(r)]


def copies(spark: SparkSession, root: Path, record: Record) -> list[str]:
    """Ids of documents that are left of the clusters in which forgotten ones stood."""
    listed, gone = manifest.read(root / "clusters"), record.matches(spark)
    if listed is None or gone is None:
        return []
    clusters = dataset_io.read(spark, root / "clusters", listed, _CLUSTER)
    of = gone.select("cluster").filter(F.col("cluster").isNotNull()).distinct()
    left = clusters.join(of, on="cluster", how="left_semi").select("id").distinct()
    return sorted(left.toArrow()["id"].to_pylist())


_EXAMPLES = """\
examples:
  gristmill forget --root out --urls urls.txt
  gristmill forget --root out --domains domains.txt --ids ids.txt --copies copies.txt
  gristmill forget --root out --ids copies.txt         # and what was a copy of them
  gristmill forget --root out                          # go on with a run that was killed
"""


@dataclass(frozen=True)
class Removed:
    """What a run did: `matched` and `unmatched` are the requests asked for, `rows` by folder.

    `tokens` were taken out of shards. `copies` are documents left that stood in a cluster with one
    that was forgotten, in this run or before.
    """

    matched: list[RemovalRequest]
    unmatched: list[RemovalRequest]
    rows: dict[str, int]
    tokens: int
    copies: list[str] = field(default_factory=list)


def run(root: Path, engine: Engine, asked: list[RemovalRequest]) -> Removed:
    """Forget what is asked for now and what was asked for before; `root` has to be locked."""
    root = root.absolute()  # tasks may run elsewhere
    places = find_places(root)
    _clear(root / ".work")  # texts and tokens of a run that was killed
    record = Record(root / "forgotten", engine)
    record.ask(asked)
    try:
        record_matches(root, engine.spark, record, places)
        rows, tokens = dict[str, int](), 0
        for place in places:
            changes = forget_in(root, engine.spark, record.folder, place)
            name = place.folder.name
            rows[name] = rows.get(name, 0) + sum(change.rows for change in changes)
            tokens += sum(change.counts.get("tokens", 0) for change in changes)
    finally:
        _clear(root / ".work")
    record.finish()
    matched, unmatched = answered(engine.spark, record, asked)
    return Removed(matched, unmatched, rows, tokens, copies(engine.spark, root, record))


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the sub-command `forget`."""
    text = "take documents out of every dataset, by URL, domain or id"
    parser = commands.add_parser(
        "forget", help=text, description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--root", required=True, metavar="DIR", help="where the datasets are")
    meaning = {"url": "all captures of it", "domain": "its hosts and those below", "id": "of rows"}
    for kind in KINDS:
        parser.add_argument(
            f"--{kind}s", nargs="+", default=[], type=Path, metavar="FILE",
            help=f"files with one {kind} a line ({meaning[kind]}); # before a comment",
        )  # fmt: skip
    parser.add_argument(
        "--copies", type=Path, metavar="FILE",
        help="write the ids of documents that stay and were duplicates of forgotten ones",
    )  # fmt: skip
    parser.add_argument(
        "--master", metavar="URL", help="run on Apache Spark, e.g. local[2] or yarn (needs Java 17)"
    )
    parser.add_argument("--remote", metavar="URL", help="run on a Spark Connect service, sc://HOST")
    parser.add_argument("--verbose", action="store_true", help="show the engine's own log")
    parser.set_defaults(command=_forget)


def _forget(arguments: argparse.Namespace) -> int:
    asked = [
        r
        for kind in KINDS
        for path in getattr(arguments, f"{kind}s")
        for r in read_list(path, kind)
    ]
    root = Path(arguments.root)
    check_path("--root", root)
    find_places(root)  # before a lock makes a folder of a name that was mistyped
    if not asked and manifest.read(root / "forgotten") is None:
        raise UserError("gristmill forget: name files with --urls, --domains or --ids")
    with locked(root), open_engine(arguments.master, arguments.remote, arguments.verbose) as engine:
        removed = run(root, engine, asked)
    if arguments.copies:
        arguments.copies.write_text("".join(f"{i}\n" for i in removed.copies), encoding="utf-8")
    PlainConsole().print(_table(root, removed))
    for request in removed.unmatched:
        print(printable(f"matched nothing: {request.by} {request.value}"))
    return 0


def _table(root: Path, removed: Removed) -> Table:
    table = Table(title=f"forgotten in {root}", title_justify="left", show_edge=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    for kind in KINDS:
        found, missed = (
            sum(request.by == kind for request in requests)
            for requests in (removed.matched, removed.unmatched)
        )
        if found or missed:
            table.add_row(f"{kind}s asked for", f"{found + missed:,}")
            table.add_row("  that matched documents", f"{found:,}")
            table.add_row("  that matched nothing", f"{missed:,}")
    table.add_section()
    for name, rows in removed.rows.items():
        verb = "emptied in" if name in EMPTIED else "taken out of"
        table.add_row(f"rows {verb} {name}", f"{rows:,}")
    table.add_row("tokens taken out of shards", f"{removed.tokens:,}")
    table.add_row(
        "documents that stay, once duplicates of forgotten ones", f"{len(removed.copies):,}"
    )
    return table
