"""Token shards: what tokenizing costs beside tiktoken alone, and what reading them back costs.

    python benchmarks/tokens.py stage                  # needs ../shared/crawl
    python benchmarks/tokens.py stage --repeat 5 --copies 8 --master 'local[2]'
    python benchmarks/tokens.py layouts                # needs ../shared/crawl
    python benchmarks/tokens.py all

Every part prints a table. Texts are the main texts of the crawl's pages. Where several runs are
made, the one that took least CPU time counts.
"""

from __future__ import annotations

from typing import Any

from common.bench import Part, run
from common.gold import CRAWL
from tokens_parts.layouts import layouts
from tokens_parts.stage import stage

OPTIONS: dict[str, dict[str, Any]] = {
    "--crawl": {"default": CRAWL, "metavar": "GLOB", "help": "WARC files of the real pages"},
    "--tokenizer": {"default": "cl100k_base", "metavar": "NAME", "help": "tiktoken's name for it"},
    "--copies": {"type": int, "default": 4, "help": "of the texts, for the whole job (default 4)"},
    "--master": {"metavar": "URL", "help": "also on Apache Spark, e.g. local[2] (needs Java 17)"},
}
PARTS: dict[str, Part] = {
    "stage": (stage, ("--crawl", "--tokenizer", "--copies", "--master")),
    "layouts": (layouts, ("--crawl", "--tokenizer")),
}


if __name__ == "__main__":
    run(__doc__, PARTS, OPTIONS, repeat=3)
