"""Scores of tasks by log-likelihood: how likely a model finds each candidate answer.

Context and continuation are encoded as one text and split where the context's own tokens end; the
document boundary comes first. The candidates of an example mostly share a prefix. It is read once,
into a cache of keys and values, and each candidate continues from a copy. Examples of similar
length share a batch, and the head computes logits only where they are scored.
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
from trainer.evaluate.loss import evaluating
from trainer.evaluate.tasks import Candidate, Example, Task
from trainer.model.model import KeyValueCache, LanguageModel
from trainer.model.precision import autocast

BATCH_TOKENS = {"cpu": 2048, "cuda": 1 << 15}  # positions of a batch, padding included
MAX_EXPONENT = 709  # of e, before float64 overflows
ALIKE = 16  # groups whose `rest` differs by less may share a batch, whatever their prefixes
LOGITS = 1 << 25  # numbers at once: 128 MiB in fp32


class Metric(NamedTuple):
    """A score, its standard error, chance, and how many standard errors of guessing it is above."""

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
