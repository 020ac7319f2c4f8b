"""The command line: every command of `trainer`, each declared in its own module."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from schemas.errors import UserError
from schemas.printing import printable
from trainer.commands import chat, evaluate, export, sample, show_batch, train, where
from trainer.distributed import Stopped

_ABOUT = """\
Train a small language model on token shards, and let it write.

  trainer pretrain --recipe recipes/pretrain-tiny.toml --shards demo/corpus/shards --out demo/model
  trainer sample --checkpoint demo/model --prompt "The water"
  trainer chat --checkpoint demo-chat/assistant --prompt "What is a mill?"
  trainer eval --checkpoint demo/model --shards demo/corpus/shards --by domain
  trainer where --run demo/model --step 40 --row 3
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
    except OSError as error:  # pyarrow's may quote a file
        print(f"trainer: error: {printable(str(error))}", file=sys.stderr)
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
    train.add_parsers(commands)
    sample.add_parser(commands)
    chat.add_parser(commands)
    evaluate.add_parser(commands)
    show_batch.add_parser(commands)
    where.add_parser(commands)
    export.add_parser(commands)
    return top
