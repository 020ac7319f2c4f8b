"""What all stages share: declared inputs and outputs, validity, commit, accounting.

A stage reads some datasets and writes others. It is done when the manifests of all that it writes
carry the fingerprint that its recipe and inputs give; then nothing is run. A manifest written
under other settings is refused, unless it may be overwritten; one written from other inputs
(more WARC files, say) is made anew.
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
from schemas.manifest import DataFile, Manifest


@dataclass(frozen=True)
class Job:
    """One invocation: the recipe, where the datasets are, and the engine that does the work.

    `inputs` are WARC files, `against` the roots of earlier dumps.
    """

    recipe: Recipe
    root: Path
    engine: Engine
    inputs: tuple[str, ...] = ()
    overwrite: bool = False
    shards: str = "shards"
    against: tuple[Path, ...] = ()

    @property
    def spark(self) -> SparkSession:
        """The engine's session."""
        return self.engine.spark

    def folder(self, dataset: str) -> Path:
        """Where a dataset's files and manifest are; shards may be several, by folder."""
        if dataset == "shards":
            return roots.shards_folder(self.root, self.shards)
        return self.root / dataset

    def manifest(self, dataset: str) -> Manifest:
        """A dataset's manifest; `UserError` where it was not made yet."""
        found = manifest.read(self.folder(dataset))
        if found is None:
            raise UserError(f"{self.folder(dataset)}: nothing was committed there yet; "
                            f"run the stage that writes '{dataset}' first")  # fmt: skip
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
        """Files of a dataset that are written and not committed yet."""
        paths = [str(self.folder(dataset).absolute() / file.name) for file in files]
        return dataset_io.read_files(self.spark, paths, self.schema(dataset))

    def recipe_values(self) -> dict[str, Any]:
        """The recipe as JSON, for child processes."""
        return config.to_json(dataclasses.asdict(self.recipe))


@dataclass(frozen=True)
class Written:
    """What a stage gives back for each dataset that it wrote."""

    files: tuple[DataFile, ...]
    counts: dict[str, int]
    extra: dict[str, Any] = field(default_factory=dict)
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
    """Raise `UserError` where another recipe wrote what `stage` writes, unless overwriting."""
    settings = job.recipe.settings(*stage.sections)
    for dataset in stage.writes:
        old = manifest.read(job.folder(dataset))
        if old and old.settings != settings and not job.overwrite:
            raise UserError(
                f"{job.folder(dataset)} was written by another recipe ('{old.recipe}'): "
                f"{_difference(old.settings, settings)}; use another --root, or --overwrite"
            )


def run_stage(stage: Stage, job: Job) -> bool:
    """Run `stage` unless what it writes is there and valid; says whether it had work to do."""
    refuse_other_recipe(stage, job)
    settings = job.recipe.settings(*stage.sections)
    inputs = {name: job.manifest(name).fingerprint for name in stage.reads} | stage.inputs(job)
    if _is_done(stage, job, settings, inputs):
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


def _is_done(stage: Stage, job: Job, settings: dict[str, Any], inputs: dict[str, str]) -> bool:
    def is_valid(dataset: str) -> bool:
        old = manifest.read(job.folder(dataset))
        return (
            old is not None
            and old.fingerprint == manifest.fingerprint(dataset, settings, inputs)
            and _files_are_there(job.folder(dataset), old)
        )

    return all(is_valid(dataset) for dataset in stage.writes)


def _files_are_there(folder: Path, listed: Manifest) -> bool:
    def size(name: str) -> int:
        path = folder / name
        return path.stat().st_size if path.is_file() else -1

    beside = companions(listed.files, listed.extra) if listed.dataset == "shards" else ()
    return all(size(file.name) == file.bytes for file in listed.files) and all(
        size(name) >= 0 for name in beside
    )


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    before, after = _flat(old), _flat(new)
    changed = sorted(key for key in before | after if before.get(key) != after.get(key))
    was, now = (_short(values.get(changed[0])) for values in (before, after))
    first = f"{changed[0]} = {was} there, {now} here"
    return first + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _made(engine: Engine, started: float) -> dict[str, Any]:
    libraries = ("gristmill", "pyarrow", "pyspark", "trafilatura", "fastwarc")
    return {
        "engine": engine.name,
        "python": platform.python_version(),
        "seconds": round(time.time() - started, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: version(name) for name in libraries},
    }


class BooksDontBalanceError(RuntimeError):
    """Records went in that came out nowhere, or the other way round: never to be ignored."""


def balance(stage: str, what: str, read: int, accounted: int) -> None:
    """Raise `BooksDontBalanceError` unless all that was read is accounted for."""
    if read != accounted:
        raise BooksDontBalanceError(f"{stage}: {read:,} {what} read, {accounted:,} accounted for")
