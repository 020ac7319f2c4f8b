"""A folder of shards, opened: its manifest and tokenizer, and that all of it fits together.

What is opened here is only looked at from outside: sizes, tokenizer, counts. Tokens are read, and
hashed on their first read, by `trainer.row_groups`. Every value of the manifest that is used later
has the type and the range that is written here, and every name lies in the folder.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.datasets import SHARD_FORMAT
from schemas.errors import UserError
from schemas.manifest import MANIFEST_FILE, DataFile, Manifest
from schemas.shard_hash import shards_content_hash
from schemas.tokenizer import Tokenizer
from trainer.durable import beside

MAX_TOKENS = 2**31 - 1  # of a row group: the loader counts them in 32 bits
SPLITS = ("train", "validation")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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

    @property
    def unlisted(self) -> list[str]:
        """Names of Parquet files in the folder that are none of its shards, and are never read."""
        listed = {file.name for file in self.manifest.files}
        return sorted(p.name for p in self.folder.glob("[!.]*.parquet") if p.name not in listed)


def open_shards(folder: str | Path, vocab_size: int = 0) -> Shards:
    """Open the shards in `folder`; `UserError` names what is missing, altered or does not fit.

    Sizes are checked now, a file's hash when it is first read. `vocab_size` (0: any) is the padded
    vocabulary that the recipe expects.
    """
    folder = Path(folder)
    manifest = _shard_manifest(folder)
    path = folder / MANIFEST_FILE
    try:
        _check_values(path, manifest)
        tokenizer = _checked_tokenizer(folder, manifest.extra["tokenizer"], vocab_size)
        for split in SPLITS:
            _check_split(path, manifest, split, manifest.extra["tokens"][split])
        _check_content_hash(path, manifest)
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest of shards: {error!r}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a manifest of shards: {error}") from None
    for file in manifest.files:
        open_checked(folder / file.name, file, check_hash=False).close()
    return Shards(folder, manifest, tokenizer)


def _shard_manifest(folder: Path) -> Manifest:
    manifest = manifests.read(folder)
    if manifest is None:
        inside = folder / "shards"
        hint = f"; did you mean {inside}?" if (inside / MANIFEST_FILE).exists() else ""
        raise UserError(f"{folder}: no shards here (no {MANIFEST_FILE}){hint}")
    if manifest.dataset != "shards":
        raise UserError(f"{folder}: holds the dataset '{manifest.dataset}', expected 'shards'")
    found = manifest.extra.get("format", 1)
    if found != SHARD_FORMAT:
        raise UserError(
            f"{folder}: shards of format {found}, this version reads format {SHARD_FORMAT}; "
            "gristmill shard makes them anew"
        )
    return manifest


def _check_values(path: Path, manifest: Manifest) -> None:
    """Types and ranges of all that is used of a manifest.

    `ValueError` says what is wrong; what is missing, or no object, gives the error of its access.
    """
    extra, folder = manifest.extra, path.parent
    _whole({"context": 0, **manifest.settings.get("conversations", {})}, "context")
    if extra["kind"] not in ("documents", "conversations"):
        raise ValueError(f"kind = {extra['kind']!r:.80}: must be 'documents' or 'conversations'")
    for name in ("file", "hash", "name"):
        _text(extra["tokenizer"], name)
    for split in SPLITS:
        _whole(extra["tokens"], split)
    for file in manifest.files:
        _check_file_values(path, file)
    files = [(f.extra["split"], f.extra["index"], f.name) for f in manifest.files]
    for what, distinct in (("index", {f[:2] for f in files}), ("name", {f[2] for f in files})):
        if len(distinct) < len(files):
            raise ValueError(f"files: two have the same {what}")
    for name in [extra["tokenizer"]["file"], *(file.name for file in manifest.files)]:
        beside(folder, name, path)


def _check_content_hash(path: Path, manifest: Manifest) -> None:
    extra = manifest.extra
    written, vocab_size = _text(extra, "content_hash"), _whole(extra["tokenizer"], "vocab_size")
    found = shards_content_hash(manifest.files, extra["tokenizer"]["hash"], vocab_size)
    if written != found:
        raise UserError(
            f"{path}: content hash {written[:12]}, its shards make {found[:12]}: altered"
        )


def _check_file_values(path: Path, file: DataFile) -> None:
    extra, groups = file.extra, file.extra["row_groups"]
    if extra["split"] not in SPLITS:
        raise ValueError(
            f"{file.name!r:.80}: split = {extra['split']!r:.80}: must be 'train' or 'validation'"
        )
    if not isinstance(groups, list):
        raise ValueError(f"{file.name!r:.80}: row_groups = {groups!r:.80}: must be a list")
    _whole(extra, "index")
    own = {"rows": file.rows, "bytes": file.bytes, "sha256": file.sha256}
    for values in (own, extra["lengths"], *groups):
        if not _SHA256.fullmatch(_text(values, "sha256")):
            raise ValueError(
                f"{file.name!r:.80}: sha256 = {values['sha256']!r:.80}: must be 64 hex digits"
            )
    for group in groups:
        _whole(group, "tokens", MAX_TOKENS)
        _whole(group, "documents", MAX_TOKENS)
    rows = sum(group["documents"] for group in groups)
    if _whole(own, "rows") != rows:
        raise ValueError(f"{file.name!r:.80}: rows = {file.rows}, its row groups have {rows}")
    _whole(own, "bytes")
    beside(path.parent, extra["lengths"]["name"], path)


def _whole(values: dict[str, Any], name: str, most: int = 2**62) -> int:
    value = values[name]
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} = {value!r:.80}: must be a whole number from 0 to {most}")
    return value


def _text(values: dict[str, Any], name: str) -> str:
    value = values[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r:.80}: must be a text")
    return value


def _checked_tokenizer(folder: Path, expected: dict[str, Any], vocab_size: int) -> Tokenizer:
    path = beside(folder, expected["file"], folder / MANIFEST_FILE)
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
