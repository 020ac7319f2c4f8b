"""Which cluster a document is in, and what became of it there: the rows of `clusters`.

Only documents that are linked, or that an earlier root holds, are grouped; all others are clusters
of their own and stay.
"""

from __future__ import annotations

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas.datasets import CLUSTERS, KEY

EARLIER, NEAR, PASSAGES = "earlier_duplicate", "near_duplicate", "duplicate_passages"
CHOSEN = pa.schema([CLUSTERS.field(name) for name in CLUSTERS.names if name not in ("id", *KEY)])
_HELD = {"held_in": "string", "held_as": "string", "held_node": "bigint"}


def choose(
    nodes: DataFrame, labels: DataFrame, exact: DataFrame | None, held: DataFrame | None
) -> DataFrame:
    """Of every document that is linked or held earlier: its cluster, and what became of it."""
    member = _members(nodes, labels, held)
    best = member.groupBy("cluster").agg(
        F.min("rank").alias("rank"), F.count("*").alias("cluster_size")
    )
    stay = best.join(member, on=["cluster", "rank"], how="inner").select(
        "cluster", "cluster_size", F.col("node").alias("best"), F.col("id").alias("best_id")
    )
    stay = _with(stay, _held_clusters(labels, held), "cluster", _HELD)
    joined = stay.join(member.select("node", "cluster"), on="cluster", how="inner")
    joined = _with(joined, exact, "node", {"kind": "string"})
    stays, is_held = F.col("node") == F.col("best"), F.col("held_in").isNotNull()
    kind = F.coalesce("kind", F.when(~stays, F.lit(NEAR)).when(is_held, F.lit(EARLIER)))
    return joined.select(
        "node", "cluster", "cluster_size",
        F.when(is_held, F.col("held_as")).when(~stays, F.col("best_id")).alias("duplicate_of"),
        F.when(is_held, F.col("held_node")).when(~stays, F.col("best")).alias("duplicate_node"),
        F.col("held_in").alias("duplicate_root"),
        kind.alias("duplicate_kind"),
    )  # fmt: skip


def _members(nodes: DataFrame, labels: DataFrame, held: DataFrame | None) -> DataFrame:
    """Documents that are linked or held earlier, with their cluster."""
    if held is not None:
        alone = held.join(labels, on="node", how="left_anti")
        labels = labels.union(alone.select("node", F.col("node").alias("cluster")))
    return labels.join(nodes.select("node", "id", "rank"), on="node", how="inner")


def _held_clusters(labels: DataFrame, held: DataFrame | None) -> DataFrame | None:
    """(cluster, held_in, held_as, held_node): the first of what earlier roots hold of each."""
    if held is None:
        return None
    known = held.join(labels, on="node", how="left").withColumn("c", F.coalesce("cluster", "node"))
    first = known.groupBy("c").agg(F.min("held").alias("held"))
    named = held.select("held", *_HELD).distinct()
    return first.join(named, on="held", how="inner").select(F.col("c").alias("cluster"), *_HELD)


def _with(frame: DataFrame, more: DataFrame | None, on: str, columns: dict[str, str]) -> DataFrame:
    """`frame` with the columns of `more` where that has a row, null elsewhere."""
    if more is None:
        nulls = [F.lit(None).cast(kind).alias(name) for name, kind in columns.items()]
        return frame.select("*", *nulls)
    return frame.join(more.select(on, *columns), on=on, how="left")


def complete(nodes: DataFrame, chosen: DataFrame) -> DataFrame:
    """`clusters`: a row a document; what is linked to nothing is a cluster of its own."""
    known = chosen.join(nodes.select("node", "id", *KEY), on="node", how="right")
    return known.select(
        "node", "id", *KEY,
        F.coalesce("cluster", "node").alias("cluster"),
        F.coalesce("cluster_size", F.lit(1)).cast("long").alias("cluster_size"),
        "duplicate_of", "duplicate_node", "duplicate_root", "duplicate_kind",
    )  # fmt: skip
