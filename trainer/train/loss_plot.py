"""The loss curve of a run as a picture, from the records of its log.

Training loss per step and smoothed, validation loss where it was measured, a tick per skipped step;
the learning rate below. Where the log has a step several times, as after a kill, the last counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from schemas.manifest import atomic_path
from trainer.progress import Smoothed

SIZE, DPI = (8.0, 5.0), 120  # inches, dots per inch
SMOOTHED_PART = 0.01  # span of the smoothed line, as a part of the run

Curve = dict[int, float]  # by step; NaN where the loss was not finite


def plot(records: list[dict[str, Any]], png_path: Path) -> None:
    """Draw the records as a PNG, which appears whole or not at all; needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    _draw_losses(above, records)
    rate = curve(records, "learning_rate")
    below.plot(list(rate), list(rate.values()), color="tab:gray", linewidth=1)
    below.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(png_path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw_losses(axes: Any, records: list[dict[str, Any]]) -> None:
    loss, held_out = curve(records, "loss"), curve(records, "validation_loss")
    line = smoothed(list(loss.values()))
    axes.plot(list(loss), list(loss.values()), color="tab:blue", alpha=0.3, linewidth=0.8)
    axes.plot(list(loss), line, color="tab:blue", linewidth=1.5, label="training, smoothed")
    axes.plot(
        list(held_out), list(held_out.values()), "o-", color="tab:orange", markersize=4,
        label="validation",
    )  # fmt: skip
    lost = [step for step, value in loss.items() if math.isnan(value)]
    if lost:
        axes.plot(
            lost, [0.01] * len(lost), "|", color="tab:red", label="skipped: not finite",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    axes.set(ylabel="loss (nats per token)")
    axes.legend(frameon=False)


def curve(records: Iterable[dict[str, Any]], key: str) -> Curve:
    """The value of `key` at each step, in order of steps; null and infinity are NaN."""
    last = {record["step"]: record[key] for record in records if key in record}
    return {step: _number(last[step]) for step in sorted(last)}


def _number(value: Any) -> float:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else math.nan


def smoothed(values: list[float]) -> list[float]:
    """The mean of a forward and a backward running mean, so that the line does not lag."""
    span = max(5, round(SMOOTHED_PART * len(values)))
    back, ahead = Smoothed(span), Smoothed(span)
    forward = [back.add(value) for value in values]
    backward = [ahead.add(value) for value in reversed(values)]
    return [mean(pair) for pair in zip(forward, reversed(backward), strict=True)]
