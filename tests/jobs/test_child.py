"""Child processes: their death is an error that the caller sees, never a hang or a silence."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from corpus import worker
from corpus.recipe import Recipe
from corpus.worker_tasks import ROWS_PER_ANSWER, ExtractRequest
from schemas import config
from schemas.datasets import DOCUMENTS

SAMPLE = Path(__file__).parents[2] / "samples" / "SAMPLE-00000.warc.gz"


@pytest.fixture
def reader() -> Iterator[worker.Child]:
    process = worker.Child(config.to_json(dataclasses.asdict(Recipe())))
    yield process
    process.stop()


def _request(path: str = str(SAMPLE), rows: int = ROWS_PER_ANSWER) -> pa.RecordBatch:
    return ExtractRequest(path, "s", rows=rows).to_batch()


def test_a_child_answers_in_batches_and_serves_again(reader: worker.Child) -> None:
    first = list(reader.call("extract", _request()))
    assert sum(batch.num_rows for batch in first) > ROWS_PER_ANSWER
    assert all(batch.schema.equals(DOCUMENTS) for batch in first)
    assert list(reader.call("extract", _request())) == first


def test_a_killed_child_is_an_error_that_says_so(reader: worker.Child) -> None:
    answers = reader.call("extract", _request(rows=1))
    next(answers)
    os.kill(reader._process.pid, signal.SIGKILL)
    with pytest.raises(worker.ChildDiedError, match="-9"):
        list(answers)


def test_an_exception_in_a_child_comes_with_its_traceback(reader: worker.Child) -> None:
    with pytest.raises(worker.ChildError, match="no-such-file"):
        list(reader.call("extract", _request("no-such-file")))


def test_a_child_that_cannot_start_its_task_says_why() -> None:
    process = worker.Child({})
    with pytest.raises(worker.ChildError, match="no such task"):
        list(process.call("no such task", _request()))
    process.stop()
