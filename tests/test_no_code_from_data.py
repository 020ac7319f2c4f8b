"""No file runs code or leads out of its folder: attackers' files, read by our own entry points.

The files are in attack_files: pickles and torch files under every name that is read, object arrays,
Arrow's extension types, archives with links, safetensors headers, model folders that bring code,
templates, manifests and pointers that name what lies outside. They are read in a process of its own
under an audit hook, and in the longer form under strace, which also sees what C++ and Rust open.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "attack_files.py"
REFUSED = ("UserError: ", "RowError: ")
# What holds nothing to refuse: texts that only look like code, links beside a good list.
HARMLESS = re.compile(
    r"recipe: (?!tokenizer|a pickle)|url list: (a |an |text 2)|chats: |evaluation set: rows|"
    r"texts: an extension type|root 0: |hugging face: code of its own|optimizer: python|"
    r"gristmill |trainer |shards: extension types"
)


def attack(folder: Path, *before: str) -> dict[str, Any]:
    """Run the script; what it printed, once it is known that nothing came of the attacks."""
    command = [*before, sys.executable, str(SCRIPT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not found["seen"], "\n".join(found["seen"])
    assert found["outside"] == ["secret", "secret.safetensors", "step-000001"]
    assert not (folder / "outside" / "canary").exists()
    assert "a secret" not in json.dumps(found["became"]) + done.stderr
    for name, became in found["became"].items():
        refused = became.startswith(REFUSED)
        assert refused or (became == "read" and HARMLESS.match(name)), f"{name}: {became}"
    return found


def test_no_file_runs_code_or_reaches_outside(
    tmp_path: Path, figures: Callable[[str, str], None]
) -> None:
    became = attack(tmp_path)["became"]
    refused = sum(one.startswith(REFUSED) for one in became.values())
    assert len(became) > 150
    figures("no code from data",
            f"{len(became)} hostile files and commands ({refused} refused, the others harmless): "
            "0 executed, 0 opened outside, by an audit hook")  # fmt: skip


CALL = re.compile(r'(?:^|\s)(\w+)\((?:AT_FDCWD, |\d+<[^>]*>, )?"((?:[^"\\]|\\.)*)"(.*)$')
CALLS = (
    "open,openat,openat2,creat,execve,execveat,connect,bind,unlink,unlinkat,rename,renameat,"
    "renameat2,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,chmod,fchmodat,truncate"
)
WRITES = ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND")
CHANGES = ("unlink", "rename", "mkdir", "rmdir", "link", "symlink", "chmod", "truncate", "mknod")


def wrong_calls(trace: list[str], folder: Path) -> Iterator[str]:
    """The system calls that run something, connect, touch outside, or write anywhere else."""
    inside, outside = f"{folder}/in", f"{folder}/outside"
    for line in trace:
        call = CALL.search(line)
        if re.search(r"\b(execve|execveat|connect|bind)\(", line):
            yield line
        elif call:
            name, path, rest = call.groups()
            at = str((folder / "in" / path).resolve())
            changes = name.startswith(CHANGES) or any(flag in rest for flag in WRITES)
            allowed = at.startswith(inside) or at == "/dev/null"
            opens = name.startswith(("open", "creat"))
            if (opens and at.startswith(outside)) or (changes and not allowed):
                yield line


@pytest.mark.soak
def test_no_library_opens_anything_outside(
    tmp_path: Path, figures: Callable[[str, str], None]
) -> None:
    """Every system call on files and sockets, of all threads, between the two marks."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace, which is not on this machine")
    folder, log = tmp_path.resolve(), tmp_path / "trace"
    options = ("-f", "--seccomp-bpf", "-qq", "-s", "4096", "-o", str(log))
    attack(folder, strace, *options, "-e", f"trace={CALLS}")
    lines = log.read_text(errors="replace").splitlines()
    begin = next(i for i, line in enumerate(lines) if '/in/armed"' in line or '"armed"' in line)
    end = next(i for i, line in enumerate(lines) if '/in/disarmed"' in line)
    assert end > begin + 100
    wrong = list(wrong_calls(lines[begin + 1 : end], folder))
    assert not wrong, "\n".join(wrong[:20])
    assert list(wrong_calls(lines[end:], folder)), "the planted calls are seen"
    figures("no code from data",
            f"{end - begin:,} system calls on files and sockets: 0 programs, 0 connections, "
            "0 files outside, by strace")  # fmt: skip
