"""Files of a dataset without the rows that have to be forgotten: what the tasks of `forget` do.

A file without such rows is left as it is, after a look at its keys alone. A file with some is
written anew, row group by row group. In `documents` and `judged` the rows stay, emptied; elsewhere
they go. Shards are written by the code and the settings that wrote them, so that a file's bytes
still depend on its rows alone. Cost: a read of the keys of all files, a copy of those concerned.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpus import forget, shards
from corpus.forget import Keys, Requests
from jobs import chat_rows
from jobs.datasets import ROWS_PER_GROUP
from schemas import config, manifest, tokenizer
from schemas.datasets import FORGOTTEN, KEY
from schemas.manifest import DataFile
from schemas.tokenizer import Tokenizer

# What a task says of a row that a request means; cluster and time come later.
MATCH = pa.schema([pa.field(name, FORGOTTEN.field(name).type) for name in FORGOTTEN.names[:6]])
# Where rows stay, emptied, and the column that says what became of them, where one does.
EMPTIED = ("documents", "judged")
OUTCOME = {"documents": "rejected_by", "judged": "rejected_by", "clusters": "duplicate_kind"}
REJECTED = "rejected"  # rows of which no conversation was made: a file beside shards
_STANDS = {"documents": "extracted"}  # how a null of that column is counted; else as kept
_FOOTER = "gristmill"  # what extract notes in its files (`jobs.pieces`)


@dataclass(frozen=True)
class Target:
    """A file to look through; `settings` are those of the dataset's manifest."""

    dataset: str
    path: str
    file: DataFile
    settings: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A file that was written anew, and what the manifest's numbers lose by it.

    `counts` and `extra` are what to take off the values of those names: removed rows by outcome,
    tokens by split, and so on.
    """

    old: str
    file: DataFile
    rows: int
    counts: dict[str, int]
    extra: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the driver."""
        return config.canonical_json(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Change:
        """What `to_json` gave."""
        values = json.loads(text)
        return Change(**{**values, "file": DataFile(**values["file"])})


def matches(target: Target, requests: Requests) -> Iterator[pa.RecordBatch]:
    """A row (`MATCH`) for every request and row of the file that it means, the emptied left out."""
    if target.dataset == REJECTED:
        named = chat_rows.matches(Path(target.path), requests)
        found = [{**row, "by": r.by, "value": r.value} for row, r in named]
        yield pa.RecordBatch.from_pylist(found, schema=MATCH)
        return
    with pq.ParquetFile(target.path) as file:
        there = file.schema_arrow.names
        wanted = [name for name in ("id", "url", *KEY, "rejected_by") if name in there]
        for batch in file.iter_batches(columns=wanted):
            found = [
                {**row, "by": request.by, "value": request.value}
                for row in batch.to_pylist()
                if row.get("rejected_by") != forget.REASON
                for request in requests.matching(row["id"], row.get("url"))
            ]
            yield pa.RecordBatch.from_pylist(found, schema=MATCH)


def rewrite(target: Target, forgotten: Path) -> Change | None:
    """Write the file anew without what has to be forgotten; None where it holds nothing of it."""
    keys, requests = forget.load_keys(forgotten), forget.load(forgotten)
    with pq.ParquetFile(target.path) as file:
        if not _is_concerned(target, file, keys):
            return None
        if target.dataset == "shards":
            return _without_in_shard(target, file.read(), keys)
        return _without(target, file, keys, requests)


def _is_concerned(target: Target, file: pq.ParquetFile, keys: Keys) -> bool:
    columns = [*KEY, "rejected_by"] if target.dataset in EMPTIED else list(KEY)
    groups = (file.read_row_group(i, columns=columns) for i in range(file.num_row_groups))
    return any(_mask(target, rows, keys).any() for rows in groups)


def _mask(target: Target, rows: pa.Table, keys: Keys) -> NDArray[np.bool_]:
    found = keys.mask(rows)
    return found & ~forget.is_blank(rows) if target.dataset in EMPTIED else found


def _without(target: Target, file: pq.ParquetFile, keys: Keys, requests: Requests) -> Change:
    path = Path(target.path)
    # A file of `documents` is found by its name: the next run would extract it again.
    stays = target.dataset == "documents"
    name = path.name if stays else f"part-{uuid.uuid4().hex}.parquet"
    gone, rows = _Gone(target.dataset), 0
    with manifest.atomic_path(path.parent / name) as temporary:
        with pq.ParquetWriter(temporary, _plain(file.schema_arrow), compression="zstd") as writer:
            for i in range(file.num_row_groups):
                kept = gone.take(file.read_row_group(i), keys, requests)
                rows += kept.num_rows
                if kept.num_rows:
                    writer.write_table(kept.cast(writer.schema), row_group_size=ROWS_PER_GROUP)
            footer = (file.metadata.metadata or {}).get(_FOOTER.encode())
            if footer:
                writer.add_key_value_metadata({_FOOTER: _recounted(footer, gone.counts)})
        size = temporary.stat().st_size
    counts = target.file.counts
    if target.dataset in OUTCOME:
        counts = _less(counts, gone.counts)
    new = DataFile(name, rows, size, counts=counts, extra=target.file.extra)
    return Change(path.name, new, gone.rows, dict(gone.counts), gone.extra)


@dataclass
class _Gone:
    """Counts what is taken out of a file."""

    dataset: str
    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    extra: dict[str, dict[str, int]] = field(default_factory=dict)

    def take(self, rows: pa.Table, keys: Keys, requests: Requests) -> pa.Table:
        """What is left of `rows`."""
        mask = keys.mask(rows)
        if self.dataset in EMPTIED:
            mask &= ~forget.is_blank(rows)
        if not mask.any():
            return rows
        gone = rows.filter(pa.array(mask))
        self._count(gone)
        if self.dataset in EMPTIED:
            return forget.replace(rows, mask, forget.blank(gone, requests))
        return rows.filter(pa.array(~mask))

    def _count(self, gone: pa.Table) -> None:
        self.rows += gone.num_rows
        outcome = OUTCOME.get(self.dataset)
        if outcome:
            named = gone[outcome].fill_null(_STANDS.get(self.dataset, "kept"))
            self.counts.update(named.to_pylist())
        else:
            self.counts.update({"documents": gone.num_rows, "nodes": gone.num_rows})
        if self.dataset in EMPTIED:
            self.counts[forget.REASON] -= gone.num_rows
        if "num_shingles" in gone.schema.names:
            self.counts["unsigned"] += pc.sum(pc.equal(gone["num_shingles"], 0)).as_py()
        if "pii" in gone.schema.names:
            sums = self.extra.setdefault("pii", {})
            for row in gone["pii"].to_pylist():
                for kind, number in (row or {}).items():
                    sums[kind] = sums.get(kind, 0) + number


def _without_in_shard(target: Target, rows: pa.Table, keys: Keys) -> Change:
    folder, old = Path(target.path).parent, target.file
    mask = keys.mask(rows)
    gone, split = rows.filter(pa.array(mask)), old.extra["split"]
    text_bytes = _text_bytes(gone, _tokenizer(folder))
    table = _token_rows(rows.filter(pa.array(~mask)), split)
    new = shards.write_shard(table, folder, split, old.extra["index"], _settings(old))
    new.extra["text_bytes"] = old.extra["text_bytes"] - text_bytes
    tokens = old.extra["tokens"] - new.extra["tokens"]
    extra = {"tokens": {split: tokens}, "text_bytes": {split: text_bytes}}
    counts = {"documents": gone.num_rows, "tokens": tokens}
    return Change(old.name, new, gone.num_rows, counts, extra)


def _settings(old: DataFile) -> shards.Shard:
    """All row groups but the last are full, so that the largest says how many rows one takes."""
    return shards.Shard(rows_per_group=max(g["documents"] for g in old.extra["row_groups"]))


def _tokenizer(folder: Path) -> Tokenizer:
    listed = manifest.read(folder)
    assert listed, folder  # shards that no manifest lists have no entry to write anew
    return tokenizer.load(folder / listed.extra["tokenizer"]["file"])


def _token_rows(rows: pa.Table, split: str) -> pa.Table:
    """Rows of a shard as they were written from, in their order; only the sum of their texts'
    sizes is known."""
    columns = {name: rows[name] for name in rows.schema.names}
    columns["split"] = pa.array([split] * rows.num_rows, pa.string())
    columns["order_key"] = pa.array(np.arange(rows.num_rows, dtype=np.int64))
    columns["text_bytes"] = pa.array(np.zeros(rows.num_rows, np.int64))
    return pa.table(columns)


def _text_bytes(rows: pa.Table, known: Tokenizer) -> int:
    """Bytes of the texts: what all tokens stand for that no code of ours put there."""
    ours = {known.boundary, *known.chat_ids.values()}
    return sum(
        len(known.decode_bytes([token for token in tokens if token not in ours]))
        for tokens in rows["tokens"].to_pylist()
    )


def _less(counts: dict[str, int], gone: Counter[str]) -> dict[str, int]:
    """`counts` without what is gone; an outcome that nothing has any more is not listed."""
    left = {name: counts.get(name, 0) - gone[name] for name in counts | gone}
    return {name: number for name, number in sorted(left.items()) if number}


def _recounted(footer: bytes, gone: Counter[str]) -> str:
    stated = json.loads(footer)
    return config.canonical_json({**stated, "counts": _less(stated["counts"], gone)})


def _plain(schema: pa.Schema) -> pa.Schema:
    """The columns with their documentation, without what Parquet added when it was read."""
    docs = ((f, (f.metadata or {}).get(b"doc")) for f in schema)
    return pa.schema([f.with_metadata({"doc": doc} if doc else None) for f, doc in docs])
