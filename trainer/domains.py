"""Bits per byte of held-out text by the site that it came from.

A target is of the site of its own document: a row's segments say which tokens of the window it
holds, document lengths which document those are of, and the shard's provenance columns its URL,
whose registered domain (`schemas.suffixes`) is the site. Sites are numbered on every rank alike,
from the provenance of all windows that are measured; what ranks add up is three sums a site.
Cost: beside the model's, a look-up a document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from schemas.suffixes import site
from trainer.distributed import Ranks
from trainer.evaluate import (
    Block,
    Validation,
    bits_per_byte,
    block_sums,
    blocks,
    evaluating,
    rows_measured,
    validation,
)
from trainer.loader import Loader
from trainer.packing import BEGINS, Int32s, Int64s
from trainer.plan import Window
from trainer.windows import SourceRows

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


def _documents(source: SourceRows, window: Window, numbers: dict[str, int]) -> _Documents:
    """The documents of a window; sites that are new get the next numbers."""
    groups, lengths, sites = source.row_groups, [], []
    for group in window.groups.tolist():
        lengths.append(groups.lengths(group))
        for url in groups.provenance(group).column("url").to_pylist():
            name = NO_URL if url is None else site(url) or NO_URL
            sites.append(numbers.setdefault(name, len(numbers)))
    ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    return _Documents(ends, np.array(sites, dtype=np.int64))
