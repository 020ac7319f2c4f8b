"""Run a command and measure its whole process tree: wall time, CPU time, memory of each process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_SAMPLE_SECONDS = 0.5
_MARKER = ".gristmill-benchmark"


def work_folder(stack: contextlib.ExitStack, named: str | None) -> Path:
    """The folder `--work` names, or a temporary one that goes with `stack`.

    Benchmarks delete what they wrote before, so a folder that holds other things ends the program.
    """
    if named is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder = Path(named)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _MARKER).is_file():
        if any(folder.iterdir()):
            raise SystemExit(f"--work {folder}: holds files of others; use a new or empty folder")
        (folder / _MARKER).touch()
    return folder


@dataclass
class Run:
    """What a command took; memory in bytes, the peak of each process's samples."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    pss: dict[int, int] = field(default_factory=dict)  # process -> proportional set size
    rss: dict[int, int] = field(default_factory=dict)
    commands: dict[int, str] = field(default_factory=dict)
    root: int = 0

    def peak(self, sizes: dict[int, int], *, main: bool) -> int:
        """The largest process: the command's own (`main`), or any other that runs Python."""
        return max(
            (
                size
                for pid, size in sizes.items()
                if (pid == self.root) == main and (main or _is_python(self.commands[pid]))
            ),
            default=0,
        )


def _is_python(command: str) -> bool:
    program = command.split(" ", 1)[0]
    return Path(program).name.startswith("python")


def measured(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Run:
    """Run `command` to its end, output to `log`; raises `RuntimeError` where it fails.

    CPU time counts every process below it: what loses its parent becomes a child of this process
    and is waited for, too. Linux only.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    run = Run()
    before, started = _children_cpu(), time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        run.root = process.pid
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(run, ended), daemon=True)
        sampler.start()
        status = process.wait()
        run.wall_seconds = time.monotonic() - started
        ended.set()
        sampler.join()
    _reap()
    run.cpu_seconds = _children_cpu() - before
    if status:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"{' '.join(command)}\nended with status {status}:\n{tail}")
    return run


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _reap(patience_seconds: float = 20.0) -> None:
    """Wait for what the command left behind, as for the helpers of an engine that go last."""
    end = time.monotonic() + patience_seconds
    while time.monotonic() < end:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
        except ChildProcessError:
            return


def _sample(run: Run, ended: threading.Event) -> None:
    while not ended.wait(_SAMPLE_SECONDS):
        for pid in _tree(run.root):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                run.commands[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # it has ended
            for sizes, name in ((run.pss, "Pss:"), (run.rss, "Rss:")):
                line = next((x for x in rollup.splitlines() if x.startswith(name)), "x 0 kB")
                sizes[pid] = max(sizes.get(pid, 0), int(line.split()[1]) << 10)


def _tree(root: int) -> list[int]:
    """`root` and all processes below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found
