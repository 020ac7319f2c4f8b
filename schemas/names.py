"""Check names from flags, manifests and tasks before they become part of a path."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.errors import UserError

MAX_BYTES = 255
_PLAIN = re.compile(r"[^/\\\x00-\x1f\x7f]+")


def plain_component(name: Any) -> str:
    """Return `name` if it is a plain file name on every system.

    Raises `ValueError` if it is not a string, is empty, `.` or `..`, has a separator or a control
    character, or is too long: a path made from it could lead out of its folder.
    """
    if not isinstance(name, str) or not _PLAIN.fullmatch(name) or name in (".", ".."):
        raise ValueError(f"{name!r}: must be one plain file name, without a folder")
    if len(name.encode("utf-8", "surrogateescape")) > MAX_BYTES:
        raise ValueError(f"{name[:40]!r}...: must be a file name of at most {MAX_BYTES} bytes")
    return name


def matching_files(flag: str, patterns: Iterable[str], kinds: tuple[str, ...]) -> list[Path]:
    """The files that paths or globs name, in order; all must end with one of `kinds`.

    Raises `UserError` naming the flag and what is missing, a folder or of another kind.
    """
    files = []
    for pattern in patterns:
        is_one = Path(pattern).exists()
        found = [pattern] if is_one else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not found:
            problem = "no file matches" if glob.has_magic(pattern) else "no such file"
            raise UserError(f"{flag} {pattern}: {problem}")
        for path in map(Path, found):
            if path.is_dir():
                raise UserError(f"{flag} {path}: is a folder; name files, e.g. {path}/*.jsonl")
            if not path.name.endswith(kinds):
                endings = ", ".join(f"*{kind}" for kind in kinds)
                raise UserError(f"{flag} {path}: must be one of {endings}")
            files.append(path)
    return files
