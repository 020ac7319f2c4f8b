"""One training step, from a batch to new weights.

This rank's rows of the global batch go forward and backward in pieces that fit the device; the
gradients are summed over pieces and ranks, clipped, and AdamW takes a step. The loss is the sum
over targets divided by the number of targets in the whole global batch, so that neither pieces nor
ranks change it.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from schemas.errors import UserError
from trainer.data import Shards, rank_rows, train_batch
from trainer.distributed import Ranks
from trainer.evaluate import IGNORED, bytes_of_tokens, token_losses
from trainer.model import LanguageModel, ModelConfig
from trainer.optimizer import adamw, set_learning_rate
from trainer.precision import autocast, choose_dtype
from trainer.schedule import learning_rate_factor
from trainer.settings import PretrainRecipe


@dataclass
class Training:
    """Everything a step needs; `wrapped` is `model` with gradients averaged over the ranks."""

    recipe: PretrainRecipe
    shards: Shards
    ranks: Ranks
    dtype: torch.dtype
    model: LanguageModel
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    token_bytes: Tensor


@dataclass(frozen=True)
class Step:
    """What one step measured: loss in nats a target, gradient norm before clipping."""

    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float


def prepare(recipe: PretrainRecipe, shards: Shards, group: Ranks) -> Training:
    """Model, optimizer and number format; equal weights on every rank from the seed."""
    if recipe.run.num_threads:
        torch.set_num_threads(recipe.run.num_threads)
    tokenizer = shards.tokenizer
    config = ModelConfig(
        recipe.model, tokenizer.padded_vocab_size, tokenizer.boundary, recipe.data.seq_len
    )
    torch.manual_seed(recipe.run.seed)
    model = LanguageModel(config).to(group.device)  # drawn on the CPU: the same on any device
    return Training(
        recipe=recipe,
        shards=shards,
        ranks=group,
        dtype=choose_dtype(recipe.run.dtype, group),
        model=model,
        wrapped=group.wrap(model),
        optimizer=adamw(model, recipe.optimizer),
        token_bytes=bytes_of_tokens(tokenizer).to(group.device),
    )


def gradients(training: Training, step: int) -> float:
    """Add up the gradients of global batch `step`; returns its loss in nats a target."""
    data, group = training.recipe.data, training.ranks
    rows = rank_rows(data.batch_size, group.rank, group.world_size)
    batch = torch.from_numpy(
        train_batch(training.shards.train, data.seq_len, data.batch_size, step, rows)
    )
    if group.device.type == "cuda":
        batch = batch.pin_memory().to(group.device, non_blocking=True)
    num_targets = group.sum((batch[:, 1:] != IGNORED).sum())
    pieces = torch.split(batch, training.recipe.run.device_batch_size or len(rows))
    total = torch.zeros((), device=group.device)
    for i, piece in enumerate(pieces):
        with _send_gradients(training.wrapped, last=i == len(pieces) - 1):
            with autocast(group.device, training.dtype):
                logits = training.wrapped(piece[:, :-1])
            loss = token_losses(logits, piece[:, 1:]).sum()
            # DDP divides by the ranks; the sum is wanted
            torch.autograd.backward(loss * (group.world_size / num_targets))
        total += loss.detach()
    return float(group.sum(total) / num_targets)


def train_step(training: Training, step: int) -> Step:
    """One update of the weights with global batch `step`; `UserError` where the loss is lost."""
    start = time.perf_counter()
    recipe = training.recipe
    factor = learning_rate_factor(recipe.schedule, step, recipe.run.num_steps)
    learning_rate = recipe.optimizer.learning_rate * factor
    set_learning_rate(training.optimizer, learning_rate)
    loss = gradients(training, step)
    limit = recipe.optimizer.max_grad_norm or math.inf
    norm = float(nn.utils.clip_grad_norm_(training.model.parameters(), limit))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f"step {step + 1}: loss {loss}, gradient norm {norm}: training diverged; lower "
            f"optimizer.learning_rate = {recipe.optimizer.learning_rate} or raise "
            f"schedule.warmup_steps = {recipe.schedule.warmup_steps}"
        )
    training.optimizer.step()
    training.optimizer.zero_grad()
    return Step(loss, norm, learning_rate, time.perf_counter() - start)


def _send_gradients(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Ranks exchange gradients once a step, with the last piece."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
