"""How alike two documents are exactly, and what a sample of a run's pairs says about the run.

Similarity is Jaccard's, of the sets of shingle hashes that MinHash estimates from.

Precision: of the sampled pairs, the share at or above `threshold`. Recall: a pair of similarity s
is found with probability P(s) = 1 - (1 - s^r)^b, so each sampled pair stands for 1 / P(s) pairs
that exist (Horvitz and Thompson, "A Generalization of Sampling Without Replacement", JASA 1952);
the found share of those at or above the threshold is the estimate. It is of pairs: a document that
misses one of its copies is mostly held by another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from corpus.dedup.minhash import MinHash
from schemas.config import check_range

Z_95 = 1.959964  # of the normal distribution: 95% of it lies within


@dataclass(frozen=True)
class Verify:
    """Section [verify]: candidate pairs compared exactly.

    Pairs below `min_similarity` are not linked (0: what shares a band is linked, as FineWeb does).
    `sample_pairs` are compared in every run, for the estimate in its report (0: none).
    """

    min_similarity: float = 0.0
    sample_pairs: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.min_similarity <= 1:
            raise ValueError(f"min_similarity = {self.min_similarity}: must be from 0 to 1")
        if self.sample_pairs < 0:
            raise ValueError(f"sample_pairs = {self.sample_pairs}: must be 0 or more")
        check_range(self, 0, 10**8, "sample_pairs")

    def threshold(self, minhash: MinHash) -> float:
        """The similarity from which a pair counts as a duplicate.

        Where pairs are not verified, the one where the curve is steepest: (1 / bands)^(1 / rows).
        """
        return self.min_similarity or minhash.threshold_estimate


@dataclass(frozen=True)
class Estimate:
    """What a sample of pairs says; a share is None where no pair can say anything.

    `num_pairs` sampled; `precision` with its 95% interval (Wilson); `recall`; of `num_survivors`
    dropped documents, `survivors` is the share as similar to the very document that stays.
    """

    threshold: float
    num_pairs: int
    precision: float | None
    precision_low: float
    precision_high: float
    recall: float | None
    num_survivors: int
    survivors: float | None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def estimate(
    pairs: Sequence[float], survivors: Sequence[float], minhash: MinHash, threshold: float
) -> Estimate:
    """`pairs`: exact similarities of linked pairs; `survivors`: of dropped documents to theirs."""
    similar = [s for s in pairs if s >= threshold]
    low, high = wilson(len(similar), len(pairs))
    there = sum(1 / minhash.match_probability(s) for s in similar)
    return Estimate(
        threshold=round(threshold, 4),
        num_pairs=len(pairs),
        precision=_share(len(similar), len(pairs)),
        precision_low=low,
        precision_high=high,
        recall=_share(len(similar), there),
        num_survivors=len(survivors),
        survivors=_share(sum(s >= threshold for s in survivors), len(survivors)),
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    share, z2 = successes / trials, Z_95**2
    centre = share + z2 / (2 * trials)
    spread = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return round(max(0.0, low), 4), round(min(1.0, high), 4)


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
