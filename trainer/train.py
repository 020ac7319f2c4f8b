"""A run from its request to its report: what `trainer pretrain` and `trainer sft` do."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console

from schemas.console import PlainConsole
from schemas.errors import UserError
from trainer import run_folder
from trainer.depth import suggested_tokens
from trainer.distributed import Ranks, ranks
from trainer.durable import fault, read_json
from trainer.flops import peak_flops
from trainer.loop import dtype_name, epochs, tokens_a_step, utilization
from trainer.memory import estimate
from trainer.optimizer import muon_warning
from trainer.progress import say, show_plan, show_report
from trainer.request import Request, open_data, warnings_of_data
from trainer.start import prepare_training, start
from trainer.step import Training, gradients
from trainer.weights import first_weights


def train(request: Request, console: Console | None = None) -> dict[str, Any]:
    """Begin a run or go on with it; returns the report that is also RUN/report.json.

    A finished run of the same identity is left as it is; `UserError` on any other.
    """
    with ranks(request.device) as group:
        console = (console or PlainConsole()) if group.is_first else PlainConsole(quiet=True)
        try:
            report = _train(request, group, console)
        except OSError as error:
            raise UserError(
                f"{request.out}: {fault(request.out, error)}; checkpoints that were saved are "
                "untouched: put it right and go on with --resume"
            ) from None
        if group.is_first:
            show_report(console, report)
        return report


def _train(request: Request, group: Ranks, console: Console) -> dict[str, Any]:
    """The run's report; a finished run's is read."""
    with ExitStack() as until_end:
        run = start(request, group, console, until_end)
        if run is None:
            return read_json(request.out / run_folder.REPORT_FILE)
        report = run.train()
        if group.is_first:
            run_folder.finish(request.out, report)
        return report


def plan(request: Request, console: Console) -> None:
    """The dry run: check everything, time one batch, say what the run would be; writes nothing."""
    with ranks(request.device) as group:
        _plan(request, group, console)


def _plan(request: Request, group: Ranks, console: Console) -> None:
    loader, _ = open_data(request)
    weights = first_weights(request, loader, group)
    training = prepare_training(request, loader, group, weights)
    batch = loader.batch(weights.step, training.rows)
    gradients(training, batch)  # warms up
    start_time = time.perf_counter()
    loss, _ = gradients(training, batch)
    speed = tokens_a_step(training) / (time.perf_counter() - start_time)
    if group.is_first:
        show_plan(console, _planned(training, loss, speed))
        fast = training.dtype == torch.bfloat16 or group.device.type == "cuda"
        warning = muon_warning(request.recipe.optimizer, tokens_a_step(training), fast)
        for text in [*warnings_of_data(request, loader), *([warning] if warning else [])]:
            say(console, f"warning: {text}")


def _planned(training: Training, loss: float, speed: float) -> dict[str, Any]:
    """The numbers of a dry run."""
    loader, steps = training.loader, training.recipe.run.num_steps
    tokenizer = loader.shards.tokenizer
    counted = [source.shards.manifest.extra["tokens"] for source in loader.sources]
    tokens = steps * tokens_a_step(training)
    recipe, config = training.recipe, training.model.config
    rows = recipe.run.device_batch_size or len(training.rows)
    memory = estimate(config, rows, recipe.data.seq_len, training.dtype, recipe.optimizer.kind)
    return {
        "parameters": training.model.num_parameters,
        "tokenizer": tokenizer.name,
        "padded_vocab_size": tokenizer.padded_vocab_size,
        "train_tokens": sum(split["train"] for split in counted),
        "validation_tokens": sum(split["validation"] for split in counted),
        "tokens": tokens,
        "suggested_tokens": suggested_tokens(training.model.num_parameters),
        "steps": steps,
        "packing": loader.spec.packing,
        "epochs": epochs(loader, steps),
        "dtype": dtype_name(training),
        "compile": training.compile_mode,
        "optimizer": training.optimizer.implementation,
        "device": str(training.ranks.device),
        "processes": training.ranks.world_size,
        "memory": asdict(memory),
        "loss": loss,
        "tokens_per_second": speed,
        "mfu": utilization(training, peak_flops(training.ranks.device, training.dtype), speed),
        "seconds": tokens / speed,
    }
