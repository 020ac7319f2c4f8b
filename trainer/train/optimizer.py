"""AdamW for all weights, or Muon for the layers' matrices and AdamW for the rest.

AdamW (arXiv 1711.05101) is PyTorch's fused one: a single pass over weights, gradients and moments.
Muon (https://kellerjordan.github.io/posts/muon, arXiv 2502.16982) makes a matrix's momentum
orthogonal before it is added, by five rounds of Newton-Schulz: 15 products of matrices a step for
each matrix, whatever the batch, so it wants batches of `MUON_MIN_TOKENS` tokens or more. Its update
is scaled to the size that AdamW's usually has, so both go by learning rates of the same order.

State is kept by parameter name, whole and in fp32, so it is the same for any number of ranks.

The learning rate as a pure function of the step, so that any step can be started at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from schemas.errors import UserError
from trainer.settings import OptimizerSettings, ScheduleSettings


def learning_rate_factor(settings: ScheduleSettings, step: int, num_steps: int) -> float:
    """What the peak learning rate is multiplied by at `step` (0 .. `num_steps` - 1).

    Linear warmup reaches 1 at its last step. After it `cosine` falls along half a cosine
    (arXiv 1608.03983); `wsd` stays at 1 and falls linearly over the last `decay_fraction` of all
    steps (warmup-stable-decay, arXiv 2404.06395). Both arrive at `min_ratio` one step after the
    last, so that no step is spent on a learning rate of nothing.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.kind == "cosine":
        progress = _progress(step, settings.warmup_steps, num_steps)
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay_start = num_steps - round(settings.decay_fraction * num_steps)
        shape = 1 - _progress(step, max(decay_start, settings.warmup_steps), num_steps)
    return settings.min_ratio + (1 - settings.min_ratio) * shape


def _progress(step: int, start: int, end: int) -> float:
    """How far `step` is from `start` (0) to `end` (1)."""
    return min(1.0, max(0.0, (step - start) / max(1, end - start)))


MUON_MIN_TOKENS = 8192  # tokens a step below which Newton-Schulz is a large part of the step
_SLOTS = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.Muon: ("momentum_buffer",),
}


class ModelOptimizer:
    """Updates every weight of a model; `parts` share its parameters out between them."""

    def __init__(self, model: nn.Module, parts: list[torch.optim.Optimizer], name: str) -> None:
        self.implementation = name
        self.parts = parts
        self._names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters()
        }
        self._peaks = [[group["lr"] for group in part.param_groups] for part in parts]

    def step(self) -> None:
        """Update the weights from their gradients."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self.parts:
            part.zero_grad()

    def set_learning_rate_factor(self, factor: float) -> None:
        """Multiply the peak learning rates by `factor` from the next step on."""
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def state(self) -> dict[str, Tensor]:
        """What the steps so far have left, by `{parameter}.{slot}`, on the CPU; empty before one.

        AdamW's slots are `step`, `exp_avg` and `exp_avg_sq`, Muon's is `momentum_buffer`.
        """
        return {
            f"{self._names[parameter]}.{slot}": value.detach().cpu().clone()
            for part in self.parts
            for parameter, slots in part.state.items()
            for slot, value in slots.items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`; `UserError` names what it lacks or has beyond this optimizer's."""
        known = {f"{self._names[p]}.{slot}" for part in self.parts for p, slot in _slots(part)}
        if state and state.keys() != known:
            odd = sorted(state.keys() ^ known)[0]
            problem = "is missing" if odd in known else "belongs to another optimizer or model"
            raise UserError(f"optimizer state for {self.implementation}: {odd} {problem}")
        for part in self.parts:
            part.state.clear()
            for parameter, slot in _slots(part) if state else ():
                value = state[f"{self._names[parameter]}.{slot}"].to(parameter.device, copy=True)
                part.state[parameter][slot] = value


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> ModelOptimizer:
    """The optimizer that `settings.kind` names, at its peak learning rates."""
    if settings.kind == "adamw":
        groups = parameter_groups(model, settings.weight_decay)
        return ModelOptimizer(model, [_adamw(groups, settings)], "fused AdamW")
    matrices = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    muon = torch.optim.Muon(
        matrices,
        lr=settings.muon_learning_rate,
        weight_decay=settings.weight_decay,
        momentum=settings.muon_momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    taken = set(matrices)
    groups = parameter_groups(model, settings.weight_decay)
    rest = [{**g, "params": [p for p in g["params"] if p not in taken]} for g in groups]
    rest = [group for group in rest if group["params"]]
    return ModelOptimizer(model, [muon, _adamw(rest, settings)], "Muon + fused AdamW")


def muon_warning(
    settings: OptimizerSettings, tokens_a_step: int, bfloat16_is_fast: bool = True
) -> str | None:
    """What to say where Muon costs more than it can win; None where there is nothing to say."""
    if settings.kind != "muon":
        return None
    if not bfloat16_is_fast:
        return (
            "optimizer.kind = 'muon': its matrix products are in bf16 whatever run.dtype says, and "
            "this device is slow at bf16; take 'adamw'"
        )
    if tokens_a_step >= MUON_MIN_TOKENS:
        return None
    return (
        f"optimizer.kind = 'muon' with {tokens_a_step:,} tokens a step: its matrix products cost "
        f"the same whatever the batch; take at least {MUON_MIN_TOKENS:,} tokens a step, or 'adamw'"
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and embeddings (a tied head with them) do not."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
        (decayed if is_matrix else kept).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def _adamw(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )


def _slots(part: torch.optim.Optimizer) -> Iterator[tuple[nn.Parameter, str]]:
    """Each parameter of `part` with each name of its state."""
    for group in part.param_groups:
        for parameter in group["params"]:
            for slot in _SLOTS[type(part)]:
                yield parameter, slot
