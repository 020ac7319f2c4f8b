"""A run that dies or finds the disk full at each of its writes, fsyncs, renames and receipts.

The runs are in this process, so that hundreds of them are affordable: from the n-th change of a
file on, every further change is refused (a process that is gone changes nothing, also not in a
`finally`). What a kill by the operating system leaves is tried in test_kills.py.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from corpus import recipe, worker
from corpus.clean.removals import RemovalRequest
from jobs import pipeline
from jobs.engine import dataset_io, disk_faults, roots
from jobs.engine.session import Engine, open_engine
from jobs.engine.stage import Job
from jobs.takedown import request
from schemas import manifest
from schemas.errors import UserError

NEED_SPACE = ("open", "__init__", "write_table", "close", "fsync", "replace", "mkdir")


class DeadError(RuntimeError):
    """The process would be gone by now."""


class Disk:
    """Counts the changes of files below `root`; the one of number `at` fails.

    `fault` "death": it does not happen, and none after it. "full": it raises ENOSPC, once.
    """

    def __init__(self, root: Path, at: int | None = None, fault: str = "death") -> None:
        self.root, self.at, self.fault = root, at, fault
        self.changes: list[str] = []
        self.dead = False
        self._lock = threading.Lock()

    def change(self, kind: str, path: object) -> None:
        """Count one change; raises where it must not happen."""
        if not isinstance(path, (str, Path)) or not Path(path).is_relative_to(self.root):
            return
        with self._lock:
            if self.dead:
                raise DeadError
            self.changes.append(f"{kind} {Path(path).relative_to(self.root)}")
            if len(self.changes) != self.at:
                return
            if self.fault == "death":
                self.dead = True
                raise DeadError
            if kind not in NEED_SPACE:
                return
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir"):
                patch.setattr(os, name, self._before(getattr(os, name), name))
            patch.setattr(shutil, "rmtree", self._before(shutil.rmtree, "rmtree"))
            patch.setattr(dataset_io, "receipt", self._receipt(dataset_io.receipt))
            patch.setattr(os, "fsync", self._fsync(os.fsync))
            for module in (builtins, io):
                patch.setattr(module, "open", self._open(open))
            writer = pq.ParquetWriter
            for name in ("__init__", "write_table", "close"):
                patch.setattr(writer, name, self._write(getattr(writer, name), name))
            yield

    def _before(self, real: Callable, kind: str) -> Callable:
        def act(path: Any, *arguments: Any, **named: Any) -> Any:
            acts = kind in ("replace", "rename") or Path(path).exists() != (kind == "mkdir")
            if named.get("dir_fd") is None and acts:
                self.change(kind, path)
            return real(path, *arguments, **named)

        return act

    def _fsync(self, real: Callable) -> Callable:
        def act(descriptor: int) -> None:
            self.change("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            real(descriptor)

        return act

    def _open(self, real: Callable) -> Callable:
        def act(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if set(mode) & set("wax+"):
                self.change("open", path)
            return real(path, mode, *arguments, **named)

        return act

    def _receipt(self, real: Callable) -> Callable:
        def act(file: Any) -> Any:
            self.change("receipt", self.root / file.name)
            return real(file)

        return act

    def _write(self, real: Callable, kind: str) -> Callable:
        def act(writer: Any, *arguments: Any, **named: Any) -> Any:
            if kind == "__init__":
                writer.is_open, writer.place = False, arguments[0]
            if kind == "close" and self.dead:
                writer.is_open = False
                return None
            if kind != "close" or writer.is_open:
                self.change(kind, writer.place)
            return real(writer, *arguments, **named)

        return act


class Small:
    """A run over the small crawl in this process, and what it gives undisturbed."""

    def __init__(self, folder: Path, engine: Engine, crawl: Any, hashes: Callable) -> None:
        self.engine, self.inputs, self.hashes = engine, crawl.inputs, hashes
        self.recipe = recipe.load(crawl.recipe)
        disk = Disk(folder / "whole")
        with disk.patched():
            self.run(disk.root)
        self.changes, self.shards = disk.changes, hashes(disk.root)
        assert len(self.shards) >= 5  # rows and lengths of both splits, and the tokenizer

    def run(self, root: Path, **changed: Any) -> None:
        with roots.locked(root):
            chosen = dataclasses.replace(self.recipe, **changed)
            pipeline.run(Job(chosen, root, self.engine, self.inputs, overwrite=bool(changed)))


def committed(root: Path) -> dict[Path, int]:
    """Files that count, and when they were written; every one of a manifest is there, whole.

    Dedup writes two datasets and is done with the last: `clusters` alone does not count.
    """
    found = dict[Path, int]()
    for listed in root.glob("*/manifest.json"):
        read = manifest.read(listed.parent)
        assert read is not None
        is_done = read.dataset != "clusters" or (root / "canonical" / "manifest.json").exists()
        times = found if is_done else dict[Path, int]()
        times[listed] = listed.stat().st_mtime_ns
        for file in read.files:
            path = listed.parent / file.name
            assert path.stat().st_size == file.bytes
            assert pq.read_metadata(path).num_rows == file.rows
            times[path] = path.stat().st_mtime_ns
    for path in root.glob("documents/*.parquet"):  # each WARC file is committed by itself
        assert pq.read_metadata(path).num_rows > 0
        found[path] = path.stat().st_mtime_ns
    return found


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, small_crawl: Any, shard_hashes: Callable
) -> Iterator[Small]:
    with open_engine(None, None, False) as engine:
        yield Small(tmp_path_factory.mktemp("small"), engine, small_crawl, shard_hashes)
    worker.stop_idle()


def check_failure(small: Small, root: Path, at: int, fault: str) -> None:
    disk = Disk(root, at, fault)
    error: BaseException | None = None
    with disk.patched():
        try:
            small.run(root)
        except Exception as raised:
            error = raised
    where = f"{fault} at change {at}: {disk.changes[at - 1 : at]}"
    if fault == "full" and error is not None:
        told = str(error) if isinstance(error, UserError) else disk_faults.explain(error, root)
        assert told is not None, where
        assert "No space left on device" in told, where
        assert str(root) in told, where
    before = committed(root) if root.exists() else {}
    small.run(root)
    after = committed(root)
    assert {path: after[path] for path in before} == before, where
    assert small.hashes(root) == small.shards, where
    left = {path.name for path in root.iterdir()} - {"gristmill.json", ".lock"}
    assert left == {"documents", "judged", "bands", "clusters", "canonical", "shards"}, where
    assert not list(root.rglob("*.tmp")), where
    shutil.rmtree(root)


def test_the_changes_of_a_run_are_all_seen(small: Small) -> None:
    kinds = Counter(change.split()[0] for change in small.changes)
    for kind in (
        "open",
        "__init__",
        "write_table",
        "close",
        "fsync",
        "replace",
        "receipt",
        "mkdir",
    ):
        assert kinds[kind] >= 6, kinds
    assert sum("manifest.json" in change for change in small.changes) >= 3 * 6
    assert len(small.changes) < 1000, "too many for the soak"


def _sample(small: Small, number: int, seed: int) -> list[int]:
    last = len(small.changes) - 8  # two runs differ by a few progress files
    return sorted(random.Random(seed).sample(range(1, last), number))


@pytest.mark.parametrize("fault", ["death", "full"])
def test_a_run_that_fails_at_some_change_of_a_file_is_repeated_alike(
    small: Small, tmp_path: Path, fault: str
) -> None:
    for at in _sample(small, 2, seed=12):
        check_failure(small, tmp_path / "root", at, fault)


@pytest.mark.soak
# Sail drops a cancelled query's stream in the thread that the stream would wait for.
@pytest.mark.filterwarnings(
    "ignore:(?s).*failed to join thread:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("fault", ["death", "full"])
def test_a_run_that_fails_at_any_change_of_a_file_is_repeated_alike(
    small: Small, tmp_path: Path, fault: str, figures: Callable[[str, str], None]
) -> None:
    places: Sequence[int] = range(1, len(small.changes) + 1)
    if fault == "full":
        needy = [at for at in places if small.changes[at - 1].split()[0] in NEED_SPACE]
        places = needy[::2]  # the others are as like them as can be; all would take too long
    for at in places:
        check_failure(small, tmp_path / "root", at, fault)
    figures(f"{fault} at a change of a file", f"{len(places)} of {len(small.changes)} places")


READER = """
import hashlib, json, sys, time
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq

root, counts = Path(sys.argv[1]), {"reads": 0, "renewed": 0, "replaced": 0, "faults": []}

def listed(folder):
    try:
        return (folder / "manifest.json").read_bytes()
    except FileNotFoundError:
        return None

def fault_of(folder, text):
    stated, outcomes = json.loads(text), {}
    for file in stated["files"]:
        path = folder / file["name"]
        data = path.read_bytes()
        replaced = stated["dataset"] == "documents" and len(data) != file["bytes"]
        if replaced:  # by forget, under its name (format.md): whole, with as many rows
            counts["replaced"] += 1
        elif len(data) != file["bytes"]:
            return f"{path}: {len(data)} bytes"
        if file["sha256"] and hashlib.sha256(data).hexdigest() != file["sha256"]:
            return f"{path}: other content"
        rows = pq.read_table(pa.BufferReader(data))
        if rows.num_rows != file["rows"]:
            return f"{path}: {rows.num_rows} rows"
        if stated["dataset"] == "judged":
            for value in rows["rejected_by"].to_pylist():
                outcomes[value] = outcomes.get(value, 0) + 1
    for value, number in outcomes.items():
        if stated["counts"].get(value or "kept") != number:
            return f"{folder}: {number} rows of {value}, the manifest counts {stated['counts']}"

print("reading", flush=True)
while not (root.parent / "stop").exists():
    for folder in sorted(path for path in root.glob("[!.]*") if path.is_dir()):
        text = listed(folder)
        if text is None:
            continue
        try:
            fault = fault_of(folder, text)
            counts["reads"] += 1
        except FileNotFoundError as error:  # read the manifest again: it is another by now
            fault = None if listed(folder) != text else f"{error} is missing and still listed"
            counts["renewed"] += 1
        if fault:
            counts["faults"].append(fault)
print(json.dumps(counts))
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """A process that reads the datasets of tmp_path/root all the time; stops it for its counts."""
    command = [sys.executable, "-c", READER, str(tmp_path / "root")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()

        def stop() -> dict[str, Any]:
            (tmp_path / "stop").touch()
            counts: dict[str, Any] = json.loads(process.communicate(timeout=60)[0])
            return counts

        yield stop
        (tmp_path / "stop").touch()


def check_reader(small: Small, root: Path, stop: Callable[[], dict[str, Any]], rounds: int) -> str:
    small.run(root)
    changed = dataclasses.replace(small.recipe.gopher_quality, min_words=20)
    (canonical,) = root.glob("canonical/*.parquet")
    urls = pq.read_table(canonical, columns=["url"])["url"].to_pylist()
    for i in range(rounds):
        small.run(root, gopher_quality=changed)
        with roots.locked(root):
            request.run(root, small.engine, [RemovalRequest("url", urls[i])])
        small.run(root, gopher_quality=small.recipe.gopher_quality)
    counts = stop()
    assert counts["faults"] == []
    assert counts["reads"] > 20
    return (
        f"{counts['reads']} reads, {counts['renewed']} of a manifest replaced meanwhile, 0 faults"
    )


def test_a_concurrent_reader_sees_whole_datasets_alone(
    small: Small, tmp_path: Path, reader: Callable[[], dict[str, Any]]
) -> None:
    check_reader(small, tmp_path / "root", reader, 1)


@pytest.mark.soak
def test_a_concurrent_reader_sees_whole_datasets_alone_for_long(
    small: Small, tmp_path: Path, reader: Callable[[], dict[str, Any]],
    figures: Callable[[str, str], None],
) -> None:  # fmt: skip
    figures("a concurrent reader", check_reader(small, tmp_path / "root", reader, 10))
