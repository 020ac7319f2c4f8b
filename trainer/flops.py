"""How much arithmetic a token costs, and how much of it the machine could do: MFU.

Model FLOPs utilization (PaLM, arXiv 2204.02311, appendix B) is the tokens a second that were
trained, over those of a machine that spent all its peak on the model's own arithmetic: 6 FLOPs a
token for each parameter that is multiplied with (forward 2, backward 4), and 12 LHQT for attention
(L layers, H heads of Q dimensions, T tokens), which is not halved for the causal mask.
"""

from __future__ import annotations

import re
import time

import torch

from trainer.model import ModelConfig
from trainer.settings import ModelSettings

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
