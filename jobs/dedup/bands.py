"""`judged` -> `bands`: the hashes by which duplicates of each kept document are found.

This is the one pass of dedup that reads whole texts and needs CPU time. A later dump needs nothing
else of this one (`gristmill dedup --against`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from corpus.dedup import minhash
from corpus.dedup.survivor import Survivor
from jobs.engine import dataset_io
from jobs.engine.progress import track
from jobs.engine.stage import Job, Stage, Written, balance
from schemas.datasets import BANDS, KEY
from schemas.errors import UserError

_NUMBERS = (pa.types.is_integer, pa.types.is_floating)


def inputs(job: Job) -> dict[str, str]:
    """The hashing scheme: hashes of different schemes cannot be compared."""
    return {"minhash.scheme": minhash.SCHEME}


def run(job: Job) -> dict[str, Written]:
    """Hash every kept document."""
    total = job.manifest("judged").counts.get("kept", 0)
    signal = _signal(job.recipe.survivor, job.schema("judged")).alias("signal")
    columns = kept(job).select("id", *KEY, "date", "url", "payload_digest", "text", signal)
    with track(job.root, "bands", total, "documents") as tallies:
        made = dataset_io.map_in_children(columns, "bands", job.recipe_values(), BANDS, tallies)
        files = dataset_io.write(made, job.folder("bands"), BANDS)
    return {"bands": Written(files, _count(job.read_files("bands", files)))}


def check(job: Job, written: dict[str, Written]) -> None:
    """Every kept document has a row, and a node of its own."""
    counts = written["bands"].counts
    balance("bands", "documents kept", job.manifest("judged").counts.get("kept", 0),
            counts["documents"])  # fmt: skip
    balance("bands: distinct nodes", "documents", counts["documents"], counts["nodes"])


def kept(job: Job) -> DataFrame:
    """The rows of `judged` that no filter rejected."""
    return job.read("judged").filter(F.col("rejected_by").isNull())


def _count(nodes: DataFrame) -> dict[str, int]:
    """Documents, their distinct nodes, ids that another document has too, and short documents."""
    row = (
        nodes.agg(
            F.count("*").alias("documents"),
            F.countDistinct("node").alias("nodes"),
            F.countDistinct("id").alias("ids"),
            F.coalesce(F.sum((F.col("num_shingles") == 0).cast("long")), F.lit(0)).alias("short"),
        )
        .toArrow()
        .to_pylist()[0]
    )
    counts = {name: row[name] for name in ("documents", "nodes")}
    return counts | {"repeated_ids": row["documents"] - row["ids"], "unsigned": row["short"]}


def _signal(policy: Survivor, judged: pa.Schema) -> Column:
    """The column that the survivor policy compares, as a number; NaN compares as nothing does."""
    if not policy.by_signal:
        return F.lit(None).cast("double")
    known = dict(_numbers(judged))
    if policy.signal not in known:
        raise UserError(
            f"survivor.signal = {policy.signal!r}: is not a numeric column of `judged`; this "
            f"recipe has {', '.join(known)}"
        )
    value = F.col(policy.signal).cast("double")
    return F.when(~F.isnan(value), value)


def _numbers(judged: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Numeric columns, those of a filter's struct as `filter.signal`."""
    for field in judged:
        parts = field.type if pa.types.is_struct(field.type) else [field]
        prefix = f"{field.name}." if pa.types.is_struct(field.type) else ""
        for part in parts:
            if any(is_number(part.type) for is_number in _NUMBERS):
                yield f"{prefix}{part.name}", part.type


STAGE = Stage(
    name="bands",
    reads=("judged",),
    writes=("bands",),
    sections=("minhash", "survivor"),
    run=run,
    check=check,
    inputs=inputs,
)
