"""JSON that somebody else may have written: every fault of it is a `ValueError`.

The standard library's parser raises `RecursionError` on deep nesting, which is no `ValueError`.
Cost: that of `json.loads`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 30  # of a file: manifests and tokenizers have a few megabytes


def loads(text: str | bytes) -> Any:
    """The value of a JSON text; `ValueError` where it is none or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def load(path: str | Path) -> Any:
    """The value of a JSON file (UTF-8); `ValueError` as `loads`, or above `MAX_BYTES`."""
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, must be at most {MAX_BYTES:,}")
    return loads(Path(path).read_text(encoding="utf-8"))
