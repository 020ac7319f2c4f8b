"""Which source each row of the run comes from: several sources in fixed proportions.

Rows come in cycles of 4,096. In each a source has its share of the rows (largest remainders), row j
of its n at place (j + 1/2) / n of the cycle, so that sources interleave as evenly as they can. The
cycle is always the same, so any row's source, and which of the source's rows it is, is a division
and a look at a table, wherever a run starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.errors import UserError

Int64s = npt.NDArray[np.int64]
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
