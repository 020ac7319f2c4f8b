"""Exact Jaccard similarity of pairs of documents: to verify links, and to estimate precision.

Texts are read again, and shingles stored, only for documents that are in a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from corpus.arrays import UInt64s
from corpus.dedup.minhash import jaccard, shingle_hashes
from corpus.dedup.precision_recall import estimate
from jobs.dedup import bands, links
from jobs.engine import dataset_io
from jobs.engine.dataset_io import Stored, store
from jobs.engine.progress import track
from jobs.engine.stage import Job
from schemas.datasets import JACCARD, KEY, PAIRS_TO_COMPARE, SHINGLES
from schemas.manifest import Estimate

# Hubs tried per bucket. Documents unlike the first hub are compared with the smallest among them,
# and so on; more distinct documents than this share a bucket only by chance.
MAX_HUBS = 16
MAX_SAMPLED_CHARS = 200_000
_LINKED = pa.schema([*links.MEMBERS, pa.field("hub", pa.int64())])


@dataclass(frozen=True)
class Side:
    """A root's `bands` and texts, in which documents are looked up."""

    nodes: DataFrame
    texts: DataFrame


def own_side(job: Job, nodes: DataFrame) -> Side:
    """The documents of this root."""
    return Side(nodes, bands.kept(job).select(*KEY, "text"))


def shingles(job: Job, wanted: DataFrame, side: Side, work: Path) -> Stored:
    """(node, shingles) of the nodes in `wanted`, distinct."""
    texts = _texts(wanted, side)
    with track(job.root, "dedup: shingles", 1, "step") as tallies:
        made = dataset_io.map_in_children(texts, "shingles", job.recipe_values(), SHINGLES, tallies)
        return store(job.spark, made, work, SHINGLES)


def _texts(wanted: DataFrame, side: Side) -> DataFrame:
    keys = wanted.join(side.nodes.select("node", *KEY), on="node", how="inner")
    return keys.join(side.texts, on=list(KEY), how="inner").select("node", "text")


def compare(job: Job, pairs: DataFrame, of_a: DataFrame, of_b: DataFrame, work: Path) -> Stored:
    """(a, b, similarity) of pairs (a, b), given (node, shingles) of both ends."""
    a = of_a.select(F.col("node").alias("a"), F.col("shingles").alias("shingles_a"))
    b = of_b.select(F.col("node").alias("b"), F.col("shingles").alias("shingles_b"))
    both = pairs.join(a, on="a", how="inner").join(b, on="b", how="inner")
    columns = both.select(*PAIRS_TO_COMPARE.names)
    with track(job.root, "dedup: compare", 1, "step") as tallies:
        made = dataset_io.map_in_children(columns, "compare", job.recipe_values(), JACCARD, tallies)
        return store(job.spark, made, work, JACCARD)


def ends(pairs: DataFrame) -> DataFrame:
    """(node): all documents in `pairs`."""
    return (
        pairs.select(F.col("a").alias("node"))
        .union(pairs.select(F.col("b").alias("node")))
        .distinct()
    )


def verified(job: Job, member: DataFrame, side: Side, work: Path) -> tuple[DataFrame, int]:
    """Edges (a, b) between similar members of a bucket, and the number left unverified.

    `member` is (band, hash, node). In each bucket all are compared with the smallest node; those
    unlike it form a bucket of their own and are compared again.
    """
    minimum = job.recipe.verify.min_similarity
    linked = _linked(job, member, work / "linked-0")
    known = shingles(job, ends(_pairs(linked.frame)), side, work / "shingles").frame
    edges = linked.frame.sparkSession.createDataFrame([], "a bigint, b bigint")
    for number in range(1, MAX_HUBS + 1):
        if not linked.rows:
            break
        pairs = _pairs(linked.frame).distinct()
        scored = compare(job, pairs, known, known, work / f"compared-{number}").frame
        alike = scored.filter(F.col("similarity") >= minimum).select("a", "b")
        edges = edges.union(alike)
        rest = linked.frame.join(
            alike.select(F.col("a").alias("node"), F.col("b").alias("hub")),
            on=["node", "hub"], how="left_anti",
        )  # fmt: skip
        linked = _linked(job, rest.select(*links.MEMBERS.names), work / f"linked-{number}")
    return edges.distinct(), linked.rows


def _linked(job: Job, member: DataFrame, folder: Path) -> Stored:
    """The members of buckets of two or more, without the hubs, each with its hub."""
    both = links.buckets(member).join(member, on=["band", "hash"], how="inner")
    others = both.filter(F.col("node") != F.col("hub")).select(*_LINKED.names)
    return store(job.spark, others, folder, _LINKED)


def _pairs(linked: DataFrame) -> DataFrame:
    return linked.select(F.col("node").alias("a"), F.col("hub").alias("b"))


def estimated(
    job: Job, nodes: DataFrame, linked: DataFrame, dropped: DataFrame, work: Path
) -> Estimate:
    """Precision and recall from a sample of the links (a, b) and of the dropped documents
    (a: dropped, b: survivor).

    The sample is small enough for this process, without children; pairs with a text of more than
    `MAX_SAMPLED_CHARS` are left out.
    """
    settings, minhash = job.recipe.verify, job.recipe.minhash
    samples = [_sample(pairs, settings.sample_pairs) for pairs in (linked, dropped)]
    wanted = pa.concat_tables(samples)
    known = dict[int, UInt64s]()
    if len(wanted):
        file = dataset_io.write_table(work, wanted)
        stored = dataset_io.read_files(job.spark, [str(work.absolute() / file.name)], links.EDGES)
        short = nodes.filter(F.col("num_chars") <= MAX_SAMPLED_CHARS)
        for batch in _texts(ends(stored), own_side(job, short)).toArrow().to_batches():
            for node, text in zip(
                batch["node"].to_pylist(), batch["text"].to_pylist(), strict=True
            ):
                known[node] = shingle_hashes(text, minhash)
    scored = [
        [jaccard(known[a], known[b]) for a, b in zip(*pairs.to_pydict().values(), strict=True)
         if a in known and b in known]
        for pairs in samples
    ]  # fmt: skip
    return estimate(scored[0], scored[1], minhash, settings.threshold(minhash))


def _sample(pairs: DataFrame, number: int) -> pa.Table:
    """Up to `number` pairs, independent of engine and order."""
    order = [F.xxhash64("a", "b"), F.col("a"), F.col("b")]
    chosen = pairs.select("a", "b").distinct().orderBy(*order).limit(number)
    return chosen.toArrow().cast(links.EDGES)
