"""kill -9 of any process of a run, and all that must not change its shards."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pyspark
import pytest

from corpus import recipe
from jobs import pipeline
from jobs.engine import dataset_io, roots
from jobs.engine.session import Engine, open_engine
from jobs.engine.stage import Job
from schemas import manifest

PROJECT = Path(__file__).parents[2]
Hashes = Callable[[Path], dict[str, str]]


def _environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    # Sessions of the tests themselves leave their marks in the environment.
    clean = {name: value for name, value in os.environ.items() if "SPARK" not in name}
    return {**clean, "PYTHONPATH": paths, **more}


def _finish(command: list[str], **more: str) -> None:
    run = subprocess.run(
        command, cwd=PROJECT, env=_environment(**more), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def whole(small_crawl: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root where the small crawl was run undisturbed on the embedded engine."""
    root = tmp_path_factory.mktemp("whole") / "root"
    _finish(small_crawl.command(root))
    return root


def _processes(leader: int) -> dict[int, str]:
    """The processes of a session -> what each is."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,ppid=,args=", "-s", str(leader)], capture_output=True, text=True
    )
    kinds = dict[int, str]()
    for line in listed.stdout.splitlines():
        pid, parent, words = line.split(None, 2)
        if int(pid) == leader:
            kind = "driver"
        elif "corpus.worker" in words:
            kind = "fork" if kinds.get(int(parent)) in ("child", "fork") else "child"
        elif "pyspark.daemon" in words or "pyspark.worker" in words:
            kind = "Spark worker"
        elif "CoarseGrainedExecutorBackend" in words:
            kind = "executor"
        else:
            continue
        kinds[int(pid)] = kind
    return kinds


def kill_some(
    command: list[str], wanted: Counter[str], pause: float, chance: random.Random, **more: str
) -> Counter[str]:
    """Run the command again and again until it ends well; kill those of its processes meanwhile.

    `wanted` says how many of each kind; returns how many were killed. A kind that is there seldom
    is met seldom, so that a run may end before all are.
    """
    done = Counter[str]()
    while True:
        before = done.total()
        with subprocess.Popen(
            command, cwd=PROJECT, env=_environment(**more), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as run:  # fmt: skip
            while run.poll() is None:
                time.sleep(chance.uniform(0.02, pause))
                left, found = wanted - done, _processes(run.pid)
                kinds = sorted(set(found.values()) & set(left))
                if len(kinds) > 1 and chance.random() < 0.85:  # a driver takes all others with it
                    kinds = [kind for kind in kinds if kind != "driver"]
                if not kinds:
                    continue
                kind = max(kinds, key=lambda one: (left[one], chance.random()))
                victim = chance.choice([pid for pid, what in found.items() if what == kind])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    done[kind] += 1
        if run.returncode == 0:
            return done
        assert done.total() > before, f"exit code {run.returncode} of a run that nobody killed"


def check_kills(
    crawl: Any, folder: Path, whole: Path, hashes: Hashes, wanted: Counter[str], pause: float,
    seed: int, *flags: str, **more: str,
) -> str:  # fmt: skip
    """Kill as wanted, over as many fresh roots as it takes; says what was killed.

    The shards of each root must be those of `whole`.
    """
    done = Counter[str]()
    for number in range(40):
        if not wanted - done:
            break
        root, chance = folder / str(number), random.Random(seed + number)
        # Some on each root, so that all stages meet them.
        some = Counter({kind: min(n, 8) for kind, n in (wanted - done).items()})
        done += kill_some(crawl.command(root, *flags), some, pause, chance, **more)
        assert hashes(root) == hashes(whole), f"seed {seed}, root {number}: {done}"
        documents = manifest.read(root / "documents")
        assert documents is not None
        assert "extraction_crashed" not in documents.counts, f"seed {seed}, root {number}: {done}"
    assert not wanted - done, f"seed {seed}: never met {wanted - done}"
    told = ", ".join(f"{n} of a {kind}" for kind, n in sorted(done.items()))
    return f"{sum(done.values())} kills ({told}) over {number} roots, seed {seed}: equal shards"


def test_ten_kills_leave_the_shards_as_they_are(
    small_crawl: Any, whole: Path, tmp_path: Path, shard_hashes: Hashes
) -> None:
    wanted = Counter({"driver": 2, "child": 4, "fork": 4})
    check_kills(small_crawl, tmp_path, whole, shard_hashes, wanted, 0.3, 4)


@pytest.mark.soak
def test_many_kills_leave_the_shards_as_they_are(
    small_crawl: Any, whole: Path, tmp_path: Path, shard_hashes: Hashes,
    figures: Callable[[str, str], None],
) -> None:  # fmt: skip
    seed, wanted = random.randrange(1 << 30), Counter({"driver": 40, "child": 70, "fork": 70})
    told = check_kills(small_crawl, tmp_path, whole, shard_hashes, wanted, 0.5, seed)
    figures("kill -9 on the embedded engine", told)


@pytest.mark.soak
def test_kills_in_a_local_cluster_leave_the_shards_as_they_are(
    small_crawl: Any, whole: Path, tmp_path: Path, shard_hashes: Hashes, java: None,
    figures: Callable[[str, str], None],
) -> None:  # fmt: skip
    seed = random.randrange(1 << 30)
    home = {"SPARK_HOME": str(Path(pyspark.__file__).parent), "PYSPARK_PYTHON": sys.executable}
    flags = ("--master", "local-cluster[2,1,1024]")
    wanted = Counter({"driver": 5, "executor": 6, "Spark worker": 6, "child": 3})
    told = check_kills(
        small_crawl, tmp_path, whole, shard_hashes, wanted, 0.6, seed, *flags, **home
    )
    figures("kill -9 in local-cluster[2,1,1024]", told)


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """Two processes that do nothing but compute."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


YESTERDAY = """
import time
real = time.time
time.time = lambda: real() - 86_400
"""


def check_other_ways(crawl: Any, root: Path, whole: Path, hashes: Hashes, name: str) -> None:
    """Run the small crawl in one of many ways that must not matter."""
    command, environment = crawl.command(root), dict[str, str]()
    busy: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if name == "one core":
        command = ["taskset", "--cpu-list", "0", *command]
    elif name == "inputs in another order":
        place = command.index("--input")
        command = [*command[: place + 1], *reversed(command[place + 1 :])]
    elif name == "a loaded machine":
        busy = _busy()
    elif name == "yesterday":
        (root.parent / "sitecustomize.py").write_text(YESTERDAY)
        environment["PYTHONPATH"] = os.pathsep.join([str(root.parent), str(PROJECT)])
    else:
        assert name == "speculation"
        settings = ("", "multiplier=1.0", "quantile=0.1", "interval=10ms", "minTaskRuntime=1ms")
        words = [f"--conf spark.speculation.{one}" for one in settings if one]
        words += ["--conf spark.speculation=true", "--conf spark.sql.shuffle.partitions=7"]
        environment["PYSPARK_SUBMIT_ARGS"] = " ".join([*words, "pyspark-shell"])
        environment["SPARK_HOME"] = str(Path(pyspark.__file__).parent)
        command += ["--master", "local-cluster[2,1,1024]"]
    with busy:
        _finish(command, **environment)
    assert hashes(root) == hashes(whole), name


def test_shards_do_not_depend_on_the_clock(
    small_crawl: Any, whole: Path, tmp_path: Path, shard_hashes: Hashes
) -> None:
    check_other_ways(small_crawl, tmp_path / "root", whole, shard_hashes, "yesterday")


@pytest.mark.soak
@pytest.mark.parametrize(
    "name",
    [
        "one core",
        "inputs in another order",
        "a loaded machine",
    ],
)
def test_shards_depend_on_none_of_many_ways(
    small_crawl: Any, whole: Path, tmp_path: Path, shard_hashes: Hashes, name: str,
    figures: Callable[[str, str], None],
) -> None:  # fmt: skip
    check_other_ways(small_crawl, tmp_path / "root", whole, shard_hashes, name)
    figures("one hash of the shards", f"{name}: equal")


@pytest.mark.soak
def test_shards_do_not_depend_on_speculation(
    small_crawl: Any, whole: Path, tmp_path: Path, shard_hashes: Hashes, java: None,
    figures: Callable[[str, str], None],
) -> None:  # fmt: skip
    check_other_ways(small_crawl, tmp_path / "root", whole, shard_hashes, "speculation")
    figures("one hash of the shards", "speculation in local-cluster[2,1,1024]: equal")


def check_partitions(
    crawl: Any, root: Path, engine: Engine, partitions: int, patch: pytest.MonkeyPatch
) -> None:
    """Run with every dataset that a stage reads spread over so many partitions."""
    real = dataset_io.read_files

    def spread(*arguments: Any) -> Any:
        return real(*arguments).repartition(partitions)

    patch.setattr(dataset_io, "read_files", spread)
    with roots.locked(root):
        pipeline.run(Job(recipe.load(crawl.recipe), root, engine, crawl.inputs))


def test_shards_do_not_depend_on_partitions(
    small_crawl: Any, whole: Path, tmp_path: Path, shard_hashes: Hashes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with open_engine(None, None, False) as engine:
        check_partitions(small_crawl, tmp_path / "root", engine, 7, monkeypatch)
    assert shard_hashes(tmp_path / "root") == shard_hashes(whole)


@pytest.mark.soak
@pytest.mark.parametrize("partitions", [1, 7, 64])
@pytest.mark.parametrize("name", ["sail", "spark"])
def test_shards_depend_on_no_number_of_partitions(
    small_crawl: Any, whole: Path, tmp_path: Path, shard_hashes: Hashes, connect_server: str,
    monkeypatch: pytest.MonkeyPatch, name: str, partitions: int,
    figures: Callable[[str, str], None],
) -> None:  # fmt: skip
    remote = connect_server if name == "spark" else None
    with open_engine(None, remote, False) as engine:
        check_partitions(small_crawl, tmp_path / "root", engine, partitions, monkeypatch)
    assert shard_hashes(tmp_path / "root") == shard_hashes(whole)
    figures("one hash of the shards", f"{partitions} partitions on {name}: equal")


def _tokens(root: Path) -> dict[str, list[tuple[str, str, list[int]]]]:
    """Split -> (id, url, tokens) of its documents in their order."""
    listed = manifest.read(root / "shards")
    assert listed is not None
    found: dict[str, list[tuple[str, str, list[int]]]] = {}
    for file in listed.files:
        rows = pq.read_table(root / "shards" / file.name, columns=["id", "url", "tokens"])
        columns = (rows[name].to_pylist() for name in rows.column_names)
        found.setdefault(file.extra.split, []).extend(zip(*columns, strict=True))
    return found


@pytest.mark.parametrize("number_of_files", [pytest.param(1, marks=pytest.mark.soak), 4])
def test_the_same_records_in_other_files_are_the_same_tokens(
    small_crawl: Any, whole: Path, tmp_path: Path, number_of_files: int
) -> None:
    """`file_path` and `record_offset` are columns of a shard, so its bytes must differ."""
    inputs = small_crawl.cut(tmp_path, number_of_files)
    command = small_crawl.command(tmp_path / "root")
    _finish([*command[: command.index("--input") + 1], *inputs])
    assert _tokens(tmp_path / "root") == _tokens(whole)


def test_a_second_run_on_a_root_is_refused_and_leaves_the_first_alone(
    small_crawl: Any, whole: Path, tmp_path: Path, shard_hashes: Hashes
) -> None:
    root = tmp_path / "root"
    first = subprocess.Popen(
        small_crawl.command(root), cwd=PROJECT, env=_environment(), stderr=subprocess.DEVNULL
    )
    with first:
        while not (root / "documents").exists():
            assert first.poll() is None
            time.sleep(0.01)
        second = subprocess.run(
            small_crawl.command(root), cwd=PROJECT, env=_environment(), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 2
        assert f"--root {root}: another run is using it" in second.stderr
        assert first.wait() == 0
    assert shard_hashes(root) == shard_hashes(whole)


def test_processes_of_a_killed_driver_end_without_a_word(small_crawl: Any, tmp_path: Path) -> None:
    """They once printed tracebacks of BrokenPipeError."""
    log = tmp_path / "stderr"
    command = small_crawl.command(tmp_path / "root")
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            command, cwd=PROJECT, env=_environment(), stderr=stderr, start_new_session=True
        ) as run,
    ):
        while "fork" not in _processes(run.pid).values():
            assert run.poll() is None
            time.sleep(0.01)
        run.kill()
    for _ in range(600):
        if not _processes(run.pid):
            break
        time.sleep(0.1)
    assert not _processes(run.pid)
    assert "Traceback" not in log.read_text()
    assert "BrokenPipe" not in log.read_text()
