"""Rows of task files, published and plain, against what the harness asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UserError
from trainer.evaluate.tasks import TASKS, Candidate, Example, read_examples


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ASKED = "Question: Why?\nAnswer:"
FORMS = [
    (
        "arc_easy",
        {"query": "Question: Why?", "choices": ["so", "no"], "gold": 1},
        ASKED,
        "so no",
        1,
    ),
    (
        "arc_easy",
        {
            "id": "Mercury_1",
            "question": "Why?",
            "choices": {"text": ["so", "no"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        ASKED,
        "so no",
        1,
    ),
    ("piqa", {"query": "Question: Why?\n", "choices": ["so", "no"], "gold": 0}, ASKED, "so no", 0),
    ("piqa", {"goal": "Why?", "sol1": "so", "sol2": "no", "label": 1}, ASKED, "so no", 1),
    (
        "hellaswag",
        {
            "ind": 24,
            "activity_label": "Roof removal",
            "ctx_a": "A man is on a roof.",
            "ctx_b": "he",
            "ctx": "A man is on a roof. he",
            "endings": ["so", "no", "sits", "[step] stands"],
            "label": "3",
        },
        "Roof removal: A man is on a roof. He",
        "so no sits  stands",
        3,
    ),
    (
        "hellaswag",
        {
            "activity_label": "Tea",
            "ctx_a": "[header] How to make tea [title] Boil water.",
            "ctx_b": "",
            "endings": ["so", "no"],
            "label": 0,
        },
        "Tea: How to make tea. Boil water.",
        "so no",
        0,
    ),
    ("hellaswag", {"query": "Tea: He", "choices": ["so", "no"], "gold": 0}, "Tea: He", "so no", 0),
]


@pytest.mark.parametrize(("task", "row", "context", "answers", "gold"), FORMS)
def test_a_row_becomes_what_the_harness_asks(
    task: str, row: dict[str, Any], context: str, answers: str, gold: int, tmp_path: Path
) -> None:
    (found,) = read_examples(TASKS[task], write(tmp_path / "rows.jsonl", row))
    expected = tuple(Candidate(context, f" {answer}") for answer in answers.split(" ", 3))
    assert found == Example(expected, gold)


@pytest.mark.parametrize(
    "row",
    [
        {
            "context_options": ["Ann told Eve that Ann", "Ann told Eve that Eve"],
            "continuation": "won.",
            "gold": 1,
        },
        {
            "sentence": "Ann told Eve that _ won.",
            "option1": "Ann",
            "option2": "Eve",
            "answer": "2",
        },
    ],
)
def test_winogrande_asks_what_follows_each_option(row: dict[str, Any], tmp_path: Path) -> None:
    (found,) = read_examples(TASKS["winogrande"], write(tmp_path / "rows.jsonl", row))
    contexts = ("Ann told Eve that Ann", "Ann told Eve that Eve")
    assert found == Example(tuple(Candidate(context, " won.") for context in contexts), 1)


@pytest.mark.parametrize(
    "row", [{"text": "He sat on the mat"}, {"context": "He sat on the", "continuation": "mat"}]
)
def test_lambada_asks_for_the_last_word(row: dict[str, Any], tmp_path: Path) -> None:
    (found,) = read_examples(TASKS["lambada"], write(tmp_path / "rows.jsonl", row))
    assert found == Example((Candidate("He sat on the", " mat"),), 0)


GOOD = {"query": "Question: Why?", "choices": ["so", "no"], "gold": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "Why?", "gold": 0}, "not a row of arc_easy: has query, gold; expected query, "),
        ([], "expected a JSON object, not list"),
        ({**GOOD, "gold": 2}, "right answer 2: must be a number from 0 to 1"),
        ({**GOOD, "gold": True}, "right answer True: must be a number from 0 to 1"),
        ({**GOOD, "gold": ""}, "right answer '': must be a number"),
        ({**GOOD, "choices": ["so"]}, "must be two texts or more"),
        ({**GOOD, "choices": ["so", ""]}, "choices: '' must be a text"),
        ({**GOOD, "query": 3}, "query = 3: must be a text"),
        ({"question": "Q", "choices": {"text": [], "label": []}, "answerKey": "A"}, "answerKey = "),
        ({"question": "Q", "choices": [1], "answerKey": "A"}, "choices: must have text and label"),
    ],
)
def test_a_row_that_is_no_example_is_named_by_file_and_line(
    row: Any, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, GOOD, row)
    with pytest.raises(UserError) as caught:
        read_examples(TASKS["arc_easy"], path)
    assert f"{path}:3: " in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_holds_no_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.jsonl").write_text('{"query": "Wh\n')
    (tmp_path / "empty.jsonl").write_text("\n \n")
    for name, message in [("torn", "torn.jsonl:1: not JSON"), ("empty", "empty.jsonl: no rows")]:
        with pytest.raises(UserError, match=message):
            read_examples(TASKS["piqa"], tmp_path / f"{name}.jsonl")
    with pytest.raises(UserError, match=r"missing\.jsonl: cannot be read"):
        read_examples(TASKS["piqa"], tmp_path / "missing.jsonl")


def test_max_examples_reads_the_first_rows_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, {**GOOD, "gold": 0}, "never read")
    assert [e.gold for e in read_examples(TASKS["arc_easy"], path, 2)] == [1, 0]


@pytest.mark.parametrize(
    ("task", "name", "rows", "answers"),
    [
        ("arc_easy", "arc_easy", 2376, 4),
        ("piqa", "piqa", 1838, 2),
        ("winogrande", "winogrande", 1267, 2),
        ("lambada", "lambada_openai", 5153, 1),
    ],
)
def test_every_row_of_the_published_sets_is_an_example(
    task: str, name: str, rows: int, answers: int, shared: Path
) -> None:
    found = read_examples(TASKS[task], shared / "corpora" / f"{name}.jsonl")
    assert len(found) == rows
    assert {len(example.candidates) for example in found} == {answers}
    assert {example.gold for example in found} == set(range(answers))
    assert all(r.continuation[0] == " " and r.size for e in found for r in e.candidates)
