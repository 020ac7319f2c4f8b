"""The tokens of one source's rows: windows of the plan, few in memory, read where used.

A window is one array of tokens, its row groups one after the other in the epoch's order, with a
row's worth of padding behind them. A row group is read when a row that is asked for has a segment
in it. Rows are gathered in one NumPy step: the segments' starts and lengths become the place of
each token, no Python object a token or a row.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from schemas.errors import UserError
from trainer.data import Shards
from trainer.data_spec import DataSpec, Source
from trainer.packing import Int32s, Int64s, Packing, Rows, UInt8s, ranges
from trainer.plan import Plan, Window, load_or_build
from trainer.row_groups import RowGroups

HELD_WINDOWS = 2  # a batch spans one end of a window at most times


class Place(NamedTuple):
    """Where a row of the source is: epoch, window of its plan, row of its plan."""

    epoch: int
    window: int
    row: int


class Gathered(NamedTuple):
    """Rows as they are read: tokens (int64) and loss mask (uint8), rows x T + 1, and segments."""

    tokens: Int64s
    mask: UInt8s | None
    segments: Rows
    packing: Packing  # by concat every token is a target


@dataclass
class _Tokens:
    """A window in memory."""

    ends: Int64s  # of each row group, in tokens
    window: Window
    tokens: Int32s
    stretches: Int32s  # a view: T + 1 tokens from each token on
    mask: UInt8s | None
    read: list[bool]
    whole: bool = False


class SourceRows:
    """One source's rows, epoch after epoch, by number."""

    def __init__(
        self, shards: Shards, source: Source, spec: DataSpec, cache: Path, check_files: bool = False
    ) -> None:
        self.shards, self.source, self.spec, self.cache = shards, source, spec, cache
        self.row_groups = RowGroups(shards, spec.split, check_files=check_files)
        self._plans: OrderedDict[int, Plan] = OrderedDict()  # few: each maps six files
        self._ends: list[int] = []  # rows up to the end of each epoch
        self._held: OrderedDict[tuple[int, int], _Tokens] = OrderedDict()
        self._lock = threading.RLock()

    def plan(self, epoch: int) -> Plan:
        """An epoch's plan, built where it is not there yet."""
        with self._lock:
            if epoch not in self._plans:
                if len(self._plans) >= HELD_WINDOWS:
                    self._plans.popitem(last=False)
                hash_ = self.source.content_hash
                self._plans[epoch] = load_or_build(
                    self.row_groups, self.spec, hash_, epoch, self.cache
                )
            self._plans.move_to_end(epoch)
            return self._plans[epoch]

    def first_row(self, epoch: int) -> int:
        """Rows of the source before an epoch."""
        while len(self._ends) < epoch:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self.plan(len(self._ends)).num_rows)
        return self._ends[epoch - 1] if epoch else 0

    def place(self, row: int) -> Place:
        """Where the source's row number `row` is; `UserError` past its last epoch."""
        epoch = bisect_right(self._ends, row)
        while row >= self.first_row(epoch + 1):
            epoch += 1
        if self.source.max_epochs and epoch >= self.source.max_epochs:
            raise UserError(
                f"{self.shards.folder}: max_epochs = {self.source.max_epochs}: used up; give it "
                "less weight or more epochs, or train fewer steps"
            )
        inside = row - self.first_row(epoch)
        return Place(epoch, self.plan(epoch).window_of(inside), inside)

    def gather(self, rows: range) -> list[Gathered]:
        """The source's `rows`, in order, in as many parts as windows they are in."""
        parts, first = [], rows.start
        with self._lock:
            while first < rows.stop:
                place = self.place(first)
                held = self._window(place)
                count = min(held.window.rows.stop - place.row, rows.stop - first)
                segments = self.plan(place.epoch).segments(place.row, place.row + count)
                parts.append(self._gather(held, segments))
                first += count
        return parts

    def _gather(self, held: _Tokens, segments: Rows) -> Gathered:
        """Read what the segments need, and pick it."""
        if not held.whole:
            wanted = np.searchsorted(held.ends, segments.starts, side="right")
            for i in np.unique(wanted[wanted < len(held.ends)]).tolist():
                if not held.read[i]:
                    self._read(held, i)
        if self.spec.packing == "concat":  # a row is one stretch of the window
            first = np.concatenate([[0], segments.row_ends[:-1]])
            return Gathered(
                held.stretches[segments.starts[first]].astype(np.int64), None, segments, "concat"
            )
        at = ranges(segments.starts.astype(np.int64), segments.lengths.astype(np.int64))
        at = at.reshape(-1, self.spec.seq_len + 1)
        mask = None if held.mask is None else held.mask.take(at)
        return Gathered(held.tokens.take(at).astype(np.int64), mask, segments, "best_fit")

    def _read(self, held: _Tokens, i: int) -> None:
        start, end = int(held.ends[i - 1]) if i else 0, int(held.ends[i])
        mask = None if held.mask is None else held.mask[start:end]
        self.row_groups.read(int(held.window.groups[i]), held.tokens[start:end], mask)
        held.read[i] = True
        held.whole = all(held.read)

    def _window(self, place: Place) -> _Tokens:
        key = (place.epoch, place.window)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        if len(self._held) >= HELD_WINDOWS:
            self._held.popitem(last=False)
        window = self.plan(place.epoch).window(place.window)
        size = window.tokens + self.spec.seq_len + 1
        tokens = np.empty(size, np.int32)
        tokens[window.tokens :] = self.shards.tokenizer.boundary
        mask = np.zeros(size, np.uint8) if self.row_groups.masked else None
        stretches = sliding_window_view(tokens, self.spec.seq_len + 1)
        ends = np.cumsum(self.row_groups.tokens[window.groups])
        self._held[key] = _Tokens(ends, window, tokens, stretches, mask, [False] * len(ends))
        return self._held[key]
