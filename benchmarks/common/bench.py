"""What benchmarks of several parts share: command line, work folder, table of figures."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from common.measured import work_folder


@dataclass
class Bench:
    """A folder to work in, and how often each part runs; `keep` leaves what is written there.

    `found` is what parts measured that later ones need too.
    """

    work: Path
    console: Console
    repeat: int = 1
    keep: bool = False
    found: dict[Any, Any] = field(default_factory=dict)

    def fresh(self, name: str) -> Path:
        """The path of a folder that does not exist, or no longer."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        return self.work / name

    def clear(self, folder: Path) -> None:
        """Make room, unless all is to be kept."""
        if not self.keep:
            shutil.rmtree(folder)


class Figure(NamedTuple):
    """A row of a table; `met` is None where nothing was aimed at."""

    what: str
    target: str
    measured: str
    met: bool | None = None


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


def at_most(what: str, value: float, limit: float, unit: str = "") -> Figure:
    """A figure that is to be no more than `limit`."""
    return Figure(what, f"<= {limit:g}{unit}", f"{value:,.2f}{unit}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "") -> Figure:
    """A figure that is to be no less than `limit`."""
    return Figure(what, f">= {limit:g}{unit}", f"{value:,.2f}{unit}", value >= limit)


def figures_table(title: str, figures: Sequence[Figure], caption: str = "") -> Table:
    """The target beside what was measured."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("")
    for name in ("target", "measured", "met"):
        table.add_column(name, justify="right")
    for what, target, measured, met in figures:
        table.add_row(what, target, measured, {True: "yes", False: "NO", None: ""}[met])
    return table


def engine(master: str | None) -> str:
    """What a table calls the engine."""
    return f"Spark {master}" if master else "Sail"
