"""The `trainer` command; each subcommand is declared in a module of `trainer.commands`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from schemas.errors import UserError
from schemas.printing import printable
from trainer.commands import chat, evaluate, export, sample, show_batch, train, where
from trainer.signals import Stopped

_ABOUT = """\
Train a small language model on token shards, evaluate it and generate text.

  trainer pretrain --recipe recipes/pretrain-tiny.toml --shards demo/corpus/shards --out demo/model
  trainer sample --checkpoint demo/model --prompt "The water"
  trainer chat --checkpoint demo-chat/assistant --prompt "What is a mill?"
  trainer eval --checkpoint demo/model --shards demo/corpus/shards --by domain
  trainer where --run demo/model --step 40 --row 3
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2, with one line on stderr, for a user error."""
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
    except OSError as error:  # the message may quote a file's content
        print(f"trainer: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("trainer: stopped", file=sys.stderr)
        return 130
    return 0


def wait_without_spinning() -> None:
    """Make waiting OpenMP threads sleep early; must be called before torch is imported.

    By default they spin for milliseconds. On a busy machine that takes a core from the thread they
    wait for.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def parser() -> argparse.ArgumentParser:
    """Every command and flag."""
    form = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="trainer", description=_ABOUT, formatter_class=form)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    train.add_parsers(commands)
    for module in (sample, chat, evaluate, show_batch, where, export):
        module.add_parser(commands)
    return top
