"""Console output of a run: a progress bar on a terminal, plain lines elsewhere, tables."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from schemas.printing import printable

SMOOTHED_STEPS = 10
_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


class Smoothed:
    """An exponential moving average: after `steps` values a value's weight has fallen to 1/e.

    It has Adam's bias correction (arXiv 1412.6980, section 3).
    """

    def __init__(self, steps: int) -> None:
        self.keep, self.total, self.weight = math.exp(-1 / steps), 0.0, 0.0

    def add(self, value: float) -> float:
        """Add a value and return the average; a value that is not finite is skipped."""
        if math.isfinite(value):
            self.total = self.keep * self.total + (1 - self.keep) * value
            self.weight = self.keep * self.weight + (1 - self.keep)
        return self.total / self.weight if self.weight else math.nan


class Reporter:
    """Context manager that shows steps and notes.

    On a terminal it shows a bar, elsewhere a line for the first, the last and every `log_every`-th
    step.
    """

    def __init__(self, console: Console, num_steps: int, log_every: int) -> None:
        self.console, self.num_steps, self.log_every = console, num_steps, log_every
        self._loss, self._wait = Smoothed(SMOOTHED_STEPS), Smoothed(SMOOTHED_STEPS)
        self._begun = False
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[said]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("steps", total=num_steps, said="")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(
        self,
        step: int,
        loss: float,
        tokens_per_second: float,
        seconds_left: float,
        data_wait: float | None = None,
        mfu: float | None = None,
    ) -> None:
        """Show that `step` steps are done; loss and data wait are smoothed.

        `data_wait` is the share of the step's time spent waiting for its batch, `mfu` the model
        FLOPs utilization, both 0 to 1; None is not shown.
        """
        parts = [f"loss {self._loss.add(loss):.3f}", f"{tokens_per_second:,.0f} tokens/s"]
        if mfu is not None:
            parts.append(f"MFU {mfu:.0%}")
        if data_wait is not None:
            parts.append(f"data wait {self._wait.add(data_wait):.1%}")
        said = "  ".join([*parts, f"{duration(seconds_left)} left"])
        if self.console.is_terminal:
            self._bar.update(self._task, completed=step, said=said)
        elif step % self.log_every == 0 or step == self.num_steps or not self._begun:
            self.note(f"step {step}/{self.num_steps}  {said}")
        self._begun = True

    def note(self, text: str) -> None:
        """One line of plain text."""
        say(self.console, text)


def say(console: Console, text: str) -> None:
    """Print plain text: markup is not interpreted, control characters are escaped."""
    console.print(Text(printable(text)), soft_wrap=True)


def duration(seconds: float) -> str:
    """`0.4 s`, `45 s`, `12 min 5 s`, `3 h 20 min`, `2 d 3 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, next_unit, next_size in _UNITS:
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // next_size} {next_unit}"
    return f"{whole} s"


def show_report(console: Console, report: dict[str, Any]) -> None:
    """Print the table and the sample at the end of a run."""
    r = report
    before, after = r["validation_bits_per_byte_first"], r["validation_bits_per_byte"]
    validation = f"{_shown(r['validation_loss_first'])} → {_shown(r['validation_loss_last'])}"
    rows = {
        "parameters": f"{r['parameters']:,}",
        "tokens": f"{r['tokens']:,} in {r['steps']:,} steps",
        "dtype": _engine(r),
        "optimizer": r["optimizer"],
        "training loss": f"{_shown(r['train_loss_first'])} → {_shown(r['train_loss_last'])}",
        "validation loss": f"{validation} nats per token",
        "bits per byte": f"{_shown(before)} → {_shown(after)}",
        "time": duration(r["seconds"]),
        "speed": _speed(r),
    }
    if "data_wait" in r:
        rows["data wait"] = f"{r['data_wait']:.1%} of the time"
    if r.get("skipped_steps"):
        rows["skipped"] = f"{r['skipped_steps']:,} steps whose loss or gradient was not finite"
    _table(console, "Trained", rows)
    say(console, f"Sample:\n{r['sample']}")


def show_plan(console: Console, planned: dict[str, Any]) -> None:
    """Print the table of a dry run; `memory` is a `trainer.model.cost.Memory` as a dict."""
    p = planned
    epochs: dict[str, float] = p["epochs"]
    named = [f"{folder}: {count:.2f}" for folder, count in epochs.items()]
    rows = {
        "parameters": f"{p['parameters']:,}",
        "vocabulary": f"{p['padded_vocab_size']:,} ({p['tokenizer']})",
        "tokens available": f"{p['train_tokens']:,}, held out {p['validation_tokens']:,}",
        "tokens suggested": f"{p['suggested_tokens']:,} (20 per parameter)",
        "tokens of the run": f"{p['tokens']:,} in {p['steps']:,} steps, packing {p['packing']}",
        "epochs": "\n".join(named) if len(named) > 1 else f"{sum(epochs.values()):.2f}",
        "dtype": _engine(p),
        "optimizer": p["optimizer"],
    }
    if "memory" in p:
        parts: dict[str, int] = p["memory"]
        listed = ", ".join(f"{name} {_size(count)}" for name, count in parts.items())
        rows["memory"] = f"about {_size(sum(parts.values()))} per process: {listed}"
    rows["loss of the first batch"] = _shown(p["loss"])
    rows["estimated time"] = f"{duration(p['seconds'])} at {_speed(p)}"
    _table(console, "Dry run: nothing was written", rows)


def _engine(r: dict[str, Any]) -> str:
    return f"{r['dtype']} on {r['device']}, {r['compile']}, processes: {r['processes']}"


def _speed(r: dict[str, Any]) -> str:
    mfu = "" if r.get("mfu") is None else f", MFU {r['mfu']:.0%}"
    return f"{r['tokens_per_second']:,.0f} tokens/s{mfu}"


def _size(count: int) -> str:
    """Bytes in MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _shown(value: float | None) -> str:
    """A loss; JSON has None for one that is not finite."""
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _table(console: Console, title: str, rows: dict[str, str]) -> None:
    grid = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        grid.add_row(name, Text(printable(value)))
    console.print(grid)
