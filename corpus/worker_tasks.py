"""The tasks of a child process: one Arrow batch in, Arrow batches out.

A task is bound to a recipe once (models are loaded then) and serves many batches.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corpus.clean import contamination, pii, removals
from corpus.dedup import exact, line_hashes, minhash, survivor
from corpus.filters.registry import judge_batch
from corpus.recipe import Recipe
from corpus.text import language_id, limits, url_filter
from corpus.text.extract_page import Gates, extract_file
from corpus.text.main_text import Bounds, main_text
from corpus.tokens import shards
from schemas import config, tokenizer
from schemas.datasets import BANDS, CANONICAL, DOCUMENTS, JACCARD, KEY, SHINGLES

Task = Callable[[pa.RecordBatch], Iterator[pa.RecordBatch]]

# Rows of `documents` in one answer: what is lost, and read again, when a child dies.
ROWS_PER_ANSWER = 64
_MIN_READING_SECONDS = 60.0


@dataclass(frozen=True)
class ExtractRequest:
    """Which records of a WARC file to extract: those that begin at `start` up to `stop`.

    `url_rules` and `forgotten` are folders: compiled URL lists, and the takedown requests of the
    corpus directory. `stop` None: to the file's end. The first page at or after `crashed_at` is not
    extracted but recorded as crashed. The first `single` rows are answered one by one, the others
    `rows` at a time.
    """

    path: str
    file_path: str
    url_rules: str | None = None
    forgotten: str | None = None
    start: int = 0
    stop: int | None = None
    crashed_at: int | None = None
    rows: int = ROWS_PER_ANSWER
    single: int = 0

    def to_batch(self) -> pa.RecordBatch:
        """The request as it is sent to a child."""
        return pa.RecordBatch.from_pydict({"request": [json.dumps(asdict(self))]})

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> ExtractRequest:
        """The request that `to_batch` encoded."""
        return cls(**json.loads(batch["request"][0].as_py()))


@dataclass
class ExtractAnswer:
    """What was read for one batch of rows.

    `next_offset`: where reading resumes after it. `outcomes`: kind of record or reason -> number;
    `rowless`: those of them that have no row.
    """

    next_offset: int
    outcomes: dict[str, int] = field(default_factory=Counter)
    rowless: set[str] = field(default_factory=set)

    def to_batch(self, rows: list[dict[str, Any]]) -> pa.RecordBatch:
        """Rows of `documents` with the answer in the schema's metadata."""
        noted = {**vars(self), "rowless": sorted(self.rowless)}
        batch = pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS)
        return batch.replace_schema_metadata({b"answer": config.canonical_json(noted).encode()})

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> ExtractAnswer:
        """The answer that `to_batch` encoded."""
        noted = json.loads(batch.schema.metadata[b"answer"])
        return cls(noted["next_offset"], noted["outcomes"], set(noted["rowless"]))


def bind(task: str, recipe: dict[str, Any]) -> Task:
    """The task of that name under a recipe given as JSON values."""
    settings = config.from_dict(recipe, Recipe, "recipe")
    if task == "extract":
        limits.confine(settings.extract.max_memory_mb)
    return functools.partial(TASKS[task], settings)


def prepare(task: str, recipe: dict[str, Any]) -> None:
    """Load what every fork of this process would load again, before the first one."""
    settings = config.from_dict(recipe, Recipe, "recipe")
    if task == "extract":
        language_id.identify("", settings.extract.language_model)
        main_text("<p>.", settings.extract.engine, Bounds(10, 10))


def extract(recipe: Recipe, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Extract the records of an `ExtractRequest`; the answers are those of `ExtractAnswer`."""
    request = ExtractRequest.of(batch)
    url_rules = url_filter.load(Path(request.url_rules)) if request.url_rules else None
    forgotten = removals.load(Path(request.forgotten)) if request.forgotten else None
    outcomes = extract_file(
        request.path,
        request.file_path,
        Gates(recipe.extract, recipe.look, url_rules, forgotten),
        request.start,
        request.crashed_at,
        request.stop,
    )
    # Ends the process where a page takes forever in code outside of Python. Reading on to the next
    # record counts, too; it may skip gigabytes.
    seconds = max(recipe.extract.max_cpu_seconds, _MIN_READING_SECONDS) + 2 * limits.GRACE_SECONDS
    answer, rows, single = ExtractAnswer(request.start), list[dict[str, Any]](), request.single
    while True:
        limits.backstop(seconds)
        outcome = next(outcomes, None)
        if outcome is None:
            break
        answer.next_offset = outcome.next_offset
        if outcome.row is None:
            answer.rowless.add(outcome.kind)
            kind = outcome.kind
        else:
            rows.append(outcome.row)
            kind = outcome.row["rejected_by"] or "extracted"
        answer.outcomes[kind] += 1
        if len(rows) >= (1 if single > 0 else request.rows):
            single -= 1
            yield answer.to_batch(rows)
            answer, rows = ExtractAnswer(outcome.next_offset), []
    yield answer.to_batch(rows)


def judge(recipe: Recipe, documents: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """`documents` -> `judged`."""
    yield judge_batch(documents, recipe.chosen_filters())


def bands(recipe: Recipe, kept: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Kept rows of `judged`, with `signal` -> `bands`."""
    texts = kept["text"].to_pylist()
    found = minhash.fingerprints(texts, recipe.minhash)
    lists = [
        row if count else []
        for row, count in zip(found.bands.tolist(), found.num_shingles.tolist(), strict=True)
    ]
    columns = {
        "node": pa.array(exact.nodes(kept["file_path"], kept["record_offset"]), pa.int64()),
        **{name: kept[name] for name in ("id", *KEY, "signal")},
        "captured": exact.seconds(kept["date"]),
        "num_chars": pa.array([len(text) for text in texts], pa.int64()),
        "text_hash": pa.array(found.text_hashes, pa.int64()),
        "url_hash": exact.url_hashes(kept["url"]),
        "payload_hash": exact.payload_hashes(kept["payload_digest"]),
        "num_shingles": pa.array(found.num_shingles, pa.int64()),
        "bands": pa.array(lists, pa.list_(pa.int64())),
    }
    columns["rank"] = survivor.ranks(recipe.survivor, pa.RecordBatch.from_pydict(columns))
    yield _select(columns, BANDS)


def shingles(recipe: Recipe, documents: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """(`node`, `text`) -> the distinct shingle hashes of each."""
    found = [
        minhash.shingle_hashes(text, recipe.minhash).view(np.int64)
        for text in documents["text"].to_pylist()
    ]
    ends = np.cumsum([0, *map(len, found)], dtype=np.int32)
    values = pa.array(np.concatenate([np.empty(0, np.int64), *found]))
    yield _select(
        {"node": documents["node"], "shingles": pa.ListArray.from_arrays(ends, values)}, SHINGLES
    )


def compare(recipe: Recipe, pairs: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Pairs with both shingle sets -> the exact Jaccard similarity of each."""
    sides = [
        [row.values.to_numpy().view(np.uint64) for row in pairs[name]]
        for name in ("shingles_a", "shingles_b")
    ]
    found = [minhash.jaccard(a, b) for a, b in zip(*sides, strict=True)]
    columns = {"a": pairs["a"], "b": pairs["b"], "similarity": pa.array(found, pa.float64())}
    yield _select(columns, JACCARD)


def list_passages(recipe: Recipe, documents: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """(`node`, `text`) -> the passages of each, by hash."""
    yield line_hashes.list_units(documents["node"], documents["text"].to_pylist(), recipe.passages)


def scrub(recipe: Recipe, survivors: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """`SURVIVORS` -> `canonical`: shared passages cut out, PII scrubbed."""
    texts, removed = survivors["text"].to_pylist(), survivors["removed"].to_pylist()
    texts = line_hashes.cut(texts, removed, recipe.passages)
    scrubbed = [pii.scrub(text, recipe.pii) for text in texts]
    columns = dict(zip(survivors.schema.names, survivors.columns, strict=True))
    columns["text"] = pa.array([s.text for s in scrubbed], pa.string())
    columns["pii"] = pa.array([s.counts for s in scrubbed], CANONICAL.field("pii").type)
    yield _select(columns, CANONICAL)


def contaminated(recipe: Recipe, canonical: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """`canonical` -> `contamination`; the request's metadata say where the index is."""
    index = contamination.load(Path(canonical.schema.metadata[b"index"].decode()))
    yield contamination.examine(canonical, recipe.decontaminate, index)


def encode(recipe: Recipe, canonical: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """`canonical` -> token rows with their split and order key."""
    yield shards.encode_batch(canonical, _tokenizer(recipe.tokenizer.name), recipe.shard)


@functools.cache
def _tokenizer(name: str) -> tokenizer.Tokenizer:
    return tokenizer.find(name)


def _select(columns: dict[str, pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


TASKS: dict[str, Callable[[Recipe, pa.RecordBatch], Iterator[pa.RecordBatch]]] = {
    "extract": extract,
    "judge": judge,
    "bands": bands,
    "shingles": shingles,
    "compare": compare,
    "passages": list_passages,
    "scrub": scrub,
    "contaminated": contaminated,
    "encode": encode,
}
