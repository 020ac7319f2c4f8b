"""The estimate: Wilson's interval against SciPy's, recall against pairs that are counted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from corpus.dedup.minhash import MinHash
from corpus.dedup.precision_recall import Verify, estimate, wilson


@pytest.mark.parametrize(("found", "of"), [(0, 5), (3, 8), (8, 8), (500, 1000), (1, 100_000)])
def test_the_interval_is_scipys(found: int, of: int) -> None:
    theirs = binomtest(found, of).proportion_ci(0.95, method="wilson")
    assert wilson(found, of) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_recall_is_that_of_pairs_found_by_chance() -> None:
    """100,000 pairs of every similarity, each found as often as the curve says."""
    random = np.random.default_rng(3)
    settings, threshold = MinHash(), 0.7
    there = random.random(100_000)
    chance = np.array([settings.match_probability(s) for s in there])
    linked = there[random.random(len(there)) < chance]
    said = estimate(linked.tolist(), [], settings, threshold)
    assert said.recall == pytest.approx(
        (linked >= threshold).sum() / (there >= threshold).sum(), abs=0.01
    )
    assert said.precision == pytest.approx((linked >= threshold).mean(), abs=1e-4)
    assert said.num_pairs == len(linked)


def test_nothing_sampled_says_nothing() -> None:
    said = estimate([], [], MinHash(), 0.72)
    assert (said.precision, said.recall, said.survivors) == (None, None, None)
    assert (said.precision_low, said.precision_high) == (0.0, 1.0)


def test_the_threshold_is_what_is_verified_or_where_the_curve_is_steep() -> None:
    assert Verify().threshold(MinHash()) == pytest.approx(0.719, abs=1e-3)
    assert Verify(0.8).threshold(MinHash()) == 0.8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_similarity": 1.5}, "min_similarity = 1.5: must be at least 0 and at most 1"),
        ({"sample_pairs": -1}, "sample_pairs = -1: must be at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Verify(**values)  # type: ignore[arg-type]
