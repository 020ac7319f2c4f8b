"""Which weights each optimizer takes, what a state holds, and that a loaded one continues alike."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from schemas.errors import UserError
from trainer.model.model import LanguageModel, ModelConfig
from trainer.settings import ModelSettings, OptimizerSettings
from trainer.train.optimizer import (
    MUON_MIN_TOKENS,
    ModelOptimizer,
    build_optimizer,
    muon_warning,
    parameter_groups,
)

Kind = Literal["adamw", "muon"]
SHAPE = ModelSettings(
    hidden_size=16, head_dim=8, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
)


def make(kind: Kind, tied: bool = True) -> tuple[LanguageModel, ModelOptimizer]:
    torch.manual_seed(5)
    settings = dataclasses.replace(SHAPE, tie_word_embeddings=tied)
    model = LanguageModel(ModelConfig(settings, 64, 0, 16))
    return model, build_optimizer(model, OptimizerSettings(kind))


def train(model: LanguageModel, optimizer: ModelOptimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(64, (3, 16), generator=generator)
        optimizer.set_learning_rate_factor(1 / (1 + step))
        model(tokens).log_softmax(-1)[..., 7].sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False])
def test_six_steps_equal_three_a_saved_state_and_three_more_bit_for_bit(
    kind: Kind, tied: bool
) -> None:
    whole, optimizer = make(kind, tied)
    train(whole, optimizer, range(6))
    first, stopped = make(kind, tied)
    train(first, stopped, range(3))
    state = {name: value.clone() for name, value in stopped.state().items()}
    second, resumed = make(kind, tied)
    second.load_state_dict(first.state_dict())
    resumed.load_state(state)
    train(second, resumed, range(3, 6))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(value, resumed.state()[n]) for n, value in optimizer.state().items())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_one_batch_is_memorized(kind: Kind) -> None:
    """Rows that each begin alike nowhere, so that nothing in them is left to chance."""
    torch.manual_seed(0)
    settings = dataclasses.replace(SHAPE, hidden_size=32, intermediate_size=64)
    model = LanguageModel(ModelConfig(settings, 64, 0, 16))
    optimizer = build_optimizer(model, OptimizerSettings(kind, 1e-2, muon_learning_rate=1e-2))
    rows = 1 + torch.stack([torch.randperm(63)[:17] for _ in range(4)])
    rows[:, 0] = torch.arange(1, 5)
    for _ in range(150):
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_state_is_whole_fp32_and_named_by_parameter(kind: Kind) -> None:
    model, optimizer = make(kind)
    assert optimizer.state() == {}
    train(model, optimizer, range(1))
    state = optimizer.state()
    sizes = {name: p.shape for name, p in model.named_parameters()}
    assert {name.rpartition(".")[0] for name in state} == set(sizes)
    for name, value in state.items():
        parameter, _, slot = name.rpartition(".")
        assert value.dtype == torch.float32
        assert value.device.type == "cpu"
        assert value.shape == (() if slot == "step" else sizes[parameter])


def test_a_state_is_a_copy() -> None:
    model, optimizer = make("adamw")
    train(model, optimizer, range(1))
    state = optimizer.state()
    kept = {name: value.clone() for name, value in state.items()}
    other_model, other = make("adamw")
    other.load_state(state)
    train(model, optimizer, range(1, 3))
    train(other_model, other, range(1, 3))
    assert all(torch.equal(value, kept[name]) for name, value in state.items())


def test_a_state_of_another_optimizer_is_refused_by_name() -> None:
    model, optimizer = make("adamw")
    train(model, optimizer, range(1))
    state = optimizer.state()
    with pytest.raises(UserError, match=r"state for Muon \+ fused AdamW: .*exp_avg belongs to"):
        make("muon")[1].load_state(state)
    state.pop("model.norm.weight.exp_avg")
    with pytest.raises(UserError, match=r"model\.norm\.weight\.exp_avg is missing"):
        make("adamw")[1].load_state(state)


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    model, optimizer = make("muon", tied=False)
    train(model, optimizer, range(1))
    muon = {n.rpartition(".")[0] for n in optimizer.state() if n.endswith("momentum_buffer")}
    names = {name for name, _ in model.named_parameters()}
    assert muon == {n for n in names if n.endswith("proj.weight")}
    assert optimizer.implementation == "Muon + fused AdamW"


def test_muon_updates_are_orthogonal_and_as_large_as_adamws() -> None:
    model, optimizer = make("muon")
    matrix = model.model.layers[0].mlp.up_proj.weight  # 24 x 16
    before = matrix.detach().clone()
    rate = OptimizerSettings().muon_learning_rate
    train(model, optimizer, range(1))
    update = (before * (1 - rate * 0.1) - matrix.detach()) / rate
    singular: Tensor = torch.linalg.svdvals(update)
    assert float(singular.max() / singular.min()) < 3  # Newton-Schulz stops at about 0.5 to 1.5
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.3)


def test_the_factor_multiplies_both_peaks() -> None:
    optimizer = make("muon")[1]
    for factor in (0.5, 0.25, 1.0):
        optimizer.set_learning_rate_factor(factor)
        rates = [group["lr"] for part in optimizer.parts for group in part.param_groups]
        assert set(rates) == {OptimizerSettings().learning_rate * factor}


def test_norms_and_embeddings_do_not_decay() -> None:
    model = make("adamw", tied=False)[0]
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, kept = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    kept_names = {names[p] for p in kept["params"]}
    assert kept_names == {n for n in names.values() if "norm" in n or "embed" in n}
    assert kept_names | {names[p] for p in decayed["params"]} == set(names.values())


def test_muon_warns_where_a_step_has_too_few_tokens() -> None:
    muon = OptimizerSettings("muon")
    warning = muon_warning(muon, 4096)
    assert warning is not None
    assert "4,096 tokens per step" in warning
    assert muon_warning(muon, MUON_MIN_TOKENS) is None
    assert muon_warning(OptimizerSettings(), 64) is None


def test_muon_warns_where_bfloat16_is_slow_whatever_the_batch() -> None:
    warning = muon_warning(OptimizerSettings("muon"), 1 << 20, bfloat16_is_fast=False)
    assert warning is not None
    assert "slow at bf16" in warning
    assert muon_warning(OptimizerSettings(), 64, bfloat16_is_fast=False) is None
