"""A root whose `judged` dataset holds given texts, for `gristmill dedup` to run on alone."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.measured import Run, measured
from corpus import recipe
from corpus.filters.registry import signals_schema
from jobs import extract
from jobs import filter as filter_
from jobs.engine import dataset_io
from schemas import manifest
from schemas.datasets import judged_schema
from schemas.manifest import DataFile, Manifest

DOCUMENTS_A_FILE = 25_000
WRITTEN = ("bands", "clusters", "canonical")
# Personal data is none of deduplication's work, and the peer's does not look for it.
RECIPE = """\
name = "bench-dedup"
filters = []
[pii]
emails = "keep"
ips = "keep"
"""


@dataclass(frozen=True)
class Cost:
    """What a run took; bytes are the peaks of resident memory: of the command's own process, of
    the JVM (0 without one) and of the largest child."""

    wall_seconds: float
    cpu_seconds: float
    main_bytes: int
    jvm_bytes: int
    child_bytes: int


@dataclass(frozen=True)
class Root:
    """A folder with the recipe and the root; document number i has the id `doc-i`."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """The recipe's file."""
        return self.folder / "bench-dedup.toml"

    @property
    def datasets(self) -> Path:
        """Where the datasets are."""
        return self.folder / "root"

    def write(self, files: Iterable[Sequence[str] | pa.StringArray]) -> int:
        """Make `judged`, a file from each group of texts; says how many documents it holds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(RECIPE, encoding="utf-8")
        written, total = [], 0
        for texts in files:
            table = _judged(pa.array(texts, pa.string()), total)
            file = dataset_io.write_table(self.datasets / "judged", table, "rejected_by")
            written.append(file)
            total += file.rows
        self._commit(tuple(written), total)
        return total

    def _commit(self, files: tuple[DataFile, ...], total: int) -> None:
        """Manifests as extract and filter would have written them, for all that a report reads."""
        loaded = recipe.load(self.recipe)
        settings = [loaded.settings(*stage.sections) for stage in (extract.STAGE, filter_.STAGE)]
        made = {"engine": "none", "seconds": 0.0}
        documents = Manifest(
            "documents", loaded.name, settings[0], {}, (), {"extracted": total}, made=made
        )
        inputs = {"documents": documents.fingerprint}
        judged = Manifest(
            "judged", loaded.name, settings[1], inputs, files, {"kept": total}, made=made
        )
        for one in (documents, judged):
            manifest.write(self.datasets / one.dataset, one)

    def run(self, master: str | None = None) -> Run:
        """Measure `gristmill dedup` anew, on Sail or on Apache Spark at `master`."""
        command = [sys.executable, "-m", "jobs.submit", "dedup", "--recipe", str(self.recipe)]
        command += ["--root", str(self.datasets), *(["--master", master] if master else [])]
        for dataset in WRITTEN:
            shutil.rmtree(self.datasets / dataset, ignore_errors=True)
        return measured(command, self.folder / "log")

    def clusters(self) -> npt.NDArray[np.int64]:
        """The cluster (n,) of each document, by number."""
        table = self._read("clusters", ["id", "cluster"])
        found = np.empty(len(table), dtype=np.int64)
        found[_numbers(table)] = table["cluster"].to_numpy()
        return found

    def kept(self) -> npt.NDArray[np.int64]:
        """Numbers of the documents that stayed, ascending."""
        return np.sort(_numbers(self._read("canonical", ["id"])))

    def bytes_a_document(self, dataset: str) -> float:
        """Size of a dataset's files by its rows."""
        listed = manifest.read(self.datasets / dataset)
        assert listed, f"{dataset} was not written"
        return sum(file.bytes for file in listed.files) / listed.rows

    def noted(self, *names: str) -> dict[str, object]:
        """What the stage's manifests say under some names, wherever they say it."""
        found: dict[str, object] = {}
        for dataset in WRITTEN:
            listed = manifest.read(self.datasets / dataset)
            if listed:
                _collect(listed.counts | asdict(listed.extra), names, found)
        return found

    def _read(self, dataset: str, columns: list[str]) -> pa.Table:
        listed = manifest.read(self.datasets / dataset)
        assert listed, f"{dataset} was not written"
        paths = listed.paths(self.datasets / dataset)
        return pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])


def cost(run: Run) -> Cost:
    """Time and memory of a run, by kind of process."""
    java = [pid for pid, command in run.commands.items() if _program(command) == "java"]
    return Cost(
        run.wall_seconds,
        run.cpu_seconds,
        run.peak(run.rss, main=True),
        max((run.rss[pid] for pid in java), default=0),
        run.peak(run.rss, main=False),
    )


def _program(command: str) -> str:
    return Path(command.split(" ", 1)[0]).name


def _collect(values: dict[str, object], names: tuple[str, ...], found: dict[str, object]) -> None:
    for name, value in values.items():
        if name in names:
            found[name] = value
        elif isinstance(value, dict):
            _collect(value, names, found)


def _numbers(table: pa.Table) -> npt.NDArray[np.int64]:
    numbers = pc.cast(pc.utf8_slice_codeunits(table["id"], 4), pa.int64())
    return numbers.to_numpy()


def _judged(texts: pa.StringArray, first: int) -> pa.Table:
    """Rows of `judged` with `texts`, numbered from `first`; what nobody knows of them is null."""
    numbers = range(first, first + len(texts))
    known = {
        "text": texts,
        "id": [f"doc-{number}" for number in numbers],
        "dump": ["bench"] * len(texts),
        "url": [f"https://example.org/{number}" for number in numbers],
        "date": ["2024-01-01T00:00:00Z"] * len(texts),
        "file_path": [f"bench-{first}.warc.gz"] * len(texts),
        "record_offset": list(numbers),
        "payload_digest": [f"sha1:{number}" for number in numbers],
    }
    schema = judged_schema(signals_schema(recipe.Recipe(filters=()).chosen_filters()))
    columns = [
        pa.array(known[field.name], field.type)
        if field.name in known
        else pa.nulls(len(texts), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
