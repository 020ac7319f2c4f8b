"""Picking: the distribution against its definitions and transformers, and draws against it."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas.errors import UserError
from trainer.generate.sampling import distribution, penalized, pick
from trainer.settings import SampleSettings

LOGITS = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()


def exact(logits: list[float], settings: SampleSettings, seen: set[int]) -> dict[int, float]:
    """What is drawn how often, in plain Python."""
    p = settings.repetition_penalty
    values = {i: (x / p if x > 0 else x * p) if i in seen else x for i, x in enumerate(logits)}
    order = sorted(values, key=values.__getitem__, reverse=True)
    order = order[: settings.top_k or len(order)]
    weights = {i: math.exp((values[i] - values[order[0]]) / settings.temperature) for i in order}
    total, before, kept = sum(weights.values()), 0.0, {}
    for i in order:
        if before < settings.top_p:
            kept[i] = weights[i] / total
        before += weights[i] / total
    kept = {i: x for i, x in kept.items() if x >= settings.min_p * kept[order[0]]}
    return {i: x / sum(kept.values()) for i, x in kept.items()}


DISTINCT = st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True)
SETTINGS = st.builds(
    SampleSettings,
    temperature=st.sampled_from([0.3, 1.0, 4.0]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.013, 0.47, 0.91, 1.0]),
    min_p=st.sampled_from([0.0, 0.037, 0.53, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
)


@given(DISTINCT, SETTINGS, st.sets(st.integers(0, 11)))
def test_the_distribution_is_that_of_the_definitions(
    tenths: list[int], settings: SampleSettings, seen: set[int]
) -> None:
    logits = torch.tensor([x / 10 for x in tenths])
    mask = torch.tensor([i in seen for i in range(len(tenths))])
    ids, probabilities = distribution(logits, settings, mask)
    found = {int(i): float(p) for i, p in zip(ids, probabilities, strict=True) if p > 0}
    expected = exact(logits.tolist(), settings, seen)
    if settings.repetition_penalty == 1:  # else two logits may become equal, and either may go
        assert found == pytest.approx(expected, rel=1e-4)
    assert sorted(found.values()) == pytest.approx(sorted(expected.values()), rel=1e-4)


@given(SETTINGS, st.integers(0, 2**31))
@hypothesis_settings(max_examples=40, deadline=None)
def test_the_distribution_is_that_of_transformers(settings: SampleSettings, seed: int) -> None:
    theirs = pytest.importorskip("transformers.generation.logits_process")
    random = torch.manual_seed(seed)
    logits, ids = torch.randn(50, generator=random) * 3, torch.randint(50, (1, 6), generator=random)
    steps = [
        theirs.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty),
        theirs.TemperatureLogitsWarper(settings.temperature),
        theirs.TopKLogitsWarper(settings.top_k or 50),
        theirs.TopPLogitsWarper(settings.top_p),
        theirs.MinPLogitsWarper(settings.min_p),
    ]
    scores = logits[None].clone()
    for step in steps:
        scores = step(ids, scores)
    seen = torch.zeros(50, dtype=torch.bool).index_fill(0, ids[0], True)
    kept, probabilities = distribution(logits, settings, seen)
    found = torch.zeros(50).index_copy(0, kept, probabilities.float())
    torch.testing.assert_close(found, scores.softmax(-1)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        SampleSettings(temperature=1.0, top_k=0),
        SampleSettings(temperature=0.5, top_k=3),
        SampleSettings(temperature=2.0, top_k=0, top_p=0.8),
        SampleSettings(temperature=1.0, top_k=0, min_p=0.6, repetition_penalty=1.2),
    ],
)
def test_draws_follow_the_probabilities(settings: SampleSettings) -> None:
    random, seen = torch.Generator().manual_seed(0), torch.tensor([False, False, False, True])
    count = 4000
    drawn = Counter(pick(LOGITS, settings, random, seen) for _ in range(count))
    expected = exact(LOGITS.tolist(), settings, {3})
    assert set(drawn) <= set(expected)
    statistic = sum((drawn[i] - count * p) ** 2 / (count * p) for i, p in expected.items())
    assert statistic < 16.3  # chi-square of 3 degrees of freedom, one in a thousand


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 2}, {2, 3}),
        ({"top_k": 1}, {3}),
        ({"top_p": 0.69}, {2, 3}),
        ({"top_p": 0.71}, {1, 2, 3}),
        ({"top_p": 0.01}, {3}),
        ({"min_p": 0.74}, {2, 3}),
        ({"min_p": 0.76}, {3}),
        ({"min_p": 1.0}, {3}),
        ({"top_k": 3, "top_p": 0.7, "min_p": 0.1}, {2, 3}),  # of 2/9, 3/9, 4/9
    ],
)
def test_each_setting_keeps_the_likeliest(flags: dict[str, float], kept: set[int]) -> None:
    settings = SampleSettings(temperature=1, **{"top_k": 0, **flags})  # type: ignore[arg-type]
    ids, probabilities = distribution(LOGITS, settings)
    assert set(ids[probabilities > 0].tolist()) == kept


def test_of_equal_logits_top_k_keeps_k() -> None:
    ids, _ = distribution(torch.zeros(9), SampleSettings(temperature=1, top_k=4))
    assert len(set(ids.tolist())) == 4


def test_a_temperature_near_0_is_greedy_and_a_huge_one_is_even() -> None:
    for temperature in (1e-5, 1e-45, 5e-324):
        ids, probabilities = distribution(LOGITS, SampleSettings(temperature=temperature))
        assert ids[probabilities > 0].tolist() == [3]
    _, probabilities = distribution(LOGITS, SampleSettings(temperature=1e300))
    assert probabilities.tolist() == pytest.approx([0.25] * 4)


def test_what_was_seen_is_less_likely_whatever_its_sign() -> None:
    logits = torch.tensor([2.0, -2.0, 2.0, -2.0])
    seen = torch.tensor([True, True, False, False])
    assert penalized(logits, 2.0, seen).tolist() == [1.0, -4.0, 2.0, -2.0]
    assert penalized(logits, 1.0, seen) is logits


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error_and_not_a_text(
    bad: float, temperature: float
) -> None:
    logits = torch.tensor([0.0, bad, 1.0])
    with pytest.raises(UserError, match="its weights diverged or are damaged"):
        pick(logits, SampleSettings(temperature=temperature), torch.Generator())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("min_p", 1.1, "min_p = 1.1: must be at least 0 and at most 1"),
        ("min_p", float("nan"), "min_p = nan: must be at least 0 and at most 1"),
        ("repetition_penalty", 0.0, "repetition_penalty = 0.0: must be above 0"),
        ("repetition_penalty", float("inf"), "repetition_penalty = inf: must be above 0"),
        ("temperature", float("inf"), "temperature = inf: must be at least 0"),
        ("temperature", float("nan"), "temperature = nan: must be at least 0"),
        ("stop", ("",), "stop = '': must not be empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: object, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        SampleSettings(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
