"""A model's size from its depth, and what a training step costs in FLOPs and memory.

`of_depth` derives all sizes from the number of layers:

| | rule | source |
|---|---|---|
| width | 64 x depth | nanochat's aspect ratio: deeper and wider together |
| query heads | one per 64 of width | Qwen3's smaller head, nanochat's for small models |
| key-value heads | depth's largest proper divisor (half, if even) | Qwen3-0.6B: two queries each |
| feed-forward | 3 x width | Qwen3-0.6B's, SwiGLU's three matrices |
| learning rate | 3e-3 up to width 256, beyond it as 1 / width | arXiv 2203.03466 (muP), Adam |
| tokens | 20 x parameters | arXiv 2203.15556 (Chinchilla) |

Model FLOPs utilization (MFU; PaLM, arXiv 2204.02311, appendix B) compares the tokens trained per
second with those of a device that spends its peak on the model's arithmetic: per token 6 FLOPs per
multiplied parameter (forward 2, backward 4) and 12 LHQT for attention (L layers, H heads of Q
dimensions, T tokens), which is not halved for the causal mask.

Memory assumes fp32 weights, gradients and optimizer state. Activations are what autograd keeps of a
forward pass, tensor by tensor as `trainer.model.model` creates them without compilation (which
keeps less), and the gradient of the logits, with which the backward pass begins.
"""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass

import torch

from schemas.errors import UserError
from trainer.model.model import ModelConfig
from trainer.settings import ModelSettings

HEAD_DIM = 64
PEAK_LEARNING_RATE, TUNED_WIDTH = 3e-3, 256
TOKENS_PER_PARAMETER = 20
MAX_DEPTH = 96
# Peak dense bf16 FLOP/s by words of the GPU's name, the first that fits: NVIDIA's data sheets.
GPU_PEAKS = {
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
_SIZE, _ROUNDS, _SECONDS = 768, 40, 0.3  # of the matrix product that measures a CPU


def of_depth(depth: int, base: ModelSettings | None = None) -> ModelSettings:
    """The model with `depth` layers; settings that are no sizes come from `base`."""
    if not 1 <= depth <= MAX_DEPTH:
        raise UserError(f"--depth {depth}: must be at least 1 and at most {MAX_DEPTH}")
    width = HEAD_DIM * depth
    return dataclasses.replace(
        base or ModelSettings(),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=depth,
        num_key_value_heads=max((n for n in range(1, depth) if depth % n == 0), default=1),
        head_dim=HEAD_DIM,
        intermediate_size=3 * width,
    )


def learning_rate(model: ModelSettings) -> float:
    """AdamW's peak learning rate for a model of this width."""
    return PEAK_LEARNING_RATE * min(1.0, TUNED_WIDTH / model.hidden_size)


def suggested_tokens(num_parameters: int) -> int:
    """Compute-optimal number of training tokens: beyond it, a larger model learns more."""
    return TOKENS_PER_PARAMETER * num_parameters


def layer_matrices(s: ModelSettings) -> int:
    """Parameters in the matrices of one layer."""
    queries, keys = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
    return s.hidden_size * (2 * queries + 2 * keys + 3 * s.intermediate_size)


def multiplied_parameters(config: ModelConfig) -> int:
    """Parameters in matrix products: all layers' and the head's; an embedding is a look-up."""
    s = config.settings
    return s.num_hidden_layers * layer_matrices(s) + config.vocab_size * s.hidden_size


def num_parameters(config: ModelConfig) -> int:
    """`LanguageModel.num_parameters` without building the model."""
    s = config.settings
    norms = s.num_hidden_layers * 2 * (s.hidden_size + s.head_dim) + s.hidden_size
    embedding = 0 if s.tie_word_embeddings else config.vocab_size * s.hidden_size
    return multiplied_parameters(config) + norms + embedding


def flops_per_token(config: ModelConfig, seq_len: int) -> int:
    """FLOPs per token of a forward and backward pass over rows of `seq_len`."""
    s = config.settings
    attention = 12 * s.num_hidden_layers * s.num_attention_heads * s.head_dim * seq_len
    return 6 * multiplied_parameters(config) + attention


def mfu(
    tokens_per_second: float, per_token: int, peak: float | None, num_devices: int = 1
) -> float | None:
    """Model FLOPs utilization, 0 to 1, of devices with this peak each; None if it is unknown.

    Several processes on one CPU share its peak and count as one device.
    """
    return tokens_per_second * per_token / (peak * num_devices) if peak else None


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """The device's peak FLOP/s in `dtype`; None if unknown.

    For a GPU it is the data sheet's bf16 figure. For a CPU it is measured by a short matrix product
    with the current number of threads, so there MFU is relative to what PyTorch can reach.
    """
    if device.type == "cpu":
        return _measured_peak(dtype)
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    return gpu_peak(torch.cuda.get_device_name(device))


def gpu_peak(name: str) -> float | None:
    """Peak bf16 FLOP/s of a GPU by its name; None if it is not in the table."""
    words = set(re.split("[ -]", name))  # whole words: L4 is not in L40
    return next((peak for part, peak in GPU_PEAKS.items() if words.issuperset(part.split())), None)


def _measured_peak(dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several matrix products, after one to warm up."""
    a, b = (torch.ones(_SIZE, _SIZE, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    best, begin = float("inf"), time.perf_counter()
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - begin > _SECONDS:
            break
    return 2 * _SIZE**3 / best


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, without those of the process and its libraries."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(
    config: ModelConfig, rows: int, seq_len: int, dtype: torch.dtype, optimizer: str = "adamw"
) -> Memory:
    """Memory of a step over micro-batches of `rows` rows of `seq_len` tokens.

    AdamW keeps two numbers per parameter, Muon one per parameter of the layers' matrices. Autocast
    keeps the matrices' copies in `dtype` for the backward pass.
    """
    parameters = num_parameters(config)
    by_muon = config.settings.num_hidden_layers * layer_matrices(config.settings)
    state = 8 * parameters - (4 * by_muon if optimizer == "muon" else 0)
    logits_gradient = 4 * config.vocab_size
    activations = rows * seq_len * (saved_per_token(config, seq_len, dtype) + logits_gradient)
    if dtype != torch.float32:
        activations += dtype.itemsize * multiplied_parameters(config)
    return Memory(4 * parameters, 4 * parameters, state, activations)


def saved_per_token(config: ModelConfig, seq_len: int, dtype: torch.dtype) -> int:
    """Bytes per token that autograd keeps of a forward pass and the loss."""
    s, wide, size = config.settings, 4, dtype.itemsize
    queries, keys = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
    # Each norm keeps its input and the normalized stream, each product its input, of which autocast
    # makes a copy for each of q, k, v, gate and up.
    inputs = 2 if dtype == torch.float32 else 5
    stream = s.hidden_size * (2 * 2 * wide + inputs * size)
    heads = (queries + keys) * (wide + size)  # norms of queries and keys
    attention = 4 * queries * size  # q, the output, and k and v repeated for every query head
    mask = seq_len * size if s.document_mask else 0
    layer = stream + heads + attention + mask + 4 * s.intermediate_size * size
    end = s.hidden_size * (2 * wide + size) + config.vocab_size * wide  # log-probabilities
    return s.num_hidden_layers * layer + end
