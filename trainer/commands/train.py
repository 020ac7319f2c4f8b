"""The commands `trainer pretrain` and `trainer sft`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.config import load_toml
from schemas.errors import UserError
from schemas.printing import PlainConsole
from trainer.settings import PretrainRecipe, Recipe, SftRecipe

if TYPE_CHECKING:  # torch takes seconds; --help should not
    from trainer.train.request import RunRequest

_PRETRAIN = """\
Train a model from scratch on a folder of shards (made by `gristmill shard`).

What it would do, and about how long it would take, without writing anything:
  trainer pretrain --recipe recipes/pretrain-tiny.toml --shards DIR --out RUN --dry-run

The same in ten steps:
  trainer pretrain --recipe recipes/pretrain-tiny.toml --shards DIR --out RUN --steps 10

Go on after a kill, a reboot or a Ctrl-C, bit for bit as if nothing had been (or begin, where
nothing is there yet):
  trainer pretrain --recipe recipes/pretrain-tiny.toml --shards DIR --out RUN --resume

On two GPUs, or two CPU processes; the loss is that of one:
  torchrun --nproc-per-node 2 -m trainer pretrain --recipe R --shards DIR --out RUN

A run with the wsd schedule, made longer from a checkpoint before its decay:
  trainer pretrain --recipe R --shards DIR --steps 2000 --extend RUN/step-000600 --out LONGER

RUN gets step-NNNNNN/ (model.safetensors, optimizer.safetensors, config.json, tokenizer), latest,
best, log.jsonl, loss.png and report.json.
"""

_SFT = """\
Fine-tune a model on conversations (shards made by `gristmill conversations`): the loss is on what
the assistant says and the tool calls it makes, all weights are trained.

  trainer sft --recipe recipes/sft-tiny.toml --shards demo-chat/chats/conversations \\
    --init-from demo-chat/base --out demo-chat/assistant

Several sets: [[data.sources]] of the recipe, with weights. A run that was stopped goes on with
--resume. --dry-run checks all of it and writes nothing.
"""


def add_parsers(commands: Any) -> None:
    """Add `trainer pretrain` and `trainer sft` to the command line's subparsers."""
    form = argparse.RawDescriptionHelpFormatter
    one = commands.add_parser(
        "pretrain", help="train a model on shards", description=_PRETRAIN, formatter_class=form
    )
    one.set_defaults(run=_pretrain)
    _add_flags(one)
    one.add_argument(
        "--depth",
        type=int,
        metavar="N",
        help="N layers; the other sizes and the learning rate by rule",
    )
    two = commands.add_parser(
        "sft", help="fine-tune a model on conversations", description=_SFT, formatter_class=form
    )
    two.set_defaults(run=_sft)
    _add_flags(two)


def _add_flags(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--recipe", required=True, type=Path, metavar="TOML", help="the settings")
    add(
        "--shards", nargs="+", default=[], type=Path, metavar="DIR",
        help="folder of shards; several have equal weight (or [[data.sources]] in the recipe)",
    )  # fmt: skip
    add("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    add("--steps", type=int, metavar="N", help="instead of the recipe's run.num_steps")
    add("--resume", action="store_true", help="go on with the run in RUN, or begin it")
    weights = command.add_mutually_exclusive_group()
    weights.add_argument(
        "--init-from", type=Path, metavar="RUN", help="begin with a checkpoint's weights alone"
    )
    weights.add_argument(
        "--extend", type=Path, metavar="RUN/step-N", help="go on from a checkpoint for more steps"
    )
    weights.add_argument(
        "--from-hf", type=Path, metavar="DIR", help="begin with a Hugging Face model's weights"
    )
    add("--dry-run", action="store_true", help="check and estimate, write nothing")
    add(
        "--device", choices=["auto", "cpu", "cuda"], default="auto",
        help="auto takes a GPU where there is one",
    )  # fmt: skip


def _pretrain(arguments: argparse.Namespace) -> None:
    recipe = load_toml(arguments.recipe, PretrainRecipe)
    if arguments.depth is not None:
        from trainer.model.cost import learning_rate, of_depth

        model = of_depth(arguments.depth, recipe.model)
        optimizer = dataclasses.replace(recipe.optimizer, learning_rate=learning_rate(model))
        recipe = dataclasses.replace(recipe, model=model, optimizer=optimizer)
    _run(arguments, "pretrain", recipe)


def _sft(arguments: argparse.Namespace) -> None:
    if not (arguments.init_from or arguments.extend or arguments.from_hf):
        raise UserError(
            "trainer sft: give --init-from RUN, a model to fine-tune (or --from-hf DIR)"
        )
    _run(arguments, "sft", load_toml(arguments.recipe, SftRecipe))


def _run(arguments: argparse.Namespace, kind: Any, recipe: Recipe) -> None:
    from trainer.train.run import plan, train

    request = _request(arguments, kind, recipe)
    if arguments.dry_run:
        plan(request, PlainConsole())
    else:
        train(request, PlainConsole())


def _request(arguments: argparse.Namespace, kind: Any, recipe: Recipe) -> RunRequest:
    from trainer.train.request import Beginning, RunRequest

    if arguments.steps is not None:
        if arguments.steps < 1:
            raise UserError(f"--steps {arguments.steps}: must be at least 1")
        run = dataclasses.replace(recipe.run, num_steps=arguments.steps)
        recipe = dataclasses.replace(recipe, run=run)
    flags: dict[Beginning, Path | None] = {
        "init-from": arguments.init_from,
        "extend": arguments.extend,
        "from-hf": arguments.from_hf,
    }
    scratch: tuple[Beginning, Path | None] = ("scratch", None)
    beginning, weights = next(((k, v) for k, v in flags.items() if v is not None), scratch)
    return RunRequest(
        kind=kind,
        recipe=recipe,
        out=arguments.out,
        shards=tuple(arguments.shards),
        device=arguments.device,
        resume=arguments.resume,
        beginning=beginning,
        weights=weights,
    )
