"""Token shards: the order and split of documents, their tokens, and the bytes of a shard file.

The order of documents depends on (seed, id) alone: each has a 64-bit order key, shard
floor(key · S / 2^64) holds those in its range, and inside it rows ascend by (key, id, file path,
record offset). A file's bytes depend on its rows, the settings and pyarrow's version alone.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tiktoken
import xxhash
from pydantic import Field

from corpus.arrays import Int32s, Int64s, UInt64s
from corpus.arrays import to_signed as to_signed
from corpus.arrays import to_unsigned as to_unsigned
from corpus.tokens.splits import HASHES, SPLITS, split_of
from schemas.config import settings
from schemas.datasets import CONVERSATION_SHARDS, LOSS_MASK, SHARD_FORMAT, SHARDS
from schemas.manifest import (
    Companion,
    DataFile,
    Kind,
    RowGroup,
    ShardFile,
    ShardsExtra,
    Split,
    TokenizerEntry,
    atomic_path,
)
from schemas.manifest import in_order as in_order
from schemas.manifest import shards_content_hash as shards_content_hash
from schemas.tokenizer import LONG_BLANKS, MAX_BLANKS, Tokenizer, without_surrogates

ORDER = ("order_key", "id", "file_path", "record_offset")

# The stored columns without their documentation: a reworded comment must not change a file.
STORED = pa.schema([pa.field(field.name, field.type) for field in SHARDS])
MASKED = pa.schema([pa.field(field.name, field.type) for field in CONVERSATION_SHARDS])
TOKENS = pa.schema(
    [
        pa.field("tokens", pa.list_(pa.int32())),  # engines' lists may hold nulls
        *list(STORED)[1:],
        pa.field("split", pa.string()),
        pa.field("order_key", pa.int64()),
        pa.field("text_bytes", pa.int64()),
    ]
)
PLACED = TOKENS.append(pa.field("shard", pa.int64()))
CANONICAL_COLUMNS = ("text", "id", "url", "file_path", "record_offset")  # read by encode_batch


@settings
class Shard:
    """How the corpus is shuffled, split and divided into files.

    `tokens_per_shard` is approximate (documents stay whole, keys are random); `rows_per_group`
    documents are read at a time; `validation_fraction` is a share of sites, not of documents.
    """

    seed: Annotated[int, Field(ge=0, le=HASHES - 1)] = 0
    tokens_per_shard: Annotated[int, Field(ge=1, le=10**12)] = 50_000_000
    rows_per_group: Annotated[int, Field(ge=1, le=10**6)] = 1024  # which are read at once
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01


def order_key(seed: int, document_id: str) -> int:
    """Unsigned 64-bit hash (xxh3) of seed and id: the document's place in the shuffle."""
    return xxhash.xxh3_64_intdigest(document_id.encode(), seed=seed)


def order_keys(ids: Iterable[str], seed: int) -> UInt64s:
    """`order_key` of each id, uint64 (n,)."""
    return np.fromiter((order_key(seed, document_id) for document_id in ids), dtype=np.uint64)


def shards_of(keys: UInt64s, num_shards: int) -> Int64s:
    """floor(key · num_shards / 2^64) of each unsigned key, exact; `num_shards` under 2^32."""
    if not 0 < num_shards < 1 << 32:
        raise ValueError(f"num_shards = {num_shards}: must be from 1 to 2^32 - 1")
    half, count = np.uint64(32), np.uint64(num_shards)
    low_carry = (keys & np.uint64(0xFFFFFFFF)) * count >> half
    return (((keys >> half) * count + low_carry) >> half).astype(np.int64)


def num_shards_for(num_tokens: int, settings: Shard) -> int:
    """How many shards hold `num_tokens` tokens of a split: rounded up, at least one."""
    return max(1, -(-num_tokens // settings.tokens_per_shard))


def place(batch: pa.RecordBatch, num_shards: Mapping[str, int]) -> pa.RecordBatch:
    """Token rows (`TOKENS`) with the number of their shard, given the shards of each split."""
    keys = to_unsigned(batch.column("order_key").to_numpy())
    shard = np.zeros(len(keys), dtype=np.int64)
    splits = np.array(_strings(batch, "split"), dtype=np.str_)
    for split in set(splits.tolist()):
        here = splits == split
        shard[here] = shards_of(keys[here], num_shards[split])
    columns = [batch.column(name) for name in TOKENS.names]
    return pa.RecordBatch.from_arrays([*columns, pa.array(shard)], names=PLACED.names)


def encode_batch(batch: pa.RecordBatch, tokenizer: Tokenizer, settings: Shard) -> pa.RecordBatch:
    """Token rows (`TOKENS`) of a batch of `canonical`, in the batch's order.

    Each row's tokens start with the document boundary. `order_key` is signed (`to_signed`);
    `text_bytes` is the UTF-8 length of the text that the tokens decode to.
    """
    texts, ids = _strings(batch, "text"), _strings(batch, "id")
    tokens = token_lists(texts, tokenizer)
    urls, fraction = batch.column("url").to_pylist(), settings.validation_fraction
    columns = {
        "tokens": tokens,
        "token_count": pc.list_value_length(tokens).cast(pa.int64()),
        **{name: batch.column(name) for name in ("id", "url", "file_path", "record_offset")},
        "split": pa.array([split_of(url, fraction) for url in urls], pa.string()),
        "order_key": pa.array(to_signed(order_keys(ids, settings.seed))),
        "text_bytes": pa.array([len(tokenizer.normalized(t).encode()) for t in texts], pa.int64()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in TOKENS.names], schema=TOKENS)


def token_lists(texts: Sequence[str], known: Tokenizer) -> pa.ListArray:
    """The document boundary and the ids of each text, list<int32> (n,).

    All ids are in one array, without a Python object per token.
    """
    boundary = np.array([known.boundary], dtype=np.int32)
    found = [encode_array(text, known) for text in texts]
    parts = [part for ids in found for part in (boundary, ids)]
    ends = np.cumsum([0, *(1 + len(ids) for ids in found)], dtype=np.int64)
    assert ends[-1] < 1 << 31, f"{ends[-1]} tokens in one batch"
    values = np.concatenate([np.empty(0, np.int32), *parts])
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(values))


def encode_array(text: str, known: Tokenizer) -> Int32s:
    """`Tokenizer.encode` as an array, int32 (n,). Costs one copy of the ids over tiktoken's own."""
    encoding = known.encoding
    if not isinstance(encoding, tiktoken.Encoding):  # Hugging Face's returns lists only
        return np.array(known.encode(text), dtype=np.int32)
    if len(text) <= MAX_BLANKS:
        return _encode(text, encoding)
    cuts = [0]
    for run in LONG_BLANKS.finditer(text):
        cuts += range(run.start() + MAX_BLANKS, run.end() + 1, MAX_BLANKS)
    cuts.append(len(text))
    return np.concatenate([_encode(text[start:end], encoding) for start, end in pairwise(cuts)])


def _encode(text: str, encoding: tiktoken.Encoding) -> Int32s:
    # No control token is ever produced: text that spells one out becomes ordinary tokens.
    try:
        ids = encoding.encode_to_numpy(text, allowed_special=set(), disallowed_special=())
        return ids.view("i4")
    except UnicodeEncodeError:  # a lone surrogate, which Arrow's texts cannot hold
        return _encode(without_surrogates(text), encoding)


def write_shard(
    table: pa.Table, folder: str | Path, split: Split, index: int, settings: Shard
) -> DataFile:
    """Write the rows of one shard (`TOKENS`, in any order) and return its manifest entry.

    A table with a column `loss_mask` (uint8, as long as its row's tokens) makes a shard with one.
    Both files, the rows and their lengths, are renamed into place when complete; their names end in
    the first 16 digits of the shard's SHA-256. `extra` is described in docs/reference/format.md.
    Memory in addition to the table's is that of a few row groups.
    """
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in ORDER]).to_numpy()
    stem = f"{split}-{index:05d}"
    temporary = Path(folder) / f".{stem}.{uuid.uuid4().hex}.tmp"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        row_groups = _write_rows(temporary, table, order, settings.rows_per_group)
        digest = _flush_and_hash(temporary)
        size = temporary.stat().st_size
        stem = f"{stem}-{digest[:16]}"
        counts = table["token_count"].to_numpy()[order]
        lengths = _write_lengths(temporary.parent / f"{stem}.lengths.npy", counts)
        temporary.replace(temporary.parent / f"{stem}.parquet")
    finally:
        temporary.unlink(missing_ok=True)
    extra = ShardFile(
        split,
        index,
        tokens=sum(group.tokens for group in row_groups),
        text_bytes=pc.sum(table["text_bytes"], min_count=0).as_py(),
        lengths=lengths,
        row_groups=row_groups,
    )
    return DataFile(f"{stem}.parquet", len(table), size, sha256=digest, extra=extra)


def describe(files: Sequence[DataFile], known: Tokenizer, kind: Kind) -> ShardsExtra:
    """The manifest's `extra` for these shards, described in docs/reference/format.md."""
    entry = TokenizerEntry(
        tokenizer_file(known),
        known.name,
        known.hash,
        known.vocab_size,
        known.padded_vocab_size,
        known.boundary,
        known.chat_ids,
    )
    return ShardsExtra(SHARD_FORMAT, kind, entry, *totals(files, entry))


def totals(
    files: Sequence[DataFile], known: TokenizerEntry
) -> tuple[dict[Split, int], dict[Split, int], str]:
    """What `ShardsExtra` says of all files: tokens and text bytes by split, the content hash."""
    tokens, text_bytes = (dict.fromkeys(SPLITS, 0) for _ in range(2))
    for shard in (file.shard for file in files):
        tokens[shard.split] += shard.tokens
        text_bytes[shard.split] += shard.text_bytes
    return tokens, text_bytes, shards_content_hash(files, known.hash, known.vocab_size)


def tokenizer_file(known: Tokenizer) -> str:
    """The name of a tokenizer's file, different for every tokenizer."""
    return f"tokenizer-{known.hash[:16]}.json"


def save_tokenizer(known: Tokenizer, folder: str | Path) -> Path:
    """Write the tokenizer next to shards that are not committed yet; returns the path."""
    path = Path(folder) / tokenizer_file(known)
    with atomic_path(path) as temporary:
        known.save(temporary)
    return path


def companions(files: Iterable[DataFile], extra: ShardsExtra) -> tuple[str, ...]:
    """Names of the files beside shards: lengths, the tokenizer, two lists of conversations."""
    lengths = (file.shard.lengths.name for file in files)
    lists = (one.name for one in (extra.rejected, extra.rows) if one)
    return (*lengths, extra.tokenizer.file, *lists)


def _strings(batch: pa.RecordBatch, name: str) -> list[str]:
    values = batch.column(name)
    assert values.null_count == 0, f"column {name} has a null"
    return cast(list[str], values.to_pylist())


def _write_rows(
    path: Path, table: pa.Table, order: UInt64s, rows_per_group: int
) -> tuple[RowGroup, ...]:
    """Write the rows in this order; return tokens, documents and hash of each row group."""
    row_groups, schema = [], MASKED if LOSS_MASK.name in table.schema.names else STORED
    batches = table.select(schema.names).to_batches()
    with pq.ParquetWriter(
        path,
        schema,
        version="2.6",
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    ) as writer:
        for start in range(0, len(order), rows_per_group):
            group = _picked(batches, order[start : start + rows_per_group]).cast(schema)
            for name in {"tokens", LOSS_MASK.name} & set(schema.names):
                lengths = pc.list_value_length(group[name])
                assert lengths.equals(group["token_count"].cast(pa.int32())), name
            writer.write_table(group, row_group_size=rows_per_group)
            row_groups.append(_row_group(group))
    return tuple(row_groups)


def _picked(batches: list[pa.RecordBatch], rows: UInt64s) -> pa.Table:
    """These rows, numbered over all batches, in this order, in one chunk.

    `Table.take` would first copy a table of many chunks into one.
    """
    ends = np.cumsum([batch.num_rows for batch in batches], dtype=np.uint64)
    batch_of = np.searchsorted(ends, rows, side="right")
    by_batch = np.argsort(batch_of, kind="stable")
    parts = []
    for number in np.unique(batch_of).tolist():
        batch = batches[number]
        inside = rows[batch_of == number] - (ends[number] - batch.num_rows)
        parts.append(batch.take(pa.array(inside)))
    together = pa.Table.from_batches(parts).combine_chunks()
    return together.take(pa.array(np.argsort(by_batch)))


def _row_group(group: pa.Table) -> RowGroup:
    tokens, digest = _values(group["tokens"], "<i4"), hashlib.sha256()
    digest.update(tokens.data)
    if LOSS_MASK.name in group.schema.names:
        digest.update(_values(group[LOSS_MASK.name], "u1").data)
    return RowGroup(len(tokens), len(group), digest.hexdigest())


def _values(column: pa.ChunkedArray, dtype: str) -> npt.NDArray[Any]:
    """The values of all lists, concatenated."""
    values: npt.NDArray[Any] = pc.list_flatten(column).to_numpy()
    return values.astype(dtype, copy=False)


def _write_lengths(path: Path, lengths: Int64s) -> Companion:
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:  # given a name, np.save would add a suffix
            np.save(file, lengths.astype("<i4"), allow_pickle=False)
        digest = _flush_and_hash(temporary)
    return Companion(path.name, digest)


def _flush_and_hash(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
