"""Progress bars of stages, the same on every engine: tasks count, the driver draws.

A task writes its count to a small file under the root (`.progress/`); the driver sums the files
twice per second.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from rich import progress

from schemas.printing import PlainConsole

console = PlainConsole(stderr=True)


class Tally:
    """A task's running count, written by that task alone; cheap enough for every batch."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / uuid.uuid4().hex
        self._done = 0

    def add(self, amount: int) -> None:
        """Note that `amount` more units are done."""
        self._done += amount
        # The driver deletes the folder when it stops looking: nobody needs the number then.
        with contextlib.suppress(FileNotFoundError):
            self._path.write_text(str(self._done))


@contextlib.contextmanager
def track(root: Path, title: str, total: int, unit: str) -> Iterator[str]:
    """Draw a bar of `total` units while the block runs; yields the folder for the `Tally`s."""
    folder = root / ".progress" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    show = _show_bytes if unit == "bytes" else _show_count
    done = threading.Event()
    with _bar(show, unit) as bar:
        task = bar.add_task(title, total=total)

        def draw() -> None:
            while not done.wait(0.5):
                bar.update(task, completed=_sum(folder))

        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        try:
            yield str(folder)
            bar.update(task, completed=total)
        finally:
            done.set()
            thread.join()
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another bar, or a killed run, has files there
                folder.parent.rmdir()


def _bar(show: Callable[[float], str], unit: str) -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description:<22}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        _Rate(show, unit),
        progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        refresh_per_second=2,
    )


class _Rate(progress.ProgressColumn):
    """Done of total, and units per second."""

    def __init__(self, show: Callable[[float], str], unit: str) -> None:
        super().__init__()
        self._show, self._unit = show, "" if unit == "bytes" else f" {unit}"

    def render(self, task: progress.Task) -> str:
        done = f"{self._show(task.completed)} of {self._show(task.total or 0)}{self._unit}"
        return f"{done}, {self._show(task.speed or 0)}/s"


def _show_bytes(amount: float) -> str:
    return f"{amount / 1e6:,.1f} MB"


def _show_count(amount: float) -> str:
    return f"{amount:,.0f}"


def _sum(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        text = path.read_text()
        total += int(text) if text.isdigit() else 0
    return total
