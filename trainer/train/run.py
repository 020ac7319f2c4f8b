"""What `trainer pretrain` and `trainer sft` do, from the request to the report.

What decides a run's numbers is its identity: model, data and their order, optimizer, schedule,
number of steps, first weights. A folder of one identity is never continued under another. What the
run is computed on (device, PyTorch, threads, ranks, number format, compiler, optimizer's
implementation) may change the last bits. This is its environment: it is written to each checkpoint,
and a run that resumes in another one says so.
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
from trainer.train.loop import Run, dtype_name, epochs, tokens_per_step, utilization
from trainer.train.optimizer import muon_warning
from trainer.train.request import RunRequest, folders, identity, open_data, warnings_of_data
from trainer.train.step import Training, gradients, prepare
from trainer.train.weights import Weights, initial_weights, latest_weights

FRAME = 4  # control tokens around a prompt, at most


def train(request: RunRequest, console: Console | None = None) -> dict[str, Any]:
    """Start a run or resume it; returns the report, which is also RUN/report.json.

    A finished run of the same identity is left as it is; `UserError` on any other.
    """
    with ranks(request.device) as group:
        console = (console or PlainConsole()) if group.is_first else PlainConsole(quiet=True)
        try:
            report = _train(request, group, console)
        except OSError as error:
            raise UserError(
                f"{request.out}: {fault(request.out, error)}; saved checkpoints are untouched: "
                "fix this and continue with --resume"
            ) from None
        if group.is_first:
            show_report(console, report)
        return report


def _train(request: RunRequest, group: Ranks, console: Console) -> dict[str, Any]:
    """The steps of a run in order; the folder is locked from the second on."""
    loader, validation = open_data(request)
    weights = initial_weights(request, loader, group)
    wanted = identity(request, loader, weights.origin)
    with ExitStack() as until_end:
        found = _inspect(request, wanted, group, until_end)
        if found == "finished":
            say(console, f"{request.out}: this run is finished; nothing to do")
            return read_json(request.out / run_folder.REPORT_FILE)
        if found == "unfinished":
            weights = latest_weights(request.out, weights, wanted, group) or weights
            step = f"after step {weights.step}" if weights.step else "from the start"
            say(console, f"{request.out}: an unfinished run of the same settings; resuming {step}")
        _require_short_prompt(request.recipe.sample, weights.model, loader)
        training = prepare_training(request, loader, group, weights)
        now = _environment(training)
        state = {"kind": request.kind, "identity": wanted, "environment": now}
        for name, old in sorted(weights.state.get("environment", {}).items()):
            if now.get(name) != old:
                change = f"{name} was {old}, is {now.get(name)}"
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
        run = Run(training, validation, request.out, console, state, weights.step, skipped)
        report = run.train()
        if group.is_first:
            run_folder.finish(request.out, report)
        return report


def _inspect(
    request: RunRequest, wanted: dict[str, Any], group: Ranks, until_end: ExitStack
) -> run_folder.Found:
    """Lock and inspect the folder on the first rank; all ranks return or raise alike."""
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
                    "continue it with --resume, or choose another --out"
                )
        except UserError as error:
            found, refusal = -1, error
    found = group.first(found)
    if found < 0:
        raise refusal
    return states[found]


def _require_short_prompt(sample: SampleSettings, model: LanguageModel, loader: Loader) -> None:
    """`UserError` where the recipe's prompt would not fit, raised before hours of training."""
    count = len(loader.shards.tokenizer.encode(sample.prompt)) + FRAME
    context = model.config.max_position_embeddings
    if count > context:
        raise UserError(
            f"sample.prompt: {count} tokens with control tokens, this model reads at most {context}"
        )


def prepare_training(
    request: RunRequest, loader: Loader, group: Ranks, weights: Weights
) -> Training:
    """Everything a step needs, with number format and optimizer state from the checkpoint."""
    known = weights.state.get("environment", {}).get("dtype")
    dtype = getattr(torch, known) if known and request.recipe.run.dtype == "auto" else None
    training = prepare(request.recipe, loader, group, weights.model, dtype)
    if weights.optimizer is not None:
        training.optimizer.load_state(weights.optimizer)
    return training


def _environment(training: Training) -> dict[str, Any]:
    """What the last bits depend on, in addition to the identity."""
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


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def plan(request: RunRequest, console: Console) -> None:
    """The dry run: check everything, time one batch, print the plan; writes nothing."""
    with ranks(request.device) as group:
        _plan(request, group, console)


def _plan(request: RunRequest, group: Ranks, console: Console) -> None:
    loader, _ = open_data(request)
    weights = initial_weights(request, loader, group)
    training = prepare_training(request, loader, group, weights)
    batch = loader.batch(weights.step, training.rows)
    gradients(training, batch)  # warms up
    start = time.perf_counter()
    loss, _ = gradients(training, batch)
    speed = tokens_per_step(training) / (time.perf_counter() - start)
    if group.is_first:
        show_plan(console, _planned(training, loss, speed))
        fast = training.dtype == torch.bfloat16 or group.device.type == "cuda"
        warning = muon_warning(request.recipe.optimizer, tokens_per_step(training), fast)
        for text in [*warnings_of_data(request, loader), *([warning] if warning else [])]:
            say(console, f"warning: {text}")


def _planned(training: Training, loss: float, speed: float) -> dict[str, Any]:
    """The numbers of a dry run; `speed` in tokens per second."""
    recipe, loader, model = training.recipe, training.loader, training.model
    tokenizer = loader.shards.tokenizer
    counted = [source.shards.manifest.extra["tokens"] for source in loader.sources]
    tokens = recipe.run.num_steps * tokens_per_step(training)
    rows = recipe.run.device_batch_size or len(training.rows)
    memory = estimate(
        model.config, rows, recipe.data.seq_len, training.dtype, recipe.optimizer.kind
    )
    return {
        "parameters": model.num_parameters,
        "tokenizer": tokenizer.name,
        "padded_vocab_size": tokenizer.padded_vocab_size,
        "train_tokens": sum(split["train"] for split in counted),
        "validation_tokens": sum(split["validation"] for split in counted),
        "tokens": tokens,
        "suggested_tokens": suggested_tokens(model.num_parameters),
        "steps": recipe.run.num_steps,
        "packing": loader.spec.packing,
        "epochs": epochs(loader, recipe.run.num_steps),
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
