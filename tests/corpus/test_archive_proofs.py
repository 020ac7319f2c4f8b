"""What is promised of broken archives, on thousands of them: nothing good lost, all accounted for.

The quick forms run in `make test`, those marked soak take minutes. Every archive is made from a
seed, which a failure names.
"""

from __future__ import annotations

import gzip
import io
import itertools
import random
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from corpus.warc.records import Record, read_records
from schemas.errors import UserError

Damage = Callable[[bytes, random.Random], bytes]
Encode = Callable[[bytes], bytes]
Figures = Callable[[str, str], None]


# A small file may cost what one record may: 256 MiB decompressed, or 2,048 members.
def cpu_limit(num_bytes: int) -> float:
    """CPU seconds: two for each MiB, of which every file has a half."""
    return 2 * max(num_bytes, 512 << 10) / (1 << 20)


class Writer(WARCWriter):  # type: ignore[misc]
    """warcio's, which leaves its temporary files open."""

    _create_temp_file = io.BytesIO


def generated(number: int, seed: int) -> list[bytes]:
    """So many records as warcio writes them: all types, many headers, sizes from 0 to 60 KB."""
    noise = random.Random(seed)
    records = []
    for i in range(number):
        buffer = io.BytesIO()
        writer = Writer(buffer, gzip=False, warc_version=noise.choice(["WARC/1.0", "WARC/1.1"]))
        kind = noise.choices(
            ["response", "request", "metadata", "resource", "conversion", "warcinfo", "revisit"],
            [60, 12, 8, 8, 4, 4, 4],
        )[0]
        size = min(60_000, int(noise.lognormvariate(6.2, 1.1))) * (noise.random() > 0.02)
        text = b"".join(b"<p>%d: %b</p>\r\n" % (k, noise.randbytes(30).hex().encode())
                        for k in range(size // 70))  # fmt: skip
        payload = noise.choice([text, text, text, noise.randbytes(size), b"\r\n\r\n" + text])
        if noise.random() < 0.01 and records:  # an archive that was crawled
            payload = b"".join(records[-3:])[: noise.choice([None, -4, -700])]
        headers = {
            "WARC-Record-ID": f"<urn:uuid:{seed}-{i}>",
            "WARC-Date": f"2026-01-{1 + i % 28:02d}T00:00:00Z",
        }
        headers |= {f"X-More-{k}": "y" * noise.randint(0, 200) for k in range(noise.choice([0, 9]))}
        http = None
        if kind in ("response", "revisit", "request"):
            line = "GET /x HTTP/1.1" if kind == "request" else "200 OK"
            lines = [("Content-Type", "text/html"), ("X-Padding", "z" * noise.randint(0, 300))]
            http = StatusAndHeaders(line, lines, "" if kind == "request" else "HTTP/1.1")
        uri = f"http://site.example/{i}/" + "a" * noise.randint(0, 200)
        written = writer.create_warc_record(
            uri, kind, io.BytesIO(payload), warc_headers_dict=headers, http_headers=http
        )
        writer.write_record(written)
        records.append(buffer.getvalue())
    return records


def in_length(new: Callable[[int, random.Random], bytes]) -> Damage:
    """Another value for Content-Length."""

    def change(data: bytes, noise: random.Random) -> bytes:
        found = re.search(rb"\r\nContent-Length: (\d+)\r\n\r\n", data)
        assert found
        return data[: found.start(1)] + new(int(found[1]), noise) + data[found.end(1) :]

    return change


def at(noise: random.Random, data: bytes) -> int:
    return noise.randrange(len(data))


def header(data: bytes) -> int:
    """How long the header is."""
    return data.index(b"\r\n\r\n") + 4


def overwritten(start: int, new: bytes, data: bytes) -> bytes:
    return data[:start] + new[: len(data) - start] + data[start + len(new) :]


def flipped(place: int, noise: random.Random, data: bytes) -> bytes:
    return overwritten(place, bytes([data[place] ^ 1 << noise.randrange(8)]), data)


# In a record as it is before any compression.
IN_RECORDS: dict[str, Damage] = {
    "length of 80,000,000": in_length(lambda n, r: b"80000000"),
    "length of 10^15": in_length(lambda n, r: b"1" + b"0" * 15),
    "length of 20 digits": in_length(lambda n, r: b"9" * 20),
    "length 0": in_length(lambda n, r: b"0" if n else b"7"),
    "length one too large": in_length(lambda n, r: b"%d" % (n + 1)),
    "length one too small": in_length(lambda n, r: b"%d" % max(0, n - 1)),
    "length too large": in_length(lambda n, r: b"%d" % (n + r.randint(5, 30_000))),
    "length too small": in_length(lambda n, r: b"%d" % r.randrange(n + 1)),
    "length in letters": in_length(lambda n, r: b"abc"),
    "length negative": in_length(lambda n, r: b"-%d" % n),
    "length empty": in_length(lambda n, r: b""),
    "length with a digit more": in_length(lambda n, r: b"%d%d" % (n, r.randrange(10))),
    "no length": lambda d, r: re.sub(rb"Content-Length: \d+\r\n\r\n", b"\r\n", d, count=1),
    "two lengths": lambda d, r: d.replace(b"\r\n", b"\r\nContent-Length: 77\r\n", 1),
    "version misspelt": lambda d, r: b"WARB" + d[4:],
    "version missing": lambda d, r: d[10:],
    "version many times": lambda d, r: d[:10] * 50 + d,
    "no blank line": lambda d, r: d.replace(b"\r\n\r\n", b"\r\n", 1),
    "header cut": lambda d, r: d[: r.randrange(12, header(d))],
    "header of zeros": lambda d, r: bytes(header(d)) + d[header(d) :],
    "header line of 100 KB": lambda d, r: d.replace(b"\r\n", b"\r\nX: %b\r\n" % (b"x" * 10**5), 1),
    "bit in the header": lambda d, r: flipped(r.randrange(header(d)), r, d),
    "bit in the block": lambda d, r: flipped(r.randrange(header(d), len(d)), r, d),
    "all zeros": lambda d, r: bytes(len(d)),
    "all noise": lambda d, r: r.randbytes(len(d)),
    "all blanks": lambda d, r: b" " * len(d),
    "no line ends behind it": lambda d, r: d[:-4],
    "last bytes missing": lambda d, r: d[: -r.randint(5, min(len(d) - 20, 300))],
    "first bytes missing": lambda d, r: d[r.randint(1, 60) :],
    "middle missing": lambda d, r: d[: len(d) // 3] + d[len(d) // 2 :],
    "torn in the middle": lambda d, r: d[: at(r, d)],
    "bytes put in": lambda d, r: d[: (k := at(r, d))] + r.randbytes(r.randint(1, 99)) + d[k:],
    "line put in": lambda d, r: d[: (k := at(r, d))] + b"\r\n\r\n" + d[k:],
    "end of zeros": lambda d, r: d[: (k := at(r, d))] + bytes(len(d) - k),
    "end of noise": lambda d, r: d[: (k := at(r, d))] + r.randbytes(len(d) - k),
    "sector of zeros": lambda d, r: overwritten(at(r, d), bytes(512), d),
    "sector of another place": lambda d, r: overwritten(at(r, d), d[:512], d),
    "halves exchanged": lambda d, r: d[len(d) // 2 :] + d[: len(d) // 2],
    "head twice": lambda d, r: d[: len(d) // 2] + d,
    "line ends of Unix": lambda d, r: d.replace(b"\r\n", b"\n"),
    "seven bits": lambda d, r: bytes(b & 0x7F for b in d[:-4]) + b"\r\n\n\r",
    "sent as UTF-8": lambda d, r: d[:-2].decode("latin-1").encode() + b"\x85\x85",
    "junk before it": lambda d, r: r.randbytes(r.randint(1, 5000)) + d,
    "junk behind it": lambda d, r: d + r.randbytes(r.randint(1, 5000)),
}  # fmt: skip
# In a member or frame of a file that has one for each record.
IN_MEMBERS: dict[str, Damage] = {
    "bit in the member": lambda d, r: flipped(at(r, d), r, d),
    "magic number": lambda d, r: b"\0\0" + d[2:],
    "method or descriptor": lambda d, r: flipped(r.choice([2, 3, 4]), r, d),
    "bit in the checksum": lambda d, r: flipped(len(d) - r.randint(1, 4), r, d),
    "length of a block": lambda d, r: flipped(min(len(d) - 1, r.randint(5, 18)), r, d),
    "member of zeros": lambda d, r: bytes(len(d)),
    "member of noise": lambda d, r: r.randbytes(len(d)),
    "member without its end": lambda d, r: d[: -r.randint(1, 8)],
    "half a member": lambda d, r: d[: len(d) // 2],
    "member without its start": lambda d, r: d[r.randint(1, 20) :],
    "bytes put into the member": lambda d, r: d[: (k := at(r, d))] + b"\x1f\x8b\x08\0" + d[k:],
    "sector of zeros in members": lambda d, r: overwritten(at(r, d), bytes(512), d),
    "halves of the member exchanged": lambda d, r: d[len(d) // 2 :] + d[: len(d) // 2],
    "head of the member twice": lambda d, r: d[: len(d) // 2] + d,
    "junk behind the member": lambda d, r: d + r.randbytes(50),
}


def bgzip(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[k : k + 65_280], 1, mtime=0)
                    for k in range(0, len(data), 65_280))  # fmt: skip


PER_RECORD: dict[str, Encode] = {
    "gzip per record": lambda data: gzip.compress(data, 1, mtime=0),
    "zstd per record": zstandard.ZstdCompressor(level=1, write_checksum=True).compress,
}
ONE_STREAM: dict[str, Encode] = {
    "plain": bytes,
    "one gzip member": lambda data: gzip.compress(data, 1, mtime=0),
    "one zstd frame": zstandard.ZstdCompressor(level=1, write_checksum=True).compress,
    "bgzip": bgzip,
}


def read(folder: Path, data: bytes, **limits: int) -> list[Record]:
    path = folder / "archive"
    path.write_bytes(data)
    before = time.process_time()
    records = list(read_records(str(path), **limits))
    spent = time.process_time() - before
    assert spent <= cpu_limit(len(data)), f"{spent} CPU seconds for {len(data)} bytes"
    return records


def by_id(records: list[Record]) -> dict[str, bytes]:
    whole = [record for record in records if record.damage is None]
    return {record.headers.get("warc-record-id") or "": record.content for record in whole}


def num_lost(records: list[bytes], hit: set[int], found: list[Record], seed: int) -> int:
    """How many records that were not hit are missing or not byte-equal."""
    read_as = by_id(found)
    wanted = {i: record for i, record in enumerate(records) if i not in hit}
    return sum(
        read_as.get(f"<urn:uuid:{seed}-{i}>") != record[header(record) : -4]
        for i, record in wanted.items()
    )


def lost_records(folder: Path, seed: int, mixed: bool) -> dict[str, tuple[int, int]]:
    """From 2,000 records, of which 20 are hit: encoding -> records not hit, how many were lost.

    Either 20 kinds of damage in an archive (`mixed`, each kind three times), or an archive a kind.
    """
    noise = random.Random(seed)
    records = generated(2000, seed)
    stored = {name: [*map(encode, records)] for name, encode in PER_RECORD.items()}
    counts: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for kinds in rounds([*IN_RECORDS], mixed) + rounds([*IN_MEMBERS], mixed):
        hit = dict(zip(noise.sample(range(1, 2000), 20), kinds, strict=True))
        archives: dict[str, bytes] = {}
        for name, encode in PER_RECORD.items():
            members = stored[name].copy()
            for i, kind in hit.items():
                if kind in IN_RECORDS:
                    members[i] = encode(IN_RECORDS[kind](records[i], noise))
                else:
                    members[i] = IN_MEMBERS[kind](members[i], noise)
            archives[name] = b"".join(members)
        if kinds[0] in IN_RECORDS:
            changed = records.copy()
            for i, kind in hit.items():
                changed[i] = IN_RECORDS[kind](records[i], noise)
            raw = b"".join(changed)
            archives |= {name: encode(raw) for name, encode in ONE_STREAM.items()}
        for name, data in archives.items():
            missing = num_lost(records, {*hit}, read(folder, data), seed)
            assert not missing or name in ONE_STREAM, f"seed {seed}, {kinds}, {name}: {missing}"
            counts[name] += len(records) - len(hit)
            lost[name] += missing
    return {name: (counts[name], lost[name]) for name in counts}


def rounds(kinds: list[str], mixed: bool) -> list[list[str]]:
    """Twenty kinds of damage for each archive."""
    if not mixed:
        return [[kind] * 20 for kind in kinds]
    turns = itertools.cycle(kinds)
    return [[*itertools.islice(turns, 20)] for _ in range(-(-3 * len(kinds) // 20))]


def check_lost(lost: dict[str, tuple[int, int]], figures: Figures) -> None:
    kinds = f"{len(IN_RECORDS)} kinds of damage in records, {len(IN_MEMBERS)} in members"
    for name, (number, num_missing) in lost.items():
        share = 100 * (1 - num_missing / number)
        figures(f"good records read, {name}", f"{share:.4f}% of {number:,} ({kinds})")
        assert share >= (100 if name in PER_RECORD else 99.9), name


def test_no_good_record_is_lost(tmp_path: Path, figures: Figures) -> None:
    assert len(IN_RECORDS) >= 33
    check_lost(lost_records(tmp_path, seed=1, mixed=True), figures)


@pytest.mark.soak
def test_no_good_record_is_lost_to_any_kind_of_damage(tmp_path: Path, figures: Figures) -> None:
    totals: dict[str, tuple[int, int]] = {}
    for seed in range(2, 5):
        for name, (number, missing) in lost_records(tmp_path, seed, mixed=False).items():
            before = totals.get(name, (0, 0))
            totals[name] = (before[0] + number, before[1] + missing)
    check_lost(totals, figures)


def cut_and_read(folder: Path, seed: int, each: int) -> Counter[str]:
    """Cut archives anywhere and check what is read; encoding -> cuts that tore a record."""
    noise = random.Random(seed)
    records = generated(25, seed)
    torn: Counter[str] = Counter()
    for name, encode in (PER_RECORD | ONE_STREAM).items():
        if name == "bgzip":
            continue  # its blocks are no borders of records
        parts = [*map(encode, records)] if name in PER_RECORD else [encode(b"".join(records))]
        data = b"".join(parts)
        borders = {0, *itertools.accumulate(map(len, parts))}
        if name == "plain":
            ends = itertools.accumulate(map(len, records))
            borders |= {end - k for end in ends for k in range(5)}
        for cut in noise.sample(range(20, len(data)), each):
            found = read(folder, data[:cut])
            place = f"seed {seed}, {name} cut at {cut}"
            assert found[-1].next_offset == cut, place
            kept = by_id(found)
            assert all(kept[f"<urn:uuid:{seed}-{i}>"] == records[i][header(records[i]) : -4]
                       for i in range(len(kept))), place  # fmt: skip
            if cut in borders:
                continue
            assert [r.damage for r in found if r.damage] == ["torn_record"], place
            assert found[-1].damage == "torn_record", place
            torn[name] += 1
    return torn


def test_a_file_cut_anywhere_is_said_to_be_torn(tmp_path: Path, figures: Figures) -> None:
    torn = cut_and_read(tmp_path, seed=1, each=200)
    assert len(torn) == 5
    assert torn.total() > 950  # of 1,000 cuts, few fall between two records
    figures("torn files named", f"{torn.total():,} of {torn.total():,} cuts, {len(torn)} encodings")


@pytest.mark.soak
def test_a_file_cut_at_thousands_of_places_is_said_to_be_torn(
    tmp_path: Path, figures: Figures
) -> None:
    torn = cut_and_read(tmp_path, seed=2, each=2000)
    assert len(torn) == 5
    assert torn.total() > 9500
    figures("torn files named", f"{torn.total():,} of {torn.total():,} cuts, {len(torn)} encodings")


def arc(records: list[bytes]) -> list[bytes]:
    """The same blocks as records of an ARC file."""
    lines = [b"filedesc://x.arc 0.0.0.0 20080430204825 text/plain 18\n1 0 InternetArchive\n\n"]
    for i, record in enumerate(records):
        block = record[header(record) : -4]
        line = b"http://site.example/%d 10.0.0.1 20080430204825 text/html %d\n" % (i, len(block))
        lines.append(line + block + b"\n")
    return lines


def mutated(data: bytes, noise: random.Random) -> bytes:
    """`data` with one to four of: bits, bytes, blocks, cuts, lengths, header lines."""
    for _ in range(noise.randint(1, 4)):
        if not data:
            break
        k, size = at(noise, data), noise.choice([1, 2, 4, 30, 500, 5000])
        change = noise.randrange(10)
        if change == 0:
            data = flipped(k, noise, data)
        elif change == 1:
            data = data[:k] + noise.randbytes(size) + data[k:]
        elif change == 2:
            data = data[:k] + data[k + size :]
        elif change == 3:
            data = overwritten(k, bytes(size), data)
        elif change == 4:
            other = at(noise, data)
            data = overwritten(k, data[other : other + size], data)
        elif change == 5:
            data = data[: max(1, k)]
        elif change == 6:
            data = data[:k] + data[at(noise, data) :]
        elif change == 7:
            tokens = [b"\r\n\r\n", b"WARC/1.0\r\n", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd",
                      b"\x04\x22\x4d\x18", b"Content-Length: 9\r\n", b"\n", b":", b" "]  # fmt: skip
            data = data[:k] + noise.choice(tokens) * noise.choice([1, 1, 1, 300]) + data[k:]
        else:
            numbers = [*re.finditer(rb"(?<=Length: )\d+|(?<= )\d+(?=\n)", data)]
            if numbers:
                found = noise.choice(numbers)
                new = noise.choice([b"0", b"%d" % noise.randrange(10**5), b"9" * 15, b"-1", b"x"])
                data = data[: found.start()] + new + data[found.end() :]
    return data


def check_tiles(data: bytes, records: list[Record], where: str) -> None:
    """Every byte is a record's or a stretch's: no gap but empty lines or members, no overlap."""
    end = 0
    for record in records:
        assert end <= record.offset < record.next_offset, where
        if record.length is not None:
            assert record.length == record.next_offset - record.offset, where
        gap = data[end : record.offset]
        assert is_blank(gap), f"{where}: {gap[:40]!r} at {end} belongs to no record"
        end = record.next_offset
    assert end <= len(data), where
    assert is_blank(data[end:]), f"{where}: the end belongs to no record"


def is_blank(gap: bytes) -> bool:
    """Line ends, or whole members that decompress to such."""
    while gap.startswith(b"\x1f\x8b"):
        inflate = zlib.decompressobj(31)
        if inflate.decompress(gap).strip(b"\r\n") or not inflate.eof:
            return False
        gap = inflate.unused_data
    if gap.startswith(b"\x28\xb5\x2f\xfd"):
        reader = zstandard.ZstdDecompressor().stream_reader(gap, read_across_frames=True)
        return not reader.read().strip(b"\r\n")
    return not gap.strip(b"\r\n")


def read_mutated(folder: Path, seed: int, number: int) -> Counter[str]:
    """Read so many broken archives; outcome -> how many."""
    noise = random.Random(seed)
    records = generated(12, seed)
    bases: list[bytes] = []
    for encode in PER_RECORD.values():
        bases.append(b"".join(map(encode, records)))
    bases += [encode(b"".join(records)) for encode in ONE_STREAM.values()]
    raw = b"".join(records)
    bases.append(
        b"".join(gzip.compress(raw[k : k + 900], mtime=0) for k in range(0, len(raw), 900))
    )
    bases += [b"".join(arc(records)), b"".join(map(PER_RECORD["gzip per record"], arc(records)))]
    bases.append(lz4(records))
    outcomes: Counter[str] = Counter()
    for i in range(number):
        data = mutated(noise.choice(bases), noise)
        limits = {"max_record_bytes": noise.choice([64 << 20, 2000])}
        try:
            found = read(folder, data, **limits)
        except UserError:
            outcomes["refused"] += 1
            continue
        check_tiles(data, found, f"seed {seed}, archive {i}")
        outcomes["read"] += 1
        outcomes["records"] += sum(record.damage is None for record in found)
        outcomes["damaged stretches"] += sum(record.damage is not None for record in found)
    return outcomes


def lz4(records: list[bytes]) -> bytes:
    """A frame for each record; its blocks are not compressed."""
    flags = b"\x60\x40"
    head = b"\x04\x22\x4d\x18" + flags + bytes([xxhash.xxh32_intdigest(flags) >> 8 & 0xFF])
    return b"".join(
        head + (len(record) | 1 << 31).to_bytes(4, "little") + record + bytes(4)
        for record in records
    )


def tell_mutated(outcomes: Counter[str], figures: Figures) -> None:
    told = ", ".join(f"{number:,} {name}" for name, number in sorted(outcomes.items()))
    figures("broken archives: no crash, hang or byte unaccounted for", told)


def test_a_mutated_archive_is_read_or_refused(tmp_path: Path, figures: Figures) -> None:
    outcomes = read_mutated(tmp_path, seed=1, number=600)
    assert outcomes["read"] + outcomes["refused"] == 600
    tell_mutated(outcomes, figures)


@pytest.mark.soak
def test_fifty_thousand_mutated_archives_are_read_or_refused(
    tmp_path: Path, figures: Figures
) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(2, 102):
        outcomes += read_mutated(tmp_path, seed, number=500)
    assert outcomes["read"] + outcomes["refused"] == 50_000
    tell_mutated(outcomes, figures)
