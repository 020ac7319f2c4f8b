"""The command line of trainer.py."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the trainer's command line does

import torch

from gold import CRAWL
from parts import Part, run
from trainer_learn import SHAKESPEARE, learn, overfit
from trainer_speed import speed

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


def main(about: str | None) -> None:
    """Run one part, or all; PyTorch's threads are as many as the cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run(about, PARTS, OPTIONS, repeat=1)
