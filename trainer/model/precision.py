"""Choose the dtype of matrix products: bf16 if a short benchmark says it is faster, else fp32.

Weights and optimizer state stay fp32; autocast runs the matrix products in bf16. Support for bf16
says little about speed: without avx512_bf16 or AMX a CPU is 44 to 499 times slower in it (pytorch
issue 146508), with them about twice as fast. fp16 is never chosen: it was slower on every CPU
measured, and it overflows.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

import torch

from trainer.distributed import Ranks

MIN_SPEEDUP = 1.2  # below it, fp32's precision is worth more
_ROUNDS = 7
_SHAPE = (512, 256, 1024)  # 0.27 GFLOP: 2 ms in fp32 on two cores


def choose_dtype(setting: str, ranks: Ranks) -> torch.dtype:
    """The dtype for `run.dtype`; for `auto` the first rank decides for all."""
    if setting != "auto":
        return torch.bfloat16 if setting == "bfloat16" else torch.float32
    fast = ranks.is_first and bfloat16_is_faster(ranks.device)
    return torch.bfloat16 if ranks.first(int(fast)) else torch.float32


def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether bf16 matrix products beat fp32 by `MIN_SPEEDUP`; takes about 50 ms on a CPU."""
    if device.type == "cuda":  # Ampere and later have bf16 units
        return torch.cuda.get_device_capability(device) >= (8, 0)
    float32, bfloat16 = _matmul(torch.float32), _matmul(torch.bfloat16)
    _seconds(float32), _seconds(bfloat16)  # the first call picks and compiles kernels
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(_ROUNDS):  # alternating, so that other load affects both
        best[torch.float32] = min(best[torch.float32], _seconds(float32))
        best[torch.bfloat16] = min(best[torch.bfloat16], _seconds(bfloat16))
        if best[torch.bfloat16] > 5 * best[torch.float32]:
            return False
    return best[torch.float32] > MIN_SPEEDUP * best[torch.bfloat16]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context manager that runs matrix products in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype == torch.bfloat16)


def _matmul(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    rows, inner, columns = _SHAPE
    return torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)


def _seconds(operands: tuple[torch.Tensor, torch.Tensor]) -> float:
    start = time.perf_counter()
    torch.mm(*operands)
    return time.perf_counter() - start
