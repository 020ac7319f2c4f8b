"""The whole road: extract, filter, bands, dedup, shard; what is done and still valid is skipped.

gristmill run --recipe recipes/sample.toml --input 'samples/*.warc.gz' --root out
spark-submit jobs/pipeline.py --recipe ... (the same flags, the same thing)
"""

from __future__ import annotations

import sys

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
# A command runs its stage, and before it what only serves that one.
WITH: dict[str, tuple[Stage, ...]] = {"dedup": (bands.STAGE, dedup.STAGE)}


def run(job: Job, stages: tuple[Stage, ...] = STAGES) -> int:
    """Run `stages` in order, print each one's table, and say which had work to do."""
    refuse_unfinished(job.root)
    if job.recipe.decontaminate.against and shard.STAGE in stages:
        at = stages.index(shard.STAGE)
        stages = (*stages[:at], decontaminate.STAGE, *stages[at:])
    for stage in stages:  # before any of them replaces what a later one would refuse
        refuse_other_recipe(stage, job)
    try:
        return sum(_run_one(stage, job) for stage in stages)
    finally:
        worker.stop_idle()


def _run_one(stage: Stage, job: Job) -> bool:
    worked = run_stage(stage, job)
    if worked:
        console.print(report.stage_table(job.root, stage.name, job.shards))
    else:
        console.print(f"{stage.name}: done already and still valid, nothing to do")
    return worked


if __name__ == "__main__":
    from jobs.cli import main

    raise SystemExit(main(["run", *sys.argv[1:]]))
