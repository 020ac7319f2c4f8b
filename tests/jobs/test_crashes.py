"""Processes that die: of what a page does to them, and of kills from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from corpus import worker
from corpus.recipe import Recipe
from corpus.worker_tasks import ExtractRequest
from jobs import extract, pipeline
from jobs.engine.session import Engine
from jobs.engine.stage import Job
from schemas import config, manifest
from schemas.errors import UserError

HOSTILE_PAGES = Path(__file__).parent / "hostile_pages"
HEALTHY = "Nothing happens to whoever reads this page."


def response(number: int, text: str) -> bytes:
    """A WARC record of its own gzip member with a page that says `text`."""
    page = f"<html><body><article><p>{text} Page {number}.</p></article></body></html>"
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{page}".encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
        f"WARC-Target-URI: http://site.example/{number}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n", 1)


@pytest.fixture
def mishaps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Children in which pages do what they name (`hostile_pages/sitecustomize.py`)."""
    worker.stop_idle()
    paths = os.pathsep.join([str(HOSTILE_PAGES), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", paths)
    monkeypatch.setenv("MISHAPS", str(tmp_path))
    yield
    worker.stop_idle()


def read(folder: Path, texts: list[str], **settings: Any) -> dict[int, str | None]:
    """Number of the page -> what its row was rejected by, as the extract stage reads a file."""
    path = folder / "pages.warc.gz"
    path.write_bytes(b"".join(response(i, text) for i, text in enumerate(texts)))
    defaults = {"engine": "resiliparse", "max_cpu_seconds": 60.0}
    chosen = dataclasses.replace(Recipe().extract, **defaults | settings)
    recipe = dataclasses.replace(Recipe(), extract=chosen)
    request = ExtractRequest(str(path), "pages")
    rows, outcomes = {}, Counter[str]()
    for answer, noted in extract._answers(config.to_json(dataclasses.asdict(recipe)), request):
        for row in answer.to_pylist():
            number = int(row["url"].rpartition("/")[2])
            assert number not in rows
            rows[number] = row["rejected_by"]
        outcomes.update(noted.outcomes)
    assert list(rows) == list(range(len(texts)))
    assert outcomes == Counter(reason or "extracted" for reason in rows.values())
    return rows


def planted(count: int, **mishap_at: str) -> list[str]:
    """Healthy pages, and at the places `n<place>` those that name a mishap."""
    texts = [HEALTHY] * count
    for place, mishap in mishap_at.items():
        texts[int(place[1:])] = f"{HEALTHY} mishap-{mishap}"
    return texts


def reasons(rows: dict[int, str | None]) -> dict[int, str]:
    return {number: reason for number, reason in rows.items() if reason}


def test_only_pages_that_end_every_process_become_crashed_rows(
    mishaps: None, tmp_path: Path
) -> None:
    deadly = {"n0": "segv", "n7": "abrt", "n8": "bus", "n70": "fpe", "n71": "ill", "n99": "exit"}
    innocent = {"n3": "once-segv", "n20": "once-kill", "n72": "once-term", "n73": "once-hup"}
    rows = read(tmp_path, planted(100, **deadly, **innocent))
    assert reasons(rows) == {int(place[1:]): "extraction_crashed" for place in deadly}


def test_a_page_without_end_in_c_code_becomes_a_row(
    mishaps: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read(tmp_path, planted(10, n4="loop-in-c"), max_cpu_seconds=0.5)
    assert reasons(rows) == {4: "extraction_crashed"}


def test_a_memory_error_that_nobody_catches_costs_its_page_alone(
    mishaps: None, tmp_path: Path
) -> None:
    rows = read(tmp_path, planted(10, n4="memory"))
    assert reasons(rows) == {4: "extraction_crashed"}


def _descendants(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    pids = [int(line) for line in found.stdout.split()]
    return pids + [below for one in pids for below in _descendants(one)]


def _children() -> list[int]:
    """Processes of `corpus.worker` that this process started, and their forks."""
    own = [one._process.pid for one in list(worker._running)]
    return own + [pid for one in own for pid in _descendants(one)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_kills_from_outside_blame_no_page(
    mishaps: None, tmp_path: Path, number: signal.Signals
) -> None:
    """Five kills of extraction children once made two innocent pages `extraction_crashed`."""
    killed, done = 0, threading.Event()

    def kill() -> None:
        nonlocal killed
        while killed < 12 and not done.wait(0.01):
            for pid in _children()[killed % 2 :]:  # the child and its fork, or the fork alone
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    killed += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:  # most kills meet the same two pages, since these take longest
        rows = read(tmp_path, planted(100, n5="pause", n6="pause"))
    finally:
        done.set()
        thread.join()
    assert killed >= 12
    assert reasons(rows) == {}


def test_kills_without_end_are_an_error_that_names_file_and_signal(
    mishaps: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAX_KILLS", 4)
    with pytest.raises(worker.KilledError, match=r"pages\.warc\.gz: byte \d+: 4 .* by SIGKILL"):
        read(tmp_path, planted(100, n50="kill"))


def test_many_deadly_pages_do_not_end_a_run(mishaps: None, tmp_path: Path) -> None:
    check_deadly_pages(tmp_path, 20)


@pytest.mark.soak
def test_twelve_hundred_deadly_pages_do_not_end_a_run(
    mishaps: None, tmp_path: Path, figures: Callable[[str, str], None]
) -> None:
    before = os.times()
    check_deadly_pages(tmp_path, 1200)
    after = os.times()
    seconds = sum(after[:4]) - sum(before[:4])
    figures("a page that kills its process", f"1,200 of 2,400 pages, {seconds:.0f} CPU-s in all")


def check_deadly_pages(folder: Path, number: int) -> None:
    texts = [HEALTHY if i % 2 else f"{HEALTHY} mishap-segv" for i in range(2 * number)]
    rows = read(folder, texts)
    assert reasons(rows) == dict.fromkeys(range(0, 2 * number, 2), "extraction_crashed")


@pytest.mark.parametrize("deadly", [extract.MIN_FAILURES, extract.MIN_FAILURES - 1])
def test_a_run_in_which_too_many_pages_fail_ends_with_an_error(
    mishaps: None, tmp_path: Path, engines: Callable[[str], Engine], deadly: int
) -> None:
    texts = [f"{HEALTHY} mishap-abrt"] * deadly + [HEALTHY] * 30
    path = tmp_path / "pages.warc.gz"
    path.write_bytes(b"".join(response(i, text) for i, text in enumerate(texts)))
    settings = dataclasses.replace(Recipe().extract, engine="resiliparse")
    recipe = dataclasses.replace(Recipe(), name="test", extract=settings)
    job = Job(recipe, tmp_path / "root", engines("sail"), (str(path),))
    if deadly == extract.MIN_FAILURES:
        with pytest.raises(UserError, match=r"20 of 50 pages \(40\.0%\) ended"):
            pipeline.run(job, (extract.STAGE,))
        assert manifest.read(job.folder("documents")) is None
        made = [path.stat().st_mtime_ns for path in job.folder("documents").glob("*.parquet")]
        job = dataclasses.replace(job, max_failed_share=0.4)
        assert pipeline.run(job, (extract.STAGE,)) == 1
        again = [path.stat().st_mtime_ns for path in job.folder("documents").glob("*.parquet")]
        assert again == made
    else:  # so few pages say little of a run
        assert pipeline.run(job, (extract.STAGE,)) == 1
    assert job.manifest("documents").counts["extraction_crashed"] == deadly


def _judge(texts: list[str]) -> list[pa.RecordBatch]:
    from schemas.datasets import DOCUMENTS

    rows = [
        dict.fromkeys(DOCUMENTS.names)
        | {"id": f"id-{i}", "url": f"http://site.example/{i}", "text": text, "language": "en"}
        | {"language_score": 0.9, "dump": "", "file_path": "a", "record_offset": i}
        | {"truncated": False, "noai": False, "tdm_reservation": False}
        for i, text in enumerate(texts)
    ]
    recipe = config.to_json(dataclasses.asdict(Recipe()))
    return worker.map_rows("judge", recipe, pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS))


def test_other_stages_ask_again_after_a_kill(mishaps: None) -> None:
    quiet = _judge([HEALTHY] * 20)
    assert _judge(planted(20, n3="once-kill", n4="once-segv", n9="once-term"))[0]["id"].equals(
        quiet[0]["id"]
    )


def test_other_stages_name_the_row_that_ends_every_process(mishaps: None) -> None:
    with pytest.raises(worker.ChildError, match=r"judge: 3 .* SIGSEGV .* id 'id-13', url '.*/13'"):
        _judge(planted(20, n13="segv"))
