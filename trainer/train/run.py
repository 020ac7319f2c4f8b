"""What `trainer pretrain` and `trainer sft` do, from the request to the report.

The whole state of a run is weights, optimizer and step number: the loader returns the batch of any
step, the schedule its learning rate, and nothing is drawn at random. So a run that resumes from a
checkpoint is identical to an uninterrupted one.

What decides a run's numbers is its identity: model, data and their order, optimizer, schedule,
number of steps, first weights. A folder of one identity is never continued under another. What the
run is computed on (device, PyTorch, threads, ranks, number format, compiler, optimizer's
implementation) may change the last bits. This is its environment: it is written to each checkpoint,
and a run that resumes in another one says so.
"""

from __future__ import annotations

import math
import platform
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from schemas.config import to_json
from schemas.errors import UserError
from schemas.printing import PlainConsole
from trainer.data.loader import Batch, Loader
from trainer.data.trace import origin_of
from trainer.distributed import Ranks, ranks
from trainer.durable import fault, read_json
from trainer.evaluate.loss import Validation, bytes_of_tokens, validate_by_domain
from trainer.generate.chat import reply_text
from trainer.generate.generate import generate
from trainer.model import checkpoint
from trainer.model.cost import estimate, flops_per_token, mfu, peak_flops, suggested_tokens
from trainer.model.model import LanguageModel
from trainer.progress import Reporter, say, show_plan, show_report
from trainer.settings import SampleSettings
from trainer.signals import Stopped, StopSignals
from trainer.train import run_folder
from trainer.train.loss_plot import plot
from trainer.train.optimizer import muon_warning
from trainer.train.request import RunRequest, folders, identity, open_data, warnings_of_data
from trainer.train.step import Step, Training, gradients, prepare, rows_not_finite, train_step
from trainer.train.weights import Weights, initial_weights, latest_weights

FRAME = 4  # control tokens around a prompt, at most
NAMED_ROWS = 3  # rows of a skipped step that are named
LOGGED_DOMAINS = 20  # those with the most text


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
    """A run in order: data, weights, folder, steps, report. The folder is locked until the end."""
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
        "dtype": _dtype_name(training),
        "compile": training.compile_mode,
        "optimizer": training.optimizer.implementation,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@dataclass
class Run:
    """A run between two steps. Every checkpoint stores `state` in addition to its step."""

    training: Training
    validation: Loader
    out: Path
    console: Console
    state: dict[str, Any]
    first_step: int = 0  # steps done before this process
    skipped: int = 0  # steps in a row, up to now
    measured: Validation | None = None  # after the newest step, if it was measured
    busy: float = 0.0  # seconds that this process spent in steps, without evaluations
    waited: float = 0.0  # seconds that the loader kept it waiting, up to the newest step
    token_bytes: Tensor = field(init=False)
    peak: float | None = field(init=False)  # FLOP/s of a device

    def __post_init__(self) -> None:
        group, tokenizer = self.training.ranks, self.training.loader.shards.tokenizer
        self.token_bytes = bytes_of_tokens(tokenizer).to(group.device)
        # on the first rank alone: ranks that measure at the same time slow each other down
        self.peak = peak_flops(group.device, self.training.dtype) if group.is_first else None

    def train(self) -> dict[str, Any]:
        """Run the steps that are left; returns the report. A signal ends it with `Stopped`."""
        run, group = self.training.recipe.run, self.training.ranks
        last = run.num_steps
        batches = self.training.loader.batches(self.first_step, last, self.training.rows)
        with Reporter(self.console, last, run.log_every) as reporter, StopSignals() as stop:
            if self.first_step == 0:
                self.evaluate(0, reporter)
            for step, batch in enumerate(batches, self.first_step + 1):
                self.step(step, batch, reporter)
                stopping = group.any(stop.asked)
                if _due(step, run.eval_every, last):
                    self.evaluate(step, reporter)
                if _due(step, run.sample_every, last):
                    self.sample(step, reporter)
                if stopping or _due(step, run.checkpoint_every, last):
                    self.save(step)
                if stopping and step < last:
                    raise Stopped(stop.signal, self.out, step)
        return self.report()

    def step(self, step: int, batch: Batch, reporter: Reporter) -> None:
        """Train on one batch and log it; `step` counts from 1."""
        training, loader = self.training, self.training.loader
        result = train_step(training, batch, step - 1)
        waited, self.waited = loader.wait_seconds - self.waited, loader.wait_seconds
        seconds = result.seconds + waited
        self.busy += seconds
        self.measured = None
        self.skipped = self.skipped + 1 if result.skipped else 0
        done = step - self.first_step
        speed, wait = _tokens_per_step(training) * done / self.busy, waited / seconds
        record = {**asdict(result), "data_wait": wait}
        record |= {"loss": _finite(result.loss), "grad_norm": _finite(result.grad_norm)}
        self.log(step=step, tokens_per_second=speed, **record)
        left = (training.recipe.run.num_steps - step) * self.busy / done
        share = _utilization(training, self.peak, speed)
        reporter.step(step, result.loss, speed, left, wait, share)
        if result.skipped:
            self.report_skipped(step, batch, result, reporter)

    def report_skipped(self, step: int, batch: Batch, result: Step, reporter: Reporter) -> None:
        """Name the rows that made a step not finite; `UserError` after too many such steps."""
        training, recipe = self.training, self.training.recipe
        bad = rows_not_finite(training, batch)
        named = []
        for row in bad[:NAMED_ROWS]:
            if (origin := origin_of(training.loader, batch.step, row)) is not None:
                named.append(f"row {row} ({origin.shard}, document {origin.id})")
        more = f" and {len(bad) - len(named)} more" if bad[NAMED_ROWS:] else ""
        rows = ", ".join(named) + more
        if not bad:
            rows = f"each of its {recipe.data.batch_size} rows is finite, their sum is not"
        skipped = (
            f"step {step}: loss {result.loss}, gradient norm {result.grad_norm}: skipped, weights "
            f"unchanged; {rows}"
        )
        if self.skipped <= recipe.run.max_skipped_steps:
            reporter.note(skipped)
            return
        raise UserError(
            f"{skipped}: {self.skipped} such steps in a row (run.max_skipped_steps = "
            f"{recipe.run.max_skipped_steps}): training diverged; lower optimizer.learning_rate = "
            f"{recipe.optimizer.learning_rate} or raise schedule.warmup_steps = "
            f"{recipe.schedule.warmup_steps}"
        )

    def evaluate(self, step: int, reporter: Reporter) -> None:
        """Measure validation loss after `step` steps, also by domain; all ranks must call it."""
        training = self.training
        found, domains = validate_by_domain(
            training.model,
            self.validation,
            self.token_bytes,
            training.ranks,
            training.dtype,
            max_rows=training.recipe.run.eval_rows,
        )
        self.measured, bits = found, found.bits_per_byte
        self.log(
            step=step,
            validation_loss=_finite(found.loss),
            validation_bits_per_byte=_finite(bits),
            validation_targets=found.targets,
            domains={d.domain: _finite(d.bits_per_byte) for d in domains[:LOGGED_DOMAINS]},
        )
        reporter.note(f"step {step}: validation loss {found.loss:.3f}, {bits:.3f} bits per byte")

    def sample(self, step: int, reporter: Reporter) -> None:
        """Log what the model writes after the recipe's prompt, or replies to it after `sft`."""
        if not self.training.ranks.is_first:
            return
        model, tokenizer = self.training.model, self.training.loader.shards.tokenizer
        settings = self.training.recipe.sample
        if self.state["kind"] == "pretrain":
            text = settings.prompt + generate(model, tokenizer, settings).text
        else:
            text = f"{settings.prompt}\n> " + reply_text(model, tokenizer, settings)
        self.log(step=step, sample=text)
        if step < self.training.recipe.run.num_steps:  # the last one is below the report's table
            reporter.note(f"step {step} writes: {text}")

    def save(self, step: int) -> None:
        """Save a checkpoint, point `best` at it if it is, and remove old ones; first rank only."""
        training = self.training
        if not training.ranks.is_first:
            return
        state = {**self.state, "skipped_in_a_row": self.skipped}
        if self.measured is not None:
            state["validation_loss"] = _finite(self.measured.loss)
        tokenizer, optimizer = training.loader.shards.tokenizer, training.optimizer.state()
        folder = checkpoint.save(self.out, step, training.model, tokenizer, state, optimizer)
        best = checkpoint.pointed(self.out, checkpoint.BEST)
        loss = state.get("validation_loss")
        if loss is not None and (best is None or loss < best[1]["validation_loss"]):
            checkpoint.point(self.out, checkpoint.BEST, folder)
        checkpoint.prune(self.out, training.recipe.run.keep_checkpoints)

    def log(self, **record: Any) -> None:
        """Append one line to log.jsonl; first rank only."""
        if self.training.ranks.is_first:
            run_folder.log(self.out, record)

    def report(self) -> dict[str, Any]:
        """The numbers of report.json, from the log of all processes of the run; draws the plot."""
        training = self.training
        if not training.ranks.is_first:
            return {}
        log = run_folder.read_log(self.out)
        plot(log, self.out / run_folder.PLOT_FILE)
        steps = [line for line in log if "loss" in line]
        checks = [line for line in log if "validation_loss" in line]
        first, last = checks[0], checks[-1]
        seconds = sum(line["seconds"] for line in steps)
        tokens = len(steps) * _tokens_per_step(training)
        return {
            **_summary(training),
            "kind": self.state["kind"],
            "tokens": tokens,
            "targets": sum(line["targets"] for line in steps),
            "train_loss_first": steps[0]["loss"],
            "train_loss_last": steps[-1]["loss"],
            "skipped_steps": sum(line["skipped"] for line in steps),
            "validation_loss_first": first["validation_loss"],
            "validation_loss_last": last["validation_loss"],
            "validation_bits_per_byte_first": first["validation_bits_per_byte"],
            "validation_bits_per_byte": last["validation_bits_per_byte"],
            "validation_targets": last["validation_targets"],
            "validation_bits_per_byte_of": last["domains"],
            "tokens_per_second": tokens / seconds,
            "mfu": _utilization(training, self.peak, tokens / seconds),
            "data_wait": sum(line["data_wait"] * line["seconds"] for line in steps) / seconds,
            "seconds": seconds,
            "sample": next((line["sample"] for line in reversed(log) if "sample" in line), ""),
        }


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
    speed = _tokens_per_step(training) / (time.perf_counter() - start)
    if not group.is_first:
        return
    recipe, config, tokenizer = request.recipe, training.model.config, loader.shards.tokenizer
    counted = [source.shards.manifest.shards.tokens for source in loader.sources]
    tokens = recipe.run.num_steps * _tokens_per_step(training)
    rows = recipe.run.device_batch_size or len(training.rows)
    memory = estimate(config, rows, recipe.data.seq_len, training.dtype, recipe.optimizer.kind)
    planned = {
        **_summary(training),
        "tokenizer": tokenizer.name,
        "padded_vocab_size": tokenizer.padded_vocab_size,
        "train_tokens": sum(split["train"] for split in counted),
        "validation_tokens": sum(split["validation"] for split in counted),
        "tokens": tokens,
        "suggested_tokens": suggested_tokens(training.model.num_parameters),
        "packing": loader.spec.packing,
        "memory": asdict(memory),
        "loss": loss,
        "tokens_per_second": speed,
        "mfu": _utilization(training, peak_flops(group.device, training.dtype), speed),
        "seconds": tokens / speed,
    }
    show_plan(console, planned)
    fast = training.dtype == torch.bfloat16 or group.device.type == "cuda"
    warning = muon_warning(recipe.optimizer, _tokens_per_step(training), fast)
    for text in [*warnings_of_data(request, loader), *([warning] if warning else [])]:
        say(console, f"warning: {text}")


def _summary(training: Training) -> dict[str, Any]:
    """What the plan and the report of a run both say of it."""
    loader, num_steps = training.loader, training.recipe.run.num_steps
    folders = (str(source.shards.folder) for source in loader.sources)
    return {
        "parameters": training.model.num_parameters,
        "steps": num_steps,
        "epochs": dict(zip(folders, loader.epochs(num_steps), strict=True)),
        "dtype": _dtype_name(training),
        "device": str(training.ranks.device),
        "compile": training.compile_mode,
        "optimizer": training.optimizer.implementation,
        "processes": training.ranks.world_size,
    }


def _tokens_per_step(training: Training) -> int:
    """Positions of one global batch, padding included."""
    return training.recipe.data.batch_size * training.recipe.data.seq_len


def _utilization(training: Training, peak: float | None, tokens_per_second: float) -> float | None:
    """MFU, 0 to 1, given a device's `peak` in FLOP/s; None where that is unknown."""
    group = training.ranks
    per_token = flops_per_token(training.model.config, training.recipe.data.seq_len)
    devices = group.world_size if group.device.type == "cuda" else 1
    return mfu(tokens_per_second, per_token, peak, devices)


def _dtype_name(training: Training) -> str:
    """`bfloat16` or `float32`."""
    return str(training.dtype).removeprefix("torch.")


def _due(step: int, every: int, num_steps: int) -> bool:
    """Whether something done every `every` steps (0: never) and at the end is due after `step`."""
    return step == num_steps or (every > 0 and step % every == 0)


def _finite(value: float) -> float | None:
    """The value, or None (null) for NaN and infinity, which JSON lacks."""
    return value if math.isfinite(value) else None
