"""Child processes that do the heavy Python, so that what they read can only cost themselves.

Engines run Python functions in processes they need (Sail: threads of one process, under one
interpreter lock; Spark: workers whose death fails the task). So tasks hand Arrow batches to a
child over its standard input and read Arrow batches from its standard output. A child is bound to
one recipe and serves the tasks of `corpus.tasks`; those that confine their process (extract) have
children of their own. Idle ones are kept for the next batch, at most one a core works at a time,
and a child ends by itself when its parent does.

Frames on both pipes: one byte of kind, eight bytes of length (little-endian), the body.
`T` the task of the next batch, `B` an Arrow IPC stream with one batch, `E` the end of an answer,
`X` an error in words.
The cost of a frame is a copy through a pipe, about 1 ms for 1 MB.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

_HEADER = struct.Struct("<cQ")
# Tasks that bound the memory of their whole process.
CONFINED = ("extract",)


class ChildDiedError(RuntimeError):
    """A child ended in the middle of an answer: a crash, a limit, or the operating system."""


class ChildError(RuntimeError):
    """A child reported an exception; the message is its traceback."""


def map_batch(task: str, recipe: dict[str, Any], batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Send `batch` to a child that runs `task` under `recipe`; yields the batches it answers.

    The child is held for the whole answer and for nothing else, so that a task which waits for
    its own input never keeps a core from another.
    """
    key = json.dumps([task in CONFINED, recipe], sort_keys=True)
    with _slots:
        child = _take(key) or Child(recipe)
        try:
            yield from child.call(task, batch)
        except BaseException:
            child.stop()
            raise
        _give(key, child)


class Child:
    """One child process; `call` sends it a batch and yields the batches of its answer."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "corpus.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._answers: BinaryIO = self._process.stdout  # type: ignore[assignment]
        self._write(b"J", json.dumps(recipe).encode())

    def call(self, task: str, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Yield what `task` answers to `batch`; raises `ChildDiedError` or `ChildError`."""
        self._write(b"T", task.encode())
        self._write(b"B", _serialise(batch))
        while True:
            frame = _read_frame(self._answers)
            if frame is None:
                raise ChildDiedError(f"child process ended with status {self._process.wait()}")
            kind, body = frame
            if kind == b"E":
                return
            if kind == b"X":
                raise ChildError(body.decode())
            yield _deserialise(body)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(BrokenPipeError):  # unsent bytes of a dead child
                pipe.close()

    def _write(self, kind: bytes, body: bytes) -> None:
        try:
            _write_frame(self._requests, kind, body)
        except BrokenPipeError:
            status = self._process.wait()
            raise ChildDiedError(f"child process ended with status {status}") from None


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_slots = threading.BoundedSemaphore(num_cores())
_lock = threading.Lock()
_idle: dict[str, list[Child]] = {}


def stop_idle() -> None:
    """End the children that wait for work."""
    with _lock:
        children = [child for waiting in _idle.values() for child in waiting]
        _idle.clear()
    for child in children:
        child.stop()


atexit.register(stop_idle)  # an interpreter that ends with children running warns of each


def _take(key: str) -> Child | None:
    """An idle child for `key`; where there is none, those for others end: their work is over."""
    with _lock:
        waiting = _idle.get(key)
        if waiting:
            return waiting.pop()
    stop_idle()
    return None


def _give(key: str, child: Child) -> None:
    with _lock:
        _idle.setdefault(key, []).append(child)


def _environment() -> dict[str, str]:
    # One thread each: there is a child a core already. The package's folder goes on the path for
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


def main() -> None:
    """Serve one recipe until the parent closes the pipe."""
    from corpus import tasks

    requests, answers = sys.stdin.buffer, _private_stdout()
    opening = _read_frame(requests)
    if opening is None:
        return
    recipe = json.loads(opening[1])
    bind = functools.cache(lambda task: tasks.bind(task, recipe))
    while (asked := _read_frame(requests)) and (frame := _read_frame(requests)):
        try:
            serve = bind(asked[1].decode())
            for batch in serve(_deserialise(frame[1])):
                _write_frame(answers, b"B", _serialise(batch))
            _write_frame(answers, b"E", b"")
        except Exception:
            _write_frame(answers, b"X", traceback.format_exc().encode())


if __name__ == "__main__":
    main()
