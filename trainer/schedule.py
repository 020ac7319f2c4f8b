"""The learning rate as a pure function of the step, so that any step can be started at."""

from __future__ import annotations

import math

from trainer.settings import ScheduleSettings


def learning_rate_factor(settings: ScheduleSettings, step: int, num_steps: int) -> float:
    """What the peak learning rate is multiplied by at `step` (0 .. `num_steps` - 1).

    Linear warmup reaches 1 at its last step. After it `cosine` falls along half a cosine
    (arXiv 1608.03983); `wsd` stays at 1 and falls linearly over the last `decay_fraction` of all
    steps (warmup-stable-decay, arXiv 2404.06395). Both arrive at `min_ratio` one step after the
    last, so that no step is spent on a learning rate of nothing.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.kind == "cosine":
        progress = _progress(step, settings.warmup_steps, num_steps)
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay_start = num_steps - round(settings.decay_fraction * num_steps)
        shape = 1 - _progress(step, max(decay_start, settings.warmup_steps), num_steps)
    return settings.min_ratio + (1 - settings.min_ratio) * shape


def _progress(step: int, start: int, end: int) -> float:
    """How far `step` is from `start` (0) to `end` (1)."""
    return min(1.0, max(0.0, (step - start) / max(1, end - start)))
