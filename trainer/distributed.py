"""Ranks, and what they exchange.

Under `torchrun` each process is a rank with its share of every batch; otherwise there is one rank
and nothing is sent. The backend is gloo on CPU and nccl on GPU.
"""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from schemas.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process, one of `world_size`, and its device."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum `values` over the ranks, in place; all ranks must call it."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def first(self, number: int) -> int:
        """The first rank's `number`, on every rank; all ranks must call it."""
        if self.world_size == 1:
            return number
        sent = torch.tensor([number if self.is_first else 0], device=self.device)
        return int(self.sum(sent).item())

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank; all ranks must call it."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor([int(flag)], device=self.device)).item())

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the ranks."""
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


@contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """Join the process group that torchrun's environment describes, and leave it at the end.

    The result of `Ranks.wrap` must not outlive the block, so create it in a function of its own.
    Its reducer holds the group: if it is freed last, it joins the group's threads while it holds
    the interpreter's lock, and deadlocks with a thread that needs the lock to free its work.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world_size == 1:
        yield Ranks(chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(chosen, dist.get_rank(), world_size)
    except BaseException as error:
        for one in filter(None, (error, error.__context__)):  # frames may hold the wrapped model
            traceback.clear_frames(one.__traceback__)
        raise
    finally:
        gc.collect()
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; under torchrun each process has its own GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU; use --device cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(
            f"--device cuda: no GPU for process {local_rank}, there are {count}; start at most "
            f"{count} processes"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
