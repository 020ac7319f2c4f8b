"""One dial for the size of a model: its number of layers; the rest follows.

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

from schemas.errors import UserError
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
