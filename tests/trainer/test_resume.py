"""A run that is killed anywhere and resumes is identical to an uninterrupted one, the oracle."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.cli import main
from trainer.model import checkpoint

NUM_STEPS = 8
# Where a run dies: before the n-th call of one of these.
PLACES = (
    "trainer.train.run.train_step",
    "trainer.train.run.validate_by_domain",
    "trainer.train.run_folder.log",
    "trainer.model.checkpoint.save_file",
    "trainer.model.checkpoint.flush",
    "trainer.model.checkpoint._put",
    "trainer.model.checkpoint.point",
    "trainer.model.checkpoint.prune",
    "trainer.model.checkpoint.write_json",
    "trainer.model.checkpoint.shutil.rmtree",
    "trainer.train.run_folder.write_json",
)


def _run(arguments: list[str], place: str, number: int, stop: int) -> None:
    """In a child: `trainer ARGUMENTS`, with signal `stop` at the `number`-th call of `place`."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with pytest.MonkeyPatch.context() as patch:
        if place:
            _interrupt(patch, place, number, stop)
        os._exit(main(arguments))


def _interrupt(patch: pytest.MonkeyPatch, place: str, number: int, stop: int) -> None:
    name, calls = place.rpartition(".")[2], 0
    owner: Any = __import__("importlib").import_module(".".join(place.split(".")[:2]))
    for part in place.split(".")[2:-1]:
        owner = getattr(owner, part)
    original = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), stop)
        return original(*arguments, **named)

    patch.setattr(owner, name, call)


Start = Callable[..., int]


@pytest.fixture(scope="session")
def start() -> Start:
    """Run `trainer ARGUMENTS` in a process of its own, forked where torch is imported already."""
    context = multiprocessing.get_context("forkserver")
    late = ["torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg"]
    context.set_forkserver_preload(["trainer.train.run", *late, __name__])

    def run(arguments: list[str], place: str = "", number: int = 0, stop: int = 9) -> int:
        child = context.Process(target=_run, args=(arguments, place, number, stop))
        child.start()
        child.join(120)
        assert child.exitcode is not None, "still running"
        return child.exitcode

    return run


@pytest.fixture
def command(
    recipe_file: Path, tmp_path: Path, shards_folder: Path, write_corpus: Callable[..., Path]
) -> Callable[[str, str], list[str]]:
    """Arguments of `trainer pretrain` or `trainer sft` into tmp_path/NAME."""
    settings = f"[run]\nnum_steps = {NUM_STEPS}\ncheckpoint_every = 2\neval_every = 4"
    text = recipe_file.read_text().replace("[run]\nnum_steps = 8", settings)
    recipe_file.write_text(text)
    sft_file = tmp_path / "sft.toml"
    sft_file.write_text(text[text.index("[data]") :])

    def build(kind: str, name: str) -> list[str]:
        flags = ["--out", str(tmp_path / name), "--device", "cpu"]
        if kind == "pretrain":
            return [kind, "--recipe", str(recipe_file), "--shards", str(shards_folder), *flags]
        base, chats = tmp_path / "base", tmp_path / "chats"
        if not base.exists():
            assert main(build("pretrain", "base")) == 0
            write_corpus(chats, 80, 3, "conversations")
        start_from = ["--init-from", str(base)]
        return [kind, "--recipe", str(sft_file), "--shards", str(chats), *start_from, *flags]

    return build


def outcome(run: Path) -> tuple[list[tuple[int, float]], dict[str, str], list[str]]:
    """Losses by step, the hashes of the last checkpoint's files, and the folders that are left."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    _, state = checkpoint.find(run)
    hashes = {name: file["sha256"] for name, file in state["files"].items()}
    names = [path.name for path in run.iterdir() if path.is_dir()]
    return losses, hashes, sorted(n for n in names if not n.startswith("."))


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_a_run_killed_anywhere_resumes_bit_exactly(
    kind: str,
    command: Callable[[str, str], list[str]],
    tmp_path: Path,
    start: Start,
    pytestconfig: pytest.Config,
) -> None:
    assert start(command(kind, "whole")) == 0
    expected = outcome(tmp_path / "whole")
    assert [step for step, _ in expected[0]] == list(range(1, NUM_STEPS + 1))
    soak = pytestconfig.getoption("--soak")
    draw = random.Random(f"{kind} {soak}")
    for trial in range(100 if soak else 10):
        name = f"killed-{trial}"
        again = [*command(kind, name), "--resume"]
        for _ in range(draw.choice([1, 1, 2])):
            place, number = draw.choice(PLACES), draw.randrange(1, NUM_STEPS + 1)
            assert start(again, place, number) in (-signal.SIGKILL, 0)
            if (tmp_path / name / "latest").exists():  # what a reader finds at any moment
                checkpoint.load(tmp_path / name, torch.device("cpu"))
        assert start(again) == 0
        losses, hashes, folders = outcome(tmp_path / name)
        assert losses == expected[0], (place, number)
        assert hashes == expected[1], (place, number)
        assert {f.removesuffix("-again") for f in folders} >= set(expected[2])
        assert len(folders) <= len(expected[2]) + 1


@pytest.mark.parametrize(
    "place", ["trainer.durable.atomic_path", "trainer.train.run_folder.atomic_path"]
)
def test_a_run_killed_before_its_first_file_is_whole_is_begun_again(
    place: str, command: Callable[[str, str], list[str]], tmp_path: Path, start: Start
) -> None:
    arguments = [*command("pretrain", "killed"), "--resume"]
    assert start(arguments, place, 1) == -signal.SIGKILL
    (tmp_path / "killed").mkdir(exist_ok=True)
    (tmp_path / "killed" / ".run.json.0123.tmp").write_text("{")
    assert start(arguments) == 0
    assert not list((tmp_path / "killed").glob(".*"))


@pytest.mark.parametrize(
    ("stop", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_a_signal_ends_the_run_with_a_checkpoint_of_its_step(
    stop: int, code: int, command: Callable[[str, str], list[str]], tmp_path: Path, start: Start
) -> None:
    assert start(command("pretrain", "whole")) == 0
    arguments = command("pretrain", "stopped")
    assert start(arguments, "trainer.train.run.train_step", 5, stop) == code
    assert checkpoint.find(tmp_path / "stopped")[1]["step"] == 5
    assert start([*arguments, "--resume"]) == 0
    assert outcome(tmp_path / "stopped")[:2] == outcome(tmp_path / "whole")[:2]


def test_an_unfinished_run_resumes_only_with_the_flag(
    command: Callable[[str, str], list[str]],
    start: Start,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    arguments = command("pretrain", "killed")
    assert start(arguments, "trainer.train.run.train_step", 4) == -signal.SIGKILL
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").rglob("*")}
    assert main(arguments) == 2
    assert (
        "holds this run, unfinished after step 2; continue it with --resume"
        in capsys.readouterr().err
    )
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").rglob("*")} == before


def test_another_environment_is_a_warning(
    command: Callable[[str, str], list[str]],
    start: Start,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    recipe_file: Path,
) -> None:
    arguments = command("pretrain", "killed")
    assert start(arguments, "trainer.train.run.train_step", 4) == -signal.SIGKILL
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace("[run]", "[run]\ndevice_batch_size = 2"))
    assert main([*arguments, "--resume"]) == 0
    assert "warning: device_batch_size was 0, is 2: the last bits may" in capsys.readouterr().out


def test_the_best_checkpoint_is_kept_with_the_newest(
    command: Callable[[str, str], list[str]], tmp_path: Path, recipe_file: Path
) -> None:
    text = recipe_file.read_text()
    assert main(command("pretrain", "run")) == 0
    run = tmp_path / "run"
    folders = sorted(path.name for path in run.glob("step-*"))
    assert folders == ["step-000006", "step-000008"]
    best = checkpoint.pointed(run, checkpoint.BEST)
    assert best is not None
    assert best[0].name == "step-000008"
    # with weights that get worse after step 4, the best is kept
    text = recipe_file.read_text().replace("learning_rate = 1e-2", "learning_rate = 3.0")
    recipe_file.write_text(text.replace("eval_every = 4", "eval_every = 2"))
    assert main([*command("pretrain", "worse"), "--steps", "40"]) == 0
    run = tmp_path / "worse"
    best = checkpoint.pointed(run, checkpoint.BEST)
    assert best is not None
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = {x["step"]: x["validation_loss"] for x in log if "validation_loss" in x and x["step"]}
    assert best[1]["validation_loss"] == min(losses.values())
    assert losses[best[1]["step"]] == min(losses.values())
    kept = sorted(path.name for path in run.glob("step-*"))
    assert kept == sorted({best[0].name, "step-000038", "step-000040"})


def test_an_extended_wsd_run_equals_one_that_was_longer_from_the_start(
    command: Callable[[str, str], list[str]],
    tmp_path: Path,
    recipe_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace("[schedule]", '[schedule]\nkind = "wsd"'))
    keep = recipe_file.read_text().replace("[run]", "[run]\nkeep_checkpoints = 0")
    recipe_file.write_text(keep)
    assert main(command("pretrain", "short")) == 0
    assert main([*command("pretrain", "long"), "--steps", "16"]) == 0
    before, decayed = tmp_path / "short" / "step-000004", tmp_path / "short" / "step-000008"
    longer = [*command("pretrain", "longer"), "--steps", "16", "--extend"]
    assert main([*longer, str(before)]) == 0
    assert outcome(tmp_path / "longer")[0] == outcome(tmp_path / "long")[0][4:]
    assert outcome(tmp_path / "longer")[1] == outcome(tmp_path / "long")[1]
    capsys.readouterr()
    other = [*command("pretrain", "other"), "--steps", "16", "--extend", str(decayed)]
    assert main(other) == 2
    assert "step 8 of 8 cannot be extended to run.num_steps = 16" in capsys.readouterr().err
