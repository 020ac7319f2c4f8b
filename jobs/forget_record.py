"""The dataset `forgotten`: what was asked for, what that matched, and whether it is all gone.

One row a request, and one for every document that a request matched: names and places, no text.
Extract reads the requests, the tasks of `forget` the places.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from corpus import forget
from corpus.forget import Request, Requests
from jobs import datasets, forget_files
from jobs.forget_files import MATCH
from jobs.forget_places import Place, each_target, listed_frame, rejected_in, targets_in
from jobs.progress import track
from jobs.session import Engine
from schemas import manifest
from schemas.datasets import FORGOTTEN, KEY
from schemas.manifest import DataFile, Manifest

_CLUSTER = pa.schema([*(pa.field(name, FORGOTTEN.field(name).type) for name in KEY),
                      pa.field("id", pa.string()), pa.field("cluster", pa.int64())])  # fmt: skip


class Record:
    """The dataset `forgotten`: what was asked for, what that matched, and whether it is done."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self._engine = folder, engine
        self._listed = manifest.read(folder) or Manifest(
            "forgotten", "", {}, {}, (), {}, {"unfinished": False}
        )

    def ask(self, requests: list[Request]) -> None:
        """Record the requests that are new."""
        known = forget.load(self.folder)
        new = [asked for asked in Requests(requests).listed() if not known.find(asked)]
        if new:
            now = _now()
            rows = [{"by": r.by, "value": r.value, "forgotten_at": now} for r in new]
            table = pa.Table.from_pylist(rows, schema=FORGOTTEN)
            file = datasets.write_table(self.folder, table)
            self._add([dataclasses.replace(file, counts={"requests": file.rows})])

    def add_matches(self, frame: DataFrame) -> None:
        """Record the documents of `frame` (`FORGOTTEN`)."""
        files = datasets.write(frame, self.folder, FORGOTTEN)
        self._add([dataclasses.replace(f, counts={"matches": f.rows}) for f in files if f.rows])

    def matches(self, spark: SparkSession) -> DataFrame | None:
        """The rows of documents; None where there are none."""
        files = [file for file in self._listed.files if file.counts.get("matches")]
        paths = [str(self.folder.absolute() / file.name) for file in files]
        return datasets.read_files(spark, paths, FORGOTTEN) if paths else None

    def finish(self) -> None:
        """Note that all of it is gone."""
        if self._listed.extra["unfinished"]:
            datasets.sweep(self.folder, self._listed)
            self._commit(self._listed.files, unfinished=False)

    def _add(self, files: list[DataFile]) -> None:
        self._commit((*self._listed.files, *files), unfinished=True)

    def _commit(self, files: tuple[DataFile, ...], unfinished: bool) -> None:
        self._listed = dataclasses.replace(
            self._listed,
            files=files,
            counts=datasets.sum_counts(files),
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
        schema = datasets.spark_schema(MATCH)
        files = datasets.write(listed_frame(spark, targets).mapInArrow(search, schema), work, MATCH)
    if not sum(file.rows for file in files):
        return
    paths = [str((work / file.name).absolute()) for file in files]
    # Several datasets hold a document; some don't know its URL.
    rows = datasets.read_files(spark, paths, MATCH)
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
    clusters = datasets.read(spark, root / "clusters", listed, _CLUSTER).select(*KEY, "cluster")
    return found.join(clusters, on=list(KEY), how="left")


def _search(forgotten: str, tallies: str, batches: datasets.Batches) -> datasets.Batches:
    requests = forget.load(Path(forgotten))
    for target in each_target(tallies, batches):
        yield from forget_files.matches(target, requests)


def answered(
    spark: SparkSession, record: Record, asked: list[Request]
) -> tuple[list[Request], list[Request]]:
    """The requests asked for that ever matched a document, and the others."""
    rows: list[dict[str, Any]] = []
    frame = record.matches(spark)
    if frame is not None:
        rows = frame.select("by", "value").distinct().toArrow().to_pylist()
    hits = Requests(Request(row["by"], row["value"]) for row in rows)
    wanted = Requests(asked).listed()
    return [r for r in wanted if hits.find(r)], [r for r in wanted if not hits.find(r)]


def copies(spark: SparkSession, root: Path, record: Record) -> list[str]:
    """Ids of documents that are left of the clusters in which forgotten ones stood."""
    listed, gone = manifest.read(root / "clusters"), record.matches(spark)
    if listed is None or gone is None:
        return []
    clusters = datasets.read(spark, root / "clusters", listed, _CLUSTER)
    of = gone.select("cluster").filter(F.col("cluster").isNotNull()).distinct()
    left = clusters.join(of, on="cluster", how="left_semi").select("id").distinct()
    return sorted(left.toArrow()["id"].to_pylist())
