"""Shards: order, split, and that a file's bytes are a function of its rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corpus.tokens import bpe, shards, splits
from corpus.tokens.shards import Shard
from schemas.datasets import CANONICAL, CONVERSATION_SHARDS, SHARDS
from schemas.manifest import Companion, DataFile, RowGroup, ShardFile
from schemas.tokenizer import Tokenizer

NUM_ROWS = 700
SETTINGS = Shard(seed=3, rows_per_group=64)
KEYS = st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bpe.train(["some words to learn from, and some more words"], 280, "bpe")


@pytest.fixture(scope="module")
def canonical() -> pa.RecordBatch:
    draw = np.random.default_rng(1)
    rows = [
        {
            "text": " ".join(draw.choice(["some", "words", "héllo", "<|endoftext|>", "世界"], 20)),
            "id": f"<urn:uuid:{i:04d}>",
            "url": None if i % 50 == 0 else f"https://www.site{i % 90}.co.uk/page/{i}",
            "file_path": f"crawl-data/{i % 3}.warc.gz",
            "record_offset": i * 1000,
        }
        for i in range(NUM_ROWS)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=CANONICAL)


@pytest.fixture(scope="module")
def encoded(canonical: pa.RecordBatch, tokenizer: Tokenizer) -> pa.Table:
    return pa.Table.from_batches([shards.encode_batch(canonical, tokenizer, SETTINGS)])


def in_order(table: pa.Table) -> list[dict[str, object]]:
    return sorted(table.to_pylist(), key=lambda row: tuple(row[name] for name in shards.ORDER))


def places(table: pa.Table) -> list[tuple[str, int]]:
    rows = table.select(["file_path", "record_offset"]).to_pylist()
    return [(row["file_path"], row["record_offset"]) for row in rows]


# Order


@given(KEYS, st.integers(1, 2**32 - 1))
@example(2**64 - 1, 2**32 - 1)
@example(2**64 - 1, 1)
@example(0, 7)
@settings(deadline=None)
def test_shard_is_the_floor_of_key_times_shards_over_2_to_the_64(key: int, count: int) -> None:
    exact = (key * count) // 2**64
    assert exact < count
    assert shards.shards_of(np.array([key], dtype=np.uint64), count).tolist() == [exact]


@pytest.mark.parametrize("count", [3, 7, 1000, 4096])
def test_keys_at_the_edge_of_a_shard_fall_on_the_right_side(count: int) -> None:
    first = [-(-i * 2**64 // count) for i in range(1, count)]
    assert shards.shards_of(np.array(first, np.uint64), count).tolist() == list(range(1, count))
    last = [key - 1 for key in first]
    assert shards.shards_of(np.array(last, np.uint64), count).tolist() == list(range(count - 1))


@pytest.mark.parametrize("count", [0, -1, 2**32])
def test_a_number_of_shards_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"num_shards = {count}: must be from 1"):
        shards.shards_of(np.array([1], np.uint64), count)


@given(st.lists(KEYS, min_size=2, max_size=50))
@example([0, 2**63 - 1, 2**63, 2**64 - 1])
@settings(deadline=None)
def test_signed_keys_keep_the_order_and_come_back(keys: list[int]) -> None:
    unsigned = np.array(keys, dtype=np.uint64)
    signed = shards.to_signed(unsigned)
    assert signed.dtype == np.int64
    assert np.array_equal(np.argsort(signed, kind="stable"), np.argsort(unsigned, kind="stable"))
    assert shards.to_unsigned(signed).tolist() == keys


def test_order_keys_are_fixed_for_all_time() -> None:
    assert shards.order_key(0, "<urn:uuid:0000>") == 0xEF10D7B5BAE49448
    assert shards.order_key(7, "<urn:uuid:0000>") == 0x0F73BC08A748C0E5
    assert shards.order_keys(["a", "b"], 0).tolist() == [shards.order_key(0, i) for i in "ab"]


def test_the_order_is_a_function_of_ids_and_seed_alone() -> None:
    ids = [f"<urn:uuid:{i}>" for i in range(1000)]
    keys = dict(zip(ids, shards.order_keys(ids, 5).tolist(), strict=True))
    again = ids[::-3] + ids[5:100]
    assert shards.order_keys(again, 5).tolist() == [keys[i] for i in again]
    assert not set(shards.order_keys(ids, 6).tolist()) & set(keys.values())


def test_the_shuffle_spreads_documents_evenly_and_keeps_no_neighbours() -> None:
    keys = shards.order_keys((f"<urn:uuid:{i}>" for i in range(100_000)), 0)
    counts = np.bincount(shards.shards_of(keys, 50), minlength=50)
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000)
    ranks = np.argsort(np.argsort(keys))
    assert abs(np.corrcoef(ranks[:-1], ranks[1:])[0, 1]) < 0.02


@pytest.mark.parametrize(("tokens", "expected"), [(0, 1), (1, 1), (100, 1), (101, 2), (1000, 10)])
def test_the_number_of_shards_follows_the_tokens(tokens: int, expected: int) -> None:
    assert shards.num_shards_for(tokens, Shard(tokens_per_shard=100)) == expected


# Split


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.example.co.uk/a?b", "example.co.uk"),
        ("http://user:pw@EXAMPLE.co.uk:8080", "example.co.uk"),
        ("http://deep.er.example.co.uk./", "example.co.uk"),
        ("http://192.168.0.1:80/x", "192.168.0.1"),
        ("http://[2001:db8::1]:80/x", "[2001:db8::1]"),
        ("http://localhost/x", "localhost"),
        ("http://printer.office.invalid-tld-here/x", "printer.office.invalid-tld-here"),
        ("http://co.uk/", "co.uk"),
        ("http://[broken/", "[broken"),
        ("", ""),
    ],
)
def test_a_site_is_the_registered_domain_or_else_the_host(url: str, expected: str) -> None:
    assert splits.site(url) == expected


def test_a_site_is_in_one_split_with_all_its_pages_and_subdomains() -> None:
    for i in range(300):
        hosts = (f"site{i}.com", f"www.site{i}.com", f"a.b.Site{i}.com:8080", f"site{i}.com.")
        assert len({splits.split_of(f"http://{host}/{i}", 0.3) for host in hosts}) == 1


def test_a_fraction_of_sites_is_validation_and_more_only_adds_to_it() -> None:
    urls = [f"http://site{i}.com/" for i in range(20_000)]
    chosen = {
        fraction: {url for url in urls if splits.split_of(url, fraction) == "validation"}
        for fraction in (0.0, 0.01, 0.1)
    }
    assert chosen[0.0] == set() < chosen[0.01] < chosen[0.1]
    assert abs(len(chosen[0.01]) - 200) < 4 * np.sqrt(200)
    assert abs(len(chosen[0.1]) - 2000) < 4 * np.sqrt(2000)


def test_the_split_of_a_site_is_fixed_for_all_time() -> None:
    urls = [f"http://site{i}.com/" for i in range(40)]
    found = [i for i, url in enumerate(urls) if splits.split_of(url, 0.1) == "validation"]
    assert found == [2, 33]


def test_pages_without_a_url_are_train() -> None:
    assert splits.split_of(None, 0.999) == "train"


def test_the_split_of_an_id_is_fixed_for_all_time_and_grows_with_the_fraction() -> None:
    ids = [f"conversation {i}" for i in range(2000)]
    some, more = (
        {i for i in ids if splits.split_of_id(i, fraction) == "validation"}
        for fraction in (0.05, 0.2)
    )
    assert sorted(some)[:3] == ["conversation 1002", "conversation 1026", "conversation 1058"]
    assert some < more
    assert abs(len(more) - 400) < 4 * np.sqrt(400)
    assert all(splits.split_of_id(i, 0.0) == "train" for i in ids)


# Encoding


def test_encoded_rows_are_the_boundary_and_the_texts_own_ids(
    canonical: pa.RecordBatch, encoded: pa.Table, tokenizer: Tokenizer
) -> None:
    assert encoded.schema == shards.TOKENS
    for row, source in zip(encoded.to_pylist(), canonical.to_pylist(), strict=True):
        assert row["tokens"] == [tokenizer.boundary, *tokenizer.encode(source["text"])]
        assert row["tokens"].count(tokenizer.boundary) == 1
        assert row["token_count"] == len(row["tokens"])
        assert row["text_bytes"] == len(source["text"].encode())
        assert row["split"] == splits.split_of(source["url"], SETTINGS.validation_fraction)
        assert row["order_key"] + 2**63 == shards.order_key(SETTINGS.seed, source["id"])
        assert all(
            row[name] == source[name] for name in ("id", "url", "file_path", "record_offset")
        )


def test_an_empty_text_and_an_empty_batch_are_encoded(
    canonical: pa.RecordBatch, tokenizer: Tokenizer
) -> None:
    empty = pa.RecordBatch.from_pylist([{**canonical.to_pylist()[1], "text": ""}], CANONICAL)
    row = shards.encode_batch(empty, tokenizer, SETTINGS).to_pylist()[0]
    assert (row["tokens"], row["text_bytes"]) == ([tokenizer.boundary], 0)
    assert shards.encode_batch(canonical.slice(0, 0), tokenizer, SETTINGS).schema == shards.TOKENS


def test_placing_gives_every_row_the_shard_of_its_split(encoded: pa.Table) -> None:
    num_shards = {"train": 5, "validation": 2}
    placed = shards.place(encoded.combine_chunks().to_batches()[0], num_shards)
    assert placed.schema == shards.PLACED
    for row in placed.to_pylist():
        key = row["order_key"] + 2**63
        assert row["shard"] == key * num_shards[row["split"]] // 2**64
    with pytest.raises(KeyError, match="train"):
        shards.place(placed, {"validation": 2})


# Files


def test_bytes_do_not_depend_on_the_order_or_chunks_of_the_rows(
    encoded: pa.Table, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    expected = shards.write_shard(encoded, tmp_path / "0", "train", 4, SETTINGS)
    for i in range(1, 9):
        shuffled = encoded.take(draw.permutation(NUM_ROWS))
        sizes = np.diff([0, *sorted(draw.integers(0, NUM_ROWS, i)), NUM_ROWS])
        starts = np.cumsum([0, *sizes[:-1]])
        pieces = [shuffled.slice(a, n) for a, n in zip(starts, sizes, strict=True)]
        found = shards.write_shard(
            pa.concat_tables(pieces), tmp_path / str(i), "train", 4, SETTINGS
        )
        assert found == expected
        path = tmp_path / str(i) / found.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected.sha256


def test_writing_takes_memory_of_row_groups_not_of_the_shard(
    encoded: pa.Table, tmp_path: Path
) -> None:
    long = pa.array([[1] * 5000] * NUM_ROWS, encoded.schema.field("tokens").type)
    table = encoded.set_column(0, "tokens", long)
    table = table.set_column(1, "token_count", pa.array([5000] * NUM_ROWS, pa.int64()))
    pieces = [table.slice(start, 35) for start in range(0, NUM_ROWS, 35)]
    before = pa.default_memory_pool()
    watched = pa.proxy_memory_pool(before)
    pa.set_memory_pool(watched)
    try:
        shards.write_shard(
            pa.concat_tables(pieces), tmp_path, "train", 0, Shard(seed=3, rows_per_group=20)
        )
    finally:
        pa.set_memory_pool(before)
    assert 0 < watched.max_memory() < table.nbytes / 2


def test_bytes_do_not_depend_on_the_engines_types_columns_or_documentation(
    encoded: pa.Table, tmp_path: Path
) -> None:
    expected = shards.write_shard(encoded, tmp_path, "train", 0, SETTINGS)
    fields = [
        pa.field(
            field.name,
            pa.large_string() if field.type == pa.string() else field.type,
            nullable=field.name == "url",
            metadata={"doc": "something else"},
        )
        for field in encoded.schema
    ]
    other = encoded.cast(pa.schema(fields, metadata={"pandas": "x"}))
    other = other.append_column("shard", pa.nulls(NUM_ROWS, pa.int64()))
    other = other.select(other.schema.names[::-1])
    assert shards.write_shard(other, tmp_path / "other", "train", 0, SETTINGS) == expected


def test_ties_of_the_key_are_broken_by_id_then_place(encoded: pa.Table, tmp_path: Path) -> None:
    column = encoded.schema.get_field_index("order_key")
    tied = encoded.set_column(column, "order_key", pa.array([7] * NUM_ROWS, pa.int64()))
    same = tied.set_column(
        tied.schema.get_field_index("id"), "id", pa.array(["same"] * NUM_ROWS, pa.string())
    )
    by_id = sorted(encoded["id"].to_pylist())
    by_place = sorted(places(encoded))
    assert by_place != sorted(by_place, key=lambda place: place[1])
    for table in (tied, same):
        file = shards.write_shard(table, tmp_path, "train", 0, SETTINGS)
        backwards = table.take(np.arange(NUM_ROWS)[::-1])
        assert shards.write_shard(backwards, tmp_path, "train", 0, SETTINGS) == file
        found = pq.read_table(tmp_path / file.name)
        if table is tied:
            assert found["id"].to_pylist() == by_id
        else:
            assert places(found) == by_place


def test_a_row_groups_values_buffer_is_the_token_stream(encoded: pa.Table, tmp_path: Path) -> None:
    file = shards.write_shard(encoded, tmp_path, "train", 0, SETTINGS)
    rows = in_order(encoded)
    parquet = pq.ParquetFile(tmp_path / file.name)
    assert parquet.num_row_groups == len(file.extra.row_groups) == -(-NUM_ROWS // 64)
    for i, group in enumerate(file.extra.row_groups):
        part = rows[i * 64 : (i + 1) * 64]
        (column,) = parquet.read_row_group(i, columns=["tokens"]).column("tokens").chunks
        stream = column.values.to_numpy(zero_copy_only=True)
        assert stream.dtype == np.int32
        assert stream.tolist() == [token for row in part for token in row["tokens"]]  # type: ignore[attr-defined]
        assert group.tokens == len(stream)
        assert group.documents == len(column) == len(part)
        assert group.sha256 == hashlib.sha256(stream.tobytes()).hexdigest()
        ends = np.cumsum([row["token_count"] for row in part])
        assert column.offsets.to_numpy().tolist() == [0, *ends.tolist()]


def test_a_manifest_entry_says_what_the_file_holds(encoded: pa.Table, tmp_path: Path) -> None:
    file = shards.write_shard(encoded, tmp_path, "validation", 12, SETTINGS)
    path = tmp_path / file.name
    assert (
        file.name
        == f"validation-00012-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.parquet"
    )
    assert (file.rows, file.bytes) == (NUM_ROWS, path.stat().st_size)
    assert (file.extra.split, file.extra.index) == ("validation", 12)
    assert file.extra.tokens == sum(encoded["token_count"].to_pylist())
    assert file.extra.text_bytes == sum(encoded["text_bytes"].to_pylist())
    lengths = file.name.replace(".parquet", ".lengths.npy")
    assert {p.name for p in tmp_path.iterdir()} == {file.name, lengths}
    assert DataFile.from_json(json.loads(json.dumps(file.to_json())), "shards") == file


def test_a_shard_holds_the_columns_of_the_contract_and_no_statistics(
    encoded: pa.Table, tmp_path: Path
) -> None:
    file = shards.write_shard(encoded, tmp_path, "train", 0, SETTINGS)
    parquet = pq.ParquetFile(tmp_path / file.name)
    assert parquet.schema_arrow.equals(SHARDS.remove_metadata(), check_metadata=False)
    assert parquet.metadata.metadata is None
    column = parquet.metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    assert column.statistics is None
    assert not column.has_dictionary_page


def test_a_shard_without_rows_is_a_file_without_row_groups(
    encoded: pa.Table, tmp_path: Path
) -> None:
    file = shards.write_shard(encoded.slice(0, 0), tmp_path, "validation", 0, SETTINGS)
    assert (file.rows, file.extra.tokens, file.extra.text_bytes) == (0, 0, 0)
    assert file.extra.row_groups == ()
    assert pq.read_table(tmp_path / file.name).num_rows == 0


def with_mask(table: pa.Table) -> pa.Table:
    """The last half of every document is a target."""
    masks = [[int(i >= n // 2) for i in range(n)] for n in table["token_count"].to_pylist()]
    return table.append_column("loss_mask", pa.array(masks, pa.list_(pa.uint8())))


@pytest.mark.parametrize("masked", [False, True])
def test_every_row_groups_hash_is_that_of_its_values(
    encoded: pa.Table, tmp_path: Path, masked: bool
) -> None:
    table = with_mask(encoded) if masked else encoded
    file = shards.write_shard(table, tmp_path, "train", 0, SETTINGS)
    rows = in_order(table)
    for i, group in enumerate(file.extra.row_groups):
        part: list[dict[str, Any]] = rows[i * 64 : (i + 1) * 64]
        digest = hashlib.sha256()
        for token in (token for row in part for token in row["tokens"]):
            digest.update(token.to_bytes(4, "little"))
        for row in part if masked else ():
            digest.update(bytes(row["loss_mask"]))
        assert group.sha256 == digest.hexdigest()


def test_lengths_beside_a_shard_are_those_of_its_rows(encoded: pa.Table, tmp_path: Path) -> None:
    file = shards.write_shard(encoded, tmp_path, "train", 0, SETTINGS)
    path = tmp_path / file.extra.lengths.name
    assert path.name == f"{Path(file.name).stem}.lengths.npy"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.extra.lengths.sha256
    lengths = np.load(path, mmap_mode="r")
    assert lengths.dtype == np.dtype("<i4")
    assert lengths.tolist() == [len(row["tokens"]) for row in in_order(encoded)]  # type: ignore[arg-type]


def test_a_shard_of_conversations_has_a_mask_beside_its_tokens(
    encoded: pa.Table, tmp_path: Path
) -> None:
    table = with_mask(encoded)
    file = shards.write_shard(table, tmp_path, "train", 0, SETTINGS)
    found = pq.read_table(tmp_path / file.name)
    assert found.schema.equals(CONVERSATION_SHARDS.remove_metadata(), check_metadata=False)
    wanted = [row["loss_mask"] for row in in_order(table)]
    assert found["loss_mask"].to_pylist() == wanted
    plain = shards.write_shard(encoded, tmp_path, "train", 0, SETTINGS)
    assert plain.sha256 != file.sha256


def test_a_mask_of_another_length_than_the_tokens_is_never_written(
    encoded: pa.Table, tmp_path: Path
) -> None:
    masks = pa.array([[1]] * NUM_ROWS, pa.list_(pa.uint8()))
    with pytest.raises(AssertionError, match="loss_mask"):
        shards.write_shard(encoded.append_column("loss_mask", masks), tmp_path, "t", 0, SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_description_names_tokenizer_counts_and_content(
    encoded: pa.Table, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    files = [shards.write_shard(encoded, tmp_path, split, 0, SETTINGS) for split in splits.SPLITS]
    extra = shards.describe(files, tokenizer, "documents")
    assert (extra.format, extra.kind) == (2, "documents")
    assert extra.tokens == dict.fromkeys(splits.SPLITS, files[0].extra.tokens)
    assert extra.text_bytes == dict.fromkeys(splits.SPLITS, files[0].extra.text_bytes)
    assert extra.tokenizer.hash == tokenizer.hash
    path = shards.save_tokenizer(tokenizer, tmp_path)
    assert path.name == extra.tokenizer.file == f"tokenizer-{tokenizer.hash[:16]}.json"
    listed = {file.name for file in files} | set(shards.companions(files, extra))
    assert {path.name for path in tmp_path.iterdir()} == listed


def test_a_failed_write_leaves_nothing_behind(
    encoded: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> str:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(shards, "_flush_and_hash", full)
    with pytest.raises(OSError, match="No space left"):
        shards.write_shard(encoded, tmp_path, "train", 0, SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_shards_cover_every_document_once_in_one_global_order(
    encoded: pa.Table, tmp_path: Path
) -> None:
    placed = shards.place(encoded.combine_chunks().to_batches()[0], {"train": 4, "validation": 1})
    table = pa.Table.from_batches([placed])
    found = []
    for index in range(4):
        rows = table.filter((pc.field("split") == "train") & (pc.field("shard") == index))
        file = shards.write_shard(rows, tmp_path, "train", index, SETTINGS)
        found += pq.read_table(tmp_path / file.name)["id"].to_pylist()
    train = table.filter(pc.field("split") == "train")
    assert found == [row["id"] for row in in_order(train)]


# Content hash


def shard_file(split: str, index: int, digest: str) -> DataFile:
    lengths, groups = Companion("lengths", "0" * 64), (RowGroup(1, 1, "0" * 64),)
    extra = ShardFile(split, index, 1, 1, lengths, groups)
    return DataFile("name", 1, 1, sha256=digest * 64, extra=extra)


def test_the_content_hash_changes_with_anything_that_changes_a_batch() -> None:
    files = [
        shard_file("train", 0, "a"),
        shard_file("train", 1, "b"),
        shard_file("validation", 0, "c"),
    ]
    swapped = [shard_file("train", 0, "b"), shard_file("train", 1, "a"), files[2]]
    moved = [files[0], files[1], shard_file("validation", 1, "c")]
    hashes = [
        shards.shards_content_hash(files, "tokenizer", 4096),
        shards.shards_content_hash(files[:2], "tokenizer", 4096),
        shards.shards_content_hash(swapped, "tokenizer", 4096),
        shards.shards_content_hash(moved, "tokenizer", 4096),
        shards.shards_content_hash(files, "other", 4096),
        shards.shards_content_hash(files, "tokenizer", 4097),
    ]
    assert len(set(hashes)) == len(hashes)
    assert shards.shards_content_hash(files[::-1], "tokenizer", 4096) == hashes[0]


def test_the_content_hash_is_that_of_the_text_in_the_specification() -> None:
    files = [shard_file("validation", 0, "c"), shard_file("train", 0, "a")]
    text = (
        '{"format": 2, "shards": [["train", 0, "aaaa"], ["validation", 0, "cccc"]], '
        '"tokenizer": "t", "vocab_size": 300}'
    )
    text = text.replace("aaaa", "a" * 64).replace("cccc", "c" * 64)
    wanted = hashlib.sha256(text.encode()).hexdigest()
    assert shards.shards_content_hash(files, "t", 300) == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed = -1: must be at least 0"),
        ({"seed": 2**64}, f"seed = {2**64}: must be at least 0 and at most {2**64 - 1}"),
        ({"tokens_per_shard": 0}, "tokens_per_shard = 0: must be at least 1"),
        ({"rows_per_group": 0}, "rows_per_group = 0: must be at least 1"),
        ({"validation_fraction": 1.0}, "validation_fraction = 1.0: must be at least 0 and below 1"),
        ({"validation_fraction": -0.1}, "validation_fraction = -0.1"),
        ({"validation_fraction": float("nan")}, "validation_fraction = nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shard(**values)  # type: ignore[arg-type]
