"""trainer eval beside lm-evaluation-harness: the same model, rows and scores.

    python -m venv .venv-lm && .venv-lm/bin/pip install 'lm_eval[hf]'
    python benchmarks/evaluation.py --checkpoint demo/model --peer-python .venv-lm/bin/python \\
      arc_easy=arc_easy.jsonl lambada=lambada.jsonl

Files have the columns of MosaicML's llm-foundry, which both read. The checkpoint is exported, and
the harness loads it by transformers. Scores are of all candidates' log-likelihoods; acc_norm
differs by design (per byte here, per character there), so that it is equal on ASCII alone.
CPU seconds: ours are of the whole command, the harness's of its evaluation without imports.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def main() -> None:
    """Both on each task, then a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", metavar="TASK=FILE", help="tasks of trainer eval")
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="a run of the trainer")
    parser.add_argument(
        "--peer-python", required=True, metavar="PYTHON", help="the harness's environment"
    )
    parser.add_argument("--examples", type=int, default=200, metavar="N", help="of each task (200)")
    chosen = parser.parse_args()
    files = [(name, Path(path)) for name, _, path in (task.partition("=") for task in chosen.tasks)]
    ours = {name: _ours(chosen, name, path) for name, path in files}
    table = Table("task", "score", "trainer eval", "harness", "CPU-s", "harness's", title="Scores")
    for name, theirs in _theirs(chosen, files).items():
        scores, spent = ours[name]
        for i, (metric, value) in enumerate(theirs["scores"].items()):
            costs = (f"{spent:.1f}", f"{theirs['cpu_seconds']:.1f}") if i == 0 else ("", "")
            own = scores[metric]["score"]
            table.add_row(name if i == 0 else "", metric, f"{own:.6g}", f"{value:.6g}", *costs)
    Console().print(table)


def _ours(chosen: argparse.Namespace, task: str, path: Path) -> tuple[dict[str, Any], float]:
    """Metrics of one task, and CPU seconds of the command."""
    command = [
        *(sys.executable, "-m", "trainer", "eval", "--checkpoint", chosen.checkpoint, "--json"),
        *("--task", task, "--data", str(path), "--max-examples", str(chosen.examples)),
        *("--device", "cpu"),
    ]
    before = _cpu_of_children()
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    metrics: dict[str, Any] = found["metrics"]
    return metrics, _cpu_of_children() - before


def _theirs(chosen: argparse.Namespace, files: list[tuple[str, Path]]) -> dict[str, Any]:
    """The harness's answer for each task."""
    with tempfile.TemporaryDirectory() as work:
        model = Path(work) / "hf"
        export = (sys.executable, "-m", "trainer", "export", "--to", "hf")
        subprocess.run(
            [*export, str(model), "--checkpoint", chosen.checkpoint],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        script = Path(__file__).with_name("lm_eval_peer.py")
        tasks = [f"{name}={path.absolute()}" for name, path in files]
        command = [chosen.peer_python, str(script), str(model), str(chosen.examples), *tasks]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=work)
    answers = map(json.loads, (line for line in done.stdout.splitlines() if line.startswith("{")))
    return {answer["task"]: answer for answer in answers}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
