"""Token shards: order, split, and the bytes of a shard file.

The order of documents is a pure function of (seed, id): each gets a 64-bit order key, shard
floor(key · S / 2^64) takes those in its range, and inside it rows ascend by (key, id, file path,
record offset). A file's bytes depend on its rows, the settings and pyarrow's version alone.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from corpus import suffixes
from schemas.config import json_hash
from schemas.datasets import SHARDS
from schemas.manifest import DataFile
from schemas.tokenizer import Tokenizer

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

SHARD_FORMAT = 1  # changes with the columns of a shard or the meaning of their values
SPLIT_SALT = "gristmill-split-1"  # fixed: a site stays in its split whatever the shuffle's seed
ORDER = ("order_key", "id", "file_path", "record_offset")
SIGN_BIT = np.uint64(1 << 63)
HASHES = 1 << 64  # how many 64-bit hashes there are

# What is stored, without the columns' documentation: a reworded comment must not change a file.
STORED = pa.schema([pa.field(field.name, field.type) for field in SHARDS])
TOKENS = pa.schema(
    [
        *STORED,
        pa.field("split", pa.string()),
        pa.field("order_key", pa.int64()),
        pa.field("text_bytes", pa.int64()),
    ]
)
PLACED = TOKENS.append(pa.field("shard", pa.int64()))
CANONICAL_COLUMNS = ("text", "id", "url", "file_path", "record_offset")  # what encoding reads


@dataclass(frozen=True)
class Shard:
    """How the corpus is shuffled, split and cut into files.

    `tokens_per_shard` is approximate (documents are not cut, keys are random); `rows_per_group`
    documents are read at a time; `validation_fraction` is a share of sites, not of documents.
    """

    seed: int = 0
    tokens_per_shard: int = 50_000_000
    rows_per_group: int = 1024
    validation_fraction: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.seed < HASHES:
            raise ValueError(f"seed = {self.seed}: must be from 0 to 2^64 - 1")
        for name in ("tokens_per_shard", "rows_per_group"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction = {self.validation_fraction}: must be at least 0 and under 1"
            )


def order_key(seed: int, document_id: str) -> int:
    """Unsigned 64-bit hash (xxh3) of seed and id: where the document stands in the shuffle."""
    return xxhash.xxh3_64_intdigest(document_id.encode(), seed=seed)


def order_keys(ids: Iterable[str], seed: int) -> UInt64s:
    """`order_key` of each id, uint64 (n,)."""
    return np.fromiter((order_key(seed, document_id) for document_id in ids), dtype=np.uint64)


def to_signed(keys: UInt64s) -> Int64s:
    """Keys less 2^63, as int64: in the same order, for engines that have no unsigned integers."""
    return (keys ^ SIGN_BIT).view(np.int64)


def to_unsigned(signed: Int64s) -> UInt64s:
    """The keys that `to_signed` made the int64 column `order_key` of."""
    return signed.view(np.uint64) ^ SIGN_BIT


def shard_of(key: int, num_shards: int) -> int:
    """floor(key · num_shards / 2^64) for one unsigned key: 0 to num_shards - 1."""
    return key * num_shards >> 64


def shards_of(keys: UInt64s, num_shards: int) -> Int64s:
    """`shard_of` each unsigned key, exact; `num_shards` under 2^32."""
    if not 0 < num_shards < 1 << 32:
        raise ValueError(f"num_shards = {num_shards}: must be from 1 to 2^32 - 1")
    half, count = np.uint64(32), np.uint64(num_shards)
    low_carry = (keys & np.uint64(0xFFFFFFFF)) * count >> half
    return (((keys >> half) * count + low_carry) >> half).astype(np.int64)


def num_shards_for(num_tokens: int, settings: Shard) -> int:
    """How many shards hold `num_tokens` tokens of a split: rounded up, at least one."""
    return max(1, -(-num_tokens // settings.tokens_per_shard))


def place(batch: pa.RecordBatch, num_shards: Mapping[str, int]) -> pa.RecordBatch:
    """Token rows (`TOKENS`) with the number of their shard, given how many each split has."""
    keys = to_unsigned(batch.column("order_key").to_numpy())
    shard = np.zeros(len(keys), dtype=np.int64)
    splits = np.array(_strings(batch, "split"), dtype=np.str_)
    for split in set(splits.tolist()):
        here = splits == split
        shard[here] = shards_of(keys[here], num_shards[split])
    columns = [batch.column(name) for name in TOKENS.names]
    return pa.RecordBatch.from_arrays([*columns, pa.array(shard)], names=PLACED.names)


def split_of(url: str | None, fraction: float) -> Split:
    """The split of a page's site, the same for all of its subdomains and for every seed.

    `fraction` of the sites are validation. A page without a URL is train.
    """
    if url is None:
        return "train"
    threshold = int(fraction * HASHES)
    return "validation" if _site_hash(site(url)) < threshold else "train"


def site(url: str) -> str:
    """Registered domain of a URL by the public suffix list (`corpus.suffixes`).

    An IP address, or a host without a public suffix, is a site of its own.
    """
    host = suffixes.parser()(url)
    registered = host.top_domain_under_public_suffix
    whole = ".".join(part for part in (host.subdomain, host.domain, host.suffix) if part)
    return (registered or whole).lower()


def encode_batch(batch: pa.RecordBatch, tokenizer: Tokenizer, settings: Shard) -> pa.RecordBatch:
    """Token rows (`TOKENS`) of a batch of `canonical`, in the batch's order.

    Each row's tokens start with the document boundary. `order_key` is `to_signed`'s, `text_bytes`
    the length of the text in UTF-8.
    """
    texts, ids = _strings(batch, "text"), _strings(batch, "id")
    streams = [[tokenizer.boundary, *tokenizer.encode(text)] for text in texts]
    lengths = np.array([len(stream) for stream in streams], dtype=np.int64)
    keys = to_signed(order_keys(ids, settings.seed))
    splits = [
        split_of(url, settings.validation_fraction) for url in batch.column("url").to_pylist()
    ]
    columns = {
        "tokens": pa.array(streams, pa.list_(pa.int32())),
        "token_count": pa.array(lengths),
        **{name: batch.column(name) for name in ("id", "url", "file_path", "record_offset")},
        "split": pa.array(splits, pa.string()),
        "order_key": pa.array(keys),
        "text_bytes": pa.array([len(text.encode()) for text in texts], pa.int64()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in TOKENS.names], schema=TOKENS)


def write_shard(
    table: pa.Table, folder: str | Path, split: str, index: int, settings: Shard
) -> DataFile:
    """Write the rows of one shard (`TOKENS`, in any order) and return its manifest entry.

    The file appears whole, under a name that ends in the first 16 digits of its SHA-256. `extra`
    holds split, index, tokens, text_bytes and, for each row group, [tokens, documents]. Memory is
    about twice the table's.
    """
    rows = table.select(TOKENS.names).cast(TOKENS).combine_chunks()
    stem = f"{split}-{index:05d}"
    temporary = Path(folder) / f".{stem}.{uuid.uuid4().hex}.tmp"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        row_groups = _write_rows(temporary, rows, settings.rows_per_group)
        digest = _flush_and_hash(temporary)
        size = temporary.stat().st_size
        name = f"{stem}-{digest[:16]}.parquet"
        temporary.replace(temporary.parent / name)
    finally:
        temporary.unlink(missing_ok=True)
    extra = {
        "split": split,
        "index": index,
        "tokens": sum(tokens for tokens, _ in row_groups),
        "text_bytes": pc.sum(rows["text_bytes"], min_count=0).as_py(),
        "row_groups": row_groups,
    }
    return DataFile(name=name, rows=len(rows), bytes=size, sha256=digest, extra=extra)


def shards_content_hash(files: Sequence[DataFile], tokenizer_hash: str, vocab_size: int) -> str:
    """SHA-256 (hex) of the token stream: shards by split and index, tokenizer, shard format."""
    ordered = sorted(files, key=lambda file: (file.extra["split"], file.extra["index"]))
    return json_hash(
        {
            "format": SHARD_FORMAT,
            "shards": [[f.extra["split"], f.extra["index"], f.sha256] for f in ordered],
            "tokenizer": tokenizer_hash,
            "vocab_size": vocab_size,
        }
    )


def _strings(batch: pa.RecordBatch, name: str) -> list[str]:
    values = batch.column(name)
    assert values.null_count == 0, f"column {name} has a null"
    return cast(list[str], values.to_pylist())


def _write_rows(path: Path, rows: pa.Table, rows_per_group: int) -> list[list[int]]:
    """Write `rows` in shard order; [tokens, documents] of each row group."""
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in ORDER])
    stored = rows.select(STORED.names)
    row_groups = []
    with pq.ParquetWriter(
        path,
        STORED,
        version="2.6",
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    ) as writer:
        for start in range(0, len(order), rows_per_group):
            group = stored.take(order.slice(start, rows_per_group))
            writer.write_table(group, row_group_size=rows_per_group)
            tokens = pc.sum(pc.list_value_length(group["tokens"])).as_py()
            row_groups.append([tokens, group.num_rows])
    return row_groups


def _flush_and_hash(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _site_hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{SPLIT_SALT}:{name}".encode())
