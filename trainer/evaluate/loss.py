"""Loss of held-out text in nats per token and in bits per byte, as a whole and by domain.

One pass over the rows of the split's first epoch, packed by best fit, measures every token once
that has a token of its document before it in its row. Bits per byte does not depend on the
tokenizer: it is the nats of all targets that are text, over the UTF-8 bytes that they stand for.
Control tokens stand for none and are left out. Sums are float64.

A target counts for the registered domain (`schemas.suffixes`) of its own document: segments say
which of a window's tokens a row holds, document lengths which document these are of, and the
shard's provenance its URL. All ranks number the domains alike, from the provenance of all windows
that are measured, and add up three sums per domain. Cost: a URL lookup per document.
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
from trainer.data.loader import IGNORED, Loader
from trainer.data.packing import BEGINS, Int32s, Int64s
from trainer.data.rows import SourceRows
from trainer.distributed import Ranks
from trainer.model.precision import autocast

NO_URL = "(no URL)"


@dataclass(frozen=True)
class Validation:
    """`loss` in nats per target, `bits_per_byte` of text; how many `targets`, and bytes of text."""

    loss: float
    bits_per_byte: float
    targets: int
    text_bytes: int


@dataclass(frozen=True)
class DomainResult:
    """A registered domain: documents whose start was measured, bytes of text, bits per byte."""

    domain: str
    documents: int
    text_bytes: int
    bits_per_byte: float


class MeasuredRows(NamedTuple):
    """Rows of a source's first epoch: targets and their losses (float64, 0 if ignored), B x T."""

    source: SourceRows
    rows: range
    targets: Tensor
    losses: Tensor

    def text_sizes(self, token_bytes: Tensor) -> Tensor:
        """Bytes of text that each target stands for, B x T."""
        return token_bytes[self.targets.clamp(min=0)] * (self.targets != IGNORED)

    def sums(self, token_bytes: Tensor) -> Tensor:
        """Nats, targets, nats of text, bytes of text: 4, float64."""
        sizes = self.text_sizes(token_bytes)
        counted = (self.targets != IGNORED).sum(), (self.losses * (sizes > 0)).sum(), sizes.sum()
        return torch.stack([self.losses.sum(), *counted])


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
        for measured in _measure(model, loader, ranks, dtype, max_rows):
            sums += measured.sums(token_bytes)
    return _validation(ranks.sum(sums))


def validate_by_domain(
    model: nn.Module,
    loader: Loader,
    token_bytes: torch.Tensor,
    ranks: Ranks,
    dtype: torch.dtype,
    *,
    max_rows: int = 0,
) -> tuple[Validation, list[DomainResult]]:
    """What `validate` finds, and each domain of the same rows, those with most bytes first.

    All ranks must call it. Provenance has no hash of its own: a loader with `check_files` raises
    an error where a URL was altered.
    """
    domains = _Domains(loader, max_rows)
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    found = np.zeros((3, len(domains.names)))
    with evaluating(model):
        for measured in _measure(model, loader, ranks, dtype, max_rows):
            sums += measured.sums(token_bytes)
            found += domains.sums(measured, token_bytes)
    added = ranks.sum(torch.from_numpy(found).to(ranks.device)).cpu().numpy()
    results = [
        DomainResult(name, int(documents), int(size), _bits_per_byte(nats, size))
        for name, documents, size, nats in zip(domains.names, *added.tolist(), strict=True)
        if documents or size
    ]
    results.sort(key=lambda result: (-result.text_bytes, result.domain))
    return _validation(ranks.sum(sums)), results


def _measure(
    model: nn.Module, loader: Loader, ranks: Ranks, dtype: torch.dtype, max_rows: int
) -> Iterator[MeasuredRows]:
    """This rank's share of all rows, measured `loader.spec.rows` at a time."""
    number = 0
    for source, single in zip(loader.sources, single_sources(loader), strict=True):
        num_rows = _num_rows(source, max_rows)
        for first in range(0, num_rows, loader.spec.rows):
            if number % ranks.world_size == ranks.rank:
                rows = range(first, min(first + loader.spec.rows, num_rows))
                batch = single.batch(0, rows)
                arrays = batch.inputs, batch.targets, batch.document_ids, batch.positions
                inputs, targets, documents, positions = (
                    torch.from_numpy(array).to(ranks.device) for array in arrays
                )
                with autocast(ranks.device, dtype):
                    logits = model(inputs, documents=documents, positions=positions)
                yield MeasuredRows(source, rows, targets, token_losses(logits, targets).double())
            number += 1


def single_sources(loader: Loader) -> list[Loader]:
    """A loader for each source of a mixture, in which it has an epoch of its own."""
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


def _num_rows(source: SourceRows, max_rows: int) -> int:
    """How many rows of a source are measured: its first epoch's, at most `max_rows` (0: all)."""
    num_rows = source.plan(0).num_rows
    return min(num_rows, max_rows) if max_rows else num_rows


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target in fp32 nats, B x T; 0 where the target is `IGNORED`."""
    flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def _validation(sums: Tensor) -> Validation:
    """The result from the `MeasuredRows.sums` of all rows of all ranks, added up."""
    nats, targets, text_nats, text_bytes = sums.tolist()
    bits = _bits_per_byte(text_nats, text_bytes)
    return Validation(nats / max(1.0, targets), bits, int(targets), int(text_bytes))


def _bits_per_byte(nats: float, text_bytes: float) -> float:
    return nats / math.log(2) / max(1.0, text_bytes)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without gradients; its mode is restored."""
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


class _Documents(NamedTuple):
    """A window's documents in order: where each ends, in tokens, and its domain's number."""

    ends: Int64s
    domains: Int64s


class _Domains:
    """The domains of all documents of the windows that are measured, numbered."""

    def __init__(self, loader: Loader, max_rows: int) -> None:
        numbers: dict[str, int] = {}
        self._documents: dict[tuple[int, int], _Documents] = {}
        for source in loader.sources:
            plan, groups = source.plan(0), source.row_groups
            for index in range(plan.window_of(_num_rows(source, max_rows) - 1) + 1):
                lengths, domains = [], []
                for group in plan.window(index).groups.tolist():
                    lengths.append(groups.lengths(group))
                    for url in groups.provenance(group).column("url").to_pylist():
                        name = NO_URL if url is None else site(url) or NO_URL
                        domains.append(numbers.setdefault(name, len(numbers)))
                ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
                documents = _Documents(ends, np.array(domains, dtype=np.int64))
                self._documents[id(source), index] = documents
        self.names = list(numbers)

    def sums(self, measured: MeasuredRows, token_bytes: torch.Tensor) -> np.ndarray:
        """Documents begun, bytes of text and its nats by domain, 3 x domains."""
        segments, kinds, lengths = self._segments(measured.source, measured.rows)
        sizes = measured.text_sizes(token_bytes)
        text_nats = (measured.losses * (sizes > 0)).cpu().numpy()
        of_targets = np.repeat(segments, lengths).reshape(len(measured.rows), -1)[:, 1:].ravel()
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
        """Domain (-1: padding), kind and length of each segment of the rows."""
        plan, found, first = source.plan(0), [], rows.start
        while first < rows.stop:
            index = plan.window_of(first)
            end = min(plan.window(index).rows.stop, rows.stop)
            segments = plan.segments(first, end)
            documents = self._documents[id(source), index]
            at = np.searchsorted(documents.ends, segments.starts, side="right")
            domains = np.append(documents.domains, -1)[at]  # padding starts after the last document
            found.append((domains, segments.kinds, segments.lengths))
            first = end
        domains, kinds, lengths = (np.concatenate(each) for each in zip(*found, strict=True))
        return domains, kinds, lengths
