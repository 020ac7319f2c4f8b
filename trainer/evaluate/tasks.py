"""Tasks by log-likelihood: how likely a model finds each answer to a question.

An example's answers mostly share their beginning, so that is read once: the first tokens that all
have in common fill the cache of keys and values, each answer goes on from a copy of it. Examples
are read in batches of similar length, and the head sees only the places that are asked about.
Context and answer are encoded as one text and parted where the context's own tokens end, as
EleutherAI's lm-evaluation-harness does; the document boundary comes first.

Evaluation tasks: how a row of a file becomes what the model is asked.

Each task is asked as EleutherAI's lm-evaluation-harness asks it: a context, and the continuations
whose log-likelihoods are compared; the space between the two belongs to the continuation. A row is
read in the task's published columns, or in the plain ones of MosaicML's llm-foundry (`query`,
`choices`, `gold`; `context_options`, `continuation`, `gold`; `context`, `continuation`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from schemas import json_text
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.distributed import Ranks
from trainer.evaluate.loss import evaluating
from trainer.model.model import KeyValueCache, LanguageModel
from trainer.model.precision import autocast

Row = dict[str, Any]


class Request(NamedTuple):
    """How likely is `continuation` after `context`?"""

    context: str
    continuation: str

    @property
    def size(self) -> int:
        """UTF-8 bytes of the answer, without the space before it."""
        return len(self.continuation[1:].encode())


@dataclass(frozen=True)
class Example:
    """A question: what is asked for each of its answers, and the number of the right one."""

    requests: tuple[Request, ...]
    gold: int = 0


class Form(NamedTuple):
    """Columns that a row must have, and what it becomes; `ValueError` says what is wrong."""

    columns: tuple[str, ...]
    read: Callable[[Row], Example]


@dataclass(frozen=True)
class Task:
    """A task's forms of rows, and which scores there are beside accuracy.

    `normalized`: answers are also compared by log-likelihood a byte. `cloze`: there is one answer,
    right where greedy decoding gives it, and its perplexity.
    """

    name: str
    forms: tuple[Form, ...]
    normalized: bool = False
    cloze: bool = False


def read_examples(task: Task, path: str | Path, max_examples: int = 0) -> list[Example]:
    """The first `max_examples` (0: all) of a JSONL file; `UserError` names file and line."""
    found: list[Example] = []
    for number, line in _lines(Path(path)):
        if max_examples and len(found) == max_examples:
            break
        try:
            row = json_text.loads(line)
            found.append(_form(task, row).read(row))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from None
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    if not found:
        raise UserError(f"{path}: no rows; expected one JSON object a line")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _form(task: Task, row: Any) -> Form:
    """The first form whose columns the row has."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, not {type(row).__name__}")
    for form in task.forms:
        if all(name in row for name in form.columns):
            return form
    expected = "; or ".join(", ".join(form.columns) for form in task.forms)
    raise ValueError(f"not a row of {task.name}: has {', '.join(row)}; expected {expected}")


def _query(row: Row) -> Example:
    """`query` begins with "Question: "; a line end at its end is the form's own."""
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
    return _choices(
        _without_brackets(f"{_text(row, 'activity_label')}: {context}"), endings, row["label"]
    )


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
    gold = {"1": 0, "2": 1}.get(str(row["answer"]))
    return _options(options, after, -1 if gold is None else gold)


def _plain_winogrande(row: Row) -> Example:
    options = _texts(row["context_options"], "context_options")
    return _options(options, _text(row, "continuation"), row["gold"])


def _lambada(row: Row) -> Example:
    context, _, word = _text(row, "text").rpartition(" ")
    return Example((Request(context, f" {word}"),))


def _plain_lambada(row: Row) -> Example:
    word = _text(row, "continuation").strip()
    return Example((Request(_text(row, "context"), f" {word}"),))


def _choices(context: str, choices: Any, gold: Any) -> Example:
    """One context, an answer each."""
    texts = _texts(choices, "choices")
    requests = tuple(Request(context, f" {text}") for text in texts)
    return Example(requests, _gold(gold, len(texts)))


def _options(contexts: list[str], continuation: str, gold: Any) -> Example:
    """One continuation, a context each: what follows tells which option is meant."""
    requests = tuple(Request(context, f" {continuation.strip()}") for context in contexts)
    return Example(requests, _gold(gold, len(contexts)))


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
    """The number of the right answer, from 0; some sets write it as a text."""
    numbers = {str(i): i for i in range(count)}
    if isinstance(value, bool) or str(value) not in numbers:
        raise ValueError(f"right answer {value!r}: must be a number from 0 to {count - 1}")
    return numbers[str(value)]


_PLAIN = ("query", "choices", "gold")
TASKS = {
    task.name: task
    for task in (
        Task(
            "arc_easy",
            (Form(_PLAIN, _query), Form(("question", "choices", "answerKey"), _arc)),
            normalized=True,
        ),
        Task(
            "piqa",
            (Form(_PLAIN, _query), Form(("goal", "sol1", "sol2", "label"), _piqa)),
            normalized=True,
        ),
        Task(
            "hellaswag",
            (
                Form(("activity_label", "ctx_a", "ctx_b", "endings", "label"), _hellaswag),
                Form(_PLAIN, _plain_hellaswag),
            ),
            normalized=True,
        ),
        Task(
            "winogrande",
            (
                Form(("context_options", "continuation", "gold"), _plain_winogrande),
                Form(("sentence", "option1", "option2", "answer"), _winogrande),
            ),
        ),
        Task(
            "lambada",
            (Form(("context", "continuation"), _plain_lambada), Form(("text",), _lambada)),
            cloze=True,
        ),
    )
}


BATCH_TOKENS = {"cpu": 2048, "cuda": 1 << 15}  # places of a batch, padding included
MAX_EXPONENT = 709  # of e, before float64 overflows
ALIKE = 16  # rests of answers that differ by less may share a batch, whatever their beginnings
LOGITS = 1 << 25  # numbers at once: 128 MiB in fp32


class Window(NamedTuple):
    """Tokens that are read at once; of the last `scored` it is asked how likely they are."""

    request: int  # a request longer than the model's context has several windows
    ids: list[int]
    scored: int


class _Group(NamedTuple):
    """Windows that have their first `shared` tokens in common, and at most `rest` more each."""

    windows: list[Window]
    shared: int
    rest: int


class Scores(NamedTuple):
    """Of each request: log-likelihood in nats (float64), and whether greedy decoding gives it."""

    nats: np.ndarray
    greedy: np.ndarray


class Metric(NamedTuple):
    """A score, its standard error, chance, and how many standard errors of chance it is above."""

    name: str
    score: float
    stderr: float | None = None
    chance: float | None = None
    above_chance: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """What a model scores; `cut` examples had a context longer than the model's."""

    task: str
    examples: int
    cut: int
    metrics: tuple[Metric, ...]


def evaluate_task(
    task: Task,
    examples: Sequence[Example],
    model: LanguageModel,
    tokenizer: Tokenizer,
    ranks: Ranks,
    dtype: torch.dtype,
    *,
    done: Callable[[int], None] = lambda count: None,
) -> TaskResult:
    """Ask all examples, shared out over the ranks; all must call it. `done` hears how many are."""
    context = model.config.max_position_embeddings
    groups, cut, number = [], 0, 0
    for example in examples:
        pairs = [encode_pair(tokenizer, request) for request in example.requests]
        cut += any(len(prompt) + len(answer) - 1 > context for prompt, answer in pairs)
        numbered = enumerate(pairs, number)
        groups.append([w for i, pair in numbered for w in windows(i, *pair, context)])
        number += len(pairs)
    scores = score(model, groups, number, ranks, dtype, done=done)
    return TaskResult(task.name, len(examples), cut, _metrics(task, examples, scores))


def encode_pair(tokenizer: Tokenizer, request: Request) -> tuple[list[int], list[int]]:
    """Ids of the prompt, from the document boundary on, and of the answer, at least one.

    Blanks at the context's end are the answer's, since most tokens begin with a blank.
    """
    context = request.context.rstrip()
    ids = tokenizer.encode(request.context + request.continuation)
    end = min(len(tokenizer.encode(context)), len(ids) - 1)
    return [tokenizer.boundary, *ids[:end]], ids[end:]


def windows(request: int, prompt: list[int], answer: list[int], context: int) -> list[Window]:
    """A request's windows of at most `context` inputs and the last target, boundary first.

    A prompt too long loses tokens behind the boundary. An answer too long for that is asked in
    pieces, each with half a context or more before it.
    """
    size = len(answer) if len(answer) <= context else max(1, context // 2)
    made = []
    for first in range(0, len(answer), size):
        ids = [*prompt, *answer[: first + size]]
        if len(ids) > context + 1:
            ids = [*ids[:1], *ids[-context:]]
        made.append(Window(request, ids, len(answer[first : first + size])))
    return made


def score(
    model: LanguageModel,
    groups: Sequence[list[Window]],
    num_requests: int,
    ranks: Ranks,
    dtype: torch.dtype,
    *,
    batch_tokens: int = 0,
    done: Callable[[int], None] = lambda count: None,
) -> Scores:
    """Score the windows of each group, which begin alike, in batches of similar length.

    `batch_tokens` places are a batch, 0: as many as suit the device.
    """
    found = np.zeros((2, num_requests))
    places = batch_tokens or BATCH_TOKENS[ranks.device.type]
    batches = _batches(groups, model.config.max_position_embeddings, places)
    with evaluating(model):
        for number, batch in enumerate(batches):
            if number % ranks.world_size == ranks.rank:
                _score(model, batch, ranks, dtype, found)
            done(len(batch))
    nats, wrong = ranks.sum(torch.from_numpy(found).to(ranks.device)).cpu().numpy()
    return Scores(nats, wrong == 0)


def _batches(
    groups: Sequence[list[Window]], context: int, batch_tokens: int
) -> Iterator[list[_Group]]:
    """Groups of similar lengths together, the longest first, as many as fit when padded."""
    made: list[_Group] = []
    shared = rest = num_windows = 0
    ordered = sorted(map(_group, groups), key=lambda g: (g.rest // ALIKE, g.shared), reverse=True)
    for group in ordered:
        shared, rest = max(shared, group.shared), max(rest, group.rest)
        num_windows += len(group.windows)
        places = (len(made) + 1) * shared + num_windows * rest
        if made and (places > batch_tokens or shared + rest > context):
            yield made
            made, num_windows, shared, rest = [], len(group.windows), group.shared, group.rest
        made.append(group)
    if made:
        yield made


def _group(windows: list[Window]) -> _Group:
    most = min(len(window.ids) for window in windows) - 1  # the last token is read by none
    columns = zip(*(window.ids[:most] for window in windows), strict=True)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return _Group(windows, shared, max(len(window.ids) for window in windows) - 1 - shared)


def _score(
    model: LanguageModel, batch: list[_Group], ranks: Ranks, dtype: torch.dtype, sums: np.ndarray
) -> None:
    """Add to each request's nats, and to its tokens that are not the likeliest."""
    made = [window for group in batch for window in group.windows]
    targets = torch.tensor([i for w in made for i in w.ids[-w.scored :]], device=ranks.device)
    requests = np.repeat([w.request for w in made], [w.scored for w in made])
    with autocast(ranks.device, dtype):
        hidden = _hidden(model, batch, ranks.device)
        size = max(1, LOGITS // model.config.vocab_size)
        parts = [
            _of_targets(model.lm_head(some), own)
            for some, own in zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
        ]
    found, missed = (torch.cat(each).double().cpu().numpy() for each in zip(*parts, strict=True))
    np.add.at(sums[0], requests, found)
    np.add.at(sums[1], requests, missed)


def _of_targets(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood of each target (N) by its logits (N x V), and whether another is likelier."""
    wide = logits.float()
    found = wide.gather(1, targets[:, None])[:, 0] - wide.logsumexp(-1)
    return found, wide.argmax(-1) != targets


def _hidden(model: LanguageModel, batch: list[_Group], device: torch.device) -> Tensor:
    """Hidden states before each scored token, one window's after the other's."""
    shared, rest = [group.shared for group in batch], max(group.rest for group in batch)
    rows = [row for row, group in enumerate(batch) for _ in group.windows]
    windows = [window for group in batch for window in group.windows]
    cache = KeyValueCache(model.config.settings.num_hidden_layers, max(shared) + rest)
    begin = [group.windows[0].ids[: group.shared] for group in batch]
    states = [model.model(_padded(begin, max(shared), device), cache).flatten(0, 1)]
    if rest:
        cache.cut(shared)
        cache.keep(rows)
        ends = [w.ids[shared[row] : -1] for row, w in zip(rows, windows, strict=True)]
        states.append(model.model(_padded(ends, rest, device), cache).flatten(0, 1))
    places = []
    for number, (row, window) in enumerate(zip(rows, windows, strict=True)):
        for at in range(len(window.ids) - 1 - window.scored, len(window.ids) - 1):
            own = len(states[0]) + number * rest + at - shared[row]
            places.append(row * max(shared) + at if at < shared[row] else own)
    return torch.cat(states)[torch.tensor(places, device=device)]


def _padded(rows: list[list[int]], length: int, device: torch.device) -> Tensor:
    """Rows as a matrix; what is added comes after a row's tokens, which cannot see it."""
    filled = [row + [0] * (length - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.int64, device=device)


def _metrics(task: Task, examples: Sequence[Example], scores: Scores) -> tuple[Metric, ...]:
    if task.cloze:
        nats = -float(scores.nats.mean())
        perplexity = math.exp(nats) if nats < MAX_EXPONENT else math.inf
        right = scores.greedy.astype(float)
        return (_accuracy("acc", right, np.zeros(len(examples))), Metric("perplexity", perplexity))
    counts = np.array([len(example.requests) for example in examples])
    gold = np.array([example.gold for example in examples])
    parts = np.split(scores.nats, np.cumsum(counts)[:-1])
    best = np.array([part.argmax() for part in parts])
    found = [_accuracy("acc", best == gold, 1 / counts)]
    if task.normalized:
        sizes = [[request.size for request in example.requests] for example in examples]
        pairs = zip(parts, sizes, strict=True)
        best = np.array([(part / np.array(size)).argmax() for part, size in pairs])
        found.append(_accuracy("acc_norm", best == gold, 1 / counts))
    return tuple(found)


def _accuracy(name: str, right: np.ndarray, chances: np.ndarray) -> Metric:
    """Share of right answers; `chances` are those of each example to be guessed."""
    n, p, chance = len(right), float(right.mean()), float(chances.mean())
    spread = math.sqrt(float((chances * (1 - chances)).sum())) / n  # of guessing all examples
    above = (p - chance) / spread if spread else None
    return Metric(name, p, math.sqrt(p * (1 - p) / n), chance, above)
