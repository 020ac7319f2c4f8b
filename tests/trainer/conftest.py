"""Tiny shards: some written here from the contract alone, so that the trainer has a second opinion,
some by the code that writes real ones."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import random
import struct
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from corpus.tokens import shards
from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.config import from_dict
from schemas.datasets import SHARDS
from schemas.manifest import Manifest
from schemas.tokenizer import TOKENIZER_FILE, Tokenizer
from trainer.model.model import LanguageModel, ModelConfig
from trainer.settings import PretrainRecipe

torch.set_num_threads(1)

ROWS_PER_GROUP = 5
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "ran",
    "to",
    "an",
    "old",
    "red",
    "hat",
]
MERGES = [b"th", b"the", b" the", b" a", b"at", b" c", b" cat", b"an", b" s", b"er", b"in", b"on"]


def tiny_tokenizer() -> Tokenizer:
    """256 bytes and a dozen merges: 277 ids, padded to 320."""
    return tokenizers.from_tokens("tiny", [bytes([b]) for b in range(256)] + MERGES)


def make_documents(count: int = 60, seed: int = 0) -> list[str]:
    """Short texts of few words, of very different lengths."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.choice([1, 4, 12, 40]))) for _ in range(count)]


def write_shards(
    folder: Path, documents: list[str], tokenizer: Tokenizer, num_train_files: int = 2
) -> Path:
    """Write `documents` as shards of two splits; the last tenth is for validation."""
    folder.mkdir(parents=True)
    held_out = max(1, len(documents) // 10)
    train, validation = documents[:-held_out], documents[-held_out:]
    size = -(-len(train) // num_train_files)
    parts = [("train", train[i : i + size]) for i in range(0, len(train), size)]
    parts.append(("validation", validation))
    files = tuple(_write_file(folder, i, *part, tokenizer) for i, part in enumerate(parts))
    tokenizer.save(folder / TOKENIZER_FILE)
    tokens = {
        split: sum(f["extra"]["tokens"] for f in files if f["extra"]["split"] == split)
        for split in ("train", "validation")
    }
    extra = {
        "tokenizer": {
            "file": TOKENIZER_FILE,
            "name": tokenizer.name,
            "hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab_size,
            "padded_vocab_size": tokenizer.padded_vocab_size,
            "boundary": tokenizer.boundary,
            "chat_ids": tokenizer.chat_ids,
        },
        "tokens": tokens,
        "text_bytes": {
            "train": sum(len(d.encode()) for d in train),
            "validation": sum(len(d.encode()) for d in validation),
        },
        "format": 2,
        "kind": "documents",
    }
    values = {"dataset": "shards", "recipe": "test", "settings": {}, "inputs": {}, "files": files,
              "counts": {}, "extra": extra, "made": {}, "format": 1}  # fmt: skip
    extra["content_hash"] = content_hash(values)
    values["fingerprint"] = manifests.fingerprint("shards", {}, {})
    (folder / "manifest.json").write_text(json.dumps(values))
    return folder


def _write_file(
    folder: Path, index: int, split: str, documents: list[str], tokenizer: Tokenizer
) -> dict[str, Any]:
    streams = [[tokenizer.boundary, *tokenizer.encode(text)] for text in documents]
    count = len(streams)
    columns = [
        pa.array(streams, SHARDS.field("tokens").type),
        pa.array([len(s) for s in streams], pa.int64()),
        pa.array([f"{index}-{i}" for i in range(count)]),
        pa.array(["https://example.org/"] * count),
        pa.array(["a.warc.gz"] * count),
        pa.array(range(count), pa.int64()),
    ]
    name = f"{split}-{index:05d}.parquet"
    table = pa.Table.from_arrays(columns, schema=SHARDS)
    pq.write_table(table, folder / name, row_group_size=ROWS_PER_GROUP, use_dictionary=False)
    groups = [streams[i : i + ROWS_PER_GROUP] for i in range(0, count, ROWS_PER_GROUP)]
    row_groups = [_row_group(group) for group in groups]
    data = (folder / name).read_bytes()
    lengths = f"{split}-{index:05d}.lengths.npy"
    np.save(folder / lengths, np.array([len(s) for s in streams], "<i4"))
    digest = hashlib.sha256((folder / lengths).read_bytes()).hexdigest()
    extra = {
        "split": split,
        "index": index,
        "tokens": sum(map(len, streams)),
        "text_bytes": sum(len(text.encode()) for text in documents),
        "row_groups": row_groups,
        "lengths": {"name": lengths, "sha256": digest},
    }
    digest = hashlib.sha256(data).hexdigest()
    return {"name": name, "rows": count, "bytes": len(data), "sha256": digest, "counts": {},
            "extra": extra}  # fmt: skip


def content_hash(values: dict[str, Any]) -> str:
    """That of a manifest of shards, as docs/reference/format.md says it."""
    known = values["extra"]["tokenizer"]
    shards = [[f["extra"]["split"], f["extra"]["index"], f["sha256"]] for f in values["files"]]
    parts = {"format": 2, "shards": sorted(shards), "tokenizer": known["hash"]}
    text = json.dumps({**parts, "vocab_size": known["vocab_size"]}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def altered(folder: Path) -> Iterator[dict[str, Any]]:
    """The values of a manifest, written back when the block ends."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    yield values
    path.write_text(json.dumps(values))


def _row_group(streams: list[list[int]]) -> dict[str, object]:
    values = [token for stream in streams for token in stream]
    digest = hashlib.sha256(struct.pack(f"<{len(values)}i", *values)).hexdigest()
    return {"tokens": len(values), "documents": len(streams), "sha256": digest}


@pytest.fixture(scope="session", autouse=True)
def plans_of_tests_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plans are kept in a folder of the session's, in child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def shards_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Shards that no test changes."""
    return write_shards(tmp_path_factory.mktemp("data") / "shards", make_documents(), tokenizer)


@pytest.fixture
def own_shards(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """Shards for a test that damages them."""
    return write_shards(tmp_path / "shards", make_documents(), tokenizer)


@pytest.fixture
def alter_manifest() -> Callable[[Path, str, object], None]:
    """Change one value of a manifest's `extra`; the fingerprint does not cover it."""

    def alter(folder: Path, key: str, value: object) -> None:
        with altered(folder) as values:
            values["extra"][key] = value

    return alter


TINY_RECIPE = """
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8
intermediate_size = 64

[data]
seq_len = 32
batch_size = 4

[optimizer]
learning_rate = 1e-2

[schedule]
warmup_steps = 2

[run]
num_steps = 8
dtype = "float32"
num_threads = 1

[sample]
max_tokens = 12
"""


@pytest.fixture
def recipe() -> PretrainRecipe:
    """`TINY_RECIPE` as the trainer reads it."""
    return from_dict(tomllib.loads(TINY_RECIPE), PretrainRecipe, "tiny.toml")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return path


def make_model(tokenizer: Tokenizer, recipe: PretrainRecipe, tied: bool) -> LanguageModel:
    """An untrained tiny model, its weights large enough to have opinions."""
    torch.manual_seed(3)
    settings = dataclasses.replace(recipe.model, tie_word_embeddings=tied)
    made = LanguageModel(ModelConfig(settings, tokenizer.padded_vocab_size, tokenizer.boundary, 32))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return made.eval()


@pytest.fixture
def model(tokenizer: Tokenizer, recipe: PretrainRecipe) -> LanguageModel:
    return make_model(tokenizer, recipe, tied=True)


@pytest.fixture
def untied_model(tokenizer: Tokenizer, recipe: PretrainRecipe) -> LanguageModel:
    return make_model(tokenizer, recipe, tied=False)


# Shards written by the code that writes real ones, of random documents and conversations.

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


@pytest.fixture
def silent_chats(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """Conversations in which the assistant says nothing."""
    documents = [([tokenizer.boundary, 1, 2, 3], [0, 0, 0, 0])] * 40
    return write(tmp_path / "silent", documents, tokenizer, kind="conversations")
