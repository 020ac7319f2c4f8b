"""Shards for training.py: texts in two splits, by the code that writes real shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from corpus.tokens import shards
from corpus.tokens.shards import token_lists
from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.manifest import DataFile, Manifest
from schemas.tokenizer import Tokenizer


def write(folder: Path, splits: Mapping[str, Sequence[str]], tokenizer: Tokenizer) -> Path:
    """A folder of one shard a split, with manifest and tokenizer; the folder."""
    files = [_write(folder, split, list(texts), tokenizer) for split, texts in splits.items()]
    shards.save_tokenizer(tokenizer, folder)
    extra = shards.describe(files, tokenizer, "documents")
    made = Manifest("shards", "benchmark", {}, {}, tuple(shards.in_order(files)), {}, extra)
    manifests.write(folder, made)
    return folder


def held_out(texts: Sequence[str]) -> dict[str, Sequence[str]]:
    """Every tenth text is for validation."""
    train = [text for i, text in enumerate(texts) if i % 10]
    return {"train": train, "validation": texts[::10]}


def byte_tokenizer() -> Tokenizer:
    """A token a byte, which is one a character of ASCII."""
    return tokenizers.from_tokens("bytes", [bytes([b]) for b in range(256)])


def _write(folder: Path, split: str, texts: list[str], tokenizer: Tokenizer) -> DataFile:
    tokens = token_lists(texts, tokenizer)
    ids = [f"{split}-{i}" for i in range(len(texts))]
    columns = {
        "tokens": tokens,
        "token_count": pc.list_value_length(tokens).cast(pa.int64()),
        "id": pa.array(ids),
        "url": pa.array([f"https://example.org/{i}" for i in ids]),
        "file_path": pa.array(["benchmark"] * len(ids)),
        "record_offset": pa.array(range(len(ids)), pa.int64()),
        "split": pa.array([split] * len(ids)),
        "order_key": pa.array(shards.to_signed(shards.order_keys(ids, 0))),
        "text_bytes": pa.array([len(text.encode()) for text in texts], pa.int64()),
    }
    table = pa.table({name: columns[name] for name in shards.TOKENS.names})
    return shards.write_shard(table, folder, split, 0, shards.Shard())
