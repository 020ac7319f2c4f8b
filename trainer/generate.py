"""Draw text from a model, one token at a time, with the keys and values of the past kept.

Ids that mean nothing and control tokens other than the document boundary can never come out. The
boundary ends the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.kv_cache import KeyValueCache
from trainer.model import LanguageModel
from trainer.settings import SampleSettings

Finish = Literal["boundary", "stop", "max_tokens", "context"]


@dataclass(frozen=True)
class Generation:
    """Text without the prompt, its ids, and what ended it."""

    text: str
    ids: tuple[int, ...]
    finish: Finish


def generate(model: LanguageModel, tokenizer: Tokenizer, settings: SampleSettings) -> Generation:
    """Continue `settings.prompt`, which begins a document; `UserError` on a prompt too long."""
    prompt = [tokenizer.boundary, *tokenizer.encode(settings.prompt)]
    context = model.config.max_position_embeddings
    if len(prompt) > context:
        raise UserError(f"prompt: {len(prompt)} tokens, this model reads at most {context}")
    ids: list[int] = []
    text = b""
    finish: Finish = "max_tokens" if settings.max_tokens <= context - len(prompt) else "context"
    for token in sample_tokens(model, prompt, forbidden_ids(tokenizer), settings):
        if token == tokenizer.boundary:
            finish = "boundary"
            break
        ids.append(token)
        text += tokenizer.decode_bytes([token])
        if (end := _stop_at(text, settings.stop)) is not None:
            text, finish = text[:end], "stop"
            break
    return Generation(text.decode("utf-8", errors="replace"), tuple(ids), finish)


@torch.no_grad()
def sample_tokens(
    model: LanguageModel,
    prompt: list[int],
    forbidden: list[int],
    settings: SampleSettings,
    use_cache: bool = True,
) -> Iterator[int]:
    """Yield up to `max_tokens` ids after `prompt`, fewer where the context is full.

    `use_cache=False` reads everything again for each token: the oracle of the cache.
    """
    was_training = model.training
    model.eval()
    device = model.lm_head.weight.device
    random = torch.Generator().manual_seed(settings.seed)
    cache = KeyValueCache(model.config.settings.num_hidden_layers) if use_cache else None
    room = model.config.max_position_embeddings - len(prompt)
    tokens, new = list(prompt), list(prompt)
    try:
        for _ in range(min(settings.max_tokens, room)):
            inputs = torch.tensor([new if use_cache else tokens], device=device)
            logits = model(inputs, cache)[0, -1].float().cpu()
            logits[forbidden] = -torch.inf
            token = pick(logits, settings, random)
            tokens.append(token)
            new = [token]
            yield token
    finally:
        model.train(was_training)


def pick(logits: Tensor, settings: SampleSettings, random: torch.Generator) -> int:
    """One id from `logits` (V): greedy at temperature 0, else drawn from what top-k and -p leave.

    `top_p` keeps the fewest likeliest ids whose probabilities reach it (arXiv 1904.09751).
    """
    if settings.temperature == 0:
        return int(logits.argmax())
    logits = logits / settings.temperature
    if 0 < settings.top_k < len(logits):
        least = logits.topk(settings.top_k).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if settings.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        before = ordered.cumsum(-1) - ordered
        probabilities[order[before >= settings.top_p]] = 0
    return int(torch.multinomial(probabilities, 1, generator=random))


def forbidden_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids that must not be sampled: undefined ones and control tokens except the boundary."""
    control = {*tokenizer.special_tokens.values(), *tokenizer.control_ids.values()}
    return sorted((control | set(tokenizer.undefined_ids)) - {tokenizer.boundary})


def _stop_at(text: bytes, stops: tuple[str, ...]) -> int | None:
    """Where the first stop text begins; None where there is none."""
    found = [at for stop in stops if (at := text.find(stop.encode())) >= 0]
    return min(found, default=None)
