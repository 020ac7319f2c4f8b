"""The training step: it learns, and micro-batches change nothing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from trainer.data.loader import IGNORED
from trainer.distributed import Ranks
from trainer.settings import PretrainRecipe
from trainer.train.request import RunRequest, open_data
from trainer.train.run import prepare_training
from trainer.train.step import Step, Training, gradients, rows_not_finite, train_step
from trainer.train.weights import initial_weights

ALONE = Ranks(torch.device("cpu"))


def start(recipe: PretrainRecipe, shards_folder: Path, **changes: object) -> Training:
    """A training with changes given as section__name=value."""
    for name, value in changes.items():
        section, key = name.split("__")
        part = dataclasses.replace(getattr(recipe, section), **{key: value})
        recipe = dataclasses.replace(recipe, **{section: part})
    request = RunRequest("pretrain", recipe, Path("nowhere"), (shards_folder,))
    loader, _ = open_data(request)
    return prepare_training(request, loader, ALONE, initial_weights(request, loader, ALONE))


def step_of(training: Training, number: int) -> Step:
    """Step `number` with its own batch."""
    return train_step(training, training.loader.batch(number, training.rows), number)


def test_the_loss_goes_down(recipe: PretrainRecipe, shards_folder: Path) -> None:
    training = start(recipe, shards_folder, run__num_steps=40)
    losses = [step_of(training, step).loss for step in range(40)]
    assert losses[0] == pytest.approx(math.log(320), abs=0.2)
    assert losses[-1] < losses[0] - 2


def test_one_batch_can_be_memorized(recipe: PretrainRecipe, shards_folder: Path) -> None:
    training = start(
        recipe,
        shards_folder,
        run__num_steps=150,
        model__hidden_size=64,
        optimizer__weight_decay=0.0,
    )
    for _ in range(150):
        loss = step_of(training, 0).loss
    assert loss < 0.7  # what follows a boundary cannot be known; chance is 5.8


def test_the_first_loss_is_the_mean_over_all_targets(
    recipe: PretrainRecipe, shards_folder: Path
) -> None:
    training = start(recipe, shards_folder)
    batch = training.loader.batch(3)
    logits = training.model(torch.from_numpy(batch.inputs)).detach().double()
    expected = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten())
    loss, targets = gradients(training, batch)
    assert loss == pytest.approx(float(expected), abs=1e-6)
    assert targets == (batch.targets != IGNORED).sum()


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_micro_batches_have_the_gradients_of_the_whole(
    recipe: PretrainRecipe, shards_folder: Path, rows: int
) -> None:
    whole = start(recipe, shards_folder)
    parts = start(recipe, shards_folder, run__device_batch_size=rows)
    batch = whole.loader.batch(1)
    assert gradients(parts, batch)[0] == pytest.approx(gradients(whole, batch)[0], abs=1e-6)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_two_runs_are_equal_bit_for_bit(recipe: PretrainRecipe, shards_folder: Path) -> None:
    a, b = start(recipe, shards_folder), start(recipe, shards_folder)
    for step in range(3):
        assert step_of(a, step).loss == step_of(b, step).loss
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(x, y)


def test_clipping_keeps_the_gradient_within_its_norm(
    recipe: PretrainRecipe, shards_folder: Path
) -> None:
    training = start(recipe, shards_folder, optimizer__max_grad_norm=0.01)
    seen: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        squares = [p.grad.square().sum() for p in training.model.parameters() if p.grad is not None]
        seen.append(float(torch.stack(squares).sum().sqrt()))

    training.optimizer.parts[0].register_step_pre_hook(note)
    assert step_of(training, 0).grad_norm > 0.1
    assert seen == pytest.approx([0.01], rel=1e-3)


def test_a_step_that_is_not_finite_leaves_the_weights_alone(
    recipe: PretrainRecipe, shards_folder: Path
) -> None:
    training = start(recipe, shards_folder, model__tie_word_embeddings=False)
    step_of(training, 0)
    batch = training.loader.batch(1)
    rows_of = {t: np.flatnonzero((batch.inputs == t).any(1)).tolist() for t in range(320)}
    token, rows = next((t, rows) for t, rows in rows_of.items() if 0 < len(rows) < 4)
    with torch.no_grad():
        training.model.model.embed_tokens.weight[token] = math.inf
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    state = training.optimizer.state()
    step = train_step(training, batch, 1)
    assert step.skipped
    assert not math.isfinite(step.loss)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in training.optimizer.state().items():
        assert torch.equal(value, state[name])
    assert rows_not_finite(training, batch) == rows
