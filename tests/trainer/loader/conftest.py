"""Shards for the loader's tests, written by the code that writes real ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from corpus import shards
from schemas import manifest as manifests
from schemas.manifest import Manifest
from schemas.tokenizer import Tokenizer

SETTINGS = shards.Shard(tokens_per_shard=1, rows_per_group=7)
Document = tuple[list[int], list[int]]  # tokens and loss mask


def random_documents(count: int, seed: int, tokenizer: Tokenizer) -> list[Document]:
    """Documents of 1 to 200 tokens that begin with the boundary, masked in runs."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        tokens = [draw.randrange(256) for _ in range(draw.choice([0, 1, 3, 20, 60, 199]))]
        mask = [0] * draw.randrange(len(tokens) + 1)
        mask += [1] * (len(tokens) - len(mask))
        made.append(([tokenizer.boundary, *tokens], [0, *mask]))
    return made


def write(
    folder: Path,
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    *,
    kind: shards.Kind = "documents",
    num_shards: int = 3,
) -> Path:
    """`documents` as shards; every tenth is for validation."""
    files = []
    for split in ("train", "validation"):
        own = [(i, d) for i, d in enumerate(documents) if (i % 10 == 9) == (split == "validation")]
        count = num_shards if split == "train" else 1
        for index in range(count):
            table = _table(own[index::count], split, kind)
            files.append(shards.write_shard(table, folder, split, index, SETTINGS))
    shards.save_tokenizer(tokenizer, folder)
    extra = shards.describe(files, tokenizer, kind)
    made = Manifest("shards", "test", {}, {}, tuple(shards.in_order(files)), {}, extra)
    manifests.write(folder, made)
    return folder


def _table(rows: list[tuple[int, Document]], split: str, kind: str) -> pa.Table:
    ids = [f"<urn:{i}>" for i, _ in rows]
    columns = {
        "tokens": pa.array([d[0] for _, d in rows], pa.list_(pa.int32())),
        "token_count": pa.array([len(d[0]) for _, d in rows], pa.int64()),
        "id": pa.array(ids),
        "url": pa.array([f"https://example.org/{i}" for i, _ in rows]),
        "file_path": pa.array(["a.warc.gz"] * len(rows)),
        "record_offset": pa.array([i for i, _ in rows], pa.int64()),
        "split": pa.array([split] * len(rows)),
        "order_key": pa.array(shards.to_signed(shards.order_keys(ids, 0))),
        "text_bytes": pa.array(np.ones(len(rows), np.int64)),
    }
    if kind == "conversations":
        columns["loss_mask"] = pa.array([d[1] for _, d in rows], pa.list_(pa.uint8()))
    return pa.table(columns)


@pytest.fixture(scope="session")
def write_corpus(tokenizer: Tokenizer) -> Callable[..., Path]:
    """Write so many random documents into a folder; `seed` decides which."""

    def write_random(
        folder: Path, count: int, seed: int = 0, kind: shards.Kind = "documents"
    ) -> Path:
        return write(folder, random_documents(count, seed, tokenizer), tokenizer, kind=kind)

    return write_random


@pytest.fixture(scope="session")
def folders(
    tmp_path_factory: pytest.TempPathFactory, write_corpus: Callable[..., Path]
) -> dict[str, Path]:
    """Two corpora of documents and one of conversations, and a cache for plans."""
    root = tmp_path_factory.mktemp("loader")
    return {
        "pages": write_corpus(root / "pages", 150, 0),
        "books": write_corpus(root / "books", 150, 1),
        "chats": write_corpus(root / "chats", 150, 2, "conversations"),
        "cache": root / "cache",
    }
