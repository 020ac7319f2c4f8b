"""A run's folder: what it was started with, its log and its report.

RUN/run.json      settings, data specification, tokenizer: written first
RUN/log.jsonl     a line a step, an evaluation and a sample
RUN/loss.png      the log as a picture
RUN/report.json   the numbers at the end: written last; a run is finished when it is there

Checkpoints lie beside them, see `trainer.checkpoint`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from schemas import json_text
from schemas.errors import UserError
from schemas.manifest import atomic_path
from trainer.checkpoint import LATEST
from trainer.durable import read_json, write_json

RUN_FILE, LOG_FILE, PLOT_FILE, REPORT_FILE = "run.json", "log.jsonl", "loss.png", "report.json"
Found = Literal["nothing", "unfinished", "finished"]


def inspect(run: Path, identity: dict[str, Any]) -> Found:
    """What `run` holds of the run `identity`; `UserError` where it holds anything else.

    An attempt of other settings that got to no checkpoint counts as nothing.
    """
    if not run.exists() or (run.is_dir() and not any(map(_counts, run.iterdir()))):
        return "nothing"
    if not (run / RUN_FILE).exists():
        raise UserError(f"{run}: not empty and no run of this trainer; choose another --out")
    finished = (run / REPORT_FILE).exists()
    old = read_json(run / RUN_FILE).get("identity", {})
    if old != identity and not finished and not (run / LATEST).exists():
        return "nothing"
    if old != identity:
        state = "a finished" if finished else "an unfinished"
        changes = "; ".join(_differences(old, identity)[:3])
        raise UserError(
            f"{run}: holds {state} run of other settings ({changes}); choose another --out"
        )
    return "finished" if finished else "unfinished"


def begin(run: Path, description: dict[str, Any], step: int) -> None:
    """Make the folder ready to go on after `step` steps; the log keeps what came before."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / RUN_FILE, description)  # first: what it holds is a run's, whatever comes
    kept = [line for line in read_log(run) if line["step"] <= step] if step else []
    with atomic_path(run / LOG_FILE) as temporary:
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")


def log(run: Path, record: dict[str, Any]) -> None:
    """Append one line to the log."""
    with open(run / LOG_FILE, "a", encoding="utf-8") as file:
        file.write(_line(record))


def read_log(run: Path) -> list[dict[str, Any]]:
    """The log's records; a line that a kill tore is left out."""
    if not (run / LOG_FILE).exists():
        return []
    text = (run / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    found = []
    # No splitlines(): a sample may hold other line ends, such as U+2028, which JSON leaves alone.
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            found.append(json_text.loads(line))
        except ValueError as error:
            raise UserError(f"{run / LOG_FILE}:{number}: not JSON: {error}") from None
    return found


def finish(run: Path, report: dict[str, Any]) -> None:
    """Write the report: the run is finished."""
    write_json(run / REPORT_FILE, report)


def _counts(path: Path) -> bool:
    """Whether a file says that a folder is in use; what a kill left of our first write does not."""
    return not (path.name.startswith(f".{RUN_FILE}.") and path.name.endswith(".tmp"))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """`section.key = old, now new` for every value that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        pairs = [(f"{name}.{key}".lstrip("."), old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{name}[{i}]", *both) for i, both in enumerate(zip(old, new, strict=True))]
    else:
        return [f"{name} = {old}, now {new}"] if old != new else []
    return [change for key, before, after in pairs for change in _differences(before, after, key)]
