"""Read the texts of a folder, whatever common form they are in."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from schemas import json_text
from schemas.errors import UserError

_JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_KINDS = (".txt", *_JSON_LINES, ".parquet")


def read_texts(folder: Path) -> Iterator[str]:
    """Yield the texts of all files under `folder`, by the order of their names.

    A *.txt file is one text; *.jsonl (also .gz, .zst) and *.parquet hold them in `text`. Files of
    other kinds are passed over. Raises `UserError` naming what is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.name.endswith(_KINDS))
    if not paths:
        raise UserError(f"{folder}: holds no {', '.join('*' + kind for kind in _KINDS)}")
    for path in paths:
        try:
            yield from _read_file(path)
        except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException) as error:
            raise UserError(f"{path}: cannot be read: {error}") from None
        except zstandard.ZstdError as error:
            raise UserError(f"{path}: cannot be read: {error}") from None


def _read_file(path: Path) -> Iterator[str]:
    if path.name.endswith(_JSON_LINES):
        return _read_json_lines(path)
    return _read_parquet(path) if path.suffix == ".parquet" else iter([path.read_text("utf-8")])


def _read_json_lines(path: Path) -> Iterator[str]:
    with _open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = json_text.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise UserError(f"{path}:{number}: must be a JSON object with a string 'text'")
            yield text


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".zst":
        return io.TextIOWrapper(zstandard.open(path, "rb"), encoding="utf-8")
    return open(path, encoding="utf-8")


def _read_parquet(path: Path) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        if "text" not in file.schema_arrow.names:
            raise UserError(f"{path}: must have a column 'text'")
        for batch in file.iter_batches(batch_size=256, columns=["text"]):
            yield from (text for text in batch["text"].to_pylist() if text is not None)
