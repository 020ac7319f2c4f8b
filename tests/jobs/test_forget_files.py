"""A shard written anew is the one that would have been written without the documents."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus.tokens import shards
from corpus.tokens.shards import Shard
from jobs.takedown import rewrite
from jobs.takedown.rewrite import RewrittenFile, TargetFile
from schemas import manifest, tokenizer
from schemas.datasets import FORGOTTEN
from schemas.manifest import DataFile, Manifest
from schemas.tokenizer import Tokenizer

SETTINGS = Shard(seed=7, rows_per_group=3)
PATHS = ("a.warc.gz", "b.warc.gz")


@pytest.fixture(scope="module")
def known() -> Tokenizer:
    """Bytes, and one word that is a token."""
    return tokenizer.from_tokens("bytes", [*(bytes([b]) for b in range(256)), b"the"])


def _encoded(texts: list[str], known: Tokenizer) -> pa.Table:
    rows = [
        {"text": text, "id": f"<urn:uuid:{i}>", "url": f"http://a.example/{i}",
         "file_path": PATHS[i % 2], "record_offset": i}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    schema = pa.schema(
        [(name, pa.string()) for name in ("text", "id", "url", "file_path")]
        + [("record_offset", pa.int64())]
    )
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    return pa.Table.from_batches([shards.encode_batch(batch, known, SETTINGS)])


def _forget(folder: Path, keys: list[tuple[str, int]]) -> Path:
    """A dataset `forgotten` with these keys."""
    rows = [{"by": "id", "value": "x", "file_path": p, "record_offset": o} for p, o in keys]
    folder.mkdir(exist_ok=True)
    name = f"{abs(hash(tuple(keys)))}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=FORGOTTEN), folder / name)
    file = DataFile(name, len(rows), 1, counts={"matches": len(rows)})
    manifest.write(folder, Manifest("forgotten", "", {}, {}, (file,), {}))
    return folder


def _commit(folder: Path, file: DataFile, known: Tokenizer) -> None:
    shards.save_tokenizer(known, folder)
    extra = shards.describe([file], known, "documents")
    manifest.write(folder, Manifest("shards", "", {}, {}, (file,), {}, extra))


def _rewrite(file: DataFile, folder: Path, keys: list[tuple[str, int]]) -> RewrittenFile | None:
    target = TargetFile("shards", str(folder / file.name), file)
    change = rewrite.rewrite(target, _forget(folder.parent / "forgotten", keys))
    return RewrittenFile.from_json(change.to_json()) if change else None


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(max_size=9) | st.just("the cat"), st.booleans()), min_size=1))
def test_a_shard_without_documents_is_the_one_that_never_had_them(
    tmp_path: Path, known: Tokenizer, documents: list[tuple[str, bool]]
) -> None:
    folder = tmp_path / "shards"
    rows = _encoded([text for text, _ in documents], known)
    stays = [not gone for _, gone in documents]
    whole = shards.write_shard(rows, folder, "train", 5, SETTINGS)
    _commit(folder, whole, known)
    wanted = shards.write_shard(rows.filter(pa.array(stays)), tmp_path / "x", "train", 5, SETTINGS)
    gone = [(PATHS[i % 2], i) for i, kept in enumerate(stays) if not kept]
    change = _rewrite(whole, folder, gone)
    if not gone:
        assert change is None
        return
    assert change is not None
    assert change.file == wanted
    for name in (wanted.name, wanted.extra.lengths.name):
        assert (folder / name).read_bytes() == (tmp_path / "x" / name).read_bytes()
    assert change.rows == change.counts["documents"] == len(gone)
    assert change.counts["tokens"] == whole.extra.tokens - wanted.extra.tokens


def test_a_shard_of_other_documents_is_not_touched(tmp_path: Path, known: Tokenizer) -> None:
    folder = tmp_path / "shards"
    file = shards.write_shard(_encoded(["one", "two"], known), folder, "train", 0, SETTINGS)
    before = (folder / file.name).stat().st_mtime_ns
    assert _rewrite(file, folder, [(PATHS[0], 1), (PATHS[1], 0), ("c.warc.gz", 0)]) is None
    assert (folder / file.name).stat().st_mtime_ns == before


def test_a_shard_of_conversations_keeps_its_masks_and_counts_its_texts_alone(
    tmp_path: Path, known: Tokenizer
) -> None:
    folder, user = tmp_path / "shards", known.chat_ids["<|user|>"]
    rows = _encoded(["one", "the cat", "three"], known)
    tokens = [[*row, user] for row in rows["tokens"].to_pylist()]
    masks = [[0] * (len(row) - 1) + [1] for row in tokens]
    rows = rows.set_column(0, "tokens", pa.array(tokens, pa.list_(pa.int32())))
    rows = rows.set_column(1, "token_count", pa.array(map(len, tokens), pa.int64()))
    rows = rows.append_column("loss_mask", pa.array(masks, pa.list_(pa.uint8())))
    whole = shards.write_shard(rows, folder, "train", 0, SETTINGS)
    _commit(folder, whole, known)
    change = _rewrite(whole, folder, [(PATHS[1], 1)])
    assert change is not None
    wanted = shards.write_shard(rows.take([0, 2]), tmp_path / "x", "train", 0, SETTINGS)
    assert change.file == wanted
    assert whole.extra.text_bytes - change.file.extra.text_bytes == len("the cat")
