"""Keys and values of the tokens that a model has read, so that each is computed once.

A row's token at position p stands in column p of buffers that are made once, so adding a token
copies nothing but itself, and rows may be of different lengths: what stands beyond a row's end (of
shorter prompts, padding) is never visible and is written over.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KeyValueCache:
    """Room for `capacity` tokens a row, for one layer after the other, B x H x capacity x D.

    It is for reading alone: under `torch.no_grad`, as it writes in place. The first keys that come
    decide batch size, shape, dtype and device.
    """

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.num_layers, self.capacity = num_layers, capacity
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._lengths: list[int] | int = 0  # an int where all rows are equally long
        self._starts: Tensor | None = None  # the same on the device

    @property
    def length(self) -> int | Tensor:
        """Tokens seen so far: one number, or where rows differ one each, B x 1."""
        if isinstance(self._lengths, int):
            return self._lengths
        if self._starts is None:
            self._starts = torch.tensor(self._lengths, device=self._layers[0][0].device)[:, None]
        return self._starts

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append B x H x T x D to a layer; returns its keys and values up to the longest row."""
        if layer == len(self._layers):
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self._layers.append((key.new_zeros(shape), value.new_zeros(shape)))
        end = self.longest + key.shape[2]
        assert end <= self.capacity, f"{end} tokens, the cache has room for {self.capacity}"
        for buffer, new in zip(self._layers[layer], (key, value), strict=True):
            self._write(buffer, new)
        if layer == self.num_layers - 1:
            self._advance(key.shape[2])
        keys, values = self._layers[layer]
        return keys[:, :, :end], values[:, :, :end]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self._lengths if isinstance(self._lengths, int) else max(self._lengths)

    def cut(self, lengths: Sequence[int]) -> None:
        """Forget what each row has beyond its length."""
        self._lengths = lengths[0] if len(set(lengths)) == 1 else list(lengths)
        self._starts = None

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        index = torch.tensor(rows, device=self._layers[0][0].device)
        self._layers = [(keys[index], values[index]) for keys, values in self._layers]
        if not isinstance(self._lengths, int):
            self.cut([self._lengths[row] for row in rows])

    def _write(self, buffer: Tensor, new: Tensor) -> None:
        length = self.length
        if isinstance(length, int):
            buffer[:, :, length : length + new.shape[2]] = new
            return
        columns = length + torch.arange(new.shape[2], device=new.device)
        buffer.scatter_(2, columns[:, None, :, None].expand_as(new), new)

    def _advance(self, num_tokens: int) -> None:
        if isinstance(self._lengths, int):
            self._lengths += num_tokens
        else:
            self.cut([length + num_tokens for length in self._lengths])


def cached_positions(tokens: Tensor, seen: int | Tensor) -> tuple[Tensor, Tensor | None]:
    """Positions of B x T tokens that follow the `seen` ones, and which columns each may see.

    No mask is needed for the first tokens, which are causal, nor for one where rows are alike.
    """
    new = torch.arange(tokens.shape[1], device=tokens.device)
    if isinstance(seen, int):
        positions, end = (seen + new)[None], seen + tokens.shape[1]
        if seen == 0 or tokens.shape[1] == 1:
            return positions, None
    else:
        positions, end = seen + new, int(seen.max()) + tokens.shape[1]
    visible = positions[:, :, None] >= torch.arange(end, device=tokens.device)
    return positions, visible[:, None]
