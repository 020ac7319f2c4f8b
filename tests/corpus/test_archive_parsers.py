"""No bytes crash a parser of archives and bodies, and none takes more than its size allows."""

from __future__ import annotations

import gzip
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus.text import charset
from corpus.warc import http
from corpus.warc.codecs import DamageError, Gzip, Lz4, Source, Zstd, head_of, possible_members
from corpus.warc.http import decode_body, parse_response
from corpus.warc.records import Arc, Warc, first_record_at, parse_headers, read_records
from corpus.warc.stream import Framing
from schemas.errors import UserError
from tests.cpu_speed import at_reference_speed

MIB = 1 << 20
ENCODINGS = ["gzip", "deflate", "br", "zstd", "gzip, br, deflate, zstd", "x-gzip, gzip"]


def framing(known: Framing) -> Callable[[bytes], object]:
    """All that a framing is asked."""

    def ask(data: bytes) -> object:
        starts = [*known.starts(data, 0, len(data))]
        assert starts == sorted(starts)
        end = known.header_end(data)
        assert end is None or 0 < end <= len(data)
        asked = (known.is_start, known.opens, known.ends, known.ends_well, known.parse)
        return [ask(data) for ask in asked]

    return ask


def response(data: bytes) -> object:
    for encoding in ENCODINGS:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: %b\r\n\r\n"
        found = parse_response(head % encoding.encode() + data)
        assert found
        assert len(decode_body(found, 10 * MIB).content) <= 10 * MIB + 1
    found = parse_response(data)
    return found and decode_body(found, 10 * MIB)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "WARC framing": framing(Warc()),
    "ARC framing": framing(Arc()),
    "header lines": parse_headers,
    "HTTP response and body": response,
    "charset": charset.decode,
    "charset of meta tags": charset.meta_charset,
    "charset label": lambda data: charset.encoding_of(data[:99].decode("latin-1")),
    "MIME type": lambda data: http.mime_type(None, data[:999].decode("latin-1"), data),
}
TOKENS = [
    *(b"WARC/1.0\r\n", b"warc/1.1 \n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b":", b"a", b"\0"),
    *(b"Content-Length: 5\r\n", b"http:", b"http://a/ 1.1.1.1 20080430204825 text/html 5\n"),
    *(b" 200804302048", b" 5", b"-", b"HTTP/1.1 200 OK\r\n", b"1\r\nx\r\n", b"0", b"f;", b"\xff"),
    *(b"<meta ", b"charset=", b"'", b'"', b"<!--", b"-->", b">", b"<?xml", b"<html", b"="),
    *(b"\xe4\xb8\xad", b"\xc3\xa9", b"\xb0\xa1", b"\xd6\xd0", b"\x81\x40", b"\xef\xbb\xbf"),
    *(b"\x1b$", b"e\xa1"),
    *(b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x50\x2a\x4d\x18\0\0\0\0"),
    *(gzip.compress(b"x"), zstandard.compress(b"x"), brotli.compress(b"x"), b"\x03\0", b"\1\0\0"),
]  # fmt: skip
BYTES = st.one_of(
    st.binary(max_size=2000),
    st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=9)), max_size=60).map(b"".join),
    st.tuples(st.sampled_from(TOKENS), st.integers(1, 3000), st.binary(max_size=40)).map(
        lambda drawn: drawn[0] * drawn[1] + drawn[2]
    ),
)


def bounded(name: str, parse: Callable[[bytes], object], data: bytes, where: str = "") -> float:
    """The share of what is allowed: two CPU seconds for each MiB, of which every input has 1/4.

    Raises what `parse` raises, and `AssertionError` with the name where more is spent.
    """
    before = time.process_time()
    parse(data)
    spent = at_reference_speed(time.process_time() - before)
    allowed = 2 * max(len(data), MIB // 4) / MIB
    assert spent <= allowed, f"{name}: {spent} CPU seconds for {len(data)} bytes {where}"
    return spent / allowed


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=150)
@given(data=BYTES)
def test_no_bytes_crash_a_parser(name: str, data: bytes) -> None:
    assert bounded(name, PARSERS[name], data) <= 1


@pytest.mark.soak
@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=2000)
@given(data=BYTES)
def test_many_bytes_crash_no_parser(name: str, data: bytes) -> None:
    assert bounded(name, PARSERS[name], data) <= 1


def repeated(size: int, seed: int, number: int) -> list[tuple[str, bytes]]:
    """Tokens and pairs of them repeated up to `size` bytes, `number` of each of three kinds."""
    noise = random.Random(seed)
    texts = [token * (size // len(token)) for token in TOKENS]
    pairs = noise.sample([*itertools.permutations(TOKENS, 2)], number)
    texts += [(a + b) * (size // len(a + b)) for a, b in pairs]
    texts += [a * (size // 2 // len(a)) + b * (size // 2 // len(b)) for a, b in pairs]
    triples = [noise.choices(TOKENS, k=3) for _ in range(number)]
    texts += [a + b * (size // len(b)) + c for a, b, c in triples]
    return [(f"(seed {seed}, text {i})", text) for i, text in enumerate(texts)]


def repeat(size: int, seed: int, number: int, figures: Callable[[str, str], None]) -> float:
    """The largest share that any parser takes of repeated tokens."""
    texts = repeated(size, seed, number)
    worst = max(
        (bounded(name, parse, text, where), name)
        for name, parse in PARSERS.items()
        for where, text in texts
    )
    told = f"{len(texts) * len(PARSERS):,} inputs of {size >> 10} KiB, {len(PARSERS)} parsers"
    figures(
        "CPU seconds of a parser", f"{told}: at most {worst[0]:.0%} of 2 s per MiB ({worst[1]})"
    )
    return worst[0]


def test_repeated_tokens_cost_a_parser_what_their_size_allows(
    figures: Callable[[str, str], None],
) -> None:
    assert repeat(16 << 10, 1, 40, figures) <= 1


@pytest.mark.soak
def test_many_repeated_tokens_cost_a_parser_what_their_size_allows(
    figures: Callable[[str, str], None],
) -> None:
    assert repeat(256 << 10, 2, 60, figures) <= 1


COMPRESSED = st.tuples(
    st.sampled_from([b"", *TOKENS[-9:], gzip.compress(b"WARC/1.0"), zstandard.compress(b"WARC/1")]),
    st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=20)), max_size=40).map(b"".join),
).map(b"".join)


def walk(path: Path, data: bytes) -> None:
    """Every codec at every magic number, and the reader on the whole."""
    path.write_bytes(data)
    for codec in (Gzip, Zstd, Lz4):
        with Source(str(path)) as source:
            for offset in {0, *possible_members(source, codec, 0)}:
                head_of(source, codec, offset)
                member = codec(source, offset)
                try:
                    while member.read(1 << 16):
                        pass
                    assert offset < member.end <= len(data)
                except DamageError:
                    assert offset <= member.end <= len(data)
    try:
        records = [*read_records(str(path))]
        assert not records or records[-1].next_offset <= len(data)
        assert 0 <= first_record_at(str(path), len(data) // 2) <= len(data)
    except UserError:
        pass


frames = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(frames, max_examples=300)
@given(data=COMPRESSED)
def test_no_bytes_crash_a_walk_over_frames(tmp_path: Path, data: bytes) -> None:
    assert bounded("frames", lambda data: walk(tmp_path / "archive", data), data) <= 1


@pytest.mark.soak
@settings(frames, max_examples=4000)
@given(data=COMPRESSED)
def test_many_bytes_crash_no_walk_over_frames(tmp_path: Path, data: bytes) -> None:
    assert bounded("frames", lambda data: walk(tmp_path / "archive", data), data) <= 1
