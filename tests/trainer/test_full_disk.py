"""A disk that is full at any write of a checkpoint or a run, simulated and real."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.cli import main
from trainer.model import checkpoint
from trainer.model.model import LanguageModel

Capture = pytest.CaptureFixture[str]
Figures = Callable[[str, str], None]
CPU = torch.device("cpu")
SAID = "No space left on device"


class Disk:
    """Counts what is written below a folder; the call numbered `full_at` (from 1) has no space.

    A write in text leaves half of it behind, as a real disk does.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.calls, self.full_at, self.mkdir = str(folder), 0, 0, os.mkdir
        for name in ("mkdir", "rename", "replace", "chmod", "fsync"):
            patch.setattr(os, name, self._refusing(getattr(os, name)))
        patch.setattr(checkpoint, "save_file", self._torn_weights(checkpoint.save_file))
        opened = self._torn_text(io.open)
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)

    def _is_full(self, path: Any) -> bool:
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        if not str(path).startswith(self.folder):
            return False
        self.calls += 1
        return self.calls == self.full_at

    def _refusing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **named: Any) -> Any:
            made = original is self.mkdir and Path(path).exists()  # takes no space
            if not made and self._is_full(path):
                raise OSError(errno.ENOSPC, SAID, None if isinstance(path, int) else str(path))
            return original(path, *rest, **named)

        return call

    def _torn_weights(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save_file(weights: Any, path: Path, **named: Any) -> None:
            original(weights, path, **named)
            if self._is_full(path):
                os.truncate(path, path.stat().st_size // 2)
                raise SafetensorError(f"Error while serializing: I/O error: {SAID} (os error 28)")

        return save_file

    def _torn_text(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            file = original(path, mode, *rest, **named)
            if mode in ("w", "a") and not isinstance(path, int) and self._is_full(path):
                write = file.write

                def torn(text: str) -> None:
                    write(text[: len(text) // 2])
                    file.flush()
                    raise OSError(errno.ENOSPC, SAID, str(path))

                file.write = torn
            return file

        return opened


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path / "run", monkeypatch)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_disk_full_at_any_write_of_a_checkpoint_leaves_the_one_before(
    disk: Disk, tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer, figures: Figures
) -> None:
    run, optimizer = tmp_path / "run", {"model.norm.weight.step": torch.tensor(7.0)}
    checkpoint.save(run, 7, model, tokenizer, {"a": 1}, optimizer)
    before = files(run)
    disk.calls = 0
    checkpoint.save(run, 8, model, tokenizer, {"a": 2}, optimizer)
    count, right = disk.calls, files(run)
    assert count > 15
    for number in range(1, count + 1):
        checkpoint.point(run, checkpoint.LATEST, run / "step-000007")
        checkpoint.shutil.rmtree(run / "step-000008", ignore_errors=True)
        disk.calls, disk.full_at = 0, number
        with pytest.raises(UserError) as caught:
            checkpoint.save(run, 8, model, tokenizer, {"a": 2}, optimizer)
        disk.full_at = 0
        said = str(caught.value)
        assert said.startswith(f"{run}: checkpoint of step 8 could not be written"), number
        assert re.search(rf"{SAID}.*; the disk at /\S* has [\d,]+ bytes free", said), number
        assert "earlier checkpoints are intact: free disk space and continue with --resume" in said
        assert checkpoint.load(run, CPU).state["step"] == 7, number
        found = {name: data for name, data in files(run).items() if "step-000008/" not in name}
        assert found == before, number  # and no half-written file
        if (run / "step-000008").exists():  # whole already, not yet pointed to
            assert checkpoint.load(run / "step-000008", CPU).state["step"] == 8
        checkpoint.save(run, 8, model, tokenizer, {"a": 2}, optimizer)
        assert files(run) == right, number
    figures(
        "full disk in a checkpoint",
        f"{count} writes, fsyncs and renames of one checkpoint failed in turn: the checkpoint "
        "before loaded every time, the next save equal byte for byte",
    )


@pytest.fixture
def arguments(recipe_file: Path, shards_folder: Path) -> list[str]:
    text = recipe_file.read_text()
    settings = "[run]\ncheckpoint_every = 2\neval_every = 4\nsample_every = 4"
    recipe_file.write_text(text.replace("[run]", settings))
    flags = ["--recipe", str(recipe_file), "--shards", str(shards_folder), "--device", "cpu"]
    return ["pretrain", *flags, "--out"]


def outcome(run: Path) -> tuple[list[tuple[int, float]], dict[str, str]]:
    """Losses by step, and the hashes of the last checkpoint's files."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    _, state = checkpoint.find(run)
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    return losses, {name: file["sha256"] for name, file in state["files"].items()}


def test_a_disk_full_at_any_write_of_a_run_is_one_sentence_and_resumes(
    disk: Disk,
    arguments: list[str],
    tmp_path: Path,
    capsys: Capture,
    figures: Figures,
    pytestconfig: pytest.Config,
) -> None:
    run = tmp_path / "run"
    assert main([*arguments, str(run)]) == 0
    right, count = outcome(run), disk.calls
    numbers = list(range(1, count + 1))
    if not pytestconfig.getoption("--soak"):
        numbers = sorted({1, 2, count, *random.Random(0).sample(numbers, 4)})
    for number in numbers:
        checkpoint.shutil.rmtree(run)
        capsys.readouterr()
        disk.calls, disk.full_at = 0, number
        assert main([*arguments, str(run)]) == 2, number
        disk.full_at = 0
        error = capsys.readouterr().err
        assert re.search(rf"^trainer: error: .*{run}.*{SAID}.*; the disk at /", error), number
        assert error.count("\n") == 1, number
        if (run / "latest").exists():
            checkpoint.load(run, CPU)
        assert main([*arguments, str(run), "--resume"]) == 0, number
        assert outcome(run) == right, number
        assert not list(run.glob(".*")), number
    figures(
        "full disk in a run",
        f"{len(numbers)} of {count} writes of a run of 8 steps and 4 checkpoints failed in turn: "
        "one sentence, and --resume equal bit for bit to the unbroken run",
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a file system of so many bytes, or give the mounted one that size."""
    mounted = tmp_path / "disk"

    def size(number: int) -> Path:
        again = ["-o", f"remount,size={number}"] if mounted.exists() else ["-o", f"size={number}"]
        mounted.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", *again, "none", str(mounted)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"needs mount: {error}")
        if done.returncode:
            pytest.skip(f"needs the right to mount a small file system: {done.stderr.strip()}")
        return mounted

    yield size
    if os.path.ismount(mounted):
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_small_disk_fills_up_and_the_run_resumes_once_there_is_room(
    small_disk: Callable[[int], Path],
    arguments: list[str],
    tmp_path: Path,
    capsys: Capture,
    figures: Figures,
    pytestconfig: pytest.Config,
) -> None:
    """A checkpoint has some 400 kB, three are there at once: sizes from none to one too few."""
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    right = outcome(tmp_path / "whole")
    soak = pytestconfig.getoption("--soak")
    sizes = range(4096, 1_200_000, 40_960) if soak else (40_960, 450_560, 860_160)
    filled = 0
    for number, size in enumerate(sizes):
        disk = small_disk(size)
        run = disk / f"run-{number}"
        capsys.readouterr()
        if main([*arguments, str(run)]) == 0:
            assert outcome(run) == right
        else:
            error = capsys.readouterr().err
            assert re.search(rf"{SAID}.*; the disk at {disk} has [\d,]+ bytes free", error), size
            assert error.count("\n") == 1
            if (run / "latest").exists():
                checkpoint.load(run, CPU)
            small_disk(64 << 20)
            assert main([*arguments, str(run), "--resume"]) == 0
            assert outcome(run) == right
            filled += 1
        checkpoint.shutil.rmtree(run)
    assert filled > 1
    figures(
        "full disk in a run",
        f"{filled} runs on a file system too small for them: one sentence, {filled} of {filled} "
        "went on once there was room, equal bit for bit",
    )
