"""A dataset's files: what is written is read, and what is not listed does not exist."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from jobs.engine import dataset_io
from jobs.engine.session import Engine
from schemas.manifest import DataFile, Manifest

SCHEMA = pa.schema(
    [
        ("n", pa.int64()),
        ("reason", pa.string()),
        ("list", pa.list_(pa.int64())),
        ("signals", pa.struct([("a", pa.float64()), ("b", pa.int64())])),
    ]
)
ROWS = [
    {
        "n": n,
        "reason": None if n % 3 else "bad",
        "list": list(range(n % 4)),
        "signals": None if n % 5 == 0 else {"a": n / 2, "b": n},
    }
    for n in range(100)
]


def _manifest(files: tuple[DataFile, ...]) -> Manifest:
    return Manifest("test", "r", {}, {}, files, {})


def _write(engine: Engine, folder: Path, rows: list[dict], partitions: int) -> tuple[DataFile, ...]:
    given = dataset_io.write_table(folder / "given", pa.Table.from_pylist(rows, schema=SCHEMA))
    frame = dataset_io.read_files(engine.spark, [str(folder / "given" / given.name)], SCHEMA)
    return dataset_io.write(frame.repartition(partitions), folder / "out", SCHEMA, "reason")


def test_rows_come_back_as_they_were_written(engine: Engine, tmp_path: Path) -> None:
    files = _write(engine, tmp_path, ROWS, 3)
    frame = dataset_io.read(engine.spark, tmp_path / "out", _manifest(files), SCHEMA)
    assert sorted(frame.toArrow().to_pylist(), key=lambda row: row["n"]) == ROWS
    assert sum(file.rows for file in files) == 100
    assert dataset_io.sum_counts(files) == {"bad": 34, "kept": 66}


def test_no_rows_are_a_dataset_too(engine: Engine, tmp_path: Path) -> None:
    files = _write(engine, tmp_path, [], 2)
    assert [file.rows for file in files] == [0]
    frame = dataset_io.read(engine.spark, tmp_path / "out", _manifest(files), SCHEMA)
    assert frame.count() == 0


def test_what_a_killed_task_left_is_not_read_and_is_swept(engine: Engine, tmp_path: Path) -> None:
    files = _write(engine, tmp_path, ROWS, 1)
    folder = tmp_path / "out"
    orphan = dataset_io.write_table(folder, pa.Table.from_pylist(ROWS, schema=SCHEMA))
    (folder / f".{files[0].name}.{'0' * 32}.tmp").write_bytes(b"half")
    foreign = {"thesis.docx", "notes.parquet", ".part.tmp", "part-1.parquet"}
    for name in foreign:
        (folder / name).write_bytes(b"of somebody else")
    frame = dataset_io.read(engine.spark, folder, _manifest(files), SCHEMA)
    assert frame.count() == 100
    dataset_io.sweep(folder, _manifest(files), keep=("kept.json",))
    assert {path.name for path in folder.iterdir()} == {files[0].name} | foreign
    assert orphan.name not in {file.name for file in files}
