"""The choice of dtype, for fast and slow CPUs."""

from __future__ import annotations

import pytest
import torch

from trainer.distributed import Ranks
from trainer.model.precision import autocast, bfloat16_is_faster, choose_dtype

CPU = torch.device("cpu")
ALONE = Ranks(CPU)


def pretend(monkeypatch: pytest.MonkeyPatch, slowdown: float) -> list[torch.dtype]:
    """bf16 takes `slowdown` times what fp32 takes; returns the dtypes that were tried."""
    tried: list[torch.dtype] = []

    def seconds(operands: tuple[torch.Tensor, torch.Tensor]) -> float:
        tried.append(operands[0].dtype)
        return 1e-3 * (slowdown if operands[0].dtype == torch.bfloat16 else 1.0)

    monkeypatch.setattr("trainer.model.precision._seconds", seconds)
    return tried


@pytest.mark.parametrize(
    ("slowdown", "chosen"),
    [(0.5, torch.bfloat16), (0.9, torch.float32), (1.0, torch.float32), (400.0, torch.float32)],
)
def test_auto_takes_bfloat16_only_where_it_is_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, slowdown: float, chosen: torch.dtype
) -> None:
    pretend(monkeypatch, slowdown)
    assert choose_dtype("auto", ALONE) == chosen


def test_no_probe_is_made_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, 0.5)
    assert bfloat16_is_faster(CPU)
    assert set(tried) == {torch.float32, torch.bfloat16}


def test_a_cpu_that_is_very_slow_at_bfloat16_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = pretend(monkeypatch, 400.0)
    assert not bfloat16_is_faster(CPU)
    assert tried.count(torch.bfloat16) == 2  # one to warm up, one that is timed


def test_a_setting_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, 400.0)
    assert choose_dtype("bfloat16", ALONE) == torch.bfloat16
    assert choose_dtype("float32", ALONE) == torch.float32
    assert tried == []


def test_all_ranks_take_what_the_first_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, 0.5)
    monkeypatch.setattr(Ranks, "first", lambda self, number: 1)  # as the first rank said
    assert choose_dtype("auto", Ranks(CPU, rank=1, world_size=2)) == torch.bfloat16
    assert tried == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_the_chosen_format(dtype: torch.dtype) -> None:
    with autocast(CPU, dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
