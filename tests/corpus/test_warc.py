"""Reading archives: FastWARC is the oracle of whole files, the whole file that of damaged ones."""

from __future__ import annotations

import csv
import gzip
import itertools
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from fastwarc.warc import ArchiveIterator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus.warc.records import Record, first_record_at, read_records
from schemas.errors import UserError

Member = Callable[[bytes], bytes]
FORMS: dict[str, Member] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def record(number: int, length: int | None = None) -> bytes:
    noise = random.Random(number)
    page = noise.randbytes(noise.randint(10, 1500)).hex().encode()
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>" + page
    return (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:%d>\r\n"
        b"WARC-Target-URI: http://site.example/%d\r\nContent-Length: %d\r\n\r\n%b\r\n\r\n"
    ) % (number, number, len(block) if length is None else length, block)


RECORDS = [record(number) for number in range(6)]


def archive(form: str, records: list[bytes] = RECORDS) -> bytes:
    return b"".join(map(FORMS[form], records))


def offsets(form: str) -> list[int]:
    sizes = [len(FORMS[form](data)) for data in RECORDS]
    return [sum(sizes[:i]) for i in range(len(sizes) + 1)]


def read(folder: Path, data: bytes, start: int = 0, **limits: int) -> list[Record]:
    path = folder / "archive"
    path.write_bytes(data)
    return list(read_records(str(path), start, **limits))


def seen(record: Record) -> tuple[Any, ...]:
    place = (record.offset, record.next_offset, record.length)
    return (*place, record.headers.lines, record.content, record.damage, record.detail)


def whole(records: list[Record]) -> list[bytes]:
    return [record.content for record in records if record.damage is None]


@pytest.mark.parametrize("form", FORMS)
def test_offsets_are_those_of_the_members(tmp_path: Path, form: str) -> None:
    records = read(tmp_path, archive(form))
    places = offsets(form)
    assert [(r.offset, r.next_offset) for r in records] == [*itertools.pairwise(places)]
    assert [r.length for r in records] == [b - a for a, b in itertools.pairwise(places)]
    assert all(r.damage is None for r in records)


@examples
@given(data=st.data())
@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_one_wrong_bit_costs_one_record_and_is_noticed(
    tmp_path: Path, form: str, data: st.DataObject
) -> None:
    original = archive(form)
    at = data.draw(st.integers(0, len(original) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = original[:at] + bytes([original[at] ^ 1 << bit]) + original[at + 1 :]
    try:
        records = read(tmp_path, damaged)
    except UserError:
        assert at < 18  # no longer the first bytes of an archive
        return
    good = whole(read(tmp_path, original))
    lost = [content for content in good if content not in whole(records)]
    assert set(whole(records)) <= set(good)
    assert len(lost) <= 1
    assert any(r.damage for r in records) or not lost
    assert len({r.offset for r in records}) == len(records)


def test_damage_in_the_first_record_makes_no_other_file_of_an_archive(tmp_path: Path) -> None:
    """Each bit of the first member's first hundred bytes, behind its magic number and header."""
    original = archive("gzip")
    good = whole(read(tmp_path, original))
    for at in range(18, 100):
        for bit in range(8):
            flipped = original[:at] + bytes([original[at] ^ 1 << bit]) + original[at + 1 :]
            records = read(tmp_path, flipped)
            assert records[0].damage == "damaged_record"
            assert whole(records) == good[1:]


@pytest.mark.parametrize("num_bytes", range(1, 12))
def test_a_file_torn_in_the_first_bytes_of_a_record_is_named(
    tmp_path: Path, num_bytes: int
) -> None:
    original, places = archive("plain"), offsets("plain")
    for at in places[1:-1]:
        records = read(tmp_path, original[: at + num_bytes])
        assert records[-1].damage == "torn_record"
        assert records[-1].next_offset == at + num_bytes


@examples
@given(data=st.data())
@pytest.mark.parametrize("form", FORMS)
def test_a_torn_file_is_named_and_keeps_what_is_whole(
    tmp_path: Path, form: str, data: st.DataObject
) -> None:
    original, places = archive(form), offsets(form)
    at = data.draw(st.integers(20, len(original) - 1).filter(lambda at: at not in places))
    records = read(tmp_path, original[:at])
    num_whole = max(i for i, place in enumerate(places) if place < at)
    if form == "plain" and at >= places[num_whole + 1] - 4:
        num_whole += 1  # nothing but the blank lines after the record is missing
    assert len(whole(records)) == num_whole
    assert [r.damage for r in records[num_whole:]] in (["torn_record"], [])
    assert form == "plain" or records[-1].damage == "torn_record"
    assert records[-1].next_offset == at


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", [0, 2, 5, 6])
def test_bytes_between_records_are_one_stretch(tmp_path: Path, form: str, at: int) -> None:
    place = offsets(form)[at]
    junk = b"nothing that belongs here\r\n\r\n"
    data = archive(form)[:place] + junk + archive(form)[place:]
    if at == 0 and form != "plain":
        with pytest.raises(UserError, match="is not a WARC file; it starts with b'nothing"):
            read(tmp_path, data)
        return
    records = read(tmp_path, data)
    assert len(whole(records)) == 6
    assert [(r.offset, r.damage) for r in records if r.damage] == [(place, "damaged_record")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", [-300, -1, 5, 300, 10**9])
def test_a_wrong_content_length_costs_only_its_record(
    tmp_path: Path, form: str, wrong: int
) -> None:
    length = read(tmp_path, RECORDS[1])[0].headers.get("content-length")
    lying = [RECORDS[0], record(1, int(length or 0) + wrong), *RECORDS[2:]]
    records = read(tmp_path, archive(form, lying))
    assert [r.damage for r in records] == [None, "damaged_record", None, None, None, None]
    assert records[1].headers.get("warc-target-uri") == "http://site.example/1"
    assert "Content-Length" in (records[1].detail or "")


@examples
@given(data=st.data())
@pytest.mark.parametrize("form", FORMS)
def test_any_record_of_any_file_can_be_resumed_at(
    tmp_path: Path, form: str, data: st.DataObject
) -> None:
    original = archive(form)
    at = data.draw(st.integers(30, len(original) - 1))
    damage = data.draw(st.sampled_from([b"", b"\0", b"junk" * 9, b"\x1f\x8b\x08\0"]))
    damaged = original[:at] + damage + original[at + data.draw(st.integers(0, 40)) :]
    records = read(tmp_path, damaged)
    after = data.draw(st.integers(0, len(records) - 1))
    again = read(tmp_path, damaged, records[after].next_offset)
    assert [seen(r) for r in again] == [seen(r) for r in records[after + 1 :]]


@pytest.mark.parametrize("cut", [len(b"".join(RECORDS)), 1000])
def test_gzip_that_ignores_records_is_read_and_resumed(tmp_path: Path, cut: int) -> None:
    """A file that is one member, and one that is cut into blocks, as bgzip does."""
    raw = b"".join(RECORDS)
    data = b"".join(gzip.compress(raw[i : i + cut]) for i in range(0, len(raw), cut))
    records = read(tmp_path, data + gzip.compress(b""))
    assert whole(records) == whole(read(tmp_path, raw))
    assert [r.offset for r in records] == [0, 1, 2, 3, 4, 5]
    for i, place in enumerate(r.next_offset for r in records[:-1]):
        again = read(tmp_path, data + gzip.compress(b""), place)
        assert [seen(r) for r in again] == [seen(r) for r in records[i + 1 :]]


def test_a_zstd_file_with_a_dictionary_is_read(tmp_path: Path) -> None:
    dictionary = zstandard.ZstdCompressionDict(b"".join(RECORDS)[:2000])
    content = dictionary.as_bytes()
    skippable = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    compress = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True).compress
    records = read(tmp_path, skippable + b"".join(map(compress, RECORDS)))
    assert whole(records) == whole(read(tmp_path, b"".join(RECORDS)))


def bomb(size: int, claimed: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = record(9, claimed).split(b"HTTP")[0]
    parts = [deflate.compress(head)]
    parts += [deflate.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, deflate.compress(b"\r\n\r\n"), deflate.flush()])


@pytest.mark.parametrize("claimed", [100, 64 << 20, 10**15])
def test_a_member_that_never_ends_is_given_up(tmp_path: Path, claimed: int) -> None:
    data = FORMS["gzip"](RECORDS[0]) + bomb(64 << 20, claimed) + FORMS["gzip"](RECORDS[1])
    records = read(tmp_path, data, max_record_bytes=1 << 20)
    assert [r.damage for r in records] == [None, "damaged_record", None]
    assert all(len(r.content) <= 1 << 20 for r in records)


def test_a_record_over_the_limit_is_passed_over_and_not_kept(tmp_path: Path) -> None:
    big = random.Random(0).randbytes(3 << 20)
    long = record(7).split(b"Content-Length")[0] + b"Content-Length: %d\r\n\r\n" % len(big)
    data = archive("gzip", [RECORDS[0], long + big + b"\r\n\r\n", RECORDS[1]])
    records = read(tmp_path, data, max_record_bytes=1 << 20)
    assert [(r.damage, r.oversize) for r in records] == [(None, False), (None, True), (None, False)]
    assert records[1].content == b""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a WARC file"),
        (b"BZh91AY&SY", "bzip2"),
        (b"PK\x03\x04", "zip"),
        (b"<html>a page</html>", "it starts with b'<html>a page"),
        (gzip.compress(b"<html>a page</html>"), "it starts with b'<html>a page"),
    ],
)
def test_a_file_that_is_no_warc_is_refused_by_name(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=f"archive: is .*{words}"):
        read(tmp_path, data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.warc: cannot be opened: No such file"):
        list(read_records(str(tmp_path / "none.warc")))


def rows_of(shared: Path, folder: str, table: str) -> list[dict[str, str]]:
    with open(shared / folder / table, encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def test_archives_of_real_crawlers_are_read_as_fastwarc_reads_them(shared: Path) -> None:
    equal = 0
    for row in rows_of(shared, "genuine", "genuine.tsv"):
        path = str(shared / "genuine" / row["file"])
        if row["file"].lower().endswith((".arc", ".arc.gz")):
            continue  # FastWARC reads none of them
        records = list(read_records(path))
        assert len(records) >= int(row["fastwarc_records"]), path
        if row["fastwarc_result"] == "ok" and len(records) == int(row["fastwarc_records"]):
            with open(path, "rb") as stream:
                theirs = [
                    (r.record_id, r.reader.read())
                    for r in ArchiveIterator(stream, parse_http=False)
                ]
            assert [(r.headers.get("warc-record-id"), r.content) for r in records] == theirs, path
            equal += 1
    assert equal == 44


def test_hostile_archives_give_records_or_a_sentence(shared: Path) -> None:
    refused = []
    for row in rows_of(shared, "hostile", "expected-by-peers.tsv"):
        path = str(shared / "hostile" / row["file"])
        try:
            records = list(read_records(path))
        except UserError as error:
            refused.append((path, row["fastwarc_records"], str(error)))
            continue
        assert len(records) >= int(row["fastwarc_records"]), path
        for before, after in itertools.pairwise(records):
            assert before.next_offset <= after.offset, path
            assert before.offset < after.offset, path
        if records:
            assert records[-1].next_offset == Path(path).stat().st_size, path
    assert all(path in words and theirs == "0" for path, theirs, words in refused)


def test_a_wrong_bit_in_an_lz4_frame_with_a_checksum_is_noticed(
    shared: Path, tmp_path: Path
) -> None:
    data = bytearray(next((shared / "hostile").glob("*block-sized-records.warc.lz4")).read_bytes())
    data[300] ^= 1
    records = read(tmp_path, bytes(data))
    assert [r.damage for r in records].count("damaged_record") == 1
    assert len(records) == 3


@pytest.mark.parametrize("form", FORMS)
def test_the_first_record_behind_any_byte_is_found(tmp_path: Path, form: str) -> None:
    path, data, starts = tmp_path / "archive", archive(form), offsets(form)
    path.write_bytes(data)
    for offset in range(0, len(data), 97):
        expected = next(start for start in starts if start >= offset)
        assert first_record_at(str(path), offset) == expected
    assert first_record_at(str(path), len(data)) == len(data)
