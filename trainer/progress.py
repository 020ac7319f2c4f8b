"""What a person sees of a run: a bar on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Reporter:
    """Shows steps and notes; a context manager, so that the bar is taken down on any end."""

    def __init__(self, console: Console, num_steps: int, log_every: int) -> None:
        self.console, self.num_steps, self.log_every = console, num_steps, log_every
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("steps", total=num_steps, loss="-", speed="-")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, step: int, loss: float, tokens_per_second: float, seconds_left: float) -> None:
        """`step` steps are done, the last with `loss`."""
        speed = f"{tokens_per_second:,.0f}"
        if self.console.is_terminal:
            self._bar.update(self._task, completed=step, loss=f"{loss:.3f}", speed=speed)
        elif step % self.log_every == 0 or step in (1, self.num_steps):
            done = f"step {step}/{self.num_steps}  loss {loss:.3f}"
            self.note(f"{done}  {speed} tokens/s  {seconds_left:.0f} s left")

    def note(self, text: str) -> None:
        """One line of plain text."""
        say(self.console, text)


def say(console: Console, text: str) -> None:
    """Print `text` as it is: no markup, and no control characters that a terminal would obey."""
    console.print(Text(printable(text)), soft_wrap=True)


def printable(text: str) -> str:
    """`text` with control characters other than tab and newline replaced by U+FFFD."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def show_report(console: Console, report: dict[str, Any]) -> None:
    """The table and the sample at the end of a run."""
    r = report
    before, after = r["validation_bits_per_byte_first"], r["validation_bits_per_byte"]
    validation = f"{r['validation_loss_first']:.3f} → {r['validation_loss_last']:.3f}"
    _table(
        console,
        "Trained",
        {
            "parameters": f"{r['parameters']:,}",
            "tokens": f"{r['tokens']:,} in {r['steps']:,} steps",
            "dtype": f"{r['dtype']} on {r['device']}, processes: {r['processes']}",
            "training loss": f"{r['train_loss_first']:.3f} → {r['train_loss_last']:.3f}",
            "validation loss": f"{validation} nats a token",
            "bits per byte": f"{before:.3f} → {after:.3f}",
            "time": f"{r['seconds']:.1f} s",
            "speed": f"{r['tokens_per_second']:,.0f} tokens/s",
        },
    )
    say(console, f"What it writes:\n{r['sample']}")


def show_plan(console: Console, planned: dict[str, Any]) -> None:
    """The table of a dry run."""
    p = planned
    held_out = f"{p['validation_tokens']:,} held out"
    _table(
        console,
        "Dry run: nothing was written",
        {
            "parameters": f"{p['parameters']:,}",
            "vocabulary": f"{p['padded_vocab_size']:,} ({p['tokenizer']})",
            "tokens there are": f"{p['train_tokens']:,} to train on, {held_out}",
            "tokens of the run": f"{p['tokens']:,} in {p['steps']:,} steps",
            "epochs": f"{p['epochs']:.2f}",
            "dtype": f"{p['dtype']} on {p['device']}, processes: {p['processes']}",
            "loss of the first batch": f"{p['loss']:.3f}",
            "about": f"{p['seconds']:,.0f} s at {p['tokens_per_second']:,.0f} tokens/s",
        },
    )


def _table(console: Console, title: str, rows: dict[str, str]) -> None:
    grid = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        grid.add_row(name, Text(printable(value)))
    console.print(grid)
