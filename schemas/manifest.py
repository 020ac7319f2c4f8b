"""Manifests: a dataset is what its manifest lists; nothing else in its folder counts.

The manifest is written last, by rename, so that readers never see part of a dataset. Its
fingerprint covers what the dataset was made from (settings and the fingerprints of its inputs), so
that a later run knows whether it is still valid. Paths, times and versions are not part of it.

Shards also have a content hash (docs/reference/format.md). Their writer stores it in the manifest,
readers compute it again from the listed files, and checkpoints name their shards by it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from schemas import config, json_text
from schemas.config import json_hash
from schemas.datasets import SHARD_FORMAT
from schemas.errors import UserError
from schemas.names import plain_component

FORMAT = 1
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset; `counts` are its rows by outcome if the stage has outcomes.

    Raises `ValueError` for a name that is not a plain file name, and for negative numbers.
    """

    name: str
    rows: int
    bytes: int
    sha256: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain_component(self.name)
        for number in (self.rows, self.bytes):
            if type(number) is not int or number < 0:
                raise ValueError(f"{self.name}: {number!r}: must be a number of rows or bytes")
        if not isinstance(self.sha256, str | None):
            raise ValueError(f"{self.name}: sha256 = {self.sha256!r}: must be a string")
        for table in (self.counts, self.extra):
            if not isinstance(table, dict):
                raise ValueError(f"{self.name}: {table!r}: must be an object")


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds and what it was made from.

    `settings`: the recipe's sections that shaped it. `inputs`: name -> fingerprint of each input.
    `counts`: totals of the stage. `extra`: what only this dataset has (shards: tokenizer, splits).
    `made`: engine, versions, times.
    """

    dataset: str
    recipe: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    files: tuple[DataFile, ...]
    counts: dict[str, int]
    extra: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """Rows in all files."""
        return sum(file.rows for file in self.files)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the dataset's name, settings and inputs; equal means still valid."""
        return fingerprint(self.dataset, self.settings, self.inputs)

    def paths(self, folder: str | Path) -> list[str]:
        """Absolute paths of the dataset's files."""
        return [str(Path(folder).absolute() / file.name) for file in self.files]


def fingerprint(dataset: str, settings: dict[str, Any], inputs: dict[str, str]) -> str:
    """The `Manifest.fingerprint` of a dataset made from these settings and inputs."""
    made_from = {"dataset": dataset, "settings": settings, "inputs": inputs, "format": FORMAT}
    return config.json_hash(made_from)


def write(folder: str | Path, manifest: Manifest) -> None:
    """Commit a dataset by putting its manifest in place atomically."""
    text = json.dumps(
        {**asdict(manifest), "fingerprint": manifest.fingerprint}, indent=1, sort_keys=True
    )
    with atomic_path(Path(folder) / MANIFEST_FILE) as path:
        path.write_text(text + "\n", encoding="utf-8")


def read(folder: str | Path) -> Manifest | None:
    """The manifest of the dataset in `folder`; None if none was committed."""
    path = Path(folder) / MANIFEST_FILE
    try:
        values = json_text.load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable manifest: {error}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else values
        raise UserError(f"{path}: manifest format {found!r}; this version reads format {FORMAT}")
    return _from_values(path, values)


def _from_values(path: Path, values: dict[str, Any]) -> Manifest:
    expected = values.pop("fingerprint", None)
    try:
        values["files"] = tuple(DataFile(**file) for file in values["files"])
        manifest = Manifest(**values)
        for name in ("settings", "inputs", "counts", "extra", "made"):
            if not isinstance(getattr(manifest, name), dict):
                raise ValueError(f"{name} = {getattr(manifest, name)!r}: must be an object")
        for name in _named_beside(manifest):
            plain_component(name)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a manifest of this version: {error}") from None
    if manifest.fingerprint != expected:
        raise UserError(f"{path}: altered: its fingerprint does not match what it lists")
    return manifest


def _named_beside(manifest: Manifest) -> Iterator[Any]:
    """Names of companion files in `extra`: lengths, tokenizer, rows of conversations."""
    if manifest.dataset != "shards":
        return
    entries = [(file.extra.get("lengths"), "name") for file in manifest.files]
    for entry, key in (("tokenizer", "file"), ("rejected", "name"), ("rows", "name")):
        entries.append((manifest.extra.get(entry), key))
    for values, key in entries:
        if isinstance(values, dict) and key in values:  # readers of shards check the others
            yield values[key]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` when the block ends without an error.

    The file is flushed to disk before the rename, so that a crash leaves the old or the new file.
    An `OSError` of the block names the file, even if a library left it out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def in_order(files: Iterable[DataFile]) -> tuple[DataFile, ...]:
    """Shards by split, then index: the order of the token stream."""
    return tuple(sorted(files, key=lambda file: (file.extra["split"], file.extra["index"])))


def shards_content_hash(files: Iterable[DataFile], tokenizer_hash: str, vocab_size: int) -> str:
    """SHA-256 (hex) of the token stream: shards by split and index, tokenizer, shard format."""
    return json_hash(
        {
            "format": SHARD_FORMAT,
            "shards": [[f.extra["split"], f.extra["index"], f.sha256] for f in in_order(files)],
            "tokenizer": tokenizer_hash,
            "vocab_size": vocab_size,
        }
    )
