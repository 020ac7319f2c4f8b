"""The part of tokens.py on Parquet layouts: how fast the ids of real texts come back, and how big.

Every layout holds the same documents in the same row groups, and is read whole with plain pyarrow
on one thread from the page cache, up to one NumPy array a row group. Rounds over all layouts
alternate, so that a busy machine slows them alike; a layout's best counts.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table

from common.bench import Bench
from common.page_texts import page_texts
from corpus.tokens.shards import Shard, token_lists
from schemas import tokenizer
from schemas.datasets import list_of

Column = Callable[[pa.ListArray], pa.Array]
MIN_ROUNDS = 5
ZSTD = {"compression": "zstd", "compression_level": 3}


@dataclass(frozen=True)
class Layout:
    """A way to store a column of token ids; `options` are the Parquet writer's."""

    name: str
    column: Column
    options: dict[str, Any] = field(default_factory=dict)


def _strict(tokens: pa.ListArray) -> pa.Array:
    return tokens.cast(list_of(pa.int32()))


def _nullable(tokens: pa.ListArray) -> pa.Array:
    return tokens.cast(pa.list_(pa.int32()))


def _binary(tokens: pa.ListArray) -> pa.Array:
    """The ids of a document as bytes, little-endian, in a column that no tool knows as numbers."""
    offsets = tokens.offsets.to_numpy() * np.int32(4)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(tokens.values.to_numpy().astype("<i4"))]
    return pa.Array.from_buffers(pa.binary(), len(tokens), buffers)


LAYOUTS = (
    Layout("list<int32 not null>, zstd 3 (a shard's)", _strict, ZSTD),
    Layout("list<int32>, zstd 3", _nullable, ZSTD),
    Layout("list<int32 not null>, no compression", _strict, {"compression": "none"}),
    Layout("list<int32 not null>, lz4", _strict, {"compression": "lz4"}),
    Layout("list<int32 not null>, byte stream split, zstd 3", _strict,
           {**ZSTD, "use_byte_stream_split": True}),
    Layout("list<int32 not null>, delta, zstd 3", _strict,
           {**ZSTD, "column_encoding": "DELTA_BINARY_PACKED"}),
    Layout("list<int32 not null>, dictionary, zstd 3", _strict, {**ZSTD, "use_dictionary": True}),
    Layout("binary, zstd 3", _binary, ZSTD),
    Layout("binary, no compression", _binary, {"compression": "none"}),
)  # fmt: skip


def layouts(bench: Bench, arguments: Namespace) -> Table:
    """Tokens a second that plain pyarrow reads from each layout, one thread, and its size."""
    known = tokenizer.named(arguments.tokenizer)
    tokens = token_lists(page_texts(arguments.crawl, bench.console), known)
    paths = [bench.work / f"layout-{number}.parquet" for number in range(len(LAYOUTS))]
    for path, layout in zip(paths, LAYOUTS, strict=True):
        _write(path, layout, tokens)
    seconds = np.full(len(LAYOUTS), np.inf)
    for _ in range(max(MIN_ROUNDS, bench.repeat)):
        for number, path in enumerate(paths):
            seconds[number] = min(seconds[number], _read_seconds(path, len(tokens.values)))
    num_tokens = len(tokens.values)
    table = Table(
        title=f"layouts: {num_tokens:,} tokens of {len(tokens):,} documents, one thread",
        title_justify="left",
    )
    table.add_column("column of token ids")
    for name in ("million tokens a CPU second", "bytes a token"):
        table.add_column(name, justify="right")
    for path, layout, best in zip(paths, LAYOUTS, seconds, strict=True):
        size = path.stat().st_size / num_tokens
        table.add_row(layout.name, f"{num_tokens / best / 1e6:,.0f}", f"{size:.2f}")
        path.unlink()
    return table


def _write(path: Path, layout: Layout, tokens: pa.ListArray) -> None:
    column = layout.column(tokens)
    options = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
    pq.write_table(
        pa.table({"tokens": column}),
        path,
        row_group_size=Shard().rows_per_group,
        **{**options, **layout.options},
    )


def _read_seconds(path: Path, expected: int) -> float:
    start = time.process_time()
    found = 0
    with pq.ParquetFile(path, memory_map=True) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["tokens"], use_threads=False)
            found += len(_stream(rows["tokens"]))
    seconds = time.process_time() - start
    assert found == expected, path
    return seconds


def _stream(column: pa.ChunkedArray) -> np.ndarray:
    """A row group's ids, not copied."""
    (chunk,) = column.chunks
    if pa.types.is_binary(chunk.type):
        return np.frombuffer(chunk.buffers()[2], "<i4")
    return np.asarray(pc.list_flatten(chunk).to_numpy())
