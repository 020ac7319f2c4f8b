"""Token shards: what tokenizing costs beside tiktoken alone, and what reading them back costs.

    python benchmarks/tokens.py stage                  # needs ../shared/crawl
    python benchmarks/tokens.py stage --repeat 5 --copies 8 --master 'local[2]'
    python benchmarks/tokens.py layouts                # needs ../shared/crawl
    python benchmarks/tokens.py all

Every part prints a table. Texts are the main texts of the crawl's pages. Where several runs are
made, the one that took least CPU time counts.
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
from gold import CRAWL
from rich.console import Console
from rich.table import Table
from token_layouts import layouts
from token_stage import stage

Part = Callable[[Bench, argparse.Namespace], Table]

OPTIONS: dict[str, dict[str, Any]] = {
    "--crawl": {"default": CRAWL, "metavar": "GLOB", "help": "WARC files of the real pages"},
    "--tokenizer": {"default": "cl100k_base", "metavar": "NAME", "help": "tiktoken's name for it"},
    "--copies": {"type": int, "default": 4, "help": "of the texts, for the whole job (default 4)"},
    "--master": {"metavar": "URL", "help": "also on Apache Spark, e.g. local[2] (needs Java 17)"},
}
# Part -> what runs it, and its options beside those of all.
PARTS: dict[str, tuple[Part, tuple[str, ...]]] = {
    "stage": (stage, ("--crawl", "--tokenizer", "--copies", "--master")),
    "layouts": (layouts, ("--crawl", "--tokenizer")),
}


def main() -> None:
    """Run one part, or all."""
    arguments = _parser().parse_args()
    # Both sides get the same cores, and the tables say how many.
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    os.sched_setaffinity(0, cores)
    console = Console(width=100)
    with contextlib.ExitStack() as stack:
        work = arguments.work or stack.enter_context(tempfile.TemporaryDirectory())
        bench = Bench(Path(work), Console(stderr=True), arguments.repeat, keep=bool(arguments.work))
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
    one.add_argument("--repeat", type=int, default=3, help="runs of each; the quickest counts")
    one.add_argument("--cores", type=int, default=2, help="for each side (default 2)")
    one.add_argument("--work", metavar="DIR", help="keep what is written, here")
    one.set_defaults(parts=parts)


if __name__ == "__main__":
    main()
