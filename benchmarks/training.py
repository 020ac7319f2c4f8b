"""The trainer: how fast it is, and that the models it makes learn.

    python benchmarks/training.py speed                 # needs ../shared/crawl
    python benchmarks/training.py speed --steps 30 --muon
    python benchmarks/training.py learn                 # needs ../shared; about an hour
    python benchmarks/training.py learn --seeds 1 --only characters
    python benchmarks/training.py overfit
    python benchmarks/training.py all

Every part prints a table. `speed` takes steps of depth 4, width 256, vocabulary 4,096, T 256 and 16
rows: plain PyTorch in fp32 (training_parts/plain_model.py), then the trainer's own loop in each
number format, eager and compiled. All are in one process and take turns step by step, so that a
busy machine slows them alike; what the first step of each takes stands apart. `learn` trains on
Shakespeare's characters beside nanoGPT's published loss, and on the crawl's pages beside
transformers' Qwen3. `overfit` memorizes one batch.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the trainer's command line does

import torch

from common.bench import Part, run
from common.gold import CRAWL
from training_parts.learn import SHAKESPEARE, learn, overfit
from training_parts.speed import speed

OPTIONS: dict[str, dict[str, Any]] = {
    "--crawl": {"default": CRAWL, "metavar": "GLOB", "help": "WARC files of the real pages"},
    "--text": {"default": SHAKESPEARE, "metavar": "FILE", "help": "for `learn`'s characters"},
    "--steps": {"type": int, "default": 20, "help": "of each variant that count (default 20)"},
    "--muon": {"action": "store_true", "help": "also Muon in place of AdamW"},
    "--seeds": {"type": int, "default": 3, "help": "runs of each kind in `learn` (default 3)"},
    "--only": {"choices": ["characters", "pages"], "help": "one half of `learn`"},
}
PARTS: dict[str, Part] = {
    "speed": (speed, ("--crawl", "--steps", "--muon")),
    "learn": (learn, ("--crawl", "--text", "--seeds", "--only")),
    "overfit": (overfit, ("--text",)),
}


def main() -> None:
    """Run one part, or all; PyTorch's threads are as many as the cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run(__doc__, PARTS, OPTIONS, repeat=1)


if __name__ == "__main__":
    main()
