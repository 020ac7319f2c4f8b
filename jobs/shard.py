"""`canonical` -> `shards`: token ids in a global order, in files named by their content.

Texts are tokenized once, into a working dataset. Its number of tokens gives the number of shards
per split. A document's order key, a hash of (seed, id), gives its shard and its place in it. Each
shard is one group, sorted and written by one function, so its bytes do not depend on the engine,
the partitions or the number of cores.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from corpus.recipe import Recipe
from corpus.tokens import bpe, shards
from corpus.tokens.splits import SPLITS
from jobs import decontaminate
from jobs.engine import dataset_io
from jobs.engine.progress import track
from jobs.engine.stage import Job, Stage, Written, balance
from schemas import config, tokenizer
from schemas.datasets import KEY, SHARD_FORMAT
from schemas.errors import UserError
from schemas.manifest import DataFile
from schemas.tokenizer import Tokenizer


def run(job: Job) -> dict[str, Written]:
    """Tokenizer, then tokens, then shards."""
    folder, work = job.folder("shards"), job.root / ".work" / "shard"
    folder.mkdir(parents=True, exist_ok=True)
    num_documents = job.manifest("canonical").rows - decontaminate.num_dropped(job)
    if not num_documents:
        raise UserError(
            f"{job.folder('canonical')}: no document was kept, so there is nothing to shard"
        )
    try:
        known = _tokenizer(job)
        tokens = _write_tokens(job, known, num_documents, work)
        files = _write_shards(job, tokens, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"shards": _describe(job, files, known)}


def check(job: Job, written: dict[str, Written]) -> None:
    """Every canonical document is in one shard or was dropped by decontamination."""
    documents = sum(file.rows for file in written["shards"].files)
    accounted = documents + decontaminate.num_dropped(job)
    balance("shard", "canonical documents", job.manifest("canonical").rows, accounted)


def _tokenizer(job: Job) -> Tokenizer:
    """The recipe's tokenizer, loaded or trained on the corpus, saved with the shards."""
    settings = job.recipe.tokenizer
    if settings.trains:
        with track(job.root, "shard: train tokenizer", 1, "step"):
            known = bpe.train(_sample(job), settings.vocab_size, f"bpe-{settings.vocab_size}")
    else:
        known = tokenizer.find(settings.name)
    shards.save_tokenizer(known, job.folder("shards"))
    return known


def check_tokenizer(recipe: Recipe) -> None:
    """Raise `UserError` if the recipe's tokenizer cannot be loaded."""
    if not recipe.tokenizer.trains:
        tokenizer.find(recipe.tokenizer.name)


def texts(job: Job) -> Iterator[Any]:
    """Rows of `text` and `bytes` (its size in UTF-8), in the order of a hash of the id."""
    columns = decontaminate.clean(job).select("id", *KEY, "text")
    order = [F.xxhash64("id"), *map(F.col, ("id", *KEY))]
    sized = columns.withColumn("bytes", F.octet_length("text"))
    rows: Iterator[Any] = iter(sized.orderBy(*order).toLocalIterator())
    return rows


def _sample(job: Job) -> Iterator[str]:
    """The texts that a tokenizer is trained on: the first `sample_bytes` of `texts`."""
    taken = 0
    for row in texts(job):
        yield row["text"]
        taken += row["bytes"]
        if taken >= job.recipe.tokenizer.sample_bytes:
            return


def _write_tokens(
    job: Job, known: Tokenizer, num_documents: int, work: Path
) -> tuple[DataFile, ...]:
    """Tokenize every canonical document into a working dataset, counted by split."""
    columns = decontaminate.clean(job).select(*shards.CANONICAL_COLUMNS)
    # Children load the tokenizer that was saved, whether it was trained or named.
    saved = str((job.folder("shards") / shards.tokenizer_file(known)).absolute())
    recipe = dataclasses.replace(
        job.recipe, tokenizer=dataclasses.replace(job.recipe.tokenizer, name=saved)
    )
    values = dataclasses.replace(job, recipe=recipe).recipe_values()
    with track(job.root, "shard: tokens", num_documents, "documents") as tallies:
        made = dataset_io.map_in_children(columns, "encode", values, shards.TOKENS, tallies)
        return dataset_io.write(made, work / "tokens", shards.TOKENS)


def _write_shards(job: Job, tokens: tuple[DataFile, ...], work: Path) -> tuple[DataFile, ...]:
    paths = [str((work / "tokens" / file.name).absolute()) for file in tokens]
    frame = dataset_io.read_files(job.spark, paths, shards.TOKENS)
    num_shards = _num_shards(frame, job.recipe.shard)
    placed = dataset_io.map_rows(
        frame, functools.partial(shards.place, num_shards=num_shards), shards.PLACED
    )
    folder, settings = str(job.folder("shards").absolute()), job.recipe.shard

    def write(group: pa.Table) -> pa.Table:  # the engine looks at these types
        return _write_group(folder, settings, group)

    with track(job.root, "shard: write", 1, "step"):
        written = placed.groupBy("split", "shard").applyInArrow(write, dataset_io.RECEIPT)
        return shards.in_order(dataset_io.receipts(written, "shards"))


def _num_shards(frame: DataFrame, settings: shards.Shard) -> dict[str, int]:
    """Split -> number of shards, from its number of tokens; an empty split is an error."""
    rows = frame.groupBy("split").agg(F.sum("token_count").alias("tokens")).toArrow().to_pylist()
    tokens = {row["split"]: row["tokens"] for row in rows}
    for split in SPLITS:
        if not tokens.get(split):
            raise UserError(
                f"shard.validation_fraction = {settings.validation_fraction}: no document falls "
                f"into the {split} split; use another fraction or more pages"
            )
    return {split: shards.num_shards_for(n, settings) for split, n in tokens.items()}


def _write_group(folder: str, settings: shards.Shard, group: pa.Table) -> pa.Table:
    split, index = group["split"][0].as_py(), group["shard"][0].as_py()
    file = shards.write_shard(group, Path(folder), split, index, settings)
    return pa.Table.from_batches([dataset_io.receipt(file)])


def _describe(job: Job, files: tuple[DataFile, ...], known: Tokenizer) -> Written:
    extra = dataclasses.replace(
        shards.describe(files, known, "documents"),
        seed=job.recipe.shard.seed,
        recipe_hash=config.json_hash(job.recipe_values()),
    )
    counts = {
        "documents": sum(file.rows for file in files),
        "tokens": sum(extra.tokens.values()),
    }
    return Written(files, counts, extra, keep=shards.companions(files, extra))


def _inputs(job: Job) -> dict[str, str]:
    """What shards depend on besides `canonical`; shards of an earlier format are rebuilt."""
    return {"shard_format": str(SHARD_FORMAT), **decontaminate.shard_inputs(job)}


STAGE = Stage(
    name="shard",
    reads=("canonical",),
    writes=("shards",),
    sections=("tokenizer", "shard"),
    run=run,
    check=check,
    inputs=_inputs,
)
