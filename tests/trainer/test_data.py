"""Damaged or inconsistent folders of shards: the error names the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from trainer.data.loader import Loader

from .conftest import altered


def first_file(folder: Path) -> Path:
    return sorted(folder.glob("train-*.parquet"))[0]


def refusal(folder: Path, vocab_size: int = 0) -> str:
    """The error on opening the shards or reading all of them."""

    def read() -> None:
        loader = Loader([folder], seq_len=16, rows=4, vocab_size=vocab_size, check_files=True)
        loader.batch(0, range(loader.num_rows()))

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
    message = refusal(own_shards)
    assert re.search(rf"manifest\.json: .*extra: '?{key}\b", message)
    assert "None" in message


def test_token_counts_that_disagree_are_refused(own_shards: Path, alter_manifest: Alter) -> None:
    alter_manifest(own_shards, "tokens", {"train": 1, "validation": 2})
    assert "split 'train' says 1 tokens, its files list" in refusal(own_shards)


def test_an_empty_split_is_refused(own_shards: Path, alter_manifest: Alter) -> None:
    with altered(own_shards) as values:
        for file in values["files"]:
            file["extra"]["split"] = "train"
        total = sum(file["extra"]["tokens"] for file in values["files"])
    alter_manifest(own_shards, "tokens", {"train": total, "validation": 0})
    assert "split 'validation' has 0 tokens" in refusal(own_shards)


def test_row_groups_that_are_not_the_files_are_refused(own_shards: Path) -> None:
    with altered(own_shards) as values:
        first, second = values["files"][0]["extra"]["row_groups"][:2]
        first["tokens"] += 1
        second["tokens"] -= 1
    assert re.search(r"row group \d has \d+ values in tokens, the manifest", refusal(own_shards))
