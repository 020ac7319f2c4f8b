"""Damage costs the record that it hits, and reading costs what the file's size allows."""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from corpus.warc import Record, read_records

ONE_MEMBER: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
EVERY_FORM = pytest.mark.parametrize("form", ONE_MEMBER)


def page(number: int) -> bytes:
    noise = random.Random(number)
    text = noise.randbytes(noise.randint(10, 1500)).hex().encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>" + text


def record(number: int, block: bytes = b"", length: int | None = None) -> bytes:
    block = block or page(number)
    return (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://site.example/%d\r\n"
        b"Content-Length: %d\r\n\r\n%b\r\n\r\n"
    ) % (number, len(block) if length is None else length, block)


def read(folder: Path, data: bytes, **limits: int) -> list[Record]:
    (folder / "archive").write_bytes(data)
    return list(read_records(str(folder / "archive"), **limits))


def numbers(records: list[Record]) -> list[int]:
    """Which of the records that `record` made are whole."""
    whole = [found for found in records if found.damage is None]
    found = [int((r.headers.get("warc-target-uri") or "/-1").rsplit("/")[-1]) for r in whole]
    assert all(r.oversize or r.content == page(n) for r, n in zip(whole, found, strict=True))
    return found


@EVERY_FORM
@pytest.mark.parametrize("length", [3_000, 20_000, 60_000, 10**15])
def test_a_length_over_the_limit_that_is_wrong_swallows_no_record(
    tmp_path: Path, form: str, length: int
) -> None:
    parts = [record(0), record(1, length=length), *map(record, range(2, 60))]
    data = ONE_MEMBER[form](b"".join(parts))
    records = read(tmp_path, data, max_record_bytes=2_000)
    assert numbers(records) == [0, *range(2, 60)]
    assert [r.damage for r in records].count("damaged_record") == 1


@EVERY_FORM
def test_a_wrong_length_in_each_record_swallows_none(tmp_path: Path, form: str) -> None:
    """And where reading goes back as often as there are records, it still ends."""
    parts = [record(n, length=51_001 if n % 2 else None) for n in range(200)]
    records = read(tmp_path, ONE_MEMBER[form](b"".join(parts)), max_record_bytes=4_000)
    assert numbers(records) == [*range(0, 200, 2)]


@EVERY_FORM
@pytest.mark.parametrize("limit", [64 << 20, 4_000])
def test_an_archive_that_was_crawled_is_one_record(tmp_path: Path, form: str, limit: int) -> None:
    inner = b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(map(record, range(100, 110)))
    for block in (inner, inner[:-4], inner[:-900]):
        parts = [record(0), record(1, block), record(2)]
        data = ONE_MEMBER[form](b"".join(parts) + b"not a record")
        records = read(tmp_path, data, max_record_bytes=limit)
        assert [r.damage for r in records] == [None, None, None, "damaged_record"]
        assert records[1].content == (block if limit > len(block) else b"")


@EVERY_FORM
def test_a_record_of_zeros_does_not_take_the_next(tmp_path: Path, form: str) -> None:
    parts = [record(0), bytes(len(record(1))), record(2), record(3)]
    records = read(tmp_path, ONE_MEMBER[form](b"".join(parts)))
    assert numbers(records) == [0, 2, 3]
    assert [r.damage for r in records] == [None, "damaged_record", None, None]


@EVERY_FORM
@pytest.mark.parametrize("stripped", range(1, 40))
def test_a_record_without_its_last_bytes_does_not_take_the_next(
    tmp_path: Path, form: str, stripped: int
) -> None:
    parts = [record(0), record(1)[:-stripped], record(2), record(3)]
    records = read(tmp_path, ONE_MEMBER[form](b"".join(parts)))
    found = numbers(records)
    assert found in ([0, 1, 2, 3], [0, 2, 3])
    assert 1 in found or records[1].damage == "damaged_record"


@EVERY_FORM
def test_a_length_that_ends_at_a_blank_line_of_the_next_record_is_wrong(
    tmp_path: Path, form: str
) -> None:
    """There the block seems to end as one does; the record that it would end in tells."""
    following = record(2)
    for blank in (following.index(b"\r\n\r\n"), following.rindex(b"\r\n\r\n<p>")):
        lying = record(1, length=len(page(1)) + 4 + blank)
        data = ONE_MEMBER[form](b"".join([record(0), lying, following, record(3)]))
        records = read(tmp_path, data)
        assert numbers(records) == [0, 2, 3]


def test_a_header_that_is_cut_gives_the_next_record_no_field(tmp_path: Path) -> None:
    cut = record(1)[:60]
    assert numbers(read(tmp_path, record(0) + cut + record(2))) == [0, 2]


@pytest.mark.parametrize("form", [*ONE_MEMBER])
@pytest.mark.parametrize("start", [b"WARC/1.0\n", b"WARC/1.0\na:b\n", b"WARC/1.0\n\n"])
def test_many_starts_of_records_are_one_stretch(tmp_path: Path, form: str, start: bytes) -> None:
    data = record(0) + start * 20_000 + record(1)
    before = time.process_time()
    records = read(tmp_path, ONE_MEMBER[form](data))
    assert time.process_time() - before < 2  # it was 17
    assert [r.damage for r in records] == [None, "damaged_record", None]


def test_neighbouring_damage_is_counted_and_measured(tmp_path: Path) -> None:
    junk = b"WARC/1.0\r\nno: length\r\n\r\n"
    records = read(tmp_path, record(0) + junk * 30 + record(1))
    assert numbers(records) == [0, 1]
    assert (records[1].offset, records[1].length) == (len(record(0)), 30 * len(junk))
    assert records[1].detail == (
        f"Content-Length is None; 29 more damaged stretches follow, {30 * len(junk)} bytes in all"
    )


def test_damage_in_a_file_of_blocks_costs_the_records_in_its_block(tmp_path: Path) -> None:
    """As bgzip writes: a block rarely starts where a record does."""
    raw = b"".join(map(record, range(60)))
    blocks = [gzip.compress(raw[at : at + 5000], mtime=0) for at in range(0, len(raw), 5000)]
    blocks[4] = blocks[4][:500] + bytes(20) + blocks[4][520:]
    found = numbers(read(tmp_path, b"".join(blocks)))
    hit = range(20_000, 25_000)
    ends = [sum(len(record(n)) for n in range(k + 1)) for k in range(60)]
    lost = [n for n in range(60) if n not in found]
    assert lost
    assert all(ends[n] > hit.start and ends[n] - len(record(n)) < hit.stop for n in lost)
