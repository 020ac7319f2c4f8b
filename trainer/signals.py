"""SIGTERM and Ctrl-C end a run after the step it is in, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """A run was asked to end; its checkpoint of `step` is saved."""

    def __init__(self, number: int, run: Path, step: int) -> None:
        super().__init__(f"{run}: stopped after step {step}, saved; --resume goes on")
        self.exit_code = 128 + (number or signal.SIGTERM)


class StopSignals:
    """Notes a first signal in `asked` and `signal`; a second one does what it did before.

    A context manager; outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked, self.signal = False, 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked, self.signal = True, number
        self._restore()

    def _restore(self) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old = {}
