"""Manifests: a dataset is what its manifest lists; nothing else in its folder counts.

The manifest is written last, by rename, so that readers never see part of a dataset. Its
fingerprint covers what the dataset was made from (settings and the fingerprints of its inputs), so
that a later run knows whether it is still valid. Paths, times and versions are not part of it.

Shards also have a content hash (docs/reference/format.md). Their writer stores it in the manifest,
readers compute it again from the listed files, and checkpoints name their shards by it.

What only one dataset has is in `extra`, of the manifest and of its files: a class per dataset,
chosen by `_EXTRAS` and `_FILE_EXTRAS`. The classes check types, ranges and file names, so that no
reader has to.
"""

from __future__ import annotations

import json
import os
import re
import typing
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from schemas import config, json_text
from schemas.config import json_hash, settings
from schemas.datasets import SHARD_FORMAT
from schemas.errors import UserError
from schemas.names import plain_component

FORMAT = 1
MANIFEST_FILE = "manifest.json"


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(f"{text!r:.80}: must be 64 hex digits")
    return text


E = TypeVar("E")
Kind = Literal["documents", "conversations"]
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = typing.get_args(Split)
Count = Annotated[int, Field(ge=0, le=2**62)]
GroupCount = Annotated[int, Field(ge=0, le=2**31 - 1)]  # the loader counts them in 32 bits
FileName = Annotated[str, AfterValidator(plain_component)]
Sha256 = Annotated[str, AfterValidator(_sha256)]


# --- What only one dataset has, in `extra` -------------------------------------------------------
# A field that is None is left out of the JSON.


@settings
class Extra:
    """Nothing: what a dataset without a class of its own has, and its files."""


@settings
class DocumentsFile(Extra):
    """A file of `documents`. `rowless`: the outcomes in its `counts` that have no row."""

    rowless: tuple[str, ...] = ()


@settings
class Components:
    """What finding the clusters took: rounds, and the edges left after each."""

    rounds: Count
    edges: tuple[Count, ...]


@settings
class Estimate:
    """Estimates from `num_pairs` sampled pairs; a share is None where no pair was sampled.

    `precision` has a 95% interval (Wilson). `survivors` is the share of `num_survivors` dropped
    documents that are similar to the very document that stays.
    """

    threshold: float
    num_pairs: Count
    precision: float | None
    precision_low: float
    precision_high: float
    recall: float | None
    num_survivors: Count
    survivors: float | None


@settings
class ClustersExtra(Extra):
    """Of `clusters`: numbers of links and, if they are removed, of repeated passages."""

    links: dict[str, Count] | None = None
    components: Components | None = None
    estimate: Estimate | None = None
    passages: dict[str, Count] | None = None


@settings
class CanonicalExtra(Extra):
    """Of `canonical`: items of personal data that were removed, by kind."""

    pii: dict[str, Count] | None = None


@settings
class SetCounts:
    """An evaluation set: its items, those found, and the documents that hold some."""

    name: str
    items: Count
    too_short: Count
    documents: Count
    found: Count


@settings
class ContaminationExtra(Extra):
    """Of `contamination`: whether its documents are left out of shards; counts of each set."""

    action: Literal["drop", "flag"]
    sets: tuple[SetCounts, ...]


@settings
class ForgottenExtra(Extra):
    """Of `forgotten`: whether a takedown did not finish."""

    unfinished: bool = False


@settings
class RowGroup:
    """A row group of a shard; `sha256` is of its tokens, then of its loss mask."""

    tokens: GroupCount
    documents: GroupCount
    sha256: Sha256


@settings
class Companion:
    """A file beside shards."""

    name: FileName
    sha256: Sha256


@settings
class ShardFile(Extra):
    """A shard: its place in the token stream, sums, lengths file and row groups."""

    split: Split
    index: Count
    tokens: Count
    text_bytes: Count
    lengths: Companion
    row_groups: tuple[RowGroup, ...]


@settings
class TokenizerEntry:
    """The tokenizer of shards: its file, and what it is once loaded."""

    file: FileName
    name: str
    hash: str
    vocab_size: Count
    padded_vocab_size: Count
    boundary: Count
    chat_ids: dict[str, Count]


@settings
class FormCounts:
    """Rows of one form in chat files, by outcome; turns and tokens of the conversations."""

    form: str
    rows: Count
    conversations: Count
    turns: Count
    tokens: Count
    target_tokens: Count
    cut: Count
    turns_cut: Count
    rejected: Count


@settings
class ShardsExtra(Extra):
    """Of `shards`; conversations have what follows `recipe_hash`.

    `tokens` and `text_bytes` are sums by split. Conversations of earlier versions lack `forgotten`
    and `rows`.
    """

    format: Count
    kind: Kind
    tokenizer: TokenizerEntry
    tokens: dict[Split, Count]
    text_bytes: dict[Split, Count]
    content_hash: Sha256
    seed: Count | None = None
    recipe_hash: Sha256 | None = None
    target_tokens: Count | None = None
    forms: tuple[FormCounts, ...] | None = None
    reasons: dict[str, Count] | None = None
    forgotten: Count | None = None
    rejected: Companion | None = None
    rows: Companion | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "text_bytes"):
            if sorted(getattr(self, name)) != sorted(SPLITS):
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be of both splits")


@settings
class OtherShards(Extra):
    """Of `shards` of another format, which are rebuilt, and not read."""

    folder: str
    format: Any


_EXTRAS: dict[str, type[Extra]] = {
    "clusters": ClustersExtra,
    "canonical": CanonicalExtra,
    "contamination": ContaminationExtra,
    "forgotten": ForgottenExtra,
    "shards": ShardsExtra,
}
_FILE_EXTRAS: dict[str, type[Extra]] = {"documents": DocumentsFile, "shards": ShardFile}


# --- Files and manifests -------------------------------------------------------------------------


@settings
class DataFile:
    """One file of a dataset; `counts` are its rows by outcome if the stage has outcomes.

    Raises `ValueError` for a name that is not a plain file name, and for negative numbers.
    """

    name: FileName
    rows: Count
    bytes: Count
    sha256: Sha256 | None = None
    counts: dict[str, int] = field(default_factory=dict)
    extra: Extra = field(default_factory=Extra)

    def __post_init__(self) -> None:
        if isinstance(self.extra, ShardFile):
            if self.sha256 is None:
                raise ValueError("sha256 = None: must be 64 hex digits")
            rows = sum(group.documents for group in self.extra.row_groups)
            if self.rows != rows:
                raise ValueError(f"rows = {self.rows}: its row groups have {rows}")

    @property
    def shard(self) -> ShardFile:
        """`extra` of a file of `shards`."""
        return extra_of(self, ShardFile)

    def to_json(self) -> dict[str, Any]:
        """For a manifest or a task."""
        return {**vars(self), "extra": _extra_to_json(self.extra)}

    @staticmethod
    def from_json(values: dict[str, Any], dataset: str) -> DataFile:
        """What `to_json` gave, for a file of `dataset`; raises `ValueError`."""
        name = f"{values['name']!r:.80}"
        kind = _FILE_EXTRAS.get(dataset, Extra)
        extra = config.from_dict(values.get("extra", {}), kind, f"{name}: extra")
        try:
            return DataFile(**{**values, "extra": extra})
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds and what it was made from.

    `settings`: the recipe's sections that shaped it. `inputs`: name -> fingerprint of each input.
    `counts`: totals of the stage. `extra`: what only this dataset has. `made`: engine, versions,
    times.
    """

    dataset: str
    recipe: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    files: tuple[DataFile, ...]
    counts: dict[str, int]
    extra: Extra = field(default_factory=Extra)
    made: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def shards(self) -> ShardsExtra:
        """`extra` of `shards`; raises `UserError` for those of another format."""
        if isinstance(self.extra, OtherShards):
            raise UserError(
                f"{self.extra.folder}: shards of format {self.extra.format}, this version reads "
                f"format {SHARD_FORMAT}; rebuild them with `gristmill shard`"
            )
        return extra_of(self, ShardsExtra)

    @property
    def drops(self) -> bool:
        """Whether shards leave out the documents of this `contamination`."""
        return extra_of(self, ContaminationExtra).action == "drop"

    @property
    def has_conversations(self) -> bool:
        """Whether these are shards of conversations, which have a loss mask."""
        return isinstance(self.extra, ShardsExtra) and self.extra.kind == "conversations"

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


def extra_of(holder: Any, kind: type[E]) -> E:
    """The `extra` of a manifest or a file, for what knows of which dataset it is."""
    assert isinstance(holder.extra, kind), holder
    return holder.extra


def fingerprint(dataset: str, settings: dict[str, Any], inputs: dict[str, str]) -> str:
    """The `Manifest.fingerprint` of a dataset made from these settings and inputs."""
    made_from = {"dataset": dataset, "settings": settings, "inputs": inputs, "format": FORMAT}
    return config.json_hash(made_from)


def write(folder: str | Path, manifest: Manifest) -> None:
    """Commit a dataset by putting its manifest in place atomically."""
    values = {
        **vars(manifest),
        "files": [file.to_json() for file in manifest.files],
        "extra": _extra_to_json(manifest.extra),
        "fingerprint": manifest.fingerprint,
    }
    text = json.dumps(values, indent=1, sort_keys=True)
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
        dataset, extra = values["dataset"], values.get("extra", {})
        found = extra.get("format", 1) if dataset == "shards" else SHARD_FORMAT
        if found == SHARD_FORMAT:
            values["extra"] = config.from_dict(extra, _EXTRAS.get(dataset, Extra), "extra")
        else:
            values["extra"] = OtherShards(str(path.parent), found)
            values["files"] = [{**file, "extra": {}} for file in values["files"]]
            dataset = ""
        values["files"] = tuple(DataFile.from_json(file, dataset) for file in values["files"])
        manifest = Manifest(**values)
        for name in ("settings", "inputs", "counts", "made"):
            if not isinstance(getattr(manifest, name), dict):
                raise ValueError(f"{name} = {getattr(manifest, name)!r}: must be an object")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a manifest of this version: {error}") from None
    if manifest.fingerprint != expected:
        raise UserError(f"{path}: altered: its fingerprint does not match what it lists")
    return manifest


def _extra_to_json(extra: Extra) -> dict[str, Any]:
    assert not isinstance(extra, OtherShards), extra  # its keys were not read
    return {name: value for name, value in asdict(extra).items() if value is not None}


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
    return tuple(sorted(files, key=lambda file: (file.shard.split, file.shard.index)))


def shards_content_hash(files: Iterable[DataFile], tokenizer_hash: str, vocab_size: int) -> str:
    """SHA-256 (hex) of the token stream: shards by split and index, tokenizer, shard format."""
    return json_hash(
        {
            "format": SHARD_FORMAT,
            "shards": [[f.shard.split, f.shard.index, f.sha256] for f in in_order(files)],
            "tokenizer": tokenizer_hash,
            "vocab_size": vocab_size,
        }
    )
