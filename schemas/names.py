"""Check names from flags, manifests and tasks before they become part of a path."""

from __future__ import annotations

import re
from typing import Any

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
