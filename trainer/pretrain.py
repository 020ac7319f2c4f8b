"""Pretraining: the loop, from shards to a checkpoint, a log and a report."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from schemas.config import to_json
from schemas.errors import UserError
from trainer import checkpoint, run_folder
from trainer.data import Shards, num_windows, open_shards, rank_rows
from trainer.distributed import Ranks, ranks
from trainer.evaluate import Validation, validate
from trainer.generate import generate
from trainer.progress import Reporter, say, show_plan, show_report
from trainer.settings import PretrainRecipe
from trainer.step import Step, Training, gradients, prepare, train_step


def pretrain(
    recipe: PretrainRecipe,
    shards_folder: str | Path,
    out: str | Path,
    device: str = "auto",
    console: Console | None = None,
) -> dict[str, Any]:
    """Train from scratch and return the report that is also `out`/report.json.

    A finished run of the same settings and data is returned as it is; `UserError` on any other.
    """
    out = Path(out)
    with ranks(device) as group:
        console = (console or Console()) if group.is_first else Console(quiet=True)
        shards = _open(recipe, shards_folder, group)
        if _begin(out, identity(recipe, shards), group, console) == "finished":
            report = checkpoint.read_json(out / run_folder.REPORT_FILE)
        else:
            report = _Run(prepare(recipe, shards, group), out, console).train()
            if group.is_first:
                run_folder.finish(out, report)
        show_report(console, report)
        return report


def plan(recipe: PretrainRecipe, shards_folder: str | Path, device: str, console: Console) -> None:
    """The dry run: check everything, time one batch, say what the run would be; writes nothing."""
    with ranks(device) as group:
        shards = _open(recipe, shards_folder, group)
        training = prepare(recipe, shards, group)
        gradients(training, 0)  # warms up
        start = time.perf_counter()
        loss = gradients(training, 0)
        speed = tokens_a_step(recipe) / (time.perf_counter() - start)
        if group.is_first:
            show_plan(console, _planned(training, loss, speed))


def identity(recipe: PretrainRecipe, shards: Shards) -> dict[str, Any]:
    """What makes two runs the same run, as it stands in run.json."""
    return {
        "settings": to_json(asdict(recipe)),
        "shards": shards.content_hash,
        "tokenizer": shards.tokenizer.hash,
    }


def tokens_a_step(recipe: PretrainRecipe) -> int:
    """Targets of one global batch."""
    return recipe.data.batch_size * recipe.data.seq_len


def _open(recipe: PretrainRecipe, folder: str | Path, group: Ranks) -> Shards:
    """The shards, once it is known that recipe and processes fit them."""
    shards = open_shards(folder, recipe.data.vocab_size)
    num_windows(shards.train, recipe.data.seq_len)
    rank_rows(recipe.data.batch_size, group.rank, group.world_size)
    return shards


def _begin(out: Path, wanted: dict[str, Any], group: Ranks, console: Console) -> str:
    """The first rank looks at the run's folder; all ranks learn what it found."""
    states = ["nothing", "unfinished", "finished", "refused"]
    found, refusal = "nothing", UserError(f"{out}: refused, see the first process")
    if group.is_first:
        try:
            found = run_folder.inspect(out, wanted)
        except UserError as error:
            found, refusal = "refused", error
        if found == "finished":
            say(console, f"{out}: this run is finished; nothing to do")
        elif found == "unfinished":
            say(console, f"{out}: an unfinished run of the same settings; starting it again")
        if found in ("nothing", "unfinished"):
            run_folder.begin(out, wanted)
    found = states[group.first(states.index(found))]
    if found == "refused":
        raise refusal
    return found


@dataclass
class _Run:
    """The loop's state: what was measured last, and where it is written."""

    training: Training
    out: Path
    console: Console
    sample: str = ""
    busy: float = 0.0  # seconds spent in steps, evaluations left out

    def train(self) -> dict[str, Any]:
        """Every step of the run; returns the report."""
        run, start = self.training.recipe.run, time.perf_counter()
        with Reporter(self.console, run.num_steps, run.log_every) as reporter:
            before = after = self.evaluate(0, reporter)
            first = last = self.step(1, reporter)
            for step in range(1, run.num_steps + 1):
                last = self.step(step, reporter) if step > 1 else first
                if _due(step, run.eval_every, run.num_steps):
                    after = self.evaluate(step, reporter)
                if _due(step, run.sample_every, run.num_steps):
                    self.write_text(step, reporter)
                if _due(step, run.checkpoint_every, run.num_steps):
                    self.save(step)
        return self.report(first, last, before, after, time.perf_counter() - start)

    def step(self, step: int, reporter: Reporter) -> Step:
        """Step number `step`, from 1 on."""
        result = train_step(self.training, step - 1)
        self.busy += result.seconds
        speed = tokens_a_step(self.training.recipe) * step / self.busy
        self.log(step=step, tokens_per_second=speed, **asdict(result))
        left = (self.training.recipe.run.num_steps - step) * self.busy / step
        reporter.step(step, result.loss, speed, left)
        return result

    def evaluate(self, step: int, reporter: Reporter) -> Validation:
        """Validation loss after `step` steps; all ranks take part."""
        training, recipe = self.training, self.training.recipe
        found = validate(
            training.model,
            training.shards.validation,
            training.token_bytes,
            training.ranks,
            training.dtype,
            seq_len=recipe.data.seq_len,
            batch_size=recipe.run.device_batch_size or recipe.data.batch_size,
            max_windows=recipe.run.eval_rows,
        )
        bits = found.bits_per_byte
        self.log(step=step, validation_loss=found.loss, validation_bits_per_byte=bits)
        reporter.note(f"step {step}: validation loss {found.loss:.3f}, {bits:.3f} bits per byte")
        return found

    def write_text(self, step: int, reporter: Reporter) -> None:
        """A sample of what the model writes by now; the first rank's work."""
        if self.training.ranks.is_first:
            settings = self.training.recipe.sample
            tokenizer = self.training.shards.tokenizer
            self.sample = settings.prompt + generate(self.training.model, tokenizer, settings).text
            self.log(step=step, sample=self.sample)
            if step < self.training.recipe.run.num_steps:  # the last one stands below the table
                reporter.note(f"step {step} writes: {self.sample}")

    def save(self, step: int) -> None:
        """A checkpoint; the first rank's work."""
        if self.training.ranks.is_first:
            shards = self.training.shards
            state = identity(self.training.recipe, shards)
            checkpoint.save(self.out, step, self.training.model, shards.tokenizer, state)

    def log(self, **record: Any) -> None:
        """One line of log.jsonl."""
        if self.training.ranks.is_first:
            run_folder.log(self.out, record)

    def report(
        self, first: Step, last: Step, before: Validation, after: Validation, seconds: float
    ) -> dict[str, Any]:
        """The numbers of report.json."""
        run, group = self.training.recipe.run, self.training.ranks
        tokens = run.num_steps * tokens_a_step(self.training.recipe)
        return {
            "parameters": self.training.model.num_parameters,
            "tokens": tokens,
            "steps": run.num_steps,
            "dtype": _name(self.training),
            "device": str(group.device),
            "processes": group.world_size,
            "train_loss_first": first.loss,
            "train_loss_last": last.loss,
            "validation_loss_first": before.loss,
            "validation_loss_last": after.loss,
            "validation_bits_per_byte_first": before.bits_per_byte,
            "validation_bits_per_byte": after.bits_per_byte,
            "validation_targets": after.targets,
            "tokens_per_second": tokens / self.busy,
            "seconds": seconds,
            "sample": self.sample,
        }


def _due(step: int, every: int, num_steps: int) -> bool:
    """Whether something that happens `every` steps, and at the end, happens after `step`."""
    return step == num_steps or (every > 0 and step % every == 0)


def _name(training: Training) -> str:
    return str(training.dtype).removeprefix("torch.")


def _planned(training: Training, loss: float, speed: float) -> dict[str, Any]:
    """The numbers of a dry run."""
    recipe, shards = training.recipe, training.shards
    windows = num_windows(shards.train, recipe.data.seq_len)
    tokens = recipe.run.num_steps * tokens_a_step(recipe)
    return {
        "parameters": training.model.num_parameters,
        "tokenizer": shards.tokenizer.name,
        "padded_vocab_size": shards.tokenizer.padded_vocab_size,
        "train_tokens": len(shards.train),
        "validation_tokens": len(shards.validation),
        "tokens": tokens,
        "steps": recipe.run.num_steps,
        "epochs": recipe.run.num_steps * recipe.data.batch_size / windows,
        "dtype": _name(training),
        "device": str(training.ranks.device),
        "processes": training.ranks.world_size,
        "loss": loss,
        "tokens_per_second": speed,
        "seconds": tokens / speed,
    }
