from __future__ import annotations

import math

import pytest

from trainer.settings import ScheduleSettings
from trainer.train.optimizer import learning_rate_factor


def values(settings: ScheduleSettings, num_steps: int) -> list[float]:
    return [learning_rate_factor(settings, step, num_steps) for step in range(num_steps)]


def test_warmup_rises_in_equal_parts_and_ends_at_one() -> None:
    found = values(ScheduleSettings("cosine", warmup_steps=4), 10)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4] == 1.0


def test_cosine_is_half_way_in_the_middle_and_above_its_end_at_the_last_step() -> None:
    found = values(ScheduleSettings("cosine", warmup_steps=0, min_ratio=0.1), 100)
    assert found[50] == pytest.approx(0.55)
    assert found[25] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert 0.1 < found[-1] < 0.101
    assert found == sorted(found, reverse=True)


def test_wsd_stays_and_then_falls_in_equal_parts() -> None:
    found = values(ScheduleSettings("wsd", warmup_steps=2, decay_fraction=0.5), 10)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
@pytest.mark.parametrize("num_steps", [1, 3, 12])
def test_a_run_shorter_than_its_warmup_has_positive_rates(kind: str, num_steps: int) -> None:
    found = values(ScheduleSettings(kind, warmup_steps=10), num_steps)  # type: ignore[arg-type]
    assert all(0 < factor <= 1 for factor in found)
