"""Two lists beside shards of conversations: what each contributed to the counts, and rejected rows.

`rows-....arrow` has the form and counts of every conversation (`corpus.chat.encode.ROWS`),
`rejected-....jsonl` the rows without one; the manifest names both. `without` takes rows out of them
and off the manifest's counts for a takedown: what is left is what would have been written without
them. Cost: one read of both files; memory is that of one batch's keys.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from corpus.chat.encode import ROWS, ChatCounts, row_name
from corpus.clean.contamination import sha256
from corpus.clean.removals import DocumentKeys, RemovalRequest, RemovalRequests
from schemas import json_text
from schemas.datasets import KEY
from schemas.errors import UserError
from schemas.manifest import Companion, ShardsExtra, atomic_path

ROWS_FILE, REJECTED_FILE = "rows.arrow", "rejected.jsonl"  # their names until they are done
ROWS_PER_BATCH = 1 << 16
_KEYS = pa.schema([ROWS.field(name) for name in KEY])
_SUMS = ("turns", "tokens", "target_tokens", "turns_cut")


def write_rows(rows: pa.Table, path: Path) -> None:
    """Write rows of `ROWS`; the bytes do not depend on their batches."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), ROWS, options=options) as file:
        for start in range(0, len(rows), ROWS_PER_BATCH):
            file.write_table(rows.slice(start, ROWS_PER_BATCH).combine_chunks())


def put(written: Path, folder: Path) -> Companion:
    """Put a file beside the shards, named by its content; its entry for the manifest."""
    digest = sha256(written)
    name = f"{written.stem}-{digest[:16]}{written.suffix}"
    with atomic_path(folder / name) as temporary:
        shutil.copyfile(written, temporary)
    return Companion(name, digest)


def matches(
    path: Path, requests: RemovalRequests
) -> Iterator[tuple[dict[str, Any], RemovalRequest]]:
    """The rejected rows that requests mean, with each request that does."""
    for line in _lines(path):
        row = json_text.loads(line)
        id_ = row["id"] or row_name(row["file_path"], row["line"])
        named = {"id": id_, "url": row.get("url")}
        for request in requests.matching(id_, named["url"]):
            yield row | named, request


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from file
    except FileNotFoundError:
        raise UserError(f"{path}: missing, the manifest lists it") from None


def without(
    folder: Path, extra: ShardsExtra, keys: DocumentKeys, work: Path
) -> tuple[ShardsExtra, ChatCounts]:
    """The manifest's `extra` without the rows of these keys, and the counts of what was removed.

    The new files are put into `folder`, beside the old ones; `work` is for unfinished ones. Where
    no row has one of the keys, nothing changes.
    """
    gone, rejected, rows = ChatCounts(), work / REJECTED_FILE, work / ROWS_FILE
    work.mkdir(parents=True, exist_ok=True)
    if extra.rejected:
        _rejected_without(folder / extra.rejected.name, keys, rejected, gone)
    if extra.rows:  # not in shards of an earlier version, whose counts stay
        _rows_without(folder / extra.rows.name, keys, rows, gone)
    if not gone.forgotten:
        return extra, gone
    counts = ChatCounts.from_extra(extra)
    counts.remove(gone)
    left = counts.to_extra(extra)
    if extra.rejected:
        left = dataclasses.replace(left, rejected=put(rejected, folder))
    if extra.rows:
        left = dataclasses.replace(left, rows=put(rows, folder))
    return left, gone


def _rows_without(path: Path, keys: DocumentKeys, out: Path, gone: ChatCounts) -> None:
    kept = []
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        for i in range(reader.num_record_batches):
            rows = pa.Table.from_batches([reader.get_batch(i)])
            mask = keys.mask(rows)
            kept.append(rows.filter(pa.array(~mask)))
            _count(rows.filter(pa.array(mask)), gone)
        write_rows(pa.concat_tables([ROWS.empty_table(), *kept]), out)


def _count(rows: pa.Table, gone: ChatCounts) -> None:
    cut = pc.greater(rows["turns_cut"], 0).cast(pa.int64())
    sums = [(name, "sum") for name in (*_SUMS, "cut")]
    grouped = rows.append_column("cut", cut).group_by("form").aggregate([*sums, ([], "count_all")])
    for row in grouped.to_pylist():
        totals = {name: row[f"{name}_sum"] for name, _ in sums}
        gone.add_conversations(row["form"], row["count_all"], **totals)
    gone.forgotten += rows.num_rows


def _rejected_without(path: Path, keys: DocumentKeys, out: Path, gone: ChatCounts) -> None:
    lines = _lines(path)
    with open(out, "w", encoding="utf-8") as file:
        while batch := list(itertools.islice(lines, ROWS_PER_BATCH)):
            rows = [json_text.loads(line) for line in batch]
            mask = keys.mask(pa.Table.from_pylist(rows, schema=_KEYS))
            for line, row, goes in zip(batch, rows, mask.tolist(), strict=True):
                if goes:
                    gone.add_rejected(row["form"], row["reason"])
                    gone.forgotten += 1
                else:
                    file.write(line)
