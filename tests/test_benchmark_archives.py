"""The benchmark of archives: why another reader gives more records that look whole, if it does."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]
_CUT = "the length is wrong, and the block that warcio gives is cut there"
_VERSION_BLOCK = "the version block is not as its line says; warcio reads two lines of any"
# File -> why another reader gives more records that look whole. All of them are damaged.
MORE_ELSEWHERE = {
    "facebookresearch+cc_net__sample.warc.txt": _CUT,
    "netarchivesuite+jwat__test-arc-1.0-dashed-fields.arc": _CUT,
    "netarchivesuite+jwat__test-arc-1.0-invalid-fields.arc": f"{_CUT}; {_VERSION_BLOCK}",
    "netarchivesuite+netarchivesuite__42-117-20051212141240-00000-sb-test-har-001"
    ".statsbiblioteket.dk.ARC": _CUT,
    "netarchivesuite+netarchivesuite__42-117-20051212141242-00002-sb-test-har-001"
    ".statsbiblioteket.dk.arc": _CUT,
    "netarchivesuite+netarchivesuite__NetarchiveSuite-store2.arc": _CUT,
    "netarchivesuite+netarchivesuite__Upload3.ARC": _CUT,
    "netarchivesuite+netarchivesuite__get1.ARC": _CUT,
    "netarchivesuite+netarchivesuite__integrity2.ARC": _CUT,
    "oduwsdl+ipwb__HTTP204.warc": _CUT,
    "oduwsdl+ipwb__broken.warc": "a length of 7 before a block of 309 bytes; both others cut it",
    "webrecorder+pywb__example.warc": "a length of 320 before a block of 323 bytes; warcio cuts it",
    "webrecorder+warcio.js__example-bad-length.warc": _CUT,
    "webrecorder+warcio__bad.arc": _VERSION_BLOCK,
    "webrecorder+warcio__example-trunc.warc": _CUT,
}


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    return importlib.import_module("archives")


def test_no_reader_gives_more_good_records_without_a_reason(
    archives: Any, shared: Path, figures: Callable[[str, str], None]
) -> None:
    fewer, counts, num_files = {}, dict.fromkeys(archives.READERS, 0), 0
    for path in archives.files_of([shared / "hostile", shared / "genuine"]):
        readings = archives.compare(path)
        num_files += 1
        for name, reading in readings.items():
            counts[name] += reading.num_good
        ours = readings["gristmill"]
        if ours.num_good < max(reading.num_good for reading in readings.values()):
            fewer[path.name] = ours
    assert fewer.keys() == MORE_ELSEWHERE.keys()
    assert all(ours.num_damaged for ours in fewer.values())  # said to be damaged, not passed over
    assert (num_files, counts["gristmill"]) == (296, 3327)
    told = ", ".join(f"{name} {number:,}" for name, number in counts.items())
    figures(f"good records of {num_files} archives of others", told)


def test_a_record_that_is_cut_short_is_not_counted(archives: Any, tmp_path: Path) -> None:
    path = tmp_path / "torn.warc"
    record = b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Length: %d\r\n\r\nblock\r\n\r\n"
    path.write_bytes(record % 5 + record % 500)
    readings = archives.compare(path)
    assert {name: reading.num_good for name, reading in readings.items()} == {
        "gristmill": 1,
        "warcio": 1,
        "FastWARC": 1,
    }
    assert readings["gristmill"].end == "torn_record"
