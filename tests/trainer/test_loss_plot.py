"""The loss curve: which numbers of a log are drawn, and that a picture comes of any log."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from trainer.train import loss_plot
from trainer.train.run_folder import read_log

LOG = [
    {"step": 0, "validation_loss": 5.0},
    {"step": 1, "loss": 5.0, "learning_rate": 0.1},
    {"step": 2, "loss": None, "learning_rate": 0.2},
    {"step": 3, "loss": 4.0, "learning_rate": 0.2},
    {"step": 2, "loss": 3.0, "learning_rate": 0.2},  # after a kill
    {"step": 3, "loss": 2.0, "learning_rate": 0.2},
    {"step": 3, "validation_loss": None},
    {"step": 3, "sample": "the"},
]


def a_log(folder: Path, records: list[Any], torn: str = "") -> None:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "log.jsonl").write_text(lines + torn)


def test_of_a_step_that_was_taken_again_the_last_counts() -> None:
    assert loss_plot.curve(LOG, "loss") == {1: 5.0, 2: 3.0, 3: 2.0}
    assert list(loss_plot.curve(LOG, "learning_rate").values()) == [0.1, 0.2, 0.2]
    held_out = loss_plot.curve(LOG, "validation_loss")
    assert held_out[0] == 5.0
    assert math.isnan(held_out[3])


@pytest.mark.parametrize(
    "records",
    [
        LOG,
        [],
        LOG[:1],
        LOG[:2],
        [{"step": n, "loss": math.nan} for n in range(5)],
        [{"step": 1, "loss": "3", "learning_rate": None}],
    ],
    ids=["whole", "empty", "no step", "one step", "no finite loss", "no numbers"],
)
def test_any_log_gives_a_picture(tmp_path: Path, records: list[Any]) -> None:
    a_log(tmp_path, records, torn='{"step": 4, "lo')
    loss_plot.plot(read_log(tmp_path), tmp_path / "loss.png")
    picture = imread(tmp_path / "loss.png")
    assert picture.shape == (600, 960, 4)
    assert picture[..., :3].min() < 0.5  # something is drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "loss.png"]


def test_an_equal_log_gives_an_equal_file(tmp_path: Path) -> None:
    a_log(tmp_path, LOG)
    loss_plot.plot(read_log(tmp_path), tmp_path / "one.png")
    loss_plot.plot(read_log(tmp_path), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@given(values=st.lists(st.floats(-1e3, 1e3) | st.just(math.nan), min_size=1, max_size=200))
def test_the_smoothed_line_lies_within_the_values_and_looks_both_ways(values: list[float]) -> None:
    line = loss_plot.smoothed(values)
    known = [value for value in values if not math.isnan(value)]
    assert len(line) == len(values)
    for shown in line:
        assert math.isnan(shown) or min(known) - 1e-6 <= shown <= max(known) + 1e-6
    backward = loss_plot.smoothed(values[::-1])[::-1]
    assert line == pytest.approx(backward, nan_ok=True)
