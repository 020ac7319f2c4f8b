"""Write files that are complete or absent; read JSON, and name the file when it is invalid."""

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
    """A JSON object from a file; `UserError` names the file if it is missing or invalid."""
    try:
        values = json_text.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: torn or missing, not readable JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object")
    return values


def file_in(folder: Path, name: Any, source: Path) -> Path:
    """`folder / name`, for a name that was read from the file `source`.

    `UserError` unless the name is a single plain path component and no symbolic link, so that a
    name in a file cannot lead out of its folder.
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
    """Write a JSON object atomically: a reader sees the old file or the new one."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_text(values), encoding="utf-8")


def to_text(values: dict[str, Any]) -> str:
    """JSON with sorted keys, so that equal values have equal bytes."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def fault(folder: Path, error: Exception) -> str:
    """Why writing to `folder` failed: the error, the file, and the free bytes of the disk."""
    if not isinstance(error, OSError):  # safetensors quotes the system's message
        reason = str(error)
    elif error.filename is None:
        reason = error.strerror or str(error)
    else:
        reason = f"{error.filename}: {error.strerror}"
    disk = next((p for p in [folder.absolute(), *folder.absolute().parents] if p.is_mount()), None)
    if disk is None:
        return reason
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    return f"{reason}; the disk at {disk} has {free:,} bytes free"


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
