"""Limits on what one page may cost: CPU time by a timer, memory by the operating system.

CPU time and not wall time, since a busy machine must not change the corpus. ITIMER_PROF counts the
process's CPU time and raises in Python code. If a C function does not return, the soft RLIMIT_CPU a
few seconds later ends the process with SIGXCPU, and the parent records the page as crashed.
"""

from __future__ import annotations

import math
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_SECONDS = 5
_confined = False


class CpuTimeError(BaseException):
    """The page's CPU time is used up. Not an `Exception`: extractors catch and ignore those."""


def confine(max_memory_mb: int) -> None:
    """Bound this process's address space and let CPU limits end it, without a core file.

    For child processes, before anything else.
    """
    global _confined
    _confined = True
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = max_memory_mb << 20
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise `CpuTimeError` once the block has used `seconds` of CPU time.

    Does nothing outside the main thread, where signals cannot be handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPROF, _raise)
    try:
        try:
            backstop(seconds + GRACE_SECONDS)
            signal.setitimer(signal.ITIMER_PROF, seconds, 0.25)
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _raise(number: int, frame: FrameType | None) -> None:
    raise CpuTimeError


def backstop(seconds: float) -> None:
    """End the process, if it is a confined child, after `seconds` more CPU time."""
    if not _confined:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
