"""Shards for loader.py: the texts of the crawl, by the code that writes real shards."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from common.page_texts import page_texts
from corpus.tokens import shards
from corpus.tokens.shards import token_lists
from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.manifest import Companion, DataFile, Manifest

SETTINGS = shards.Shard()


def crawl_shard(folder: Path, crawl: str, copies: int, console: Console) -> DataFile:
    """One training shard of the crawl's texts, `copies` times; its manifest entry."""
    texts = page_texts(crawl, console) * copies
    tokens = token_lists(texts, tokenizers.named("cl100k_base"))
    ids = [str(i) for i in range(len(texts))]
    columns = {
        "tokens": tokens,
        "token_count": pc.list_value_length(tokens).cast(pa.int64()),
        "id": pa.array(ids),
        "url": pa.array([f"https://example.org/{i}" for i in ids]),
        "file_path": pa.array(["crawl"] * len(ids)),
        "record_offset": pa.array(range(len(ids)), pa.int64()),
        "split": pa.array(["train"] * len(ids)),
        "order_key": pa.array(shards.to_signed(shards.order_keys(ids, 0))),
        "text_bytes": pa.array([len(text.encode()) for text in texts], pa.int64()),
    }
    table = pa.table({name: columns[name] for name in shards.TOKENS.names})
    return shards.write_shard(table, folder, "train", 0, SETTINGS)


def corpus(folder: Path, file: DataFile, source: Path, count: int) -> Path:
    """A folder of `count` training shards and one of validation, all links to one file."""
    folder.mkdir(parents=True)
    files = [_link(folder, file, source, "train", index) for index in range(count)]
    files.append(_link(folder, file, source, "validation", 0))
    known = tokenizers.named("cl100k_base")
    shards.save_tokenizer(known, folder)
    extra = shards.describe(files, known, "documents")
    made = Manifest("shards", "benchmark", {}, {}, tuple(shards.in_order(files)), {}, extra)
    manifests.write(folder, made)
    return folder


def lengths(source: Path, file: DataFile) -> np.ndarray:
    """Tokens of each document, int32."""
    return np.load(source / file.shard.lengths.name, allow_pickle=False)


def _link(folder: Path, file: DataFile, source: Path, split: str, index: int) -> DataFile:
    stem = f"{split}-{index:05d}"
    os.link(source / file.name, folder / f"{stem}.parquet")
    os.link(source / file.shard.lengths.name, folder / f"{stem}.lengths.npy")
    listed = Companion(f"{stem}.lengths.npy", file.shard.lengths.sha256)
    extra = replace(file.shard, split=split, index=index, lengths=listed)
    return replace(file, name=f"{stem}.parquet", extra=extra)
