"""`trainer pretrain` and `trainer sft`: read a recipe, add the flags, and train or plan a run."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.config import load_toml
from schemas.errors import UserError
from schemas.printing import PlainConsole
from trainer.commands import flags
from trainer.settings import PretrainRecipe, Recipe, SftRecipe

if TYPE_CHECKING:  # torch takes seconds; --help should not
    from trainer.train.request import Beginning, Kind

_PRETRAIN = """\
Train a model from scratch on shards (written by `gristmill shard`).

Estimate memory and time without writing anything:
  trainer pretrain --recipe recipes/pretrain-tiny.toml --shards DIR --out RUN --dry-run

Train for ten steps:
  trainer pretrain --recipe recipes/pretrain-tiny.toml --shards DIR --out RUN --steps 10

Resume after a kill, a reboot or Ctrl-C, bit-exactly; start the run if there is none yet:
  trainer pretrain --recipe recipes/pretrain-tiny.toml --shards DIR --out RUN --resume

Train on two GPUs, or with two CPU processes; the loss is that of one:
  torchrun --nproc-per-node 2 -m trainer pretrain --recipe R --shards DIR --out RUN

Extend a run with the wsd schedule from a checkpoint before its decay:
  trainer pretrain --recipe R --shards DIR --steps 2000 --extend RUN/step-000600 --out LONGER

RUN gets step-NNNNNN/ (model.safetensors, optimizer.safetensors, config.json, tokenizer), latest,
best, log.jsonl, loss.png and report.json.
"""
_SFT = """\
Fine-tune all weights of a model on conversations (shards written by `gristmill conversations`). The
loss is on what the assistant says and on its tool calls.

  trainer sft --recipe recipes/sft-tiny.toml --shards demo-chat/chats/conversations \\
    --init-from demo-chat/base --out demo-chat/assistant

To mix several sets with weights, list them as [[data.sources]] in the recipe.
"""


def add_parsers(commands: Any) -> None:
    """Add `trainer pretrain` and `trainer sft` to the command line's subparsers."""
    pretrain = flags.add_command(
        commands, "pretrain", _pretrain, "train a model on shards", _PRETRAIN
    )
    _add_flags(pretrain)
    # fmt: off
    pretrain.add_argument("--depth", type=int, metavar="N",
        help="use N layers; derive all other sizes and the learning rate (default: off)")
    # fmt: on
    _add_flags(flags.add_command(commands, "sft", _sft, "fine-tune a model on conversations", _SFT))


def _add_flags(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    # fmt: off
    add("--recipe", required=True, type=Path, metavar="TOML", help="read settings from this file")
    add("--shards", nargs="+", default=[], type=Path, metavar="DIR",
        help="train on these folders, equally weighted (default: data.sources)")
    add("--out", required=True, type=Path, metavar="RUN", help="write the run to this folder")
    add("--steps", type=int, metavar="N",
        help="train for N steps (default: run.num_steps of the recipe)")
    add("--resume", action="store_true", help="resume the run in RUN, or start it")
    weights = command.add_mutually_exclusive_group().add_argument
    weights("--init-from", type=Path, metavar="RUN",
        help="start from the weights of a checkpoint, at step 0")
    weights("--extend", type=Path, metavar="RUN/step-N",
        help="continue from a checkpoint, its optimizer and step included")
    weights("--from-hf", type=Path, metavar="DIR",
        help="start from the weights of a Hugging Face model")
    add("--dry-run", action="store_true", help="check settings and estimate costs; write nothing")
    # fmt: on
    flags.add_device(command)


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


def _run(arguments: argparse.Namespace, kind: Kind, recipe: Recipe) -> None:
    from trainer.train.request import RunRequest
    from trainer.train.run import plan, train

    if arguments.steps is not None:
        if arguments.steps < 1:
            raise UserError(f"--steps {arguments.steps}: must be at least 1")
        settings = dataclasses.replace(recipe.run, num_steps=arguments.steps)
        recipe = dataclasses.replace(recipe, run=settings)
    beginnings: dict[Beginning, Path | None] = {
        "init-from": arguments.init_from,
        "extend": arguments.extend,
        "from-hf": arguments.from_hf,
    }
    beginning: Beginning = "scratch"
    weights = None
    for flag, path in beginnings.items():  # argparse allows one of them
        if path is not None:
            beginning, weights = flag, path
    request = RunRequest(
        kind=kind,
        recipe=recipe,
        out=arguments.out,
        shards=tuple(arguments.shards),
        device=arguments.device,
        resume=arguments.resume,
        beginning=beginning,
        weights=weights,
    )
    if arguments.dry_run:
        plan(request, PlainConsole())
    else:
        train(request, PlainConsole())
