"""The loop that pretraining and fine-tuning share: from batches to checkpoints, a log, a report.

What a run is, stands in `Run`; where its weights come from, in `trainer.train.weights`. A step's whole
state is weights, optimizer and step number: the loader gives the batch of any step, the schedule
its learning rate, and nothing is drawn at random. So a run that goes on from a checkpoint does what
it would have done without the break.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from schemas.errors import UserError
from trainer.commands.where import where
from trainer.data.loader import Batch, Loader
from trainer.evaluate.loss import Validation, bytes_of_tokens, validate_by_domain
from trainer.generate.chat import reply_text
from trainer.generate.generate import generate
from trainer.model import checkpoint
from trainer.model.cost import flops_per_token, mfu, peak_flops
from trainer.progress import Reporter
from trainer.signals import Stopped, StopSignals
from trainer.train import run_folder
from trainer.train.loss_plot import plot
from trainer.train.step import Step, Training, rows_not_finite, train_step

NAMED_ROWS = 3  # rows of a lost step that are named
LOGGED_DOMAINS = 20  # of the most bytes


@dataclass
class Run:
    """A run between two steps. `state` is what each checkpoint says beside its step."""

    training: Training
    validation: Loader
    out: Path
    console: Console
    state: dict[str, Any]
    first_step: int = 0  # steps that are done already
    skipped: int = 0  # steps in a row, up to now
    measured: Validation | None = None  # after the newest step, if it was measured
    busy: float = 0.0  # seconds spent in steps of this process, evaluations left out
    waited: float = 0.0  # of the loader's wait, up to the newest step
    token_bytes: Tensor = field(init=False)
    peak: float | None = field(init=False)  # FLOP/s of a device

    def __post_init__(self) -> None:
        training = self.training
        self.token_bytes = bytes_of_tokens(training.loader.shards.tokenizer)
        self.token_bytes = self.token_bytes.to(training.ranks.device)
        first = training.ranks.is_first  # processes that measure at once measure each other
        self.peak = peak_flops(training.ranks.device, training.dtype) if first else None

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.training.recipe.run.num_steps

    def train(self) -> dict[str, Any]:
        """Every step that is left; returns the report. `Stopped` where a signal ended it before."""
        run, group = self.training.recipe.run, self.training.ranks
        batches = self.training.loader.batches(self.first_step, self.num_steps, self.training.rows)
        with (
            Reporter(self.console, run.num_steps, run.log_every) as reporter,
            StopSignals() as stop,
        ):
            if self.first_step == 0:
                self.evaluate(0, reporter)
            for step, batch in enumerate(batches, self.first_step + 1):
                self.step(step, batch, reporter)
                stopping = group.any(stop.asked)
                if _due(step, run.eval_every, run.num_steps):
                    self.evaluate(step, reporter)
                if _due(step, run.sample_every, run.num_steps):
                    self.write_text(step, reporter)
                if stopping or _due(step, run.checkpoint_every, run.num_steps):
                    self.save(step)
                if stopping and step < run.num_steps:
                    raise Stopped(stop.signal, self.out, step)
        return self.report()

    def step(self, step: int, batch: Batch, reporter: Reporter) -> None:
        """Step number `step`, from 1 on."""
        loader = self.training.loader
        result = train_step(self.training, batch, step - 1)
        waited, self.waited = loader.wait_seconds - self.waited, loader.wait_seconds
        self.busy += result.seconds + waited
        self.measured = None
        self.skipped = self.skipped + 1 if result.skipped else 0
        speed = tokens_a_step(self.training) * (step - self.first_step) / self.busy
        record = {**asdict(result), "data_wait": waited / (result.seconds + waited)}
        record |= {"loss": _finite(result.loss), "grad_norm": _finite(result.grad_norm)}
        self.log(step=step, tokens_per_second=speed, **record)
        left = (self.num_steps - step) * self.busy / (step - self.first_step)
        share = utilization(self.training, self.peak, speed)
        reporter.step(step, result.loss, speed, left, record["data_wait"], share)
        if result.skipped:
            self.note_skipped(step, batch, result, reporter)

    def note_skipped(self, step: int, batch: Batch, result: Step, reporter: Reporter) -> None:
        """Say which rows a lost step had; `UserError` after too many in a row."""
        recipe = self.training.recipe
        lost = (
            f"step {step}: loss {result.loss}, gradient norm {result.grad_norm}: skipped, weights "
            f"untouched; {self.rows_of(batch)}"
        )
        if self.skipped <= recipe.run.max_skipped_steps:
            reporter.note(lost)
            return
        raise UserError(
            f"{lost}: {self.skipped} such steps in a row (run.max_skipped_steps = "
            f"{recipe.run.max_skipped_steps}): training diverged; lower optimizer.learning_rate = "
            f"{recipe.optimizer.learning_rate} or raise schedule.warmup_steps = "
            f"{recipe.schedule.warmup_steps}"
        )

    def rows_of(self, batch: Batch) -> str:
        """Row, shard and document of what made a step's loss or gradient not finite."""
        bad = rows_not_finite(self.training, batch)
        if not bad:
            last = self.training.recipe.data.batch_size - 1
            return f"each row's loss and gradient are finite, those of rows 0 to {last} are not"
        origins = [(row, where(self.training.loader, batch.step, row)) for row in bad[:NAMED_ROWS]]
        named = [f"row {row} ({o.shard}, document {o.id})" for row, o in origins if o is not None]
        return ", ".join(named) + (f" and {len(bad) - len(named)} more" if bad[NAMED_ROWS:] else "")

    def evaluate(self, step: int, reporter: Reporter) -> None:
        """Validation loss after `step` steps, by domain too; all ranks take part."""
        training, rows = self.training, self.training.recipe.run.eval_rows
        found, domains = validate_by_domain(
            training.model,
            self.validation,
            self.token_bytes,
            training.ranks,
            training.dtype,
            max_rows=rows,
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

    def write_text(self, step: int, reporter: Reporter) -> None:
        """What the model writes by now, or replies if it is one that chats; the first rank's."""
        if self.training.ranks.is_first:
            text = self.sample()
            self.log(step=step, sample=text)
            if step < self.num_steps:  # the last one stands below the table
                reporter.note(f"step {step} writes: {text}")

    def sample(self) -> str:
        """The recipe's prompt and what the model has to say to it."""
        model, tokenizer = self.training.model, self.training.loader.shards.tokenizer
        settings = self.training.recipe.sample
        if self.state["kind"] == "pretrain":
            return settings.prompt + generate(model, tokenizer, settings).text
        return f"{settings.prompt}\n> " + reply_text(model, tokenizer, settings)

    def save(self, step: int) -> None:
        """A checkpoint, and which of them stay; the first rank's work."""
        training, count = self.training, self.training.recipe.run.keep_checkpoints
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
        checkpoint.prune(self.out, count)

    def log(self, **record: Any) -> None:
        """One line of log.jsonl."""
        if self.training.ranks.is_first:
            run_folder.log(self.out, record)

    def report(self) -> dict[str, Any]:
        """The numbers of report.json, from the log, whoever wrote it; the picture beside it."""
        training, group = self.training, self.training.ranks
        if not group.is_first:
            return {}
        log = run_folder.read_log(self.out)
        steps = [line for line in log if "loss" in line]
        checks = [line for line in log if "validation_loss" in line]
        seconds = sum(line["seconds"] for line in steps)
        tokens = len(steps) * tokens_a_step(training)
        plot(self.out / run_folder.LOG_FILE, self.out / run_folder.PLOT_FILE)
        return {
            "kind": self.state["kind"],
            "parameters": training.model.num_parameters,
            "tokens": tokens,
            "targets": sum(line["targets"] for line in steps),
            "steps": self.num_steps,
            "epochs": epochs(training.loader, self.num_steps),
            "dtype": dtype_name(training),
            "device": str(group.device),
            "compile": training.compile_mode,
            "optimizer": training.optimizer.implementation,
            "processes": group.world_size,
            "train_loss_first": steps[0]["loss"],
            "train_loss_last": steps[-1]["loss"],
            "skipped_steps": sum(line["skipped"] for line in steps),
            "validation_loss_first": checks[0]["validation_loss"],
            "validation_loss_last": checks[-1]["validation_loss"],
            "validation_bits_per_byte_first": checks[0]["validation_bits_per_byte"],
            "validation_bits_per_byte": checks[-1]["validation_bits_per_byte"],
            "validation_targets": checks[-1]["validation_targets"],
            "validation_bits_per_byte_of": checks[-1]["domains"],
            "tokens_per_second": tokens / seconds,
            "mfu": utilization(training, self.peak, tokens / seconds),
            "data_wait": sum(line["data_wait"] * line["seconds"] for line in steps) / seconds,
            "seconds": seconds,
            "sample": next((line["sample"] for line in reversed(log) if "sample" in line), ""),
        }


def epochs(loader: Loader, num_steps: int) -> dict[str, float]:
    """How often the run goes over each folder of shards."""
    counts = loader.epochs(num_steps)
    names = (str(source.shards.folder) for source in loader.sources)
    return dict(zip(names, counts, strict=True))


def tokens_a_step(training: Training) -> int:
    """Positions of one global batch, padding included."""
    return training.recipe.data.batch_size * training.recipe.data.seq_len


def utilization(training: Training, peak: float | None, tokens_per_second: float) -> float | None:
    """MFU, 0 to 1, for a device's `peak` in FLOP/s; None where that is not known."""
    group = training.ranks
    per_token = flops_per_token(training.model.config, training.recipe.data.seq_len)
    devices = group.world_size if group.device.type == "cuda" else 1
    return mfu(tokens_per_second, per_token, peak, devices)


def dtype_name(training: Training) -> str:
    """`bfloat16` or `float32`."""
    return str(training.dtype).removeprefix("torch.")


def _due(step: int, every: int, num_steps: int) -> bool:
    """Whether something that happens `every` steps, and at the end, happens after `step`."""
    return step == num_steps or (every > 0 and step % every == 0)


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
