"""Keys and values of the tokens that a model has read, so that each is computed once."""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of the tokens seen so far, for one layer after the other, B x H x T x D."""

    def __init__(self, num_layers: int) -> None:
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers

    @property
    def length(self) -> int:
        """Tokens seen so far."""
        return 0 if self.keys[-1] is None else self.keys[-1].shape[2]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append to a layer; returns all of its keys and values."""
        old_key, old_value = self.keys[layer], self.values[layer]
        if old_key is not None and old_value is not None:
            key, value = torch.cat((old_key, key), 2), torch.cat((old_value, value), 2)
        self.keys[layer], self.values[layer] = key, value
        return key, value


def cached_positions(tokens: Tensor, seen: int) -> tuple[Tensor, Tensor | None]:
    """Positions that follow `seen` tokens, and the mask of several new tokens at once."""
    positions = torch.arange(seen, seen + tokens.shape[1], device=tokens.device)
    if seen == 0 or tokens.shape[1] == 1:
        return positions[None], None
    visible = positions[:, None] >= torch.arange(seen + tokens.shape[1], device=tokens.device)
    return positions[None], visible[None, None]
