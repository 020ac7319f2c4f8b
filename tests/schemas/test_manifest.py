"""A dataset is what its manifest lists, and a manifest is put in place in one step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import (
    CanonicalExtra,
    ClustersExtra,
    Companion,
    ContaminationExtra,
    DataFile,
    DocumentsFile,
    Estimate,
    ForgottenExtra,
    FormCounts,
    Manifest,
)
from tests.listed_shards import listed_as_shard

MADE = Manifest(
    dataset="canonical",
    recipe="sample",
    settings={"language": {"languages": ["en"]}},
    inputs={"documents": "abc"},
    files=(DataFile("a.parquet", 3, 100, counts={"kept": 3}),),
    counts={"kept": 3},
    extra=CanonicalExtra({"email": 1}),
    made={"seconds": 1.5},
)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest.write(tmp_path, MADE)
    assert manifest.read(tmp_path) == MADE
    assert [path.name for path in tmp_path.iterdir()] == [manifest.MANIFEST_FILE]


def shards_manifest() -> Manifest:
    file, extra = listed_as_shard(DataFile("a.parquet", 3, 100))
    chats = {"forms": (FormCounts("messages", 3, 3, 6, 9, 4, 0, 0, 0),), "reasons": {"a": 1}}
    extra = dataclasses.replace(extra, rejected=Companion("b.jsonl", "1" * 64), **chats)
    return Manifest("shards", "sample", {}, {}, (file,), {"documents": 3}, extra)


ESTIMATE = Estimate(0.8, 0, None, 0.0, 1.0, None, 0, None)
OTHERS = [
    Manifest("bands", "r", {}, {}, (DataFile("a", 1, 2, counts={"kept": 1}),), {}),
    Manifest("documents", "r", {}, {}, (DataFile("a", 1, 2, extra=DocumentsFile(("x",))),), {}),
    Manifest("clusters", "r", {}, {}, (), {}, ClustersExtra({"near": 1}, None, ESTIMATE)),
    Manifest("contamination", "r", {}, {}, (), {}, ContaminationExtra("drop", ())),
    Manifest("forgotten", "r", {}, {}, (), {}, ForgottenExtra(True)),
]


@pytest.mark.parametrize("made", [shards_manifest(), *OTHERS], ids=lambda made: made.dataset)
def test_what_only_one_dataset_has_comes_back_as_it_was_written(
    tmp_path: Path, made: Manifest
) -> None:
    manifest.write(tmp_path / "one", made)
    read = manifest.read(tmp_path / "one")
    assert read == made
    manifest.write(tmp_path / "two", read)
    one, two = (tmp_path / name / manifest.MANIFEST_FILE for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_share_that_is_not_known_is_null_and_what_a_manifest_lacks_is_left_out(
    tmp_path: Path,
) -> None:
    manifest.write(tmp_path, OTHERS[2])
    extra = json.loads((tmp_path / manifest.MANIFEST_FILE).read_text())["extra"]
    assert extra["estimate"]["precision"] is None
    assert extra.keys() == {"links", "estimate"}


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("extra", "kind"), "pages", "extra: kind = 'pages': must be one of 'documents', 'conv"),
        (("extra", "tokens"), {"train": 9}, "extra: tokens = {'train': 9}: must be of both"),
        (("extra", "tokens", "train"), -1, "extra: tokens.train = -1: must be at least 0"),
        (("extra", "tokenizer", "file"), "../x", "extra: tokenizer.file = '../x': must be one"),
        (("extra", "rejected", "name"), "a/b", "extra: rejected.name = 'a/b': must be one plain"),
        (("extra", "content_hash"), "0", "extra: content_hash = '0': must be 64 hex digits"),
        (("extra", "later"), 1, "extra: unknown key 'later'"),
        (("files", 0, "extra", "split"), "test", "'a.parquet': extra: split = 'test': must be one"),
        (("files", 0, "extra", "lengths", "name"), "..", "extra: lengths.name = '..': must be one"),
        (("files", 0, "extra", "row_groups", 0, "tokens"), 2**31,
         r"'a.parquet': extra: row_groups\[0\].tokens = 2147483648: must be"),
        (("files", 0, "extra"), [], r"'a.parquet': extra: must be a table, not \[\]"),
        (("files", 0, "sha256"), None, "'a.parquet': sha256 = None: must be 64 hex digits"),
        (("files", 0, "rows"), 4, "'a.parquet': rows = 4: its row groups have 3"),
        (("files", 0, "rows"), 3.0, "'a.parquet': rows = 3.0: must be of type int"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_named_with_its_file_and_key(
    tmp_path: Path, place: tuple[Any, ...], value: object, said: str
) -> None:
    manifest.write(tmp_path, shards_manifest())
    path = tmp_path / manifest.MANIFEST_FILE
    values = entry = json.loads(path.read_text())
    for step in place[:-1]:
        entry = entry[step]
    entry[place[-1]] = value
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"{path}: not a manifest of this version: .*{said}"):
        manifest.read(tmp_path)


def test_no_manifest_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    assert manifest.read(tmp_path) is None


def test_times_and_versions_stand_outside_the_fingerprint() -> None:
    assert dataclasses.replace(MADE, made={}).fingerprint == MADE.fingerprint
    other = dataclasses.replace(MADE, settings={"language": {"languages": ["de"]}})
    assert other.fingerprint != MADE.fingerprint
    assert dataclasses.replace(MADE, inputs={"documents": "x"}).fingerprint != MADE.fingerprint


def test_an_altered_manifest_is_refused(tmp_path: Path) -> None:
    manifest.write(tmp_path, MADE)
    path = tmp_path / manifest.MANIFEST_FILE
    values = json.loads(path.read_text())
    values["settings"] = {}
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="altered"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"format": 99}', '{"format": 1}', "[]"])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / manifest.MANIFEST_FILE).write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        manifest.read(tmp_path)


def _fail_halfway(path: Path) -> None:
    with manifest.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), manifest.atomic_path(path):
        pass  # the block wrote nothing
    with pytest.raises(ZeroDivisionError):
        _fail_halfway(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
