"""One training step: from a batch to new weights.

Each rank runs forward and backward on its rows of the global batch, in micro-batches that fit the
device. Gradients are summed over micro-batches and ranks and clipped, then the optimizer updates
the weights. The loss is the sum over targets divided by the number of targets in the global batch,
so it does not depend on micro-batches or ranks. Where loss or gradient is not finite, all ranks
skip the step and the weights stay as they were.

Model and loss are one torch.compile graph (inductor) where that pays. Compiling takes half a minute
or more, and what it saves per token grows with the model: `auto` compiles from `MIN_WORK` tokens
times parameters on, 5 million of each. With the loss in the graph, the B x T x V logits are read
once and never copied to fp32. The graph has the shape of a micro-batch; evaluation and generation
call the model itself, whose weights these are.

Inductor may sum in another order from run to run, so compiled runs use deterministic algorithms,
and on a GPU all runs do.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
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
EAGER, INDUCTOR = "eager", "inductor"  # compile modes, as checkpoints name them


@dataclass
class Training:
    """Everything a step needs.

    `losses` is `model` with its loss; `forward` is the same, compiled where that pays, with
    gradients averaged over the ranks. `rows` are this rank's rows of every global batch.
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
    """What one step measured: loss in nats per target, gradient norm before clipping.

    `targets` counts those of the global batch. `skipped`: loss or gradient norm was not finite.
    """

    loss: float
    targets: int
    grad_norm: float
    learning_rate: float
    seconds: float
    skipped: bool = False


class MicroBatch(NamedTuple):
    """Rows on the device, B x T each; without a document mask the last two are None."""

    inputs: Tensor
    targets: Tensor
    documents: Tensor | None = None
    positions: Tensor | None = None


def prepare(
    recipe: Recipe,
    loader: Loader,
    group: Ranks,
    model: LanguageModel,
    dtype: torch.dtype | None = None,
) -> Training:
    """Choose rows and number format (unless `dtype` is given), compile, build the optimizer."""
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


def train_step(training: Training, batch: Batch, step: int) -> Step:
    """Update the weights once, with this rank's rows of global batch `step`."""
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


def gradients(training: Training, batch: Batch) -> tuple[float, int]:
    """Accumulate the gradients of this rank's rows; returns the global batch's loss and targets."""
    group, forward = training.ranks, training.forward
    own_targets = int((batch.targets != IGNORED).sum())
    num_targets = int(group.sum(torch.tensor(own_targets, device=group.device)))
    total = torch.zeros((), device=group.device)
    parts = list(micro_batches(training, batch))
    # ranks exchange gradients once per step, with the last micro-batch
    no_sync = forward.no_sync if isinstance(forward, DistributedDataParallel) else nullcontext
    for i, micro_batch in enumerate(parts, 1):
        with no_sync() if i < len(parts) else nullcontext():
            loss = row_losses(training, forward, micro_batch).sum()
            # DDP divides by the number of ranks; the sum is wanted
            torch.autograd.backward(loss * (group.world_size / num_targets))
        total += loss.detach()
    return float(group.sum(total) / num_targets), num_targets


def micro_batches(training: Training, batch: Batch, size: int = 0) -> Iterator[MicroBatch]:
    """The batch on the device, `size` rows at a time (0: `run.device_batch_size`)."""
    arrays = [batch.inputs, batch.targets]
    if training.model.config.settings.document_mask:
        arrays += [batch.document_ids, batch.positions]
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    device = training.ranks.device
    if device.type == "cuda":
        tensors = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
    size = size or training.recipe.run.device_batch_size or len(batch.inputs)
    for parts in zip(*(torch.split(tensor, size) for tensor in tensors), strict=True):
        yield MicroBatch(*parts)


def row_losses(training: Training, losses: nn.Module, micro_batch: MicroBatch) -> Tensor:
    """Sum of each row's losses in nats, B."""
    with autocast(training.ranks.device, training.dtype):
        return losses(*micro_batch)  # type: ignore[no-any-return]


def rows_not_finite(training: Training, batch: Batch) -> list[int]:
    """Rows of the global batch whose own loss or gradient is not finite; all ranks must call it.

    Cost: a forward and backward pass per row, and memory for a second set of gradients.
    """
    found = torch.zeros(training.recipe.data.batch_size, device=training.ranks.device)
    weights = list(training.model.parameters())
    for i, row in enumerate(micro_batches(training, batch, size=1)):
        loss = row_losses(training, training.losses, row).sum()
        # autograd.grad leaves the weights' own gradients, and DDP's hooks on them, alone
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        values = [loss, *(gradient for gradient in gradients if gradient is not None)]
        found[training.rows.start + i] = float(not all(v.isfinite().all() for v in values))
    return torch.nonzero(training.ranks.sum(found)).flatten().tolist()


class RowLosses(nn.Module):
    """A model that returns the loss of each row: what a training step calls."""

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
        """Sum of each row's losses in fp32 nats, B; arguments are B x T each."""
        logits = self.model(tokens, documents=documents, positions=positions)
        return token_losses(logits, targets).sum(1)


def compile_model(
    setting: Literal["auto", "on", "off"], model: nn.Module, num_tokens: int, device: torch.device
) -> tuple[nn.Module, str]:
    """What to call in place of `model` in a run of `num_tokens`, and the compile mode's name.

    `auto` compiles where the run is long enough and a compiler is found, and falls back to eager
    with a line on stderr if compiling fails; `on` raises `UserError`. DDP wraps the result, so the
    graph does not contain it.
    """
    if device.type == "cuda":
        be_deterministic(device)
    if setting == "off" or (setting == "auto" and not pays(model, num_tokens)):
        return model, EAGER
    problem = missing_compiler(device)
    if problem is None and (problem := _compile_error(device)) and setting == "auto":
        print(f"run.compile = 'auto': {problem}; running uncompiled", file=sys.stderr)
    if problem is None:
        be_deterministic(device)
        graph: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
        return graph, INDUCTOR
    if setting == "on":
        raise UserError(
            f"run.compile = 'on': {problem}; 'auto' then runs uncompiled, 'off' always does"
        )
    return model, EAGER


def pays(model: nn.Module, num_tokens: int) -> bool:
    """Whether a run is long enough to win back the time that compiling takes."""
    return num_tokens * sum(parameter.numel() for parameter in model.parameters()) >= MIN_WORK


def missing_compiler(device: torch.device) -> str | None:
    """What inductor lacks: a C++ compiler for a CPU, Triton for a GPU."""
    if device.type == "cuda":
        return None if find_spec("triton") else "compiling for a GPU needs the package triton"
    default = "clang++" if sys.platform == "darwin" else "g++"  # inductor's own choice
    program = os.environ.get("CXX", default)
    return (
        None if shutil.which(program) else f"compiling needs a C++ compiler ({program} not found)"
    )


def be_deterministic(device: torch.device) -> None:
    """Make equal input give equal bits in this process from here on."""
    if device.type == "cuda":  # cuBLAS reads it at its first use and raises an error without it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # No memory is read here before it is written, so filling it first only costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _compile_error(device: torch.device) -> str | None:
    """The first line of what compiling and calling a small graph raises, if anything."""
    try:
        torch.compile(_small_graph, dynamic=False)(torch.zeros(64, device=device))
    except Exception as error:  # compilers raise errors of many types
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"compiling failed ({type(error).__name__}: {lines[0] if lines else 'no reason'})"
    return None


def _small_graph(x: Tensor) -> Tensor:
    return (x * 2 + 1).sum()
