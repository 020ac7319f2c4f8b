"""Read untrusted JSON: every fault is a `ValueError`.

The standard library's parser raises `RecursionError` on deep nesting.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 30  # of a file: manifests and tokenizers have a few megabytes


def loads(text: str | bytes) -> Any:
    """The value of a JSON text; raises `ValueError` if it is invalid or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def load(path: str | Path) -> Any:
    """The value of a JSON file (UTF-8); raises `ValueError` like `loads`, and above `MAX_BYTES`."""
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, must be at most {MAX_BYTES:,}")
    return loads(Path(path).read_text(encoding="utf-8"))
