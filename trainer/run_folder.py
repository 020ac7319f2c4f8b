"""A run's folder: what it was started with, its log and its report.

RUN/run.json      settings, hashes of data and tokenizer: written first
RUN/log.jsonl     a line a step, an evaluation and a sample
RUN/report.json   the numbers at the end: written last; a run is finished when it is there
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from schemas.errors import UserError
from schemas.manifest import atomic_path
from trainer.checkpoint import LATEST, read_json

RUN_FILE, LOG_FILE, REPORT_FILE = "run.json", "log.jsonl", "report.json"
Found = Literal["nothing", "unfinished", "finished"]


def inspect(run: Path, identity: dict[str, Any]) -> Found:
    """What `run` holds of the run `identity`; `UserError` where it holds anything else.

    An attempt of other settings that got to no checkpoint counts as nothing.
    """
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        return "nothing"
    if not (run / RUN_FILE).exists():
        raise UserError(f"{run}: not empty and no run of this trainer; choose another --out")
    finished = (run / REPORT_FILE).exists()
    old = read_json(run / RUN_FILE)
    if old != identity and not finished and not (run / LATEST).exists():
        return "nothing"
    if old != identity:
        state = "a finished" if finished else "an unfinished"
        changes = "; ".join(_differences(old, identity)[:3])
        raise UserError(
            f"{run}: holds {state} run of other settings ({changes}); choose another --out"
        )
    return "finished" if finished else "unfinished"


def begin(run: Path, identity: dict[str, Any]) -> None:
    """Make the folder ready; checkpoints that an unfinished run left stay, its log goes."""
    run.mkdir(parents=True, exist_ok=True)
    (run / LOG_FILE).write_text("", encoding="utf-8")
    _write(run / RUN_FILE, identity)


def log(run: Path, record: dict[str, Any]) -> None:
    """Append one line to the log."""
    with open(run / LOG_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def finish(run: Path, report: dict[str, Any]) -> None:
    """Write the report: the run is finished."""
    _write(run / REPORT_FILE, report)


def _write(path: Path, values: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`section.key = old, now new` for every value that differs."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} = {before}, now {after}")
    return found
