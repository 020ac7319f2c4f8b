"""The command line: every command of `trainer`, each declared in its own module."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from schemas.config import from_dict
from schemas.errors import UserError
from trainer import train_command, where
from trainer.settings import SampleSettings
from trainer.signals import Stopped

_ABOUT = """\
Train a small language model on token shards, and let it write.

  trainer pretrain --recipe recipes/pretrain-tiny.toml --shards demo/corpus/shards --out demo/model
  trainer sample --checkpoint demo/model --prompt "The water"
  trainer where --run demo/model --step 40 --row 3
"""

_SAMPLE = """\
Let a trained model continue a prompt. Temperature 0 always takes the likeliest token; --prompt ""
begins any document.

  trainer sample --checkpoint demo/model --prompt "The water"
  trainer sample --checkpoint demo/model --prompt "The water" --temperature 0
  trainer sample --checkpoint demo/model/step-000320 --prompt "" --seed 7
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code (2 and one line on stderr for a user's error)."""
    arguments = parser().parse_args(argv)
    wait_without_spinning()
    try:
        arguments.run(arguments)
    except Stopped as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code
    except UserError as error:
        print(f"trainer: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"trainer: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("trainer: stopped", file=sys.stderr)
        return 130
    return 0


def wait_without_spinning() -> None:
    """Let PyTorch's CPU threads sleep soon while they wait; must come before torch is imported.

    GNU OpenMP's default is to spin for milliseconds, which takes the core from the very thread
    that is waited for as soon as another program runs.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def parser() -> argparse.ArgumentParser:
    """Every command and flag."""
    form = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="trainer", description=_ABOUT, formatter_class=form)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    train_command.add_parsers(commands)
    two = commands.add_parser(
        "sample", help="let a model write", description=_SAMPLE, formatter_class=form
    )
    two.set_defaults(run=_sample)
    _add_sample_flags(two)
    _add_device(two)
    where.add_parser(commands)
    return top


def _add_sample_flags(command: argparse.ArgumentParser) -> None:
    default = SampleSettings()
    command.add_argument(
        "--checkpoint", required=True, type=Path, metavar="RUN", help="a run, or one of its steps"
    )
    command.add_argument("--prompt", required=True, metavar="TEXT", help="what to continue")
    command.add_argument(
        "--max-tokens", type=int, default=200, metavar="N", help="at most so many (200)"
    )
    command.add_argument(
        "--temperature",
        type=float,
        default=default.temperature,
        metavar="T",
        help=f"0: the likeliest token; 1: as the model says ({default.temperature})",
    )
    command.add_argument(
        "--top-k",
        type=int,
        default=default.top_k,
        metavar="K",
        help=f"draw from the K likeliest; 0: from all ({default.top_k})",
    )
    command.add_argument(
        "--top-p",
        type=float,
        default=default.top_p,
        metavar="P",
        help="draw from the fewest tokens that reach probability P (1: all)",
    )
    command.add_argument(
        "--seed", type=int, default=default.seed, metavar="N", help="equal seed, equal text (0)"
    )


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="auto takes a GPU where there is one",
    )


def _sample(arguments: argparse.Namespace) -> None:
    from trainer import checkpoint
    from trainer.distributed import ranks
    from trainer.generate import generate
    from trainer.progress import say

    names = ("prompt", "max_tokens", "temperature", "top_k", "top_p", "seed")
    flags = {name: getattr(arguments, name) for name in names}
    settings = from_dict(flags, SampleSettings, "trainer sample")
    with ranks(arguments.device) as group:
        loaded = checkpoint.load(arguments.checkpoint, group.device)
        say(Console(), settings.prompt + generate(loaded.model, loaded.tokenizer, settings).text)
