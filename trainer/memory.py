"""How much memory a training step takes, from the shape alone.

Weights, gradients and optimizer state are fp32. Activations are what autograd keeps of a forward
pass for the backward pass, tensor by tensor as `trainer.model` makes them without compilation
(which keeps less), and the logits' gradient, with which the backward pass begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.flops import layer_matrices, num_parameters
from trainer.model import ModelConfig


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it; what the process and its libraries take comes on top."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(
    config: ModelConfig, rows: int, seq_len: int, dtype: torch.dtype, optimizer: str = "adamw"
) -> Memory:
    """Memory of a step that takes `rows` rows of `seq_len` tokens at once.

    AdamW keeps two numbers a parameter, Muon one of a layer's matrices.
    """
    parameters = num_parameters(config)
    by_muon = config.settings.num_hidden_layers * layer_matrices(config.settings)
    state = 8 * parameters - (4 * by_muon if optimizer == "muon" else 0)
    logits = 4 * config.vocab_size  # their gradient, fp32
    activations = rows * seq_len * (saved_per_token(config, seq_len, dtype) + logits)
    return Memory(4 * parameters, 4 * parameters, state, activations + _casts(config, dtype))


def saved_per_token(config: ModelConfig, seq_len: int, dtype: torch.dtype) -> int:
    """Bytes a token that autograd keeps of a forward pass and the loss."""
    s, wide, size = config.settings, 4, dtype.itemsize
    queries, keys = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
    # Each norm keeps its input and the normalised stream, each product its input; autocast makes
    # a copy of that for every one of q, k, v, gate and up.
    inputs = 2 if dtype == torch.float32 else 5
    stream = s.hidden_size * (2 * 2 * wide + inputs * size)
    heads = (queries + keys) * (wide + size)  # norms of queries and keys
    attention = 4 * queries * size  # q, and k and v for every query head, and what comes out
    mask = seq_len * size if s.document_mask else 0
    layer = stream + heads + attention + mask + 4 * s.intermediate_size * size
    end = s.hidden_size * (2 * wide + size) + config.vocab_size * wide  # log-probabilities
    return s.num_hidden_layers * layer + end


def _casts(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of the matrices' copies in `dtype`, which autocast keeps for the backward pass."""
    if dtype == torch.float32:
        return 0
    s = config.settings
    head = config.vocab_size * s.hidden_size
    return dtype.itemsize * (s.num_hidden_layers * layer_matrices(s) + head)
