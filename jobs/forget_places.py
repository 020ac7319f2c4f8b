"""The datasets of a root as `forget` sees them: which there are, their files, their new manifests.

A manifest keeps its settings and inputs, and so its fingerprint: nothing has to be made anew. Its
files and numbers are those of what is left, so that the books still balance.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from corpus import forget
from corpus.shards import shards_content_hash
from jobs import chat_rows, datasets, extract, forget_files
from jobs.forget_files import Change, Target
from jobs.progress import Tally, track
from jobs.roots import MARKER, refuse_links
from schemas import manifest
from schemas.datasets import KEY
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest

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
        there = [path.name for path in datasets.own_files(place.folder)]
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
        yield Target(forget_files.REJECTED, str(place.folder / name), DataFile(name, 0, 0), {})


def listed_frame(spark: SparkSession, targets: list[Target]) -> DataFrame:
    """One file a task: the default would put all these small rows into one."""
    rows = [(json.dumps(dataclasses.asdict(target)),) for target in targets]
    return spark.createDataFrame(rows, "target string").repartition(len(rows))


def each_target(tallies: str, batches: datasets.Batches) -> Iterator[Target]:
    """The files that a task was given, each counted when it is done."""
    tally = Tally(tallies)
    for batch in batches:
        for text in batch["target"].to_pylist():
            values = json.loads(text)
            yield Target(**{**values, "file": DataFile(**values["file"])})
            tally.add(1)


def _rewrite(forgotten: str, tallies: str, batches: datasets.Batches) -> datasets.Batches:
    for target in each_target(tallies, batches):
        change = forget_files.rewrite(target, Path(forgotten))
        if change:
            yield pa.RecordBatch.from_pydict({"receipt": [change.to_json()]})


def forget_in(root: Path, spark: SparkSession, forgotten: Path, place: Place) -> list[Change]:
    """Take the documents out of one dataset and commit it; what changed, file by file."""
    targets, changes = list(targets_in(place)), list[Change]()
    if targets:
        with track(root, f"forget: {place.folder.name}", len(targets), "files") as tallies:
            task = functools.partial(_rewrite, str(forgotten), tallies)
            done = listed_frame(spark, targets).mapInArrow(task, datasets.RECEIPT).toArrow()
            changes = [Change.from_json(text) for text in done["receipt"].to_pylist()]
    listed = manifest.read(place.folder)
    if listed is None:
        _drop_uncommitted(place)
        return changes
    new = _adjusted(spark, place, listed, changes)
    if "rejected" in new.extra:
        keys, work = forget.load_keys(forgotten), root / ".work" / "forget-conversations"
        new, gone = chat_rows.without(place.folder, new, keys, work)
        changes += _of_rejected(new, gone)
    if new != listed:
        manifest.write(place.folder, new)
    _sweep(place, new)
    return changes


def _of_rejected(new: Manifest, gone: chat_rows.Gone) -> list[Change]:
    rows, name = gone.reasons.total(), new.extra["rejected"]["name"]
    return [Change("", DataFile(name, 0, 0), rows, {})] if rows else []


def _drop_uncommitted(place: Place) -> None:
    """Files that no manifest lists are nobody's, but for those of `documents`."""
    endings = (".tmp",) if place.dataset == "documents" else (".tmp", ".parquet")
    for path in datasets.own_files(place.folder):
        if path.name.endswith(endings):
            path.unlink(missing_ok=True)


def _sweep(place: Place, listed: Manifest) -> None:
    if place.dataset == "documents":
        _drop_uncommitted(place)
    else:
        kept = chat_rows.companions(listed) if place.dataset == "shards" else ()
        datasets.sweep(place.folder, listed, keep=kept)


def _adjusted(
    spark: SparkSession, place: Place, listed: Manifest, changes: list[Change]
) -> Manifest:
    """The manifest of what is there now: other files and numbers, the same settings and inputs."""
    if place.dataset == "documents":
        # A run that was killed may have left files that are new already: their footers count.
        files = tuple(extract.describe(place.folder / file.name) for file in listed.files)
        return dataclasses.replace(listed, files=files, counts=datasets.sum_counts(files))
    new = {change.old: change.file for change in changes}
    files = tuple(new.get(file.name, file) for file in listed.files)
    if place.dataset != "shards":
        files = tuple(sorted(files, key=lambda file: file.name))
    counts, extra = dict(listed.counts), json.loads(json.dumps(listed.extra))
    for change in changes:
        _subtract(counts, change.counts, keep=place.dataset not in forget_files.OUTCOME)
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
        ids = datasets.read(spark, place.folder, listed, pa.schema([("id", pa.string())]))
        distinct = ids.agg(F.countDistinct("id").alias("n")).toArrow()["n"][0].as_py()
        counts = listed.counts | {"repeated_ids": listed.rows - distinct}
        return dataclasses.replace(listed, counts=counts)
    return listed


def _contamination_recounted(spark: SparkSession, place: Place, listed: Manifest) -> Manifest:
    """Its rows are of the documents that hold something; it counts the others as well."""
    stored = pq.read_schema(listed.paths(place.folder)[0])
    columns = pa.schema([stored.field(name) for name in (*KEY, "set", "items")])
    rows = datasets.read(spark, place.folder, listed, columns)
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
