"""What datatrove 0.10.1's FineWeb pipeline decided for 4,917 real pages, and what we decide."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from corpus import recipe
from jobs import extract, pipeline
from jobs import filter as filter_
from jobs.session import Engine
from jobs.stage import Job

PROJECT = Path(__file__).parents[2]
KEPT = ("kept", "7_minhash")  # before deduplication
STEPS = {
    "1_url": "url",
    "2_lang": "language",
    "3_gopher_rep": "gopher_repetition",
    "4_gopher_qual": "gopher_quality",
    "5_c4": "c4",
    "6_fineweb_qual": "fineweb_quality",
}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, dict[str, str]]:
    with gzip.open(shared / "golden" / "datatrove-crawl-decisions.tsv.gz", "rt") as lines:
        return {row["id"]: row for row in csv.DictReader(lines, delimiter="\t")}


@pytest.fixture(scope="module")
def ours(
    shared: Path, engines: Callable[[str], Engine], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("golden")
    inputs = tuple(map(str, sorted((shared / "crawl").glob("REALWEB-public-*.warc.gz"))))
    fineweb = recipe.load(PROJECT / "recipes" / "fineweb.toml")
    pipeline.run(Job(fineweb, root, engines("sail"), inputs), (extract.STAGE, filter_.STAGE))
    columns = ["id", "text", "rejected_by", "detail"]
    tables = [pq.read_table(path, columns=columns) for path in (root / "judged").glob("*.parquet")]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


Rows = dict[str, dict[str, Any]]


def test_every_page_has_a_row(ours: Rows, golden: Rows) -> None:
    assert len(ours) == 4917
    assert set(golden) <= set(ours)


def test_what_datatrove_keeps_is_kept(ours: Rows, golden: Rows) -> None:
    """And nothing else, but for what its URL lists reject, which the recipe does not name."""
    theirs = {page for page, row in golden.items() if row["stage"] in KEPT}
    kept = {page for page, row in ours.items() if row["rejected_by"] is None}
    assert theirs - kept == set()
    more = kept & set(golden) - theirs
    assert {golden[page]["stage"] for page in more} <= {"1_url"}
    assert len(theirs & kept) / len(theirs | kept & set(golden)) > 0.99
    assert len(kept - set(golden)) <= 10  # pages that datatrove lost without a word


def test_texts_are_the_same_where_both_keep(ours: Rows, golden: Rows) -> None:
    both = [
        page
        for page, row in golden.items()
        if row["stage"] in KEPT and ours[page]["rejected_by"] is None
    ]
    same = sum(
        hashlib.sha256(ours[page]["text"].encode()).hexdigest()[:16]
        == golden[page]["sha256_16_before_pii"]
        for page in both
    )
    assert same / len(both) > 0.99


def test_pages_are_rejected_at_the_same_step(ours: Rows, golden: Rows) -> None:
    """But for URL lists, and pages that the look calls foreign before another rule is asked."""
    other = {
        page: (row["stage"], ours[page]["rejected_by"])
        for page, row in golden.items()
        if row["stage"] not in (*KEPT, "1_url")
        and ours[page]["rejected_by"].split(".")[0] != STEPS[row["stage"]]
        and not (row["stage"] == "2_lang" and ours[page]["rejected_by"].startswith("look."))
    }
    foreign = {page for page, (_, reason) in other.items() if reason.startswith("look.")}
    assert len(foreign) <= 20
    assert len(other) - len(foreign) <= 5, other
