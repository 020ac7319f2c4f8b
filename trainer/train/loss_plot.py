"""The loss curve of a run as a picture, from its log.

Training loss of each step and smoothed, validation loss where it was measured, ticks where a step
was skipped; the learning rate below. Where a step stands in the log several times, as after a kill,
the last counts. Cost: one pass over the log, in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from schemas import json_text
from schemas.manifest import atomic_path
from trainer.progress import Smoothed

SIZE, DPI = (8.0, 5.0), 120  # inches, dots an inch
SMOOTHED_PART = 0.01  # of the run: the span over which the smoothed line forgets

Curve = dict[int, float]  # by step; NaN where the loss was not finite


def plot(log_path: Path, png_path: Path) -> None:
    """Draw RUN/log.jsonl as a PNG, which is there whole or not at all; needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second
    from matplotlib.figure import Figure

    records = _records(log_path)
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


def curve(records: Iterable[dict[str, Any]], key: str) -> Curve:
    """What `key` was after each step, in the order of steps; null and infinity are NaN."""
    last = {record["step"]: record[key] for record in records if key in record}
    return {step: _number(last[step]) for step in sorted(last)}


def smoothed(values: list[float]) -> list[float]:
    """The mean of what looks back and what looks ahead, so that the line does not lag."""
    span = max(5, round(SMOOTHED_PART * len(values)))
    back, ahead = Smoothed(span), Smoothed(span)
    forward = [back.add(value) for value in values]
    backward = [ahead.add(value) for value in reversed(values)]
    return [mean(pair) for pair in zip(forward, reversed(backward), strict=True)]


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
    axes.set(ylabel="loss (nats a target)")
    axes.legend(frameon=False)


def _records(path: Path) -> list[dict[str, Any]]:
    """The log's lines that say of a step; what a kill tore is left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json_text.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


def _number(value: Any) -> float:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else math.nan
