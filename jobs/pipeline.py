"""The stages in order: extract, filter, bands, dedup, (decontaminate,) shard."""

from __future__ import annotations

from corpus import worker
from jobs import decontaminate, extract, shard
from jobs import filter as filter_
from jobs.dedup import bands, dedup
from jobs.engine.progress import console
from jobs.engine.roots import refuse_unfinished
from jobs.engine.stage import Job, Stage, refuse_other_recipe, run_stage
from jobs.reports import report

STAGES: tuple[Stage, ...] = (
    extract.STAGE,
    filter_.STAGE,
    bands.STAGE,
    dedup.STAGE,
    shard.STAGE,
)
# A command runs its stage, and before it what serves only that one.
WITH: dict[str, tuple[Stage, ...]] = {"dedup": (bands.STAGE, dedup.STAGE)}


def run(job: Job, stages: tuple[Stage, ...] = STAGES) -> int:
    """Run `stages` in order, print a table for each, and return how many had work to do."""
    refuse_unfinished(job.root)
    if job.recipe.decontaminate.against and shard.STAGE in stages:
        at = stages.index(shard.STAGE)
        stages = (*stages[:at], decontaminate.STAGE, *stages[at:])
    for stage in stages:  # before any of them replaces what a later one would refuse
        refuse_other_recipe(stage, job)
    num_worked = 0
    try:
        for stage in stages:
            if run_stage(stage, job):
                num_worked += 1
                console.print(report.stage_table(job.root, stage.name, job.shards))
            else:
                console.print(f"{stage.name}: done and still valid, skipped")
    finally:
        worker.stop_idle()
    return num_worked
