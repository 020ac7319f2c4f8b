"""Batches as a pure function of the manifest, the settings and the step.

Shards hold documents that are already shuffled globally, so a split is one long stream: its row
groups in manifest order. The stream is cut into windows of `seq_len` + 1 tokens that overlap by
one (inputs are all but the last, targets all but the first); window w starts at w * seq_len. Step
s, row r takes window s * batch_size + r, and starts over when the stream ends. Any rank can start
at any step: cumulative counts in the manifest find the row group, and few are held at a time, so
memory does not grow with the corpus. A row group's values buffer is read as it lies: no Python
object a token or row.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.datasets import SHARD_FORMAT
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from schemas.tokenizer import Tokenizer

CACHED_ROW_GROUPS = 2  # a batch spans one end of a row group at most times


@dataclass(frozen=True)
class Shards:
    """A folder of shards that fits together: manifest, tokenizer and the two splits."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer
    train: TokenStream
    validation: TokenStream

    @property
    def content_hash(self) -> str:
        """What the shards hold, as their writer named it: equal hash, equal batches."""
        return str(self.manifest.extra["content_hash"])


class TokenStream:
    """One split's tokens in order; `read` gives any stretch of them as int32."""

    def __init__(self, folder: Path, files: list[DataFile], vocab_size: int) -> None:
        self.folder, self.files, self.vocab_size = folder, files, vocab_size
        sizes = [group["tokens"] for file in files for group in file.extra["row_groups"]]
        self._groups = [
            (i, j) for i, file in enumerate(files) for j in range(len(file.extra["row_groups"]))
        ]
        self._ends = np.cumsum(np.array(sizes, dtype=np.int64))
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._checked: set[str] = set()
        self._open: tuple[str, pq.ParquetFile] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens `start` .. `start` + `count` - 1 as int32; raises `UserError` on a bad shard."""
        assert 0 <= start <= start + count <= len(self), (start, count, len(self))
        pieces: list[np.ndarray] = []
        group = int(np.searchsorted(self._ends, start, side="right"))
        while count > 0:
            tokens = self._row_group(group)
            offset = start - (int(self._ends[group]) - len(tokens))
            pieces.append(tokens[offset : offset + count])
            start, count = start + len(pieces[-1]), count - len(pieces[-1])
            group += 1
        return np.concatenate(pieces) if pieces else np.empty(0, np.int32)

    def _row_group(self, group: int) -> np.ndarray:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        if len(self._cache) >= CACHED_ROW_GROUPS:
            self._cache.popitem(last=False)
        file_index, index = self._groups[group]
        self._cache[group] = self._load(self.files[file_index], index)
        return self._cache[group]

    def _load(self, file: DataFile, index: int) -> np.ndarray:
        path = self.folder / file.name
        try:
            column = self._parquet(file).read_row_group(index, columns=["tokens"]).column("tokens")
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{path}: row group {index} cannot be read: {error}") from None
        values = [_values(chunk).to_numpy(zero_copy_only=True) for chunk in column.chunks]
        tokens = np.concatenate(values) if values else np.empty(0, np.int32)
        self._check_tokens(path, index, file.extra["row_groups"][index]["tokens"], tokens)
        return tokens

    def _check_tokens(self, path: Path, index: int, expected: int, tokens: np.ndarray) -> None:
        if tokens.dtype != np.int32:
            raise UserError(f"{path}: tokens are {tokens.dtype}, expected int32")
        if len(tokens) != expected:
            raise UserError(
                f"{path}: row group {index} has {len(tokens)} tokens, the manifest says {expected}"
            )
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise UserError(
                f"{path}: row group {index} has ids {tokens.min()} to {tokens.max()}, expected 0 "
                f"to {self.vocab_size - 1}"
            )

    def _parquet(self, file: DataFile) -> pq.ParquetFile:
        """The file, opened and checked; one is open at a time."""
        if self._open is not None and self._open[0] == file.name:
            return self._open[1]
        handle = open_checked(self.folder / file.name, file, file.name not in self._checked)
        self._checked.add(file.name)
        parquet = pq.ParquetFile(handle)
        self._open = (file.name, parquet)
        return parquet


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
        streams = {
            split: TokenStream(folder, _files(manifest, split), tokenizer.padded_vocab_size)
            for split in ("train", "validation")
        }
        manifest.extra["content_hash"].encode()
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest of shards: {error!r}") from None
    for file in manifest.files:
        open_checked(folder / file.name, file, check_hash=False).close()
    return Shards(folder, manifest, tokenizer, streams["train"], streams["validation"])


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


def num_windows(stream: TokenStream, seq_len: int) -> int:
    """Whole windows in the stream; `UserError` where there is none."""
    count = (len(stream) - 1) // seq_len
    if count < 1:
        raise UserError(
            f"{stream.folder}: {len(stream)} tokens to train on, data.seq_len = {seq_len} needs at "
            f"least {seq_len + 1}"
        )
    return count


def train_batch(
    stream: TokenStream, seq_len: int, batch_size: int, step: int, rows: range | None = None
) -> np.ndarray:
    """The `rows` (default: all) of global batch `step`, rows x (`seq_len` + 1), int64."""
    total = num_windows(stream, seq_len)
    windows = [(step * batch_size + row) % total for row in rows or range(batch_size)]
    return np.stack([stream.read(w * seq_len, seq_len + 1) for w in windows]).astype(np.int64)


def rank_rows(batch_size: int, rank: int, world_size: int) -> range:
    """The rows of every global batch that belong to `rank`: an equal, contiguous share."""
    if batch_size % world_size:
        raise UserError(
            f"data.batch_size = {batch_size}: must be a multiple of the {world_size} processes"
        )
    share = batch_size // world_size
    return range(rank * share, (rank + 1) * share)


def _values(rows: pa.Array[Any]) -> pa.Array[Any]:
    """The one array that all rows of a list column lie in."""
    return cast("pa.ListArray[Any]", rows).flatten()
