"""Pack the documents of a window into rows of T + 1 tokens: T inputs and T targets.

A row is a list of segments, each a stretch of one document or padding. `concat` joins the documents
end to end and cuts; neighbouring rows share a token, so every token but the window's first is a
target once. `best_fit` cuts documents longer than a row in the same way and places the pieces by
best-fit decreasing (arXiv 2404.10830): the longest first, each into the fullest row that has room.
No piece is cut to fill a gap; free space is padded. It orders rows by length, so shuffle them.

Cost: `concat` is NumPy only. `best_fit` sorts n pieces, O(n log n), and finds each piece's row with
one operation on an integer whose bits are the free spaces.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt8s = npt.NDArray[np.uint8]
Packing = Literal["concat", "best_fit"]

CONTINUES, BEGINS, PADS = 0, 1, 2  # kinds of segments


class Rows(NamedTuple):
    """Rows as segments, row by row.

    `starts` (int32, segments): offset in the window's tokens; padding starts after the last token.
    `lengths` (int32), `kinds` (uint8): per segment. `row_ends` (int64, rows): number of segments up
    to the row's end. `dropped` tokens are in no row; `padding` positions hold no token.
    """

    starts: Int32s
    lengths: Int32s
    kinds: UInt8s
    row_ends: Int64s
    dropped: int
    padding: int

    def shuffled(self, seed: int) -> Rows:
        """The same rows in a random order that depends only on their number and `seed`."""
        order = permutation(len(self.row_ends), seed)
        counts = np.diff(self.row_ends, prepend=0)
        picked = ranges((self.row_ends - counts)[order], counts[order])
        return self._replace(
            starts=self.starts[picked],
            lengths=self.lengths[picked],
            kinds=self.kinds[picked],
            row_ends=np.cumsum(counts[order]),
        )


def concat(lengths: Int32s, seq_len: int) -> Rows:
    """Documents of `lengths` tokens end to end, cut every `seq_len`; an incomplete row drops."""
    ends = np.cumsum(lengths, dtype=np.int64)
    starts, total = ends - lengths, int(ends[-1]) if len(ends) else 0
    num_rows = max(0, total - 1) // seq_len
    first = np.maximum(starts - 1, 0) // seq_len  # a row's last token is the next one's first
    count = np.minimum(np.maximum(ends - 1, 0) // seq_len, num_rows - 1) - first + 1
    count = np.where(lengths > 0, np.maximum(count, 0), 0)
    document = np.repeat(np.arange(len(lengths)), count)
    row = ranges(first, count)
    start = np.maximum(starts[document], row * seq_len)
    end = np.minimum(ends[document], (row + 1) * seq_len + 1)
    kinds = np.where(start == starts[document], BEGINS, CONTINUES)
    used = num_rows * seq_len + 1 if num_rows else 0
    row_ends = np.cumsum(np.bincount(row, minlength=num_rows), dtype=np.int64)
    return _rows(start, end - start, kinds, row_ends, total - used, 0)


def best_fit(lengths: Int32s, seq_len: int, loss_mask: UInt8s | None = None) -> Rows:
    """Documents of `lengths` tokens, cut into pieces and packed into rows of `seq_len` + 1.

    Documents of one token are dropped. With the window's `loss_mask`, so are pieces without a
    target, so that every row has one.
    """
    starts, sizes, kinds, learns = _pieces(lengths, seq_len, loss_mask)
    dropped = int((sizes - (kinds == CONTINUES))[~learns].sum()) + int((lengths == 1).sum())
    starts, sizes, kinds = starts[learns], sizes[learns], kinds[learns]
    order = np.argsort(-sizes, kind="stable")
    row = np.array(_fullest_rows(sizes[order].tolist(), seq_len + 1), dtype=np.int64)
    num_rows = int(row.max()) + 1 if len(row) else 0
    free = np.full(num_rows, seq_len + 1) - np.bincount(row, sizes[order], num_rows).astype(int)
    padded = np.flatnonzero(free)
    end = np.full(len(padded), int(lengths.sum(dtype=np.int64)))
    by_row = np.argsort(np.concatenate([row, padded]), kind="stable")
    row_ends = np.cumsum(np.bincount(row, minlength=num_rows) + (free > 0), dtype=np.int64)
    return _rows(
        np.concatenate([starts[order], end])[by_row],
        np.concatenate([sizes[order], free[padded]])[by_row],
        np.concatenate([kinds[order], np.full(len(padded), PADS)])[by_row],
        row_ends,
        dropped,
        int(free.sum()),
    )


def permutation(count: int, seed: int) -> Int64s:
    """A permutation of 0 to `count` - 1 by `seed` (64 bits), the same in every NumPy version.

    Numbers are sorted by splitmix64 (Steele et al., doi 10.1145/2660193.2660195) of seed + number.
    """
    golden, keys = np.uint64(0x9E3779B97F4A7C15), np.arange(1, count + 1, dtype=np.uint64)
    keys = keys * golden + np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    return np.argsort(keys ^ (keys >> np.uint64(31)), kind="stable")


def ranges(starts: Int64s, counts: Int64s) -> Int64s:
    """Concatenated ranges: start, start + 1, ..., `count` numbers of each pair."""
    ends = np.cumsum(counts, dtype=np.int64)
    numbers = np.repeat(starts - (ends - counts), counts)
    numbers += np.arange(len(numbers))
    return numbers


def _rows(
    starts: Int64s, sizes: Int64s, kinds: Int64s, row_ends: Int64s, dropped: int, padding: int
) -> Rows:
    small = starts.astype(np.int32), sizes.astype(np.int32), kinds.astype(np.uint8)
    return Rows(*small, row_ends, dropped, padding)


def _pieces(
    lengths: Int32s, seq_len: int, loss_mask: UInt8s | None
) -> tuple[Int64s, Int64s, Int64s, npt.NDArray[np.bool_]]:
    """Start, size and kind of each piece of two tokens or more, and whether it has a target."""
    wide = lengths.astype(np.int64)
    begin = np.cumsum(wide) - wide
    count = -(-np.maximum(wide - 1, 0) // seq_len)
    document = np.repeat(np.arange(len(wide)), count)
    offset = ranges(np.zeros_like(count), count) * seq_len
    sizes = np.minimum(wide[document] - offset, seq_len + 1)
    starts = begin[document] + offset
    kinds = np.where(offset == 0, BEGINS, CONTINUES)
    if loss_mask is None:
        return starts, sizes, kinds, np.ones(len(sizes), dtype=np.bool_)
    targets = np.concatenate([[0], np.cumsum(loss_mask, dtype=np.int64)])
    # No token of the piece predicts its first one.
    return starts, sizes, kinds, targets[starts + sizes] > targets[starts + 1]


def _fullest_rows(sizes: list[int], capacity: int) -> list[int]:
    """The row of each piece (`sizes` descending): one with the least space of those with room."""
    with_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = 0  # bit s: some row has space for s tokens
    chosen, num_rows = [], 0
    for size in sizes:
        fitting = spaces >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            row = with_space[space].pop()
            if not with_space[space]:
                spaces ^= 1 << space
        else:
            row, space, num_rows = num_rows, capacity, num_rows + 1
        left = space - size
        if left:
            with_space[left].append(row)
            spaces |= 1 << left
        chosen.append(row)
    return chosen
