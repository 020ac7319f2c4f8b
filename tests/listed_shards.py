"""What a manifest says of shards that were not written as shards."""

from __future__ import annotations

import dataclasses

from corpus.tokens import shards
from schemas import tokenizer
from schemas.manifest import Companion, DataFile, RowGroup, ShardFile, ShardsExtra


def listed_as_shard(file: DataFile, name: str = "bytes") -> tuple[DataFile, ShardsExtra]:
    """The file as the only shard, of 3 tokens a row, and the manifest's `extra`; the tokenizer has
    this name."""
    group = RowGroup(3 * file.rows, file.rows, "0" * 64)
    shard = ShardFile("train", 0, group.tokens, 0, Companion("a.npy", "0" * 64), (group,))
    entry = dataclasses.replace(file, sha256="0" * 64, extra=shard)
    known = tokenizer.from_tokens(name, [bytes([b]) for b in range(256)])
    return entry, shards.describe([entry], known, "documents")
