"""Files that are there whole or not at all, and JSON that says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from schemas import json_text
from schemas.errors import UserError
from schemas.manifest import atomic_path
from schemas.names import plain_component


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a run; `UserError` names it where it is none."""
    try:
        values = json_text.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: torn or missing, not readable JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object")
    return values


def beside(folder: Path, name: Any, source: Path) -> Path:
    """`folder / name`, where `source` gave the name of a file that it lies with.

    `UserError` unless the name is one plain component and no symbolic link: nothing that a file
    says leads out of its folder.
    """
    try:
        path = folder / plain_component(name)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    if path.is_symlink():
        raise UserError(
            f"{path}: a symbolic link, not followed: put the file itself there ({source} names it)"
        )
    return path


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Put a JSON object in place at once: a reader sees the old file or the new one."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_text(values), encoding="utf-8")


def to_text(values: dict[str, Any]) -> str:
    """The JSON text of a run's files: sorted, so that equal values have equal bytes."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def fault(folder: Path, error: Exception) -> str:
    """Why something could not be written to `folder`: what, which file, how full which disk is."""
    disk = next((p for p in [folder.absolute(), *folder.absolute().parents] if p.is_mount()), None)
    if not isinstance(error, OSError):  # safetensors puts the system's words into its own
        said = str(error)
    elif error.filename is None:
        said = error.strerror or str(error)
    else:
        said = f"{error.filename}: {error.strerror}"
    if disk is None:
        return said
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    return f"{said}; the disk at {disk} has {free:,} bytes free"


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
