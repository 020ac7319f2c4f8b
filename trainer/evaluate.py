"""Loss of held-out text, in nats a target and in bits a byte.

The rows of the split's first epoch are gone over once, packed by best fit: every token that is in a
row and has one of its document before it is measured once. Bits per byte does not depend on the
tokenizer: the nats of all targets that are text, over the UTF-8 bytes that these targets stand for.
Control tokens stand for none and are left out of it. Sums are float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.tokenizer import Tokenizer
from trainer.distributed import Ranks
from trainer.loader import IGNORED, Batch, Loader
from trainer.precision import autocast
from trainer.windows import SourceRows


@dataclass(frozen=True)
class Validation:
    """`loss` in nats a target, `bits_per_byte` of text, how many `targets` and bytes of text."""

    loss: float
    bits_per_byte: float
    targets: int
    text_bytes: int


class Block(NamedTuple):
    """Rows that were measured: `targets` and `losses` (float64 nats, 0 where ignored), B x T."""

    source: SourceRows
    rows: range  # of the source's first epoch
    targets: Tensor
    losses: Tensor

    def text_sizes(self, token_bytes: Tensor) -> Tensor:
        """Bytes of text that each target stands for, B x T."""
        return token_bytes[self.targets.clamp(min=0)] * (self.targets != IGNORED)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target in fp32 nats, B x T; 0 where the target is `IGNORED`."""
    flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def validate(
    model: nn.Module,
    loader: Loader,
    token_bytes: Tensor,
    ranks: Ranks,
    dtype: torch.dtype,
    *,
    max_rows: int = 0,
) -> Validation:
    """Loss over the first `max_rows` rows of each source (0: all); all ranks must call it."""
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    with evaluating(model):
        for block in blocks(model, loader, ranks, dtype, max_rows):
            sums += block_sums(block, token_bytes)
    return validation(ranks.sum(sums))


def blocks(
    model: nn.Module, loader: Loader, ranks: Ranks, dtype: torch.dtype, max_rows: int = 0
) -> Iterator[Block]:
    """This rank's share of all rows, measured `loader.spec.rows` at a time."""
    number = 0
    for source, single in zip(loader.sources, single_sources(loader), strict=True):
        num_rows = rows_measured(source, max_rows)
        for first in range(0, num_rows, loader.spec.rows):
            if number % ranks.world_size == ranks.rank:
                rows = range(first, min(first + loader.spec.rows, num_rows))
                yield Block(source, rows, *_measure(model, single.batch(0, rows), ranks, dtype))
            number += 1


def block_sums(block: Block, token_bytes: Tensor) -> Tensor:
    """Nats, targets, nats of text and its bytes, float64; `validation` makes sense of them."""
    sizes = block.text_sizes(token_bytes)
    counted = (block.targets != IGNORED).sum(), (block.losses * (sizes > 0)).sum(), sizes.sum()
    return torch.stack([block.losses.sum(), *counted])


def validation(sums: Tensor) -> Validation:
    """What the `block_sums` of all blocks of all ranks add up to."""
    nats, targets, text_nats, text_bytes = sums.tolist()
    bits = bits_per_byte(text_nats, text_bytes)
    return Validation(nats / max(1.0, targets), bits, int(targets), int(text_bytes))


def bits_per_byte(nats: float, text_bytes: float) -> float:
    """Nats of text as bits for each of its bytes; 0 of no text."""
    return nats / math.log(2) / max(1.0, text_bytes)


def rows_measured(source: SourceRows, max_rows: int) -> int:
    """How many rows of a source are measured: its first epoch's, at most `max_rows` (0: all)."""
    num_rows = source.plan(0).num_rows
    return min(num_rows, max_rows) if max_rows else num_rows


def single_sources(loader: Loader) -> list[Loader]:
    """A loader for each source of a mixture alone, in which it has an epoch of its own."""
    if len(loader.sources) == 1:
        return [loader]
    spec = loader.spec
    return [
        Loader(
            [source.shards.folder],
            seq_len=spec.seq_len,
            rows=spec.rows,
            packing=spec.packing,
            seed=spec.seed,
            split=spec.split,
            window_tokens=spec.window_tokens,
            cache=source.cache,
        )
        for source in loader.sources
    ]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients, and with the model as it is used, not trained."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def bytes_of_tokens(tokenizer: Tokenizer) -> Tensor:
    """UTF-8 bytes that each id below `padded_vocab_size` stands for; 0 for control tokens."""
    sizes = torch.zeros(tokenizer.padded_vocab_size, dtype=torch.int64)
    for number, token in tokenizer.token_bytes.items():
        sizes[number] = len(token)
    return sizes


def _measure(
    model: nn.Module, batch: Batch, ranks: Ranks, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Targets of a batch and their losses in float64."""
    arrays = batch.inputs, batch.targets, batch.document_ids, batch.positions
    inputs, targets, documents, positions = (
        torch.from_numpy(array).to(ranks.device) for array in arrays
    )
    with autocast(ranks.device, dtype):
        logits = model(inputs, documents=documents, positions=positions)
    return targets, token_losses(logits, targets).double()
