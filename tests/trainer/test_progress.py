"""Console output of a run: lines, a bar, tables."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from trainer.progress import Reporter, Smoothed, duration, show_plan, show_report


def a_console(terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=120, color_system=None), file


def test_without_a_terminal_lines_come_first_last_and_every_so_often() -> None:
    console, file = a_console()
    with Reporter(console, 25, 10) as reporter:
        for step in range(4, 26):
            reporter.step(step, 2.0, 1234.5, 100.0, data_wait=0.004, mfu=0.412)
    said = "  loss 2.000  1,234 tokens/s  MFU 41%  data wait 0.4%  1 min 40 s left"
    assert file.getvalue().splitlines() == [f"step {n}/25{said}" for n in (4, 10, 20, 25)]


def test_what_is_not_known_is_left_out() -> None:
    console, file = a_console()
    with Reporter(console, 1, 10) as reporter:
        reporter.step(1, 2.0, 1000.0, 0.0)
    assert file.getvalue() == "step 1/1  loss 2.000  1,000 tokens/s  0.0 s left\n"


def test_on_a_terminal_the_bar_says_the_same() -> None:
    console, file = a_console(terminal=True)
    with Reporter(console, 2, 10) as reporter:
        reporter.step(1, 2.0, 1000.0, 5.0, data_wait=0.0, mfu=0.5)
        reporter.note("a note")
        reporter.step(2, 2.0, 1000.0, 0.0, data_wait=0.0, mfu=0.5)
    said = file.getvalue()
    assert "2/2" in said
    assert "loss 2.000  1,000 tokens/s  MFU 50%  data wait 0.0%  0.0 s left" in said
    assert "a note" in said


def test_a_skipped_step_leaves_the_loss_that_is_shown() -> None:
    console, file = a_console()
    with Reporter(console, 2, 1) as reporter:
        reporter.step(1, 2.0, 1.0, 1.0)
        reporter.step(2, math.nan, 1.0, 0.0)
    assert [line.split("  ")[1] for line in file.getvalue().splitlines()] == ["loss 2.000"] * 2


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1), steps=st.integers(1, 50))
def test_the_smoothed_value_is_the_weighted_mean(values: list[float], steps: int) -> None:
    smoothed = Smoothed(steps)
    shown = [smoothed.add(value) for value in values][-1]
    weights = [math.exp(-age / steps) for age in range(len(values))][::-1]
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert shown == pytest.approx(mean, abs=1e-6)
    assert smoothed.add(math.inf) == shown
    assert math.isnan(Smoothed(steps).add(math.nan))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"),
        (725.0, "12 min 5 s"), (12_059.0, "3 h 20 min"), (183_600.0, "2 d 3 h"),
    ],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: float, said: str) -> None:
    assert duration(seconds) == said


ENGINE = {"dtype": "float32", "device": "cpu", "compile": "eager", "processes": 2,
          "optimizer": "fused AdamW", "parameters": 1234, "tokens": 5000, "steps": 10,
          "tokens_per_second": 99.6}  # fmt: skip
PLAN: dict[str, Any] = {
    "suggested_tokens": 100_000_000,
    **ENGINE, "padded_vocab_size": 320, "tokenizer": "tiny", "train_tokens": 9000,
    "validation_tokens": 100, "packing": "concat", "epochs": {"a/shards": 0.5}, "loss": 5.75,
    "seconds": 50.2,
}  # fmt: skip
REPORT: dict[str, Any] = {
    **ENGINE, "train_loss_first": 5.5, "train_loss_last": 4.5, "validation_loss_first": 5.25,
    "validation_loss_last": None, "validation_bits_per_byte_first": 3.0,
    "validation_bits_per_byte": 2.0, "seconds": 61.0, "sample": "the cat\x1b[2J",
}  # fmt: skip


def _said(show: Any, values: dict[str, Any]) -> str:
    console, file = a_console()
    show(console, values)
    return file.getvalue()


def test_a_plan_says_memory_epochs_and_speed() -> None:
    memory = {"weights": 20_000_000, "gradients": 20_000_000, "activations": 2_960_000_000}
    said = _said(show_plan, {**PLAN, "memory": memory, "mfu": 0.25})
    assert "5,000 in 10 steps, packing concat" in said
    assert "about 3.0 GB per process: weights 20 MB, gradients 20 MB, activations 3.0 GB" in said
    assert "50 s at 100 tokens/s, MFU 25%" in said
    assert "0.50" in said
    mixed = _said(show_plan, {**PLAN, "epochs": {"a": 0.5, "b": 1.25}})
    assert "a: 0.50" in mixed
    assert "b: 1.25" in mixed
    assert "memory" not in mixed


def test_a_report_says_what_was_lost_and_harms_no_terminal() -> None:
    said = _said(show_report, {**REPORT, "skipped_steps": 2, "data_wait": 0.004, "mfu": None})
    assert "5.250 → not finite nats per token" in said
    assert "2 steps whose loss or gradient was not finite" in said
    assert "0.4% of the time" in said
    assert "MFU" not in said
    assert "\x1b" not in said
    assert "skipped" not in _said(show_report, {**REPORT, "skipped_steps": 0})
