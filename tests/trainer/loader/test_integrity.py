"""Shards that are not what their manifest says: refused, with file, expected and found."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from trainer.loader import Batch, Loader

Write = Callable[..., Path]


@pytest.fixture(params=["documents", "conversations"])
def corpus(tmp_path: Path, write_corpus: Write, request: pytest.FixtureRequest) -> Path:
    """Shards for a test that damages them."""
    return write_corpus(tmp_path / "shards", 60, 0, request.param)


def batches(folder: Path, **settings: bool) -> list[Batch]:
    """Two epochs, planned from what is there."""
    cache = folder.parent / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    loader = Loader([folder], seq_len=32, rows=8, packing="best_fit", cache=cache, **settings)
    steps = 2 * loader.sources[0].plan(0).num_rows // 8
    return [loader.batch(step) for step in range(steps)]


def refusal(folder: Path, **settings: bool) -> str:
    with pytest.raises(UserError) as caught:
        batches(folder, **settings)
    return str(caught.value)


def shard_files(folder: Path) -> list[Path]:
    """Parquet files and lengths of the training split."""
    return sorted([*folder.glob("train-*.parquet"), *folder.glob("train-*.npy")])


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def damage(folder: Path, count: int, change: Callable[[Path, random.Random], object]) -> None:
    """Change a file in each of `count` ways, one after the other: all are refused by its name."""
    draw, files = random.Random(1), shard_files(folder)
    for _ in range(count):
        path = draw.choice(files)
        before = path.read_bytes()
        change(path, draw)
        message = refusal(folder, check_files=True)
        assert path.name in message
        assert re.search(r"(SHA-256 \w+|bytes), the manifest says \w+", message)
        path.write_bytes(before)
    batches(folder)


def flip_any(path: Path, draw: random.Random) -> None:
    flip(path, draw.randrange(8 * path.stat().st_size))


def cut_anywhere(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def test_any_single_bit_flip_is_refused(corpus: Path) -> None:
    damage(corpus, 10, flip_any)


def test_any_truncation_is_refused(corpus: Path) -> None:
    damage(corpus, 10, cut_anywhere)


@pytest.mark.soak
def test_1000_single_bit_flips_are_refused(corpus: Path) -> None:
    damage(corpus, 1000, flip_any)


@pytest.mark.soak
def test_200_truncations_are_refused(corpus: Path) -> None:
    damage(corpus, 200, cut_anywhere)


def flip_footer(path: Path, draw: random.Random) -> None:
    """A bit of what Parquet says of the file's columns and row groups; lengths have no such."""
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little") + 8 if path.suffix == ".parquet" else len(data)
    flip(path, 8 * (len(data) - size) + draw.randrange(8 * size))


def flips_change_no_batch(
    folder: Path, count: int, change: Callable[[Path, random.Random], object] = flip_any
) -> int:
    """Flip bits, files not hashed as a whole; how many were refused, the others changed nothing."""
    draw, refused = random.Random(2), 0
    right = batches(folder)
    for _ in range(count):
        path = draw.choice(shard_files(folder))
        before = path.read_bytes()
        change(path, draw)
        with contextlib.suppress(UserError):
            found, refused = batches(folder), refused - 1
            for one, other in zip(found, right, strict=True):
                assert np.array_equal(one.inputs, other.inputs)
                assert np.array_equal(one.targets, other.targets)
        refused += 1
        path.write_bytes(before)
    return refused


def test_a_flip_in_what_training_reads_never_reaches_a_batch(corpus: Path) -> None:
    assert flips_change_no_batch(corpus, 15) >= 5


def test_a_flip_in_a_footer_never_reaches_a_batch(corpus: Path) -> None:
    assert flips_change_no_batch(corpus, 15, flip_footer) >= 5


@pytest.mark.soak
def test_1000_flips_in_footers_never_reach_a_batch(corpus: Path) -> None:
    assert flips_change_no_batch(corpus, 1000, flip_footer) >= 300


@pytest.mark.soak
def test_1000_flips_in_what_training_reads_never_reach_a_batch(corpus: Path) -> None:
    assert flips_change_no_batch(corpus, 1000) >= 500


@pytest.mark.parametrize("corpus", ["documents"], indirect=True)
def test_swapped_shards_are_refused(corpus: Path) -> None:
    first, second = sorted(corpus.glob("train-*.parquet"))[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    assert re.search(r"train-0000\d-.* bytes, the manifest says \d+", refusal(corpus))


@pytest.mark.parametrize("corpus", ["documents"], indirect=True)
def test_shards_of_one_size_swapped_are_refused(corpus: Path) -> None:
    path = min(corpus.glob("train-*.parquet"))
    table = pq.read_table(path)
    values = pa.array(table["tokens"].to_pylist(), table.schema.field("tokens").type)
    changed = [[(t + 1) % 200 for t in row] for row in values.to_pylist()]
    again = table.set_column(0, table.schema.field(0), pa.array(changed, values.type))
    pq.write_table(again, path, row_group_size=7, compression="none")
    manifest = manifests.read(corpus)
    assert manifest is not None
    size = path.stat().st_size
    files = [
        manifests.DataFile(f.name, f.rows, size if f.name == path.name else f.bytes, f.sha256)
        for f in manifest.files
    ]
    for new, old in zip(files, manifest.files, strict=True):
        new.extra.update(old.extra)
    object.__setattr__(manifest, "files", tuple(files))
    manifests.write(corpus, manifest)
    said = rf"{path.name}: row group \d has SHA-256 \w{{12}}, the manifest says \w{{12}}"
    assert re.search(said, refusal(corpus))
    assert re.search(rf"{path.name}: SHA-256 \w+, the manifest", refusal(corpus, check_files=True))


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_a_missing_file_is_refused(corpus: Path, suffix: str) -> None:
    path = min(corpus.glob(f"train-*.{suffix}"))
    path.unlink()
    assert f"{path}: missing, the manifest lists it" in refusal(corpus)


def test_lengths_of_other_documents_are_refused_though_the_manifest_lists_them(
    corpus: Path,
) -> None:
    manifest = manifests.read(corpus)
    assert manifest is not None
    file = next(file for file in manifest.files if file.extra["split"] == "train")
    path = corpus / file.extra["lengths"]["name"]
    lengths = np.load(path)
    longest = int(lengths[:7].argmax())
    lengths[longest] -= 1
    lengths[(longest + 1) % 7] += 1  # of the same row group, whose sum stays
    np.save(path, lengths)
    file.extra["lengths"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifests.write(corpus, manifest)
    said = f"{path}: not the documents of row group 0 of {file.name}"
    assert said in refusal(corpus)


@pytest.mark.parametrize("key", ["kind", "lengths", "row_groups"])
def test_a_manifest_that_lacks_something_is_refused(corpus: Path, key: str) -> None:
    manifest = manifests.read(corpus)
    assert manifest is not None
    for values in (manifest.extra, *(file.extra for file in manifest.files)):
        values.pop(key, None)
    manifests.write(corpus, manifest)
    assert f"manifest.json: not a manifest of shards: KeyError('{key}')" in refusal(corpus)


def test_an_extra_shard_is_refused(corpus: Path) -> None:
    shutil.copy(min(corpus.glob("train-*.parquet")), corpus / "train-00009.parquet")
    message = refusal(corpus)
    assert "train-00009.parquet: not listed in manifest.json" in message


def test_an_unfinished_temporary_file_is_no_extra_shard(corpus: Path) -> None:
    (corpus / ".train-00009.x.tmp").write_bytes(b"half")
    assert batches(corpus)


def test_shards_of_another_tokenizer_are_refused(corpus: Path) -> None:
    other = tokenizers.from_tokens("other", [bytes([b]) for b in range(256)] + [b"zz"])
    (path,) = corpus.glob("tokenizer-*.json")
    expected = tokenizers.load(path).hash
    other.save(path)
    message = refusal(corpus)
    assert path.name in message
    assert other.hash[:12] in message
    assert expected[:12] in message


def test_a_manifest_that_lists_another_shard_is_refused(corpus: Path, tmp_path: Path) -> None:
    manifest = manifests.read(corpus)
    assert manifest is not None
    manifest.files[0].extra["index"], manifest.files[1].extra["index"] = 1, 0
    manifests.write(corpus, manifest)
    message = refusal(corpus)
    assert "manifest.json: content hash " in message
    assert "its shards make" in message


@pytest.mark.parametrize("corpus", ["documents"], indirect=True)
@pytest.mark.parametrize("found", [1, 3])
def test_shards_of_another_format_are_refused(corpus: Path, found: int) -> None:
    manifest = manifests.read(corpus)
    assert manifest is not None
    manifest.extra["format"] = found
    manifests.write(corpus, manifest)
    assert f"shards of format {found}, this version reads format 2" in refusal(corpus)


def test_a_row_group_is_checked_once(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = corpus.parent / "cache"
    loader = Loader([corpus], seq_len=32, rows=8, packing="best_fit", cache=cache)
    groups = loader.sources[0].row_groups
    checked: list[int] = []
    original = groups._check
    monkeypatch.setattr(
        groups, "_check", lambda group, *got: checked.append(group) or original(group, *got)
    )
    for step in range(3 * loader.sources[0].plan(0).num_rows // 8):
        loader.batch(step)
    assert sorted(checked) == list(range(len(groups.tokens)))
