"""Draw the next id from a model's logits.

The settings apply in transformers' order, each to what the one before it left: repetition penalty,
temperature, top-k, top-p, min-p. Cost: a partial sort of the vocabulary with `top_k`, a full one
without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from schemas.errors import UserError
from trainer.settings import SampleSettings


def pick(
    logits: Tensor, settings: SampleSettings, random: torch.Generator, seen: Tensor | None = None
) -> int:
    """One id from `logits` (V, fp32): the likeliest at temperature 0, else drawn.

    `seen` (V, bool) are the ids that `repetition_penalty` applies to. `UserError` on logits that
    are not finite.
    """
    if not logits.max().isfinite():
        raise UserError("the model's logits are not finite: its weights diverged or are damaged")
    if settings.temperature == 0:
        return int(penalized(logits, settings.repetition_penalty, seen).argmax())
    ids, probabilities = distribution(logits, settings, seen)
    return int(ids[torch.multinomial(probabilities, 1, generator=random)])


def distribution(
    logits: Tensor, settings: SampleSettings, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ids and the probability of each (fp64, sum 1); the temperature must be above 0.

    `top_p` keeps the fewest likeliest ids whose probabilities reach it (arXiv 1904.09751), `min_p`
    those at least `min_p` times as likely as the likeliest (arXiv 2407.01082).
    """
    logits = penalized(logits, settings.repetition_penalty, seen)
    values, ids = logits.topk(min(settings.top_k or len(logits), len(logits)))
    # In fp64 and at most 0, so that no temperature, however small, overflows.
    probabilities = ((values - values[0]).double() / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.where(before < settings.top_p, 0)
    if settings.min_p > 0:
        least = settings.min_p * probabilities[0]
        probabilities = probabilities.where(probabilities >= least, 0)
    return ids, probabilities / probabilities.sum()


def penalized(logits: Tensor, penalty: float, seen: Tensor | None) -> Tensor:
    """Logits with `seen` ids divided by `penalty`, negative ones multiplied (arXiv 1909.05858)."""
    if seen is None or penalty == 1:
        return logits
    less = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, less, logits)
