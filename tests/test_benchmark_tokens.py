"""The benchmark's layouts all hold the same ids, and its shares are those of equal work."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.datasets import list_of

PROJECT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    """A module of the benchmarks, which import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROJECT / "benchmarks")
        return importlib.import_module(name)


stage, layouts = load("tokens_parts.stage"), load("tokens_parts.layouts")
TOKENS = pa.array([[1, 2, 3], [], [100_276]], list_of(pa.int32()))


@pytest.mark.parametrize("layout", layouts.LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_gives_the_ids_back(layout: object, tmp_path: Path) -> None:
    layouts._write(tmp_path / "x.parquet", layout, TOKENS)
    with pq.ParquetFile(tmp_path / "x.parquet") as file:
        rows = file.read_row_group(0)
    assert layouts._stream(rows["tokens"]).tolist() == [1, 2, 3, 100_276]
    assert layouts._read_seconds(tmp_path / "x.parquet", 4) >= 0


def test_a_share_is_of_equal_work() -> None:
    ours, alone = stage.Cost(wall=8.0, cpu=10.0), stage.Cost(wall=2.0, cpu=3.0)
    assert stage._shares(ours, alone, 2) == pytest.approx((60, 50))


def test_the_root_that_is_sharded_holds_every_text_once(tmp_path: Path) -> None:
    stage._write_root(tmp_path / "x", ["one", "two", "three"], "cl100k_base")
    paths = (tmp_path / "x" / "root" / "canonical").glob("*.parquet")
    assert sorted(t for path in paths for t in pq.read_table(path)["text"].to_pylist()) == [
        "one", "three", "two",
    ]  # fmt: skip


def test_the_command_lists_its_parts() -> None:
    command = [sys.executable, "benchmarks/tokens.py", "--help"]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert all(part in shown.stdout for part in ("stage", "layouts", "all"))
