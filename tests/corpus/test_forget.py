"""Requests mean the right documents, and of those nothing stays but their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.clean import removals
from corpus.clean.removals import DocumentKeys, RemovalRequest, RemovalRequests, read_list
from corpus.text.extract_page import Extract, Gates, extract_file
from schemas import manifest
from schemas.datasets import DOCUMENTS, FORGOTTEN
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest

ID = "<urn:uuid:0a0b0c0d-0000-5000-8000-00000000000f>"
PAGE = (
    f"<html><body><article>{'<p>The quick brown fox jumps over it all.</p>' * 9}</article></body>"
)


def _requests(*pairs: tuple[Any, str]) -> RemovalRequests:
    return RemovalRequests(RemovalRequest(by, value) for by, value in pairs)


@pytest.mark.parametrize(
    ("by", "value", "url", "means_it"),
    [
        ("url", "https://www.a.example/b/", "http://a.example/b", True),
        ("url", "http://a.example/b", "http://a.example/b/c", False),
        ("url", "http://a.example", "http://a.example/b", False),
        ("domain", "a.example", "http://a.example/b", True),
        ("domain", "A.Example.", "https://x.y.a.EXAMPLE:8080/b", True),
        ("domain", "a.example", "http://nota.example/", False),
        ("domain", "a.example", "http://example/", False),
        ("domain", "a.example", "http://b.example/?http://a.example/", False),
        ("domain", "x.a.example", "http://a.example/", False),
        ("domain", "münchen.example", "http://www.xn--mnchen-3ya.example/", True),
        ("domain", "xn--mnchen-3ya.example", "http://MÜNCHEN.example/", True),
        ("domain", "192.0.2.1", "http://192.0.2.1/", True),
        ("domain", "a.example", None, False),
        ("url", "a.example", None, False),
    ],
)
def test_a_request_means_what_it_names(
    by: Any, value: str, url: str | None, means_it: bool
) -> None:
    requests = _requests((by, value))
    assert requests.matching(ID, url) == ([RemovalRequest(by, value)] if means_it else [])
    assert requests.reason(ID, url) == (f"by {by}" if means_it else None)


@pytest.mark.parametrize("value", [ID, ID[1:-1], ID[10:-1], ID.upper()])
def test_an_id_is_found_with_and_without_its_frame(value: str) -> None:
    assert _requests(("id", value)).reason(ID, None) == "by id"
    assert _requests(("id", value)).reason(ID.replace("f>", "e>"), None) is None


def test_all_requests_that_mean_a_document_are_named() -> None:
    requests = _requests(
        ("domain", "example.org"), ("id", ID), ("domain", "a.example.org"),
        ("domain", "b.example.org"), ("url", "a.example.org/b"), ("url", "https://a.example.org/b"),
    )  # fmt: skip
    found = requests.matching(ID, "http://a.example.org/b")
    values = [request.value for request in found]
    assert values == ["a.example.org/b", "a.example.org", "example.org", ID]
    assert len(requests) == 5  # two URLs were spellings of one


def test_a_list_has_a_request_a_line(tmp_path: Path) -> None:
    path = tmp_path / "urls"
    path.write_bytes("\ufeffhttp://a.example/#b\r\n\n  # not this\nb.example/ä \n".encode())
    assert read_list(path, "url") == [
        RemovalRequest("url", "http://a.example/#b"),
        RemovalRequest("url", "b.example/ä"),
    ]


@pytest.mark.parametrize(
    ("by", "text", "words"),
    [
        ("url", b"", "urls: names nothing"),
        ("url", b"# only a comment\n", "urls: names nothing"),
        ("url", b"http://a.example/\nword\n", "line 2: 'word': must be a URL"),
        ("url", b"http://a.example/\n/path\n", "line 2: '/path': must be a URL"),
        ("url", b"http://a.example/\n\xff\xfe\n", "line 2: is not text in UTF-8"),
        ("url", b"http://a.example/\0\n", "line 1: .* must be a URL"),
        ("domain", b"http://a.example/\n", "line 1: .* must be a domain"),
        ("domain", b"*.a.example\n", "line 1: .* must be a domain"),
        ("domain", b"a b\n", "line 1: .* must be a domain"),
        ("domain", b"1.2.3\n", "line 1: .* must be a domain"),
        ("domain", b"...\n", "line 1: .* must be a domain"),
        ("domain", b"\n\nco.uk\n", "line 3: 'co.uk': is a public suffix"),
        ("domain", b"com\n", "line 1: 'com': is a public suffix"),
        ("id", b"two words\n", "line 1: .* must be the id of a document"),
    ],
)
def test_a_bad_list_is_named_with_file_line_and_text(
    tmp_path: Path, by: Any, text: bytes, words: str
) -> None:
    path = tmp_path / f"{by}s"
    path.write_bytes(text)
    with pytest.raises(UserError, match=f"--{by}s {path.parent}.*{words}"):
        read_list(path, by)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--ids .*none: cannot be read"):
        read_list(tmp_path / "none", "id")


def _capture(url: str, status: str = "200 OK", body: str = PAGE) -> bytes:
    block = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nX-Robots-Tag: noai\r\n\r\n{body}"
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: {ID}\r\nWARC-Truncated: length\r\n"
    head += f"WARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Target-URI: {url}\r\n"
    return f"{head}Content-Length: {len(block)}\r\n\r\n{block}\r\n\r\n".encode()


def _rows(path: Path, requests: RemovalRequests | None) -> list[dict[str, Any]]:
    gates = Gates(Extract(engine="resiliparse"), forgotten=requests)
    outcomes = list(extract_file(str(path), path.name, gates))
    assert all(outcome.row for outcome in outcomes)
    return [outcome.row for outcome in outcomes if outcome.row]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two good pages, one that is not there, one that is torn, of two sites."""
    urls = ("http://a.example/1", "http://b.example/2")
    pages = [_capture(url) for url in urls] + [_capture("http://a.example/3", "404 Not Found")]
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join([*pages, _capture("http://www.a.example/4")[:-99]]))
    return path


def test_extract_keeps_the_name_of_what_is_forgotten_and_nothing_of_the_page(archive: Path) -> None:
    before = _rows(archive, None)
    assert [row["rejected_by"] for row in before] == [None, None, "bad_status", "torn_record"]
    after = _rows(archive, _requests(("domain", "a.example")))
    reasons = [row["rejected_by"] for row in after]
    assert reasons == [removals.REASON, None, removals.REASON, removals.REASON]
    assert after[1] == before[1]
    said = {name for name, value in after[0].items() if value is not None and value is not False}
    assert said == {*removals.REMAINS, "rejected_by", "detail"}
    assert after[0]["detail"] == "by domain"
    assert all(after[0][name] == before[0][name] for name in removals.REMAINS)


@pytest.mark.parametrize(
    "request_", [("url", "https://a.example/1/"), ("domain", "a.example"), ("id", ID)]
)
def test_an_emptied_row_is_the_one_that_extract_would_write(
    archive: Path, request_: tuple[Any, str]
) -> None:
    requests = _requests(request_)
    before = pa.Table.from_pylist(_rows(archive, None), schema=DOCUMENTS)
    mask = np.array([bool(requests.reason(row["id"], row["url"])) for row in before.to_pylist()])
    assert mask.any()
    blank = removals.blank(before.filter(pa.array(mask)), requests)
    after = removals.replace(before, mask, blank)
    assert after.to_pylist() == _rows(archive, requests)
    assert removals.is_blank(after).tolist() == mask.tolist()


def test_signals_of_an_emptied_row_go_too() -> None:
    schema = DOCUMENTS.append(pa.field("words", pa.struct([("num_words", pa.int64())])))
    row = dict.fromkeys(DOCUMENTS.names) | {"id": ID, "words": {"num_words": 7}}
    blank = removals.blank(pa.Table.from_pylist([row], schema=schema), _requests(("id", ID)))
    assert blank["words"].to_pylist() == [None]


KEYS = st.tuples(st.sampled_from(["a.warc", "b.warc", "c.warc"]), st.integers(0, 9))


def _table(keys: list[tuple[str, int]]) -> pa.Table:
    columns = {"file_path": pa.array([k[0] for k in keys], pa.string())}
    return pa.table(columns | {"record_offset": pa.array([k[1] for k in keys], pa.int64())})


@given(st.lists(KEYS), st.lists(KEYS))
def test_keys_find_their_rows_and_no_others(
    known: list[tuple[str, int]], rows: list[tuple[str, int]]
) -> None:
    expected = [row in set(known) for row in rows]
    assert DocumentKeys(_table(known)).mask(_table(rows)).tolist() == expected


@given(st.lists(st.booleans()))
def test_rows_are_replaced_where_they_stand(chosen: list[bool]) -> None:
    rows = pa.table({"n": pa.array(range(len(chosen)), pa.int64())})
    mask = np.array(chosen, bool)
    changed = pa.table({"n": pa.array([-1 - n for n, c in enumerate(chosen) if c], pa.int64())})
    expected = [-1 - n if c else n for n, c in enumerate(chosen)]
    assert removals.replace(rows, mask, changed)["n"].to_pylist() == expected


def test_requests_and_keys_are_read_from_the_files_that_are_listed(tmp_path: Path) -> None:
    assert len(removals.load(tmp_path)) == 0
    assert not removals.load_keys(tmp_path).mask(_table([("a.warc", 1)])).any()
    matched = {"by": "id", "value": ID, "file_path": "a.warc", "record_offset": 1}
    files = {
        "requests": [{"by": "id", "value": ID}, {"by": "domain", "value": "a.example"}],
        "matches": [matched],
        "unlisted": [{"by": "domain", "value": "b.example"}],
    }
    for name, rows in files.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=FORGOTTEN), tmp_path / name)
    listed = [DataFile(n, len(files[n]), 1, counts={n: len(files[n])}) for n in list(files)[:2]]
    manifest.write(tmp_path, Manifest("forgotten", "", {}, {}, tuple(listed), {}))
    assert removals.load(tmp_path).listed() == [
        RemovalRequest("domain", "a.example"),
        RemovalRequest("id", ID),
    ]
    rows = _table([("a.warc", 1), ("a.warc", 2), ("b.warc", 1)])
    assert removals.load_keys(tmp_path).mask(rows).tolist() == [True, False, False]
