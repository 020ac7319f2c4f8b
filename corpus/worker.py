"""Child processes for heavy Python, so that a bad page can harm only the process that reads it.

Engines run Python functions in processes that they need themselves (Sail: threads of one process,
under one interpreter lock; Spark: workers whose death fails the task). So tasks send Arrow batches
to a child through a pipe and read Arrow batches from another. A child is bound to one recipe and
serves the tasks of `corpus.worker_tasks`. Idle children are kept for the next batch, at most one
per core works at a time, and a child ends when its parent does.

A task that limits its own process (extract) runs in a fork of the child. The child has imported
everything and forwards the fork's answers, so a dead fork is replaced in milliseconds, where a new
child takes a second, and every request starts in a fresh process. The child has no thread of its
own that could hold a lock while it forks.

How a process ended tells what ended it. The signals of faults and of our own limits
(`_OWN_SIGNALS`) and exit statuses are due to the batch. Every other signal came from outside: a
user, a scheduler, the kernel when memory runs out. Such a batch is sent again.

Frames on both pipes: one byte of kind, eight bytes of length (little-endian), the body. Kinds: `J`
the recipe, `T` the task of the next batch, `B` an Arrow IPC stream with one batch, `R` ready for
the first task, `E` end of an answer, `X` a traceback, `D` the status of a dead fork. A frame
costs a copy through a pipe, about 1 ms per MB; a fork's frame costs two.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.abc
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa

Task = Callable[[pa.RecordBatch], Iterator[pa.RecordBatch]]

_HEADER = struct.Struct("<cQ")
# Tasks that bound the memory and CPU time of their whole process: each request is a fork.
CONFINED = ("extract",)

_OWN_SIGNALS = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGTRAP,
        signal.SIGSYS,
        signal.SIGXCPU,
    }
)
_OUT_OF_MEMORY = 12  # exit status of a fork whose MemoryError nobody caught
# A batch is blamed after so many deaths in fresh processes, given up after so many kills in a row.
MAX_CRASHES = 3
MAX_KILLS = 30


class ChildDiedError(RuntimeError):
    """A child ended in the middle of an answer: a crash, a limit, or the operating system.

    `status` is that of `subprocess`: an exit status, or the negative number of a signal.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def from_outside(self) -> bool:
        """Whether it was ended by a signal that neither a fault nor one of our limits sends."""
        return self.status is not None and self.status < 0 and -self.status not in _OWN_SIGNALS

    @property
    def over_cpu_limit(self) -> bool:
        """Whether its limit of CPU time ended it."""
        return self.status == -signal.SIGXCPU


class ChildError(RuntimeError):
    """A child reported an exception; the message is its traceback."""


class KilledError(RuntimeError):
    """Children were repeatedly killed from outside; nothing is known about the rows."""


def map_batch(task: str, recipe: dict[str, Any], batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Send `batch` to a child that runs `task` under `recipe`; yields the batches it answers.

    The child is held for the whole answer and no longer, so that a task that waits for input does
    not keep a core from another task. Raises `ChildDiedError` or `ChildError`.
    """
    key = json.dumps([task in CONFINED, recipe], sort_keys=True)
    with _slots:
        child = _take(key) or Child(recipe)
        try:
            yield from child.call(task, batch)
        except ChildDiedError:
            if child.is_running:  # its fork died
                _give(key, child)
            else:
                child.stop()
            raise
        except BaseException:
            child.stop()
            raise
        _give(key, child)


def map_rows(task: str, recipe: dict[str, Any], batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    """All answers to `batch`; it is sent again if a child died.

    Raises `KilledError` if all children were killed from outside, and `ChildError`, which names the
    row, if a row ends every child that reads it.
    """
    answers = _try_rows(task, recipe, batch)
    if isinstance(answers, list):
        return answers
    death, suspects = answers, batch
    while suspects.num_rows > 1:
        half = suspects.num_rows // 2
        first, second = suspects.slice(0, half), suspects.slice(half)
        suspects = second if isinstance(_try_rows(task, recipe, first), list) else first
    raise ChildError(
        f"{task}: {MAX_CRASHES} child processes in a row ended with {describe(death)} on the row "
        f"with {_row_name(suspects)}; all other rows are unharmed"
    )


def _try_rows(
    task: str, recipe: dict[str, Any], batch: pa.RecordBatch
) -> list[pa.RecordBatch] | ChildDiedError:
    """The answers, or the last death if the batch ended every child that read it."""
    killed = crashed = 0
    while True:
        try:
            return list(map_batch(task, recipe, batch))
        except ChildDiedError as death:
            if death.from_outside:
                killed += 1
                pause_after_kill(killed, death, f"{task}: {batch.num_rows} rows")
            else:
                crashed += 1
                if crashed == MAX_CRASHES or death.over_cpu_limit:
                    return death


def pause_after_kill(killed: int, death: ChildDiedError, where: str) -> None:
    """Wait before the next try, longer each time; raises `KilledError` after `MAX_KILLS`."""
    if killed >= MAX_KILLS:
        raise KilledError(
            f"{where}: {killed} child processes in a row were ended from outside by "
            f"{describe(death)}. No row was blamed; the same command resumes. The kernel sends "
            "SIGKILL when memory runs out: run on fewer cores, or lower extract.max_memory_mb"
        )
    time.sleep(min(1.0, 0.05 * killed))


def describe(death: ChildDiedError) -> str:
    """How a child ended, e.g. `SIGKILL` or `status 1`."""
    if death.status is not None and death.status < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-death.status).name
    return f"status {death.status}"


def _row_name(row: pa.RecordBatch) -> str:
    names = [name for name in ("id", "url", "node", "a", "b") if name in row.schema.names]
    return ", ".join(f"{name} {row[name][0].as_py()!r}" for name in names) or "no name"


class Child:
    """One child process; `call` sends it a batch and yields the batches of its answer."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "corpus.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._answers: BinaryIO = self._process.stdout  # type: ignore[assignment]
        self._is_ready = False
        _running.add(self)
        self._write(b"J", json.dumps(recipe).encode())

    @property
    def is_running(self) -> bool:
        """Whether the process can take another request."""
        return self._process.poll() is None

    def call(self, task: str, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Yield what `task` answers to `batch`; raises `ChildDiedError` or `ChildError`."""
        self._write(b"T", task.encode())
        self._write(b"B", _serialise(batch))
        while True:
            frame = _read_frame(self._answers)
            if frame is None:
                self._raise_death(self._process.wait())
            kind, body = frame
            if kind == b"E":
                return
            if kind == b"X":
                raise ChildError(body.decode())
            if kind == b"D":
                self._raise_death(int(body))
            if kind == b"R":
                self._is_ready = True
            else:
                yield _deserialise(body)

    def stop(self) -> None:
        """End the process and its fork, whatever they are doing."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:  # e.g. stopped by a debugger
            self._process.kill()
            self._process.wait()
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(BrokenPipeError):  # unsent bytes of a dead child
                pipe.close()
        _running.discard(self)

    def _write(self, kind: bytes, body: bytes) -> None:
        try:
            _write_frame(self._requests, kind, body)
        except BrokenPipeError:
            self._raise_death(self._process.wait())

    def _raise_death(self, status: int) -> NoReturn:
        death = ChildDiedError(f"child process ended with status {status}", status)
        if not self._is_ready and not death.from_outside:
            raise ChildError(f"a child process could not start: it ended with {describe(death)}")
        raise death


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_slots = threading.BoundedSemaphore(num_cores())
_lock = threading.Lock()
_idle: dict[str, list[Child]] = {}
_running: set[Child] = set()


def stop_idle() -> None:
    """End the children that wait for work."""
    with _lock:
        children = [child for waiting in _idle.values() for child in waiting]
        _idle.clear()
    for child in children:
        child.stop()


@atexit.register  # an interpreter that ends while children run prints a warning for each
def _stop_all() -> None:
    for child in list(_running):
        child.stop()


def _take(key: str) -> Child | None:
    """An idle child for `key`. If there is none, the idle children of other keys are ended."""
    with _lock:
        waiting = _idle.get(key, [])
        while waiting:
            child = waiting.pop()
            if child.is_running:
                return child
            child.stop()
    stop_idle()
    return None


def _give(key: str, child: Child) -> None:
    with _lock:
        _idle.setdefault(key, []).append(child)


def _environment() -> dict[str, str]:
    # One thread each: there is a child per core already. The package's folder goes on the path for
    # engines whose workers found it by other means than an installation.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    threads = dict.fromkeys(names, "1")
    folder = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    return {**os.environ, **threads, "PYTHONPATH": path}


def _serialise(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _deserialise(body: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(body) as reader:
        return reader.read_next_batch()


def _write_frame(pipe: BinaryIO, kind: bytes, body: bytes) -> None:
    pipe.write(_HEADER.pack(kind, len(body)))
    pipe.write(body)
    pipe.flush()


def _read_frame(pipe: BinaryIO) -> tuple[bytes, bytes] | None:
    header = pipe.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    kind, length = _HEADER.unpack(header)
    body = pipe.read(length)
    return (kind, body) if len(body) == length else None


def _private_stdout() -> BinaryIO:
    # Libraries that print must not write into the frames: their output goes to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


class _NoPandas(importlib.abc.MetaPathFinder):
    """Makes `import pandas` fail, which no task needs.

    pyarrow imports it, if it is there, to ask whether a list is one of its arrays: half a CPU
    second in every fork.
    """

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "pandas":
            raise ImportError("pandas is not imported in child processes")


def main() -> None:
    """Serve one recipe until the parent closes the pipe."""
    # Ctrl-C reaches the whole group of processes: the parent answers it and closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.meta_path.insert(0, _NoPandas())
    try:
        _serve_all(sys.stdin.buffer, _private_stdout())
    except BrokenPipeError:
        os._exit(0)  # the parent is gone; the interpreter would flush to it once more


def _serve_all(requests: BinaryIO, answers: BinaryIO) -> None:
    from corpus import worker_tasks

    opening = _read_frame(requests)
    if opening is None:
        return
    recipe = json.loads(opening[1])
    bind = functools.cache(lambda task: worker_tasks.bind(task, recipe))
    prepare = functools.cache(lambda task: worker_tasks.prepare(task, recipe))
    while (asked := _read_frame(requests)) and (frame := _read_frame(requests)):
        task, batch = asked[1].decode(), frame[1]
        try:
            prepare(task)
        except Exception:
            _write_frame(answers, b"X", traceback.format_exc().encode())
            continue
        _write_frame(answers, b"R", b"")
        if task in CONFINED:
            _serve_in_fork(bind, task, batch, answers)
        else:
            _serve(bind, task, batch, answers)


def _serve(bind: Callable[[str], Task], task: str, batch: bytes, answers: BinaryIO) -> None:
    """Write the answer to one request: its batches and an end, or an error."""
    try:
        for answer in bind(task)(_deserialise(batch)):
            _write_frame(answers, b"B", _serialise(answer))
        _write_frame(answers, b"E", b"")
    except (BrokenPipeError, MemoryError):
        raise
    except Exception:
        _write_frame(answers, b"X", traceback.format_exc().encode())


def _serve_in_fork(bind: Callable[[str], Task], task: str, batch: bytes, answers: BinaryIO) -> None:
    """Serve one request in a fork, and pass on the frames that came whole."""
    reading, writing = os.pipe()
    fork = 0

    def end_both(number: int, frame: FrameType | None) -> None:
        if fork:
            os.kill(fork, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, end_both)
    with warnings.catch_warnings():
        # Python 3.12 counts threads: there is one of the allocator's, which is safe to fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        fork = os.fork()
    if fork == 0:
        os.close(reading)
        for pipe in (0, answers.fileno()):  # only the child holds the parent's pipes
            os.dup2(os.open(os.devnull, os.O_RDWR), pipe)
        _run_fork(bind, task, batch, os.fdopen(writing, "wb"))
    os.close(writing)
    kind = b""
    try:
        with os.fdopen(reading, "rb") as forked:
            while frame := _read_frame(forked):
                kind = frame[0]
                _write_frame(answers, *frame)
    except BrokenPipeError:
        os.kill(fork, signal.SIGKILL)
        raise
    finally:
        _, ended = os.waitpid(fork, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status = os.waitstatus_to_exitcode(ended)
    if kind not in (b"E", b"X"):
        _write_frame(answers, b"D", str(status).encode())


def _run_fork(bind: Callable[[str], Task], task: str, batch: bytes, answers: BinaryIO) -> NoReturn:
    """Serve and end, past every handler and buffer that was copied from the child."""
    from corpus.text.limits import CpuTimeError

    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _serve(bind, task, batch, answers)
        status = 0
    except BrokenPipeError:
        status = 0
    except MemoryError:
        status = _OUT_OF_MEMORY
    except CpuTimeError:  # came between two statements that would have caught it
        signal.raise_signal(signal.SIGXCPU)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
