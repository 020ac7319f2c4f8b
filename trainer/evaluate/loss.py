"""Loss of held-out text, in nats a target and in bits a byte.

The rows of the split's first epoch are gone over once, packed by best fit: every token that is in a
row and has one of its document before it is measured once. Bits per byte does not depend on the
tokenizer: the nats of all targets that are text, over the UTF-8 bytes that these targets stand for.
Control tokens stand for none and are left out of it. Sums are float64.

Bits per byte of held-out text by the site that it came from.

A target is of the site of its own document: a row's segments say which tokens of the window it
holds, document lengths which document those are of, and the shard's provenance columns its URL,
whose registered domain (`schemas.suffixes`) is the site. Sites are numbered on every rank alike,
from the provenance of all windows that are measured; what ranks add up is three sums a site.
Cost: beside the model's, a look-up a document.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.suffixes import site
from schemas.tokenizer import Tokenizer
from trainer.data.epoch_plan import PackedWindow
from trainer.data.loader import IGNORED, Batch, Loader
from trainer.data.packing import BEGINS, Int32s, Int64s
from trainer.data.rows import SourceRows
from trainer.distributed import Ranks
from trainer.model.precision import autocast


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


NO_URL = "(no URL)"


@dataclass(frozen=True)
class DomainResult:
    """A registered domain: documents whose start was measured, bytes of text, bits for each."""

    domain: str
    documents: int
    text_bytes: int
    bits_per_byte: float


class _Documents(NamedTuple):
    """A window's documents, one after the other: where they end, in tokens, and their sites."""

    ends: Int64s
    sites: Int64s


def validate_by_domain(
    model: nn.Module,
    loader: Loader,
    token_bytes: torch.Tensor,
    ranks: Ranks,
    dtype: torch.dtype,
    *,
    max_rows: int = 0,
) -> tuple[Validation, list[DomainResult]]:
    """What `validate` finds and each domain of the same rows, most bytes first, in one pass.

    All ranks must call it. Provenance has no hash of its own: a loader with `check_files` refuses a
    URL that was altered.
    """
    sites = _Sites(loader, max_rows)
    whole = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    found = np.zeros((3, len(sites.names)))
    with evaluating(model):
        for block in blocks(model, loader, ranks, dtype, max_rows):
            whole += block_sums(block, token_bytes)
            found += sites.sums(block, token_bytes)
    added = ranks.sum(torch.from_numpy(found).to(ranks.device)).cpu().numpy()
    results = [
        DomainResult(name, int(documents), int(size), bits_per_byte(nats, size))
        for name, documents, size, nats in zip(sites.names, *added.tolist(), strict=True)
        if documents or size
    ]
    results.sort(key=lambda result: (-result.text_bytes, result.domain))
    return validation(ranks.sum(whole)), results


class _Sites:
    """The sites of all documents of the windows that are measured, by number."""

    def __init__(self, loader: Loader, max_rows: int) -> None:
        numbers: dict[str, int] = {}
        self._documents: dict[tuple[int, int], _Documents] = {}
        for source in loader.sources:
            plan = source.plan(0)
            for index in range(plan.window_of(rows_measured(source, max_rows) - 1) + 1):
                made = _documents(source, plan.window(index), numbers)
                self._documents[id(source), index] = made
        self.names = list(numbers)

    def sums(self, block: Block, token_bytes: torch.Tensor) -> np.ndarray:
        """Documents begun, bytes of text and its nats of each site, 3 x sites."""
        segments, kinds, lengths = self._segments(block.source, block.rows)
        sizes = block.text_sizes(token_bytes)
        text_nats = (block.losses * (sizes > 0)).cpu().numpy()
        of_targets = np.repeat(segments, lengths).reshape(len(block.rows), -1)[:, 1:].ravel()
        count = len(self.names)
        counted = np.where(of_targets >= 0, of_targets, count)  # padding, left out below
        return np.stack(
            [
                np.bincount(segments[kinds == BEGINS], minlength=count),
                np.bincount(counted, sizes.cpu().numpy().ravel(), count + 1)[:count],
                np.bincount(counted, text_nats.ravel(), count + 1)[:count],
            ]
        )

    def _segments(self, source: SourceRows, rows: range) -> tuple[Int64s, Int64s, Int32s]:
        """Site (-1: padding), kind and length of each segment of the rows."""
        plan, found, first = source.plan(0), [], rows.start
        while first < rows.stop:
            index = plan.window_of(first)
            end = min(plan.window(index).rows.stop, rows.stop)
            segments = plan.segments(first, end)
            documents = self._documents[id(source), index]
            at = np.searchsorted(documents.ends, segments.starts, side="right")
            sites = np.append(documents.sites, -1)[at]  # padding starts behind the last document
            found.append((sites, segments.kinds, segments.lengths))
            first = end
        sites, kinds, lengths = (np.concatenate(each) for each in zip(*found, strict=True))
        return sites, kinds, lengths


def _documents(source: SourceRows, window: PackedWindow, numbers: dict[str, int]) -> _Documents:
    """The documents of a window; sites that are new get the next numbers."""
    groups, lengths, sites = source.row_groups, [], []
    for group in window.groups.tolist():
        lengths.append(groups.lengths(group))
        for url in groups.provenance(group).column("url").to_pylist():
            name = NO_URL if url is None else site(url) or NO_URL
            sites.append(numbers.setdefault(name, len(numbers)))
    ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    return _Documents(ends, np.array(sites, dtype=np.int64))
