"""The model and its loss as one compiled graph, where that pays.

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

import os
import shutil
import sys
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from schemas.errors import UserError
from trainer.evaluate import token_losses

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
