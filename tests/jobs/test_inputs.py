"""Paths, globs and lists name the same files, keyed the same wherever they lie."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from jobs.extract import resolve

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Two of the sample files laid out as Common Crawl lays out a dump."""
    folder = tmp_path / "mnt" / "crawl-data" / "CC-MAIN-2099-01" / "segments" / "1" / "warc"
    folder.mkdir(parents=True)
    for number in (1, 0):
        shutil.copy(SAMPLES / f"SAMPLE-0000{number}.warc.gz", folder)
    return tmp_path / "mnt"


def test_a_glob_and_a_list_of_paths_name_the_same_files(mirror: Path) -> None:
    by_glob = resolve((str(mirror / "**" / "*.warc.gz"),))
    names = [file.file_path for file in by_glob]
    assert names == sorted(names)
    assert len(names) == 2
    (mirror / "warc.paths").write_text("\n".join(reversed(names)) + "\n")
    with gzip.open(mirror / "warc.paths.gz", "wt") as file:
        file.write("\n".join(names))
    assert resolve((str(mirror / "warc.paths"),)) == by_glob
    assert resolve((str(mirror / "warc.paths.gz"), str(mirror / "warc.paths"))) == by_glob


def test_a_key_does_not_say_where_the_file_was_mounted(mirror: Path) -> None:
    for file in resolve((str(mirror / "**" / "*.warc.gz"),)):
        assert file.file_path.startswith("crawl-data/CC-MAIN-2099-01/segments/1/warc/SAMPLE-")
    (elsewhere,) = resolve((str(SAMPLES / "SAMPLE-00000.warc.gz"),))
    assert elsewhere.file_path == "SAMPLE-00000.warc.gz"


def test_another_content_is_another_input(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    shutil.copy(SAMPLES / "SAMPLE-00000.warc.gz", path)
    (before,) = resolve((str(path),))
    path.write_bytes(path.read_bytes() + b"\0")
    (after,) = resolve((str(path),))
    assert after.identity != before.identity
    assert after.size == before.size + 1
