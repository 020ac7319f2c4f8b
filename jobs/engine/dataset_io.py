"""Read and write datasets. Files are written by tasks and renamed, never by the engine's writer.

A file gets a unique name and counts only once a manifest lists it, so that a retried or killed task
leaves nothing that is read. The same code writes on every engine.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from corpus import worker
from jobs.engine.progress import Tally
from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest

RECEIPT = "receipt string"
ROWS_PER_GROUP = 1024
ROWS_PER_GROUP_OF_NUMBERS = 131_072
BYTES_PER_GROUP = 64 << 20
# Rows sent to a child at once: small enough for a moving progress bar and bounded memory.
ROWS_PER_REQUEST = 256

Batches = Iterator[pa.RecordBatch]


def spark_schema(schema: pa.Schema) -> StructType:
    """The engine's schema of an Arrow schema, without the columns' documentation."""
    return from_arrow_schema(schema.remove_metadata())


def read(spark: SparkSession, folder: Path, listed: Manifest, schema: pa.Schema) -> DataFrame:
    """The dataset that a manifest lists."""
    return read_files(spark, listed.paths(folder), schema)


def read_files(spark: SparkSession, paths: list[str], schema: pa.Schema) -> DataFrame:
    """Parquet files under a known schema, so that no engine infers one."""
    names = schema.names
    return spark.read.schema(spark_schema(schema)).parquet(*paths).select(*names)


def write(
    frame: DataFrame, folder: Path, schema: pa.Schema, count_by: str | None = None
) -> tuple[DataFile, ...]:
    """Write `frame` into `folder` and return its files; at least one, which may be empty.

    `count_by` names a column whose values are counted per file (null counts as `kept`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = functools.partial(_write_partition, str(folder), schema, count_by)
    files = receipts(frame.mapInArrow(task, RECEIPT))
    return files or (write_table(folder, schema.empty_table(), count_by),)


@dataclass(frozen=True)
class Stored:
    """A frame that was written and is read from its files when it is used."""

    frame: DataFrame
    rows: int


def store(spark: SparkSession, frame: DataFrame, folder: Path, schema: pa.Schema) -> Stored:
    """Write an intermediate frame, so that later steps do not compute it again."""
    return stored(spark, folder, write(frame, folder, schema), schema)


def stored(
    spark: SparkSession, folder: Path, files: tuple[DataFile, ...], schema: pa.Schema
) -> Stored:
    """The frame in these files of `folder`."""
    paths = [str(folder.absolute() / file.name) for file in files]
    return Stored(read_files(spark, paths, schema), sum(file.rows for file in files))


def receipts(frame: DataFrame, dataset: str = "") -> tuple[DataFile, ...]:
    """Run a frame whose rows are receipts, one per file; returns the files sorted by name."""
    values = frame.toArrow()["receipt"].to_pylist()
    files = (DataFile.from_json(json.loads(value), dataset) for value in values)
    return tuple(sorted(files, key=lambda file: file.name))


def receipt(file: DataFile) -> pa.RecordBatch:
    """What a task returns to the driver for a file that it committed."""
    return pa.RecordBatch.from_pydict({"receipt": [json.dumps(file.to_json())]})


def write_table(folder: Path, table: pa.Table, count_by: str | None = None) -> DataFile:
    """Write one file of a dataset from memory."""
    return _write_batches(folder, table.schema, count_by, iter(table.to_batches()))


def _write_partition(
    folder: str, schema: pa.Schema, count_by: str | None, batches: Batches
) -> Batches:
    first = next((batch for batch in batches if batch.num_rows), None)
    if first is not None:
        rest = (batch for batch in batches if batch.num_rows)
        yield receipt(
            _write_batches(Path(folder), schema, count_by, itertools.chain([first], rest))
        )


def _write_batches(
    folder: Path, schema: pa.Schema, count_by: str | None, batches: Batches
) -> DataFile:
    name, rows, counts = f"part-{uuid.uuid4().hex}.parquet", 0, dict[str, int]()
    # Columns of hashes do not repeat, so a dictionary would only cost.
    numbers = all(pa.types.is_primitive(field.type) for field in schema)
    per_group = ROWS_PER_GROUP_OF_NUMBERS if numbers else ROWS_PER_GROUP
    with manifest.atomic_path(folder / name) as path:
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=not numbers) as out:
            for table in _groups(batches, per_group):
                chosen = table.select(schema.names).cast(schema)
                out.write_table(chosen, row_group_size=per_group)
                rows += chosen.num_rows
                if count_by:
                    _count(chosen[count_by], counts)
        size = path.stat().st_size
    return DataFile(name, rows, size, counts=counts)


def _groups(batches: Batches, rows: int) -> Iterator[pa.Table]:
    """Batches combined to at least `rows` rows or `BYTES_PER_GROUP` bytes."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        full = sum(one.num_rows for one in waiting) >= rows
        if full or sum(one.nbytes for one in waiting) >= BYTES_PER_GROUP:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _count(column: pa.ChunkedArray, counts: dict[str, int]) -> None:
    for pair in pc.value_counts(column.fill_null("kept")).to_pylist():
        counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]


def map_in_children(
    frame: DataFrame, task: str, recipe: dict[str, object], schema: pa.Schema, tallies: str
) -> DataFrame:
    """`frame` through a task of `corpus.worker_tasks`, in child processes, batch by batch."""
    run = functools.partial(_map_partition, task, recipe, tallies)
    return frame.mapInArrow(run, spark_schema(schema))


def _map_partition(task: str, recipe: dict[str, object], tallies: str, batches: Batches) -> Batches:
    tally = Tally(tallies)
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS_PER_REQUEST):
            request = batch.slice(start, ROWS_PER_REQUEST)
            for answer in worker.map_rows(task, recipe, request):
                yield answer.replace_schema_metadata(None)
            tally.add(request.num_rows)


def map_rows(
    frame: DataFrame, function: Callable[[pa.RecordBatch], pa.RecordBatch], schema: pa.Schema
) -> DataFrame:
    """`frame` through a cheap function of one batch, in the engine's own workers."""
    return frame.mapInArrow(functools.partial(_map_light, function), spark_schema(schema))


def _map_light(function: Callable[[pa.RecordBatch], pa.RecordBatch], batches: Batches) -> Batches:
    for batch in batches:
        yield function(batch)


# All names that we give to files in the folder of a dataset.
_OURS = re.compile(
    r"part-[0-9a-f]{32}\.parquet"
    r"|.*-[0-9a-f]{16}\.parquet"  # rows of a WARC file, or a shard
    r"|(train|validation)-\d{5,}-[0-9a-f]{16}\.lengths\.npy"
    r"|tokenizer-[0-9a-f]{16}\.json"
    r"|rows-[0-9a-f]{16}\.arrow|rejected-[0-9a-f]{16}\.jsonl"
    r"|\..*-[0-9a-f]{16}\.parquet\.\d{14,}\.piece"
    r"|\..+\.[0-9a-f]{32}\.tmp",
    re.DOTALL,
)


def own_files(folder: Path) -> Iterator[Path]:
    """The files in a dataset's folder that have one of our names; nothing else is ever deleted.

    Symbolic links are left out. Raises `UserError` if the folder itself is one.
    """
    if folder.is_symlink():
        raise UserError(f"{folder}: is a symbolic link; a root holds its datasets themselves")
    for entry in list(os.scandir(folder)):
        if entry.is_file(follow_symlinks=False) and _OURS.fullmatch(entry.name):
            yield Path(entry.path)


def sweep(folder: Path, listed: Manifest, keep: tuple[str, ...] = ()) -> None:
    """Delete files of killed and retried tasks: those with our names that `listed` leaves out."""
    wanted = {file.name for file in listed.files} | set(keep)
    for path in own_files(folder):
        if path.name not in wanted:
            path.unlink(missing_ok=True)


def sum_counts(files: tuple[DataFile, ...]) -> dict[str, int]:
    """Counts over all files, sorted by name."""
    total: dict[str, int] = {}
    for file in files:
        for name, count in file.counts.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))
