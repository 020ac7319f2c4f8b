"""The command line of a benchmark that has several parts, each of which prints a table."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from dedup_bench import Bench
from measured import work_folder

# What runs a part, and its options beside those of all.
Part = tuple[Callable[[Bench, argparse.Namespace], Table], tuple[str, ...]]
Options = Mapping[str, dict[str, Any]]  # flag -> what argparse takes of it


def run(about: str | None, parts: Mapping[str, Part], options: Options, repeat: int) -> None:
    """Run one part, or all; `repeat` is how often each is run where no flag says otherwise."""
    arguments = _parser(about, parts, options, repeat).parse_args()
    # All that is compared gets the same cores, and the tables say how many.
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    os.sched_setaffinity(0, cores)
    console = Console(width=100)
    with contextlib.ExitStack() as stack:
        work = work_folder(stack, arguments.work)
        bench = Bench(work, Console(stderr=True), arguments.repeat, keep=bool(arguments.work))
        for part in arguments.parts:
            console.print(parts[part][0](bench, arguments))


def _parser(
    about: str | None, parts: Mapping[str, Part], options: Options, repeat: int
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="PART")
    listed = [(name, (name,), part.__doc__ or "", own) for name, (part, own) in parts.items()]
    for name, several, text, own in [*listed, ("all", tuple(parts), "All parts.", tuple(options))]:
        one = commands.add_parser(name, help=text, description=text)
        for option in own:
            one.add_argument(option, **options[option])
        text = f"runs of each; the quickest counts ({repeat})"
        one.add_argument("--repeat", type=int, default=repeat, help=text)
        one.add_argument("--cores", type=int, default=2, help="for each side (default 2)")
        one.add_argument("--work", metavar="DIR", help="keep what is written, here")
        one.set_defaults(parts=several)
    return parser
