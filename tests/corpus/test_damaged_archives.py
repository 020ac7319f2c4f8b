"""Damage costs the record that it hits, and reading costs what the file's size allows."""

from __future__ import annotations

import contextlib
import gc
import gzip
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from corpus.warc.codecs import Frame, Gzip
from corpus.warc.records import Record, read_records
from corpus.warc.stream import Stream
from schemas.errors import UserError
from tests.cpu_speed import at_reference_speed

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


def test_a_swallowed_record_may_begin_where_no_more_was_read_yet(tmp_path: Path) -> None:
    data = ATTACKS["wrong lengths"](1 << 20)
    assert read(tmp_path, data)[-1].next_offset == len(data)


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


def test_a_damaged_member_takes_no_record_with_a_long_header_before_it(tmp_path: Path) -> None:
    """Its first bytes decompress, but not to the start of a record: it could go on with one."""
    long = record(0).replace(b"\r\n", b"\r\nX: " + b"x" * 2000 + b"\r\n", 1)
    damaged = gzip.compress(b"XARC" + record(1)[4:])[:-8] + b"checksum"
    records = read(tmp_path, gzip.compress(long) + damaged + gzip.compress(record(2)))
    assert numbers(records) == [0, 2]


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


@pytest.mark.parametrize("form", ONE_MEMBER)
@pytest.mark.parametrize("stripped", [0, 1, 2, 30, 300])
def test_a_record_of_an_arc_file_does_not_take_the_next(
    tmp_path: Path, form: str, stripped: int
) -> None:
    line = b"http://site.example/%d 10.0.0.1 20080430204825 text/html %d\n"
    records = [line % (n, len(page(n))) + page(n) + b"\n" for n in range(4)]
    for damaged in (records[1][: len(records[1]) - stripped], bytes(len(records[1]))):
        data = b"".join([records[0], damaged, *records[2:]])
        found = read(tmp_path, ONE_MEMBER[form](data))
        assert numbers(found) in ([0, 1, 2, 3], [0, 2, 3])
        assert len(numbers(found)) == 4 or found[1].damage == "damaged_record"


KIB = 1 << 10
WARC = record(0)
# What costs most for its size, by the part of the reader that it is meant for; see `cpu_limit`.
ATTACKS: dict[str, Callable[[int], bytes]] = {
    "version lines": lambda n: b"WARC/1.0\n" * (n // 9),
    "headers that nest": lambda n: b"WARC/1.0\na:b\n" * (n // 13),
    "headers without a length": lambda n: b"WARC/1.0\na:b\n\n" * (n // 14),
    "named headers without a length": lambda n: b"WARC/1.0\nWARC-Type:a\n\n" * (n // 22),
    "empty records": lambda n: b"WARC/1.0\nContent-Length: 0\n\n" * (n // 28),
    "wrong lengths": lambda n: b"WARC/1.0\nContent-Length: 99999\n\n" * (n // 32),
    "wrong lengths over the limit": lambda n: b"WARC/1.0\nContent-Length: 99999999\n\n" * (n // 35),
    "blocks that end inside another": lambda n: b"".join(
        b"WARC/1.0\nContent-Length: %08d\n\n" % max(0, n - k - 20) for k in range(0, n, 35)
    ),
    "one long header line": lambda n: b"WARC/1.0\na:" + b"x" * n,
    "many header lines": lambda n: b"WARC/1.0\n" + b"a:b\n" * (n // 4),
    "continuation lines": lambda n: (b"WARC/1.0\na:b\n" + b" c\n" * 20_000 + b"\n") * (n // 60_000),
    "empty lines": lambda n: WARC + b"\r\n" * (n // 2) + WARC,
    "gzip: magic numbers": lambda n: gzip.compress(WARC) + b"\x1f\x8b\x08" * (n // 3),
    "gzip: names without end": lambda n: gzip.compress(WARC) + b"\x1f\x8b\x08\x08" * (n // 4),
    "gzip: empty members": lambda n: gzip.compress(WARC) + gzip.compress(b"") * (n // 20),
    "gzip: members of a byte": lambda n: gzip.compress(WARC) + gzip.compress(b"x") * (n // 21),
    "gzip: members that start": lambda n: gzip.compress(WARC) + gzip.compress(b"WARC/") * (n // 25),
    "gzip: members in each other": lambda n: b"".join(
        [b"\x1f\x8b\x08\0\0\0\0\0\0\3\0\xe8\xfd\x17\x02WARC/1.0\r\n"] * (n // 25)
    ),
    "gzip: bombs": lambda n: gzip.compress(WARC + bytes(900_000)) * (n // 1_500),
    "gzip: many version lines": lambda n: gzip.compress(b"WARC/1.0\n\n" * 4_000) * (n // 126),
    "gzip: many empty records": lambda n: gzip.compress(WARC * 4_000) * (n // 2_000),
    "gzip: many lengths": lambda n: gzip.compress(
        b"WARC/1.0\nContent-Length: 70000000\n\n" * (n // 35) + bytes(80_000_000)
    ),
    "zstd: magic numbers": lambda n: zstandard.compress(WARC) + b"\x28\xb5\x2f\xfd" * (n // 4),
    "zstd: empty frames": lambda n: zstandard.compress(WARC) + zstandard.compress(b"") * (n // 9),
    "zstd: frames of a line end": lambda n: (
        zstandard.compress(WARC) + zstandard.compress(b"\n") * (n // 10)
    ),
    "zstd: skippable frames": lambda n: (
        zstandard.compress(WARC) + b"\x50\x2a\x4d\x18\0\0\0\0" * (n // 8)
    ),
    "zstd: empty blocks": lambda n: zstandard.compress(WARC) + (
        b"\x28\xb5\x2f\xfd\0\0" * (n // 12) + b"\0\0\0" * (n // 6)
    ),
    "zstd: bombs": lambda n: zstandard.compress(WARC) + (
        b"\x28\xb5\x2f\xfd\0\x50" + b"\x02\0\x10\0" * 200
    ) * (n // 806),
    "lz4: magic numbers": lambda n: b"\x04\x22\x4d\x18" * (n // 4),
    "lz4: empty frames": lambda n: b"\x04\x22\x4d\x18\x60\x40\x82\0\0\0\0" * (n // 11),
    "arc: lines": lambda n: b"http://a/ 10.0.0.1 20080430204825 text/html 0\n" * (n // 46),
    "arc: wrong lengths": lambda n: b"http://a/ 10.0.0.1 20080430204825 a 99999\n" * (n // 42),
    "arc: schemes": lambda n: b"http://a/ 1.1.1.1 20080430204825 a 5\n" + b"http:" * (n // 5),
    "arc: dates": lambda n: b"http://a/ 1.1.1.1 20080430204825 a 5\n" + (
        b"http:" + b" 200804302048" * 4_500 + b" 1\n"
    ) * (n // 58_000),
    "arc: spaces": lambda n: b"http://a/ 1.1.1.1 20080430204825 a 5\n" + (
        b"http:" + b" 5 5" * 14_000 + b" 5 \r\n"
    ) * (n // 56_000),
}  # fmt: skip


def cpu_limit(num_bytes: int) -> float:
    """CPU seconds: two for each MiB, of which every file has a half.

    A file may be as small as it likes and still hold one record of 256 MiB, or 2,048 members.
    """
    return 2 * max(num_bytes, 512 * KIB) / (1 << 20)


def cpu_share(path: Path) -> float:
    """Of the CPU seconds that are allowed, the part that reading takes."""
    before = time.process_time()
    with contextlib.suppress(UserError):
        for _ in read_records(str(path)):  # together they are gigabytes
            pass
    seconds = at_reference_speed(time.process_time() - before)
    return seconds / cpu_limit(path.stat().st_size)


def attack(folder: Path, size: int, figures: Callable[[str, str], None]) -> float:
    """The largest part of the allowed CPU seconds that an attack takes."""
    worst = (0.0, "")
    for name, make in ATTACKS.items():
        data = make(size)
        (folder / "archive").write_bytes(data)
        share = cpu_share(folder / "archive")
        assert share <= 1, f"{name}: {share:.0%} of the CPU time allowed for {len(data)} bytes"
        worst = max(worst, (share, name))
    most = f"{worst[0]:.0%} of what is allowed ({worst[1]})"
    figures(
        "CPU seconds of an archive", f"{len(ATTACKS)} attacks of {size >> 10} KiB, at most {most}"
    )
    return worst[0]


def test_reading_costs_what_the_size_of_a_file_allows(
    tmp_path: Path, figures: Callable[[str, str], None]
) -> None:
    assert attack(tmp_path, 48 * KIB, figures) <= 1


@pytest.mark.soak
@pytest.mark.parametrize("size", [1 << 20, 4 << 20])
def test_reading_costs_what_the_size_of_a_large_file_allows(
    tmp_path: Path, size: int, figures: Callable[[str, str], None]
) -> None:
    assert attack(tmp_path, size, figures) <= 1


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_what_was_read_of_damaged_members_is_freed_at_once(tmp_path: Path, form: str) -> None:
    """A reader that its own traceback kept alive took 140 kB: 4 MiB of such took 4.6 GB."""
    member = ONE_MEMBER[form](record(0))
    (tmp_path / "archive").write_bytes(member + member[:4] * 3000)
    gc.collect()
    gc.disable()
    try:
        assert sum(1 for _ in read_records(str(tmp_path / "archive"))) >= 1
        kept = sum(type(one) in (Frame, Gzip, Stream) for one in gc.get_objects())
    finally:
        gc.enable()
    assert kept < 10
