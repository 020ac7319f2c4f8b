"""Batches as a pure function of the data specification and the step.

Row r of step s is row s * `rows` + r of the run. The mixture determines its source, the source's
plan its documents. So every rank of any world size, every worker and every step gets what a single
process that reads everything from the start would get, and reads only the row groups that its rows
need. `Loader.batches` prepares batches ahead in one thread.

Sources are mixed in cycles of 4,096 rows. A source has its share of each cycle (largest
remainders), row j of its n at position (j + 1/2) / n, so that sources interleave evenly. All cycles
are equal, so the source of any row is a division and a table look-up.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import UserError
from trainer.data.packing import Int32s, Int64s, Packing, ranges
from trainer.data.rows import Gathered, SourceRows
from trainer.data.shards import Shards, open_shards
from trainer.data.spec import DataSpec, Source

T = TypeVar("T", bound=np.generic)
AHEAD = 4  # batches that the thread prepares
CYCLE = 4096  # rows
IGNORED = -100  # a target without a loss: cross_entropy's default


@dataclass(frozen=True)
class Batch:
    """Some rows of a global batch, B x T each, int64.

    `targets` are the inputs' next tokens, `IGNORED` at padding, at the first token of a continued
    document that follows another one, and where the loss mask is 0.
    """

    step: int
    inputs: Int64s
    targets: Int64s
    _lengths: Int32s  # of each segment; T + 1 tokens per row
    _row_ends: Int64s  # segments up to each row's end

    @property
    def document_ids(self) -> Int64s:
        """B x T: equal within a row for tokens of one document; padding counts as a document."""
        counts = np.diff(self._row_ends, prepend=0)
        numbers = ranges(np.zeros_like(counts), counts)
        return self._inputs_of(np.repeat(numbers, self._lengths))

    @property
    def positions(self) -> Int64s:
        """B x T: position within the document, or within the part of it in the row, from 0."""
        lengths = self._lengths.astype(np.int64)
        return self._inputs_of(ranges(np.zeros_like(lengths), lengths))

    def _inputs_of(self, flat: Int64s) -> Int64s:
        return flat.reshape(len(self.inputs), -1)[:, :-1]


@dataclass(frozen=True)
class Mixed:
    """A folder of shards in a mixture: its relative weight and maximum epochs (0: no limit)."""

    folder: str | Path
    weight: float = 1.0
    max_epochs: int = 0


class Loader:
    """The batches of a specification; may be pickled, and used by several threads."""

    def __init__(
        self,
        folders: Sequence[str | Path | Mixed],
        *,
        seq_len: int,
        rows: int,
        packing: Packing = "concat",
        seed: int = 0,
        split: Literal["train", "validation"] = "train",
        window_tokens: int = 1 << 22,
        vocab_size: int = 0,
        cache: str | Path | None = None,
        check_files: bool = False,
    ) -> None:
        """`UserError` names what is missing, altered or does not fit together.

        `cache` is the folder of the plans (default: `cache_folder`). `check_files` also hashes each
        shard as a whole when it is first opened, provenance columns included.
        """
        self._arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        mixed = [m if isinstance(m, Mixed) else Mixed(m) for m in folders]
        opened = [open_shards(m.folder, vocab_size) for m in mixed]
        _check_mixture(opened)
        sources = tuple(map(_source, opened, mixed))
        try:
            self.spec = DataSpec(sources, seq_len, rows, packing, seed, split, window_tokens)
        except ValueError as error:
            raise UserError(f"data.{error}") from None
        self.shards = opened[0]
        names = [str(shards.folder) for shards in opened]
        self.mixture = Mixture(tuple(source.weight for source in sources), names)
        plans = Path(cache) if cache is not None else cache_folder()
        self.sources = [
            SourceRows(shards, source, self.spec, plans, check_files)
            for shards, source in zip(opened, sources, strict=True)
        ]
        self.wait_seconds = 0.0  # the caller of `batches` waited for a batch
        self.busy_seconds = 0.0  # the caller worked between batches

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._arguments,)

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)

    @property
    def wait_share(self) -> float:
        """The share of its time that the caller of `batches` spent waiting, 0 to 1."""
        return self.wait_seconds / max(self.wait_seconds + self.busy_seconds, 1e-9)

    def batch(self, step: int, rows: range | None = None) -> Batch:
        """The `rows` (default: all) of global batch `step`, numbered within the batch."""
        assert step >= 0, step
        rows = range(self.spec.rows) if rows is None else rows
        first = step * self.spec.rows + rows.start
        if len(self.sources) == 1:
            return _join(step, self.sources[0].gather(range(first, first + len(rows))))
        parts, places = [], []
        for number, source in enumerate(self.sources):
            own = self.mixture.rows_of(number, first, first + len(rows))
            parts += source.gather(own)
            places.append(self.mixture.places(number, own))
        return _reorder(_join(step, parts), np.argsort(np.concatenate(places)))

    def batches(
        self,
        first_step: int = 0,
        end_step: int | None = None,
        rows: range | None = None,
        stride: int = 1,
    ) -> Iterator[Batch]:
        """Batches of every `stride`-th step up to `end_step` (None: endless), prepared ahead."""
        steps = iter(range(first_step, 1 << 62 if end_step is None else end_step, stride))
        pool, waiting = ThreadPoolExecutor(1, "loader"), deque[Future[Batch]]()
        asked = time.perf_counter()
        try:
            while True:
                for step in islice(steps, AHEAD + 1 - len(waiting)):
                    waiting.append(pool.submit(self.batch, step, rows))
                if not waiting:
                    return
                batch = waiting.popleft().result()
                given = time.perf_counter()
                self.wait_seconds += given - asked
                yield batch
                asked = time.perf_counter()
                self.busy_seconds += asked - given
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def num_rows(self, epoch: int = 0) -> int:
        """Rows of an epoch of a single source; `batch(0, range(a, b))` takes rows of the first."""
        assert len(self.sources) == 1, "the epochs of a mixture's sources differ"
        return self.sources[0].plan(epoch).num_rows

    def epochs(self, num_steps: int) -> list[float]:
        """Epochs of each source in `num_steps` steps; `UserError` if more than `max_epochs`."""
        epochs = []
        for number, source in enumerate(self.sources):
            rows = len(self.mixture.rows_of(number, 0, num_steps * self.spec.rows))
            limit = source.source.max_epochs
            if limit and rows > source.first_row(limit):
                raise UserError(
                    f"{source.shards.folder}: max_epochs = {limit}: the run takes {rows:,} of its "
                    f"rows, {limit} epochs have {source.first_row(limit):,}; lower its weight, "
                    "raise max_epochs, or train fewer steps"
                )
            epochs.append(rows / source.plan(0).num_rows)
        return epochs


class Mixture:
    """Which rows of a run are whose: sources, by number, with rows in proportion to `weights`."""

    def __init__(self, weights: tuple[float, ...], names: Sequence[str] = ()) -> None:
        """`names` of the sources are for messages."""
        self.counts = _apportion(weights)
        poor = int(self.counts.argmin())
        if self.counts[poor] < 1:
            name = names[poor] if names else f"source {poor}"
            raise UserError(
                f"weight = {weights[poor]:g} of {name}: under 1 in {CYCLE} of the rows; raise it "
                "or remove the source"
            )
        place = np.concatenate([(np.arange(n) + 0.5) / n for n in self.counts])
        source = np.repeat(np.arange(len(weights)), self.counts)
        cycle = source[np.argsort(place, kind="stable")]
        self._slots = [np.flatnonzero(cycle == k) for k in range(len(weights))]

    def rows_of(self, source: int, first: int, end: int) -> range:
        """The source's own rows, numbered from 0, among rows `first` to `end` - 1 of the run."""
        return range(self._before(source, first), self._before(source, end))

    def places(self, source: int, rows: range | Int64s) -> Int64s:
        """The positions of a source's own rows among all rows of the run."""
        numbers = np.asarray(rows, dtype=np.int64)
        slots = self._slots[source]
        return numbers // len(slots) * CYCLE + slots[numbers % len(slots)]

    def _before(self, source: int, row: int) -> int:
        """How many rows before `row` of the run are the source's."""
        slots, (cycle, slot) = self._slots[source], divmod(row, CYCLE)
        return cycle * len(slots) + int(np.searchsorted(slots, slot))


def rank_rows(rows: int, rank: int, world_size: int, micro_batch: int = 0) -> range:
    """The rows of every global batch that belong to `rank`: an equal, contiguous share.

    `rows` must be ranks x micro-batch x accumulation; with `micro_batch` 0, a multiple of ranks.
    """
    of_each = micro_batch or 1
    if rows % (world_size * of_each):
        each = f" x {micro_batch} rows per micro-batch" if micro_batch else ""
        raise UserError(
            f"data.batch_size = {rows}: must be a multiple of the {world_size} processes{each} "
            f"({world_size * of_each})"
        )
    share = rows // world_size
    return range(rank * share, (rank + 1) * share)


def cache_folder() -> Path:
    """Where plans are stored: $XDG_CACHE_HOME/gristmill/plans or ~/.cache/gristmill/plans."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "gristmill" / "plans"


def _rebuild(arguments: dict[str, Any]) -> Loader:
    """Unpickle a loader."""
    return Loader(**arguments)


def _source(shards: Shards, mixed: Mixed) -> Source:
    try:
        return Source(shards.content_hash, float(mixed.weight), mixed.max_epochs)
    except ValueError as error:
        raise UserError(f"{shards.folder}: {error}") from None


def _check_mixture(opened: list[Shards]) -> None:
    """`UserError` unless all shards differ and have the same tokenizer."""
    for other in opened:
        first = next(s for s in opened if s.content_hash == other.content_hash)
        if first is not other:
            raise UserError(
                f"{other.folder}: holds the same shards as {first.folder}: name one of them, with "
                "the sum of their weights"
            )
        first = opened[0]
        if other.tokenizer.hash != first.tokenizer.hash:
            raise UserError(
                f"{other.folder}: tokenizer {other.tokenizer.name} ({other.tokenizer.hash[:12]}), "
                f"{first.folder} has {first.tokenizer.name} ({first.tokenizer.hash[:12]}): all "
                "shards of a mixture must have the same tokenizer"
            )


def _apportion(weights: tuple[float, ...]) -> Int64s:
    """Rows of each source in a cycle: Hamilton's method, ties to the first."""
    exact = np.array(weights) / sum(weights) * CYCLE
    counts = np.floor(exact).astype(np.int64)
    missing = CYCLE - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts


def _join(step: int, parts: list[Gathered]) -> Batch:
    """The rows of all parts, part after part."""
    tokens = _concatenate([part.tokens for part in parts])
    has_ignored = any(len(part.ignored) for part in parts)
    # Inputs and targets share an array if all tokens are targets. It is from Arrow's pool: malloc
    # would return a batch's memory to the system, at the cost of a page fault per 4 KB.
    shape = (1 + has_ignored, *tokens.shape)
    both = np.frombuffer(pa.allocate_buffer(8 * math.prod(shape)), np.int64).reshape(shape)
    both[:] = tokens
    if has_ignored:
        targets, first = both[1].reshape(-1), 0
        for part in parts:
            targets[part.ignored + first] = IGNORED
            first += part.tokens.size
    lengths = _concatenate([part.segments.lengths for part in parts])
    row_ends = parts[0].segments.row_ends
    for part in parts[1:]:
        row_ends = np.concatenate([row_ends, part.segments.row_ends + row_ends[-1]])
    return Batch(step, both[0, :, :-1], both[-1, :, 1:], lengths, row_ends)


def _reorder(batch: Batch, order: Int64s) -> Batch:
    """The batch with its rows in this order."""
    ends = batch._row_ends
    counts = np.diff(ends, prepend=0)
    lengths = batch._lengths[ranges((ends - counts)[order], counts[order])]
    rows = batch.inputs[order], batch.targets[order]
    return Batch(batch.step, *rows, lengths, np.cumsum(counts[order]))


def _concatenate(arrays: list[npt.NDArray[T]]) -> npt.NDArray[T]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
