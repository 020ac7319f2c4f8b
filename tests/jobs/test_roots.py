"""A root is a folder of ours: nothing that a user keeps there, or elsewhere, is ever touched."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.clean.removals import RemovalRequest
from jobs import cli, extract
from jobs.engine import dataset_io, roots
from jobs.engine.session import Engine
from jobs.extract import WarcFile
from jobs.takedown import request
from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import DataFile
from schemas.names import plain_component

PROJECT = Path(__file__).parents[2]
SAMPLE = str(PROJECT / "samples" / "SAMPLE-00000.warc.gz")
RECIPE = str(PROJECT / "recipes" / "sample.toml")
NO_NAMES = ("..", ".", "", "a/b", "/etc", "a\\b", "a\nb", "a\0b", "../x.parquet", "x" * 300)


def _snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("gristmill: error: ")
    assert "Traceback" not in error
    return error


def _run(root: Path) -> tuple[str, ...]:
    return ("run", "--recipe", RECIPE, "--root", str(root), "--input", SAMPLE)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that somebody lives in, with one that is called like a dataset."""
    folder = tmp_path / "home"
    for name in ("documents/thesis.docx", "documents/part-1.parquet", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work")
    return folder


def test_a_home_with_documents_is_no_root(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _snapshot(home)
    error = _refused(capsys, *_run(home))
    assert f"--root {home}: is not a corpus directory" in error
    assert "'documents'" in error
    assert _snapshot(home) == before
    assert not (home / roots.MARKER).exists()


@pytest.mark.parametrize("name", [*roots.FIXED, "shards", "conversations", ".work", ".progress"])
def test_a_folder_without_a_marker_holds_no_dataset_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"holds '{name}'"), roots.locked(tmp_path):
        pass


def test_the_name_of_the_shards_is_one_of_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="holds 'mine'"), roots.locked(tmp_path, "mine"):
        pass
    with roots.locked(tmp_path, "other"):
        assert (tmp_path / roots.MARKER).is_file()


def test_a_folder_with_other_things_becomes_a_root_and_keeps_them(home: Path) -> None:
    shutil.rmtree(home / "documents")
    before = _snapshot(home)
    with roots.locked(home):
        assert json.loads((home / roots.MARKER).read_text())["kind"] == "corpus directory"
    assert _snapshot(home) == before | {roots.MARKER: _snapshot(home)[roots.MARKER]}
    with roots.locked(home):  # a second time
        pass


def test_a_root_of_an_earlier_version_is_one_by_its_manifests(
    sample_roots: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    (root / roots.MARKER).unlink(missing_ok=True)
    (root / ".work").mkdir(exist_ok=True)
    with roots.locked(root):
        assert (root / roots.MARKER).is_file()


@pytest.mark.parametrize("name", [*NO_NAMES, "documents", "judged", ".work", "gristmill.json"])
def test_shards_stand_in_one_folder_of_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--shards "), roots.locked(tmp_path / "root", name):
        pass
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("command", ["shard", "conversations", "report", "explain"])
def test_no_command_takes_shards_elsewhere(
    sample_roots: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    parent, chats = tmp_path / "parent", tmp_path / "chats.jsonl"
    shutil.copytree(sample_roots["sail"], parent / "root")
    (parent / "thesis.docx").write_text("years of work")
    chats.write_text('{"prompt": "a", "response": "b"}\n')
    rest = {
        "shard": ("--recipe", RECIPE),
        "conversations": ("--input", str(chats), "--tokenizer", "cl100k_base"),
        "report": (),
        "explain": ("--url", "http://nowhere.example/"),
    }[command]
    before = _snapshot(parent)
    for name in ("..", ".", "/etc", "../root"):
        root = str(parent / "root")
        assert "--shards" in _refused(capsys, command, *rest, "--root", root, "--shards", name)
    assert _snapshot(parent) == before


@pytest.mark.parametrize("dataset", ["documents", "shards", ".work"])
def test_a_dataset_that_is_a_link_is_refused(
    sample_roots: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, dataset: str
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    shutil.copytree(sample_roots["sail"], root)
    shutil.rmtree(root / dataset, ignore_errors=True)
    shutil.copytree(sample_roots["sail"] / "shards", outside)
    (outside / f"part-{'0' * 32}.parquet").write_text("years of work")
    (root / dataset).symlink_to(outside)
    before = _snapshot(outside)
    urls = tmp_path / "urls.txt"
    urls.write_text("http://site.example/page\n")
    assert "is a symbolic link" in _refused(capsys, *_run(root))
    assert "is a symbolic link" in _refused(
        capsys, "forget", "--root", str(root), "--urls", str(urls)
    )
    assert _snapshot(outside) == before


def test_a_file_of_a_dataset_that_is_a_link_is_refused(
    sample_roots: dict[str, Path], tmp_path: Path
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.parquet"
    shutil.copytree(sample_roots["sail"], root)
    shard = next((root / "shards").glob("train-*.parquet"))
    shard.rename(outside)
    shard.symlink_to(outside)
    with pytest.raises(UserError, match=f"{shard.name}: is a symbolic link"), roots.locked(root):
        pass


def test_a_sweep_takes_only_files_of_ours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    ours = f"part-{'0' * 32}.parquet"
    for name in (ours, "thesis.docx", "train-1.parquet", ".hidden.tmp"):
        (tmp_path / "real" / name).write_text("x")
    (tmp_path / "real" / f"part-{'1' * 32}.parquet").symlink_to(tmp_path / "real" / "thesis.docx")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    nothing = manifest.Manifest("judged", "r", {}, {}, (), {})
    with pytest.raises(UserError, match="is a symbolic link"):
        dataset_io.sweep(tmp_path / "link", nothing)
    dataset_io.sweep(tmp_path / "real", nothing)
    left = {path.name for path in (tmp_path / "real").iterdir()}
    assert left == {"thesis.docx", "train-1.parquet", ".hidden.tmp", f"part-{'1' * 32}.parquet"}


def test_every_file_that_a_run_writes_has_a_name_that_a_sweep_knows(
    sample_roots: dict[str, Path],
) -> None:
    for folder in sample_roots["sail"].iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            known = {path.name for path in dataset_io.own_files(folder)}
            there = {path.name for path in folder.iterdir() if path.is_file()}
            assert there - known == {manifest.MANIFEST_FILE}, folder


# Each place of a manifest that names a file: dataset, and the way to the name.
_PLACES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("documents", ("files", 0, "name")),
    ("canonical", ("files", 0, "name")),
    ("shards", ("files", 0, "name")),
    ("shards", ("files", 0, "extra", "lengths", "name")),
    ("shards", ("extra", "tokenizer", "file")),
)


@pytest.mark.parametrize(("dataset", "place"), _PLACES)
def test_a_manifest_names_files_of_its_own_folder(
    sample_roots: dict[str, Path], engines: Callable[[str], Engine], tmp_path: Path,
    dataset: str, place: tuple[Any, ...],
) -> None:  # fmt: skip
    """A takedown used to read and write outside the root, and to say that it was done."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    shutil.copytree(sample_roots["sail"], root)
    path = root / dataset / manifest.MANIFEST_FILE
    values = json.loads(path.read_text())
    entry: Any = values
    for step in place[:-1]:
        entry = entry[step]
    outside.mkdir()
    shutil.copy(root / dataset / entry[place[-1]], outside / "x.parquet")
    entry[place[-1]] = "../../outside/x.parquet"
    path.write_text(json.dumps(values))
    before = _snapshot(outside)
    with pytest.raises(UserError, match="must be one plain file name"):
        request.run(root, engines("sail"), [RemovalRequest("url", "http://site.example/")])
    assert _snapshot(outside) == before


@pytest.mark.parametrize("name", NO_NAMES)
def test_no_name_that_leads_elsewhere_is_plain(name: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        plain_component(name)
    with pytest.raises(ValueError, match="must be"):
        DataFile(name, 1, 1)


@given(st.text(max_size=40))
def test_a_plain_name_stays_in_its_folder(name: str) -> None:
    try:
        plain_component(name)
    except ValueError:
        return
    assert (Path("/root") / name).parent == Path("/root")
    assert Path(name).name == name


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": 1, "files": ' + "[" * 100_000,
        '{"format": 1, "files": [{"name": "a", "rows": -1, "bytes": 0}]}',
        '{"format": 1, "files": [{"name": "a", "rows": 1e9, "bytes": 0}]}',
        '{"format": 1, "files": [{"name": 7, "rows": 1, "bytes": 0}]}',
        '{"format": 1, "files": {"name": 7}}',
        '{"format": 1, "files": [], "settings": 5}',
        '{"format": 1, "files": [], "dataset": "shards", "extra": {"tokenizer": 7}}',
        "\xff",
    ],
)
def test_a_manifest_of_a_stranger_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="manifest"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("name", ["a[1]", "a{b,c}", "a?b", "a*b", "a\nb", "a\\b", "a\x01"])
def test_a_root_that_engines_read_as_a_pattern_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    assert "engines read as a pattern" in _refused(capsys, *_run(tmp_path / name))
    assert not (tmp_path / name).exists()


def test_a_warc_may_have_any_name(engine: Engine, tmp_path: Path) -> None:
    """Its rows are read back by the engine, which sees patterns and hidden files in names."""
    paths = []
    for name in ("_a", ".a", "a[1]{2}?*", "b\n:c\\", "ü" * 120, "a%20b c"):
        file = WarcFile(f"/crawl/{name}.warc.gz", f"{name}.warc.gz", 1, "0")
        paths.append(tmp_path / extract._rows_name(file, []))
        assert len(f".{paths[-1].name}.{0:014d}.piece.{0:032x}.tmp".encode()) < 255
        pq.write_table(pa.table({"n": [1]}), paths[-1])
    assert len(set(paths)) == 6
    schema = pa.schema([("n", pa.int64())])
    assert dataset_io.read_files(engine.spark, list(map(str, paths)), schema).count() == 6
    assert {path.name for path in dataset_io.own_files(tmp_path)} == {path.name for path in paths}


def test_a_warc_whose_name_is_no_text_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import os

    path = os.fsencode(tmp_path) + b"/\xff.warc.gz"
    shutil.copy(SAMPLE, path)
    error = _refused(capsys, *_run(tmp_path / "root")[:-1], os.fsdecode(path))
    assert "name is not UTF-8" in error
