"""Hostile manifests, lengths and plans: a UserError, or correct batches."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import manifest as manifests
from schemas.errors import UserError
from trainer.data.loader import Batch, Loader

from ..conftest import content_hash

Figures = Callable[[str, str], None]
MAX_CPU_SECONDS = 5.0
NUMBERS = [-1, 0, 1, 7, 2**31 - 1, 2**31, 2**62, 2**63, 10**30, 0.5, 1e308, float("nan")]
NAMES = [
    "", ".", "..", "/", "../outside/train.parquet", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb",
    "train.parquet/", "\x1b[2J", "\ud800", "x" * 300, "link.parquet", "folder", "manifest.json",
    "tokenizer.json", "nothing.parquet",
]  # fmt: skip
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [{}], {"a": 1}, "train", "validation", "1"]
VALUES = [*NUMBERS, *NAMES, *OTHERS, "0" * 64, "f" * 64, "F" * 64, "documents", "conversations"]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory, write_corpus: Callable[..., Path]) -> Path:
    """Shards, and copies that a name must not reach: outside the folder and behind links."""
    root = tmp_path_factory.mktemp("hostile")
    folder = write_corpus(root / "shards", 40, 0, "conversations")
    shutil.copytree(folder, root / "outside")
    shard = min(folder.glob("train-*.parquet"))
    shutil.copy(shard, root / "outside" / "train.parquet")
    (folder / "link.parquet").symlink_to(root / "outside" / "train.parquet")
    (folder / "folder").mkdir()
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a JSON tree."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in inside:
        yield (*path, key)
        if isinstance(child, dict | list):
            yield from places(child, (*path, key))


def put(values: Any, path: tuple[Any, ...], new: Any) -> None:
    """Set the value at `path`, or remove it (`...`); nothing if the path is gone."""
    with contextlib.suppress(KeyError, IndexError, TypeError):
        for key in path[:-1]:
            values = values[key]
        if new is ...:
            del values[path[-1]]
        else:
            values[path[-1]] = new


def forge(folder: Path, values: dict[str, Any]) -> None:
    """Write a manifest with a matching fingerprint and, if possible, content hash."""
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        values["extra"]["content_hash"] = content_hash(values)
    try:
        own = (values["dataset"], values["settings"], values["inputs"])
        values["fingerprint"] = manifests.fingerprint(*own)
    except (KeyError, TypeError, ValueError):
        pass
    (folder / "manifest.json").write_text(json.dumps(values))


def read(folder: Path, cache: Path) -> list[Batch]:
    """Two epochs of the training split, within `MAX_CPU_SECONDS`."""
    started = time.process_time()
    loader = Loader(
        [folder], seq_len=32, rows=8, packing="best_fit", cache=cache, window_tokens=300
    )
    steps = 2 * loader.sources[0].plan(0).num_rows // 8
    found = [loader.batch(step) for step in range(steps)]
    assert time.process_time() - started < MAX_CPU_SECONDS
    return found


def same(found: list[Batch], right: list[Batch]) -> bool:
    pairs = list(zip(found, right, strict=True))
    return all(
        np.array_equal(a.inputs, b.inputs) and np.array_equal(a.targets, b.targets)
        for a, b in pairs
    )


def attack(kept: Path, examples: int, figures: Figures) -> dict[str, int]:
    """Manifests with up to three values changed: how many were refused, and read."""
    folder, cache = kept.with_name("attacked"), kept.with_name("cache")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder, symlinks=True)
    right, manifest = read(kept, cache), json.loads((kept / "manifest.json").read_text())
    listed = list(places(manifest))
    changed = st.tuples(st.sampled_from(listed), st.sampled_from([..., *VALUES]))
    counts = {"refused": 0, "read": 0}

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(changed, min_size=1, max_size=3))
    def run(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
        values = copy.deepcopy(manifest)
        for path, new in changes:
            put(values, path, new)
        forge(folder, values)
        try:
            found = read(folder, cache)
        except UserError:
            counts["refused"] += 1
            return
        counts["read"] += 1
        files = [file["name"] for file in values["files"]]
        assert files == [file["name"] for file in manifest["files"]], changes
        assert same(found, right), changes

    run()
    figures(
        "hostile manifests",
        f"{sum(counts.values())} manifests with 1 to 3 hostile values: {counts['refused']} "
        f"refused, {counts['read']} harmless with equal batches, 0 tracebacks, 0 read outside",
    )
    return counts


def test_a_hostile_manifest_is_refused_or_harmless(kept: Path, figures: Figures) -> None:
    assert attack(kept, 150, figures)["refused"] > 0


@pytest.mark.soak
def test_3000_hostile_manifests_are_refused_or_harmless(kept: Path, figures: Figures) -> None:
    assert attack(kept, 3000, figures)["refused"] > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["shard", "lengths", "tokenizer"])
def test_a_name_leads_nowhere_but_to_a_file_of_the_folder(
    kept: Path, tmp_path: Path, of: str, name: str
) -> None:
    """There are valid shards outside and behind the link, so a followed name would be read."""
    folder = tmp_path / "shards"
    shutil.copytree(kept, folder, symlinks=True)
    values = json.loads((folder / "manifest.json").read_text())
    first = next(file for file in values["files"] if file["extra"]["split"] == "train")
    if of == "shard":
        first["name"] = name
    elif of == "lengths":
        first["extra"]["lengths"]["name"] = name
    else:
        values["extra"]["tokenizer"]["file"] = name
    forge(folder, values)
    with pytest.raises(UserError) as caught:
        read(folder, tmp_path / "cache")
    assert str(caught.value).isprintable()


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "negative": lambda a: np.where(np.arange(len(a)) == 0, -a[0], a),
    "minus and plus": lambda a: np.concatenate([[-(10**6), a[0] + a[1] + 10**6], a[2:]]),
    "too few": lambda a: a[:-1],
    "too many": lambda a: np.append(a, 0),
    "int64": lambda a: a.astype(np.int64),
    "floats": lambda a: a.astype(np.float32),
    "two-dimensional": lambda a: a.reshape(-1, 1),
    "objects": lambda a: np.array([None] * len(a), dtype=object),
    "records": lambda a: np.zeros(len(a), dtype=[("x", "<i4")]),
    "huge": lambda a: np.full(len(a), 2**31 - 1),
    "exchanged": lambda a: a[::-1],
}


@pytest.mark.parametrize(
    "header", ["", "(" * 5000, "{'descr': '<i4', 'fortran_order': False, 'sha"]
)
def test_lengths_whose_header_makes_no_sense_are_refused(
    kept: Path, tmp_path: Path, header: str
) -> None:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(400)
    assert refused_lengths(kept, tmp_path, data)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(100), b"\x80\x04K\x01.", bytes(300)])
def test_lengths_that_are_no_array_are_refused(kept: Path, tmp_path: Path, data: bytes) -> None:
    assert refused_lengths(kept, tmp_path, data)


@pytest.mark.parametrize("change", ARRAYS)
def test_lengths_of_other_values_or_types_are_refused(
    kept: Path, tmp_path: Path, change: str
) -> None:
    path = min(kept.glob("train-*.npy"))
    changed, file = ARRAYS[change](np.load(path)), io.BytesIO()
    kind = np.int32 if change in ("negative", "minus and plus", "huge", "too many") else None
    np.save(file, changed if kind is None else changed.astype(kind), allow_pickle=True)
    assert refused_lengths(kept, tmp_path, file.getvalue())


def refused_lengths(kept: Path, tmp_path: Path, data: bytes) -> bool:
    """Whether lengths whose hash is in the manifest are refused all the same, naming the file."""
    folder = tmp_path / "shards"
    shutil.copytree(kept, folder, symlinks=True)
    path = min(folder.glob("train-*.npy"))
    path.write_bytes(data)
    values = json.loads((folder / "manifest.json").read_text())
    for file in values["files"]:
        if file["extra"]["lengths"]["name"] == path.name:
            file["extra"]["lengths"]["sha256"] = hashlib.sha256(data).hexdigest()
    forge(folder, values)
    with pytest.raises(UserError) as caught:
        read(folder, tmp_path / "cache")
    return path.name in str(caught.value)
