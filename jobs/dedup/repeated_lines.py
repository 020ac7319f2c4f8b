"""Find the passages that each survivor loses because several survivors share them.

1. Child processes list every survivor's units by hash (`corpus/dedup/line_hashes.py`).
2. A count per hash, combined before the shuffle, finds those in `min_documents` or more documents.
3. The first document by the survivor policy keeps a shared passage (or none does): a minimum per
   hash, combined likewise. A banner on a million pages is never gathered in one place; in the two
   joins by hash its rows, about 30 bytes each, stream through one task.
4. Removals are gathered per document. A document with too few words left is dropped. The passages
   that it would have kept go to the next document that has them. That document then loses less, so
   one more round is enough.

Results do not depend on partitions or order: counts, smallest ranks and sorted places. In a join
the small side stands first, because Sail builds its hash table from that side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from corpus.dedup.line_hashes import LISTED, Passages
from jobs.engine import dataset_io
from jobs.engine.dataset_io import store
from jobs.engine.progress import track
from jobs.engine.stage import Job

SHARED = pa.schema(
    [
        ("hash", pa.int64()),
        ("node", pa.int64()),
        ("place", pa.int32()),
        ("words", pa.int32()),
        ("chars", pa.int32()),
    ]
)
LOSSES = pa.schema(
    [
        ("node", pa.int64()),
        ("removed", pa.list_(pa.int32())),  # numbers of the units that go, ascending
        ("removed_chars", pa.int64()),
        ("dropped", pa.bool_()),  # too few words left: the document goes whole
    ]
)


@dataclass(frozen=True)
class Losses:
    """`frame` has the columns `LOSSES` and a row for each document that loses something.

    `counts`: `passages` looked at; of the documents that stay, `changed`, and `removed` passages
    with their `removed_chars`; documents `dropped` whole.
    """

    frame: DataFrame
    counts: dict[str, int]


def find(job: Job, survivors: DataFrame, total: int, work: Path) -> Losses:
    """The passages that `survivors` (`node`, `rank`, `text`) lose to each other.

    `rank` is what the survivor policy orders by, the smallest first, no two alike; `total` the
    number of survivors, for the progress bar. All that is written goes under `work`.
    """
    with track(job.root, "dedup: passages", total, "documents") as tallies:
        made = dataset_io.map_in_children(
            survivors.select("node", "text"), "passages", job.recipe_values(), LISTED, tallies
        )
        listed = store(job.spark, made, work / "listed", LISTED).frame
    return lost(survivors.select("node", "rank"), listed, job.recipe.passages, work)


def lost(ranks: DataFrame, listed: DataFrame, settings: Passages, work: Path) -> Losses:
    """What the documents of `listed` lose to each other; `ranks` has their (`node`, `rank`)."""
    spark = listed.sparkSession
    held = _shared(listed, settings.min_documents)
    shared = store(spark, held, work / "shared", SHARED).frame
    first = _losses(listed, shared, ranks, settings)
    losses = store(spark, first, work / "losses-1", LOSSES).frame
    dropped = losses.filter("dropped")
    if settings.keep == "first" and dropped.count():
        again = _losses(listed, _without(dropped, shared), ranks, settings)
        both = _without(dropped, again).union(dropped)
        losses = store(spark, both, work / "losses-2", LOSSES).frame
    return Losses(losses, _count(listed, losses))


def _units(listed: DataFrame) -> DataFrame:
    """One row a unit that counts, columns of `SHARED` and `again`."""
    exploded = listed.select("node", F.explode("units").alias("unit"))
    return exploded.select(
        F.col("unit.hash").alias("hash"), "node", F.col("unit.place").alias("place"),
        F.col("unit.words").alias("words"), F.col("unit.chars").alias("chars"),
        F.col("unit.again").alias("again"),
    )  # fmt: skip


def _shared(listed: DataFrame, min_documents: int) -> DataFrame:
    """The units that so many documents have, each once a document."""
    once = _units(listed).filter(~F.col("again"))
    counted = once.groupBy("hash").agg(F.count("*").alias("documents"))
    often = counted.filter(F.col("documents") >= min_documents).select("hash")
    return often.join(once, on="hash", how="inner").select(*SHARED.names)


def _losses(
    listed: DataFrame, shared: DataFrame, ranks: DataFrame, settings: Passages
) -> DataFrame:
    """`LOSSES` where the first of the documents in `shared` keeps a unit, or none does."""
    going = shared
    if settings.keep == "first":
        ranked = shared.join(ranks, on="node", how="inner")
        keepers = ranked.groupBy("hash").agg(F.min("rank").alias("first"))
        going = keepers.join(ranked, on="hash", how="inner").filter("rank != first")
    size = ["node", "place", "words", "chars"]
    both = going.select(*size).union(_units(listed).filter("again").select(*size))
    gathered = both.groupBy("node").agg(
        F.array_sort(F.collect_list("place")).alias("removed"),
        F.sum("words").alias("words"),
        F.sum("chars").alias("removed_chars"),
    )
    left = F.col("num_words") - F.col("words")
    return gathered.join(listed.select("node", "num_words"), on="node", how="inner").select(
        "node", "removed", "removed_chars", (left < settings.min_words_left).alias("dropped")
    )


def _without(gone: DataFrame, frame: DataFrame) -> DataFrame:
    """The rows of `frame` whose node is not in `gone`."""
    nodes = gone.select(F.col("node").alias("gone"))
    marked = nodes.join(frame, on=F.col("gone") == F.col("node"), how="right")
    return marked.filter(F.col("gone").isNull()).select(*frame.columns)


def _count(listed: DataFrame, losses: DataFrame) -> dict[str, int]:
    stays = ~F.col("dropped")
    sums = {
        "changed": F.sum(stays.cast("long")),
        "removed": F.sum(F.when(stays, F.size("removed"))),
        "removed_chars": F.sum(F.when(stays, F.col("removed_chars"))),
        "dropped": F.sum(F.col("dropped").cast("long")),
    }
    return _sums(listed, {"passages": F.sum("num_units")}) | _sums(losses, sums)


def _sums(frame: DataFrame, columns: dict[str, Column]) -> dict[str, int]:
    named = [F.coalesce(column, F.lit(0)).alias(name) for name, column in columns.items()]
    found: dict[str, int] = frame.agg(*named).toArrow().to_pylist()[0]
    return found
