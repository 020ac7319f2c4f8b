"""A folder of shards, opened: its manifest and tokenizer, and that all of it fits together.

What is opened here is only looked at from outside: sizes, tokenizer, counts. Tokens are read, and
hashed on their first read, by `trainer.row_groups`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.datasets import SHARD_FORMAT
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from schemas.tokenizer import Tokenizer


@dataclass(frozen=True)
class Shards:
    """A folder of shards that fits together: its manifest and its tokenizer."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @property
    def content_hash(self) -> str:
        """What the shards hold, as their writer named it: equal hash, equal batches."""
        return str(self.manifest.extra["content_hash"])


def open_shards(folder: str | Path, vocab_size: int = 0) -> Shards:
    """Open the shards in `folder`; `UserError` names what is missing, altered or does not fit.

    Sizes are checked now, a file's hash when it is first read. `vocab_size` (0: any) is the padded
    vocabulary that the recipe expects.
    """
    folder = Path(folder)
    manifest = _shard_manifest(folder)
    path = folder / manifests.MANIFEST_FILE
    try:
        tokenizer = _checked_tokenizer(folder, manifest.extra["tokenizer"], vocab_size)
        for split, tokens in manifest.extra["tokens"].items():
            _check_split(path, manifest, split, tokens)
        manifest.extra["content_hash"].encode()
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest of shards: {error!r}") from None
    for file in manifest.files:
        open_checked(folder / file.name, file, check_hash=False).close()
    return Shards(folder, manifest, tokenizer)


def _shard_manifest(folder: Path) -> Manifest:
    manifest = manifests.read(folder)
    if manifest is None:
        inside = folder / "shards"
        hint = f"; did you mean {inside}?" if (inside / manifests.MANIFEST_FILE).exists() else ""
        raise UserError(f"{folder}: no shards here (no {manifests.MANIFEST_FILE}){hint}")
    if manifest.dataset != "shards":
        raise UserError(f"{folder}: holds the dataset '{manifest.dataset}', expected 'shards'")
    found = manifest.extra.get("format", 1)
    if found != SHARD_FORMAT:
        raise UserError(
            f"{folder}: shards of format {found}, this version reads format {SHARD_FORMAT}; "
            "gristmill shard makes them anew"
        )
    return manifest


def _checked_tokenizer(folder: Path, expected: dict[str, Any], vocab_size: int) -> Tokenizer:
    path = folder / expected["file"]
    tokenizer = tokenizers.load(path)
    if tokenizer.hash != expected["hash"]:
        raise UserError(
            f"{path}: tokenizer hash {tokenizer.hash[:12]}, the shards were made with "
            f"{expected['hash'][:12]} ({expected['name']})"
        )
    if vocab_size and tokenizer.padded_vocab_size != vocab_size:
        raise UserError(
            f"{path}: padded vocabulary {tokenizer.padded_vocab_size}, the recipe expects "
            f"data.vocab_size = {vocab_size}"
        )
    return tokenizer


def _files(manifest: Manifest, split: str) -> list[DataFile]:
    return [file for file in manifest.files if file.extra["split"] == split]


def _check_split(path: Path, manifest: Manifest, split: str, expected: int) -> None:
    files = _files(manifest, split)
    found = sum(group["tokens"] for file in files for group in file.extra["row_groups"])
    if found != expected:
        raise UserError(f"{path}: split '{split}' says {expected} tokens, its files list {found}")
    if not found:
        raise UserError(f"{path}: split '{split}' has 0 tokens, expected at least one document")


def open_checked(path: Path, file: DataFile, check_hash: bool = True) -> pa.NativeFile:
    """Open a shard for reading; `UserError` names it where its size or SHA-256 is not the listed.

    The same open file is hashed and then read, so nothing can change in between by a rename.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing, the manifest lists it")
    handle = pa.OSFile(str(path), "rb")
    if handle.size() != file.bytes:
        raise UserError(
            f"{path}: {handle.size()} bytes, the manifest says {file.bytes}: torn or altered"
        )
    if check_hash:
        found = hashlib.file_digest(cast(BufferedReader, handle), "sha256").hexdigest()
        handle.seek(0)
        if found != file.sha256:
            expected = str(file.sha256)[:12]
            raise UserError(f"{path}: SHA-256 {found[:12]}, the manifest says {expected}: altered")
    return handle
