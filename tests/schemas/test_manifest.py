"""A dataset is what its manifest lists, and a manifest is put in place in one step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest

MADE = Manifest(
    dataset="judged",
    recipe="sample",
    settings={"language": {"languages": ["en"]}},
    inputs={"documents": "abc"},
    files=(DataFile("a.parquet", 3, 100, counts={"kept": 3}),),
    counts={"kept": 3},
    extra={"x": 1},
    made={"seconds": 1.5},
)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest.write(tmp_path, MADE)
    assert manifest.read(tmp_path) == MADE
    assert [path.name for path in tmp_path.iterdir()] == [manifest.MANIFEST_FILE]


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
