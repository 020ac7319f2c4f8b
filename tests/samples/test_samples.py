"""The sample crawl is what it says it is. Only the standard library reads it here."""

import base64
import gzip
import hashlib
import itertools
import json
import re
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
MAGIC = b"\x1f\x8b\x08"
DAMAGED = ("damaged", "torn")
# Registries under which names are handed out one level lower.
SECOND_LEVELS = {"co.uk", "org.uk", "co.nz", "edu.au", "org.au", "com.ar"}
Row = dict[str, Any]


def read_truth(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "truth.jsonl").read_text("utf-8").splitlines()]


def warc_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("SAMPLE-*.warc.gz"))


def members(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Each gzip member's offset and content, None where it is damaged or torn."""
    data, offset = path.read_bytes(), 0
    while offset < len(data):
        stream = zlib.decompressobj(wbits=31)
        try:
            content = stream.decompress(data[offset:])
        except zlib.error:
            yield offset, None
            offset = data.index(MAGIC, offset + 1)
            continue
        yield offset, content if stream.eof else None
        offset = len(data) - len(stream.unused_data)


def split_record(content: bytes) -> tuple[dict[str, str], bytes]:
    head, _, block = content.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "WARC/1.0"
    return dict(line.split(": ", 1) for line in lines[1:]), block.removesuffix(b"\r\n\r\n")


def split_http(block: bytes) -> tuple[dict[str, str], bytes]:
    """The headers, names in lower case, and the entity body with chunks put together."""
    head, _, body = block.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")[1:]
    headers = {n.lower(): v for n, v in (line.split(": ", 1) for line in lines)}
    return headers, joined(body) if headers.get("transfer-encoding") == "chunked" else body


def joined(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        out, body = out + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return out


def decoded(headers: dict[str, str], body: bytes) -> bytes:
    undo = {"gzip": gzip.decompress, "deflate": zlib.decompress}
    coding = headers.get("content-encoding")
    return undo[coding](body) if coding else body


def comparable(content: bytes | None) -> object:
    """A record without what depends on the interpreter's zlib: compressed bodies, their sizes."""
    if content is None:
        return None
    headers, block = split_record(content)
    if not headers["Content-Type"].startswith("application/http; msgtype=response"):
        return headers, block
    http, body = split_http(block)
    status = block.partition(b"\r\n")[0]
    if "content-encoding" in http:
        body = decoded(http, body) if body else b""
        for name in ("Content-Length", "WARC-Block-Digest", "WARC-Payload-Digest"):
            del headers[name]
    if http.pop("x-crawl-content-length", None):
        del headers["WARC-Block-Digest"], headers["Content-Length"]
    return headers, status, http, body


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b)


def registered_domain(url: str) -> str:
    labels = (urlsplit(url).hostname or "").split(".")
    return ".".join(labels[-3:] if ".".join(labels[-2:]) in SECOND_LEVELS else labels[-2:])


def generate(out: Path) -> Path:
    command = [sys.executable, str(SAMPLES / "generate.py"), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def truth() -> list[Row]:
    return read_truth(SAMPLES)


@pytest.fixture(scope="module")
def crawl() -> dict[tuple[str, int], bytes | None]:
    return {(p.name, at): content for p in warc_paths(SAMPLES) for at, content in members(p)}


@pytest.fixture(scope="module")
def responses(
    truth: list[Row], crawl: dict[tuple[str, int], bytes | None]
) -> list[tuple[Row, dict[str, str], bytes]]:
    """Every intact answer: its truth, its WARC headers, its block."""
    contents = [(row, crawl[row["warc"], row["offset"]]) for row in truth]
    return [(row, *split_record(content)) for row, content in contents if content]


def kept(truth: list[Row]) -> list[Row]:
    return [row for row in truth if row["expect"] == "keep"]


def test_the_committed_crawl_is_what_the_generator_writes(generated: Path) -> None:
    assert [p.name for p in warc_paths(generated)] == [p.name for p in warc_paths(SAMPLES)]
    for ours, theirs in zip(warc_paths(SAMPLES), warc_paths(generated), strict=True):
        written, generates = ([comparable(c) for _, c in members(p)] for p in (ours, theirs))
        assert written == generates
    rows = [[{**row, "offset": 0} for row in read_truth(f)] for f in (SAMPLES, generated)]
    assert rows[0] == rows[1]


def test_two_runs_write_the_same_bytes(generated: Path, tmp_path: Path) -> None:
    again = generate(tmp_path)
    for path in generated.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_the_crawl_is_small() -> None:
    assert len(warc_paths(SAMPLES)) == 4
    assert sum(p.stat().st_size for p in warc_paths(SAMPLES)) < 3_000_000


def test_every_offset_points_to_the_record_named(
    responses: list[tuple[Row, dict[str, str], bytes]], truth: list[Row]
) -> None:
    assert len(responses) == len(truth) - len(DAMAGED)
    for row, headers, _ in responses:
        assert headers["WARC-Record-ID"] == row["record_id"]
        assert headers["WARC-Target-URI"] == row["url"]
        assert headers["WARC-Type"] == ("revisit" if row["why"] == "revisit" else "response")
    assert len({row["record_id"] for row in truth}) == len(truth)


def test_every_response_has_a_line_in_the_truth(
    crawl: dict[tuple[str, int], bytes | None], truth: list[Row]
) -> None:
    answers = {
        place
        for place, content in crawl.items()
        if content is None or split_record(content)[0]["WARC-Type"] in ("response", "revisit")
    }
    assert answers == {(row["warc"], row["offset"]) for row in truth}


def test_lengths_and_payload_digests_are_right(
    responses: list[tuple[Row, dict[str, str], bytes]],
) -> None:
    for row, headers, block in responses:
        if row["why"] == "broken_length":
            assert int(headers["Content-Length"]) > len(block)
        elif row["why"] != "revisit":
            assert int(headers["Content-Length"]) == len(block)
            sha1 = hashlib.sha1(split_http(block)[1], usedforsecurity=False).digest()
            assert headers["WARC-Payload-Digest"] == f"sha1:{base64.b32encode(sha1).decode()}"


def test_only_the_last_file_is_damaged(
    crawl: dict[tuple[str, int], bytes | None], truth: list[Row]
) -> None:
    broken = {place for place, content in crawl.items() if content is None}
    named = {(r["warc"], r["offset"]): r["why"] for r in truth if r["why"] in DAMAGED}
    last = warc_paths(SAMPLES)[-1].name
    assert broken == set(named)
    assert {name for name, _ in broken} == {last}
    assert named[max(broken)] == "torn"
    assert max(broken) == max(place for place in crawl if place[0] == last)


def test_each_language_has_enough_pages(truth: list[Row]) -> None:
    kinds = Counter((row["language"], row["expect"]) for row in truth)
    assert kinds["en", "keep"] >= 130
    assert all(kinds[code, "keep"] >= 12 for code in ("de", "fr", "es", "it"))
    unwanted = Counter(row["language"] for row in truth if row["why"] == "language")
    assert all(unwanted[code] >= 4 for code in ("pl", "ja", "ru", "nl", "el"))
    assert len(truth) >= 260


@pytest.mark.parametrize(
    ("trait", "at_least"),
    [
        ("pii", 8), ("noai", 2), ("tdm_reservation", 1), ("x_robots_tag", 1), ("robots_meta", 1),
        ("chunked", 5), ("gzip", 5), ("deflate", 1), ("cookie_banner", 100), ("template", 3),
        ("spam", 4), ("thin", 5), ("link_list", 3), ("code", 1), ("lorem_ipsum", 1), ("login", 1),
        ("bullets", 1), ("empty", 2), ("javascript_wall", 1), ("shouting", 1), ("ellipsis", 1),
        ("windows-1252", 4), ("iso-8859-1", 2), ("windows-1251", 2), ("koi8-r", 2),
        ("shift_jis", 1), ("euc-jp", 1), ("iso-8859-2", 1), ("windows-1253", 1), ("utf-16", 1),
        ("bad_byte", 2), ("wrong_charset", 1), ("no_charset", 3), ("header_charset", 4),
        ("meta_charset", 4), ("redirect", 2), ("not_found", 2), ("server_error", 1), ("png", 1),
        ("pdf", 1), ("json", 1), ("plain_text", 1), ("css", 1), ("wrong_content_type", 1),
        ("no_content_type", 1), ("revisit", 1), ("damaged", 1), ("broken_length", 1), ("torn", 1),
    ],
)  # fmt: skip
def test_the_crawl_has_what_a_real_one_has(truth: list[Row], trait: str, at_least: int) -> None:
    assert sum(trait in row["traits"] for row in truth) >= at_least


def test_gzip_and_chunks_occur_together(truth: list[Row]) -> None:
    assert any({"gzip", "chunked"} <= set(row["traits"]) for row in truth)


def test_no_two_sites_share_a_registered_domain(truth: list[Row]) -> None:
    hosts = {urlsplit(row["url"]).hostname for row in truth}
    assert len(hosts) >= 40
    assert len({registered_domain(row["url"]) for row in truth}) == len(hosts)


def test_kept_texts_are_prose(truth: list[Row]) -> None:
    banned = re.compile(r"[{}<>]|lorem ipsum|javascript|cookie|terms of use|privacy policy", re.I)
    for row in kept(truth):
        headline, *paragraphs = row["text"].split("\n")
        assert (150 if row["language"] == "en" else 100) <= len(row["text"].split()) <= 600
        assert not banned.search(row["text"]), headline
        assert all(p[-1] in ".?!" for p in paragraphs), headline
        assert len(re.findall(r"[.?!](?: |$)", " ".join(paragraphs))) >= 5, headline


def test_kept_pages_are_no_near_copies_of_each_other(truth: list[Row]) -> None:
    texts = [(row["url"], shingles(row["text"])) for row in kept(truth)]
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        assert jaccard(a, b) < 0.3, (one, other)


def test_copies_are_as_near_as_they_claim(truth: list[Row]) -> None:
    rows = {row["record_id"]: row for row in truth}
    copies = [row for row in truth if row["duplicate_of"]]
    for row in copies:
        original = rows[row["duplicate_of"]]
        near = jaccard(shingles(row["text"]), shingles(original["text"]))
        assert original["expect"] == "keep"
        assert (row["expect"], row["language"]) == ("duplicate", original["language"])
        assert (row["text"] == original["text"]) == (row["duplicate_kind"] == "exact")
        assert near >= 0.85, row["url"]
    kinds = Counter(row["duplicate_kind"] for row in copies)
    assert kinds["near"] >= 16
    assert kinds["exact"] >= 10


def test_clusters_have_two_three_and_six_pages(truth: list[Row]) -> None:
    sizes = Counter(row["duplicate_of"] for row in truth if row["duplicate_kind"] == "near")
    assert {size + 1 for size in sizes.values()} == {2, 3, 6}


def test_some_addresses_were_captured_twice(truth: list[Row]) -> None:
    urls = Counter(row["url"] for row in truth if row["expect"] != "reject")
    assert sum(count == 2 for count in urls.values()) >= 2


def test_every_kept_page_holds_its_text(
    responses: list[tuple[Row, dict[str, str], bytes]],
) -> None:
    for row, _, block in responses:
        if row["expect"] == "reject" or "bad_byte" in row["traits"]:
            continue
        page = decoded(*split_http(block)).decode(row["charset"])
        shown = unescape(re.sub(r"<[^>]+>", "", page))
        assert all(paragraph in shown for paragraph in row["text"].split("\n")), row["url"]


def test_a_bad_byte_is_one_byte(responses: list[tuple[Row, dict[str, str], bytes]]) -> None:
    bad = [block for row, _, block in responses if "bad_byte" in row["traits"]]
    for block in bad:
        page = decoded(*split_http(block)).decode("utf-8", "replace")
        assert page.count("\N{REPLACEMENT CHARACTER}") == 1


def test_personal_data_is_in_the_truth(truth: list[Row]) -> None:
    texts = [row["text"] for row in truth if "pii" in row["traits"]]
    assert sum(bool(re.search(r"\w@\w+[\w.-]*\.\w+", text)) for text in texts) >= 8
    assert sum(bool(re.search(r"\b\d+(\.\d+){3}\b", text)) for text in texts) >= 2


def test_the_readme_explains_every_field(truth: list[Row]) -> None:
    readme = (SAMPLES / "README.md").read_text("utf-8")
    assert all(f"`{name}`" in readme for row in truth for name in row)
    assert all(f"`{row['why']}`" in readme for row in truth)
