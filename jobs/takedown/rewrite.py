"""Takedown in a root's datasets: find their files, rewrite those concerned, commit.

A file without rows to remove is left as it is, after its keys are read. Others are rewritten, one
row group at a time: in `documents` and `judged` the rows stay, blanked; elsewhere they are removed.
Shards are written by the code and the settings that wrote them, so that a file's bytes still depend
on its rows alone.

A manifest keeps its settings and inputs, and so its fingerprint: no stage has to run again. Its
files and counts are those of the rows that are left.

Cost: a read of the keys of all files, a copy of those concerned.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from corpus.clean import removals
from corpus.clean.removals import DocumentKeys, RemovalRequests
from corpus.tokens import shards
from corpus.tokens.shards import Shard
from jobs import decontaminate, extract
from jobs.chat import row_files
from jobs.engine import dataset_io
from jobs.engine.dataset_io import ROWS_PER_GROUP
from jobs.engine.progress import Tally, track
from jobs.engine.roots import MARKER, refuse_links
from schemas import config, manifest, tokenizer
from schemas.datasets import FORGOTTEN, KEY
from schemas.errors import UserError
from schemas.manifest import CanonicalExtra, ContaminationExtra, DataFile, Manifest

# Upstream first: a dataset rebuilt meanwhile from one that is done can't hold the documents.
ORDER = ("documents", "judged", "bands", "clusters", "canonical", "contamination")
# Datasets whose rows stay, blanked, and the column with a row's outcome, where there is one.
BLANKED = ("documents", "judged")
OUTCOME = {"documents": "rejected_by", "judged": "rejected_by", "clusters": "duplicate_kind"}
_NO_OUTCOME = {"documents": "extracted"}  # what a null of that column counts as; else "kept"
REJECTED = "rejected"  # a file beside shards: rows without a conversation
# The columns of a match that a task knows; cluster and time come later.
MATCH = pa.schema([pa.field(name, FORGOTTEN.field(name).type) for name in FORGOTTEN.names[:6]])
_FOOTER = "gristmill"  # metadata of files that extract wrote (`jobs.extract`)
_SHARD = re.compile(r"(?:train|validation)-\d+-[0-9a-f]{16}\.parquet")


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset of a root and its folder."""

    dataset: str
    folder: Path


@dataclass(frozen=True)
class TargetFile:
    """A file to search or rewrite, for the task that does."""

    dataset: str
    path: str
    file: DataFile

    def to_json(self) -> str:
        """For a task."""
        return config.canonical_json({**vars(self), "file": self.file.to_json()})

    @staticmethod
    def from_json(text: str) -> TargetFile:
        """What `to_json` gave."""
        values = json.loads(text)
        file = DataFile.from_json(values["file"], values["dataset"])
        return TargetFile(**{**values, "file": file})


@dataclass(frozen=True)
class RewrittenFile:
    """A file that replaces `old`, and what to subtract from the manifest's numbers.

    `counts` are for `Manifest.counts` (removed rows by outcome, tokens), `pii` for the personal
    data of `canonical`, by kind.
    """

    dataset: str
    old: str
    file: DataFile
    rows: int
    counts: dict[str, int]
    pii: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the driver."""
        return config.canonical_json({**vars(self), "file": self.file.to_json()})

    @staticmethod
    def from_json(text: str) -> RewrittenFile:
        """What `to_json` gave."""
        values = json.loads(text)
        file = DataFile.from_json(values["file"], values["dataset"])
        return RewrittenFile(**{**values, "file": file})


# --- The datasets of a root and their files ------------------------------------------------------


def find_datasets(root: Path) -> list[DatasetFolder]:
    """The datasets that may hold documents, in the order of the takedown."""
    folders: list[Path] = []
    if root.is_dir():
        refuse_links(root)
        folders = sorted(path for path in root.iterdir() if path.is_dir())
    known = [DatasetFolder(name, root / name) for name in ORDER if root / name in folders]
    others = [path for path in folders if path.name not in (*ORDER, "forgotten")]
    found = [path for path in others if _holds_shards(path)]
    if not known and not found:
        raise UserError(f"--root {root}: holds no dataset; name the root of a gristmill run")
    _refuse_deeper_shards(path for path in others if path not in found)
    for listed in map(manifest.read, found):
        if listed:
            listed.shards  # noqa: B018 (raises for another format, whose files can't be rewritten)
    return known + [DatasetFolder("shards", path) for path in found]


def _holds_shards(folder: Path) -> bool:
    """Whether there are shards, also of a killed run that committed none."""
    if not folder.is_dir():
        return False
    if (folder / manifest.MANIFEST_FILE).exists():
        listed = manifest.read(folder)
        return listed is not None and listed.dataset == "shards"
    return any(_SHARD.fullmatch(path.name) for path in folder.iterdir())


def _refuse_deeper_shards(folders: Iterable[Path]) -> None:
    """Version 0.1 could write shards one folder deeper, where no takedown would find them."""
    for folder in folders:
        if (folder / MARKER).exists():
            continue  # a root of its own
        for path in folder.glob(f"*/{manifest.MANIFEST_FILE}"):
            try:
                is_ours = _holds_shards(path.parent)
            except UserError:  # another program's manifest
                continue
            if is_ours:
                raise UserError(
                    f"{path.parent}: shards must be directly in their root; move this folder to "
                    f"{folder.parent / path.parent.name}, or its documents are not taken down"
                )


def targets_in(place: DatasetFolder) -> Iterator[TargetFile]:
    """The files of a dataset; of `documents` also unlisted ones that a later run may use."""
    listed = manifest.read(place.folder)
    files = {file.name: file for file in listed.files} if listed else {}
    for name in files:
        if not (place.folder / name).exists():
            raise UserError(f"{place.folder / name}: missing, the manifest lists it")
    if place.dataset == "documents":
        there = [path.name for path in dataset_io.own_files(place.folder)]
        there = [name for name in there if name.endswith((".parquet", ".piece"))]
        files = {name: files.get(name) or DataFile(name, 0, 0) for name in {*files, *there}}
    for name, file in sorted(files.items()):
        yield TargetFile(place.dataset, str(place.folder / name), file)


def rejected_in(place: DatasetFolder) -> Iterator[TargetFile]:
    """The file of rejected rows beside shards of conversations."""
    listed = manifest.read(place.folder)
    if listed and place.dataset == "shards" and listed.shards.rejected:
        name = listed.shards.rejected.name
        yield TargetFile(REJECTED, str(place.folder / name), DataFile(name, 0, 0))


def listed_frame(spark: SparkSession, targets: list[TargetFile]) -> DataFrame:
    """One task per file: by default all these small rows would be in one."""
    rows = [(target.to_json(),) for target in targets]
    return spark.createDataFrame(rows, "target string").repartition(len(rows))


def each_target(tallies: str, batches: dataset_io.Batches) -> Iterator[TargetFile]:
    """The files that a task was given, each counted when it is done."""
    tally = Tally(tallies)
    for batch in batches:
        for text in batch["target"].to_pylist():
            yield TargetFile.from_json(text)
            tally.add(1)


def matches(target: TargetFile, requests: RemovalRequests) -> Iterator[pa.RecordBatch]:
    """A row (`MATCH`) for every request and row of the file that it means, without blanked rows."""
    if target.dataset == REJECTED:
        named = row_files.matches(Path(target.path), requests)
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
                if row.get("rejected_by") != removals.REASON
                for request in requests.matching(row["id"], row.get("url"))
            ]
            yield pa.RecordBatch.from_pylist(found, schema=MATCH)


# --- One dataset: rewrite its files, commit its manifest -----------------------------------------


def remove_from(
    root: Path, spark: SparkSession, forgotten: Path, place: DatasetFolder
) -> list[RewrittenFile]:
    """Remove the documents from one dataset and commit it; returns the changes, file by file."""
    targets, changes = list(targets_in(place)), list[RewrittenFile]()
    if targets:
        with track(root, f"takedown: {place.folder.name}", len(targets), "files") as tallies:
            task = functools.partial(_rewrite_targets, str(forgotten), tallies)
            done = listed_frame(spark, targets).mapInArrow(task, dataset_io.RECEIPT).toArrow()
            changes = [RewrittenFile.from_json(text) for text in done["receipt"].to_pylist()]
    listed = manifest.read(place.folder)
    if listed is None:
        _drop_uncommitted(place)
        return changes
    new = _adjusted(spark, place, listed, changes)
    if place.dataset == "shards" and new.shards.rejected:
        keys, work = removals.load_keys(forgotten), root / ".work" / "forget-conversations"
        extra, gone = row_files.without(place.folder, new.shards, keys, work)
        new = dataclasses.replace(new, extra=extra)
        if extra.rejected and (rows := gone.reasons.total()):
            file = DataFile(extra.rejected.name, 0, 0)
            changes.append(RewrittenFile(REJECTED, "", file, rows, {}))
    if new != listed:
        manifest.write(place.folder, new)
    if place.dataset == "documents":
        _drop_uncommitted(place)
    else:
        kept = shards.companions(new.files, new.shards) if place.dataset == "shards" else ()
        dataset_io.sweep(place.folder, new, keep=kept)
    return changes


def _rewrite_targets(
    forgotten: str, tallies: str, batches: dataset_io.Batches
) -> dataset_io.Batches:
    for target in each_target(tallies, batches):
        change = rewrite(target, Path(forgotten))
        if change:
            yield pa.RecordBatch.from_pydict({"receipt": [change.to_json()]})


def _drop_uncommitted(place: DatasetFolder) -> None:
    """Delete unlisted files of killed runs; of `documents`, a later run may use whole ones."""
    endings = (".tmp",) if place.dataset == "documents" else (".tmp", ".parquet")
    for path in dataset_io.own_files(place.folder):
        if path.name.endswith(endings):
            path.unlink(missing_ok=True)


def _adjusted(
    spark: SparkSession, place: DatasetFolder, listed: Manifest, changes: list[RewrittenFile]
) -> Manifest:
    """The manifest of the files as they are now, with the same settings and inputs."""
    if place.dataset == "documents":
        # A killed run may have replaced files already, so their footers are read, not `changes`.
        files = tuple(extract.describe(place.folder / file.name) for file in listed.files)
        return dataclasses.replace(listed, files=files, counts=dataset_io.sum_counts(files))
    new = {change.old: change.file for change in changes}
    files = tuple(new.get(file.name, file) for file in listed.files)
    if place.dataset != "shards":
        files = tuple(sorted(files, key=lambda file: file.name))
    counts = dict(listed.counts)
    for change in changes:
        _subtract(counts, change.counts, keep=place.dataset not in OUTCOME)
    left = dataclasses.replace(listed, files=files, counts=counts)

    # What can only be counted over all files.
    if place.dataset == "shards":
        tokens, text_bytes, content = shards.totals(files, listed.shards.tokenizer)
        extra = dataclasses.replace(
            listed.shards, tokens=tokens, text_bytes=text_bytes, content_hash=content
        )
        return dataclasses.replace(left, extra=extra)
    if isinstance(listed.extra, CanonicalExtra) and listed.extra.pii:
        pii = dict(listed.extra.pii)
        for change in changes:
            _subtract(pii, change.pii, keep=True)
        return dataclasses.replace(left, extra=CanonicalExtra(pii))
    if place.dataset == "contamination":
        return _contamination_recounted(spark, place, left)
    if "repeated_ids" in left.counts:
        ids = dataset_io.read(spark, place.folder, left, pa.schema([("id", pa.string())]))
        distinct = ids.agg(F.countDistinct("id").alias("n")).toArrow()["n"][0].as_py()
        counts = left.counts | {"repeated_ids": left.rows - distinct}
        return dataclasses.replace(left, counts=counts)
    return left


def _subtract(numbers: dict[str, int], gone: dict[str, int], keep: bool) -> None:
    """Subtract `gone` from `numbers`; unless `keep`, names are added, and dropped at zero."""
    for name, number in gone.items():
        if name in numbers or not keep:
            numbers[name] = numbers.get(name, 0) - number
            if not numbers[name] and not keep:
                del numbers[name]


def _contamination_recounted(
    spark: SparkSession, place: DatasetFolder, listed: Manifest
) -> Manifest:
    """Its rows are of contaminated documents; its counts include the clean ones."""
    stored = pq.read_schema(listed.paths(place.folder)[0])
    columns = pa.schema([stored.field(name) for name in (*KEY, "set", "items")])
    rows = dataset_io.read(spark, place.folder, listed, columns)
    contaminated = rows.select(*KEY).distinct().count()
    counts = listed.counts | {"contaminated": contaminated}
    canonical = manifest.read(place.folder.parent / "canonical")
    if canonical and canonical.fingerprint == listed.inputs["canonical"]:
        counts["clean"] = canonical.rows - contaminated
    extra = manifest.extra_of(listed, ContaminationExtra)
    extra = dataclasses.replace(extra, sets=decontaminate.count_by_set(rows, extra.sets))
    return dataclasses.replace(listed, counts=counts, extra=extra)


# --- One file ------------------------------------------------------------------------------------


def rewrite(target: TargetFile, forgotten: Path) -> RewrittenFile | None:
    """Write the file again without the documents to remove; None where it holds none of them."""
    keys, requests = removals.load_keys(forgotten), removals.load(forgotten)
    columns = [*KEY, "rejected_by"] if target.dataset in BLANKED else list(KEY)
    with pq.ParquetFile(target.path) as file:
        groups = (file.read_row_group(i, columns=columns) for i in range(file.num_row_groups))
        if not any(_mask(target.dataset, rows, keys).any() for rows in groups):
            return None
        if target.dataset == "shards":
            return _shard_without(target, file.read(), keys)
        return _file_without(target, file, keys, requests)


def _mask(dataset: str, rows: pa.Table, keys: DocumentKeys) -> NDArray[np.bool_]:
    """Which rows are to be removed, or to be blanked and are not yet."""
    found = keys.mask(rows)
    return found & ~removals.is_blank(rows) if dataset in BLANKED else found


def _file_without(
    target: TargetFile, file: pq.ParquetFile, keys: DocumentKeys, requests: RemovalRequests
) -> RewrittenFile:
    path = Path(target.path)
    # Extract finds its files by name, and would extract one with another name again.
    stays = target.dataset == "documents"
    name = path.name if stays else f"part-{uuid.uuid4().hex}.parquet"
    gone, rows = _RemovedRows(target.dataset), 0
    with manifest.atomic_path(path.parent / name) as temporary:
        with pq.ParquetWriter(temporary, _plain(file.schema_arrow), compression="zstd") as writer:
            for i in range(file.num_row_groups):
                kept = gone.take(file.read_row_group(i), keys, requests)
                rows += kept.num_rows
                if kept.num_rows:
                    writer.write_table(kept.cast(writer.schema), row_group_size=ROWS_PER_GROUP)
            footer = (file.metadata.metadata or {}).get(_FOOTER.encode())
            if footer:
                stated = json.loads(footer)
                stated["counts"] = _less(stated["counts"], gone.counts)
                writer.add_key_value_metadata({_FOOTER: config.canonical_json(stated)})
        size = temporary.stat().st_size
    counts = target.file.counts
    if target.dataset in OUTCOME:
        counts = _less(counts, gone.counts)
    new = DataFile(name, rows, size, counts=counts, extra=target.file.extra)
    return RewrittenFile(target.dataset, path.name, new, gone.rows, dict(gone.counts), gone.pii)


@dataclass
class _RemovedRows:
    """Takes rows out of a file and counts them, as `RewrittenFile` does."""

    dataset: str
    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    pii: Counter[str] = field(default_factory=Counter)

    def take(self, rows: pa.Table, keys: DocumentKeys, requests: RemovalRequests) -> pa.Table:
        """What is left of `rows`."""
        mask = _mask(self.dataset, rows, keys)
        if not mask.any():
            return rows
        gone = rows.filter(pa.array(mask))
        self._count(gone)
        if self.dataset in BLANKED:
            return removals.replace(rows, mask, removals.blank(gone, requests))
        return rows.filter(pa.array(~mask))

    def _count(self, gone: pa.Table) -> None:
        self.rows += gone.num_rows
        outcome = OUTCOME.get(self.dataset)
        if outcome:
            named = gone[outcome].fill_null(_NO_OUTCOME.get(self.dataset, "kept"))
            self.counts.update(named.to_pylist())
        else:
            self.counts.update({"documents": gone.num_rows, "nodes": gone.num_rows})
        if self.dataset in BLANKED:
            self.counts[removals.REASON] -= gone.num_rows
        if "num_shingles" in gone.schema.names:
            self.counts["unsigned"] += pc.sum(pc.equal(gone["num_shingles"], 0)).as_py()
        if "pii" in gone.schema.names:
            for row in gone["pii"].to_pylist():
                self.pii.update(row or {})


def _less(counts: dict[str, int], gone: Counter[str]) -> dict[str, int]:
    """`counts` less what is gone, without outcomes that no row has any more."""
    left = {name: counts.get(name, 0) - gone[name] for name in counts | gone}
    return {name: number for name, number in sorted(left.items()) if number}


def _plain(schema: pa.Schema) -> pa.Schema:
    """The columns with their documentation, without what Parquet added on reading."""
    docs = ((f, (f.metadata or {}).get(b"doc")) for f in schema)
    return pa.schema([f.with_metadata({"doc": doc} if doc else None) for f, doc in docs])


def _shard_without(target: TargetFile, rows: pa.Table, keys: DocumentKeys) -> RewrittenFile:
    folder, old = Path(target.path).parent, target.file
    mask, split = keys.mask(rows), old.shard.split
    gone, left = rows.filter(pa.array(mask)), rows.filter(pa.array(~mask))
    text_bytes = _text_bytes(gone, folder)

    # The rows as they were written from, in their order; only the sum of `text_bytes` is known.
    columns = {name: left[name] for name in left.schema.names}
    columns["split"] = pa.array([split] * left.num_rows, pa.string())
    columns["order_key"] = pa.array(np.arange(left.num_rows, dtype=np.int64))
    columns["text_bytes"] = pa.array(np.zeros(left.num_rows, np.int64))
    # All row groups but the last are full, so the largest has the setting's number of rows.
    settings = Shard(rows_per_group=max(group.documents for group in old.shard.row_groups))
    new = shards.write_shard(pa.table(columns), folder, split, old.shard.index, settings)
    extra = dataclasses.replace(new.shard, text_bytes=old.shard.text_bytes - text_bytes)
    new = dataclasses.replace(new, extra=extra)
    counts = {"documents": gone.num_rows, "tokens": old.shard.tokens - new.shard.tokens}
    return RewrittenFile(target.dataset, old.name, new, gone.num_rows, counts)


def _text_bytes(rows: pa.Table, folder: Path) -> int:
    """Bytes of the rows' texts: of all tokens but the control tokens that our code inserts."""
    listed = manifest.read(folder)
    assert listed, folder  # shards that no manifest lists have no entry to rewrite
    known = tokenizer.load(folder / listed.shards.tokenizer.file)
    ours = {known.boundary, *known.chat_ids.values()}
    return sum(
        len(known.decode_bytes([token for token in tokens if token not in ours]))
        for tokens in rows["tokens"].to_pylist()
    )
