"""Makes pages that name a mishap suffer it: for child processes of tests, by PYTHONPATH."""

import collections
import importlib.abc
import importlib.machinery
import itertools
import os
import re
import signal
import sys
import time
from pathlib import Path

_MISHAP = re.compile(r"mishap-([a-z-]+)")


def suffer(mishap: str) -> None:
    """Do to this process what the page names."""
    if mishap == "loop-in-c":
        collections.deque(itertools.repeat(0), maxlen=0)
    elif mishap == "memory":
        raise MemoryError
    elif mishap == "exit":
        os._exit(3)
    elif mishap == "pause":  # for a test to kill this process meanwhile
        time.sleep(0.2)
    elif mishap.startswith("once-"):  # only the first process that reads it
        seen = Path(os.environ["MISHAPS"]) / mishap
        if not seen.exists():
            seen.touch()
            suffer(mishap.removeprefix("once-"))
    else:
        signal.raise_signal(signal.Signals[f"SIG{mishap.upper()}"])


def _wrap(module: object, name: str, place: int) -> None:
    real = getattr(module, name)

    def wrapped(*arguments: object) -> object:
        found = _MISHAP.findall(str(arguments[place]))
        for mishap in found:
            suffer(mishap)
        return real(*arguments)

    setattr(module, name, wrapped)


def _hurry(module: object) -> None:
    module.GRACE_SECONDS = 1  # of CPU time, not five, where a page loops in C code


_PATCHES = {
    "corpus.text.extract_page": lambda module: _wrap(module, "rights_of", 1),
    "corpus.filters.registry": lambda module: _wrap(module, "judge_batch", 0),
    "corpus.text.limits": _hurry,
    "corpus.worker_tasks": lambda module: setattr(module, "_MIN_READING_SECONDS", 0.5),
}


class _Finder(importlib.abc.MetaPathFinder):
    """Patches one module right after it was imported."""

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name not in _PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def run(module: object) -> None:
            execute(module)
            _PATCHES[name](module)

        spec.loader.exec_module = run
        return spec


sys.meta_path.insert(0, _Finder())
