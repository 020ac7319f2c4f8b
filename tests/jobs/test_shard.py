"""Shards as the job leaves them: read by other tools, refused or kept where it fails."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.recipe import Recipe
from corpus.tokens.shards import Shard, companions, write_shard
from jobs import shard
from jobs.engine.session import Engine
from jobs.engine.stage import Job, run_stage
from schemas import manifest
from schemas.datasets import SHARDS
from schemas.errors import UserError
from schemas.manifest import Manifest
from trainer.data.shards import open_shards


def _listed(folder: Path) -> Manifest:
    found = manifest.read(folder)
    assert found is not None
    return found


@pytest.fixture
def own_root(sample_roots: dict[str, Path], tmp_path: Path) -> Path:
    """`canonical` and shards of the sample crawl, for a test that runs the stage again."""
    for dataset in ("canonical", "shards"):
        shutil.copytree(sample_roots["sail"] / dataset, tmp_path / dataset)
    return tmp_path


def _job(root: Path, recipe: Recipe, engines: Callable[[str], Engine], **changes: Any) -> Job:
    sections = {
        name: dataclasses.replace(getattr(recipe, name), **values)
        for name, values in changes.items()
    }
    return Job(dataclasses.replace(recipe, **sections), root, engines("sail"), overwrite=True)


def test_pandas_reads_shards_as_they_are(sample_roots: dict[str, Path]) -> None:
    folder = sample_roots["sail"] / "shards"
    for file in _listed(folder).files:
        frame = pd.read_parquet(folder / file.name)
        assert list(frame.columns) == SHARDS.names
        lengths = np.load(folder / file.extra.lengths.name, mmap_mode="r")
        assert frame["tokens"].map(len).tolist() == lengths.tolist()
        assert frame["token_count"].tolist() == lengths.tolist()


def test_engines_read_shards_as_they_are(sample_roots: dict[str, Path], engine: Engine) -> None:
    folder = sample_roots["sail"] / "shards"
    listed = _listed(folder)
    frame = engine.spark.read.parquet(*listed.paths(folder))
    assert frame.columns == SHARDS.names
    rows = frame.select("id", "tokens").toArrow().to_pylist()
    wanted = [row for path in listed.paths(folder) for row in pq.read_table(path).to_pylist()]
    assert {row["id"]: row["tokens"] for row in rows} == {r["id"]: r["tokens"] for r in wanted}


def test_engines_read_masks_as_they_are(
    sample_roots: dict[str, Path], tmp_path: Path, engine: Engine
) -> None:
    folder = sample_roots["sail"] / "shards"
    source = pq.read_table(folder / _listed(folder).files[0].name).slice(0, 20)
    masks = [[i % 2 for i in range(n)] for n in source["token_count"].to_pylist()]
    table = source.append_column("loss_mask", pa.array(masks, pa.list_(pa.uint8())))
    for name in ("order_key", "text_bytes"):
        table = table.append_column(name, pa.array(range(len(table)), pa.int64()))
    file = write_shard(table, tmp_path, "train", 0, Shard())
    found = engine.spark.read.parquet(str(tmp_path / file.name)).select("id", "loss_mask")
    wanted = dict(zip(source["id"].to_pylist(), masks, strict=True))
    assert {row["id"]: row["loss_mask"] for row in found.toArrow().to_pylist()} == wanted


def test_duckdb_reads_shards_as_they_are(sample_roots: dict[str, Path]) -> None:
    duckdb = pytest.importorskip("duckdb")
    folder = sample_roots["sail"] / "shards"
    query = f"select count(*), sum(len(tokens)), sum(list_sum(tokens)) from '{folder}/*.parquet'"
    listed = _listed(folder)
    tokens = [t for path in listed.paths(folder) for t in pq.read_table(path)["tokens"].to_pylist()]
    sums = (len(tokens), sum(map(len, tokens)), sum(map(sum, tokens)))
    assert duckdb.sql(query).fetchall() == [sums]


def test_the_manifest_says_what_the_shards_hold(
    sample_roots: dict[str, Path], sample_recipe: Recipe
) -> None:
    folder = sample_roots["sail"] / "shards"
    listed = _listed(folder)
    assert (listed.extra.format, listed.extra.kind) == (2, "documents")
    assert listed.extra.seed == sample_recipe.shard.seed
    for file in listed.files:
        assert hashlib.sha256((folder / file.name).read_bytes()).hexdigest() == file.sha256
        lengths = file.extra.lengths
        found = hashlib.sha256((folder / lengths.name).read_bytes()).hexdigest()
        assert found == lengths.sha256
    for split, count in listed.extra.tokens.items():
        files = [file for file in listed.files if file.extra.split == split]
        groups = [group for file in files for group in file.extra.row_groups]
        assert sum(group.tokens for group in groups) == count > 0
        assert sum(group.documents for group in groups) == sum(file.rows for file in files)


def test_a_run_that_dies_before_its_commit_leaves_the_old_shards_whole(
    own_root: Path,
    sample_recipe: Recipe,
    engines: Callable[[str], Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = own_root / "shards"
    before = open_shards(folder)
    listed = {file.name: (folder / file.name).read_bytes() for file in before.manifest.files}

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    job = _job(own_root, sample_recipe, engines, tokenizer={"vocab_size": 300})
    with monkeypatch.context() as patch:
        patch.setattr("jobs.engine.stage.manifest.write", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stage(shard.STAGE, job)
    after = open_shards(folder)
    assert after.manifest == before.manifest
    assert after.tokenizer.hash == before.tokenizer.hash
    assert listed == {name: (folder / name).read_bytes() for name in listed}


def test_the_next_run_sweeps_what_the_new_manifest_does_not_list(
    own_root: Path, sample_recipe: Recipe, engines: Callable[[str], Engine]
) -> None:
    folder = own_root / "shards"
    old = {path.name for path in folder.iterdir()}
    job = _job(own_root, sample_recipe, engines, tokenizer={"vocab_size": 300})
    assert run_stage(shard.STAGE, job)
    listed = _listed(folder)
    names = {file.name for file in listed.files} | set(companions(listed.files, listed.extra))
    assert {path.name for path in folder.iterdir()} == names | {manifest.MANIFEST_FILE}
    assert not names & old
    assert open_shards(folder).tokenizer.vocab_size == 300


def test_an_empty_split_is_an_error_that_names_the_setting(
    own_root: Path, sample_recipe: Recipe, engines: Callable[[str], Engine]
) -> None:
    job = _job(own_root, sample_recipe, engines, shard={"validation_fraction": 0.0})
    message = r"validation_fraction = 0.0: no document falls into the validation split"
    with pytest.raises(UserError, match=message):
        run_stage(shard.STAGE, job)


def test_shards_of_an_earlier_format_are_made_anew(
    own_root: Path, sample_recipe: Recipe, engines: Callable[[str], Engine]
) -> None:
    listed = _listed(own_root / "shards")
    earlier = dataclasses.replace(listed, inputs={**listed.inputs, "shard_format": "1"})
    manifest.write(own_root / "shards", earlier)
    job = dataclasses.replace(_job(own_root, sample_recipe, engines), overwrite=False)
    assert run_stage(shard.STAGE, job)
    again = _listed(own_root / "shards")
    assert (again.files, again.inputs) == (listed.files, listed.inputs)
    assert not run_stage(shard.STAGE, job)
