"""Files of a dataset without the rows that have to be forgotten: what the tasks of `forget` do.

A file without such rows is left as it is, after a look at its keys alone. A file with some is
written anew, row group by row group. In `documents` and `judged` the rows stay, emptied; elsewhere
they go. Shards are written by the code and the settings that wrote them, so that a file's bytes
still depend on its rows alone. Cost: a read of the keys of all files, a copy of those concerned.

The datasets of a root as `forget` sees them: which there are, their files, their new manifests.

A manifest keeps its settings and inputs, and so its fingerprint: nothing has to be made anew. Its
files and numbers are those of what is left, so that the books still balance.
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
from typing import Any

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
from corpus.tokens.shards import shards_content_hash
from jobs import extract
from jobs.chat import row_files
from jobs.engine import dataset_io
from jobs.engine.dataset_io import ROWS_PER_GROUP
from jobs.engine.progress import Tally, track
from jobs.engine.roots import MARKER, refuse_links
from schemas import config, manifest, tokenizer
from schemas.datasets import FORGOTTEN, KEY
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from schemas.tokenizer import Tokenizer

# What a task says of a row that a request means; cluster and time come later.
MATCH = pa.schema([pa.field(name, FORGOTTEN.field(name).type) for name in FORGOTTEN.names[:6]])
# Where rows stay, emptied, and the column that says what became of them, where one does.
EMPTIED = ("documents", "judged")
OUTCOME = {"documents": "rejected_by", "judged": "rejected_by", "clusters": "duplicate_kind"}
REJECTED = "rejected"  # rows of which no conversation was made: a file beside shards
_STANDS = {"documents": "extracted"}  # how a null of that column is counted; else as kept
_FOOTER = "gristmill"  # what extract notes in its files (`jobs.extract`)


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


def matches(target: Target, requests: RemovalRequests) -> Iterator[pa.RecordBatch]:
    """A row (`MATCH`) for every request and row of the file that it means, the emptied left out."""
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


def rewrite(target: Target, forgotten: Path) -> Change | None:
    """Write the file anew without what has to be forgotten; None where it holds nothing of it."""
    keys, requests = removals.load_keys(forgotten), removals.load(forgotten)
    with pq.ParquetFile(target.path) as file:
        if not _is_concerned(target, file, keys):
            return None
        if target.dataset == "shards":
            return _without_in_shard(target, file.read(), keys)
        return _without(target, file, keys, requests)


def _is_concerned(target: Target, file: pq.ParquetFile, keys: DocumentKeys) -> bool:
    columns = [*KEY, "rejected_by"] if target.dataset in EMPTIED else list(KEY)
    groups = (file.read_row_group(i, columns=columns) for i in range(file.num_row_groups))
    return any(_mask(target, rows, keys).any() for rows in groups)


def _mask(target: Target, rows: pa.Table, keys: DocumentKeys) -> NDArray[np.bool_]:
    found = keys.mask(rows)
    return found & ~removals.is_blank(rows) if target.dataset in EMPTIED else found


def _without(
    target: Target, file: pq.ParquetFile, keys: DocumentKeys, requests: RemovalRequests
) -> Change:
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
                writer.add_key_value_metadata({_FOOTER: _recounted_footer(footer, gone.counts)})
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

    def take(self, rows: pa.Table, keys: DocumentKeys, requests: RemovalRequests) -> pa.Table:
        """What is left of `rows`."""
        mask = keys.mask(rows)
        if self.dataset in EMPTIED:
            mask &= ~removals.is_blank(rows)
        if not mask.any():
            return rows
        gone = rows.filter(pa.array(mask))
        self._count(gone)
        if self.dataset in EMPTIED:
            return removals.replace(rows, mask, removals.blank(gone, requests))
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
            self.counts[removals.REASON] -= gone.num_rows
        if "num_shingles" in gone.schema.names:
            self.counts["unsigned"] += pc.sum(pc.equal(gone["num_shingles"], 0)).as_py()
        if "pii" in gone.schema.names:
            sums = self.extra.setdefault("pii", {})
            for row in gone["pii"].to_pylist():
                for kind, number in (row or {}).items():
                    sums[kind] = sums.get(kind, 0) + number


def _without_in_shard(target: Target, rows: pa.Table, keys: DocumentKeys) -> Change:
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


def _recounted_footer(footer: bytes, gone: Counter[str]) -> str:
    stated = json.loads(footer)
    return config.canonical_json({**stated, "counts": _less(stated["counts"], gone)})


def _plain(schema: pa.Schema) -> pa.Schema:
    """The columns with their documentation, without what Parquet added when it was read."""
    docs = ((f, (f.metadata or {}).get(b"doc")) for f in schema)
    return pa.schema([f.with_metadata({"doc": doc} if doc else None) for f, doc in docs])


# Upstream first: what is made anew from a dataset that is done can't hold the documents any more.
ORDER = ("documents", "judged", "bands", "clusters", "canonical", "contamination")
_SHARD = re.compile(r"(?:train|validation)-\d+-[0-9a-f]{16}\.parquet")


@dataclass(frozen=True)
class Place:
    """A dataset of a root: its name and its folder."""

    dataset: str
    folder: Path


def find_places(root: Path) -> list[Place]:
    """The datasets that may hold documents, in the order in which they are taken out of them."""
    folders: list[Path] = []
    if root.is_dir():
        refuse_links(root)
        folders = sorted(path for path in root.iterdir() if path.is_dir())
    known = [Place(name, root / name) for name in ORDER if root / name in folders]
    others = [path for path in folders if path.name not in (*ORDER, "forgotten")]
    found = [path for path in others if _holds_shards(path)]
    if not known and not found:
        raise UserError(f"--root {root}: holds no dataset; name the root of a gristmill run")
    _refuse_deeper_shards(path for path in others if path not in found)
    return known + [Place("shards", path) for path in found]


def _holds_shards(folder: Path) -> bool:
    """Shards, perhaps of a run that was killed and committed none."""
    if not folder.is_dir():
        return False
    if (folder / manifest.MANIFEST_FILE).exists():
        listed = manifest.read(folder)
        return listed is not None and listed.dataset == "shards"
    return any(_SHARD.fullmatch(path.name) for path in folder.iterdir())


def _refuse_deeper_shards(folders: Iterable[Path]) -> None:
    """Version 0.1 could put shards one folder deeper, where a takedown would pass them by."""
    for folder in folders:
        if (folder / MARKER).exists():
            continue  # a root of its own
        for path in folder.glob(f"*/{manifest.MANIFEST_FILE}"):
            if _holds_shards_of_ours(path.parent):
                raise UserError(
                    f"{path.parent}: shards stand directly in their root; move this folder to "
                    f"{folder.parent / path.parent.name}, or its documents are not taken down"
                )


def _holds_shards_of_ours(folder: Path) -> bool:
    try:
        return _holds_shards(folder)
    except UserError:  # another program's manifest
        return False


def targets_in(place: Place) -> Iterator[Target]:
    """The files of a dataset; of `documents` also what no manifest lists but a run may use."""
    listed = manifest.read(place.folder)
    files = {file.name: file for file in listed.files} if listed else {}
    for name in files:
        if not (place.folder / name).exists():
            raise UserError(f"{place.folder / name}: missing, the manifest lists it")
    if place.dataset == "documents":
        there = [path.name for path in dataset_io.own_files(place.folder)]
        there = [name for name in there if name.endswith((".parquet", ".piece"))]
        files = {name: files.get(name) or DataFile(name, 0, 0) for name in {*files, *there}}
    settings = listed.settings if listed else {}
    for name, file in sorted(files.items()):
        yield Target(place.dataset, str(place.folder / name), file, settings)


def rejected_in(place: Place) -> Iterator[Target]:
    """The file of rows of which no conversation was made, beside shards of conversations."""
    listed = manifest.read(place.folder)
    if listed and "rejected" in listed.extra:
        name = listed.extra["rejected"]["name"]
        yield Target(REJECTED, str(place.folder / name), DataFile(name, 0, 0), {})


def listed_frame(spark: SparkSession, targets: list[Target]) -> DataFrame:
    """One file a task: the default would put all these small rows into one."""
    rows = [(json.dumps(dataclasses.asdict(target)),) for target in targets]
    return spark.createDataFrame(rows, "target string").repartition(len(rows))


def each_target(tallies: str, batches: dataset_io.Batches) -> Iterator[Target]:
    """The files that a task was given, each counted when it is done."""
    tally = Tally(tallies)
    for batch in batches:
        for text in batch["target"].to_pylist():
            values = json.loads(text)
            yield Target(**{**values, "file": DataFile(**values["file"])})
            tally.add(1)


def _rewrite(forgotten: str, tallies: str, batches: dataset_io.Batches) -> dataset_io.Batches:
    for target in each_target(tallies, batches):
        change = rewrite(target, Path(forgotten))
        if change:
            yield pa.RecordBatch.from_pydict({"receipt": [change.to_json()]})


def forget_in(root: Path, spark: SparkSession, forgotten: Path, place: Place) -> list[Change]:
    """Take the documents out of one dataset and commit it; what changed, file by file."""
    targets, changes = list(targets_in(place)), list[Change]()
    if targets:
        with track(root, f"forget: {place.folder.name}", len(targets), "files") as tallies:
            task = functools.partial(_rewrite, str(forgotten), tallies)
            done = listed_frame(spark, targets).mapInArrow(task, dataset_io.RECEIPT).toArrow()
            changes = [Change.from_json(text) for text in done["receipt"].to_pylist()]
    listed = manifest.read(place.folder)
    if listed is None:
        _drop_uncommitted(place)
        return changes
    new = _adjusted(spark, place, listed, changes)
    if "rejected" in new.extra:
        keys, work = removals.load_keys(forgotten), root / ".work" / "forget-conversations"
        new, gone = row_files.without(place.folder, new, keys, work)
        changes += _of_rejected(new, gone)
    if new != listed:
        manifest.write(place.folder, new)
    _sweep(place, new)
    return changes


def _of_rejected(new: Manifest, gone: row_files.Gone) -> list[Change]:
    rows, name = gone.reasons.total(), new.extra["rejected"]["name"]
    return [Change("", DataFile(name, 0, 0), rows, {})] if rows else []


def _drop_uncommitted(place: Place) -> None:
    """Files that no manifest lists are nobody's, but for those of `documents`."""
    endings = (".tmp",) if place.dataset == "documents" else (".tmp", ".parquet")
    for path in dataset_io.own_files(place.folder):
        if path.name.endswith(endings):
            path.unlink(missing_ok=True)


def _sweep(place: Place, listed: Manifest) -> None:
    if place.dataset == "documents":
        _drop_uncommitted(place)
    else:
        kept = row_files.companions(listed) if place.dataset == "shards" else ()
        dataset_io.sweep(place.folder, listed, keep=kept)


def _adjusted(
    spark: SparkSession, place: Place, listed: Manifest, changes: list[Change]
) -> Manifest:
    """The manifest of what is there now: other files and numbers, the same settings and inputs."""
    if place.dataset == "documents":
        # A run that was killed may have left files that are new already: their footers count.
        files = tuple(extract.describe(place.folder / file.name) for file in listed.files)
        return dataclasses.replace(listed, files=files, counts=dataset_io.sum_counts(files))
    new = {change.old: change.file for change in changes}
    files = tuple(new.get(file.name, file) for file in listed.files)
    if place.dataset != "shards":
        files = tuple(sorted(files, key=lambda file: file.name))
    counts, extra = dict(listed.counts), json.loads(json.dumps(listed.extra))
    for change in changes:
        _subtract(counts, change.counts, keep=place.dataset not in OUTCOME)
        for name, numbers in change.extra.items():
            _subtract(extra.get(name, {}), numbers, keep=True)
    return _recounted(
        spark, place, dataclasses.replace(listed, files=files, counts=counts, extra=extra)
    )


def _subtract(numbers: dict[str, int], gone: dict[str, int], keep: bool) -> None:
    """Take `gone` off `numbers`; unless `keep`, outcomes come and go as they are counted."""
    for name, number in gone.items():
        if name in numbers or not keep:
            numbers[name] = numbers.get(name, 0) - number
            if not numbers[name] and not keep:
                del numbers[name]


def _recounted(spark: SparkSession, place: Place, listed: Manifest) -> Manifest:
    """What has to be counted over all files again."""
    if place.dataset == "shards":
        known = listed.extra["tokenizer"]
        content = shards_content_hash(listed.files, known["hash"], known["vocab_size"])
        return dataclasses.replace(listed, extra=listed.extra | {"content_hash": content})
    if place.dataset == "contamination":
        return _contamination_recounted(spark, place, listed)
    if "repeated_ids" in listed.counts:
        ids = dataset_io.read(spark, place.folder, listed, pa.schema([("id", pa.string())]))
        distinct = ids.agg(F.countDistinct("id").alias("n")).toArrow()["n"][0].as_py()
        counts = listed.counts | {"repeated_ids": listed.rows - distinct}
        return dataclasses.replace(listed, counts=counts)
    return listed


def _contamination_recounted(spark: SparkSession, place: Place, listed: Manifest) -> Manifest:
    """Its rows are of the documents that hold something; it counts the others as well."""
    stored = pq.read_schema(listed.paths(place.folder)[0])
    columns = pa.schema([stored.field(name) for name in (*KEY, "set", "items")])
    rows = dataset_io.read(spark, place.folder, listed, columns)
    contaminated = rows.select(*KEY).distinct().count()
    counts = listed.counts | {"contaminated": contaminated}
    canonical = manifest.read(place.folder.parent / "canonical")
    if canonical and canonical.fingerprint == listed.inputs["canonical"]:
        counts["clean"] = canonical.rows - contaminated
    documents = _by_set(rows.select("set"))
    items = _by_set(rows.select("set", F.explode("items").alias("item")).distinct())
    sets = [
        {**one, "documents": documents.get(one["name"], 0), "found": items.get(one["name"], 0)}
        for one in listed.extra["sets"]
    ]
    return dataclasses.replace(listed, counts=counts, extra=listed.extra | {"sets": sets})


def _by_set(rows: DataFrame) -> dict[str, int]:
    counted = rows.groupBy("set").agg(F.count("*").alias("n")).toArrow().to_pylist()
    return {row["set"]: row["n"] for row in counted}
