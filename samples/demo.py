"""`make demo`: WARC files -> corpus -> a small model that writes, with the commands a user types.

    python samples/demo.py --input 'samples/*.warc.gz' --recipe recipes/sample.toml

Everything goes to demo/ (made anew each time); demo/report.json holds the numbers of the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
PROMPT = "The "


def main() -> int:
    arguments = _arguments()
    out = Path(arguments.out)
    make_fresh(out, ("corpus", "model", "report.json"))
    started = time.monotonic()
    root, run = out / "corpus", out / "model"
    corpus = timed(
        "jobs.submit", "run", "--recipe", arguments.recipe, "--input", *arguments.input,
        "--root", str(root),
    )  # fmt: skip
    training = timed(
        "trainer", "pretrain", "--recipe", arguments.trainer_recipe,
        "--shards", str(root / "shards"), "--out", str(run),
    )  # fmt: skip
    funnel = json.loads(output("jobs.submit", "report", "--root", str(root), "--json"))
    text = output("trainer", "sample", "--checkpoint", str(run), "--prompt", PROMPT, "--seed", "1")
    report = {
        "funnel": funnel,
        "training": json.loads((run / "report.json").read_text()),
        "text": text.strip(),
        "seconds": {
            "corpus": corpus,
            "training": training,
            "all": round(time.monotonic() - started, 1),
        },
    }
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    _show(report, out)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The main job, end to end, on a sample crawl.")
    parser.add_argument("--input", nargs="+", default=["samples/*.warc.gz"], help="WARC files")
    parser.add_argument("--recipe", default="recipes/sample.toml", help="the corpus's recipe")
    parser.add_argument("--trainer-recipe", default="recipes/pretrain-tiny.toml")
    parser.add_argument("--out", default="demo", help="folder, made anew")
    return parser.parse_args()


def make_fresh(out: Path, made: tuple[str, ...]) -> None:
    """Delete what an earlier demo made in `out`; a folder that holds more ends the program."""
    there = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if others := [name for name in there if name not in made]:
        sys.exit(f"--out {out}: holds {others[0]}, which no demo made; use a new or empty folder")
    if out.is_symlink() or any((out / name).is_symlink() for name in there):
        sys.exit(f"--out {out}: is or holds a symbolic link; use a new or empty folder")
    if out.is_dir():
        shutil.rmtree(out)


def timed(module: str, *arguments: str) -> float:
    """Run one of the project's commands as a user would, its output shown; seconds taken."""
    started = time.monotonic()
    print(
        f"$ {'gristmill' if module == 'jobs.submit' else module} {' '.join(arguments)}", flush=True
    )
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=PROJECT)
    if done.returncode:
        sys.exit(done.returncode)
    return round(time.monotonic() - started, 1)


def output(module: str, *arguments: str) -> str:
    """What one of the project's commands prints."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _show(report: dict[str, Any], out: Path) -> None:
    funnel, training, seconds = report["funnel"], report["training"], report["seconds"]
    console = Console()
    console.print(f"\nThe model, asked to go on from {PROMPT!r}:\n", style="bold")
    console.print(report["text"], markup=False, highlight=False)
    table = Table(
        title=f"\nWARC to model ({out}/report.json)", title_justify="left", show_edge=False
    )
    table.add_column("what")
    table.add_column("how much", justify="right")
    for name, value in _rows(funnel, training, seconds):
        table.add_row(name, value)
    console.print(table)


def _rows(
    funnel: dict[str, Any], training: dict[str, Any], seconds: dict[str, float]
) -> list[tuple[str, str]]:
    rows = [(name, f"{funnel[name]:,}") for name in ("records", "documents", "kept", "duplicates")]
    rows += [(name, f"{funnel[name]:,}") for name in ("canonical", "shards", "tokens")]
    first, last = training["validation_loss_first"], training["validation_loss_last"]
    rows += [
        ("model parameters", f"{training['parameters']:,}"),
        ("tokens trained", f"{training['tokens']:,} ({training['dtype']})"),
        (
            "training loss",
            f"{training['train_loss_first']:.3f} -> {training['train_loss_last']:.3f}",
        ),
        ("validation loss", f"{first:.3f} -> {last:.3f}"),
        ("corpus", f"{seconds['corpus']:.1f} s"),
        ("training", f"{seconds['training']:.1f} s"),
        ("all", f"{seconds['all']:.1f} s"),
    ]
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
