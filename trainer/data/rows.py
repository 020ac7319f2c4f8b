"""The tokens of one source's rows: windows of the plan, few in memory, read where used.

A window is one array of tokens, its row groups one after the other in the epoch's order, with a
row's worth of padding behind them. A row group is read when a row that is asked for has a segment
in it. Segments become rows in one step of Arrow's or NumPy's, a copy a stretch and no Python object
a token or a row. Once all row groups of a window are read its rows are made at once, and the tokens
in the shards' order are let go of: from there on a batch is a slice.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view

from schemas.errors import UserError
from trainer.data.epoch_plan import Plan, Window, load_or_build
from trainer.data.packing import BEGINS, PADS, Int32s, Int64s, Rows, UInt8s, ranges
from trainer.data.shards import RowGroups, Shards, array_of, arrow_of
from trainer.data.spec import DataSpec, Source

T = TypeVar("T", bound=np.generic)
HELD_WINDOWS = 2  # a batch spans one end of a window at most times


class Place(NamedTuple):
    """Where a row of the source is: epoch, window of its plan, row of its plan."""

    epoch: int
    window: int
    row: int


class Gathered(NamedTuple):
    """Rows as they are read.

    `tokens` (int32, rows x T + 1); `dead` (int64, ascending) are the places in the flat tokens that
    are no targets; `segments` are the rows'.
    """

    tokens: Int32s
    dead: Int64s
    segments: Rows


@dataclass
class _Tokens:
    """A window in memory: its tokens as the shards have them, or all its rows."""

    own: range  # its rows among all of the source's
    plan: Plan
    window: Window
    ends: Int64s  # of each row group, in tokens
    tokens: Int32s
    mask: UInt8s | None
    read: list[bool]
    rows: Gathered | None = None


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
        self._latest: _Tokens | None = None
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
                held = self._window(first)
                end = min(held.own.stop, rows.stop)
                parts.append(self._gather(held, first - held.own.start, end - held.own.start))
                first = end
        return parts

    def _gather(self, held: _Tokens, first: int, end: int) -> Gathered:
        """Rows `first` to `end` - 1 of a window: read what they need, and pick it."""
        plan, start = held.plan, held.window.rows.start
        segments = plan.segments(start + first, start + end)
        if held.rows is None:
            wanted = held.ends.searchsorted(segments.starts, side="right")
            for i in np.unique(wanted[wanted < len(held.ends)]).tolist():
                if not held.read[i]:
                    self._read(held, i)
            if not all(held.read):
                return self._rows(held, segments)
            held.rows = self._rows(held, plan.segments(start, held.window.rows.stop))
            held.tokens, held.mask = np.empty(0, np.int32), None
        tokens, dead, _ = held.rows
        if len(dead):
            width = tokens.shape[1]
            begin, stop = dead.searchsorted((first * width, end * width)).tolist()
            dead = dead[begin:stop] - first * width
        return Gathered(tokens[first:end], dead, segments)

    def _rows(self, held: _Tokens, segments: Rows) -> Gathered:
        """The rows that the segments of a window make."""
        width = self.spec.seq_len + 1
        if self.spec.packing == "concat":  # a row is one stretch, and every token a target
            first = np.concatenate([[0], segments.row_ends[:-1]])
            tokens = sliding_window_view(held.tokens, width)[segments.starts[first]]
            return Gathered(tokens, np.empty(0, np.int64), segments)
        tokens = _picked(held.tokens, segments).reshape(-1, width)
        mask = None if held.mask is None else _picked(held.mask, segments)
        return Gathered(tokens, _dead(segments, mask, width), segments)

    def _read(self, held: _Tokens, i: int) -> None:
        start, end = int(held.ends[i - 1]) if i else 0, int(held.ends[i])
        mask = None if held.mask is None else held.mask[start:end]
        self.row_groups.read(int(held.window.groups[i]), held.tokens[start:end], mask)
        held.read[i] = True

    def _window(self, row: int) -> _Tokens:
        """The window that the source's row number `row` is in."""
        if self._latest is None or row not in self._latest.own:
            place = self.place(row)
            key = (place.epoch, place.window)
            self._latest = self._held.pop(key, None)
            while len(self._held) >= HELD_WINDOWS:
                self._held.popitem(last=False)
            self._latest = self._latest or self._open_window(place, row)
            self._held[key] = self._latest
        return self._latest

    def _open_window(self, place: Place, row: int) -> _Tokens:
        plan = self.plan(place.epoch)
        plan.check(place.window)
        window = plan.window(place.window)
        first = row - (place.row - window.rows.start)
        size = window.tokens + self.spec.seq_len + 1
        tokens = np.empty(size, np.int32)
        tokens[window.tokens :] = self.shards.tokenizer.boundary
        mask = np.zeros(size, np.uint8) if self.row_groups.masked else None
        ends = np.cumsum(self.row_groups.tokens[window.groups])
        own = range(first, first + len(window.rows))
        return _Tokens(own, plan, window, ends, tokens, mask, [False] * len(ends))


def _picked(values: npt.NDArray[T], segments: Rows) -> npt.NDArray[T]:
    """The segments' values, one after the other."""
    starts, lengths = arrow_of(segments.starts), arrow_of(segments.lengths)
    lists = pa.ListViewArray.from_arrays(starts, lengths, arrow_of(values))
    return array_of(lists.flatten())


def _dead(rows: Rows, mask: UInt8s | None, width: int) -> Int64s:
    """Places of what is no target, in rows of `width` tokens.

    That is padding, what begins in a document's middle behind another document's end, and what the
    loss mask says.
    """
    odd = np.flatnonzero(rows.kinds != BEGINS)
    starts = (np.cumsum(rows.lengths, dtype=np.int64) - rows.lengths)[odd]
    pads = rows.kinds[odd] == PADS
    behind = pads | (starts % width > 0)
    dead = ranges(starts[behind], np.where(pads, rows.lengths[odd], 1)[behind])
    return dead if mask is None else np.union1d(dead, np.flatnonzero(mask == 0))
