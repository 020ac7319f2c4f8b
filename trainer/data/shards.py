"""A folder of shards, opened: its manifest and tokenizer, and that all of it fits together.

What is opened here is only looked at from outside: sizes, tokenizer, counts. Tokens are read, and
hashed on their first read, by `trainer.data.shards`. Every value of the manifest that is used later
has the type and the range that is written here, and every name lies in the folder.

Row groups of a split, each read where it is needed and checked the first time.

What a row group holds is checked against the manifest on its first read in a process: number of
tokens, SHA-256 over tokens and loss mask, ids within the vocabulary, lengths of its documents as
planned with. Those come from the file beside the shard, its SHA-256 checked when it is first
opened. A shard that is written to or replaced later, as its inode and times tell, is checked again.
A few files stay open; what is held does not grow with the corpus beyond the manifest's entries.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
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
from schemas.datasets import SHARD_FORMAT
from schemas.errors import UserError
from schemas.manifest import MANIFEST_FILE, DataFile, Manifest, shards_content_hash
from schemas.tokenizer import Tokenizer
from trainer.data.packing import Int32s, UInt8s
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


OPEN_FILES = 32
T = TypeVar("T")
_State = tuple[int, int, int, int, int]
PROVENANCE = ("id", "url", "file_path", "record_offset")


class RowGroups:
    """A split's row groups by number, in the order of the manifest."""

    def __init__(self, shards: Shards, split: str, *, check_files: bool = False) -> None:
        """`check_files`: hash a whole shard when it is opened, not only what is read of it."""
        self.folder, self.manifest = shards.folder, shards.manifest
        self.files = [file for file in self.manifest.files if file.extra["split"] == split]
        self.vocab_size = shards.tokenizer.padded_vocab_size
        self.check_files = check_files
        groups = [(i, g) for i, f in enumerate(self.files) for g in f.extra["row_groups"]]
        counts = [(i, g["tokens"], g["documents"]) for i, g in groups]
        numbers = np.array(counts, dtype=np.int64).reshape(-1, 3)
        self.masked = self.manifest.extra["kind"] == "conversations"  # they have a loss mask
        self.lengths_hashes = [str(f.extra["lengths"]["sha256"]) for f in self.files]
        self._file_of, self.tokens, self.documents = np.ascontiguousarray(numbers.T)
        self._first = np.searchsorted(self._file_of, np.arange(len(self.files)))
        self._checked = np.zeros(len(numbers), dtype=np.bool_)
        self._checked_files: set[int] = set()
        self._states: dict[int, _State] = {}  # of each shard, before its checks
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
        found = self._lengths(index)[before : before + int(self.documents[group])]
        path = self._lengths_path(index)
        if len(found) and found.min() < 0:
            raise UserError(f"{path}: a document of {found.min()} tokens")
        if int(found.sum(dtype=np.int64)) != self.tokens[group]:
            raise UserError(
                f"{path}: row group {group - self._first[index]} adds up to {found.sum()} tokens, "
                f"the manifest says {self.tokens[group]}"
            )
        return found

    def read(self, group: int, tokens: Int32s, mask: UInt8s | None) -> None:
        """Put a row group's tokens, and its loss mask, into arrays of its number of tokens."""
        rows = self._rows(group, "tokens")
        self._put(group, "tokens", rows, tokens)
        if mask is not None:
            self._put(group, "loss_mask", self._rows(group, "loss_mask"), mask)
        if not self._checked[group]:
            self._check(group, tokens, mask)
            self._check_lengths(group, rows)
            self._checked[group] = True
        path = self.folder / self.place(group)[0].name
        if _state(path) != self._states[int(self._file_of[group])]:
            raise UserError(f"{path}: changed while it was read")

    def mask(self, group: int) -> UInt8s:
        """A row group's loss mask, uint8 (tokens,)."""
        tokens = np.empty(self.tokens[group], np.int32)
        mask = np.empty(len(tokens), np.uint8)
        self.read(group, tokens, mask)
        return mask

    def provenance(self, group: int) -> pa.Table:
        """Where a row group's documents come from; never read in training."""
        index, (file, inside) = int(self._file_of[group]), self.place(group)
        parquet = self._parquet(index)
        try:
            return parquet.read_row_group(inside, columns=list(PROVENANCE))
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise self._unreadable(file, inside, error) from None

    def _rows(self, group: int, name: str) -> list[pa.ListArray[Any]]:
        """A list column as it lies, in a piece or more."""
        file, inside = self.place(group)
        parquet = self._parquet(int(self._file_of[group]))
        try:
            rows = parquet.read_row_group(inside, columns=[name], use_threads=False).column(name)
            return cast("list[pa.ListArray[Any]]", rows.chunks)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise self._unreadable(file, inside, error) from None

    def _put(
        self, group: int, name: str, rows: list[pa.ListArray[Any]], out: npt.NDArray[Any]
    ) -> None:
        """The values of all rows into `out`, which has room for those that the manifest lists."""
        file, inside = self.place(group)
        try:
            pieces = [array_of(piece.flatten()) for piece in rows]
        except (pa.ArrowException, AttributeError, ValueError, TypeError) as error:
            raise self._unreadable(file, inside, error) from None
        path = self.folder / file.name
        for piece in pieces:
            if piece.dtype != out.dtype:
                raise UserError(f"{path}: {name} are {piece.dtype}, expected {out.dtype}")
        found = sum(map(len, pieces))
        if found != len(out):
            raise UserError(
                f"{path}: row group {inside} has {found} values in {name}, the manifest says "
                f"{len(out)}"
            )
        np.concatenate(pieces, out=out)

    def _check_lengths(self, group: int, rows: list[pa.ListArray[Any]]) -> None:
        """The file of lengths says of each document what its row says: plans come from it."""
        found = np.concatenate([array_of(piece.value_lengths()) for piece in rows])
        if not np.array_equal(found, self.lengths(group)):
            file, inside = self.place(group)
            raise UserError(
                f"{self._lengths_path(int(self._file_of[group]))}: not the documents of row group "
                f"{inside} of {file.name}: of another shard, or altered"
            )

    def _check(self, group: int, tokens: Int32s, mask: UInt8s | None) -> None:
        file, inside = self.place(group)
        path, expected = (
            self.folder / file.name,
            str(file.extra["row_groups"][inside].get("sha256")),
        )
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

    def _parquet(self, index: int) -> pq.ParquetFile:
        """A shard, opened where it is not; one that has changed since its checks is unchecked."""
        old, new = self._states.get(index), _state(self.folder / self.files[index].name)
        if old not in (None, new):
            self._open_parquet.pop(index, None)
            self._checked_files.discard(index)
            self._checked[self._file_of == index] = False
        self._states[index] = new
        return _held(self._open_parquet, index, self._open)

    def _lengths(self, index: int) -> Int32s:
        return _held(self._open_lengths, index, self._read_lengths)

    def _lengths_path(self, index: int) -> Path:
        return self.folder / str(self.files[index].extra["lengths"]["name"])

    def _open(self, index: int) -> pq.ParquetFile:
        file = self.files[index]
        check = self.check_files and index not in self._checked_files
        handle = open_checked(self.folder / file.name, file, check)
        self._checked_files.add(index)
        try:
            parquet = pq.ParquetFile(handle)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{self.folder / file.name}: not a Parquet file: {error}") from None
        if parquet.num_row_groups != len(file.extra["row_groups"]):
            raise UserError(
                f"{self.folder / file.name}: {parquet.num_row_groups} row groups, the manifest "
                f"says {len(file.extra['row_groups'])}"
            )
        return parquet

    def _read_lengths(self, index: int) -> Int32s:
        file, path = self.files[index], self._lengths_path(index)
        listed = file.extra["lengths"]["sha256"]
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

    def _unreadable(self, file: DataFile, inside: int, error: Exception) -> UserError:
        return UserError(f"{self.folder / file.name}: row group {inside} cannot be read: {error}")


def array_of(flat: pa.Array[Any]) -> npt.NDArray[Any]:
    """An array as NumPy's, without a copy, and without pandas, which pyarrow's own way imports."""
    if flat.null_count:
        raise ValueError("values are missing")
    dtype = np.dtype(str(flat.type))
    if not len(flat):
        return np.empty(0, dtype)
    return np.frombuffer(flat.buffers()[1], dtype, len(flat), flat.offset * dtype.itemsize)


def arrow_of(values: npt.NDArray[Any]) -> pa.Array[Any]:
    """NumPy's array as Arrow's, likewise: int32 or uint8, one after the other."""
    type_ = pa.int32() if values.dtype == np.int32 else pa.uint8()
    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(values)])


def _state(path: Path) -> _State:
    """What tells a file from what it was; `UserError` where it is gone."""
    try:
        found = os.lstat(path)
    except OSError:
        raise UserError(f"{path}: missing, the manifest lists it") from None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _held(held: OrderedDict[int, T], key: int, make: Callable[[int], T]) -> T:
    """`held[key]`, made where it is missing; the least used is let go of."""
    if key not in held:
        if len(held) >= OPEN_FILES:
            held.popitem(last=False)
        held[key] = make(key)
    held.move_to_end(key)
    return held[key]
