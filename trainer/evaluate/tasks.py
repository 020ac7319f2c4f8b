"""Tasks scored by log-likelihood: how likely a model finds each candidate answer to a question.

Each task asks what EleutherAI's lm-evaluation-harness asks: a context, and the continuations whose
log-likelihoods are compared; the space between the two belongs to the continuation. Both are
encoded as one text and split where the context's own tokens end; the document boundary comes
first. A row of a file has the task's published columns, or the plain ones of MosaicML's
llm-foundry (`query`, `choices`, `gold`; `context_options`, `continuation`, `gold`; `context`,
`continuation`).

The candidates of an example mostly share a prefix. It is read once, into a cache of keys and
values, and each candidate continues from a copy. Examples of similar length share a batch, and the
head computes logits only where they are scored.
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

BATCH_TOKENS = {"cpu": 2048, "cuda": 1 << 15}  # positions of a batch, padding included
MAX_EXPONENT = 709  # of e, before float64 overflows
ALIKE = 16  # groups whose `rest` differs by less may share a batch, whatever their prefixes
LOGITS = 1 << 25  # numbers at once: 128 MiB in fp32

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


class Metric(NamedTuple):
    """A score, its standard error, chance, and how many standard errors it is above chance."""

    name: str
    score: float
    stderr: float | None = None
    chance: float | None = None
    above_chance: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """What a model scores; `cut` counts examples with a context too long for the model."""

    task: str
    examples: int
    cut: int
    metrics: tuple[Metric, ...]


class ScoredSpan(NamedTuple):
    """Tokens that are read at once, of which the last `scored` are scored."""

    candidate: int  # one with an answer longer than the model's context has several spans
    ids: list[int]
    scored: int


class _PrefixGroup(NamedTuple):
    """Spans that share their first `shared` tokens and have at most `rest` more each."""

    spans: list[ScoredSpan]
    shared: int
    rest: int


class Scores(NamedTuple):
    """By candidate: log-likelihood in nats (float64), and whether greedy decoding gives it."""

    nats: np.ndarray
    greedy: np.ndarray


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
    """Score all examples, shared by the ranks; all must call it. `done` gets counts of examples."""
    context = model.config.max_position_embeddings
    groups, cut, count = [], 0, 0
    for example in examples:
        pairs = [encode_pair(tokenizer, candidate) for candidate in example.candidates]
        cut += any(len(prompt) + len(answer) - 1 > context for prompt, answer in pairs)
        numbered = enumerate(pairs, count)
        groups.append([span for i, pair in numbered for span in scored_spans(i, *pair, context)])
        count += len(pairs)
    scores = score(model, groups, count, ranks, dtype, done=done)
    return TaskResult(task.name, len(examples), cut, _metrics(task, examples, scores))


def encode_pair(tokenizer: Tokenizer, candidate: Candidate) -> tuple[list[int], list[int]]:
    """Ids of the prompt, from the document boundary on, and of the answer, at least one.

    Blanks at the context's end go to the answer, since most tokens begin with a blank.
    """
    context = candidate.context.rstrip()
    ids = tokenizer.encode(candidate.context + candidate.continuation)
    end = min(len(tokenizer.encode(context)), len(ids) - 1)
    return [tokenizer.boundary, *ids[:end]], ids[end:]


def scored_spans(
    candidate: int, prompt: list[int], answer: list[int], context: int
) -> list[ScoredSpan]:
    """Spans of at most `context` inputs and the last target, boundary first.

    A prompt that is too long loses tokens after the boundary. An answer that is too long is split,
    with half a context or more before each part.
    """
    size = len(answer) if len(answer) <= context else max(1, context // 2)
    spans = []
    for first in range(0, len(answer), size):
        ids = [*prompt, *answer[: first + size]]
        if len(ids) > context + 1:
            ids = [*ids[:1], *ids[-context:]]
        spans.append(ScoredSpan(candidate, ids, len(answer[first : first + size])))
    return spans


def score(
    model: LanguageModel,
    groups: Sequence[list[ScoredSpan]],
    num_candidates: int,
    ranks: Ranks,
    dtype: torch.dtype,
    *,
    batch_tokens: int = 0,
    done: Callable[[int], None] = lambda count: None,
) -> Scores:
    """Score the spans of each group, which share a prefix, in batches of similar length.

    A batch has `batch_tokens` positions (0: as many as suit the device).
    """
    found = np.zeros((2, num_candidates))
    size = batch_tokens or BATCH_TOKENS[ranks.device.type]
    batches = _batches(groups, model.config.max_position_embeddings, size)
    with evaluating(model):
        for number, batch in enumerate(batches):
            if number % ranks.world_size == ranks.rank:
                _score_batch(model, batch, ranks, dtype, found)
            done(len(batch))
    nats, wrong = ranks.sum(torch.from_numpy(found).to(ranks.device)).cpu().numpy()
    return Scores(nats, wrong == 0)


def _batches(
    groups: Sequence[list[ScoredSpan]], context: int, batch_tokens: int
) -> Iterator[list[_PrefixGroup]]:
    """Groups of similar length, the longest first, as many as fit when padded."""
    batch: list[_PrefixGroup] = []
    shared = rest = num_spans = 0
    found = [_prefix_group(spans) for spans in groups]
    for group in sorted(found, key=lambda g: (g.rest // ALIKE, g.shared), reverse=True):
        shared, rest = max(shared, group.shared), max(rest, group.rest)
        num_spans += len(group.spans)
        positions = (len(batch) + 1) * shared + num_spans * rest
        if batch and (positions > batch_tokens or shared + rest > context):
            yield batch
            batch, num_spans, shared, rest = [], len(group.spans), group.shared, group.rest
        batch.append(group)
    if batch:
        yield batch


def _prefix_group(spans: list[ScoredSpan]) -> _PrefixGroup:
    most = min(len(span.ids) for span in spans) - 1  # the last token is never an input
    columns = zip(*(span.ids[:most] for span in spans), strict=True)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return _PrefixGroup(spans, shared, max(len(span.ids) for span in spans) - 1 - shared)


def _score_batch(
    model: LanguageModel,
    batch: list[_PrefixGroup],
    ranks: Ranks,
    dtype: torch.dtype,
    sums: np.ndarray,
) -> None:
    """Add to each candidate's nats, and to its number of tokens that are not the likeliest."""
    spans = [span for group in batch for span in group.spans]
    targets = torch.tensor([i for s in spans for i in s.ids[-s.scored :]], device=ranks.device)
    candidates = np.repeat([s.candidate for s in spans], [s.scored for s in spans])
    with autocast(ranks.device, dtype):
        hidden = _hidden(model, batch, ranks.device)
        size = max(1, LOGITS // model.config.vocab_size)
        parts = [
            _of_targets(model.lm_head(some), own)
            for some, own in zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
        ]
    nats, missed = (torch.cat(each).double().cpu().numpy() for each in zip(*parts, strict=True))
    np.add.at(sums[0], candidates, nats)
    np.add.at(sums[1], candidates, missed)


def _of_targets(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood of each target (N) by its logits (N x V), and whether another is likelier."""
    wide = logits.float()
    nats = wide.gather(1, targets[:, None])[:, 0] - wide.logsumexp(-1)
    return nats, wide.argmax(-1) != targets


def _hidden(model: LanguageModel, batch: list[_PrefixGroup], device: torch.device) -> Tensor:
    """Hidden states before each scored token, span by span."""
    shared, rest = [group.shared for group in batch], max(group.rest for group in batch)
    rows = [row for row, group in enumerate(batch) for _ in group.spans]
    spans = [span for group in batch for span in group.spans]
    cache = KeyValueCache(model.config.settings.num_hidden_layers, max(shared) + rest)
    prefixes = [group.spans[0].ids[: group.shared] for group in batch]
    states = [model.model(_padded(prefixes, max(shared), device), cache).flatten(0, 1)]
    if rest:
        cache.cut(shared)
        cache.keep(rows)
        ends = [span.ids[shared[row] : -1] for row, span in zip(rows, spans, strict=True)]
        states.append(model.model(_padded(ends, rest, device), cache).flatten(0, 1))
    positions = []
    for number, (row, span) in enumerate(zip(rows, spans, strict=True)):
        for at in range(len(span.ids) - 1 - span.scored, len(span.ids) - 1):
            own = len(states[0]) + number * rest + at - shared[row]
            positions.append(row * max(shared) + at if at < shared[row] else own)
    return torch.cat(states)[torch.tensor(positions, device=device)]


def _padded(rows: list[list[int]], length: int, device: torch.device) -> Tensor:
    """Rows as a matrix, padded at the end, which a row's tokens cannot see."""
    filled = [row + [0] * (length - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.int64, device=device)


def _metrics(task: Task, examples: Sequence[Example], scores: Scores) -> tuple[Metric, ...]:
    if task.cloze:
        nats = -float(scores.nats.mean())
        perplexity = math.exp(nats) if nats < MAX_EXPONENT else math.inf
        right = scores.greedy.astype(float)
        return (_accuracy("acc", right, np.zeros(len(examples))), Metric("perplexity", perplexity))
    counts = np.array([len(example.candidates) for example in examples])
    gold = np.array([example.gold for example in examples])
    by_example = np.split(scores.nats, np.cumsum(counts)[:-1])
    best = np.array([nats.argmax() for nats in by_example])
    found = [_accuracy("acc", best == gold, 1 / counts)]
    if task.normalized:
        sizes = [np.array([c.size for c in example.candidates]) for example in examples]
        pairs = zip(by_example, sizes, strict=True)
        best = np.array([(nats / size).argmax() for nats, size in pairs])
        found.append(_accuracy("acc_norm", best == gold, 1 / counts))
    return tuple(found)


def _accuracy(name: str, right: np.ndarray, chances: np.ndarray) -> Metric:
    """Share of right answers; `chances` are the probabilities of guessing each example."""
    n, p, chance = len(right), float(right.mean()), float(chances.mean())
    spread = math.sqrt(float((chances * (1 - chances)).sum())) / n  # of guessing all examples
    above = (p - chance) / spread if spread else None
    return Metric(name, p, math.sqrt(p * (1 - p) / n), chance, above)
