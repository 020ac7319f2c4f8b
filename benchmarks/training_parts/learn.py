"""The parts `learn` and `overfit` of training.py."""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from common.bench import Bench, Figure, at_most, figures_table
from common.page_texts import page_texts
from corpus.tokens import bpe
from trainer.data.loader import Loader
from trainer.distributed import Ranks
from trainer.evaluate.loss import bytes_of_tokens, validate
from trainer.model.model import LanguageModel, ModelConfig
from trainer.settings import (
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    PretrainRecipe,
    RunSettings,
    ScheduleSettings,
)
from trainer.train.step import Training, prepare, train_step
from training_parts.text_shards import byte_tokenizer, held_out, write

CPU = Ranks(torch.device("cpu"))
SHAKESPEARE = str(Path(__file__).parents[3] / "shared" / "corpora" / "tinyshakespeare.txt")
NANOGPT_LOSS = 1.88  # README of nanoGPT, "I only have a macbook": 4 layers, 2,000 steps


@dataclass(frozen=True)
class Task:
    """What is learned, and by which recipe; the seed is the order's and the first weights'."""

    name: str
    folder: Path
    recipe: PretrainRecipe
    plans: Path

    def loader(self, split: Any, seed: int) -> Loader:
        """The batches of a split."""
        data = self.recipe.data
        packing: Any = "concat" if split == "train" else "best_fit"
        return Loader(
            [self.folder], seq_len=data.seq_len, rows=data.batch_size, packing=packing,
            seed=seed, split=split, cache=self.plans,
        )  # fmt: skip

    def loss(self, model: nn.Module) -> float:
        """Nats a token of the held-out split, all of it, in fp32."""
        loader = self.loader("validation", 0)
        sizes = bytes_of_tokens(loader.shards.tokenizer)
        return validate(model, loader, sizes, CPU, torch.float32).loss


def learn(bench: Bench, arguments: argparse.Namespace) -> Table:
    """Held-out loss after equal tokens, beside nanoGPT's and beside transformers' Qwen3."""
    figures: list[Figure] = []
    if arguments.only != "pages":
        figures += _characters(bench, arguments)
    if arguments.only != "characters":
        figures += _pages(bench, arguments)
    return figures_table(f"Held-out loss in nats a token, seeds: {arguments.seeds}", figures)


def overfit(bench: Bench, arguments: argparse.Namespace) -> Table:
    """One batch is learned by heart."""
    text = Path(arguments.text).read_text(encoding="utf-8")
    folder = write(bench.work / "one", _characters_splits(text), byte_tokenizer())
    recipe = PretrainRecipe(
        model=ModelSettings(hidden_size=128, num_hidden_layers=2, head_dim=32,
                            intermediate_size=384, document_mask=False),
        data=DataSettings(seq_len=128, batch_size=4),
        optimizer=OptimizerSettings(weight_decay=0.0),
        run=RunSettings(num_steps=200, dtype="float32"),
    )  # fmt: skip
    task = Task("one batch", folder, recipe, bench.work / "plans")
    training = _prepare(task, 0)
    batch = training.loader.batch(0)
    losses = [train_step(training, batch, step).loss for step in range(200)]
    figures = [
        Figure("loss of the first step", "", f"{losses[0]:.3f}"),
        at_most("loss of step 200", losses[-1], 0.05),
    ]
    return figures_table("One batch of 4 x 128 characters, 200 times", figures)


def _characters(bench: Bench, arguments: argparse.Namespace) -> list[Figure]:
    """nanoGPT's settings for a laptop's CPU: 4 layers of 4 heads, width 128, T 64, 12 rows."""
    text = Path(arguments.text).read_text(encoding="utf-8")
    folder = write(bench.work / "characters", _characters_splits(text), byte_tokenizer())
    recipe = PretrainRecipe(
        model=ModelSettings(hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
                            num_key_value_heads=4, head_dim=32, intermediate_size=320),
        data=DataSettings(seq_len=64, batch_size=12),
        optimizer=OptimizerSettings(learning_rate=3e-3),
        schedule=ScheduleSettings(warmup_steps=100, min_ratio=0.1),
        run=RunSettings(num_steps=2000),
    )  # fmt: skip
    task = Task("characters", folder, recipe, bench.work / "plans")
    losses = [_train(bench, task, seed) for seed in range(arguments.seeds)]
    return [
        Figure("nanoGPT's published loss, 0.80 M parameters", "", f"{NANOGPT_LOSS}"),
        Figure("ours, parameters", "", f"{_prepare(task, 0).model.num_parameters:,}"),
        at_most(f"ours, mean ({_spread(losses)})", statistics.mean(losses), NANOGPT_LOSS),
    ]


def _pages(bench: Bench, arguments: argparse.Namespace) -> list[Figure]:
    """Our model and trainer, and transformers' in a plain loop, on the same batches."""
    texts = page_texts(arguments.crawl, bench.console)
    folder = write(bench.work / "pages", held_out(texts), bpe.train(texts, 1024, "bpe"))
    recipe = PretrainRecipe(
        model=ModelSettings(hidden_size=128, num_hidden_layers=2, head_dim=32,
                            intermediate_size=384, document_mask=False),
        data=DataSettings(seq_len=128, batch_size=8),
        run=RunSettings(num_steps=400, dtype="float32"),
    )  # fmt: skip
    task = Task("pages", folder, recipe, bench.work / "plans")
    ours = [_train(bench, task, seed) for seed in range(arguments.seeds)]
    theirs = [_train_transformers(bench, task, seed) for seed in range(arguments.seeds)]
    apart = statistics.mean(ours) - statistics.mean(theirs)
    noise = 2 * math.hypot(_deviation(ours), _deviation(theirs)) / math.sqrt(len(ours))
    return [
        Figure(
            f"transformers' Qwen3, mean ({_spread(theirs)})", "", f"{statistics.mean(theirs):.3f}"
        ),
        Figure(f"ours, mean ({_spread(ours)})", "", f"{statistics.mean(ours):.3f}"),
        Figure("noise: two standard errors of the difference", "", f"{noise:.3f}"),
        at_most("ours above transformers'", apart, round(max(noise, 0.01), 3)),
    ]


def _train(bench: Bench, task: Task, seed: int) -> float:
    """Train by the trainer's own step; the held-out loss."""
    training = _prepare(task, seed)
    steps = task.recipe.run.num_steps
    batches = training.loader.batches(0, steps)
    for batch in track(batches, f"{task.name}, seed {seed}", steps, console=bench.console):
        train_step(training, batch, batch.step)
    return task.loss(training.model)


def _prepare(task: Task, seed: int) -> Training:
    loader = task.loader("train", seed)
    torch.manual_seed(seed)
    tokenizer = loader.shards.tokenizer
    settings, seq_len = task.recipe.model, task.recipe.data.seq_len
    config = ModelConfig(settings, tokenizer.padded_vocab_size, tokenizer.boundary, seq_len)
    return prepare(task.recipe, loader, CPU, LanguageModel(config))


class _Logits(nn.Module):
    """transformers' model as `validate` calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor, **_: object) -> torch.Tensor:
        """B x T ids to B x T x V logits."""
        return self.model(input_ids=tokens, use_cache=False).logits  # type: ignore[no-any-return]


def _train_transformers(bench: Bench, task: Task, seed: int) -> float:
    """transformers' Qwen3 and its first weights, in a loop that knows only the batches."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    loader, m, steps = task.loader("train", seed), task.recipe.model, task.recipe.run.num_steps
    torch.manual_seed(1000 + seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=loader.shards.tokenizer.padded_vocab_size,
            hidden_size=m.hidden_size,
            intermediate_size=m.intermediate_size,
            num_hidden_layers=m.num_hidden_layers,
            num_attention_heads=m.num_attention_heads,
            num_key_value_heads=m.num_key_value_heads,
            head_dim=m.head_dim,
            tie_word_embeddings=True,
            max_position_embeddings=task.recipe.data.seq_len,
            rope_parameters={"rope_type": "default", "rope_theta": m.rope_theta},
            attn_implementation="sdpa",
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, (0.9, 0.95), weight_decay=0.1)
    for step in track(range(steps), f"transformers, seed {seed}", console=bench.console):
        warm = min(1.0, (step + 1) / 10)
        decay = 0.5 * (1 + math.cos(math.pi * max(0, step - 10) / (steps - 10)))
        optimizer.param_groups[0]["lr"] = 3e-3 * warm * decay
        batch = loader.batch(step)
        inputs, targets = (
            torch.from_numpy(batch.inputs.copy()),
            torch.from_numpy(batch.targets.copy()),
        )
        logits = model(input_ids=inputs, use_cache=False).logits
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return task.loss(_Logits(model))


def _characters_splits(text: str) -> dict[str, list[str]]:
    """nanoGPT's: the first nine tenths, and the last."""
    cut = len(text) * 9 // 10
    return {"train": [text[:cut]], "validation": [text[cut:]]}


def _deviation(losses: list[float]) -> float:
    return statistics.stdev(losses) if len(losses) > 1 else 0.0


def _spread(losses: list[float]) -> str:
    return ", ".join(f"{loss:.3f}" for loss in losses)
