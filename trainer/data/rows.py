"""The tokens of one source's rows, read on demand; few windows of the plan are kept in memory.

An open window is one array of tokens: its row groups in the epoch's order, then a row of padding.
A row group is read when a requested row has a segment in it. Arrow or NumPy copies segments into
rows, without a Python object per token or row. Once all row groups of a window are read, all its
rows are built and the tokens in shard order are freed; from then on a batch is a slice.
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
from trainer.data.epoch_plan import EpochPlan, PackedWindow, load_or_build
from trainer.data.packing import BEGINS, PADS, Int32s, Int64s, Rows, UInt8s, ranges
from trainer.data.shards import RowGroups, Shards, array_of, arrow_of
from trainer.data.spec import DataSpec, Source

T = TypeVar("T", bound=np.generic)
HELD_WINDOWS = 2  # a batch rarely spans more


class RowPlace(NamedTuple):
    """Where a row of the source is: epoch, window of the epoch, row of the epoch."""

    epoch: int
    window: int
    row: int


class Gathered(NamedTuple):
    """Rows of one window.

    `tokens` (int32, rows x T + 1) and `segments` of the rows; `ignored` (int64, ascending): which
    positions in the flattened tokens are no targets.
    """

    tokens: Int32s
    ignored: Int64s
    segments: Rows


@dataclass
class _OpenWindow:
    """A window in memory: its tokens in shard order, later all its rows."""

    own: range  # its rows, numbered over all epochs of the source
    plan: EpochPlan
    window: PackedWindow
    ends: Int64s  # end of each row group, in tokens
    tokens: Int32s
    mask: UInt8s | None
    read: list[bool]  # per row group
    rows: Gathered | None = None  # once all row groups are read


class SourceRows:
    """One source's rows, numbered over all epochs; safe to use from several threads."""

    def __init__(
        self, shards: Shards, source: Source, spec: DataSpec, cache: Path, check_files: bool = False
    ) -> None:
        self.shards, self.source, self.spec, self.cache = shards, source, spec, cache
        self.row_groups = RowGroups(shards, spec.split, check_files=check_files)
        self._plans: OrderedDict[int, EpochPlan] = OrderedDict()  # few: each maps six files
        self._ends: list[int] = []  # rows up to the end of each epoch
        self._held: OrderedDict[tuple[int, int], _OpenWindow] = OrderedDict()
        self._latest: _OpenWindow | None = None
        self._lock = threading.RLock()

    def plan(self, epoch: int) -> EpochPlan:
        """An epoch's plan, built if it is missing."""
        with self._lock:
            if epoch not in self._plans:
                if len(self._plans) >= HELD_WINDOWS:
                    self._plans.popitem(last=False)
                content = self.source.content_hash
                self._plans[epoch] = load_or_build(
                    self.row_groups, self.spec, content, epoch, self.cache
                )
            self._plans.move_to_end(epoch)
            return self._plans[epoch]

    def first_row(self, epoch: int) -> int:
        """Number of the epoch's first row."""
        while len(self._ends) < epoch:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self.plan(len(self._ends)).num_rows)
        return self._ends[epoch - 1] if epoch else 0

    def place(self, row: int) -> RowPlace:
        """Where row number `row` is; `UserError` beyond `max_epochs`."""
        epoch = bisect_right(self._ends, row)
        while row >= self.first_row(epoch + 1):
            epoch += 1
        if self.source.max_epochs and epoch >= self.source.max_epochs:
            raise UserError(
                f"{self.shards.folder}: max_epochs = {self.source.max_epochs}: used up; lower its "
                "weight, raise max_epochs, or train fewer steps"
            )
        inside = row - self.first_row(epoch)
        return RowPlace(epoch, self.plan(epoch).window_of(inside), inside)

    def gather(self, rows: range) -> list[Gathered]:
        """The tokens of `rows`, in order, one part per window."""
        parts, first = [], rows.start
        with self._lock:
            while first < rows.stop:
                opened = self._window(first)
                end = min(opened.own.stop, rows.stop)
                parts.append(self._gather(opened, first - opened.own.start, end - opened.own.start))
                first = end
        return parts

    def _window(self, row: int) -> _OpenWindow:
        """The window of row number `row`."""
        if self._latest is None or row not in self._latest.own:
            place = self.place(row)
            key = (place.epoch, place.window)
            self._latest = self._held.pop(key, None)
            while len(self._held) >= HELD_WINDOWS:
                self._held.popitem(last=False)
            self._latest = self._latest or self._open_window(place, row)
            self._held[key] = self._latest
        return self._latest

    def _open_window(self, place: RowPlace, row: int) -> _OpenWindow:
        """Check a window's plan and allocate its tokens; nothing is read yet."""
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
        return _OpenWindow(own, plan, window, ends, tokens, mask, [False] * len(ends))

    def _gather(self, opened: _OpenWindow, first: int, end: int) -> Gathered:
        """Rows `first` to `end` - 1 of a window; reads the row groups that they need."""
        plan, start = opened.plan, opened.window.rows.start
        segments = plan.segments(start + first, start + end)
        if opened.rows is None:
            needed = opened.ends.searchsorted(segments.starts, side="right")
            for i in np.unique(needed[needed < len(opened.ends)]).tolist():
                if not opened.read[i]:
                    self._read(opened, i)
            if not all(opened.read):
                return self._rows(opened, segments)
            opened.rows = self._rows(opened, plan.segments(start, opened.window.rows.stop))
            opened.tokens, opened.mask = np.empty(0, np.int32), None
        tokens, ignored, _ = opened.rows
        if len(ignored):
            width = tokens.shape[1]
            begin, stop = ignored.searchsorted((first * width, end * width)).tolist()
            ignored = ignored[begin:stop] - first * width
        return Gathered(tokens[first:end], ignored, segments)

    def _read(self, opened: _OpenWindow, i: int) -> None:
        """Read the window's row group number `i` into its place."""
        start, end = int(opened.ends[i - 1]) if i else 0, int(opened.ends[i])
        mask = None if opened.mask is None else opened.mask[start:end]
        self.row_groups.read(int(opened.window.groups[i]), opened.tokens[start:end], mask)
        opened.read[i] = True

    def _rows(self, opened: _OpenWindow, segments: Rows) -> Gathered:
        """Copy a window's segments into rows."""
        width = self.spec.seq_len + 1
        if self.spec.packing == "concat":  # a row is one stretch of tokens, all of them targets
            first = np.concatenate([[0], segments.row_ends[:-1]])
            tokens = sliding_window_view(opened.tokens, width)[segments.starts[first]]
            return Gathered(tokens, np.empty(0, np.int64), segments)
        tokens = _take(opened.tokens, segments).reshape(-1, width)
        mask = None if opened.mask is None else _take(opened.mask, segments)
        return Gathered(tokens, _ignored(segments, mask, width), segments)


def _take(values: npt.NDArray[T], segments: Rows) -> npt.NDArray[T]:
    """The segments' values, concatenated."""
    starts, lengths = arrow_of(segments.starts), arrow_of(segments.lengths)
    lists = pa.ListViewArray.from_arrays(starts, lengths, arrow_of(values))
    return array_of(lists.flatten())


def _ignored(rows: Rows, mask: UInt8s | None, width: int) -> Int64s:
    """Positions in rows of `width` tokens that are no targets.

    These are padding, the first token of a continued document that follows another document, and
    tokens whose loss mask is 0.
    """
    odd = np.flatnonzero(rows.kinds != BEGINS)
    starts = (np.cumsum(rows.lengths, dtype=np.int64) - rows.lengths)[odd]
    pads = rows.kinds[odd] == PADS
    behind = pads | (starts % width > 0)
    ignored = ranges(starts[behind], np.where(pads, rows.lengths[odd], 1)[behind])
    return ignored if mask is None else np.union1d(ignored, np.flatnonzero(mask == 0))
