"""One record, one outcome; a resumed file gives what an uninterrupted one gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpus.extract import Extract, Outcome, extract_file
from schemas.datasets import DOCUMENTS
from schemas.errors import UserError

SHARED = Path(__file__).parents[2].parent / "shared"
SMALL = SHARED / "crawl" / "REALWEB-small-00000.warc.gz"
needs_shared = pytest.mark.skipif(not SMALL.exists(), reason="needs ../shared")
FAST = Extract(engine="resiliparse")


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return list(extract_file(str(SMALL), SMALL.name, FAST))


@needs_shared
def test_every_row_has_exactly_the_columns_of_documents(outcomes: list[Outcome]) -> None:
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    assert len(rows) == 240
    assert all(list(row) == DOCUMENTS.names for row in rows)


@needs_shared
@pytest.mark.parametrize("after", [0, 1, 17, 123, 240])
def test_a_resumed_file_gives_the_remaining_outcomes(outcomes: list[Outcome], after: int) -> None:
    start = outcomes[after].next_offset
    assert list(extract_file(str(SMALL), SMALL.name, FAST, start)) == outcomes[after + 1 :]


@needs_shared
def test_a_page_that_ended_the_process_is_recorded_and_the_rest_read(
    outcomes: list[Outcome],
) -> None:
    start = outcomes[9].next_offset
    again = list(extract_file(str(SMALL), SMALL.name, FAST, start, crashed_at=start))
    crashed = [
        i for i, o in enumerate(again) if o.row and o.row["detail"] and "ended" in o.row["detail"]
    ]
    assert len(again) == len(outcomes) - 10
    assert len(crashed) == 1
    assert again[crashed[0]].row["rejected_by"] == "extraction_crashed"  # type: ignore[index]
    assert again[crashed[0] + 1 :] == outcomes[10 + crashed[0] + 1 :]


def test_a_file_that_is_no_warc_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<html>hello</html>")
    with pytest.raises(UserError, match=r"page\.html: is not a WARC file; it starts with"):
        list(extract_file(str(path), path.name, FAST))
