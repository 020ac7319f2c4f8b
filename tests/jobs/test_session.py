"""Sessions of the embedded engine outlive work that the driver does alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.engine.session import SESSION_SECONDS

PROJECT = Path(__file__).parents[2]
CODE = """
import os, time
from jobs.engine.session import open_engine
with open_engine(None, None, False) as engine:
    assert engine.spark.range(3).count() == 3
    time.sleep(4)
    print(engine.spark.range(3).count(), os.environ["SAIL_SPARK__SESSION_TIMEOUT_SECS"])
"""


@pytest.mark.parametrize("seconds", ["", "1"])
def test_a_session_stays_while_no_query_runs(seconds: str) -> None:
    """With a timeout of a second the session is lost: the variable is the one that Sail reads."""
    name = "SAIL_SPARK__SESSION_TIMEOUT_SECS"
    environment = {k: v for k, v in os.environ.items() if "SPARK" not in k}
    environment |= {name: seconds} if seconds else {}
    environment["PYTHONPATH"] = str(PROJECT)
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120
    )
    if seconds:
        assert "is not running" in done.stderr
    else:
        assert done.stdout == f"3 {SESSION_SECONDS}\n", done.stderr
