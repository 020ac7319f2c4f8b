"""The training step: it learns, and pieces of a batch change nothing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.data import open_shards, train_batch
from trainer.distributed import Ranks
from trainer.evaluate import bytes_of_tokens, validate, validation_windows
from trainer.model import LanguageModel
from trainer.optimizer import parameter_groups
from trainer.precision import bfloat16_is_faster, choose_dtype
from trainer.settings import PretrainRecipe
from trainer.step import Training, gradients, prepare, train_step

ALONE = Ranks(torch.device("cpu"))


def start(recipe: PretrainRecipe, shards_folder: Path, **changes: object) -> Training:
    """A training with changes given as section__name=value."""
    for name, value in changes.items():
        section, key = name.split("__")
        part = dataclasses.replace(getattr(recipe, section), **{key: value})
        recipe = dataclasses.replace(recipe, **{section: part})
    return prepare(recipe, open_shards(shards_folder), ALONE)


def test_the_loss_goes_down(recipe: PretrainRecipe, shards_folder: Path) -> None:
    training = start(recipe, shards_folder, run__num_steps=40)
    losses = [train_step(training, step).loss for step in range(40)]
    assert losses[0] == pytest.approx(math.log(320), abs=0.2)
    assert losses[-1] < losses[0] - 2


def test_one_batch_can_be_learned_by_heart(recipe: PretrainRecipe, shards_folder: Path) -> None:
    training = start(
        recipe,
        shards_folder,
        run__num_steps=150,
        model__hidden_size=64,
        optimizer__weight_decay=0.0,
    )
    for _ in range(150):
        loss = train_step(training, 0).loss
    assert loss < 0.7  # what follows a boundary cannot be known; chance is 5.8


def test_the_first_loss_is_the_mean_over_all_targets(
    recipe: PretrainRecipe, shards_folder: Path
) -> None:
    training = start(recipe, shards_folder)
    batch = torch.from_numpy(train_batch(training.shards.train, 32, 4, 3))
    logits = training.model(batch[:, :-1]).detach().double()
    expected = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    assert gradients(training, 3) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("pieces", [1, 3, 4])
def test_pieces_of_a_batch_have_the_gradients_of_the_whole(
    recipe: PretrainRecipe, shards_folder: Path, pieces: int
) -> None:
    whole = start(recipe, shards_folder)
    parts = start(recipe, shards_folder, run__device_batch_size=pieces)
    assert gradients(parts, 1) == pytest.approx(gradients(whole, 1), abs=1e-6)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_two_runs_are_equal_bit_for_bit(recipe: PretrainRecipe, shards_folder: Path) -> None:
    a, b = start(recipe, shards_folder), start(recipe, shards_folder)
    for step in range(3):
        assert train_step(a, step).loss == train_step(b, step).loss
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(x, y)


def test_norms_and_embeddings_do_not_decay(untied_model: LanguageModel) -> None:
    decayed, kept = parameter_groups(untied_model, 0.1)
    names = {id(p): name for name, p in untied_model.named_parameters()}
    kept_names = {names[id(p)] for p in kept["params"]}  # type: ignore[attr-defined]
    decayed_names = {names[id(p)] for p in decayed["params"]}  # type: ignore[attr-defined]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert kept_names == {n for n in names.values() if "norm" in n or "embed" in n}
    assert kept_names | decayed_names == set(names.values())


def test_a_tied_head_does_not_decay(model: LanguageModel) -> None:
    _, kept = parameter_groups(model, 0.1)
    assert any(p is model.lm_head.weight for p in kept["params"])  # type: ignore[attr-defined]


def test_clipping_keeps_the_gradient_within_its_norm(
    recipe: PretrainRecipe, shards_folder: Path
) -> None:
    training = start(recipe, shards_folder, optimizer__max_grad_norm=0.01)
    seen: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        squares = [p.grad.square().sum() for p in training.model.parameters() if p.grad is not None]
        seen.append(float(torch.stack(squares).sum().sqrt()))

    training.optimizer.register_step_pre_hook(note)
    assert train_step(training, 0).grad_norm > 0.1
    assert seen == pytest.approx([0.01], rel=1e-3)


def test_a_lost_loss_stops_with_the_setting_to_change(
    recipe: PretrainRecipe, shards_folder: Path
) -> None:
    training = start(recipe, shards_folder)
    with torch.no_grad():
        training.model.model.norm.weight[0] = math.inf
    with pytest.raises(UserError, match=r"step 1: .*training diverged; lower optimizer.learning"):
        train_step(training, 0)


def test_validation_measures_every_target_and_every_byte_once(
    recipe: PretrainRecipe, shards_folder: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    """Against one row that holds the whole split, window by window."""
    shards = open_shards(shards_folder)
    tokens = shards.validation.read(0, len(shards.validation)).astype(np.int64)
    nats, text_nats = [], []
    for first in range(0, len(tokens) - 1, 32):
        window = torch.from_numpy(tokens[first : first + 33])
        with torch.no_grad():
            logp = model(window[None, :-1])[0].double().log_softmax(-1)
        for i, target in enumerate(window[1:].tolist()):
            nats.append(-float(logp[i, target]))
            if target != tokenizer.boundary:
                text_nats.append(nats[-1])
    found = validate(
        model,
        shards.validation,
        bytes_of_tokens(tokenizer),
        ALONE,
        torch.float32,
        seq_len=32,
        batch_size=3,
    )
    text_bytes = shards.manifest.extra["text_bytes"]["validation"]
    assert found.targets == len(tokens) - 1 == len(nats)
    assert found.loss == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(sum(text_nats) / math.log(2) / text_bytes, rel=1e-5)


@pytest.mark.parametrize(
    ("num_tokens", "most", "windows"),
    [(1, 0, 1), (2, 0, 1), (33, 0, 1), (34, 0, 2), (330, 0, 11), (330, 4, 4), (33, 4, 1)],
)
def test_windows_cover_the_split(num_tokens: int, most: int, windows: int) -> None:
    assert validation_windows(num_tokens, 32, most) == range(windows)


def test_the_dtype_is_what_the_setting_says_and_never_fp16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose_dtype("float32", ALONE) == torch.float32
    assert choose_dtype("bfloat16", ALONE) == torch.bfloat16
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("trainer.precision.bfloat16_is_faster", lambda _, fast=fast: fast)
        assert choose_dtype("auto", ALONE) == dtype


@pytest.mark.parametrize(("slowdown", "chosen"), [(0.5, True), (1.0, False), (40.0, False)])
def test_bfloat16_is_chosen_only_where_it_is_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, slowdown: float, chosen: bool
) -> None:
    def seconds(operands: tuple[torch.Tensor, torch.Tensor]) -> float:
        return 1e-3 * (slowdown if operands[0].dtype == torch.bfloat16 else 1.0)

    monkeypatch.setattr("trainer.precision._seconds", seconds)
    assert bfloat16_is_faster(torch.device("cpu")) is chosen
