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

from typing import Any

from common.bench import Part, run
from common.gold import CRAWL
from dedup_parts.real import signatures, versus
from dedup_parts.scale import growth, recall, scale, skew

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
PARTS: dict[str, Part] = {
    "signatures": (signatures, ("--crawl", "--peer-python")),
    "versus": (versus, ("--crawl", "--peer-python", "--texts")),
    "scale": (scale, ("--documents", "--master")),
    "growth": (growth, ("--documents", "--master")),
    "skew": (skew, ("--skew-documents", "--master")),
    "recall": (recall, ("--pairs", "--job")),
}


if __name__ == "__main__":
    run(__doc__, PARTS, OPTIONS, repeat=1)
