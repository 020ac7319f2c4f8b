"""Tasks: how a row of a file becomes the candidate answers that a model scores.

Each task asks what EleutherAI's lm-evaluation-harness asks: a context, and the continuations whose
log-likelihoods are compared; the space between the two belongs to the continuation. A row has the
task's published columns, or the plain ones of MosaicML's llm-foundry (`query`, `choices`, `gold`;
`context_options`, `continuation`, `gold`; `context`, `continuation`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from schemas import json_text
from schemas.errors import UserError

Row = dict[str, Any]


class Candidate(NamedTuple):
    """How likely is `continuation` after `context`?"""

    context: str
    continuation: str

    @property
    def size(self) -> int:
        """UTF-8 bytes of the continuation, without the space before it."""
        return len(self.continuation[1:].encode())


@dataclass(frozen=True)
class Example:
    """A question: its candidate answers, and the index of the right one."""

    candidates: tuple[Candidate, ...]
    gold: int = 0


class RowFormat(NamedTuple):
    """Columns that a row must have, and how it is read; `ValueError` says what is wrong."""

    columns: tuple[str, ...]
    read: Callable[[Row], Example]


@dataclass(frozen=True)
class Task:
    """The formats of a task's rows, and its scores in addition to accuracy.

    `normalized`: candidates are also compared by log-likelihood per byte. `cloze`: there is one
    candidate, right where greedy decoding gives it; its perplexity is a score.
    """

    name: str
    formats: tuple[RowFormat, ...]
    normalized: bool = False
    cloze: bool = False


def read_examples(task: Task, path: str | Path, max_examples: int = 0) -> list[Example]:
    """The first `max_examples` (0: all) of a JSONL file; `UserError` names file and line."""
    found: list[Example] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if max_examples and len(found) == max_examples:
                    break
                if not line.strip():
                    continue
                try:
                    found.append(_read_row(task, json_text.loads(line)))
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number}: not JSON: {error}") from None
                except ValueError as error:
                    raise UserError(f"{path}:{number}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not found:
        raise UserError(f"{path}: no rows; expected one JSON object per line")
    return found


def _read_row(task: Task, row: Any) -> Example:
    """The example of a row, by the first format whose columns it has."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, not {type(row).__name__}")
    for form in task.formats:
        if all(name in row for name in form.columns):
            return form.read(row)
    expected = "; or ".join(", ".join(form.columns) for form in task.formats)
    raise ValueError(f"not a row of {task.name}: has {', '.join(row)}; expected {expected}")


def _query(row: Row) -> Example:
    """`query` begins with "Question: "; a line break at its end is dropped."""
    return _choices(f"{_text(row, 'query').rstrip()}\nAnswer:", row["choices"], row["gold"])


def _arc(row: Row) -> Example:
    choices, label = row["choices"], _text(row, "answerKey")
    if not isinstance(choices, dict) or not {"text", "label"} <= set(choices):
        raise ValueError("choices: must have text and label")
    if label not in choices["label"]:
        raise ValueError(f"answerKey = {label!r}: must be one of {choices['label']}")
    context = f"Question: {_text(row, 'question')}\nAnswer:"
    return _choices(context, choices["text"], choices["label"].index(label))


def _piqa(row: Row) -> Example:
    context = f"Question: {_text(row, 'goal')}\nAnswer:"
    return _choices(context, [row["sol1"], row["sol2"]], row["label"])


def _hellaswag(row: Row) -> Example:
    if not isinstance(row["ctx_b"], str):
        raise ValueError(f"ctx_b = {row['ctx_b']!r}: must be a text, it may be empty")
    context = f"{_text(row, 'ctx_a')} {row['ctx_b'].capitalize()}"
    endings = [_without_brackets(ending) for ending in _texts(row["endings"], "endings")]
    context = _without_brackets(f"{_text(row, 'activity_label')}: {context}")
    return _choices(context, endings, row["label"])


def _without_brackets(text: str) -> str:
    """HellaSwag's rows from WikiHow have marks in brackets, such as [title] and [step]."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _plain_hellaswag(row: Row) -> Example:
    return _choices(_text(row, "query"), row["choices"], row["gold"])


def _winogrande(row: Row) -> Example:
    before, gap, after = _text(row, "sentence").partition("_")
    if not gap:
        raise ValueError("sentence: must have a gap '_'")
    options = [f"{before}{_text(row, name)}" for name in ("option1", "option2")]
    return _options(options, after, {"1": 0, "2": 1}.get(str(row["answer"]), -1))


def _plain_winogrande(row: Row) -> Example:
    options = _texts(row["context_options"], "context_options")
    return _options(options, _text(row, "continuation"), row["gold"])


def _lambada(row: Row) -> Example:
    context, _, word = _text(row, "text").rpartition(" ")
    return Example((Candidate(context, f" {word}"),))


def _plain_lambada(row: Row) -> Example:
    word = _text(row, "continuation").strip()
    return Example((Candidate(_text(row, "context"), f" {word}"),))


def _choices(context: str, choices: Any, gold: Any) -> Example:
    """One context, a continuation per candidate."""
    texts = _texts(choices, "choices")
    candidates = tuple(Candidate(context, f" {text}") for text in texts)
    return Example(candidates, _gold(gold, len(texts)))


def _options(contexts: list[str], continuation: str, gold: Any) -> Example:
    """One continuation, a context per candidate."""
    candidates = tuple(Candidate(context, f" {continuation.strip()}") for context in contexts)
    return Example(candidates, _gold(gold, len(contexts)))


def _text(row: Row, name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} = {value!r}: must be a text")
    return value


def _texts(values: Any, name: str) -> list[str]:
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"{name} = {values!r}: must be two texts or more")
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name}: {value!r} must be a text")
    return values


def _gold(value: Any, count: int) -> int:
    """The index of the right answer, which some sets write as a string."""
    numbers = {str(i): i for i in range(count)}
    if isinstance(value, bool) or str(value) not in numbers:
        raise ValueError(f"right answer {value!r}: must be a number from 0 to {count - 1}")
    return numbers[str(value)]


_PLAIN = ("query", "choices", "gold")
_TASKS = (
    Task(
        "arc_easy",
        (RowFormat(_PLAIN, _query), RowFormat(("question", "choices", "answerKey"), _arc)),
        normalized=True,
    ),
    Task(
        "piqa",
        (RowFormat(_PLAIN, _query), RowFormat(("goal", "sol1", "sol2", "label"), _piqa)),
        normalized=True,
    ),
    Task(
        "hellaswag",
        (
            RowFormat(("activity_label", "ctx_a", "ctx_b", "endings", "label"), _hellaswag),
            RowFormat(_PLAIN, _plain_hellaswag),
        ),
        normalized=True,
    ),
    Task(
        "winogrande",
        (
            RowFormat(("context_options", "continuation", "gold"), _plain_winogrande),
            RowFormat(("sentence", "option1", "option2", "answer"), _winogrande),
        ),
    ),
    Task(
        "lambada",
        (RowFormat(("context", "continuation"), _plain_lambada), RowFormat(("text",), _lambada)),
        cloze=True,
    ),
)
TASKS = {task.name: task for task in _TASKS}
