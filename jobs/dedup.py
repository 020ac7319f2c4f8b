"""`judged` -> `bands`, `clusters`, `canonical`: exact and near-duplicates, one document kept.

1. Every kept document gets a hash of its normalised text and one hash a band of its MinHash
   signature (`bands`).
2. Documents that share a text hash or a band are linked, each to the smallest of them: n documents
   in a bucket make n - 1 edges, however large it is.
3. Connected components are the clusters; the recipe's survivor policy says which document stays.
4. What stays is written as `canonical`, its personal data scrubbed.

Also: spark-submit jobs/dedup.py --recipe R --root ROOT
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs import components, datasets
from jobs.progress import track
from jobs.stage import Job, Stage, Written, balance
from schemas.datasets import BANDS, CANONICAL, CLUSTERS, KEY, PII_KINDS

# The text hash takes part as one more band.
_EXACT = -1
# Up to this many edges (16 bytes each) one process finds the components, beyond it the engine.
MAX_LOCAL_EDGES = 20_000_000


def run(job: Job) -> dict[str, Written]:
    """Bands, then clusters, then the documents that stay."""
    work = job.root / ".work" / "dedup"
    try:
        bands = _write_bands(job)
        bands.counts["repeated_ids"] = _count_repeated_ids(_read(job, "bands", bands))
        clusters = _write_clusters(job, bands, work)
        canonical = _write_canonical(job, clusters)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"bands": bands, "clusters": clusters, "canonical": canonical}


def check(job: Job, written: dict[str, Written]) -> None:
    """Documents kept = documents in clusters = duplicates + canonical ones."""
    kept = job.manifest("judged").counts.get("kept", 0)
    clusters = written["clusters"].counts
    balance("dedup", "documents kept", kept, sum(clusters.values()))
    canonical = sum(file.rows for file in written["canonical"].files)
    balance("dedup", "canonical documents", clusters.get("kept", 0), canonical)


def _kept(job: Job) -> DataFrame:
    return job.read("judged").filter(F.col("rejected_by").isNull())


def _write_bands(job: Job) -> Written:
    total = job.manifest("judged").counts.get("kept", 0)
    columns = _kept(job).select("id", *KEY, "date", "text")
    with track(job.root, "dedup: signatures", total, "documents") as tallies:
        made = datasets.map_in_children(columns, "bands", job.recipe_values(), BANDS, tallies)
        files = datasets.write(made, job.folder("bands"), BANDS)
    return Written(files, {"documents": sum(file.rows for file in files)})


def _write_clusters(job: Job, bands: Written, work: Path) -> Written:
    nodes = _read(job, "bands", bands)
    with track(job.root, "dedup: clusters", 1, "step"):
        labels = components.label(job.spark, _edges(nodes), work, MAX_LOCAL_EDGES)
        clusters = _choose(nodes, labels, _preference(job.recipe.survivor.keep))
        files = datasets.write(
            clusters, job.folder("clusters"), CLUSTERS, count_by="duplicate_kind"
        )
    return Written(files, datasets.sum_counts(files))


def _count_repeated_ids(nodes: DataFrame) -> int:
    """Documents whose id another one has too; two on one node are refused."""
    counted = (
        nodes.agg(
            F.count("*").alias("documents"),
            F.countDistinct("node").alias("nodes"),
            F.countDistinct("id").alias("ids"),
        )
        .toArrow()
        .to_pylist()[0]
    )
    balance("dedup: distinct nodes", "documents", counted["documents"], counted["nodes"])
    return int(counted["documents"] - counted["ids"])


def _edges(nodes: DataFrame) -> DataFrame:
    """(a, b): each document linked to the smallest node that shares a band or the text with it."""
    exact = nodes.select("node", F.lit(_EXACT).alias("band"), F.col("text_hash").alias("hash"))
    near = nodes.select("node", F.posexplode("bands").alias("band", "hash"))
    shared = exact.union(near)
    hubs = shared.groupBy("band", "hash").agg(F.min("node").alias("hub"), F.count("*").alias("n"))
    linked = shared.join(hubs.filter(F.col("n") > 1), on=["band", "hash"], how="inner")
    edges = linked.filter(F.col("node") != F.col("hub"))
    return edges.select(F.col("node").alias("a"), F.col("hub").alias("b")).distinct()


def _preference(keep: str) -> Column:
    """A struct whose smallest value is the document to keep; total, so that it never ties."""
    first = {
        "longest": [-F.col("num_chars"), F.col("captured")],
        "earliest": [F.col("captured")],
        "latest": [-F.col("captured")],
        "first": [],
    }[keep]
    return F.struct(*first, F.col("id"), *[F.col(name) for name in KEY])


def _choose(nodes: DataFrame, labels: DataFrame, preference: Column) -> DataFrame:
    """One row a document: its cluster and, unless it stays, of which document it is a copy."""
    member = nodes.join(labels, on="node", how="left").select(
        "node", "id", *KEY, "text_hash", F.coalesce("cluster", "node").alias("cluster"),
        preference.alias("rank"),
    )  # fmt: skip
    clusters = member.groupBy("cluster").agg(
        F.min("rank").alias("best"), F.count("*").alias("cluster_size")
    )
    texts = member.groupBy("text_hash").agg(F.min("rank").alias("best_of_text"))
    joined = member.join(clusters, on="cluster", how="inner").join(
        texts, on="text_hash", how="inner"
    )
    kind = (
        F.when(F.col("rank") == F.col("best"), F.lit(None).cast("string"))
        .when(F.col("rank") != F.col("best_of_text"), F.lit("exact_duplicate"))
        .otherwise(F.lit("near_duplicate"))
    )
    return joined.select(
        "node", "id", *KEY, "cluster", "cluster_size",
        F.when(F.col("rank") != F.col("best"), F.col("best.id")).alias("duplicate_of"),
        kind.alias("duplicate_kind"),
    )  # fmt: skip


def _write_canonical(job: Job, clusters: Written) -> Written:
    total = clusters.counts.get("kept", 0)
    stays = _read(job, "clusters", clusters).filter(F.col("duplicate_of").isNull())
    survivors = (
        _kept(job)
        .join(stays.select(*KEY, "cluster_size"), on=list(KEY), how="inner")
        .select(*[name for name in CANONICAL.names if name != "pii"])
    )
    with track(job.root, "dedup: canonical", total, "documents") as tallies:
        made = datasets.map_in_children(survivors, "scrub", job.recipe_values(), CANONICAL, tallies)
        files = datasets.write(made, job.folder("canonical"), CANONICAL)
    written = Written(files, {"documents": sum(file.rows for file in files)})
    return replace(written, extra={"pii": _count_pii(_read(job, "canonical", written))})


def _count_pii(canonical: DataFrame) -> dict[str, int]:
    """Pieces of personal data that were replaced or dropped, by kind."""
    sums = [F.coalesce(F.sum(f"pii.{kind}"), F.lit(0)).alias(kind) for kind in PII_KINDS]
    counted: dict[str, int] = canonical.agg(*sums).toArrow().to_pylist()[0]
    return counted


def _read(job: Job, dataset: str, written: Written) -> DataFrame:
    paths = [str(job.folder(dataset).absolute() / file.name) for file in written.files]
    return datasets.read_files(job.spark, paths, job.schema(dataset))


STAGE: Stage = Stage(
    name="dedup",
    reads=("judged",),
    writes=("bands", "clusters", "canonical"),
    sections=("minhash", "survivor", "pii"),
    run=run,
    check=check,
)

if __name__ == "__main__":
    from jobs.cli import main

    raise SystemExit(main(["dedup", *sys.argv[1:]]))
