"""Batches as a pure function of the data specification and the step.

Row r of step s is row s * `rows` + r of the run; the mixture says which source that is of, the
source's plan which documents stand in it. So any rank of any world size, any worker and any step
get what one process that read everything from the start would get, and read only the row groups
that their rows need. `batches` prepares the next ones in one thread, while the model computes.

Which source each row of the run comes from: several sources in fixed proportions.

Rows come in cycles of 4,096. In each a source has its share of the rows (largest remainders), row j
of its n at place (j + 1/2) / n of the cycle, so that sources interleave as evenly as they can. The
cycle is always the same, so any row's source, and which of the source's rows it is, is a division
and a look at a table, wherever a run starts.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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

CYCLE = 4096


class Mixture:
    """Sources by number, with rows in proportion to `weights`; `names` are for messages."""

    def __init__(self, weights: tuple[float, ...], names: Sequence[str] = ()) -> None:
        self.counts = _apportion(weights)
        poor = int(self.counts.argmin())
        if self.counts[poor] < 1:
            name = names[poor] if names else f"source {poor}"
            raise UserError(
                f"weight = {weights[poor]:g} of {name}: under 1 in {CYCLE} of the rows; give it "
                "more, or leave it out"
            )
        place = np.concatenate([(np.arange(n) + 0.5) / n for n in self.counts])
        source = np.repeat(np.arange(len(weights)), self.counts)
        cycle = source[np.argsort(place, kind="stable")]
        self._slots = [np.flatnonzero(cycle == k) for k in range(len(weights))]

    def rows_of(self, source: int, first: int, end: int) -> range:
        """The source's own rows, by number from 0, among rows `first` to `end` - 1 of the run."""
        return range(self._before(source, first), self._before(source, end))

    def places(self, source: int, rows: range | Int64s) -> Int64s:
        """Where the source's own rows stand among all rows of the run."""
        numbers = np.asarray(rows, dtype=np.int64)
        slots = self._slots[source]
        return numbers // len(slots) * CYCLE + slots[numbers % len(slots)]

    def _before(self, source: int, row: int) -> int:
        slots, (cycle, slot) = self._slots[source], divmod(row, CYCLE)
        return cycle * len(slots) + int(np.searchsorted(slots, slot))


def _apportion(weights: tuple[float, ...]) -> Int64s:
    """Rows of each source in a cycle: Hamilton's method, ties to the first."""
    exact = np.array(weights) / sum(weights) * CYCLE
    counts = np.floor(exact).astype(np.int64)
    missing = CYCLE - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts


IGNORED = -100  # a target that does not count, cross_entropy's default
T = TypeVar("T", bound=np.generic)
AHEAD = 4  # batches that the thread prepares


@dataclass(frozen=True)
class Batch:
    """Some rows of a global batch, B x T each, int64.

    `targets` are the inputs' next tokens, `IGNORED` where there is none to learn: at padding, at a
    document's middle that begins behind another's end, and where the loss mask is 0.
    """

    step: int
    inputs: Int64s
    targets: Int64s
    _lengths: Int32s  # of each segment of the rows, T + 1 a row
    _row_ends: Int64s  # segments up to each row's end

    @property
    def document_ids(self) -> Int64s:
        """B x T: equal within a row where tokens are of one document; padding is one too."""
        counts = np.diff(self._row_ends, prepend=0)
        numbers = ranges(np.zeros_like(counts), counts)
        return self._each(np.repeat(numbers, self._lengths))

    @property
    def positions(self) -> Int64s:
        """B x T: place within its document, or within what the row has of it, from 0."""
        return self._each(
            ranges(np.zeros(len(self._lengths), np.int64), self._lengths.astype(np.int64))
        )

    def _each(self, flat: Int64s) -> Int64s:
        return flat.reshape(len(self.inputs), -1)[:, :-1]


@dataclass(frozen=True)
class Mixed:
    """A folder of shards in a mixture: relative weight, and its epochs at most (0: no limit)."""

    folder: str | Path
    weight: float = 1.0
    max_epochs: int = 0


class Loader:
    """The batches of a specification; safe to pickle, and to be used by several threads."""

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

        `cache` is where plans are kept (default: `cache_folder`). `check_files` also hashes each
        shard as a whole when it is first opened, provenance columns included.
        """
        self._arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        mixed = [m if isinstance(m, Mixed) else Mixed(m) for m in folders]
        opened = [open_shards(m.folder, vocab_size) for m in mixed]
        _refuse_what_does_not_mix(opened)
        sources = tuple(map(_source, opened, mixed))
        try:
            self.spec = DataSpec(sources, seq_len, rows, packing, seed, split, window_tokens)
        except ValueError as error:
            raise UserError(f"data.{error}") from None
        self.shards = opened[0]
        names = [str(shards.folder) for shards in opened]
        self.mixture = Mixture(tuple(source.weight for source in sources), names)
        place = Path(cache) if cache is not None else cache_folder()
        self.sources = [
            SourceRows(shards, source, self.spec, place, check_files)
            for shards, source in zip(opened, sources, strict=True)
        ]
        self.wait_seconds = 0.0  # that `batches` kept its caller waiting
        self.busy_seconds = 0.0  # that its caller took between batches

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._arguments,)

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)

    @property
    def wait_share(self) -> float:
        """The part of the caller's time that `batches` kept it waiting, 0 to 1."""
        return self.wait_seconds / max(self.wait_seconds + self.busy_seconds, 1e-9)

    def batch(self, step: int, rows: range | None = None) -> Batch:
        """The `rows` (default: all) of global batch `step`, by number from the batch's first."""
        assert step >= 0, step
        rows = range(self.spec.rows) if rows is None else rows
        first = step * self.spec.rows + rows.start
        if len(self.sources) == 1:
            return _batch(step, self.sources[0].gather(range(first, first + len(rows))))
        parts, places = [], []
        for number, source in enumerate(self.sources):
            own = self.mixture.rows_of(number, first, first + len(rows))
            parts += source.gather(own)
            places.append(self.mixture.places(number, own))
        return _in_order(_batch(step, parts), np.argsort(np.concatenate(places)))

    def num_rows(self, epoch: int = 0) -> int:
        """Rows of an epoch of the only source; `batch(0, range(a, b))` gives some of the first."""
        assert len(self.sources) == 1, "a mixture has no epochs of its own"
        return self.sources[0].plan(epoch).num_rows

    def batches(
        self,
        first_step: int = 0,
        end_step: int | None = None,
        rows: range | None = None,
        stride: int = 1,
    ) -> Iterator[Batch]:
        """Steps `first_step`, + `stride`, ... before `end_step` (None: for ever), made ahead."""
        steps = range(first_step, 1 << 62 if end_step is None else end_step, stride)
        pool, waiting = ThreadPoolExecutor(1, "loader"), deque[Any]()
        asked = time.perf_counter()
        try:
            for step in steps:
                waiting.append(pool.submit(self.batch, step, rows))
                if len(waiting) > AHEAD:
                    asked = yield from self._hand_over(waiting.popleft(), asked)
            while waiting:
                asked = yield from self._hand_over(waiting.popleft(), asked)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _hand_over(self, future: Any, asked: float) -> Generator[Batch, None, float]:
        batch = future.result()
        given = time.perf_counter()
        self.wait_seconds += given - asked
        yield batch
        asked = time.perf_counter()
        self.busy_seconds += asked - given
        return asked

    def epochs(self, num_steps: int) -> list[float]:
        """How often each source's tokens are gone over in `num_steps` steps.

        `UserError` where that is more than its `max_epochs`.
        """
        return [
            _epochs(source, len(self.mixture.rows_of(k, 0, num_steps * self.spec.rows)))
            for k, source in enumerate(self.sources)
        ]


def rank_rows(rows: int, rank: int, world_size: int, micro_batch: int = 0) -> range:
    """The rows of every global batch that belong to `rank`: an equal, contiguous share.

    `rows` must be ranks x micro-batch x accumulation, `micro_batch` 0 takes the share at once.
    """
    of_each = micro_batch or 1
    if rows % (world_size * of_each):
        each = f" of {micro_batch} rows at a time" if micro_batch else ""
        raise UserError(
            f"data.batch_size = {rows}: must be a multiple of the {world_size} processes{each} "
            f"({world_size * of_each})"
        )
    share = rows // world_size
    return range(rank * share, (rank + 1) * share)


def cache_folder() -> Path:
    """Where plans are kept: XDG_CACHE_HOME/gristmill/plans, else ~/.cache/gristmill/plans."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "gristmill" / "plans"


def _again(arguments: dict[str, Any]) -> Loader:
    """The loader that another process had."""
    return Loader(**arguments)


def _batch(step: int, parts: list[Gathered]) -> Batch:
    """The parts' rows, one part after the other."""
    tokens = _joined([part.tokens for part in parts])
    both = _empty(1 + any(len(part.dead) for part in parts), *tokens.shape)
    both[:] = tokens
    if len(both) > 1:
        targets, first = both[1].reshape(-1), 0
        for part in parts:
            targets[part.dead + first] = IGNORED
            first += part.tokens.size
    lengths = _joined([part.segments.lengths for part in parts])
    row_ends = parts[0].segments.row_ends
    for part in parts[1:]:
        row_ends = np.concatenate([row_ends, part.segments.row_ends + row_ends[-1]])
    return Batch(step, both[0, :, :-1], both[-1, :, 1:], lengths, row_ends)


def _in_order(batch: Batch, order: Int64s) -> Batch:
    """The batch with its rows in this order."""
    ends = batch._row_ends
    counts = np.diff(ends, prepend=0)
    lengths = batch._lengths[ranges((ends - counts)[order], counts[order])]
    rows = batch.inputs[order], batch.targets[order]
    return Batch(batch.step, *rows, lengths, np.cumsum(counts[order]))


def _empty(*shape: int) -> Int64s:
    """Memory of Arrow's pool: malloc gives a batch's back to the system, a page fault each 4 KB."""
    return np.frombuffer(pa.allocate_buffer(8 * math.prod(shape)), np.int64).reshape(shape)


def _joined(arrays: list[npt.NDArray[T]]) -> npt.NDArray[T]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _epochs(source: SourceRows, rows: int) -> float:
    limit = source.source.max_epochs
    if limit and rows > source.first_row(limit):
        raise UserError(
            f"{source.shards.folder}: max_epochs = {limit}: the run takes {rows:,} of its rows, "
            f"{limit} epochs have {source.first_row(limit):,}; give it less weight or more epochs, "
            "or train fewer steps"
        )
    return rows / source.plan(0).num_rows


def _source(shards: Shards, mixed: Mixed) -> Source:
    try:
        return Source(shards.content_hash, float(mixed.weight), mixed.max_epochs)
    except ValueError as error:
        raise UserError(f"{shards.folder}: {error}") from None


def _refuse_what_does_not_mix(opened: list[Shards]) -> None:
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
                f"{first.folder} has {first.tokenizer.name} ({first.tokenizer.hash[:12]}): one "
                "model reads the ids of one tokenizer"
            )
