"""The part `speed` of training.py: steps of the trainer's loop against plain PyTorch, in turns."""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from common.bench import Bench, Figure, at_least, at_most, figures_table
from common.page_texts import page_texts
from corpus.tokens import bpe
from trainer.data.loader import Batch, Loader
from trainer.distributed import Ranks
from trainer.model.model import LanguageModel, ModelConfig
from trainer.model.precision import bfloat16_is_faster
from trainer.progress import Reporter
from trainer.settings import (
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    PretrainRecipe,
    RunSettings,
)
from trainer.train import run_folder
from trainer.train.run import Run
from trainer.train.step import prepare
from training_parts.plain_model import PlainModel, plain_step
from training_parts.text_shards import held_out, write

CPU = Ranks(torch.device("cpu"))
VOCABULARY, SEQ_LEN, ROWS = 4096, 256, 16
MODEL = ModelSettings(tie_word_embeddings=False)  # depth 4, width 256
WARM = 2  # steps of each after its first that do not count


class Took(NamedTuple):
    """Seconds of one step: by the clock, of this process's CPU time, and by the clock in parts."""

    wall: float
    cpu: float
    inside: float  # forward, backward, optimizer
    waited: float  # for the batch


class Ours:
    """The trainer's own loop, a step at a time, its log and progress line included."""

    def __init__(
        self, folder: Path, out: Path, dtype: Any, compile_setting: Any, kind: Any = "adamw"
    ) -> None:
        self.loader = Loader(
            [folder], seq_len=SEQ_LEN, rows=ROWS, vocab_size=VOCABULARY, cache=out / "plans"
        )
        recipe = PretrainRecipe(
            model=MODEL,
            data=DataSettings(seq_len=SEQ_LEN, batch_size=ROWS),
            optimizer=OptimizerSettings(kind),
            run=RunSettings(num_steps=10_000, dtype=dtype, compile=compile_setting),
        )
        torch.manual_seed(0)
        boundary = self.loader.shards.tokenizer.boundary
        model = LanguageModel(ModelConfig(MODEL, VOCABULARY, boundary, SEQ_LEN))
        self.training = prepare(recipe, self.loader, CPU, model)
        run_folder.begin(out, {}, 0)
        console = Console(file=open(out / "progress.txt", "w"), width=100)  # noqa: SIM115
        self.run = Run(self.training, self.loader, out, console, {"kind": "pretrain"})
        self.reporter = Reporter(console, 10_000, 10)
        self.batches = self.loader.batches()
        self.steps = itertools.count(1)
        self.inside = Clock()

    def step(self) -> Took:
        """The next step, from asking for its batch to its line in the log."""
        self.inside.seconds, waited = 0.0, self.loader.wait_seconds
        wall, cpu = time.perf_counter(), time.process_time()
        with self._timed():
            self.run.step(next(self.steps), next(self.batches), self.reporter)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Took(wall, cpu, self.inside.seconds, self.loader.wait_seconds - waited)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count what goes into forward, backward and optimizer, clipping included."""
        training, clock = self.training, self.inside
        places: list[tuple[Any, str]] = [
            (training, "forward"),
            (torch.autograd, "backward"),
            (nn.utils, "clip_grad_norm_"),
            (training.optimizer, "step"),
            (training.optimizer, "zero_grad"),
        ]
        originals = [getattr(owner, name) for owner, name in places]
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, clock.timed(original))
        try:
            yield
        finally:
            for (owner, name), original in zip(places, originals, strict=True):
                setattr(owner, name, original)


class Clock:
    """Adds up the seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with its time added."""

        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **named)
            self.seconds += time.perf_counter() - began
            return result

        return call


class Plain:
    """The reference, on batches of the same shards that are made before its clock starts."""

    def __init__(self, loader: Loader) -> None:
        torch.manual_seed(0)
        m = MODEL
        self.model = PlainModel(
            VOCABULARY, m.hidden_size, m.num_hidden_layers, m.num_attention_heads,
            m.num_key_value_heads, m.intermediate_size, SEQ_LEN,
        )  # fmt: skip
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1
        )
        self.loader, self.steps = loader, itertools.count()

    def step(self) -> Took:
        """The next step, its batch at hand."""
        batch = tensors(self.loader.batch(next(self.steps)))
        wall, cpu = time.perf_counter(), time.process_time()
        plain_step(self.model, self.optimizer, batch)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Took(wall, cpu, wall, 0.0)


def tensors(batch: Batch) -> tuple[torch.Tensor, ...]:
    """Inputs, targets, documents and positions, B x T each."""
    arrays = (batch.inputs, batch.targets, batch.document_ids, batch.positions)
    return tuple(torch.from_numpy(array.copy()) for array in arrays)


def speed(bench: Bench, arguments: argparse.Namespace) -> Table:
    """Steps of the trainer's loop, in each number format, and of plain PyTorch."""
    texts = page_texts(arguments.crawl, bench.console)
    with bench.console.status("training a BPE, writing shards"):
        tokenizer = bpe.train(texts, VOCABULARY, "bpe")
        folder = write(bench.work / "speed", held_out(texts), tokenizer)
    fast = bfloat16_is_faster(CPU.device)
    plain = "plain PyTorch, fp32"
    ours = _ours(folder, bench.work, "bfloat16" if fast else "float32", arguments.muon)
    one = next(iter(ours.values()))
    variants: dict[str, Any] = {plain: Plain(one.loader), **ours}
    _require_the_same_model(variants[plain], one)
    took: dict[str, list[Took]] = {name: [] for name in variants}
    rounds = 1 + WARM + arguments.steps
    for number in range(rounds):
        for name, variant in variants.items():
            with bench.console.status(f"round {number + 1} of {rounds}: {name}"):
                took[name].append(variant.step())
    counted = {name: steps[1 + WARM :] for name, steps in took.items()}
    figures = [figure for name in variants for figure in _figures(name, counted[name])]
    target = 1.6 if fast else 1.05
    figures += [f for name in ours for f in _ratios(name, counted[name], counted[plain], target)]
    best = next(name for name in ours if "compiled" in name)
    figures += [
        at_most("outside forward, backward, optimizer (compiled)", _outside(counted[best]), 3, "%"),
        at_most("waiting for data (compiled)", _waiting(counted[best]), 1, "%"),
        *(Figure(f"{name}: first step, s", "", f"{took[name][0].wall:.1f}") for name in variants),
    ]
    parameters = one.training.model.num_parameters
    title = f"Depth 4, {parameters:,} parameters, {ROWS} x {SEQ_LEN} tokens a step"
    return figures_table(f"{title}, {torch.get_num_threads()} threads", figures)


def _ours(
    folder: Path, work: Path, dtype: Literal["float32", "bfloat16"], muon: bool
) -> dict[str, Ours]:
    """The trainer's variants; what is compiled comes last."""
    kinds: list[tuple[str, str, str]] = [("float32", "off", "adamw")]
    if dtype != "float32":
        kinds.append((dtype, "off", "adamw"))
    kinds += [(dtype, "on", "adamw")] + ([(dtype, "on", "muon")] if muon else [])
    named = {}
    for number, (numbers, setting, kind) in enumerate(kinds):
        name = {"float32": "fp32", "bfloat16": "bf16"}[numbers]
        name += " compiled" if setting == "on" else " eager"
        name = f"ours, {name}" + (", Muon" if kind == "muon" else "")
        named[name] = Ours(folder, work / f"run-{number}", numbers, setting, kind)
    return named


def _require_the_same_model(plain: Plain, ours: Ours) -> None:
    """Equal weights give an equal loss, or the comparison is of two different things."""
    plain.model.load_state_dict(ours.training.model.state_dict())
    batch = tensors(ours.loader.batch(0))
    with torch.no_grad():
        expected = float(plain.model(*batch))
        found = float(ours.training.losses(*batch).sum() / batch[1].numel())
    assert abs(found - expected) < 1e-4, (found, expected)


def _figures(name: str, steps: list[Took]) -> list[Figure]:
    tokens = ROWS * SEQ_LEN
    best, median = min(s.wall for s in steps), statistics.median(s.wall for s in steps)
    cpu = min(s.cpu for s in steps)
    return [
        Figure(
            f"{name}: tokens/s, best (median)", "", f"{tokens / best:,.0f} ({tokens / median:,.0f})"
        ),
        Figure(f"{name}: CPU seconds a step, best", "", f"{cpu:.2f}"),
    ]


def _ratios(name: str, steps: list[Took], plain: list[Took], target: float) -> list[Figure]:
    """How many times as fast: by the clock, best and median, and by CPU time."""
    best = min(s.wall for s in plain) / min(s.wall for s in steps)
    median = statistics.median(s.wall for s in plain) / statistics.median(s.wall for s in steps)
    cpu = min(s.cpu for s in plain) / min(s.cpu for s in steps)
    aimed = "compiled" in name and "Muon" not in name
    shown = f"{name}: times plain PyTorch"
    if aimed:
        first = [at_least(f"{shown}, best", best, target)]
    else:
        first = [Figure(f"{shown}, best", "", f"{best:.2f}")]
    return [
        *first,
        Figure(f"{shown}, median", "", f"{median:.2f}"),
        Figure(f"{shown}, CPU time", "", f"{cpu:.2f}"),
    ]


def _outside(steps: list[Took]) -> float:
    """Percent of the loop's time that is no forward, backward or optimizer; the median step's."""
    return 100 * statistics.median(1 - s.inside / s.wall for s in steps)


def _waiting(steps: list[Took]) -> float:
    return 100 * sum(s.waited for s in steps) / sum(s.wall for s in steps)
