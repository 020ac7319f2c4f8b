"""`documents` -> `judged`: all signals of every extracted document, the first rule it breaks."""

from __future__ import annotations

from corpus.filters import classifier
from jobs.engine import dataset_io
from jobs.engine.progress import track
from jobs.engine.stage import Job, Stage, Written, balance


def inputs(job: Job) -> dict[str, str]:
    """The SHA-256 of the quality classifier's model, if the recipe uses one."""
    if "quality_classifier" not in job.recipe.filters:
        return {}
    model = job.recipe.quality_classifier.model
    return {"quality_classifier.model": classifier.model_sha256(model)}


def run(job: Job) -> dict[str, Written]:
    """Judge every row; rows rejected by extract pass through unchanged."""
    total = job.manifest("documents").rows
    schema = job.schema("judged")
    with track(job.root, "filter", total, "documents") as tallies:
        judged = dataset_io.map_in_children(
            job.read("documents"), "judge", job.recipe_values(), schema, tallies
        )
        files = dataset_io.write(judged, job.folder("judged"), schema, count_by="rejected_by")
    return {"judged": Written(files, dataset_io.sum_counts(files))}


def check(job: Job, written: dict[str, Written]) -> None:
    """Every document has exactly one outcome."""
    accounted = sum(written["judged"].counts.values())
    balance("filter", "documents", job.manifest("documents").rows, accounted)


STAGE = Stage(
    name="filter",
    reads=("documents",),
    writes=("judged",),
    sections=("filters",),
    run=run,
    check=check,
    inputs=inputs,
)
