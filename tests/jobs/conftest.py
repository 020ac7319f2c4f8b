"""Both engines for the job tests."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyspark
import pytest

from corpus import recipe
from corpus.warc.records import read_records
from jobs.engine import dataset_io, session
from jobs.engine.roots import locked
from jobs.engine.session import Engine
from jobs.engine.stage import Job
from schemas import manifest
from schemas.datasets import DOCUMENTS
from schemas.manifest import Manifest

PROJECT = Path(__file__).parents[2]
SAMPLES = PROJECT / "samples"
ENGINES = ("sail", "spark")


@pytest.fixture(scope="session", autouse=True)
def quick_java() -> Iterator[None]:
    """Spark's drivers compile with C1 alone: the thousands of lines of a small query run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        yield


@pytest.fixture(scope="session")
def connect_server(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Apache Spark as a Connect service of its own process: sc://127.0.0.1:PORT.

    One Python process cannot hold a classic session beside the embedded engine's; the classic one
    is tested through the commands, in processes of their own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = Path(pyspark.__file__).parent
    folder = tmp_path_factory.mktemp("connect")
    command = [home / "bin" / "spark-submit", "--master", "local[2]"]
    for setting in (
        f"spark.connect.grpc.binding.port={port}",
        "spark.ui.enabled=false",
        "spark.driver.host=127.0.0.1",
        "spark.driver.bindAddress=127.0.0.1",
        "spark.sql.shuffle.partitions=4",
        "spark.sql.execution.arrow.maxRecordsPerBatch=1024",
        "spark.connect.session.manager.defaultSessionTimeout=24h",
    ):
        command += ["--conf", setting]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    environment = {**os.environ, "SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable}
    environment["PYTHONPATH"] = str(PROJECT)
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [*map(str, command), "spark-internal"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(port, server, folder / "log")
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    pytest.fail(f"the Spark Connect server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def engines(connect_server: str) -> Iterator[Callable[[str], Engine]]:
    """Engine name -> an open engine; each is opened once for all tests, at its first use."""
    opened: dict[str, Engine] = {}
    with contextlib.ExitStack() as stack:

        def open_once(name: str) -> Engine:
            if name not in opened:
                remote = connect_server if name == "spark" else None
                opened[name] = stack.enter_context(session.open_engine(None, remote, False))
            return opened[name]

        yield open_once


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    """Each engine in turn."""
    return engines(request.param)


@pytest.fixture(scope="session")
def sample_recipe() -> recipe.Recipe:
    return recipe.load(PROJECT / "recipes" / "sample.toml")


@pytest.fixture(scope="session")
def sample_inputs() -> tuple[str, ...]:
    return tuple(str(path) for path in sorted(SAMPLES.glob("*.warc.gz")))


@pytest.fixture(scope="session")
def sample_roots(
    engines: Callable[[str], Engine],
    sample_recipe: recipe.Recipe,
    sample_inputs: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Engine name -> a root with the whole pipeline run over the sample crawl."""
    from jobs import pipeline

    roots = {}
    for name in ENGINES:
        root = tmp_path_factory.mktemp(f"root-{name}")
        with locked(root):
            pipeline.run(Job(sample_recipe, root, engines(name), sample_inputs))
        roots[name] = root
    return roots


@dataclasses.dataclass(frozen=True)
class SmallCrawl:
    """Two files of twenty pages, and a recipe that makes a tiny tokenizer of them."""

    inputs: tuple[str, ...]
    recipe: Path

    def command(self, root: Path, *more: str) -> list[str]:
        """The command line of a run over it."""
        words = [sys.executable, "-m", "jobs.submit", "run", "--recipe", str(self.recipe)]
        return [*words, "--root", str(root), "--input", *self.inputs, *more]

    def cut(self, folder: Path, number_of_files: int) -> tuple[str, ...]:
        """The same records in so many files of other names."""
        records = [
            Path(path).read_bytes()[record.offset : record.offset + (record.length or 0)]
            for path in self.inputs
            for record in read_records(path, 0, 1 << 20)
        ]
        paths = [folder / f"part-{i}.warc.gz" for i in range(number_of_files)]
        for i, path in enumerate(paths):
            path.write_bytes(b"".join(records[i::number_of_files]))
        return tuple(map(str, paths))


@pytest.fixture(scope="session")
def small_crawl(tmp_path_factory: pytest.TempPathFactory) -> SmallCrawl:
    folder = tmp_path_factory.mktemp("small-crawl")
    inputs = []
    for name in ("SAMPLE-00000.warc.gz", "SAMPLE-00001.warc.gz"):
        records = list(read_records(str(SAMPLES / name), 0, 1 << 20))
        (folder / name).write_bytes((SAMPLES / name).read_bytes()[: records[60].offset])
        inputs.append(str(folder / name))
    text = (PROJECT / "recipes" / "sample.toml").read_text(encoding="utf-8")
    text = text.replace("vocab_size = 4096", "vocab_size = 320")
    text = text.replace("validation_fraction = 0.1", "validation_fraction = 0.3")
    (folder / "small.toml").write_text(text, encoding="utf-8")
    return SmallCrawl(tuple(inputs), folder / "small.toml")


@pytest.fixture(scope="session")
def shard_hashes() -> Callable[[Path], dict[str, str]]:
    """Of a root: name -> SHA-256 of all that counts in the folder of shards but the manifest."""

    def hash_all(root: Path) -> dict[str, str]:
        paths = [p for p in (root / "shards").iterdir() if p.name != manifest.MANIFEST_FILE]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    return hash_all


@pytest.fixture(scope="session")
def judged() -> Callable[..., recipe.Recipe]:
    """Writes a root whose `judged` holds given documents, so that dedup can run on it alone.

    `rows` name columns of `documents`; what they leave out is filled in. Returns the recipe.
    """

    def write(
        root: Path, rows: Sequence[dict[str, Any]], files: int = 1, **sections: Any
    ) -> recipe.Recipe:
        settings = dataclasses.replace(recipe.Recipe(name="r", filters=()), **sections)
        made = {"engine": "none", "seconds": 0.0}
        documents = Manifest("documents", "r", {}, {}, (), {"extracted": len(rows)}, made=made)
        table = pa.Table.from_pylist([_filled(row, i) for i, row in enumerate(rows)], DOCUMENTS)
        size = -(-max(1, len(rows)) // files)
        parts = [table.slice(start, size) for start in range(0, max(1, len(rows)), size)]
        written = tuple(
            dataset_io.write_table(root / "judged", part, "rejected_by") for part in parts
        )
        inputs = {"documents": documents.fingerprint}
        listed = Manifest(
            "judged", "r", settings.settings("filters"), inputs, written, {"kept": len(rows)},
            made=made,
        )  # fmt: skip
        for one in (documents, listed):
            manifest.write(root / one.dataset, one)
        return settings

    return write


def _filled(row: dict[str, Any], number: int) -> dict[str, Any]:
    known = {"id": f"id-{number:04}", "dump": "", "url": f"http://site.example/{number}"}
    known |= {"date": "2024-01-01T00:00:00Z", "file_path": "a.warc.gz", "record_offset": number}
    return dict.fromkeys(DOCUMENTS.names) | known | row
