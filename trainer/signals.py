"""SIGTERM and Ctrl-C stop a run after the current step, with a checkpoint.

Imports no PyTorch: `trainer.cli` needs `Stopped`, and sets up threads before PyTorch is imported.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 (not an error)
    """A signal stopped a run after `step`, whose checkpoint is saved."""

    def __init__(self, number: int, run: Path, step: int) -> None:
        super().__init__(f"{run}: stopped after step {step}; checkpoint saved, use --resume")
        self.exit_code = 128 + (number or signal.SIGTERM)


class StopSignals:
    """Context manager that records the first signal in `asked` and `signal`.

    A second signal has its usual effect. Outside the main thread, where Python receives no signals,
    it does nothing.
    """

    def __init__(self) -> None:
        self.asked, self.signal = False, 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked, self.signal = True, number
        self._restore()

    def _restore(self) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old = {}
