"""Tasks by log-likelihood: how likely a model finds each answer to a question.

An example's answers mostly share their beginning, so that is read once: the first tokens that all
have in common fill the cache of keys and values, each answer goes on from a copy of it. Examples
are read in batches of similar length, and the head sees only the places that are asked about.
Context and answer are encoded as one text and parted where the context's own tokens end, as
EleutherAI's lm-evaluation-harness does; the document boundary comes first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from schemas.tokenizer import Tokenizer
from trainer.distributed import Ranks
from trainer.evaluate import evaluating
from trainer.kv_cache import KeyValueCache
from trainer.model import LanguageModel
from trainer.precision import autocast
from trainer.task_forms import Example, Request, Task

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
