"""ARC files: warcio is the oracle of real ones, the whole file that of damaged ones."""

from __future__ import annotations

import csv
import gzip
import itertools
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from corpus.text.extract_page import Gates, extract_file
from corpus.warc.records import Arc, Record, first_record_at, read_records
from schemas.errors import UserError

FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
}
VERSION = (
    b"filedesc://x.arc 0.0.0.0 20080430204825 text/plain 76\n1 0 InternetArchive\n"
    b"URL IP-address Archive-date Content-type Archive-length\n\n"
)
examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def block(number: int) -> bytes:
    noise = random.Random(number)
    page = noise.randbytes(noise.randint(10, 1500)).hex().encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>" + page


def record(number: int, wrong: int = 0) -> bytes:
    data = block(number)
    line = b"http://site.example/%d 10.0.0.1 2008043020482%d text/html %d\n"
    return line % (number, number, len(data) + wrong) + data + b"\n"


RECORDS = [VERSION, *map(record, range(1, 6))]


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


def damaged(records: list[Record]) -> list[tuple[int, str]]:
    return [(record.offset, record.damage) for record in records if record.damage]


@pytest.mark.parametrize("form", FORMS)
def test_a_record_has_the_headers_that_warc_would_give_it(tmp_path: Path, form: str) -> None:
    records = read(tmp_path, archive(form))
    assert [r.headers.get("warc-type") for r in records] == ["warcinfo", *["response"] * 5]
    assert records[1].headers.lines == [
        ("warc-type", "response"),
        ("warc-target-uri", "http://site.example/1"),
        ("warc-date", "2008-04-30T20:48:21Z"),
        ("warc-ip-address", "10.0.0.1"),
        ("content-type", "application/http; msgtype=response"),
        ("content-length", str(len(block(1)))),
    ]
    assert whole(records)[1:] == [block(number) for number in range(1, 6)]


@pytest.mark.parametrize("form", FORMS)
def test_offsets_are_those_of_the_members(tmp_path: Path, form: str) -> None:
    places = [*itertools.pairwise(offsets(form))]
    records = read(tmp_path, archive(form))
    assert [(r.offset, r.next_offset) for r in records] == places
    assert [r.length for r in records] == [b - a for a, b in places]


WORD = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1)
TEXT = st.lists(WORD, min_size=1, max_size=4).map(" ".join)


@given(
    url=TEXT,
    address=WORD,
    date=st.datetimes(),
    content_type=TEXT.filter(lambda text: not any(word.isdigit() for word in text.split())),
    more=st.sampled_from(["", " 200 - - 4711 x.arc"]),
    length=st.integers(0, 10**12),
    end=st.sampled_from(["\n", "\r\n", "  \n"]),
)
def test_spaces_in_a_url_or_type_and_the_fields_of_version_2_shift_nothing(
    url: str, address: str, date: Any, content_type: str, more: str, length: int, end: str
) -> None:
    digits = f"{date:%Y%m%d%H%M%S}".zfill(14)
    line = f"http:{url} {address} {digits} {content_type}{more} {length}{end}".encode()
    found = dict(Arc().parse(line))
    assert found["warc-target-uri"] == f"http:{url}"
    assert found.get("warc-ip-address", "-") == address
    assert found["warc-date"] == f"{date.replace(microsecond=0).isoformat()}Z"
    assert found["content-length"] == str(length)
    assert Arc().opens(line)
    assert Arc().boundary.match(b"\n" + line)


@pytest.mark.parametrize(
    ("line", "kind", "content_type"),
    [
        ("https://a.example/ 10.0.0.1", "response", "application/http; msgtype=response"),
        ("HTTP://a.example/ 10.0.0.1", "response", "application/http; msgtype=response"),
        ("filedesc://x.arc 0.0.0.0", "warcinfo", "text/x"),
        ("metadata://netarkivet.dk/crawl 10.0.0.1", "metadata", "text/x"),
        ("dns:a.example 10.0.0.1", "resource", "text/x"),
        ("ftp://a.example/x 10.0.0.1", "resource", "text/x"),
    ],
)
def test_only_what_came_by_http_is_a_response(line: str, kind: str, content_type: str) -> None:
    found = dict(Arc().parse(f"{line} 20080430204825 text/x 5\n".encode()))
    assert (found["warc-type"], found["content-type"]) == (kind, content_type)


@pytest.mark.parametrize(
    ("digits", "date"),
    [
        ("20080430204825", "2008-04-30T20:48:25Z"),
        ("200804302048", "2008-04-30T20:48:00Z"),
        ("20080430204825123", "2008-04-30T20:48:25Z"),
        ("20081330204825", None),
        ("00000000000000", None),
    ],
)
def test_a_date_that_is_none_is_left_out(digits: str, date: str | None) -> None:
    found = dict(Arc().parse(f"http://a.example/ 10.0.0.1 {digits} text/html 5\n".encode()))
    assert found.get("warc-date") == date
    assert found["content-length"] == "5"


def test_dashes_and_empty_types_are_left_out() -> None:
    assert Arc().parse(b"filedesc:// - - - 76\r\n") == [
        ("warc-type", "warcinfo"),
        ("warc-target-uri", "filedesc://"),
        ("content-length", "76"),
    ]
    for line in (b"dns:a.example - 20080430204825  76\n", b"dns:a.example - 20080430204825 76\n"):
        assert "content-type" not in dict(Arc().parse(line))


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Type: text/html; charset=utf-8\n",
        b"Date: Wed, 30 Apr 2008 20:48:24 GMT\n",
        b"http://a.example/ 10.0.0.1 2008-04-30 text/html 5\n",
        b"a page of 20080430204825 text/html 5\n",
        b"\n",
    ],
)
def test_other_lines_are_no_header(line: bytes) -> None:
    assert Arc().parse(line) == []
    assert not Arc().opens(line)
    assert not Arc().boundary.search(b"\n" + line)


@examples
@given(data=st.data())
def test_one_wrong_bit_costs_one_record_and_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    original = archive("gzip")
    at = data.draw(st.integers(3, len(original) - 1))
    bit = data.draw(st.integers(0, 7))
    records = read(tmp_path, original[:at] + bytes([original[at] ^ 1 << bit]) + original[at + 1 :])
    good = whole(read(tmp_path, original))
    lost = [content for content in good if content not in whole(records)]
    assert set(whole(records)) <= set(good)
    assert len(lost) <= 1
    assert damaged(records) or not lost
    assert len({r.offset for r in records}) == len(records)


@pytest.mark.parametrize("first", [b"", b"file", VERSION[:30]])
def test_damage_in_the_version_block_makes_no_other_file_of_an_archive(
    tmp_path: Path, first: bytes
) -> None:
    torn = FORMS["gzip"](first)[:-8] + b"checksum"
    records = read(tmp_path, torn + archive("gzip", RECORDS[1:]))
    assert damaged(records) == [(0, "damaged_record")]
    assert whole(records) == [block(number) for number in range(1, 6)]


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
    if form == "plain" and at == places[num_whole + 1] - 1:
        num_whole += 1  # nothing but the line end after the record is missing
    assert len(whole(records)) == num_whole
    assert [r.damage for r in records[num_whole:]] in (["torn_record"], [])
    assert form == "plain" or records[-1].damage == "torn_record"
    assert records[-1].next_offset == at


@pytest.mark.parametrize("num_bytes", range(1, 60))
def test_a_file_torn_inside_a_header_line_is_named(tmp_path: Path, num_bytes: int) -> None:
    for at in offsets("plain")[1:-1]:
        records = read(tmp_path, archive("plain")[: at + num_bytes])
        assert records[-1].damage == "torn_record"
        assert (records[-1].offset, records[-1].next_offset) == (at, at + num_bytes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("junk", [b"nothing that belongs here\n", b"Note: nor a header 1\n"])
@pytest.mark.parametrize("at", [1, 2, 5, 6])
def test_bytes_between_records_are_one_stretch(
    tmp_path: Path, form: str, junk: bytes, at: int
) -> None:
    place = offsets(form)[at]
    records = read(tmp_path, archive(form)[:place] + junk + archive(form)[place:])
    assert len(whole(records)) == 6
    assert damaged(records) == [(place, "damaged_record")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", [-300, -1, 5, 300, 10**9])
def test_a_wrong_length_costs_only_its_record(tmp_path: Path, form: str, wrong: int) -> None:
    records = read(tmp_path, archive(form, [*RECORDS[:2], record(2, wrong), *RECORDS[3:]]))
    assert [r.damage for r in records] == [None, None, "damaged_record", None, None, None]
    assert records[2].headers.get("warc-target-uri") == "http://site.example/2"
    assert "Archive-length" in (records[2].detail or "")


@pytest.mark.parametrize("form", FORMS)
def test_a_length_that_counts_the_line_end_is_right_too(tmp_path: Path, form: str) -> None:
    records = read(tmp_path, archive(form, [VERSION, *(record(n, 1) for n in range(1, 6))]))
    assert whole(records)[1:] == [block(number) + b"\n" for number in range(1, 6)]


@pytest.mark.parametrize("length", [b"-1", b"abc", b"1e3"])
def test_a_length_that_is_no_number_costs_only_its_record(tmp_path: Path, length: bytes) -> None:
    lying = b"http://site.example/x 10.0.0.1 20080430204825 text/html %b\nwhat\n\n" % length
    records = read(tmp_path, archive("plain", [VERSION, lying, *RECORDS[1:]]))
    assert damaged(records) == [(len(VERSION), "damaged_record")]
    assert records[1].detail == f"Archive-length is {length.decode()!r}"
    assert records[1].headers.get("warc-target-uri") == "http://site.example/x"
    assert len(whole(records)) == 6


@examples
@given(data=st.data())
@pytest.mark.parametrize("form", FORMS)
def test_any_record_of_any_file_can_be_resumed_at(
    tmp_path: Path, form: str, data: st.DataObject
) -> None:
    original = archive(form)
    at = data.draw(st.integers(20, len(original) - 1))
    damage = data.draw(st.sampled_from([b"", b"\0", b"junk\n" * 9, b"\x1f\x8b\x08\0"]))
    wrong = original[:at] + damage + original[at + data.draw(st.integers(0, 40)) :]
    records = read(tmp_path, wrong)
    after = data.draw(st.integers(0, len(records) - 1))
    again = read(tmp_path, wrong, records[after].next_offset)
    assert [seen(r) for r in again] == [seen(r) for r in records[after + 1 :]]


@pytest.mark.parametrize("cut", [10**6, 1000, 777])
def test_gzip_that_ignores_records_is_read_and_resumed(tmp_path: Path, cut: int) -> None:
    """A file that is one member, and one that is cut into blocks, as bgzip does."""
    raw = b"".join(RECORDS)
    data = b"".join(gzip.compress(raw[i : i + cut]) for i in range(0, len(raw), cut))
    data += gzip.compress(b"")
    records = read(tmp_path, data)
    assert whole(records) == whole(read(tmp_path, raw))
    assert [r.offset for r in records] == [0, 1, 2, 3, 4, 5]
    for i, place in enumerate(r.next_offset for r in records[:-1]):
        again = read(tmp_path, data, place)
        assert [seen(r) for r in again] == [seen(r) for r in records[i + 1 :]]


@pytest.mark.parametrize("form", FORMS)
def test_a_record_over_the_limit_is_passed_over_and_not_kept(tmp_path: Path, form: str) -> None:
    big = random.Random(0).randbytes(3 << 20)
    line = b"http://site.example/big 10.0.0.1 20080430204825 text/html %d\n" % len(big)
    data = archive(form, [RECORDS[0], line + big + b"\n", RECORDS[1]])
    records = read(tmp_path, data, max_record_bytes=1 << 20)
    assert [(r.damage, r.oversize) for r in records] == [(None, False), (None, True), (None, False)]
    assert records[1].content == b""
    assert records[2].content == block(1)


@pytest.mark.parametrize("form", FORMS)
def test_the_first_record_behind_any_byte_is_found(tmp_path: Path, form: str) -> None:
    path, data, starts = tmp_path / "archive", archive(form), offsets(form)
    path.write_bytes(data)
    for offset in range(0, len(data), 97):
        expected = next(start for start in starts if start >= offset)
        assert first_record_at(str(path), offset) == expected
    assert first_record_at(str(path), len(data)) == len(data)


def test_a_file_without_a_version_block_is_read(tmp_path: Path) -> None:
    assert len(whole(read(tmp_path, archive("plain", RECORDS[1:])))) == 5
    assert len(whole(read(tmp_path, b"junk\n" + archive("plain", RECORDS[1:])))) == 5


def test_a_page_of_urls_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a WARC file; it starts with b'http://a"):
        read(tmp_path, b"http://a.example/ is a page of 1996\nhttp://b.example/ is one of 1997\n")


def test_a_page_is_a_row_keyed_by_file_and_offset(tmp_path: Path) -> None:
    page = b"<html><body><p>" + b"The river rose in the night and the mill stood still. " * 9
    data = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    line = b"http://mill.example/ 10.0.0.1 20080430204825 text/html %d\n" % len(data)
    name = b"dns:mill.example 10.0.0.1 20080430204825 text/dns 4\nA  1\n"
    path = tmp_path / "x.arc.gz"
    path.write_bytes(archive("gzip", [VERSION, name, line + data + b"\n"]))
    outcomes = list(extract_file(str(path), "crawl/x.arc.gz", Gates()))
    assert [outcome.kind for outcome in outcomes] == ["warcinfo", "resource", "document"]
    row = outcomes[2].row
    assert row
    assert row["text"].startswith("The river rose in the night")
    assert (row["url"], row["date"]) == ("http://mill.example/", "2008-04-30T20:48:25Z")
    key = f"crawl/x.arc.gz:{row['record_offset']}"
    assert row["id"] == f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, key)}>"


def arcs(shared: Path, folder: str, table: str) -> Iterator[tuple[Path, int]]:
    """The ARC files that a table lists, with the number of records that warcio reads."""
    with open(shared / folder / table, encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            if row["file"].lower().endswith((".arc", ".arc.gz")):
                yield shared / folder / row["file"], int(row["warcio_records"])


def without_version(record: Record) -> bytes:
    """What warcio takes for the block: it has read two lines of a version block already."""
    is_version = record.headers.get("warc-type") == "warcinfo"
    return record.content.split(b"\n", 2)[2] if is_version else record.content


def test_archives_of_real_crawlers_are_read_as_warcio_reads_them(shared: Path) -> None:
    num_records: Counter[bool] = Counter()
    for path, _ in arcs(shared, "genuine", "genuine.tsv"):
        records = list(read_records(str(path)))
        assert damaged(records) == []
        assert records[-1].next_offset == path.stat().st_size
        if path.name.endswith("30-metadata-4.arc"):
            # A version block of length 0 stands inside: warcio reads its two lines nevertheless.
            assert len(records) == 30
            continue
        with open(path, "rb") as stream:
            theirs = [
                (r.rec_headers.get_header("uri"), r.raw_stream.read())
                for r in ArchiveIterator(stream, no_record_parse=True)
            ]
        ours = [(r.headers.get("warc-target-uri"), without_version(r)) for r in records]
        assert ours == theirs
        num_records.update(r.headers.get("warc-type") == "response" for r in records)
    assert num_records == {True: 344, False: 14}


def test_hostile_archives_give_records_or_a_sentence(shared: Path) -> None:
    refused = []
    for path, expected in arcs(shared, "hostile", "expected-by-peers.tsv"):
        try:
            records = list(read_records(str(path)))
        except UserError as error:
            refused.append((str(path), str(error)))
            continue
        # warcio makes records of lines with no fields too, so damaged stretches count as well.
        assert len(records) >= expected or path.name.endswith("warcio__bad.arc")
        for before, after in itertools.pairwise(records):
            assert before.next_offset <= after.offset
            assert before.offset < after.offset
        assert records[-1].next_offset == path.stat().st_size
    # Texts of a line or two that are only named like archives.
    assert len(refused) == 5
    assert all(path in words for path, words in refused)
