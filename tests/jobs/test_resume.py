"""Kill it anywhere: the same command goes on, and the corpus is the one it would have been."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus import worker
from corpus.recipe import Recipe
from corpus.worker_tasks import ExtractRequest
from jobs import extract, pipeline
from jobs.engine.stage import Job
from schemas import manifest

PROJECT = Path(__file__).parents[2]


def _shards(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "shards").glob("*.parquet")}


def _start(root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.submit", "run", "--recipe", "recipes/sample.toml"]
    command += ["--input", "samples/*.warc.gz", "--root", str(root)]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, start_new_session=True)


def _kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> bool:
    """Kill the process and all its children at the moment that `ready` says; False if too late."""
    for _ in range(6000):
        if process.poll() is not None:
            return False
        if ready():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.01)
    raise AssertionError("the run neither ended nor got there")


def _moments(root: Path) -> dict[str, Callable[[], bool]]:
    def has(pattern: str) -> Callable[[], bool]:
        return lambda: any(root.glob(pattern))

    return {
        "extract": has("documents/*.parquet"),
        "filter": has("documents/manifest.json"),
        "dedup": has("bands/*.parquet"),
        "shard": has("shards/tokenizer*"),
    }


@pytest.mark.parametrize("moment", ["extract", "shard"])
def test_a_killed_run_goes_on_and_gives_the_same_shards(
    moment: str, tmp_path: Path, sample_roots: dict[str, Path]
) -> None:
    check_kill_and_resume(moment, tmp_path / "root", sample_roots["sail"])


@pytest.mark.soak
@pytest.mark.parametrize("moment", ["extract", "filter", "dedup", "shard"] * 5)
def test_a_run_killed_many_times_gives_the_same_shards(
    moment: str, tmp_path: Path, sample_roots: dict[str, Path]
) -> None:
    check_kill_and_resume(moment, tmp_path / "root", sample_roots["sail"])


def check_kill_and_resume(moment: str, root: Path, whole: Path) -> None:
    with _start(root) as first:
        assert _kill_when(first, _moments(root)[moment])
    done = {path: path.stat().st_mtime_ns for path in root.glob("documents/*.parquet")}
    assert done
    assert manifest.read(root / "shards") is None
    with _start(root) as again:
        _, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors.decode()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert _shards(root) == _shards(whole)


def test_more_input_is_added_to_what_was_extracted(
    tmp_path: Path, sample_recipe: Recipe, sample_inputs: tuple[str, ...], engines: Callable,
    sample_roots: dict[str, Path],
) -> None:  # fmt: skip
    root, engine = tmp_path / "root", engines("sail")
    pipeline.run(Job(sample_recipe, root, engine, sample_inputs[:1]), pipeline.STAGES[:2])
    first = {path: path.stat().st_mtime_ns for path in root.glob("documents/*.parquet")}
    assert len(first) == 1
    pipeline.run(Job(sample_recipe, root, engine, sample_inputs))
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert _shards(root) == _shards(sample_roots["sail"])


def _documents(root: Path) -> int:
    listed = manifest.read(root / "documents")
    assert listed is not None
    return listed.rows


def test_a_page_that_kills_its_reader_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sample_recipe: Recipe,
    sample_inputs: tuple[str, ...], engines: Callable, sample_roots: dict[str, Path],
) -> None:  # fmt: skip
    whole = manifest.read(sample_roots["sail"] / "documents")
    assert whole is not None
    same = next(file for file in whole.files if file.name.startswith("SAMPLE-00000"))
    rows = pq.read_table(sample_roots["sail"] / "documents" / same.name)
    real, deadly = worker.map_batch, min(o for o in rows["record_offset"].to_pylist() if o > 90_000)

    def die_on_one_page(task: str, recipe: dict, batch: pa.RecordBatch):
        request = ExtractRequest.of(batch)
        for answer in real(task, recipe, batch):
            if deadly in answer["record_offset"].to_pylist() and request.crashed_at is None:
                raise worker.ChildDiedError("killed by the test")
            yield answer

    monkeypatch.setattr(worker, "map_batch", die_on_one_page)
    root = tmp_path / "root"
    job = Job(sample_recipe, root, engines("sail"), sample_inputs[:1])
    pipeline.run(job, (extract.STAGE,))
    counts = job.manifest("documents").counts
    assert counts["extraction_crashed"] == 1
    assert _documents(root) == same.rows
    assert sum(counts.values()) == sum(same.counts.values())


def test_a_torn_manifest_is_no_dataset(sample_roots: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    (root / "judged" / "manifest.json").unlink()
    assert manifest.read(root / "judged") is None
