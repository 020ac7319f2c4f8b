"""What several commands share: how a command and common flags are declared, and what they mean.

Sampling flags become `SampleSettings`, batch flags a `Loader`; `UserError` names a bad value.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas import manifest
from schemas.config import from_dict
from schemas.errors import UserError
from schemas.manifest import MANIFEST_FILE
from trainer.data.loader import Loader
from trainer.data.trace import loader_of_run
from trainer.settings import SampleSettings

_SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    """Add a command to the command line's subparsers; returns its parser, for flags."""
    form = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(name, help=summary, description=description, formatter_class=form)
    command.set_defaults(run=run)
    return command  # type: ignore[no-any-return]


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`."""
    # fmt: off
    command.add_argument("--checkpoint", required=True, type=Path, metavar="RUN",
        help="load the latest checkpoint of this run, or one of its steps (RUN/step-N)")
    # fmt: on


def add_device(command: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    # fmt: off
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto",
        help="compute on this device; auto: a GPU if there is one (default: auto)")
    # fmt: on


def add_sampling(command: argparse.ArgumentParser, max_tokens: int) -> None:
    """Add the settings of a recipe's [sample] as flags."""
    default, add = SampleSettings(), command.add_argument
    # fmt: off
    add("--max-tokens", type=int, default=max_tokens, metavar="N",
        help="write at most N tokens (default: %(default)s)")
    add("--temperature", type=float, default=default.temperature, metavar="T",
        help="divide logits by T; 0: always take the likeliest token (default: %(default)s)")
    add("--top-k", type=int, default=default.top_k, metavar="K",
        help="sample from the K likeliest tokens; 0: from all (default: %(default)s)")
    add("--top-p", type=float, default=default.top_p, metavar="P",
        help="sample from the fewest tokens that reach probability P (default: 1, all)")
    add("--min-p", type=float, default=default.min_p, metavar="P",
        help="drop tokens less than P times as likely as the likeliest (default: 0)")
    add("--repetition-penalty", type=float, default=default.repetition_penalty, metavar="X",
        help="penalize repeated tokens by the factor X (default: 1, off)")
    add("--seed", type=int, default=default.seed, metavar="N",
        help="seed the sampling; an equal seed gives equal text (default: %(default)s)")
    add("--stop", action="append", default=[], metavar="TEXT",
        help="end before this text; may be given several times (default: none)")
    # fmt: on


def sampling_settings(arguments: argparse.Namespace, command: str) -> SampleSettings:
    """The settings of `add_sampling`'s flags; `UserError` names one that is out of range."""
    flags = {name: getattr(arguments, name) for name in _SAMPLING}
    flags |= {"prompt": arguments.prompt or "", "stop": arguments.stop}
    return from_dict(flags, SampleSettings, command)


def add_batches(command: argparse.ArgumentParser) -> None:
    """Add the flags of `open_loader`: a run, or a folder of shards and how it is batched."""
    add = command.add_argument
    # fmt: off
    add("--run", dest="of_run", type=Path, metavar="RUN",
        help="take shards and batch settings from this run")
    add("--shards", "--manifest", nargs="+", default=[], type=Path, metavar="DIR",
        help="read this folder of shards; with --run: the folders that have moved")
    add = command.add_argument_group("batches without --run").add_argument
    add("--seq-len", type=int, default=256, metavar="T",
        help="read T tokens per row (default: %(default)s)")
    add("--batch-size", type=int, default=8, metavar="B",
        help="put B rows into a global batch (default: %(default)s)")
    add("--packing", choices=["auto", "concat", "best_fit"], default="auto",
        help="pack documents like this; auto: by the kind of shards (default: auto)")
    add("--seed", type=int, default=0, metavar="N",
        help="seed the order of the data (default: %(default)s)")
    # fmt: on


def open_loader(arguments: argparse.Namespace) -> Loader:
    """The loader of `--run`, or of one folder of shards under `add_batches`' other flags."""
    folders = [path.parent if path.name == MANIFEST_FILE else path for path in arguments.shards]
    if arguments.of_run is not None:
        return loader_of_run(arguments.of_run, folders)
    if not folders:
        raise UserError("give --run RUN, or --shards DIR with the settings of its batches")
    if len(folders) > 1:
        raise UserError(f"--shards: {len(folders)} folders: only a run says how to mix; give --run")
    packing = arguments.packing
    if packing == "auto":
        shards = manifest.read(folders[0])
        packing = "best_fit" if shards and shards.has_conversations else "concat"
    return Loader(
        folders, seq_len=arguments.seq_len, rows=arguments.batch_size, packing=packing,
        seed=arguments.seed, check_files=True,
    )  # fmt: skip
