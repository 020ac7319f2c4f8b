"""`judged` and `bands` -> `clusters`, `canonical`: duplicates found, one document of each kept.

1. Exact: of documents that agree in a hash (the text's; the URL's, the payload's by recipe) one
   goes on.
2. Near: documents that share a band are linked (`jobs.links`), the links verified where the recipe
   asks for it (`jobs.similarity`).
3. Connected components of all links are the clusters; the survivor policy says which document
   stays, unless an earlier root holds the cluster already (`jobs.earlier`).
4. Passages that several of those hold are cut out, where the recipe says so (`jobs.passages`).
5. What stays is written as `canonical`, its personal data scrubbed.

Also: spark-submit jobs/dedup.py --recipe R --root ROOT
"""

from __future__ import annotations

import functools
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import bands, clusters, components, datasets, earlier, links, passages, similarity
from jobs.datasets import store
from jobs.progress import track
from jobs.stage import Job, Stage, Written, balance
from schemas.datasets import CANONICAL, CLUSTERS, KEY, PII_KINDS, SURVIVORS

# Up to this many edges one process finds the components, beyond it the engine.
MAX_LOCAL_EDGES = 20_000_000


def inputs(job: Job) -> dict[str, str]:
    """The clusters of the earlier roots."""
    return earlier.fingerprints(job)


def run(job: Job) -> dict[str, Written]:
    """Clusters, then the documents that stay."""
    work = job.root / ".work" / "dedup"
    try:
        grouped, extra = _group(job, work)
        removed = None
        if job.recipe.passages.unit != "none":
            grouped, removed, extra["passages"] = _cut_passages(job, grouped, work / "passages")
        files = datasets.write(grouped, job.folder("clusters"), CLUSTERS, count_by="duplicate_kind")
        written = Written(files, datasets.sum_counts(files), extra)
        canonical = _write_canonical(job, written, removed)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"clusters": written, "canonical": canonical}


def check(job: Job, written: dict[str, Written]) -> None:
    """Documents kept = documents in clusters = duplicates + canonical ones."""
    counts = written["clusters"].counts
    balance("dedup", "documents", job.manifest("bands").counts["documents"], sum(counts.values()))
    canonical = sum(file.rows for file in written["canonical"].files)
    balance("dedup", "canonical documents", counts.get("kept", 0), canonical)


@dataclass(frozen=True)
class Links:
    """What links documents of this root: `exact` (node, hub, kind) and `near` (a, b), stored."""

    exact: DataFrame | None
    near: DataFrame
    counts: dict[str, int]

    @property
    def edges(self) -> DataFrame:
        """(a, b): all links."""
        if self.exact is None:
            return self.near
        return self.near.union(self.exact.select(F.col("node").alias("a"), F.col("hub").alias("b")))


def _group(job: Job, work: Path) -> tuple[DataFrame, dict[str, Any]]:
    """Rows of `clusters`, but for passages, and what the report says of them."""
    nodes = job.read("bands")
    found = _links(job, nodes, work)
    with track(job.root, "dedup: clusters", 1, "step"):
        labels = components.label(job.spark, found.edges, work, MAX_LOCAL_EDGES)
    held = earlier.match(job, nodes, work).frame if job.against else None
    with track(job.root, "dedup: survivors", 1, "step"):
        chosen = clusters.choose(nodes, labels.frame, found.exact, held)
        stored = store(job.spark, chosen, work / "chosen", clusters.CHOSEN).frame
    dropped = stored.filter(F.col("duplicate_kind") == clusters.NEAR)
    own = dropped.filter(F.col("duplicate_root").isNull())
    pairs = own.select(F.col("node").alias("a"), F.col("duplicate_node").alias("b"))
    estimate = similarity.estimated(job, nodes, found.near, pairs, work / "estimate")
    extra = {
        "links": found.counts,
        "components": {"rounds": labels.rounds, "edges": list(labels.edges)},
        "estimate": estimate.to_json(),
    }
    return clusters.complete(nodes, stored), extra


def _links(job: Job, nodes: DataFrame, work: Path) -> Links:
    """Exact duplicates first, near ones among what is left."""
    recipe, total = job.recipe, job.manifest("bands").counts["documents"]
    with track(job.root, "dedup: exact", 1, "step"):
        left, exact = links.exact(job.spark, nodes, recipe.exact.by, work)
    parts, unverified = [], 0
    for several in links.passes(total, recipe.minhash.bands):
        folder = work / f"near-{several.start}"
        if recipe.verify.min_similarity:
            member, side = links.memberships(left, several), similarity.own_side(job, nodes)
            near, missed = similarity.verified(job, member, side, folder)
            unverified += missed
        else:
            near = links.near(left, several)
        parts.append(store(job.spark, near, folder / "edges", links.EDGES))
    near = functools.reduce(DataFrame.union, [part.frame for part in parts])
    counts = {"near": sum(part.rows for part in parts), "unverified": unverified}
    return Links(exact, near, counts)


def _cut_passages(
    job: Job, grouped: DataFrame, work: Path
) -> tuple[DataFrame, DataFrame, dict[str, int]]:
    """`clusters` without the documents that go whole, (node, removed) of the others, counts."""
    stored = store(job.spark, grouped, work / "clusters", CLUSTERS)
    stays = stored.frame.filter(F.col("duplicate_kind").isNull()).select("node")
    total = stays.count()
    ranked = stays.join(job.read("bands").select("node", *KEY, "rank"), on="node", how="inner")
    texts = ranked.join(bands.kept(job).select(*KEY, "text"), on=list(KEY), how="inner")
    losses = passages.find(job, texts, total, work)
    gone = losses.frame.filter("dropped").select("node", F.lit(clusters.PASSAGES).alias("gone"))
    marked = gone.join(stored.frame, on="node", how="right")
    kind = F.coalesce("duplicate_kind", "gone").alias("duplicate_kind")
    columns = [kind if name == "duplicate_kind" else F.col(name) for name in CLUSTERS.names]
    return marked.select(*columns), losses.frame.select("node", "removed"), losses.counts


def _write_canonical(job: Job, written: Written, removed: DataFrame | None) -> Written:
    total = written.counts.get("kept", 0)
    stays = job.read_files("clusters", written.files).filter(F.col("duplicate_kind").isNull())
    if removed is None:
        stays = stays.withColumn("removed", F.lit(None).cast("array<int>"))
    else:
        stays = removed.join(stays, on="node", how="right")
    # The small side first: the texts are only streamed past it.
    survivors = (
        stays.select(*KEY, "cluster", "cluster_size", "removed")
        .join(bands.kept(job), on=list(KEY), how="inner")
        .select(*SURVIVORS.names)
    )
    with track(job.root, "dedup: canonical", total, "documents") as tallies:
        made = datasets.map_in_children(survivors, "scrub", job.recipe_values(), CANONICAL, tallies)
        files = datasets.write(made, job.folder("canonical"), CANONICAL)
    canonical = Written(files, {"documents": sum(file.rows for file in files)})
    return replace(canonical, extra={"pii": _count_pii(job.read_files("canonical", files))})


def _count_pii(canonical: DataFrame) -> dict[str, int]:
    """Pieces of personal data that were replaced or dropped, by kind."""
    sums = [F.coalesce(F.sum(f"pii.{kind}"), F.lit(0)).alias(kind) for kind in PII_KINDS]
    counted: dict[str, int] = canonical.agg(*sums).toArrow().to_pylist()[0]
    return counted


STAGE: Stage = Stage(
    name="dedup",
    reads=("judged", "bands"),
    writes=("clusters", "canonical"),
    sections=("exact", "minhash", "verify", "survivor", "passages", "pii"),
    run=run,
    check=check,
    inputs=inputs,
)

if __name__ == "__main__":
    from jobs.cli import main

    raise SystemExit(main(["dedup", *sys.argv[1:]]))
