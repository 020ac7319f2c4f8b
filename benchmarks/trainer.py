"""The trainer: how fast it is, and that the models it makes learn.

    python benchmarks/trainer.py speed                 # needs ../shared/crawl
    python benchmarks/trainer.py speed --steps 30 --muon
    python benchmarks/trainer.py learn                 # needs ../shared; about an hour
    python benchmarks/trainer.py learn --seeds 1 --only characters
    python benchmarks/trainer.py overfit
    python benchmarks/trainer.py all

Every part prints a table. `speed` takes steps of depth 4, width 256, vocabulary 4,096, T 256 and 16
rows: plain PyTorch in fp32 (benchmarks/trainer_reference.py), then the trainer's own loop in each
number format, eager and compiled. All are in one process and take turns step by step, so that a
busy machine slows them alike; what the first step of each takes stands apart. `learn` trains on
Shakespeare's characters beside nanoGPT's published loss, and on the crawl's pages beside
transformers' Qwen3. `overfit` learns one batch by heart.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

if __name__ == "trainer":
    # This file has the package's name and stands first on the path of every script beside it:
    # whoever imports `trainer` is given the package.
    project = Path(__file__).resolve().parents[1]
    spec = importlib.machinery.PathFinder.find_spec("trainer", [str(project)])
    assert spec is not None and spec.loader is not None, project  # noqa: PT018
    package = sys.modules["trainer"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
elif __name__ == "__main__":
    from trainer_parts import main

    main(__doc__)
