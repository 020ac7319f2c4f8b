"""One decoder, shaped like Qwen3 (arXiv 2505.09388), in plain PyTorch.

Parameter names are those of transformers' `Qwen3ForCausalLM`, so checkpoints need no renaming. Each
layer is RMSNorm, attention (grouped queries, RMSNorm on each head's query and key, half-split
RoPE), RMSNorm, SwiGLU. Shapes: B rows, T tokens, H heads, D head_dim, C hidden_size, V vocabulary.

A row holds several documents, each started by the boundary token. With `document_mask` a token
attends to its own document only, and positions count from the document's start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.errors import UserError
from trainer.settings import ModelSettings

INIT_STD = 0.02  # GPT-2 and transformers' `initializer_range`
MAX_PADDING_ROWS = 128  # of the vocabulary, control tokens included
MAX_ROTATIONS = 1 << 28  # numbers in RoPE's tables: 2 million positions of 128
Rotation = tuple[Tensor, Tensor]  # cosine and sine, each B x 1 x T x D, fp32


@dataclass(frozen=True)
class ModelConfig:
    """A model's shape: the recipe's `[model]`, and what the shards determine."""

    settings: ModelSettings
    vocab_size: int
    boundary: int
    max_position_embeddings: int


class LanguageModel(nn.Module):
    """The decoder and its head: token ids to the logits of the next token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.settings.hidden_size, config.vocab_size, bias=False)
        self._init_weights()
        if config.settings.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        tokens: Tensor,
        cache: KeyValueCache | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """B x T ids to B x T x V logits; see `Decoder.forward` for the other arguments."""
        return self.lm_head(self.model(tokens, cache, documents, positions))  # type: ignore[no-any-return]

    @property
    def num_parameters(self) -> int:
        """Trained parameters; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def _init_weights(self) -> None:
        """As GPT-2: projections into the residual stream are scaled down by its 2 L additions."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
        scale = 1 / math.sqrt(2 * self.config.settings.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(scale)


class Decoder(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        s = config.settings
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Block(s, layer) for layer in range(s.num_hidden_layers))
        self.norm = RMSNorm(s.hidden_size, s.rms_norm_eps)
        table = rotation_table(config.max_position_embeddings, s.head_dim, s.rope_theta)
        self.rope_cos: Tensor
        self.rope_sin: Tensor
        self.register_buffer("rope_cos", table[0], persistent=False)
        self.register_buffer("rope_sin", table[1], persistent=False)

    def forward(
        self,
        tokens: Tensor,
        cache: KeyValueCache | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """B x T ids to B x T x C; with a cache, the tokens continue the document in it.

        `documents` numbers the document of each token, `positions` its position there (both B x T);
        by default a document begins at each boundary token. Used with `document_mask` only.
        """
        mask: Tensor | None
        if cache is not None:
            positions, mask = cached_positions(tokens, cache.length)
        elif not self.config.settings.document_mask:
            positions, mask = torch.arange(tokens.shape[1], device=tokens.device)[None], None
        else:
            if documents is None or positions is None:
                documents, positions = documents_of(tokens, self.config.boundary)
            mask = same_document(documents)
        rotation = (self.rope_cos[positions][:, None], self.rope_sin[positions][:, None])
        x = self.embed_tokens(tokens)
        for block in self.layers:
            x = block(x, rotation, mask, cache)
        return self.norm(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer: attention and feed-forward, each normalized first and added to the stream."""

    def __init__(self, s: ModelSettings, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(s.hidden_size, s.rms_norm_eps)
        self.self_attn = Attention(s, layer)
        self.post_attention_layernorm = RMSNorm(s.hidden_size, s.rms_norm_eps)
        self.mlp = SwiGLU(s)

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """B x T x C to B x T x C."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Causal self-attention with fewer key-value heads than query heads (arXiv 2305.13245)."""

    def __init__(self, s: ModelSettings, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, s.head_dim
        self.queries_per_key = s.num_attention_heads // s.num_key_value_heads
        query_size = s.num_attention_heads * s.head_dim
        key_size = s.num_key_value_heads * s.head_dim
        self.q_proj = nn.Linear(s.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, s.hidden_size, bias=False)
        self.q_norm = RMSNorm(s.head_dim, s.rms_norm_eps)
        self.k_norm = RMSNorm(s.head_dim, s.rms_norm_eps)

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """B x T x C to B x T x C; `mask` (B x 1 x T x T, True: visible) None means causal."""
        heads = (*x.shape[:2], -1, self.head_dim)
        query = self.q_norm(self.q_proj(x).view(heads)).transpose(1, 2)
        key = self.k_norm(self.k_proj(x).view(heads)).transpose(1, 2)
        value = self.v_proj(x).view(heads).transpose(1, 2)
        query, key = rotate(query, rotation).type_as(value), rotate(key, rotation).type_as(value)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)
        if self.queries_per_key > 1:
            key = key.repeat_interleave(self.queries_per_key, 1)
            value = value.repeat_interleave(self.queries_per_key, 1)
        causal = mask is None and x.shape[1] > 1
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        out = out.transpose(1, 2).flatten(2)
        return self.o_proj(out)  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, s: ModelSettings) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """B x T x C to B x T x C."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class RMSNorm(nn.Module):
    """Root mean square norm (arXiv 1910.07467): in fp32, cast back, then the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotation_table(length: int, head_dim: int, theta: float) -> Rotation:
    """RoPE's cosines and sines (arXiv 2104.09864), length x D, both halves equal, fp32."""
    frequency = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency
    angle = torch.cat((angle, angle), 1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Half-split RoPE: dimension i is paired with i + D/2, as in Llama's and Qwen's weights."""
    first, second = x.chunk(2, -1)
    return x * rotation[0] + torch.cat((-second, first), -1) * rotation[1]


def documents_of(tokens: Tensor, boundary: int) -> tuple[Tensor, Tensor]:
    """Number of each token's document and position in it (both B x T), by boundary tokens."""
    index = torch.arange(tokens.shape[1], device=tokens.device)
    starts = tokens == boundary
    return starts.cumsum(1), index - torch.where(starts, index, 0).cummax(1).values


def same_document(documents: Tensor) -> Tensor:
    """The causal mask within documents, B x 1 x T x T, True: visible."""
    index = torch.arange(documents.shape[1], device=documents.device)
    same = documents[:, :, None] == documents[:, None, :]
    return (same & (index[:, None] >= index))[:, None]


class KeyValueCache:
    """Keys and values of the tokens read so far, B x H x capacity x D per layer.

    For inference only (`torch.no_grad`): buffers are allocated once, with the batch size, dtype and
    device of the first keys, and written in place. The token at position p is in column p, so rows
    may differ in length; columns beyond a row's end are never visible and are overwritten later.
    """

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.num_layers, self.capacity = num_layers, capacity
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._lengths: list[int] | int = 0  # an int while all rows have the same length
        self._starts: Tensor | None = None  # the same on the device

    @property
    def length(self) -> int | Tensor:
        """Tokens read so far: one number, or B x 1 if rows differ."""
        if isinstance(self._lengths, int):
            return self._lengths
        if self._starts is None:
            self._starts = torch.tensor(self._lengths, device=self._layers[0][0].device)[:, None]
        return self._starts

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self._lengths if isinstance(self._lengths, int) else max(self._lengths)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append B x H x T x D to a layer; returns its keys and values up to the longest row."""
        if layer == len(self._layers):
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self._layers.append((key.new_zeros(shape), value.new_zeros(shape)))
        new_tokens = key.shape[2]
        end = self.longest + new_tokens
        assert end <= self.capacity, f"{end} tokens, the cache has room for {self.capacity}"
        for buffer, new in zip(self._layers[layer], (key, value), strict=True):
            self._write(buffer, new)
        if layer == self.num_layers - 1:
            if isinstance(self._lengths, int):
                self._lengths += new_tokens
            else:
                self.cut([length + new_tokens for length in self._lengths])
        keys, values = self._layers[layer]
        return keys[:, :, :end], values[:, :, :end]

    def cut(self, lengths: Sequence[int]) -> None:
        """Truncate each row to its length."""
        self._lengths = lengths[0] if len(set(lengths)) == 1 else list(lengths)
        self._starts = None

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
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


def cached_positions(tokens: Tensor, seen: int | Tensor) -> tuple[Tensor, Tensor | None]:
    """Positions of B x T tokens that follow `seen` cached ones, and the mask of visible columns.

    The mask is None where it is causal: for the first tokens, and for one token per row of equal
    length.
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


def require_room(config: ModelConfig, num_bytes: int, source: str) -> None:
    """`UserError` if files of `num_bytes` cannot hold the weights that `source` describes.

    Checked before memory is allocated: a short config.json may describe any number of weights. A
    weight has at least two bytes; padding rows of the vocabulary may be missing from a file.
    """
    s = config.settings
    attention = 2 * (s.num_attention_heads + s.num_key_value_heads) * s.head_dim
    rows = max(0, config.vocab_size - MAX_PADDING_ROWS)
    layers = s.num_hidden_layers * (attention + 3 * s.intermediate_size)
    count = s.hidden_size * (layers + rows)
    if 2 * count > num_bytes:
        raise UserError(
            f"{source}: describes at least {count:,} weights, but the weight files have only "
            f"{num_bytes:,} bytes"
        )
    context = config.max_position_embeddings
    if not 0 < context <= MAX_ROTATIONS // s.head_dim:
        raise UserError(
            f"{source}: max_position_embeddings = {context}: must be at least 1 and at most "
            f"{MAX_ROTATIONS // s.head_dim} with head_dim = {s.head_dim}"
        )
