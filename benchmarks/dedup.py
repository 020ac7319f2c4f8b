"""Deduplication: what it costs, how it grows, and what it finds, each beside its target.

    python benchmarks/dedup.py signatures              # needs ../shared/crawl
    python benchmarks/dedup.py versus --peer-python .venv-datatrove/bin/python --repeat 3
    python benchmarks/dedup.py scale --documents 1000000 --master 'local[2]'
    python benchmarks/dedup.py all --peer-python .venv-datatrove/bin/python --master 'local[2]'

Every part prints a table. Whole runs are the command `gristmill dedup`, start included, measured
over its whole process tree; where several are made, the one that took least CPU time counts.
`make bench-datatrove` makes datatrove's environment.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dedup_bench import Bench
from dedup_real import signatures, versus
from dedup_scale import growth, recall, scale, skew
from gold import CRAWL
from rich.console import Console
from rich.table import Table

Part = Callable[[Bench, argparse.Namespace], Table]

OPTIONS: dict[str, dict[str, Any]] = {
    "--crawl": {"default": CRAWL, "metavar": "GLOB", "help": "WARC files of the real pages"},
    "--peer-python": {"metavar": "PYTHON", "help": "datatrove's environment; else ours alone"},
    "--texts": {"type": int, "default": 7_800, "help": "how many (default 7,800)"},
    "--documents": {"type": int, "default": 1_000_000, "help": "how many (default 1,000,000)"},
    "--skew-documents": {"type": int, "default": 200_000, "help": "of each (default 200,000)"},
    "--pairs": {"type": int, "default": 10_000, "help": "at each similarity (default 10,000)"},
    "--job": {"action": "store_true", "help": "also through the whole job"},
    "--master": {"metavar": "URL", "help": "also on Apache Spark, e.g. local[2] (needs Java 17)"},
}
# Part -> what runs it, and its options beside those of all.
PARTS: dict[str, tuple[Part, tuple[str, ...]]] = {
    "signatures": (signatures, ("--crawl", "--peer-python")),
    "versus": (versus, ("--crawl", "--peer-python", "--texts")),
    "scale": (scale, ("--documents", "--master")),
    "growth": (growth, ("--documents", "--master")),
    "skew": (skew, ("--skew-documents", "--master")),
    "recall": (recall, ("--pairs", "--job")),
}


def main() -> None:
    """Run one part, or all."""
    arguments = _parser().parse_args()
    # Both systems get the same cores, and the tables say how many.
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    os.sched_setaffinity(0, cores)
    console = Console(width=100)
    with contextlib.ExitStack() as stack:
        work = arguments.work or stack.enter_context(tempfile.TemporaryDirectory())
        progress = Console(stderr=True)
        bench = Bench(Path(work), progress, arguments.repeat, keep=bool(arguments.work))
        for part in arguments.parts:
            console.print(PARTS[part][0](bench, arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="PART")
    for name, (part, options) in PARTS.items():
        _add_part(commands, name, (name,), part.__doc__ or "", options)
    _add_part(commands, "all", tuple(PARTS), "All parts.", tuple(OPTIONS))
    return parser


def _add_part(
    commands: Any, name: str, parts: tuple[str, ...], text: str, options: tuple[str, ...]
) -> None:
    one = commands.add_parser(name, help=text, description=text)
    for option in options:
        one.add_argument(option, **OPTIONS[option])
    one.add_argument("--repeat", type=int, default=1, help="runs of each; the quickest counts")
    one.add_argument("--cores", type=int, default=2, help="for each system (default 2)")
    one.add_argument("--work", metavar="DIR", help="keep what is written, here")
    one.set_defaults(parts=parts)


if __name__ == "__main__":
    main()
