"""Precision and recall of near-duplicate detection, estimated from a sample of a run's pairs.

Similarity is the exact Jaccard similarity of two documents' sets of shingle hashes. Precision is
the share of sampled pairs at or above `threshold`. Recall: a pair of similarity s is found with
probability P(s) = 1 - (1 - s^r)^b, so each sampled pair stands for 1 / P(s) existing pairs (Horvitz
and Thompson, "A Generalization of Sampling Without Replacement", JASA 1952). Recall is of pairs: a
document whose link to one copy is missed is usually linked to another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from corpus.dedup.minhash import MinHash
from schemas.config import settings
from schemas.manifest import Estimate

Z_95 = 1.959964  # 95% of the normal distribution lies within


@settings
class Verify:
    """Section [verify]: candidate pairs that are compared exactly.

    Pairs below `min_similarity` are not linked (0: pairs that share a band are linked, as in
    FineWeb). `sample_pairs` are compared in every run for the estimate in its report (0: none).
    """

    min_similarity: Annotated[float, Field(ge=0, le=1)] = 0.0
    sample_pairs: Annotated[int, Field(ge=0, le=10**8)] = 1000

    def threshold(self, minhash: MinHash) -> float:
        """The similarity from which a pair counts as a duplicate.

        Where pairs are not verified, that is where the match probability is steepest.
        """
        return self.min_similarity or minhash.threshold_estimate


def estimate(
    pairs: Sequence[float], survivors: Sequence[float], minhash: MinHash, threshold: float
) -> Estimate:
    """`pairs`: exact similarities of linked pairs; `survivors`: of dropped documents to theirs."""
    similar = [s for s in pairs if s >= threshold]
    low, high = wilson(len(similar), len(pairs))
    existing = sum(1 / minhash.match_probability(s) for s in similar)
    return Estimate(
        threshold=round(threshold, 4),
        num_pairs=len(pairs),
        precision=_share(len(similar), len(pairs)),
        precision_low=low,
        precision_high=high,
        recall=_share(len(similar), existing),
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
