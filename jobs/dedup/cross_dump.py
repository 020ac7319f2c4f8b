"""Find documents that earlier roots (`--against`) hold: those that share a band or a hash.

Only the `bands` and `clusters` of earlier roots are read; nothing of theirs is computed again. If a
bucket has several earlier documents, the one of the first root on the command line is used (always
the same one), and the survivor of its cluster is recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from corpus.dedup import minhash
from corpus.dedup.exact import COLUMNS, Key
from jobs.dedup import links, verify
from jobs.dedup.verify import Side
from jobs.engine import dataset_io
from jobs.engine.dataset_io import Stored, store
from jobs.engine.roots import check_path, refuse_unfinished
from jobs.engine.stage import Job
from schemas import manifest
from schemas.datasets import BANDS, CLUSTERS, DOCUMENTS, KEY
from schemas.errors import UserError
from schemas.manifest import Manifest

# Everything that decides a band's hash: `threshold` only chose bands and rows.
_COMPARED = ("scheme", "ngram", "bands", "rows", "seed")
MATCHES = pa.schema(
    [
        ("node", pa.int64()),
        ("held", pa.string()),  # place of the root on the command line, and the node there
    ]
)
NAMED = pa.schema(
    [
        *MATCHES,
        pa.field("held_in", pa.string()),  # the root as it was named
        pa.field("held_as", pa.string()),  # id of the document that stayed there
        pa.field("held_node", pa.int64()),  # and its node
    ]
)


@dataclass(frozen=True)
class EarlierRoot:
    """A root that was deduplicated before: its manifests, checked against this recipe."""

    folder: Path
    bands: Manifest
    clusters: Manifest


def open_roots(job: Job) -> tuple[EarlierRoot, ...]:
    """The roots of `--against`; `UserError` if one has no bands, or incompatible ones."""
    return tuple(_open(job, folder) for folder in job.against)


def _open(job: Job, folder: Path) -> EarlierRoot:
    if folder.resolve() == job.root.resolve():
        raise UserError(f"--against {folder}: is the --root itself; name the roots of other dumps")
    check_path("--against", folder)
    refuse_unfinished(folder)
    found = {name: manifest.read(folder / name) for name in ("bands", "clusters")}
    for name, listed in found.items():
        if listed is None:
            raise UserError(f"--against {folder}: no {name} were committed in {folder / name}; "
                            "run gristmill dedup on that root first")  # fmt: skip
    bands, clusters = found["bands"], found["clusters"]
    assert bands
    assert clusters
    _check_parameters(job, folder, bands)
    if clusters.inputs.get("bands") != bands.fingerprint:
        raise UserError(f"--against {folder}: its clusters were made from other bands; "
                        "run gristmill dedup on that root again")  # fmt: skip
    return EarlierRoot(folder, bands, clusters)


def _check_parameters(job: Job, folder: Path, bands: Manifest) -> None:
    there = bands.settings.get("minhash", {}) | {"scheme": bands.inputs.get("minhash.scheme")}
    here = job.recipe.settings("minhash")["minhash"] | {"scheme": minhash.SCHEME}
    differing = [name for name in _COMPARED if there.get(name) != here[name]]
    if differing:
        values = ", ".join(f"{n} = {there.get(n)!r} there, {here[n]!r} here" for n in differing)
        raise UserError(
            f"--against {folder}: its bands were written with other parameters, minhash: {values}; "
            "they can't be compared. Use the recipe that wrote them, or rebuild them"
        )


def fingerprints(job: Job) -> dict[str, str]:
    """The fingerprints of the earlier roots' clusters, inputs of this root's clusters."""
    roots = enumerate(open_roots(job))
    return {f"against.{i}": root.clusters.fingerprint for i, root in roots}


def match(job: Job, nodes: DataFrame, work: Path) -> Stored:
    """Rows of `NAMED`: the documents that an earlier root holds, and its document for each."""
    roots = open_roots(job)
    found = [
        part
        for i, root in enumerate(roots)
        for part in _matches(job, nodes, root, i, work / f"against-{i}")
    ]
    first = (
        functools.reduce(DataFrame.union, found).groupBy("node").agg(F.min("held").alias("held"))
    )
    named = first.join(_names(job, roots), on="held", how="inner")
    return store(job.spark, named.select(*NAMED.names), work / "earlier", NAMED)


def _held(place: int, node: str) -> Column:
    """A sort key: by root, then in a fixed arbitrary order."""
    return F.concat(F.lit(f"{place:06}-"), F.hex(node))


def _names(job: Job, roots: tuple[EarlierRoot, ...]) -> DataFrame:
    """(held, held_in, held_as, held_node): the survivor of each earlier document, and its root."""
    frames = [
        dataset_io.read(job.spark, root.folder / "clusters", root.clusters, CLUSTERS).select(
            _held(i, "node").alias("held"),
            F.coalesce("duplicate_root", F.lit(str(root.folder))).alias("held_in"),
            F.coalesce("duplicate_of", "id").alias("held_as"),
            F.coalesce("duplicate_node", "node").alias("held_node"),
        )
        for i, root in enumerate(roots)
    ]
    return functools.reduce(DataFrame.union, frames)


def _matches(
    job: Job, nodes: DataFrame, root: EarlierRoot, place: int, work: Path
) -> Iterator[DataFrame]:
    """Rows of `MATCHES` of all buckets with documents of both roots."""
    theirs = dataset_io.read(job.spark, root.folder / "bands", root.bands, BANDS)

    def stored(pairs: DataFrame, name: str) -> DataFrame:
        rows = pairs.select("node", _held(place, "earlier").alias("held"))
        return store(job.spark, rows, work / name, MATCHES).frame

    for i, key in enumerate(job.recipe.exact.by, 1):
        yield stored(_shared(_exact(nodes, i, key), _exact(theirs, i, key)), f"exact-{i}")
    total = max(root.bands.rows, job.manifest("bands").rows)
    for bands in links.passes(total, job.recipe.minhash.bands):
        near = _shared(*(links.memberships(side, bands) for side in (nodes, theirs)))
        if job.recipe.verify.min_similarity:
            near = _verified(job, near, nodes, theirs, root, work / f"verify-{bands.start}")
        yield stored(near, f"near-{bands.start}")


def _exact(side: DataFrame, number: int, key: Key) -> DataFrame:
    hashed = F.col(COLUMNS[key])
    rows = side.select(F.lit(-number).alias("band"), hashed.alias("hash"), "node")
    return rows.filter(F.col("hash").isNotNull())


def _shared(ours: DataFrame, theirs: DataFrame) -> DataFrame:
    """(node, earlier): each of our documents with the smallest of theirs in the same bucket."""
    wanted = ours.select("band", "hash").distinct()
    hubs = wanted.join(theirs, on=["band", "hash"], how="inner")
    hubs = hubs.groupBy("band", "hash").agg(F.min("node").alias("earlier"))
    return hubs.join(ours, on=["band", "hash"], how="inner").select("node", "earlier").distinct()


def _verified(
    job: Job, near: DataFrame, nodes: DataFrame, theirs: DataFrame, root: EarlierRoot, work: Path
) -> DataFrame:
    """The pairs whose similarity reaches the recipe's minimum; reads the earlier texts too."""
    named = near.select(F.col("node").alias("a"), F.col("earlier").alias("b"))
    pairs = store(job.spark, named, work / "pairs", links.EDGES).frame
    ours = verify.own_side(job, nodes)
    wanted = [pairs.select(F.col(end).alias("node")).distinct() for end in ("a", "b")]
    of_a = verify.shingles(job, wanted[0], ours, work / "ours").frame
    side = Side(theirs, _texts(job, root))
    of_b = verify.shingles(job, wanted[1], side, work / "theirs").frame
    scored = verify.compare(job, pairs, of_a, of_b, work / "compared").frame
    alike = scored.filter(F.col("similarity") >= job.recipe.verify.min_similarity)
    return alike.select(F.col("a").alias("node"), F.col("b").alias("earlier"))


def _texts(job: Job, root: EarlierRoot) -> DataFrame:
    folder = root.folder / "judged"
    listed = manifest.read(folder)
    if listed is None:
        raise UserError(
            f"--against {root.folder}: verify.min_similarity = "
            f"{job.recipe.verify.min_similarity} compares texts, and {folder} holds none"
        )
    columns = [*KEY, "text"]
    schema = pa.schema([DOCUMENTS.field(name) for name in columns])
    return dataset_io.read(job.spark, folder, listed, schema)
