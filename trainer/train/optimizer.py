"""The learning rate schedule, and AdamW for all weights or Muon for the layers' matrices.

The learning rate is a pure function of the step, so a run can start at any step.

AdamW (arXiv 1711.05101) is PyTorch's fused one: a single pass over weights, gradients and moments.
Muon (https://kellerjordan.github.io/posts/muon, arXiv 2502.16982) orthogonalizes a matrix's
momentum by five Newton-Schulz iterations: 15 matrix products per matrix and step, whatever the
batch, so it pays off from batches of `MUON_MIN_TOKENS` tokens on. Its update is scaled to the
usual size of AdamW's, so learning rates are of the same order. AdamW takes the other weights.

State is kept by parameter name, whole and in fp32: it does not depend on the number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from schemas.errors import UserError
from trainer.settings import OptimizerSettings, ScheduleSettings

MUON_MIN_TOKENS = 8192  # per step; below, Newton-Schulz takes a large part of the step
_SLOTS = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.Muon: ("momentum_buffer",),
}


def learning_rate_factor(settings: ScheduleSettings, step: int, num_steps: int) -> float:
    """Factor on the peak learning rate at `step` (0 .. `num_steps` - 1).

    Linear warmup reaches 1 at its last step. Then `cosine` decays along half a cosine
    (arXiv 1608.03983); `wsd` stays at 1 and decays linearly over the last `decay_fraction` of all
    steps (warmup-stable-decay, arXiv 2404.06395). Both reach `min_ratio` one step after the last,
    so that no step has a learning rate of 0.
    """
    start = settings.warmup_steps
    if step < start:
        return (step + 1) / start
    if settings.kind == "wsd":
        start = max(num_steps - round(settings.decay_fraction * num_steps), start)
    progress = min(1.0, max(0.0, (step - start) / max(1, num_steps - start)))
    shape = 1 - progress if settings.kind == "wsd" else 0.5 * (1 + math.cos(math.pi * progress))
    return settings.min_ratio + (1 - settings.min_ratio) * shape


class ModelOptimizer:
    """Updates every weight of a model; each of `parts` owns some of its parameters."""

    def __init__(self, model: nn.Module, parts: list[torch.optim.Optimizer], name: str) -> None:
        self.implementation = name
        self.parts = parts
        self._names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
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
        """A copy of the state on the CPU, by `{parameter}.{slot}`; empty before the first step.

        AdamW's slots are `step`, `exp_avg` and `exp_avg_sq`, Muon's is `momentum_buffer`.
        """
        return {
            f"{self._names[parameter]}.{slot}": value.detach().cpu().clone()
            for part in self.parts
            for parameter, slots in part.state.items()
            for slot, value in slots.items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore a `state`; `UserError` names an entry that is missing or unknown."""
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
    """The optimizer of `settings.kind`, at its peak learning rates."""
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
    settings: OptimizerSettings, tokens_per_step: int, bfloat16_is_fast: bool = True
) -> str | None:
    """Why Muon costs more than it gains here, if it does."""
    if settings.kind != "muon":
        return None
    if not bfloat16_is_fast:
        return (
            "optimizer.kind = 'muon': its matrix products are in bf16 whatever run.dtype is, and "
            "this device is slow at bf16; use 'adamw'"
        )
    if tokens_per_step >= MUON_MIN_TOKENS:
        return None
    return (
        f"optimizer.kind = 'muon' with {tokens_per_step:,} tokens per step: its matrix products "
        f"cost the same for any batch; use at least {MUON_MIN_TOKENS:,} tokens per step or 'adamw'"
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and embeddings (and a tied head) do not."""
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed = [p for p in model.parameters() if p.ndim >= 2 and p not in embeddings]
    kept = [p for p in model.parameters() if p.ndim < 2 or p in embeddings]
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
    """Each parameter of `part` with each of its state slots."""
    for group in part.param_groups:
        for parameter in group["params"]:
            for slot in _SLOTS[type(part)]:
                yield parameter, slot
