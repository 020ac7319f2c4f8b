"""Sizes by depth: the expected values, and always a model that can be built."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from trainer.model.cost import MAX_DEPTH, learning_rate, of_depth, suggested_tokens
from trainer.model.model import LanguageModel, ModelConfig
from trainer.settings import ModelSettings


def test_depth_4_is_the_default_model() -> None:
    assert of_depth(4) == ModelSettings()


@given(st.integers(1, MAX_DEPTH))
def test_every_depth_gives_sizes_that_fit_together(depth: int) -> None:
    made = of_depth(depth)
    assert made.num_attention_heads * made.head_dim == made.hidden_size == 64 * depth
    assert made.num_attention_heads % made.num_key_value_heads == 0
    assert made.intermediate_size % 64 == 0


def test_twice_the_depth_has_eight_times_the_weights_in_its_layers() -> None:
    def weights(depth: int) -> int:
        with torch.device("meta"):
            model = LanguageModel(ModelConfig(of_depth(depth), 64, 0, 8))
        return sum(p.numel() for p in model.model.layers.parameters())

    assert weights(8) == pytest.approx(8 * weights(4), rel=0.01)


def test_what_is_no_size_stays() -> None:
    base = ModelSettings(rope_theta=5e5, tie_word_embeddings=False, document_mask=False)
    made = of_depth(6, base)
    assert (made.rope_theta, made.tie_word_embeddings, made.document_mask) == (5e5, False, False)
    assert made == dataclasses.replace(base, **_sizes(of_depth(6)))


def test_the_learning_rate_falls_with_the_width_beyond_the_one_it_was_tuned_at() -> None:
    rates = [learning_rate(of_depth(depth)) for depth in (1, 4, 8, 16)]
    assert rates == pytest.approx([3e-3, 3e-3, 1.5e-3, 0.75e-3])


def test_twenty_tokens_a_parameter() -> None:
    assert suggested_tokens(5_000_000) == 100_000_000


@pytest.mark.parametrize("depth", [-1, 0, MAX_DEPTH + 1])
def test_a_depth_that_makes_no_model_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match=f"--depth {depth}: must be at least 1 and at most"):
        of_depth(depth)


def _sizes(model: ModelSettings) -> dict[str, int]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return {name: getattr(model, name) for name in (*names, "head_dim", "intermediate_size")}
