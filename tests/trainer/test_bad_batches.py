"""Losses and gradients that are not finite in one of two processes: both skip the step."""

from __future__ import annotations

import faulthandler
import gc
import json
import math
import multiprocessing
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from trainer import distributed
from trainer.cli import main
from trainer.model import checkpoint
from trainer.train import step

# What goes wrong -> the loss that is logged is not finite, the value that it or its gradient gets.
FAULTS = {
    "loss nan": (True, math.nan),
    "loss inf": (True, math.inf),
    "gradient nan": (False, math.nan),
    "gradient inf": (False, -math.inf),
}
Bad = dict[int, tuple[int, ...]]  # step, from 1 -> rows of the global batch of 4


def _damaged(bad: Bad, fault: str) -> Callable[..., torch.Tensor]:
    """`row_losses` with a fault in the rows of `bad`, wherever they are computed."""
    original, (of_loss, value) = step.row_losses, FAULTS[fault]

    def row_losses(training: Any, losses: Any, micro_batch: Any) -> torch.Tensor:
        found = original(training, losses, micro_batch)
        batches = {number: training.loader.batch(number - 1).inputs for number in bad}
        lost = {tuple(batches[n][row].tolist()) for n, rows in bad.items() for row in rows}
        hit = torch.tensor([tuple(row) in lost for row in micro_batch.inputs.tolist()])
        if of_loss:
            return torch.where(hit, value, found)
        if hit.any() and found.requires_grad:
            found.register_hook(lambda gradient: torch.where(hit, value, gradient))
        return found

    return row_losses


def _rank(rank: int, port: int, arguments: list[str], bad: Bad, fault: str, said: Path) -> None:
    """One of two processes that torchrun would have started."""
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(90, exit=True)  # two that wait for each other say where
    output = os.open(said.with_suffix(f".{rank}"), os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {**address, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    step.row_losses = _damaged(bad, fault)
    distributed.dist.destroy_process_group = _leave_alone(dist.destroy_process_group)
    os._exit(main(arguments))


def _leave_alone(original: Callable[[], None]) -> Callable[[], None]:
    """Leave the group after its wrapped models: one in 20 runs hung where a model came last."""

    def leave() -> None:
        if any(type(thing) is DistributedDataParallel for thing in gc.get_objects()):
            os._exit(99)
        original()

    return leave


Train = Callable[..., tuple[list[int], str]]


@pytest.fixture
def train(recipe_file: Path, shards_folder: Path, tmp_path: Path) -> Train:
    """Train in two processes into tmp_path/NAME; exit codes, and what the first one printed."""
    context = multiprocessing.get_context("forkserver")
    late = ["torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg"]
    context.set_forkserver_preload(["trainer.train.run", *late, __name__])
    flags = ["--recipe", str(recipe_file), "--shards", str(shards_folder), "--device", "cpu"]

    def run(name: str, bad: Bad, fault: str = "loss nan") -> tuple[list[int], str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments, said = (
            ["pretrain", *flags, "--out", str(tmp_path / name)],
            tmp_path / f"{name}.txt",
        )
        children = [
            context.Process(target=_rank, args=(rank, port, arguments, bad, fault, said))
            for rank in (0, 1)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
        texts = [said.with_suffix(f".{rank}").read_text() for rank in (0, 1)]
        assert not any("Timeout (" in text for text in texts), "\n".join(texts)
        return [child.exitcode for child in children], texts[0]

    return run


def outcome(run: Path) -> tuple[dict[str, str], list[int], list[float | None]]:
    """Hashes of the last checkpoint's files, skipped steps, and losses."""
    _, state = checkpoint.find(run)
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    steps = [line for line in lines if "loss" in line]
    skipped = [line["step"] for line in steps if line["skipped"]]
    hashes = {name: file["sha256"] for name, file in state["files"].items()}
    return hashes, skipped, [line["loss"] for line in steps]


@pytest.mark.parametrize(
    ("fault", "row"),
    [
        ("loss nan", 3),
        ("gradient inf", 2),
        pytest.param("loss inf", 0, marks=pytest.mark.soak),
        pytest.param("loss inf", 3, marks=pytest.mark.soak),
        pytest.param("gradient nan", 1, marks=pytest.mark.soak),
        pytest.param("gradient nan", 3, marks=pytest.mark.soak),
        pytest.param("gradient inf", 0, marks=pytest.mark.soak),
    ],
)
def test_a_fault_in_one_process_is_skipped_by_both(
    train: Train, tmp_path: Path, fault: str, row: int, figures: Callable[[str, str], None]
) -> None:
    """Steps 3 and 6; rows 0 and 1 are the first process's. Oracle: all rows of both are bad."""
    assert train("both", {3: (0, 1, 2, 3), 6: (0, 1, 2, 3)})[0] == [0, 0]
    codes, said = train("one", {3: (row,), 6: (row,)}, fault)
    assert codes == [0, 0]
    named = rf"weights unchanged; row {row} \(train-\d+\.parquet, document [\w-]+\)$"
    assert len(re.findall(rf"step [36]: loss .* skipped, {named}", said, re.M)) == 2
    expected, found = outcome(tmp_path / "both"), outcome(tmp_path / "one")
    assert found[:2] == expected[:2]
    assert found[1] == [3, 6]
    finite = [i for i in range(8) if i not in (2, 5)]
    assert [found[2][i] for i in finite] == [expected[2][i] for i in finite]
    assert (found[2][2] is None) == fault.startswith("loss")
    figures("bad batches", f"{fault} in row {row} of one process: 2 of 2 steps skipped by both")


def test_a_run_of_nothing_but_nan_ends_in_all_processes(
    train: Train, tmp_path: Path, recipe_file: Path
) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace("[run]", "[run]\ncheckpoint_every = 1"))
    codes, said = train("nan", dict.fromkeys(range(3, 9), (3,)))
    assert codes == [2, 2]
    error = (
        r"trainer: error: step 6: .*row 3 \(.*: 4 such steps in a row \(run.max_skipped_steps = 3"
    )
    assert re.search(error, said)
    assert "Traceback" not in said
    _, state = checkpoint.find(tmp_path / "nan")
    assert state["step"] == 5
    model = checkpoint.load(tmp_path / "nan", torch.device("cpu")).model
    assert all(weight.isfinite().all() for weight in model.parameters())
