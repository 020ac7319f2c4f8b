"""How much arithmetic a token costs, and how much of it the machine could do: MFU.

Model FLOPs utilization (PaLM, arXiv 2204.02311, appendix B) is the tokens a second that were
trained, over those of a machine that spent all its peak on the model's own arithmetic: 6 FLOPs a
token for each parameter that is multiplied with (forward 2, backward 4), and 12 LHQT for attention
(L layers, H heads of Q dimensions, T tokens), which is not halved for the causal mask.

How much memory a training step takes, from the shape alone.

Weights, gradients and optimizer state are fp32. Activations are what autograd keeps of a forward
pass for the backward pass, tensor by tensor as `trainer.model.model` makes them without compilation
(which keeps less), and the logits' gradient, with which the backward pass begins.

One dial for the size of a model: its number of layers; the rest follows.

| | rule | why |
|---|---|---|
| width | 64 x depth | nanochat's aspect ratio: deeper and wider together |
| query heads | one for each 64 of width | Qwen3's smaller head, and nanochat's for small models |
| key-value heads | depth's largest proper divisor (half, if even) | Qwen3-0.6B: two queries each |
| feed-forward | 3 x width | Qwen3-0.6B's, SwiGLU's three matrices |
| learning rate | 3e-3 up to width 256, beyond it as 1 / width | arXiv 2203.03466 (muP), Adam |
| tokens | 20 x parameters | arXiv 2203.15556 (Chinchilla) |

A recipe's `[model]` gives the same sizes one by one.
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


def of_depth(depth: int, base: ModelSettings | None = None) -> ModelSettings:
    """The model with `depth` layers; what is no size is as in `base`."""
    if not 1 <= depth <= MAX_DEPTH:
        raise UserError(f"--depth {depth}: must be at least 1 and at most {MAX_DEPTH}")
    width = HEAD_DIM * depth
    return dataclasses.replace(
        base or ModelSettings(),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=depth,
        num_key_value_heads=_key_value_heads(depth),
        head_dim=HEAD_DIM,
        intermediate_size=3 * width,
    )


def learning_rate(model: ModelSettings) -> float:
    """AdamW's peak learning rate for a model of this width."""
    return PEAK_LEARNING_RATE * min(1.0, TUNED_WIDTH / model.hidden_size)


def suggested_tokens(num_parameters: int) -> int:
    """Tokens after which a larger model would learn more from the same computation."""
    return TOKENS_PER_PARAMETER * num_parameters


def _key_value_heads(heads: int) -> int:
    """The most that at least two query heads can share: the largest proper divisor."""
    return max((n for n in range(1, heads) if heads % n == 0), default=1)


# Peak dense bf16 FLOP/s by a part of the GPU's name, the first that fits: NVIDIA's data sheets.
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


def layer_matrices(s: ModelSettings) -> int:
    """Numbers in the matrices of one layer."""
    queries, keys = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
    return s.hidden_size * (2 * queries + 2 * keys + 3 * s.intermediate_size)


def num_parameters(config: ModelConfig) -> int:
    """What `LanguageModel.num_parameters` is, without making the model."""
    s = config.settings
    norms = s.num_hidden_layers * 2 * (s.hidden_size + s.head_dim) + s.hidden_size
    tables = (1 if s.tie_word_embeddings else 2) * config.vocab_size * s.hidden_size
    return s.num_hidden_layers * layer_matrices(s) + norms + tables


def flops_per_token(config: ModelConfig, seq_len: int) -> int:
    """FLOPs of one token's forward and backward pass in rows of `seq_len`; a lookup costs none."""
    s = config.settings
    head = config.vocab_size * s.hidden_size
    queries = s.num_attention_heads * s.head_dim
    multiplied = s.num_hidden_layers * layer_matrices(s) + head
    return 6 * multiplied + 12 * s.num_hidden_layers * queries * seq_len


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of the device in `dtype` at best; None where that is not known.

    A GPU's is the data sheet's for bf16, a CPU's is what a short matrix product reaches with the
    threads that are set, so that there MFU is a share of what PyTorch gets out of the machine.
    """
    if device.type == "cpu":
        return _measured(dtype)
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    return gpu_peak(torch.cuda.get_device_name(device))


def gpu_peak(name: str) -> float | None:
    """Peak bf16 FLOP/s of a GPU by its name; None where the table has none that fits."""
    words = set(re.split("[ -]", name))  # whole ones: L4 is not in L40
    return next((peak for part, peak in GPU_PEAKS.items() if words.issuperset(part.split())), None)


def mfu(
    tokens_per_second: float, per_token: int, peak: float | None, num_devices: int = 1
) -> float | None:
    """Model FLOPs utilization, 0 to 1, of devices with this peak each; None where it is unknown.

    Several processes on one CPU share its peak: they are one device.
    """
    return tokens_per_second * per_token / (peak * num_devices) if peak else None


def _measured(dtype: torch.dtype) -> float:
    """The best of a few matrix products; the first one picks kernels and is not counted."""
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
