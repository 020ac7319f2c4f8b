"""Link duplicates: edges between documents (nodes), as DataFrames.

Documents are grouped, never compared pair by pair. Those that share a hash are each linked to one
of them, the hub, so that a bucket of n documents makes n - 1 edges.

In a join the small side stands first, because Sail builds its hash table from that side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from corpus.dedup.exact import COLUMNS, KINDS, Key
from jobs.engine.dataset_io import store

EDGES = pa.schema([("a", pa.int64()), ("b", pa.int64())])
_DROPPED = pa.schema([("node", pa.int64()), ("hub", pa.int64()), ("kind", pa.string())])
MEMBERS = pa.schema([("band", pa.int32()), ("hash", pa.int64()), ("node", pa.int64())])
# Documents x bands grouped at once; above it, bands are processed in several passes.
MAX_MEMBERSHIPS = 8_000_000


def exact(
    spark: SparkSession, nodes: DataFrame, by: tuple[Key, ...], work: Path
) -> tuple[DataFrame, DataFrame | None]:
    """`nodes` without exact duplicates, and (node, hub, kind) of those by the hashes in `by`.

    Keys apply one after the other: a document dropped by one takes no part in the next. The hub is
    the document that the survivor policy prefers.
    """
    found: DataFrame | None = None
    for key in by:
        folder = work / f"exact-{key}"
        dropped = store(spark, _agreeing(nodes, key), folder, _DROPPED)
        if dropped.rows:
            nodes = nodes.join(dropped.frame.select("node"), on="node", how="left_anti")
            found = found.union(dropped.frame) if found is not None else dropped.frame
    return nodes, found


def _agreeing(nodes: DataFrame, key: Key) -> DataFrame:
    """The documents equal in `key` to a preferred one, with that one as their hub."""
    hashed = nodes.select("node", "rank", F.col(COLUMNS[key]).alias("hash"))
    shared = hashed.groupBy("hash").agg(F.count("hash").alias("n")).filter(F.col("n") > 1)
    members = shared.select("hash").join(hashed, on="hash", how="inner")
    best = members.groupBy("hash").agg(F.min("rank").alias("rank"))
    hubs = best.join(members, on=["hash", "rank"], how="inner")
    linked = hubs.select("hash", F.col("node").alias("hub")).join(members, on="hash", how="inner")
    return linked.filter(F.col("node") != F.col("hub")).select(
        "node", "hub", F.lit(KINDS[key]).alias("kind")
    )


def memberships(nodes: DataFrame, bands: range) -> DataFrame:
    """(band, hash, node): one bucket per band for every document with a signature."""
    several = F.slice("bands", bands.start + 1, len(bands))
    member = nodes.select("node", F.posexplode(several).alias("place", "hash"))
    return member.select((F.col("place") + bands.start).alias("band"), "hash", "node")


def passes(num_documents: int, num_bands: int) -> Iterator[range]:
    """Ranges of bands, each with at most `MAX_MEMBERSHIPS` memberships."""
    at_once = max(1, min(num_bands, MAX_MEMBERSHIPS // max(1, num_documents)))
    for start in range(0, num_bands, at_once):
        yield range(start, min(start + at_once, num_bands))


def near(nodes: DataFrame, bands: range) -> DataFrame:
    """(a, b): each document linked to the smallest node of its buckets, for a range of bands."""
    member = memberships(nodes, bands)
    linked = buckets(member).join(member, on=["band", "hash"], how="inner")
    edges = linked.filter(F.col("node") != F.col("hub"))
    return edges.select(F.col("node").alias("a"), F.col("hub").alias("b")).distinct()


def buckets(member: DataFrame) -> DataFrame:
    """(band, hash, hub): the buckets of two or more documents, with their smallest node."""
    hubs = member.groupBy("band", "hash").agg(F.min("node").alias("hub"), F.count("*").alias("n"))
    return hubs.filter(F.col("n") > 1).select("band", "hash", "hub")
