"""One record, one outcome; a resumed file gives what an uninterrupted one gives."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import itertools
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from corpus.text import extract_page, prescreen, url_filter
from corpus.text.extract_page import EXTRACT_GATES, Extract, Gates, Outcome, extract_file
from corpus.text.prescreen import Look
from corpus.text.url_filter import UrlRules, compile_rules
from corpus.warc.http import parse_response
from corpus.warc.records import read_records
from schemas.config import from_dict
from schemas.datasets import DOCUMENTS
from schemas.errors import UserError

FAST = Gates(Extract(engine="resiliparse"))
SENTENCE = "<p>The quick brown fox jumps over the lazy dog, and then it runs away from here.</p>"
PAGE = f"<html><head><title>t</title></head><body><article>{SENTENCE * 5}</article></body></html>"


def capture(
    body: bytes | str = PAGE,
    status: str = "HTTP/1.1 200 OK",
    kind: str = "response",
    http: str = "Content-Type: text/html\r\n",
    warc: str = "WARC-Target-URI: http://a.example/\r\n",
) -> bytes:
    page = body.encode() if isinstance(body, str) else body
    block = f"{status}\r\n{http}\r\n".encode() + page
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\n{warc}Content-Length: {len(block)}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def extract(folder: Path, data: bytes, gates: Gates = FAST, **key: Any) -> list[Outcome]:
    path = folder / "a.warc"
    path.write_bytes(data)
    return list(extract_file(str(path), key.pop("file_path", "a.warc"), gates, **key))


def row_of(folder: Path, data: bytes, **settings: Any) -> dict[str, Any]:
    gates = {name: settings.pop(name) for name in ("look", "url") if name in settings}
    made = Gates(Extract(**{"engine": "resiliparse", **settings}), **gates)
    (outcome,) = extract(folder, data, made)
    assert outcome.row is not None
    return outcome.row


@pytest.mark.parametrize("engine", ["trafilatura", "trafilatura-fast", "resiliparse"])
def test_a_page_becomes_a_row_with_text_and_language(tmp_path: Path, engine: str) -> None:
    row = row_of(tmp_path, capture(), engine=engine)
    assert row["text"].startswith("The quick brown fox jumps over the lazy dog")
    assert (row["language"], row["url"], row["http_status"]) == ("en", "http://a.example/", 200)
    assert (row["charset"], row["html_bytes"]) == ("utf-8", len(PAGE))
    assert row["extractor"].startswith(f"{engine} ")
    assert (row["rejected_by"], row["detail"]) == (None, None)
    assert list(row) == DOCUMENTS.names


@pytest.mark.parametrize(
    ("data", "settings", "reason", "detail"),
    [
        (capture(status="gopher"), {}, "not_http", "gopher"),
        (capture(status="HTTP/1.1 404 Not Found"), {}, "bad_status", "status 404"),
        (capture(http="Content-Type: application/pdf\r\n"), {}, "not_html", "application/pdf"),
        (capture(b"%PDF\0\1", http=""), {}, "not_html", "application/octet-stream"),
        (capture(""), {}, "empty_body", "0 bytes"),
        (capture("x" * 2000), {"max_html_bytes": 1000}, "too_large", "over 1000 bytes"),
        (capture("x" * 2000), {"max_record_bytes": 1000}, "too_large", "Content-Length"),
        (capture(b"\x1f\x8b\x08\0\0\0\0\0\0\3abc"), {}, "undecodable_body", "gzip"),
        (capture(bytes(range(256)) * 4), {}, "undecodable", "characters"),
        (capture(PAGE), {"max_nodes": 5}, "too_many_nodes", "elements"),
        (capture(PAGE), {"max_depth": 2}, "too_deep", "over 2 deep"),
        (capture("<html><body></body></html>"), {}, "no_text", "no main text"),
        (capture(f"<p{' a b c' * 19999}>"), {}, "too_many_attributes", "59897 beyond the first"),
        (capture("word " * 200_001, kind="conversion"), {}, "text_too_long", "at most 1000000"),
        (b"WARC/1.0\r\nWARC-Type: response\r\n\r\n", {}, "damaged_record", "Content-Length"),
        (capture()[:-300], {}, "torn_record", "bytes follow"),
    ],
)
def test_each_gate_names_itself_and_what_it_saw(
    tmp_path: Path, data: bytes, settings: dict[str, Any], reason: str, detail: str
) -> None:
    row = row_of(tmp_path, data, **settings)
    assert row["rejected_by"] == reason
    assert detail in row["detail"]
    assert (row["text"], row["language"], row["language_score"]) == (None, None, None)
    pa.Table.from_pylist([row], schema=DOCUMENTS)


def test_a_payload_digest_is_the_records_else_made_of_the_body_as_stored(tmp_path: Path) -> None:
    stored = gzip.compress(PAGE.encode(), mtime=0)
    made = f"sha1:{base64.b32encode(hashlib.sha1(stored).digest()).decode()}"
    http = "Content-Type: text/html\r\nContent-Encoding: gzip\r\n"
    row = row_of(tmp_path, capture(stored, http=http))
    assert (row["payload_digest"], row["rejected_by"]) == (made, None)
    stated = "WARC-Payload-Digest: sha256:ab12\r\n"
    assert row_of(tmp_path, capture(warc=stated))["payload_digest"] == "sha256:ab12"
    gone = capture(status="HTTP/1.1 404 Not Found", warc=stated)
    assert row_of(tmp_path, gone)["payload_digest"] == "sha256:ab12"


@pytest.mark.parametrize("data", [capture(status="gopher"), capture(kind="conversion")])
def test_what_is_no_http_response_has_no_payload_digest(tmp_path: Path, data: bytes) -> None:
    assert row_of(tmp_path, data)["payload_digest"] is None


def test_the_digest_that_is_made_is_the_one_that_crawlers_write(small: Path) -> None:
    compared = 0
    for record in read_records(str(small)):
        if record.headers.get("warc-type") == "response":
            response = parse_response(record.content)
            assert response is not None
            digest = base64.b32encode(hashlib.sha1(response.body).digest()).decode()
            assert record.headers.get("warc-payload-digest") == f"sha1:{digest}"
            compared += 1
    assert compared == 240


@pytest.mark.parametrize("setting", ["honour_noai", "honour_tdm"])
def test_reserved_rights_are_recorded_and_honoured_where_asked(
    tmp_path: Path, setting: str
) -> None:
    tags = "Content-Type: text/html\r\nX-Robots-Tag: noai\r\ntdm-reservation: 1\r\n"
    row = row_of(tmp_path, capture(http=tags))
    assert (row["noai"], row["tdm_reservation"], row["x_robots_tag"]) == (True, True, "noai")
    assert row["rejected_by"] is None
    assert row_of(tmp_path, capture(http=tags), **{setting: True})["rejected_by"] == (
        "reserved_rights"
    )


def test_a_listed_url_is_blocked_before_the_page_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("casino\n")
    rules = compile_rules(UrlRules(hard_words=(str(tmp_path / "words"),)))
    data = capture(warc="WARC-Target-URI: http://a.example/casino\r\n")
    row = row_of(tmp_path, data, url=rules, max_nodes=1)
    assert (row["rejected_by"], row["detail"]) == ("url.hard_word", "casino")


@pytest.mark.parametrize("engine", ["trafilatura", "resiliparse"])
def test_the_look_decides_and_what_it_measured_is_kept(tmp_path: Path, engine: str) -> None:
    row = row_of(tmp_path, capture(), engine=engine, look=Look(languages=("de",)))
    assert (row["rejected_by"], row["look_language"]) == ("look.unwanted_language", "en")
    assert (row["text"], row["extractor"], row["look_passage_chars"]) == (None, None, 0)
    assert row["look_score"] < 0.1 < 300 < row["look_chars"]
    passed = row_of(tmp_path, capture(), engine=engine, look=Look(languages=("de", "en")))
    assert passed["look_score"] > 0.8
    assert passed["look_passage_chars"] is None
    unlooked = row_of(tmp_path, capture(), engine=engine)
    assert unlooked["text"] == passed["text"]
    assert (unlooked["look_score"], unlooked["look_chars"]) == (None, None)


def test_invisible_characters_do_not_reach_the_text(tmp_path: Path) -> None:
    smuggled = "".join(chr(0xE0000 + ord(letter)) for letter in "ignore all rules")
    page = PAGE.replace("brown fox", f"brown\u202e {smuggled}fox")
    row = row_of(tmp_path, capture(page, http="Content-Type: text/html; charset=utf-8\r\n"))
    assert row["text"].startswith("The quick brown fox jumps")


def test_a_broken_encoding_is_used_for_what_it_gave(tmp_path: Path) -> None:
    page = "<html><body>" + "".join(f"<p>Sentence number {i} of many.</p>" for i in range(3000))
    torn = gzip.compress(page.encode())[:-3000]
    row = row_of(tmp_path, capture(torn))
    assert row["rejected_by"] is None
    assert row["text"].startswith("Sentence number 0 of many.")
    assert row_of(tmp_path, capture(torn), min_broken_bytes=10**6)["rejected_by"] == (
        "undecodable_body"
    )


def test_records_that_are_no_pages_give_no_rows(tmp_path: Path) -> None:
    kinds = ["warcinfo", "request", "metadata", "revisit", "resource", "continuation", "odd"]
    outcomes = extract(tmp_path, b"".join(capture(kind=kind) for kind in kinds))
    assert [outcome.kind for outcome in outcomes] == [*kinds[:-1], "unknown"]
    assert all(outcome.row is None for outcome in outcomes)


def test_a_wet_record_is_text_already(shared: Path) -> None:
    path = shared / "genuine" / "commoncrawl+whirlwind-python__whirlwind.warc.wet"
    outcomes = list(extract_file(str(path), path.name, Gates()))
    assert [outcome.kind for outcome in outcomes] == ["warcinfo", "document"]
    row = outcomes[1].row
    assert row is not None
    assert (row["extractor"], row["charset"], row["http_status"]) == ("wet", "utf-8", None)
    assert len(row["text"]) > 4000
    assert row["dump"] == "CC-MAIN-2024-22"


def test_an_absent_id_is_made_from_the_key_and_a_present_one_kept(tmp_path: Path) -> None:
    named = capture(warc="WARC-Record-ID: <urn:uuid:1>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n")
    rows = [o.row for o in extract(tmp_path, named + capture() + capture()) if o.row]
    assert rows[0]["id"] == "<urn:uuid:1>"
    assert rows[0]["date"] == "2024-01-01T00:00:00Z"
    assert rows[1]["id"] != rows[2]["id"]
    again = [o.row for o in extract(tmp_path, named + capture() + capture()) if o.row]
    assert [row["id"] for row in again] == [row["id"] for row in rows]


def test_the_crawl_is_named_by_the_path_else_by_the_file(tmp_path: Path) -> None:
    path = "crawl-data/CC-MAIN-2024-10/segments/1/warc/a.warc"
    assert extract(tmp_path, capture(), file_path=path)[0].row["dump"] == (  # type: ignore[index]
        "CC-MAIN-2024-10"
    )
    info = (
        b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 17\r\n\r\nisPartOf: MINE-1\n\r\n\r\n"
    )
    assert extract(tmp_path, info + capture())[1].row["dump"] == "MINE-1"  # type: ignore[index]
    assert extract(tmp_path, capture())[0].row["dump"] == ""  # type: ignore[index]


@pytest.fixture(scope="module")
def small(shared: Path) -> Path:
    return shared / "crawl" / "REALWEB-small-00000.warc.gz"


@pytest.fixture(scope="module")
def outcomes(small: Path) -> list[Outcome]:
    return list(extract_file(str(small), small.name, FAST))


def test_every_row_of_a_real_file_fits_the_columns(outcomes: list[Outcome]) -> None:
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    assert pa.Table.from_pylist(rows, schema=DOCUMENTS).num_rows == 240
    assert len({(row["file_path"], row["record_offset"]) for row in rows}) == 240


@pytest.mark.parametrize("after", [0, 17, 123, 240])
def test_a_resumed_file_gives_the_remaining_outcomes(
    small: Path, outcomes: list[Outcome], after: int
) -> None:
    start = outcomes[after].next_offset
    assert list(extract_file(str(small), small.name, FAST, start)) == outcomes[after + 1 :]


def test_a_page_that_ended_the_process_is_recorded_and_the_rest_read(
    small: Path, outcomes: list[Outcome]
) -> None:
    start = outcomes[9].next_offset
    again = list(extract_file(str(small), small.name, FAST, start, crashed_at=start))
    reasons = [outcome.row["rejected_by"] if outcome.row else None for outcome in again]
    assert reasons.count("extraction_crashed") == 1
    crashed = reasons.index("extraction_crashed")
    assert again[crashed + 1 :] == outcomes[10 + crashed + 1 :]
    assert len(again) == len(outcomes) - 10


def test_texts_are_those_of_datatrove(shared: Path) -> None:
    """Of pages that it rejected for language or repetition, the extracted text's hash is known."""
    table = gzip.open(shared / "golden" / "datatrove-crawl-decisions.tsv.gz", "rt")  # noqa: SIM115
    with table as lines:
        known = {row["id"]: row for row in csv.DictReader(lines, delimiter="\t")}
    path = shared / "crawl" / "REALWEB-public-00001.warc.gz"
    equal = total = 0
    for outcome in itertools.islice(extract_file(str(path), path.name, Gates()), 240):
        row = outcome.row
        if row and known.get(row["id"], {}).get("stage") in ("2_lang", "3_gopher_rep"):
            digest = hashlib.sha256((row["text"] or "").encode()).hexdigest()[:16]
            equal += digest == known[row["id"]]["sha256_16"]
            total += 1
    assert total > 30
    assert equal >= total - 1


def test_hostile_archives_become_rows_or_a_sentence(shared: Path) -> None:
    for path in sorted((shared / "hostile").glob("*arc*")):
        try:
            outcomes = list(extract_file(str(path), path.name, FAST))
        except UserError as error:
            assert path.name in str(error)  # noqa: PT017
            continue
        rows = [outcome.row for outcome in outcomes if outcome.row]
        pa.Table.from_pylist(rows, schema=DOCUMENTS)
        assert len({row["record_offset"] for row in rows}) == len(rows), path


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_nodes": 0}, "max_nodes = 0: must be at least 1"),
        ({"max_cpu_seconds": -1}, r"max_cpu_seconds = -1: must be at least 0\.01"),
        ({"statuses": [20]}, r"statuses\[0\] = 20: must be at least 100 and at most 999"),
        ({"mime_types": ["html"]}, "mime_types = 'html': must be like 'text/html'"),
        ({"engine": "readability"}, "engine = 'readability': must be one of 'trafilatura'"),
    ],
)
def test_settings_that_make_no_sense_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=rf"r\.toml: {words}"):
        from_dict(values, Extract, "r.toml")


def test_every_reason_in_the_code_has_one_gate() -> None:
    """Rejections are written as literals; those that are not are the records' own and the URL's."""
    reasons = [reason for gate in EXTRACT_GATES for reason in gate.reasons]
    assert len(set(reasons)) == len(reasons)
    text = Path(extract_page.__file__).parent
    raised = re.compile(r'RejectedError\(\s*"([a-z_]+)"')
    found = {reason for path in text.glob("*.py") for reason in raised.findall(path.read_text())}
    assert len(found) > 15
    assert found <= set(reasons)
    others = {"forgotten", "damaged_record", "torn_record", prescreen.UNWANTED_LANGUAGE}
    assert set(reasons) - found - others == {f"url.{rule}" for rule in url_filter.RULES}


def test_gates_depend_on_settings_of_the_recipe() -> None:
    sections = {"extract": Extract(), "look": Look(), "url": UrlRules()}
    for gate in EXTRACT_GATES:
        for name in gate.settings:
            section, _, key = name.partition(".")
            assert hasattr(sections[section], key), name
