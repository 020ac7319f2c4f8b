"""`judged`, `bands` -> `clusters`, `canonical`: find duplicates, keep one document of each cluster.

1. Exact duplicates: documents with an equal hash of the text (or of the URL or payload, as the
   recipe says); all but one are dropped.
2. Near-duplicates: documents that share a band are linked (`links`); with `verify.min_similarity`
   the links are verified by exact Jaccard similarity (`verify`).
3. The connected components of all links are the clusters (`components`). The survivor policy
   chooses the document that stays, unless an earlier root holds the cluster (`cross_dump`).
4. With `passages.unit`, passages repeated between survivors are removed (`repeated_lines`).
5. Survivors are written as `canonical`, with personal data scrubbed.

Only documents that are linked, or that an earlier root holds, are grouped. All others are clusters
of one.
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.dedup import bands, components, cross_dump, links, repeated_lines, verify
from jobs.engine import dataset_io
from jobs.engine.dataset_io import store
from jobs.engine.progress import track
from jobs.engine.stage import Job, Stage, Written, balance
from schemas.datasets import CANONICAL, CLUSTERS, KEY, PII_KINDS, SURVIVORS
from schemas.manifest import CanonicalExtra, ClustersExtra, Components

EARLIER, NEAR, PASSAGES = "earlier_duplicate", "near_duplicate", "duplicate_passages"
CHOSEN = pa.schema([CLUSTERS.field(name) for name in CLUSTERS.names if name not in ("id", *KEY)])
_HELD = {"held_in": "string", "held_as": "string", "held_node": "bigint"}


# Up to this many edges one process finds the components, beyond it the engine.
MAX_LOCAL_EDGES = 20_000_000


def inputs(job: Job) -> dict[str, str]:
    """The clusters of the earlier roots."""
    return cross_dump.fingerprints(job)


def run(job: Job) -> dict[str, Written]:
    """Clusters, then the documents that stay."""
    work = job.root / ".work" / "dedup"
    try:
        grouped, extra = _group(job, work)
        removed = None
        if job.recipe.passages.unit != "none":
            grouped, removed, passages = _cut_passages(job, grouped, work / "passages")
            extra = replace(extra, passages=passages)
        files = dataset_io.write(
            grouped, job.folder("clusters"), CLUSTERS, count_by="duplicate_kind"
        )
        written = Written(files, dataset_io.sum_counts(files), extra)
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


def _group(job: Job, work: Path) -> tuple[DataFrame, ClustersExtra]:
    """Rows of `clusters` before passages are removed, and the manifest's `extra`."""
    nodes = job.read("bands")
    found = _links(job, nodes, work)
    with track(job.root, "dedup: clusters", 1, "step"):
        labels = components.label(job.spark, found.edges, work, MAX_LOCAL_EDGES)
    held = cross_dump.match(job, nodes, work).frame if job.against else None
    with track(job.root, "dedup: survivors", 1, "step"):
        chosen = choose(nodes, labels.frame, found.exact, held)
        stored = store(job.spark, chosen, work / "chosen", CHOSEN).frame
    dropped = stored.filter(F.col("duplicate_kind") == NEAR)
    own = dropped.filter(F.col("duplicate_root").isNull())
    pairs = own.select(F.col("node").alias("a"), F.col("duplicate_node").alias("b"))
    estimate = verify.estimated(job, nodes, found.near, pairs, work / "estimate")
    rounds = Components(labels.rounds, tuple(labels.edges))
    return complete(nodes, stored), ClustersExtra(found.counts, rounds, estimate)


def _links(job: Job, nodes: DataFrame, work: Path) -> Links:
    """Exact duplicates, then near-duplicates among the rest."""
    recipe, total = job.recipe, job.manifest("bands").counts["documents"]
    with track(job.root, "dedup: exact", 1, "step"):
        left, exact = links.exact(job.spark, nodes, recipe.exact.by, work)
    parts, unverified = [], 0
    for several in links.passes(total, recipe.minhash.bands):
        folder = work / f"near-{several.start}"
        if recipe.verify.min_similarity:
            member, side = links.memberships(left, several), verify.own_side(job, nodes)
            near, missed = verify.verified(job, member, side, folder)
            unverified += missed
        else:
            near = links.near(left, several)
        parts.append(store(job.spark, near, folder / "edges", links.EDGES))
    near = functools.reduce(DataFrame.union, [part.frame for part in parts])
    counts = {"near": sum(part.rows for part in parts), "unverified": unverified}
    return Links(exact, near, counts)


def choose(
    nodes: DataFrame, labels: DataFrame, exact: DataFrame | None, held: DataFrame | None
) -> DataFrame:
    """The cluster and the fate of every document that is linked or that an earlier root holds."""
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
    """Documents that are linked or that an earlier root holds, with their cluster."""
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
    """Rows of `clusters`, one per document; a document without links is a cluster of one."""
    known = chosen.join(nodes.select("node", "id", *KEY), on="node", how="right")
    return known.select(
        "node", "id", *KEY,
        F.coalesce("cluster", "node").alias("cluster"),
        F.coalesce("cluster_size", F.lit(1)).cast("long").alias("cluster_size"),
        "duplicate_of", "duplicate_node", "duplicate_root", "duplicate_kind",
    )  # fmt: skip


def _cut_passages(
    job: Job, grouped: DataFrame, work: Path
) -> tuple[DataFrame, DataFrame, dict[str, int]]:
    """`clusters` with documents left too short marked, (node, removed) of the others, counts."""
    stored = store(job.spark, grouped, work / "clusters", CLUSTERS)
    stays = stored.frame.filter(F.col("duplicate_kind").isNull()).select("node")
    total = stays.count()
    ranked = stays.join(job.read("bands").select("node", *KEY, "rank"), on="node", how="inner")
    texts = ranked.join(bands.kept(job).select(*KEY, "text"), on=list(KEY), how="inner")
    losses = repeated_lines.find(job, texts, total, work)
    gone = losses.frame.filter("dropped").select("node", F.lit(PASSAGES).alias("gone"))
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
    # The small side first, so that the texts are only streamed past it.
    survivors = (
        stays.select(*KEY, "cluster", "cluster_size", "removed")
        .join(bands.kept(job), on=list(KEY), how="inner")
        .select(*SURVIVORS.names)
    )
    with track(job.root, "dedup: canonical", total, "documents") as tallies:
        made = dataset_io.map_in_children(
            survivors, "scrub", job.recipe_values(), CANONICAL, tallies
        )
        files = dataset_io.write(made, job.folder("canonical"), CANONICAL)
    canonical = Written(files, {"documents": sum(file.rows for file in files)})
    pii = _count_pii(job.read_files("canonical", files))
    return replace(canonical, extra=CanonicalExtra(pii))


def _count_pii(canonical: DataFrame) -> dict[str, int]:
    """Numbers of personal data items replaced or dropped, by kind."""
    sums = [F.coalesce(F.sum(f"pii.{kind}"), F.lit(0)).alias(kind) for kind in PII_KINDS]
    counted: dict[str, int] = canonical.agg(*sums).toArrow().to_pylist()[0]
    return counted


STAGE = Stage(
    name="dedup",
    reads=("judged", "bands"),
    writes=("clusters", "canonical"),
    sections=("exact", "minhash", "verify", "survivor", "passages", "pii"),
    run=run,
    check=check,
    inputs=inputs,
)
