"""The training loop of pretraining and fine-tuning: from batches to checkpoints, log and report.

The whole state of a run is weights, optimizer and step number: the loader returns the batch of any
step, the schedule its learning rate, and nothing is drawn at random. So a run that resumes from a
checkpoint is identical to an uninterrupted one.
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
from trainer.distributed import Stopped, StopSignals
from trainer.evaluate.loss import Validation, bytes_of_tokens, validate_by_domain
from trainer.generate.chat import reply_text
from trainer.generate.generate import generate
from trainer.model import checkpoint
from trainer.model.cost import flops_per_token, mfu, peak_flops
from trainer.progress import Reporter
from trainer.train import run_folder
from trainer.train.loss_plot import plot
from trainer.train.step import Step, Training, rows_not_finite, train_step

NAMED_ROWS = 3  # rows of a skipped step that are named
LOGGED_DOMAINS = 20  # those with the most text


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
        speed, wait = tokens_per_step(training) * done / self.busy, waited / seconds
        record = {**asdict(result), "data_wait": wait}
        record |= {"loss": _finite(result.loss), "grad_norm": _finite(result.grad_norm)}
        self.log(step=step, tokens_per_second=speed, **record)
        left = (training.recipe.run.num_steps - step) * self.busy / done
        share = utilization(training, self.peak, speed)
        reporter.step(step, result.loss, speed, left, wait, share)
        if result.skipped:
            self.report_skipped(step, batch, result, reporter)

    def report_skipped(self, step: int, batch: Batch, result: Step, reporter: Reporter) -> None:
        """Name the rows that made a step not finite; `UserError` after too many such steps."""
        training, recipe = self.training, self.training.recipe
        bad = rows_not_finite(training, batch)
        named = []
        for row in bad[:NAMED_ROWS]:
            if (origin := where(training.loader, batch.step, row)) is not None:
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
        checkpoint.keep(self.out, training.recipe.run.keep_checkpoints)

    def log(self, **record: Any) -> None:
        """Append one line to log.jsonl; first rank only."""
        if self.training.ranks.is_first:
            run_folder.log(self.out, record)

    def report(self) -> dict[str, Any]:
        """The numbers of report.json, from the log of all processes of the run; draws the plot."""
        training, group = self.training, self.training.ranks
        if not group.is_first:
            return {}
        log = run_folder.read_log(self.out)
        plot(log, self.out / run_folder.PLOT_FILE)
        steps = [line for line in log if "loss" in line]
        checks = [line for line in log if "validation_loss" in line]
        first, last = checks[0], checks[-1]
        seconds = sum(line["seconds"] for line in steps)
        tokens, num_steps = len(steps) * tokens_per_step(training), training.recipe.run.num_steps
        return {
            "kind": self.state["kind"],
            "parameters": training.model.num_parameters,
            "tokens": tokens,
            "targets": sum(line["targets"] for line in steps),
            "steps": num_steps,
            "epochs": epochs(training.loader, num_steps),
            "dtype": dtype_name(training),
            "device": str(group.device),
            "compile": training.compile_mode,
            "optimizer": training.optimizer.implementation,
            "processes": group.world_size,
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
            "mfu": utilization(training, self.peak, tokens / seconds),
            "data_wait": sum(line["data_wait"] * line["seconds"] for line in steps) / seconds,
            "seconds": seconds,
            "sample": next((line["sample"] for line in reversed(log) if "sample" in line), ""),
        }


def epochs(loader: Loader, num_steps: int) -> dict[str, float]:
    """How many epochs of each folder of shards `num_steps` steps take."""
    names = (str(source.shards.folder) for source in loader.sources)
    return dict(zip(names, loader.epochs(num_steps), strict=True))


def tokens_per_step(training: Training) -> int:
    """Positions of one global batch, padding included."""
    return training.recipe.data.batch_size * training.recipe.data.seq_len


def utilization(training: Training, peak: float | None, tokens_per_second: float) -> float | None:
    """MFU, 0 to 1, given a device's `peak` in FLOP/s; None where that is unknown."""
    group = training.ranks
    per_token = flops_per_token(training.model.config, training.recipe.data.seq_len)
    devices = group.world_size if group.device.type == "cuda" else 1
    return mfu(tokens_per_second, per_token, peak, devices)


def dtype_name(training: Training) -> str:
    """`bfloat16` or `float32`."""
    return str(training.dtype).removeprefix("torch.")


def _due(step: int, every: int, num_steps: int) -> bool:
    """Whether something that happens every `every` steps, and at the end, happens after `step`."""
    return step == num_steps or (every > 0 and step % every == 0)


def _finite(value: float) -> float | None:
    """The value, or None (null) for NaN and infinity, which JSON lacks."""
    return value if math.isfinite(value) else None
