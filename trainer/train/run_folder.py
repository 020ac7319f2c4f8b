"""A run's folder: what it was started with, its log and its report.

RUN/run.json      settings, data specification, tokenizer: written first
RUN/log.jsonl     a line per step, evaluation and sample
RUN/loss.png      the log as a picture
RUN/report.json   the final numbers: written last; a run is finished when it exists

Checkpoints are in the same folder, see `trainer.model.checkpoint`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from schemas import json_text
from schemas.errors import UserError
from schemas.manifest import atomic_path
from trainer.durable import fault, read_json, write_json
from trainer.model.checkpoint import LATEST

RUN_FILE, LOG_FILE, PLOT_FILE, REPORT_FILE = "run.json", "log.jsonl", "loss.png", "report.json"
NAMED_CHANGES = 3  # settings that an error names
Found = Literal["nothing", "unfinished", "finished"]


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Create the folder and lock it; `UserError` where another trainer holds the lock.

    The lock is on the folder itself and ends with the process. A file system without locks has
    none. A folder that was created here and stays empty is removed.
    """
    try:
        existed = run.exists()
        run.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"--out {run}: cannot be used: {fault(run, error)}") from None
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"--out {run}: another trainer is writing to it") from None
        yield
    finally:
        os.close(descriptor)
        if not existed:
            with contextlib.suppress(OSError):
                run.rmdir()


def inspect(run: Path, identity: dict[str, Any]) -> Found:
    """What `run` holds of the run `identity`; `UserError` where it holds anything else.

    A run of other settings that has no checkpoint yet counts as nothing.
    """
    names = [path.name for path in run.iterdir()] if run.is_dir() else []
    # a kill during the first write leaves a temporary file, which does not count
    names = [n for n in names if not (n.startswith(f".{RUN_FILE}.") and n.endswith(".tmp"))]
    if not run.exists() or (run.is_dir() and not names):
        return "nothing"
    if not (run / RUN_FILE).exists():
        raise UserError(f"{run}: not empty and no run of this trainer; choose another --out")
    finished = (run / REPORT_FILE).exists()
    old = read_json(run / RUN_FILE).get("identity")
    if not isinstance(old, dict):
        raise UserError(f"{run / RUN_FILE}: not written by this trainer; choose another --out")
    if old == identity:
        return "finished" if finished else "unfinished"
    if not finished and not (run / LATEST).exists():
        return "nothing"
    state = "a finished" if finished else "an unfinished"
    raise UserError(
        f"{run}: holds {state} run of other settings ({changes(old, identity)}); "
        "choose another --out"
    )


def changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """`section.key = old, now new` of the first values that differ between two identities."""
    found = _differences(old, new)
    more = f"; and {len(found) - NAMED_CHANGES} more" if len(found) > NAMED_CHANGES else ""
    return "; ".join(found[:NAMED_CHANGES]) + more


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        pairs = [(f"{name}.{key}".lstrip("."), old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{name}[{i}]", *both) for i, both in enumerate(zip(old, new, strict=True))]
    else:
        return [f"{name} = {old}, now {new}"] if old != new else []
    return [change for key, before, after in pairs for change in _differences(before, after, key)]


def begin(run: Path, description: dict[str, Any], step: int) -> None:
    """Prepare the folder for the steps after `step`; the log keeps the lines up to it."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / RUN_FILE, description)  # first: it marks the folder as a run's
    kept = [line for line in read_log(run) if line["step"] <= step] if step else []
    with atomic_path(run / LOG_FILE) as temporary:
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")


def log(run: Path, record: dict[str, Any]) -> None:
    """Append one line to the log."""
    with open(run / LOG_FILE, "a", encoding="utf-8") as file:
        file.write(_line(record))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"


def read_log(run: Path) -> list[dict[str, Any]]:
    """The log's records, without a last line that a kill or a full disk cut short."""
    if not (run / LOG_FILE).exists():
        return []
    found, text = [], (run / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    # No splitlines(): a sample may hold other line ends, such as U+2028, which JSON leaves alone.
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            record = json_text.loads(line)
        except ValueError as error:
            raise UserError(f"{run / LOG_FILE}:{number}: not JSON: {error}") from None
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            raise UserError(f"{run / LOG_FILE}:{number}: not a line of a run's log: no step")
        found.append(record)
    return found


def finish(run: Path, report: dict[str, Any]) -> None:
    """Write the report, which marks the run as finished."""
    write_json(run / REPORT_FILE, report)
