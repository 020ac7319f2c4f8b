"""Batches against a slow reader, and every way in which shards can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from trainer.data import CACHED_ROW_GROUPS, num_windows, open_shards, rank_rows, train_batch


def slow_stream(folder: Path, split: str) -> list[int]:
    """All tokens of a split, a Python object each."""
    manifest = manifests.read(folder)
    assert manifest is not None
    tokens: list[int] = []
    for file in manifest.files:
        if file.extra["split"] == split:
            for row in pq.read_table(folder / file.name).column("tokens").to_pylist():
                tokens += row or []
    return tokens


def slow_batch(tokens: list[int], seq_len: int, batch_size: int, step: int) -> list[list[int]]:
    windows = [tokens[i : i + seq_len + 1] for i in range(0, len(tokens) - seq_len, seq_len)]
    return [windows[(step * batch_size + row) % len(windows)] for row in range(batch_size)]


@given(
    seq_len=st.integers(2, 120), batch_size=st.integers(1, 9), steps=st.lists(st.integers(0, 500))
)
def test_batches_equal_a_slow_readers(
    shards_folder: Path, seq_len: int, batch_size: int, steps: list[int]
) -> None:
    stream = open_shards(shards_folder).train
    tokens = slow_stream(shards_folder, "train")
    for step in steps:
        found = train_batch(stream, seq_len, batch_size, step)
        assert found.tolist() == slow_batch(tokens, seq_len, batch_size, step)


@given(start=st.integers(0, 10_000), count=st.integers(0, 10_000))
def test_any_stretch_of_the_stream_can_be_read(shards_folder: Path, start: int, count: int) -> None:
    stream = open_shards(shards_folder).validation
    tokens = slow_stream(shards_folder, "validation")
    start = start % len(tokens)
    count = min(count, len(tokens) - start)
    found = stream.read(start, count)
    assert found.dtype == np.int32
    assert found.tolist() == tokens[start : start + count]


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_of_any_number_together_read_the_global_batch(
    shards_folder: Path, world_size: int
) -> None:
    whole = train_batch(open_shards(shards_folder).train, 16, 6, 7)
    parts = [
        train_batch(open_shards(shards_folder).train, 16, 6, 7, rank_rows(6, rank, world_size))
        for rank in range(world_size)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch_size = 8: must be a multiple of the 3"):
        rank_rows(8, 0, 3)


def test_few_row_groups_are_held_however_much_is_read(shards_folder: Path) -> None:
    stream = open_shards(shards_folder).train
    assert len(stream._groups) > 3 * CACHED_ROW_GROUPS
    for step in range(num_windows(stream, 16)):
        train_batch(stream, 16, 1, step)
        assert len(stream._cache) <= CACHED_ROW_GROUPS


def test_a_window_holds_the_token_that_the_next_one_starts_with(shards_folder: Path) -> None:
    stream = open_shards(shards_folder).train
    first, second = train_batch(stream, 16, 2, 0)
    assert first[-1] == second[0]
    assert num_windows(stream, 16) == (len(stream) - 1) // 16


def first_file(folder: Path) -> Path:
    return sorted(folder.glob("train-*.parquet"))[0]


def refusal(folder: Path, vocab_size: int = 0) -> str:
    """What is said about the shards, on opening them or reading all."""

    def read() -> None:
        shards = open_shards(folder, vocab_size)
        shards.train.read(0, len(shards.train))

    with pytest.raises(UserError) as caught:
        read()
    return str(caught.value)


def test_a_missing_shard_is_named(own_shards: Path) -> None:
    first_file(own_shards).unlink()
    assert "train-00000.parquet: missing, the manifest lists it" in refusal(own_shards)


def test_a_torn_shard_is_named(own_shards: Path) -> None:
    path = first_file(own_shards)
    path.write_bytes(path.read_bytes()[:-100])
    assert "train-00000.parquet" in refusal(own_shards)
    assert "torn or altered" in refusal(own_shards)


def test_a_shard_with_one_bit_changed_is_named(own_shards: Path) -> None:
    path = first_file(own_shards)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    message = refusal(own_shards)
    assert "train-00000.parquet: SHA-256" in message
    assert "altered" in message


def test_no_shards_at_all_is_said_and_where_they_may_be(own_shards: Path) -> None:
    message = refusal(own_shards.parent)
    assert "no shards here" in message
    assert f"did you mean {own_shards}?" in message


def test_another_dataset_is_refused(tmp_path: Path) -> None:
    manifests.write(tmp_path, manifests.Manifest("canonical", "r", {}, {}, (), {}))
    assert "holds the dataset 'canonical', expected 'shards'" in refusal(tmp_path)


def test_a_tokenizer_of_another_corpus_is_refused(own_shards: Path) -> None:
    other = tokenizers.from_tokens("other", [bytes([b]) for b in range(256)] + [b"zz"])
    other.save(own_shards / tokenizers.TOKENIZER_FILE)
    message = refusal(own_shards)
    assert tokenizers.TOKENIZER_FILE in message
    assert other.hash[:12] in message
    assert "(tiny)" in message


def test_a_missing_tokenizer_is_named(own_shards: Path) -> None:
    (own_shards / tokenizers.TOKENIZER_FILE).unlink()
    assert f"{tokenizers.TOKENIZER_FILE}: no such tokenizer file" in refusal(own_shards)


def test_a_vocabulary_that_the_recipe_was_not_made_for_is_refused(own_shards: Path) -> None:
    assert "padded vocabulary 320, the recipe expects data.vocab_size = 4096" in refusal(
        own_shards, 4096
    )


Alter = Callable[[Path, str, object], None]


@pytest.mark.parametrize("key", ["tokenizer", "tokens", "content_hash"])
def test_a_manifest_without_its_extra_is_refused(
    own_shards: Path, alter_manifest: Alter, key: str
) -> None:
    alter_manifest(own_shards, key, None)
    assert "not a manifest of shards" in refusal(own_shards)


def test_token_counts_that_disagree_are_refused(own_shards: Path, alter_manifest: Alter) -> None:
    alter_manifest(own_shards, "tokens", {"train": 1, "validation": 2})
    assert "split 'train' says 1 tokens, its files list" in refusal(own_shards)


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply `change` to the `extra` of the first file."""
    manifest = manifests.read(folder)
    assert manifest is not None
    change(manifest.files[0].extra)
    manifests.write(folder, manifest)


def test_an_empty_split_is_refused(own_shards: Path, alter_manifest: Alter) -> None:
    manifest = manifests.read(own_shards)
    assert manifest is not None
    for file in manifest.files:
        file.extra["split"] = "train"
    manifests.write(own_shards, manifest)
    total = sum(file.extra["tokens"] for file in manifest.files)
    alter_manifest(own_shards, "tokens", {"train": total, "validation": 0})
    assert "split 'validation' has 0 tokens" in refusal(own_shards)


def test_row_groups_that_are_not_the_files_are_refused(own_shards: Path) -> None:
    def swap(extra: dict[str, Any]) -> None:
        extra["row_groups"][0]["tokens"] += 1
        extra["row_groups"][1]["tokens"] -= 1

    rewrite_manifest(own_shards, swap)
    assert "row group 0 has" in refusal(own_shards)


def test_an_id_that_the_model_has_no_row_for_is_refused(own_shards: Path) -> None:
    shards = open_shards(own_shards)
    shards.train.vocab_size = 100
    with pytest.raises(UserError, match="expected 0 to 99"):
        shards.train.read(0, 10)


def test_too_few_tokens_for_one_window_are_refused(shards_folder: Path) -> None:
    stream = open_shards(shards_folder).train
    with pytest.raises(UserError, match=r"tokens to train on, data.seq_len = 100000 needs"):
        num_windows(stream, 100_000)
