"""A disk that is full, or cannot be written to, is an error that says so: its place, its space."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.engine import disk_faults
from schemas import manifest

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("OSError: [Errno 28] No space left on device: '/a/b.parquet'", errno.ENOSPC),
        ("OSError: [Errno 28] Error writing bytes to file. Detail: [errno 28]", errno.ENOSPC),
        ("failed to spill: No space left on device (os error 28)", errno.ENOSPC),
        ("java.io.IOException: No space left on device", errno.ENOSPC),
        ("OSError: 4096 requested and 16 written", errno.ENOSPC),
        ("OSError: [Errno 122] Disk quota exceeded: 'a.parquet'", errno.EDQUOT),
        ("OSError: [Errno 30] Read-only file system: '/a/b'", errno.EROFS),
        ("PermissionError: [Errno 13] Permission denied: '/a/b'", errno.EACCES),
    ],
)
def test_an_engines_text_is_read(tmp_path: Path, text: str, number: int) -> None:
    told = disk_faults.explain(RuntimeError(f"Traceback ...\n{text}\n"), tmp_path)
    assert told is not None
    assert os.strerror(number) in told
    place = text.split("'")[1] if "'" in text else str(tmp_path)
    assert told.startswith(f"{place}: ")
    assert "bytes free" in told
    assert "committed data is intact" in told


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("FileNotFoundError: [Errno 2] No such file or directory: '/a'"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/a"),
        ValueError("28"),
    ],
)
def test_other_errors_are_about_no_disk(tmp_path: Path, error: Exception) -> None:
    assert disk_faults.explain(error, tmp_path) is None


def test_a_library_that_names_no_file_is_helped(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*/rows"):  # noqa: SIM117
        with manifest.atomic_path(tmp_path / "rows.parquet"):
            raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a size in memory; skips where this user may not."""
    with contextlib.ExitStack() as mounted:

        def mount(options: str) -> Path:
            folder = tmp_path / "disk"
            folder.mkdir(exist_ok=True)
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"needs the right to mount a disk: {made.stderr.strip()}")
            mounted.callback(subprocess.run, ["umount", str(folder)], check=True)
            return folder

        yield mount


def _gristmill(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.submit", "run", "--recipe", "recipes/sample.toml"]
    command += ["--input", "samples/SAMPLE-00000.warc.gz", "--root", str(root), *more]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def check_full_disk(disk: Callable[[str], Path], kib: int) -> None:
    folder = disk(f"size={kib}k")
    root = folder / "root"
    run = _gristmill(root)
    assert run.returncode == 2, f"{kib} KiB: {run.stderr}"
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"gristmill: error: {root}/"), last
    assert "No space left on device" in last
    assert f"the disk at {folder} has" in last
    assert "Traceback" not in run.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    again = _gristmill(root)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("kib", [100])
def test_a_full_disk_is_named_and_the_run_resumes(disk: Callable[[str], Path], kib: int) -> None:
    check_full_disk(disk, kib)


@pytest.mark.soak
@pytest.mark.parametrize("kib", [4, 20, 50, 150, 200, 250, 300])
def test_a_disk_that_fills_in_any_stage_is_named(disk: Callable[[str], Path], kib: int) -> None:
    check_full_disk(disk, kib)


def test_a_root_that_is_read_only_is_named(disk: Callable[[str], Path]) -> None:
    folder = disk("size=64m")
    (folder / "root").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    run = _gristmill(folder / "root")
    assert run.returncode == 2, run.stderr
    assert f"--root {folder}/root: cannot be written to: Read-only file system" in run.stderr
