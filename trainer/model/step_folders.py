"""Step folders of a run: which ones `latest` and `best` name, and whether their files are whole.

The files are described in `trainer.model.checkpoint`. Nothing here needs torch, which takes seconds
to import.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.tokenizer import TOKENIZER_FILE
from trainer.durable import file_in, read_json, sha256

LATEST, BEST = "latest", "best"
MODEL_FILE, OPTIMIZER_FILE = "model.safetensors", "optimizer.safetensors"
CONFIG_FILE, STATE_FILE = "config.json", "state.json"
FORMAT = 2
STEP_FOLDER = re.compile(r"step-(\d{6,})((?:-again)*)")


def pointed(run: Path, name: str) -> tuple[Path, dict[str, Any]] | None:
    """The step folder that RUN/`name` names and its checked state; None without such a file."""
    if not (run / name).exists():
        return None
    folder, digest = follow(run, name)
    return folder, checked_state(folder, digest)


def follow(run: Path, name: str) -> tuple[Path, str]:
    """The folder that RUN/`name` names, and the SHA-256 of its state.json."""
    pointer = read_json(run / name)
    folder, digest = pointer.get("folder"), pointer.get("state_sha256")
    named = isinstance(folder, str) and STEP_FOLDER.fullmatch(folder)
    if not named or not isinstance(digest, str):
        raise UserError(f"{run / name}: not a pointer to a checkpoint: {str(pointer)[:200]}")
    return file_in(run, folder, run / name), digest


def checked_state(folder: Path, state_sha256: str | None) -> dict[str, Any]:
    """Read state.json, and check all files but the optimizer's against it."""
    path = folder / STATE_FILE
    state = read_json(path)
    if state_sha256 is not None and sha256(path) != state_sha256:
        raise UserError(f"{path}: altered: the run's pointer has another SHA-256")
    files, step = state.get("files"), state.get("step")
    if state.get("format") != FORMAT or not isinstance(files, dict):
        raise UserError(
            f"{path}: checkpoint of format {state.get('format')!r}, this version reads format "
            f"{FORMAT}"
        )
    if type(step) is not int or step < 0 or not all(isinstance(f, dict) for f in files.values()):
        raise UserError(f"{path}: not the state of a checkpoint: step = {step!r:.80}")
    for name in (MODEL_FILE, CONFIG_FILE, TOKENIZER_FILE):
        check_file(folder / name, files.get(name, {}))
    return state


def check_file(path: Path, expected: dict[str, Any]) -> None:
    """`UserError` unless a file has the size and SHA-256 that state.json lists."""
    if not path.exists():
        raise UserError(f"{path}: missing from the checkpoint")
    if path.stat().st_size != expected.get("bytes"):
        raise UserError(
            f"{path}: torn: {path.stat().st_size} bytes, expected {expected.get('bytes')}"
        )
    if sha256(path) != expected.get("sha256"):
        raise UserError(f"{path}: altered: {STATE_FILE} has another SHA-256")
