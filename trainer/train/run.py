"""A run from its request to its report: what `trainer pretrain` and `trainer sft` do.

How a run begins: its data is opened, its weights are made or loaded, its folder is looked at.

What decides a run's numbers is its identity: model, order of the data, optimizer, schedule, number
of steps, first weights. A folder of one identity is never gone on with under another. What it is
computed on (CPU, PyTorch, threads, ranks, number format, compiler, optimizer's implementation) may
change the last bits: that is its environment, written in each checkpoint, and a difference is said.
"""

from __future__ import annotations

import platform
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from schemas.config import to_json
from schemas.errors import UserError
from schemas.printing import PlainConsole
from trainer.data.loader import Loader
from trainer.distributed import Ranks, ranks
from trainer.durable import fault, read_json
from trainer.model import checkpoint
from trainer.model.cost import estimate, peak_flops, suggested_tokens
from trainer.model.model import LanguageModel
from trainer.progress import say, show_plan, show_report
from trainer.settings import SampleSettings
from trainer.train import run_folder
from trainer.train.loop import Run, dtype_name, epochs, tokens_a_step, utilization
from trainer.train.optimizer import muon_warning
from trainer.train.request import Request, folders, identity, open_data, warnings_of_data
from trainer.train.step import Training, gradients, prepare
from trainer.train.weights import Weights, first_weights, latest_weights

FRAME = 4  # control tokens around a prompt, at most


def start(request: Request, group: Ranks, console: Console, until_end: ExitStack) -> Run | None:
    """The run, ready for its next step; None where it is finished already.

    The run's folder is locked until `until_end` is left.
    """
    loader, validation = open_data(request)
    weights = first_weights(request, loader, group)
    wanted = identity(request, loader, weights.origin)
    found = _look(request, wanted, group, until_end)
    if found == "finished":
        say(console, f"{request.out}: this run is finished; nothing to do")
        return None
    if found == "unfinished":
        weights = latest_weights(request.out, weights, wanted, group) or weights
        step = f" after step {weights.step}" if weights.step else " from its beginning"
        say(console, f"{request.out}: an unfinished run of the same settings; it goes on{step}")
    require_short_prompt(request.recipe.sample, weights.model, loader)
    training = prepare_training(request, loader, group, weights)
    now = environment(training)
    state = {"kind": request.kind, "identity": wanted, "environment": now}
    for change in differences(weights.state.get("environment", {}), now):
        say(console, f"warning: {change}: the last bits may differ from an unbroken run")
    for warning in warnings_of_data(request, loader):
        say(console, f"warning: {warning}")
    if group.is_first:
        description = {
            **state,
            "data": loader.spec.to_json(),
            "folders": [str(folder.absolute()) for folder in folders(request)],
            "recipe": to_json(asdict(request.recipe)),
        }
        run_folder.begin(request.out, description, weights.step)
    skipped = int(weights.state.get("skipped_in_a_row", 0))
    return Run(training, validation, request.out, console, state, weights.step, skipped)


def prepare_training(request: Request, loader: Loader, group: Ranks, weights: Weights) -> Training:
    """Everything a step needs, with the optimizer where `weights` left it."""
    known = weights.state.get("environment", {}).get("dtype")
    dtype = getattr(torch, known) if known and request.recipe.run.dtype == "auto" else None
    training = prepare(request.recipe, loader, group, weights.model, dtype)
    if weights.optimizer is not None:
        training.optimizer.load_state(weights.optimizer)
    return training


def require_short_prompt(sample: SampleSettings, model: LanguageModel, loader: Loader) -> None:
    """`UserError` where the recipe's prompt would not fit, before hours have gone into steps."""
    count = len(loader.shards.tokenizer.encode(sample.prompt)) + FRAME
    context = model.config.max_position_embeddings
    if count > context:
        raise UserError(
            f"sample.prompt: {count} tokens with its frame, this model reads at most {context}"
        )


def environment(training: Training) -> dict[str, Any]:
    """What the last bits depend on beside the identity."""
    group = training.ranks
    on_gpu = group.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(group.device) if on_gpu else _cpu_name(),
        "instructions": "" if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processes": group.world_size,
        "device_batch_size": training.recipe.run.device_batch_size,
        "dtype": dtype_name(training),
        "compile": training.compile_mode,
        "optimizer": training.optimizer.implementation,
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`name was old, is new` of each entry of an environment that changed."""
    return [f"{k} was {old[k]}, is {new[k]}" for k in sorted(old) if new.get(k) != old[k]]


def _look(
    request: Request, wanted: dict[str, Any], group: Ranks, until_end: ExitStack
) -> run_folder.Found:
    """The first rank locks the run's folder and looks at it; all ranks learn what it found."""
    states: list[run_folder.Found] = ["nothing", "unfinished", "finished"]
    found, refusal = -1, UserError(f"{request.out}: refused, see the first process")
    if group.is_first:
        try:
            until_end.enter_context(run_folder.locked(request.out))
            found = states.index(run_folder.inspect(request.out, wanted))
            begun = checkpoint.pointed(request.out, checkpoint.LATEST) if found == 1 else None
            if begun is not None and not request.resume:
                raise UserError(
                    f"{request.out}: holds this run, unfinished after step {begun[1]['step']}; "
                    "--resume goes on with it, another --out begins anew"
                )
        except UserError as error:
            found, refusal = -1, error
    found = group.first(found)
    if found < 0:
        raise refusal
    return states[found]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


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
