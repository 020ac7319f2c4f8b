"""Hostile checkpoints, run files and Hugging Face folders."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.cli import main
from trainer.durable import sha256
from trainer.export import hf
from trainer.model import checkpoint
from trainer.model.model import LanguageModel

from .loader.test_hostile import VALUES, places, put

CPU = torch.device("cpu")
Figures = Callable[[str, str], None]
Attack = Callable[[Path, dict[str, Any]], object]


def changed(values: dict[str, Any]) -> Any:
    """One to three paths of a JSON tree, each with a new value."""
    place = st.sampled_from(list(places(values)))
    return st.lists(st.tuples(place, st.sampled_from([..., *VALUES])), min_size=1, max_size=3)


def attack(path: Path, examples: int, attempt: Attack) -> dict[str, int]:
    """Change a JSON file in many ways; `attempt` raises `UserError` or succeeds."""
    original, counts = json.loads(path.read_text()), {"refused": 0, "read": 0}

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(changed(original))
    def run(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
        values = copy.deepcopy(original)
        for place, new in changes:
            put(values, place, new)
        path.write_text(json.dumps(values))
        try:
            attempt(path, values)
        except UserError:
            counts["refused"] += 1
        else:
            counts["read"] += 1

    run()
    path.write_text(json.dumps(original))
    return counts


@pytest.fixture
def run(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    """A run with one checkpoint."""
    state = {"kind": "pretrain", "identity": {"data": {}}, "environment": {}}
    checkpoint.save(tmp_path / "run", 7, model, tokenizer, state, {"a.step": torch.tensor(7.0)})
    return tmp_path / "run"


def load_forged(path: Path, values: dict[str, Any]) -> None:
    """Load a step folder whose state.json lists the forged file."""
    folder, state_path = path.parent, path.parent / checkpoint.STATE_FILE
    if path != state_path:
        state = json.loads(state_path.read_text())
        state["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        state_path.write_text(json.dumps(state))
    loaded = checkpoint.load(folder, CPU)
    checkpoint.load_optimizer(loaded.folder, loaded.state)
    loaded.model(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize("name", ["state.json", "config.json"])
def test_a_hostile_checkpoint_is_refused_or_loads(
    run: Path, name: str, figures: Figures, pytestconfig: pytest.Config
) -> None:
    examples = 1000 if pytestconfig.getoption("--soak") else 60
    counts = attack(run / "step-000007" / name, examples, load_forged)
    figures(
        "hostile checkpoints", f"{examples} of {name}: {counts['refused']} refused, no traceback"
    )


def test_a_hostile_pointer_is_refused_or_loads(run: Path, figures: Figures) -> None:
    counts = attack(run / "latest", 60, lambda path, _: checkpoint.load(path.parent, CPU))
    figures("hostile checkpoints", f"60 of latest: {counts['refused']} refused, no traceback")


def test_a_hostile_hugging_face_config_is_refused_or_loads(
    run: Path, tmp_path: Path, figures: Figures, pytestconfig: pytest.Config
) -> None:
    hf.export(checkpoint.load(run, CPU), tmp_path / "hf")
    examples = 500 if pytestconfig.getoption("--soak") else 30
    path = tmp_path / "hf" / "config.json"
    counts = attack(path, examples, lambda path, _: hf.load(path.parent, CPU))
    figures("hostile checkpoints", f"{examples} of HF config: {counts['refused']} refused")


def test_a_hostile_run_json_is_one_sentence(
    recipe_file: Path,
    shards_folder: Path,
    tmp_path: Path,
    figures: Figures,
    pytestconfig: pytest.Config,
) -> None:
    """`--resume`, `trainer where` and `trainer show-batch` read it."""
    flags = ["--recipe", str(recipe_file), "--shards", str(shards_folder), "--device", "cpu"]
    out = tmp_path / "run"
    command = ["pretrain", *flags, "--out", str(out)]
    assert main(command) == 0

    def attempt(path: Path, values: dict[str, Any]) -> None:
        for arguments in (
            ["where", "--run", str(out), "--step", "1"],
            ["show-batch", "--run", str(out), "--step", "1"],
            [*command, "--resume"],
        ):
            assert main(arguments) in (0, 2)
            assert checkpoint.load(out, CPU).state["step"] == 8
            shutil.rmtree(tmp_path / "again", ignore_errors=True)

    examples = 100 if pytestconfig.getoption("--soak") else 8
    attack(out / "run.json", examples, attempt)
    figures("hostile checkpoints", f"{examples} of run.json: exit code 0 or 2, no traceback")
