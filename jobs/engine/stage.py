"""What all stages share: declared inputs and outputs, validity, commit, record accounting.

A stage reads some datasets and writes others. It is done, and skipped, if the manifests of all that
it writes have the fingerprint of its settings and inputs. A dataset written under other settings is
refused unless it may be overwritten; one made from other inputs (more WARC files) is rebuilt.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from corpus.filters.registry import signals_schema
from corpus.recipe import Recipe
from corpus.tokens.shards import companions
from jobs.engine import dataset_io, roots
from jobs.engine.session import Engine
from schemas import config, manifest
from schemas.datasets import DATASETS, judged_schema
from schemas.errors import UserError
from schemas.manifest import DataFile, Extra, Manifest


@dataclass(frozen=True)
class Job:
    """One invocation: the recipe, where the datasets are, and the engine that does the work.

    `inputs` are WARC files, `against` the roots of earlier dumps. `max_failed_share`: extract fails
    if extraction failed on more than this share of the pages, 0 to 1.
    """

    recipe: Recipe
    root: Path
    engine: Engine
    inputs: tuple[str, ...] = ()
    overwrite: bool = False
    shards: str = "shards"
    against: tuple[Path, ...] = ()
    max_failed_share: float = 0.05

    @property
    def spark(self) -> SparkSession:
        """The engine's session."""
        return self.engine.spark

    def folder(self, dataset: str) -> Path:
        """The folder of a dataset; `self.shards` names that of the shards."""
        if dataset == "shards":
            return roots.shards_folder(self.root, self.shards)
        return self.root / dataset

    def manifest(self, dataset: str) -> Manifest:
        """A dataset's manifest; raises `UserError` if it was not committed yet."""
        found = manifest.read(self.folder(dataset))
        if found is None:
            raise UserError(
                f"{self.folder(dataset)}: no dataset was committed there; run the stage that "
                f"writes '{dataset}' first"
            )
        return found

    def schema(self, dataset: str) -> pa.Schema:
        """A dataset's columns under this recipe (`judged` has the recipe's signals)."""
        if dataset == "judged":
            return judged_schema(signals_schema(self.recipe.chosen_filters()))
        return DATASETS[dataset]

    def read(self, dataset: str) -> DataFrame:
        """A committed dataset."""
        listed = self.manifest(dataset)
        return dataset_io.read(self.spark, self.folder(dataset), listed, self.schema(dataset))

    def read_files(self, dataset: str, files: tuple[DataFile, ...]) -> DataFrame:
        """Files of a dataset that are written but not committed yet."""
        paths = [str(self.folder(dataset).absolute() / file.name) for file in files]
        return dataset_io.read_files(self.spark, paths, self.schema(dataset))

    def recipe_values(self) -> dict[str, Any]:
        """The recipe as JSON, for child processes."""
        return config.to_json(dataclasses.asdict(self.recipe))


@dataclass(frozen=True)
class Written:
    """What a stage returns for each dataset that it wrote.

    `counts` and `extra` go into the manifest; files in `keep` stay although it does not list them.
    """

    files: tuple[DataFile, ...]
    counts: dict[str, int]
    extra: Extra = field(default_factory=Extra)
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A stage, declared once. `sections` of the recipe shape what it writes.

    `run` does the work and returns dataset -> `Written`, in the order of `writes`; the last one is
    committed last. `inputs` fingerprints what is not a dataset (extract: the WARC files).
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    sections: tuple[str, ...]
    run: Callable[[Job], dict[str, Written]]
    check: Callable[[Job, dict[str, Written]], None]
    inputs: Callable[[Job], dict[str, str]] = lambda job: {}


def refuse_other_recipe(stage: Stage, job: Job) -> None:
    """Raise `UserError` if another recipe wrote what `stage` writes, unless overwriting."""
    settings = job.recipe.settings(*stage.sections)
    for dataset in stage.writes:
        old = manifest.read(job.folder(dataset))
        if old and old.settings != settings and not job.overwrite:
            raise UserError(
                f"{job.folder(dataset)} was written by another recipe ('{old.recipe}'): "
                f"{_difference(old.settings, settings)}; use another --root, or --overwrite"
            )


def run_stage(stage: Stage, job: Job) -> bool:
    """Run `stage` unless its output is there and valid; returns whether it ran."""
    refuse_other_recipe(stage, job)
    settings = job.recipe.settings(*stage.sections)
    inputs = {name: job.manifest(name).fingerprint for name in stage.reads} | stage.inputs(job)
    if all(_is_valid(job.folder(name), name, settings, inputs) for name in stage.writes):
        return False
    started = time.time()
    written = stage.run(job)
    stage.check(job, written)
    made = _made(job.engine, started)
    for dataset in stage.writes:
        result = written[dataset]
        committed = Manifest(
            dataset, job.recipe.name, settings, inputs, result.files, result.counts,
            result.extra, made,
        )  # fmt: skip
        manifest.write(job.folder(dataset), committed)
        dataset_io.sweep(job.folder(dataset), committed, result.keep)
    return True


def _is_valid(folder: Path, dataset: str, settings: dict[str, Any], inputs: dict[str, str]) -> bool:
    """Whether a dataset was made from these settings and inputs and its files are all there."""
    old = manifest.read(folder)
    if old is None or old.fingerprint != manifest.fingerprint(dataset, settings, inputs):
        return False
    for file in old.files:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            return False
    beside = companions(old.files, old.shards) if dataset == "shards" else ()
    return all((folder / name).is_file() for name in beside)


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    before, after = config.flatten(old), config.flatten(new)
    changed = sorted(key for key in before | after if before.get(key) != after.get(key))
    was, now = (config.shown(values.get(changed[0]), 60) for values in (before, after))
    first = f"{changed[0]} = {was} there, {now} here"
    return first + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")


def _made(engine: Engine, started: float) -> dict[str, Any]:
    libraries = ("gristmill", "pyarrow", "pyspark", "trafilatura", "fastwarc")
    return {
        "engine": engine.name,
        "python": platform.python_version(),
        "seconds": round(time.time() - started, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: version(name) for name in libraries},
    }


class UnbalancedError(RuntimeError):
    """Totals don't match: records were read that are not accounted for, or the reverse."""


def balance(stage: str, what: str, read: int, accounted: int) -> None:
    """Raise `UnbalancedError` unless the totals match."""
    if read != accounted:
        raise UnbalancedError(f"{stage}: {read:,} {what} read, {accounted:,} accounted for")
