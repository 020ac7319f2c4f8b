"""What a child process can be asked to do: one Arrow batch in, Arrow batches out.

Each task is made once from the recipe (models are loaded here) and then serves many batches.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corpus.clean import contamination, pii, removals
from corpus.dedup import exact, line_hashes, minhash, survivor
from corpus.filters.registry import judge_batch
from corpus.recipe import Recipe
from corpus.text import language_id, limits, url_filter
from corpus.text.extract_page import Gates, Outcome, extract_file
from corpus.text.main_text import Bounds, main_text
from corpus.tokens import shards
from schemas import config, tokenizer
from schemas.datasets import BANDS, CANONICAL, DOCUMENTS, JACCARD, KEY, SHINGLES

Task = Callable[[pa.RecordBatch], Iterator[pa.RecordBatch]]

# Rows of `documents` in one answer: what is lost, and read again, when a child dies.
ROWS_PER_ANSWER = 64
_MIN_READING_SECONDS = 60.0

EXTRACT_REQUEST = pa.schema(
    [
        ("path", pa.string()),
        ("file_path", pa.string()),
        ("url_rules", pa.string()),  # folder of the compiled lists, or null
        ("forgotten", pa.string()),  # folder of the root's requests to forget, or null
        ("start", pa.int64()),
        ("stop", pa.int64()),  # null: to the file's end
        ("crashed_at", pa.int64()),
        ("rows", pa.int64()),  # in one answer
        ("single", pa.int64()),  # so many rows first come in an answer each
    ]
)


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


def extract(recipe: Recipe, request: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Extract one WARC file, or a piece of it; the request's columns are `EXTRACT_REQUEST`.

    The first `single` rows are answered one by one, the others `rows` at a time: where a process
    ends among the first, it is known on which. Every answer says in its metadata where reading can
    start again (`next_offset`), what was read (`outcomes`, kind or reason -> count) and which of
    these have no row (`rowless`).
    """
    ask = request.to_pylist()[0]
    answer = _Answer(ask["start"])
    rules = url_filter.load(Path(ask["url_rules"])) if ask["url_rules"] else None
    requests = removals.load(Path(ask["forgotten"])) if ask["forgotten"] else None
    gates = Gates(recipe.extract, recipe.look, rules, requests)
    where = (ask["path"], ask["file_path"])
    outcomes = extract_file(*where, gates, ask["start"], ask["crashed_at"], ask["stop"])
    single = ask["single"] or 0
    for outcome in _bounded(outcomes, recipe.extract.max_cpu_seconds):
        answer.add(outcome)
        if len(answer.rows) >= (1 if single > 0 else ask["rows"]):
            single -= 1
            yield answer.batch()
            answer = _Answer(outcome.next_offset)
    yield answer.batch()


def _bounded(outcomes: Iterator[Outcome], max_cpu_seconds: float) -> Iterator[Outcome]:
    """The same, and an end of the process where one takes for ever in code outside of Python.

    Reading on to the next record counts, too; it may skip gigabytes.
    """
    seconds = max(max_cpu_seconds, _MIN_READING_SECONDS) + 2 * limits.GRACE_SECONDS
    while True:
        limits.backstop(seconds)
        outcome = next(outcomes, None)
        if outcome is None:
            return
        yield outcome


@dataclass
class _Answer:
    """Rows and counts on their way to the parent."""

    next_offset: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    rowless: set[str] = field(default_factory=set)

    def add(self, outcome: Outcome) -> None:
        self.next_offset = outcome.next_offset
        if outcome.row is None:
            self.rowless.add(outcome.kind)
            self.outcomes[outcome.kind] += 1
        else:
            self.rows.append(outcome.row)
            self.outcomes[outcome.row["rejected_by"] or "extracted"] += 1

    def batch(self) -> pa.RecordBatch:
        batch = pa.RecordBatch.from_pylist(self.rows, schema=DOCUMENTS)
        noted = {"next_offset": self.next_offset, "outcomes": self.outcomes}
        noted["rowless"] = sorted(self.rowless)
        return batch.replace_schema_metadata({b"answer": config.canonical_json(noted).encode()})


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
