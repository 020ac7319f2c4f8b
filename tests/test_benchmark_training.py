"""What training.py compares is the same model."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from trainer.model.model import LanguageModel, ModelConfig, documents_of
from trainer.settings import ModelSettings
from trainer.train.step import RowLosses

PROJECT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    """A module of the benchmarks, which import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROJECT / "benchmarks")
        return importlib.import_module(name)


def test_plain_pytorch_computes_what_the_trainers_model_does() -> None:
    """Loss and gradients, in rows of several documents."""
    settings = ModelSettings(
        hidden_size=32, num_hidden_layers=2, head_dim=8, intermediate_size=48,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    ours = LanguageModel(ModelConfig(settings, 64, 0, 16))
    plain = load("training_parts.plain_model").PlainModel(64, 32, 2, 4, 2, 48, 16)
    plain.load_state_dict(ours.state_dict())
    tokens = torch.randint(1, 64, (3, 17))
    tokens[:, [0, 6]] = 0
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    batch = (inputs, targets, *documents_of(inputs, 0))
    found, expected = RowLosses(ours)(*batch).sum() / targets.numel(), plain(*batch)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    named = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, named[name].grad, atol=1e-6, rtol=1e-4)


def test_the_command_lists_its_parts() -> None:
    command = [sys.executable, "benchmarks/training.py", "--help"]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert all(part in shown.stdout for part in ("speed", "learn", "overfit", "all"))
