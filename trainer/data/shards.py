"""Open a folder of token shards and read its row groups, checking everything against the manifest.

`open_shards` reads no tokens: it checks that every name in the manifest is a file of the folder,
and sizes, tokenizer, counts and content hash.

`RowGroups` reads row groups on demand. The first read in a process checks the number of tokens, the
SHA-256 over tokens and loss mask, that ids are within the vocabulary, and that document lengths are
those in the lengths file, which plans are built from; its SHA-256 is checked when it is opened. A
shard that changed since (by inode and times) is checked again. Few files stay open; memory depends
on the number of manifest entries, not of tokens.

All errors are `UserError` and name the file.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from schemas.manifest import (
    MANIFEST_FILE,
    SPLITS,
    DataFile,
    Manifest,
    Split,
    TokenizerEntry,
    shards_content_hash,
)
from schemas.tokenizer import Tokenizer
from trainer.data.packing import Int32s, UInt8s
from trainer.durable import file_in

OPEN_FILES = 32
PROVENANCE = ("id", "url", "file_path", "record_offset")
# What reading a damaged Parquet file raises.
UNREADABLE = (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError)
T = TypeVar("T")
_FileState = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Shards:
    """A folder of shards that passed its checks: its manifest and its tokenizer."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @property
    def content_hash(self) -> str:
        """The writer's hash of the content: equal hashes give equal batches."""
        return self.manifest.shards.content_hash

    @property
    def unlisted(self) -> list[str]:
        """Names of Parquet files in the folder that the manifest does not list; never read."""
        listed = {file.name for file in self.manifest.files}
        return sorted(p.name for p in self.folder.glob("[!.]*.parquet") if p.name not in listed)


def open_shards(folder: str | Path, vocab_size: int = 0) -> Shards:
    """Open the shards in `folder`; `UserError` names what is missing, altered or does not fit.

    Files' sizes are checked, not their hashes. `vocab_size` (0: any) is the padded vocabulary that
    the recipe expects.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    path, expected = folder / MANIFEST_FILE, manifest.shards.tokenizer
    try:
        _check_values(path, manifest)
        tokenizer = _load_tokenizer(folder, expected, vocab_size)
        for split in SPLITS:
            _check_split(path, manifest, split)
        _check_content_hash(path, manifest)
    except UserError:
        raise
    except (AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a manifest of shards: {error}") from None
    for file in manifest.files:
        open_checked(folder / file.name, file, check_hash=False).close()
    return Shards(folder, manifest, tokenizer)


def open_checked(path: Path, file: DataFile, check_hash: bool = True) -> pa.NativeFile:
    """Open a shard; `UserError` unless its size, and its SHA-256, are those in the manifest.

    The open file is hashed and then read, so that a rename in between changes nothing.
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


class RowGroups:
    """A split's row groups, numbered in the order of the manifest."""

    def __init__(self, shards: Shards, split: str, *, check_files: bool = False) -> None:
        """`check_files`: also hash each shard as a whole when it is opened."""
        self.folder, self.manifest = shards.folder, shards.manifest
        self.files = _files(self.manifest, split)
        self.vocab_size = shards.tokenizer.padded_vocab_size
        self.check_files = check_files
        groups = [(i, g) for i, f in enumerate(self.files) for g in f.shard.row_groups]
        counts = [(i, g.tokens, g.documents) for i, g in groups]
        numbers = np.array(counts, dtype=np.int64).reshape(-1, 3)
        self.masked = self.manifest.has_conversations
        self.lengths_hashes = [f.shard.lengths.sha256 for f in self.files]
        self._file_of, self.tokens, self.documents = np.ascontiguousarray(numbers.T)
        self._first = np.searchsorted(self._file_of, np.arange(len(self.files)))
        self._checked = np.zeros(len(numbers), dtype=np.bool_)
        self._checked_files: set[int] = set()
        self._states: dict[int, _FileState] = {}  # of each shard, taken before its checks
        self._open_parquet: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._open_lengths: OrderedDict[int, Int32s] = OrderedDict()

    def place(self, group: int) -> tuple[DataFile, int]:
        """The shard of a row group, and its number there."""
        index = int(self._file_of[group])
        return self.files[index], group - int(self._first[index])

    def lengths(self, group: int) -> Int32s:
        """Tokens of each document, int32 (documents,)."""
        index = int(self._file_of[group])
        before = int(self.documents[self._first[index] : group].sum())
        of_file = _cached(self._open_lengths, index, self._read_lengths)
        found = of_file[before : before + int(self.documents[group])]
        path = self._lengths_path(self.files[index])
        if len(found) and found.min() < 0:
            raise UserError(f"{path}: a document of {found.min()} tokens")
        if int(found.sum(dtype=np.int64)) != self.tokens[group]:
            raise UserError(
                f"{path}: row group {group - self._first[index]} adds up to {found.sum()} tokens, "
                f"the manifest says {self.tokens[group]}"
            )
        return found

    def read(self, group: int, tokens: Int32s, mask: UInt8s | None) -> None:
        """Read a row group's tokens, and its loss mask, into arrays of their size."""
        rows = self._read_column(group, "tokens", tokens)
        if mask is not None:
            self._read_column(group, "loss_mask", mask)
        if not self._checked[group]:
            self._check(group, tokens, mask, rows)
            self._checked[group] = True
        path = self.folder / self.place(group)[0].name
        if _file_state(path) != self._states[int(self._file_of[group])]:
            raise UserError(f"{path}: changed while it was read")

    def mask(self, group: int) -> UInt8s:
        """A row group's loss mask, uint8 (tokens,)."""
        tokens = np.empty(self.tokens[group], np.int32)
        mask = np.empty(len(tokens), np.uint8)
        self.read(group, tokens, mask)
        return mask

    def provenance(self, group: int) -> pa.Table:
        """The columns `PROVENANCE` of a row group's documents; not used in training."""
        file, inside = self.place(group)
        parquet = self._parquet(int(self._file_of[group]))
        try:
            return parquet.read_row_group(inside, columns=list(PROVENANCE))
        except UNREADABLE as error:
            raise self._unreadable(file, inside, error) from None

    def _read_column(self, group: int, name: str, out: npt.NDArray[Any]) -> list[pa.ListArray[Any]]:
        """Read the values of a list column into `out`; returns its rows, in one or more chunks."""
        file, inside = self.place(group)
        parquet = self._parquet(int(self._file_of[group]))
        try:
            column = parquet.read_row_group(inside, columns=[name], use_threads=False).column(name)
            rows = cast("list[pa.ListArray[Any]]", column.chunks)
            chunks = [array_of(chunk.flatten()) for chunk in rows]
        except UNREADABLE as error:
            raise self._unreadable(file, inside, error) from None
        path = self.folder / file.name
        for chunk in chunks:
            if chunk.dtype != out.dtype:
                raise UserError(f"{path}: {name} are {chunk.dtype}, expected {out.dtype}")
        found = sum(map(len, chunks))
        if found != len(out):
            raise UserError(
                f"{path}: row group {inside} has {found} values in {name}, the manifest says "
                f"{len(out)}"
            )
        np.concatenate(chunks, out=out)
        return rows

    def _check(
        self, group: int, tokens: Int32s, mask: UInt8s | None, rows: list[pa.ListArray[Any]]
    ) -> None:
        """`UserError` unless hash, ids and document lengths of a row group are as listed."""
        file, inside = self.place(group)
        path, expected = self.folder / file.name, file.shard.row_groups[inside].sha256
        digest = hashlib.sha256(tokens.data)
        if self.masked:
            digest.update((self.mask(group) if mask is None else mask).data)
        if digest.hexdigest() != expected:
            raise UserError(
                f"{path}: row group {inside} has SHA-256 {digest.hexdigest()[:12]}, the manifest "
                f"says {expected[:12]}: altered"
            )
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise UserError(
                f"{path}: row group {inside} has ids {tokens.min()} to {tokens.max()}, expected 0 "
                f"to {self.vocab_size - 1}"
            )
        lengths = np.concatenate([array_of(chunk.value_lengths()) for chunk in rows])
        if not np.array_equal(lengths, self.lengths(group)):
            raise UserError(
                f"{self._lengths_path(file)}: not the documents of row group {inside} of "
                f"{file.name}: altered, or of another shard"
            )

    def _parquet(self, index: int) -> pq.ParquetFile:
        """An open shard; if it changed since its checks, it is reopened and checked again."""
        old, new = self._states.get(index), _file_state(self.folder / self.files[index].name)
        if old not in (None, new):
            self._open_parquet.pop(index, None)
            self._checked_files.discard(index)
            self._checked[self._file_of == index] = False
        self._states[index] = new
        return _cached(self._open_parquet, index, self._open)

    def _open(self, index: int) -> pq.ParquetFile:
        file = self.files[index]
        path = self.folder / file.name
        check = self.check_files and index not in self._checked_files
        handle = open_checked(path, file, check)
        self._checked_files.add(index)
        try:
            parquet = pq.ParquetFile(handle)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{path}: not a Parquet file: {error}") from None
        found, listed = parquet.num_row_groups, len(file.shard.row_groups)
        if found != listed:
            raise UserError(f"{path}: {found} row groups, the manifest says {listed}")
        return parquet

    def _read_lengths(self, index: int) -> Int32s:
        """The document lengths of a whole shard."""
        file = self.files[index]
        path, listed = self._lengths_path(file), file.shard.lengths.sha256
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: missing, the manifest lists it") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        found = hashlib.sha256(data).hexdigest()
        if found != listed:
            raise UserError(
                f"{path}: SHA-256 {found[:12]}, the manifest says {listed[:12]}: altered"
            )
        try:
            lengths = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        except Exception as error:  # the parser of its header raises many kinds
            raise UserError(f"{path}: not an array of lengths: {error}") from None
        if lengths.dtype != np.int32 or lengths.shape != (file.rows,):
            raise UserError(
                f"{path}: {lengths.dtype} {lengths.shape}, expected int32 ({file.rows},)"
            )
        return cast(Int32s, lengths)

    def _lengths_path(self, file: DataFile) -> Path:
        return self.folder / file.shard.lengths.name

    def _unreadable(self, file: DataFile, inside: int, error: Exception) -> UserError:
        return UserError(f"{self.folder / file.name}: row group {inside} cannot be read: {error}")


def array_of(flat: pa.Array[Any]) -> npt.NDArray[Any]:
    """An Arrow array in NumPy, not copied; pyarrow's own conversion imports pandas."""
    if flat.null_count:
        raise ValueError("values are missing")
    dtype = np.dtype(str(flat.type))
    if not len(flat):
        return np.empty(0, dtype)
    return np.frombuffer(flat.buffers()[1], dtype, len(flat), flat.offset * dtype.itemsize)


def arrow_of(values: npt.NDArray[Any]) -> pa.Array[Any]:
    """A contiguous NumPy array (int32 or uint8) in Arrow, not copied."""
    type_ = pa.int32() if values.dtype == np.int32 else pa.uint8()
    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(values)])


def _read_manifest(folder: Path) -> Manifest:
    manifest = manifests.read(folder)
    if manifest is None:
        inside = folder / "shards"
        hint = f"; did you mean {inside}?" if (inside / MANIFEST_FILE).exists() else ""
        raise UserError(f"{folder}: no shards here (no {MANIFEST_FILE}){hint}")
    if manifest.dataset != "shards":
        raise UserError(f"{folder}: holds the dataset '{manifest.dataset}', expected 'shards'")
    return manifest


def _check_values(path: Path, manifest: Manifest) -> None:
    """Check what no single value of the manifest can tell; `ValueError` says what is wrong."""
    context = manifest.settings.get("conversations", {}).get("context", 0)
    if type(context) is not int or context < 0:
        raise ValueError(f"context = {context!r:.80}: must be a whole number of tokens")
    files = [(f.shard.split, f.shard.index, f.name) for f in manifest.files]
    for what, distinct in (("index", {f[:2] for f in files}), ("name", {f[2] for f in files})):
        if len(distinct) < len(files):
            raise ValueError(f"files: two have the same {what}")
    for file in manifest.files:
        file_in(path.parent, file.name, path)
        file_in(path.parent, file.shard.lengths.name, path)


def _load_tokenizer(folder: Path, expected: TokenizerEntry, vocab_size: int) -> Tokenizer:
    path = file_in(folder, expected.file, folder / MANIFEST_FILE)
    tokenizer = tokenizers.load(path)
    if tokenizer.hash != expected.hash:
        raise UserError(
            f"{path}: tokenizer hash {tokenizer.hash[:12]}, the shards were written with "
            f"{expected.hash[:12]} ({expected.name})"
        )
    if vocab_size and tokenizer.padded_vocab_size != vocab_size:
        raise UserError(
            f"{path}: padded vocabulary {tokenizer.padded_vocab_size}, the recipe expects "
            f"data.vocab_size = {vocab_size}"
        )
    return tokenizer


def _check_split(path: Path, manifest: Manifest, split: Split) -> None:
    groups = [group for f in _files(manifest, split) for group in f.shard.row_groups]
    found, expected = sum(group.tokens for group in groups), manifest.shards.tokens[split]
    if found != expected:
        raise UserError(f"{path}: split '{split}' says {expected} tokens, its files list {found}")
    if not found:
        raise UserError(f"{path}: split '{split}' has 0 tokens, expected at least one document")


def _check_content_hash(path: Path, manifest: Manifest) -> None:
    written, known = manifest.shards.content_hash, manifest.shards.tokenizer
    found = shards_content_hash(manifest.files, known.hash, known.vocab_size)
    if written != found:
        raise UserError(
            f"{path}: content hash {written[:12]}, that of its shards is {found[:12]}: altered"
        )


def _files(manifest: Manifest, split: str) -> list[DataFile]:
    return [file for file in manifest.files if file.shard.split == split]


def _file_state(path: Path) -> _FileState:
    """What changes when a file is written to or replaced; `UserError` if it is missing."""
    try:
        found = os.lstat(path)
    except OSError:
        raise UserError(f"{path}: missing, the manifest lists it") from None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _cached(cache: OrderedDict[int, T], key: int, make: Callable[[int], T]) -> T:
    """`cache[key]`, made if it is missing; keeps the `OPEN_FILES` most recently used."""
    if key not in cache:
        if len(cache) >= OPEN_FILES:
            cache.popitem(last=False)
        cache[key] = make(key)
    cache.move_to_end(key)
    return cache[key]
