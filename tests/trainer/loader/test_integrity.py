"""Shards that differ from their manifest: the error names file, expected and found value."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.data.loader import Batch, Loader
from trainer.data.shards import open_shards

from ..conftest import altered, random_documents, write

Write = Callable[..., Path]


@pytest.fixture(params=["documents", "conversations"])
def corpus(tmp_path: Path, write_corpus: Write, request: pytest.FixtureRequest) -> Path:
    """Shards for a test that damages them."""
    return write_corpus(tmp_path / "shards", 60, 0, request.param)


def batches(folder: Path, **settings: bool) -> list[Batch]:
    """Two epochs of batches, with a new plan."""
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


def damage(folder: Path, count: int, change: Callable[[Path, random.Random], object]) -> int:
    """Change one file at a time, `count` times: how many changes are refused, naming the file."""
    draw, files, refused = random.Random(1), shard_files(folder), 0
    for _ in range(count):
        path = draw.choice(files)
        before = path.read_bytes()
        change(path, draw)
        message = refusal(folder, check_files=True)
        named = re.search(r"(SHA-256 \w+|bytes), the manifest says \w+", message)
        refused += path.name in message and named is not None
        path.write_bytes(before)
    batches(folder)
    return refused


def flip_any(path: Path, draw: random.Random) -> None:
    flip(path, draw.randrange(8 * path.stat().st_size))


def cut_anywhere(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def test_any_single_bit_flip_is_refused(corpus: Path) -> None:
    assert damage(corpus, 10, flip_any) == 10


def test_any_truncation_is_refused(corpus: Path) -> None:
    assert damage(corpus, 10, cut_anywhere) == 10


@pytest.mark.soak
def test_1000_single_bit_flips_are_refused(corpus: Path) -> None:
    assert damage(corpus, 1000, flip_any) == 1000


@pytest.mark.soak
def test_200_truncations_are_refused(corpus: Path) -> None:
    assert damage(corpus, 200, cut_anywhere) == 200


def flip_footer(path: Path, draw: random.Random) -> None:
    """Flip a bit of Parquet's metadata at the end of the file; any bit of a lengths file."""
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little") + 8 if path.suffix == ".parquet" else len(data)
    flip(path, 8 * (len(data) - size) + draw.randrange(8 * size))


def flips_change_no_batch(
    folder: Path, count: int, change: Callable[[Path, random.Random], object] = flip_any
) -> int:
    """Flip bits, whole files not hashed; returns how many were refused, others change nothing."""
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
    with altered(corpus) as values:
        entry = next(file for file in values["files"] if file["name"] == path.name)
        entry["bytes"] = path.stat().st_size
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
    with altered(corpus) as values:
        file = next(file for file in values["files"] if file["extra"]["split"] == "train")
        path = corpus / file["extra"]["lengths"]["name"]
        lengths = np.load(path)
        longest = int(lengths[:7].argmax())
        lengths[longest] -= 1
        lengths[(longest + 1) % 7] += 1  # of the same row group, whose sum stays
        np.save(path, lengths)
        file["extra"]["lengths"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    said = f"{path}: not the documents of row group 0 of {file['name']}"
    assert said in refusal(corpus)


@pytest.mark.parametrize("key", ["kind", "lengths", "row_groups"])
def test_a_manifest_that_lacks_something_is_refused(corpus: Path, key: str) -> None:
    with altered(corpus) as values:
        for one in (values, *values["files"]):
            one["extra"].pop(key, None)
    said = rf"manifest\.json: not a manifest of this version: .*extra: {key}: is missing"
    assert re.search(said, refusal(corpus))


def same(found: list[Batch], right: list[Batch]) -> bool:
    """Whether two lists of batches are equal token by token."""
    pairs = list(zip(found, right, strict=True))
    return all(
        np.array_equal(a.inputs, b.inputs) and np.array_equal(a.targets, b.targets)
        for a, b in pairs
    )


def test_files_that_the_manifest_does_not_list_are_not_read(
    corpus: Path, tmp_path: Path, write_corpus: Write
) -> None:
    """Shards left by a killed `gristmill shard`, and a shard copied by mistake."""
    right = batches(corpus)
    other = write_corpus(tmp_path / "other", 90, 5)
    for path in other.iterdir():
        if path.name != "manifest.json":
            shutil.copy(path, corpus / path.name)
    copied = corpus / "train-00009.parquet"
    shutil.copy(min(corpus.glob("train-*.parquet")), copied)
    assert same(batches(corpus), right)
    unlisted = open_shards(corpus).unlisted
    assert copied.name in unlisted
    assert {path.name for path in other.glob("*.parquet")} < set(unlisted)


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
    with altered(corpus) as values:
        first, second = (file["extra"] for file in values["files"][:2])
        first["index"], second["index"] = 1, 0
    message = refusal(corpus)
    assert "manifest.json: content hash " in message
    assert "that of its shards is" in message


@pytest.mark.parametrize("corpus", ["documents"], indirect=True)
@pytest.mark.parametrize("found", [1, 3])
def test_shards_of_another_format_are_refused(corpus: Path, found: int) -> None:
    with altered(corpus) as values:
        values["extra"]["format"] = found
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


# Files that are replaced between runs or during one.

Change = Callable[[Path, Path], object]  # of a file, and another of the same kind


def exchange(path: Path, other: Path) -> None:
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


def rename_over(path: Path, other: Path) -> None:
    shutil.copy(other, path.with_name(".new"))
    path.with_name(".new").replace(path)


def flip_in_place(path: Path, other: Path) -> None:
    """Flip the lowest bit of every 97th byte between the first 4 bytes and the footer."""
    with open(path, "r+b") as file:
        for at in range(40, path.stat().st_size * 2 // 3, 97):
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))


CHANGES: dict[str, Change] = {
    "exchanged": exchange,
    "replaced by another": rename_over,
    "overwritten": lambda path, other: path.write_bytes(other.read_bytes()),
    "flipped in place": flip_in_place,
    "truncated": lambda path, other: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path, other: path.write_bytes(b""),
    "appended to": lambda path, other: path.write_bytes(path.read_bytes() + b"\0"),
    "of zeros": lambda path, other: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path, other: path.unlink(),
    "a folder": lambda path, other: (path.unlink(), path.mkdir()),
    "a symbolic link": lambda path, other: (path.unlink(), path.symlink_to(other)),
}


@pytest.mark.parametrize("of", ["train", "validation", "another root"])
@pytest.mark.parametrize("suffix", ["parquet", "npy"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_became_another_is_refused_by_name(
    corpus: Path, tmp_path: Path, write_corpus: Write, change: str, suffix: str, of: str
) -> None:
    root = write_corpus(tmp_path / "other", 60, 1) if of == "another root" else corpus
    path, split = min(corpus.glob(f"train-*.{suffix}")), "train" if of == "train" else "validation"
    CHANGES[change](path, max(root.glob(f"{split}-*.{suffix}")))
    assert path.name in refusal(corpus, check_files=True)


def other_of_equal_size(folder: Path, path: Path, tokenizer: Tokenizer) -> Path:
    """A valid shard of other documents with the size of `path`, in a root of its own."""
    documents = random_documents(60, 0, tokenizer)
    for seed in range(1000):
        draw = random.Random(seed)
        changed = [([t[0], *(draw.randrange(256) for _ in t[1:])], m) for t, m in documents]
        write(folder / str(seed), changed, tokenizer)
        found = min((folder / str(seed)).glob("train-*.parquet"))
        if found.stat().st_size == path.stat().st_size:
            return found
        shutil.rmtree(folder / str(seed))
    raise AssertionError("no shard of this size was drawn")


@pytest.mark.parametrize("corpus", ["documents"], indirect=True)
def test_another_roots_shard_of_equal_size_is_refused(
    corpus: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = min(corpus.glob("train-*.parquet"))
    other = other_of_equal_size(tmp_path / "other", path, tokenizer)
    assert other.read_bytes() != path.read_bytes()
    shutil.copy(other, path)
    shutil.copy(other.with_suffix(".lengths.npy"), path.with_suffix(".lengths.npy"))
    for settings in ({}, {"check_files": True}):
        assert re.search(rf"{path.stem}.* SHA-256 \w+, the manifest", refusal(corpus, **settings))


def altered_while_reading(
    folder: Path, kept: Path, change: Change, seed: int, **settings: Any
) -> bool:
    """Change a file during three epochs: batches are correct, or an error names it (True)."""
    draw = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder)
    cache = folder.parent / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    plain = {"seq_len": 32, "rows": 8, "packing": "best_fit", "window_tokens": 300, "cache": cache}
    loader, right = Loader([folder], **plain, **settings), Loader([kept], **plain)
    steps = 3 * right.sources[0].plan(0).num_rows // 8
    at, files = draw.randrange(steps), shard_files(folder)  # lengths are in memory most times
    (path,) = draw.choices(files, [5 if file.suffix == ".parquet" else 1 for file in files])
    other = draw.choice([p for p in shard_files(folder) if p.suffix == path.suffix and p != path])
    try:
        for step in range(steps):
            if step == at:
                change(path, other)
            found, expected = loader.batch(step), right.batch(step)
            assert np.array_equal(found.inputs, expected.inputs), (seed, step)
            assert np.array_equal(found.targets, expected.targets), (seed, step)
    except UserError as error:
        named = [name for name in (path.name, other.name) if name in str(error)]
    else:
        return False
    assert named, seed
    return True


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_training_reads_gives_right_batches_or_a_refusal(
    corpus: Path, change: str
) -> None:
    kept = corpus.rename(corpus.with_name("kept"))
    for seed in range(3):
        altered_while_reading(corpus, kept, CHANGES[change], seed)


@pytest.mark.parametrize("corpus", ["documents"], indirect=True)
@pytest.mark.parametrize("change", ["overwritten", "flipped in place", "replaced by another"])
def test_a_shard_that_changes_after_its_first_epoch_is_refused(corpus: Path, change: str) -> None:
    """All row groups were checked by then, but the next epoch reads other bytes."""
    cache = corpus.parent / "cache"
    loader = Loader([corpus], seq_len=32, rows=8, packing="best_fit", cache=cache)
    for step in range(loader.sources[0].plan(0).num_rows // 8):
        loader.batch(step)
    path, other = sorted(corpus.glob("train-*.parquet"))[:2]
    CHANGES[change](path, other)
    steps = range(2 * loader.sources[0].plan(1).num_rows // 8)
    with pytest.raises(UserError, match=path.name):
        list(map(loader.batch, steps))


def test_a_shard_that_is_only_touched_or_copied_is_read_on(corpus: Path) -> None:
    cache = corpus.parent / "cache"
    right = batches(corpus)
    loader = Loader([corpus], seq_len=32, rows=8, packing="best_fit", cache=cache)
    found = []
    for step in range(len(right)):
        if step == len(right) // 2:
            for path in shard_files(corpus):
                rename_over(path, path)
        found.append(loader.batch(step))
    assert same(found, right)


@pytest.mark.soak
def test_165_files_that_change_while_training_reads(
    corpus: Path, figures: Callable[[str, str], None]
) -> None:
    kept = corpus.rename(corpus.with_name("kept"))
    refused = sum(
        altered_while_reading(corpus, kept, change, seed, check_files=bool(seed % 2))
        for change in CHANGES.values()
        for seed in range(15)
    )
    figures(
        "no silently different batch",
        f"165 files changed in {len(CHANGES)} ways while a run reads: {refused} refused by name, "
        f"{165 - refused} read to the end with equal batches, 0 different",
    )
