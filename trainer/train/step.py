"""One training step, from a batch to new weights.

This rank's rows of the global batch go forward and backward in pieces that fit the device; the
gradients are summed over pieces and ranks, clipped, and the optimizer takes a step. The loss is the
sum over targets divided by the number of targets in the whole global batch, so that neither pieces
nor ranks change it. Where loss or gradient is not finite, all ranks see so alike, and the weights
stay as they were.

The model and its loss as one compiled graph, where that pays.

torch.compile (its `inductor` backend) fuses what lies between the matrix products into a few loops
of C++ or Triton. It needs a compiler, and half a minute or more before the first step; the rest of
the run must win that back. What is won a token grows with the model, so the rule is tokens times
parameters: `MIN_WORK` is 5 million tokens of a model of 5 million parameters.

The loss belongs in the graph: B x T x V logits are then read once, and no fp32 copy of them is
written. The graph is made for one shape, that of a piece of a batch; evaluation and generation call
the model itself, whose weights these are.

A compiled graph may add up in another order in another run of the same program, where it is not
told to be deterministic. So compiled runs are, and those on a GPU even where nothing is compiled.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from schemas.errors import UserError
from trainer.data.loader import IGNORED, Batch, Loader, rank_rows
from trainer.distributed import Ranks
from trainer.evaluate.loss import token_losses
from trainer.model.model import LanguageModel
from trainer.model.precision import autocast, choose_dtype
from trainer.settings import Recipe
from trainer.train.optimizer import ModelOptimizer, build_optimizer, learning_rate_factor

MIN_WORK = 5_000_000 * 5_000_000  # tokens x parameters
EAGER, INDUCTOR = "eager", "inductor"  # the modes, as checkpoints name them


class RowLosses(nn.Module):
    """A model that gives the loss of each row: what a training step calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Sum of each row's losses in fp32 nats, B; what is given is B x T each."""
        logits = self.model(tokens, documents=documents, positions=positions)
        return token_losses(logits, targets).sum(1)


def compile_model(
    setting: Literal["auto", "on", "off"], model: nn.Module, num_tokens: int, device: torch.device
) -> tuple[nn.Module, str]:
    """What to call in place of `model` in a run of `num_tokens`, and the mode's name.

    `auto` compiles where the run is long enough and a compiler there; one that fails is told of on
    stderr, and the run goes on without. `on` compiles, or raises `UserError`. Ranks wrap what comes
    back, not the other way round: the graph then knows nothing of them.
    """
    if device.type == "cuda":
        be_deterministic(device)
    if setting == "off" or (setting == "auto" and not pays(model, num_tokens)):
        return model, EAGER
    problem = missing_compiler(device)
    if problem is None and (problem := _failure(device)) and setting == "auto":
        print(f"run.compile = 'auto': {problem}; going on without", file=sys.stderr)
    if problem is None:
        be_deterministic(device)
        graph: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
        return graph, INDUCTOR
    if setting == "on":
        raise UserError(f"run.compile = 'on': {problem}; 'auto' goes on without, 'off' never tries")
    return model, EAGER


def pays(model: nn.Module, num_tokens: int) -> bool:
    """Whether a run is long enough to win back what compiling takes."""
    return num_tokens * sum(parameter.numel() for parameter in model.parameters()) >= MIN_WORK


def missing_compiler(device: torch.device) -> str | None:
    """What inductor would not find: a C++ compiler for a CPU, Triton for a GPU."""
    if device.type == "cuda":
        return None if find_spec("triton") else "compiling for a GPU needs the package triton"
    default = "clang++" if sys.platform == "darwin" else "g++"  # inductor's own choice
    program = os.environ.get("CXX", default)
    return None if shutil.which(program) else f"compiling needs a C++ compiler, {program} is none"


def be_deterministic(device: torch.device) -> None:
    """Equal input, equal bits, from here on in this process."""
    if device.type == "cuda":  # cuBLAS refuses otherwise; it looks when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before it is written, so that filling it first is for nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _failure(device: torch.device) -> str | None:
    """The first line of what a small compiled graph raises, if it does."""
    try:
        torch.compile(_probe, dynamic=False)(torch.zeros(64, device=device))
    except Exception as error:  # compilers fail in ways of their own
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"compiling failed ({type(error).__name__}: {lines[0] if lines else 'no reason'})"
    return None


def _probe(x: Tensor) -> Tensor:
    return (x * 2 + 1).sum()


@dataclass
class Training:
    """Everything a step needs.

    `losses` is `model` with its loss, `forward` the same, compiled where that pays, with gradients
    averaged over the ranks; `rows` are this rank's of every global batch.
    """

    recipe: Recipe
    loader: Loader
    ranks: Ranks
    dtype: torch.dtype
    model: LanguageModel
    losses: RowLosses
    forward: nn.Module
    compile_mode: str
    optimizer: ModelOptimizer
    rows: range


@dataclass(frozen=True)
class Step:
    """What one step measured: loss in nats a target, gradient norm before clipping.

    `skipped`: one of them was not finite, and the weights were left alone. `targets` are those of
    the global batch.
    """

    loss: float
    targets: int
    grad_norm: float
    learning_rate: float
    seconds: float
    skipped: bool = False


class Piece(NamedTuple):
    """Some rows on the device, B x T each; without a document mask the last two are None."""

    inputs: Tensor
    targets: Tensor
    documents: Tensor | None
    positions: Tensor | None


def prepare(
    recipe: Recipe,
    loader: Loader,
    group: Ranks,
    model: LanguageModel,
    dtype: torch.dtype | None = None,
) -> Training:
    """Optimizer, number format (`dtype`: already known) and compiled form of a model."""
    if recipe.run.num_threads:
        torch.set_num_threads(recipe.run.num_threads)
    rows = rank_rows(
        recipe.data.batch_size, group.rank, group.world_size, recipe.run.device_batch_size
    )
    num_tokens = recipe.run.num_steps * recipe.data.batch_size * recipe.data.seq_len
    losses = RowLosses(model)
    compiled, mode = compile_model(recipe.run.compile, losses, num_tokens, group.device)
    return Training(
        recipe=recipe,
        loader=loader,
        ranks=group,
        dtype=dtype or choose_dtype(recipe.run.dtype, group),
        model=model,
        losses=losses,
        forward=group.wrap(compiled),
        compile_mode=mode,
        optimizer=build_optimizer(model, recipe.optimizer),
        rows=rows,
    )


def pieces(training: Training, batch: Batch, size: int = 0) -> Iterator[Piece]:
    """The batch on the device, `size` rows at a time (0: as `run.device_batch_size` says)."""
    arrays = [batch.inputs, batch.targets]
    if training.model.config.settings.document_mask:
        arrays += [batch.document_ids, batch.positions]
    size = size or training.recipe.run.device_batch_size or len(batch.inputs)
    split = [torch.split(_to_device(array, training.ranks.device), size) for array in arrays]
    for parts in zip(*split, strict=True):
        yield Piece(parts[0], parts[1], *(parts[2:] or (None, None)))


def gradients(training: Training, batch: Batch) -> tuple[float, int]:
    """Add up the gradients of this rank's rows; returns the global batch's loss and targets."""
    group = training.ranks
    own_targets = int((batch.targets != IGNORED).sum())
    num_targets = int(group.sum(torch.tensor(own_targets, device=group.device)))
    total = torch.zeros((), device=group.device)
    parts = list(pieces(training, batch))
    for i, piece in enumerate(parts):
        with _send_gradients(training.forward, last=i == len(parts) - 1):
            loss = row_losses(training, training.forward, piece).sum()
            # DDP divides by the ranks; the sum is wanted
            torch.autograd.backward(loss * (group.world_size / num_targets))
        total += loss.detach()
    return float(group.sum(total) / num_targets), num_targets


def row_losses(training: Training, losses: nn.Module, piece: Piece) -> Tensor:
    """Sum of the losses of each row's targets in nats, B."""
    with autocast(training.ranks.device, training.dtype):
        return losses(*piece)  # type: ignore[no-any-return]


def train_step(training: Training, batch: Batch, step: int) -> Step:
    """One update of the weights with this rank's rows of global batch `step`."""
    start = time.perf_counter()
    recipe = training.recipe
    factor = learning_rate_factor(recipe.schedule, step, recipe.run.num_steps)
    training.optimizer.set_learning_rate_factor(factor)
    loss, targets = gradients(training, batch)
    limit = recipe.optimizer.max_grad_norm or math.inf
    norm = float(nn.utils.clip_grad_norm_(training.model.parameters(), limit))
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite:
        training.optimizer.step()
    training.optimizer.zero_grad()
    learning_rate = recipe.optimizer.learning_rate * factor
    seconds = time.perf_counter() - start
    return Step(loss, targets, norm, learning_rate, seconds, skipped=not finite)


def rows_not_finite(training: Training, batch: Batch) -> list[int]:
    """Rows of the global batch whose own loss or gradient is not finite; all ranks must call it.

    Cost: one row at a time forward, backward and a second set of gradients.
    """
    found = torch.zeros(training.recipe.data.batch_size, device=training.ranks.device)
    weights = list(training.model.parameters())
    for i, piece in enumerate(pieces(training, batch, size=1)):
        loss = row_losses(training, training.losses, piece).sum()
        # autograd.grad leaves the weights' own gradients, and DDP's hooks on them, alone
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        values = [loss, *(gradient for gradient in gradients if gradient is not None)]
        found[training.rows.start + i] = float(not all(v.isfinite().all() for v in values))
    return torch.nonzero(training.ranks.sum(found)).flatten().tolist()


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def _send_gradients(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Ranks exchange gradients once a step, with the last piece."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
