"""What conversations were made of, and the rows of which none was: two files beside the shards.

`rows-....arrow` says of every conversation its form and its counts (`corpus.chat.encode.ROWS`),
`rejected-....jsonl` lists the other rows; the manifest names both. `without` takes out of them, and
off the manifest's counts, what has to be forgotten: what is left is what would have been written
without it. Cost: a read of both files; memory is that of the keys of a batch.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from corpus.chat.encode import COUNTS, NO_FORM, ROWS, row_name
from corpus.clean.contamination import sha256
from corpus.clean.removals import DocumentKeys, RemovalRequest, RemovalRequests
from corpus.tokens import shards
from schemas import json_text
from schemas.datasets import KEY
from schemas.errors import UserError
from schemas.manifest import Manifest, atomic_path

ROWS_FILE, REJECTED_FILE = "rows.arrow", "rejected.jsonl"  # as they are called before they are done
ROWS_PER_BATCH = 1 << 16
_KEYS = pa.schema([ROWS.field(name) for name in KEY])
_SUMS = ("turns", "tokens", "target_tokens", "turns_cut")


def companions(listed: Manifest) -> tuple[str, ...]:
    """Names of all that a manifest of shards lists beside them."""
    rows = (listed.extra["rows"]["name"],) if "rows" in listed.extra else ()
    return (*shards.companions(listed.files, listed.extra), *rows)


def write_rows(rows: pa.Table, path: Path) -> None:
    """Write rows of `ROWS`; the bytes do not depend on the batches that they come in."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), ROWS, options=options) as file:
        for start in range(0, len(rows), ROWS_PER_BATCH):
            file.write_table(rows.slice(start, ROWS_PER_BATCH).combine_chunks())


def put(written: Path, folder: Path) -> dict[str, str]:
    """Put a file beside the shards, named by what it holds; its entry for the manifest."""
    digest = sha256(written)
    name = f"{written.stem}-{digest[:16]}{written.suffix}"
    with atomic_path(folder / name) as temporary:
        shutil.copyfile(written, temporary)
    return {"name": name, "sha256": digest}


def matches(
    path: Path, requests: RemovalRequests
) -> Iterator[tuple[dict[str, Any], RemovalRequest]]:
    """The lines of rejected rows that requests mean, each with every one that does."""
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


@dataclass
class Gone:
    """What `without` took out: counts by form, rejected rows by reason, rows in all."""

    forms: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    rows: int = 0

    def add(self, form: str, **counts: int) -> None:
        """Count rows of a form."""
        self.forms.setdefault(form, Counter()).update(counts)
        self.rows += counts["rows"]


def without(
    folder: Path, listed: Manifest, keys: DocumentKeys, work: Path
) -> tuple[Manifest, Gone]:
    """The manifest without the rows of these keys, and what is gone.

    The files that it names are in `folder`, beside those of `listed`; `work` is for those on their
    way. Where nothing is gone, all is as it was.
    """
    gone, extra = Gone(), dict(listed.extra)
    work.mkdir(parents=True, exist_ok=True)
    found = {"rejected": work / REJECTED_FILE}
    _rejected_without(folder / extra["rejected"]["name"], keys, found["rejected"], gone)
    if "rows" in extra:  # not in shards of an earlier version, whose counts stay
        found["rows"] = work / ROWS_FILE
        _rows_without(folder / extra["rows"]["name"], keys, found["rows"], gone)
    if not gone.rows:
        return listed, gone
    forms = (_less(form, gone) for form in extra["forms"])
    extra["forms"] = [form for form in forms if form["rows"]]
    extra["reasons"] = dict(sorted((Counter(extra["reasons"]) - gone.reasons).items()))
    extra["target_tokens"] -= sum(form["target_tokens"] for form in gone.forms.values())
    extra["forgotten"] = extra.get("forgotten", 0) + gone.rows
    extra |= {name: put(path, folder) for name, path in found.items()}
    return dataclasses.replace(listed, extra=extra), gone


def _less(form: dict[str, Any], gone: Gone) -> dict[str, Any]:
    counts = gone.forms.get(form["form"], Counter())
    return form | {name: form[name] - counts[name] for name in COUNTS}


def _rows_without(path: Path, keys: DocumentKeys, out: Path, gone: Gone) -> None:
    kept = []
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        for i in range(reader.num_record_batches):
            rows = pa.Table.from_batches([reader.get_batch(i)])
            mask = keys.mask(rows)
            kept.append(rows.filter(pa.array(~mask)))
            _count(rows.filter(pa.array(mask)), gone)
        write_rows(pa.concat_tables([ROWS.empty_table(), *kept]), out)


def _count(rows: pa.Table, gone: Gone) -> None:
    cut = pc.greater(rows["turns_cut"], 0).cast(pa.int64())
    sums = [(name, "sum") for name in (*_SUMS, "cut")]
    grouped = rows.append_column("cut", cut).group_by("form").aggregate([*sums, ([], "count_all")])
    for row in grouped.to_pylist():
        count = row["count_all"]
        totals = {name: row[f"{name}_sum"] for name, _ in sums}
        gone.add(row["form"], rows=count, conversations=count, **totals)


def _rejected_without(path: Path, keys: DocumentKeys, out: Path, gone: Gone) -> None:
    lines = _lines(path)
    with open(out, "w", encoding="utf-8") as file:
        while batch := list(itertools.islice(lines, ROWS_PER_BATCH)):
            rows = [json_text.loads(line) for line in batch]
            mask = keys.mask(pa.Table.from_pylist(rows, schema=_KEYS))
            for line, row, goes in zip(batch, rows, mask.tolist(), strict=True):
                if goes:
                    gone.add(row["form"] or NO_FORM, rows=1, rejected=1)
                    gone.reasons[row["reason"]] += 1
                else:
                    file.write(line)
