"""The content hash: what names shards of tokens by what they hold, as docs/format.md says.

Their writer puts it into the manifest, a reader computes it again from what the manifest lists, and
a checkpoint holds shards to it.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.config import json_hash
from schemas.datasets import SHARD_FORMAT
from schemas.manifest import DataFile


def in_order(files: Iterable[DataFile]) -> tuple[DataFile, ...]:
    """Shards by split, then index: the order of the token stream."""
    return tuple(sorted(files, key=lambda file: (file.extra["split"], file.extra["index"])))


def shards_content_hash(files: Iterable[DataFile], tokenizer_hash: str, vocab_size: int) -> str:
    """SHA-256 (hex) of the token stream: shards by split and index, tokenizer, shard format."""
    return json_hash(
        {
            "format": SHARD_FORMAT,
            "shards": [[f.extra["split"], f.extra["index"], f.sha256] for f in in_order(files)],
            "tokenizer": tokenizer_hash,
            "vocab_size": vocab_size,
        }
    )
