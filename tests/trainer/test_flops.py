"""FLOPs, parameters and memory compared with those of the model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from trainer.evaluate.loss import token_losses
from trainer.model import cost
from trainer.model.model import LanguageModel, ModelConfig
from trainer.model.precision import autocast
from trainer.settings import ModelSettings

CPU = torch.device("cpu")


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    keys = draw(st.integers(1, 2))
    shape = ModelSettings(
        hidden_size=draw(st.sampled_from([48, 64])),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=keys * draw(st.integers(1, 2)),
        num_key_value_heads=keys,
        head_dim=draw(st.sampled_from([16, 32])),
        intermediate_size=draw(st.sampled_from([96, 160])),
        tie_word_embeddings=draw(st.booleans()),
        document_mask=draw(st.booleans()),
    )
    return ModelConfig(shape, draw(st.sampled_from([128, 512])), 0, 64)


def some_tokens(config: ModelConfig, rows: int = 2) -> torch.Tensor:
    tokens = torch.randint(1, config.vocab_size, (rows, config.max_position_embeddings))
    tokens[:, 0] = config.boundary
    return tokens


@given(config=configs())
def test_the_number_of_parameters_is_the_models(config: ModelConfig) -> None:
    assert cost.num_parameters(config) == LanguageModel(config).num_parameters


@given(config=configs())
@settings(max_examples=20)
def test_flops_are_those_that_torch_counts(config: ModelConfig) -> None:
    model, tokens = LanguageModel(config), some_tokens(config)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model(tokens).sum().backward()
    per_token = cost.flops_per_token(config, config.max_position_embeddings)
    assert counter.get_total_flops() == pytest.approx(per_token * tokens.numel(), rel=1e-6)


@given(config=configs(), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=20)
def test_activations_are_what_autograd_keeps(config: ModelConfig, dtype: torch.dtype) -> None:
    model, tokens = LanguageModel(config), some_tokens(config)
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(saved: torch.Tensor) -> torch.Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # holds it, so that no other gets its address
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        with autocast(CPU, dtype):
            logits = model(tokens)
        loss = token_losses(logits, tokens).sum()
    estimate = cost.estimate(config, len(tokens), tokens.shape[1], dtype)
    gradient = 4 * tokens.numel() * config.vocab_size
    held = sum(storage.nbytes() for storage in kept.values())
    assert estimate.activations - gradient == pytest.approx(held, rel=0.06)
    assert loss.requires_grad


def test_weights_gradients_and_state_are_fp32() -> None:
    config = ModelConfig(ModelSettings(), 4096, 0, 256)
    count = cost.num_parameters(config)
    adamw = cost.estimate(config, 4, 256, torch.bfloat16)
    assert (adamw.weights, adamw.gradients, adamw.optimizer) == (4 * count, 4 * count, 8 * count)
    muon = cost.estimate(config, 4, 256, torch.bfloat16, "muon")
    assert adamw.total - muon.total == 4 * 4 * cost.layer_matrices(config.settings)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None), ("NVIDIA GeForce RTX 4090", None),
    ],
)  # fmt: skip
def test_a_gpus_peak_is_known_by_its_name_or_not_at_all(name: str, peak: float | None) -> None:
    assert cost.gpu_peak(name) == peak


def test_utilization_is_of_all_devices_and_unknown_without_a_peak() -> None:
    assert cost.mfu(1000.0, 3_000_000, 1e10, 2) == pytest.approx(0.15)
    assert cost.mfu(1000.0, 3_000_000, None) is None


def test_a_cpu_is_measured() -> None:
    peak = cost.peak_flops(CPU, torch.float32)
    assert peak is not None
    assert 1e7 < peak < 1e15
    assert cost.peak_flops(torch.device("meta"), torch.float32) is None
