"""`gristmill train-classifier`, from two folders to a model and what it measured."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from corpus.filters.classifier import probability
from jobs.train_classifier import add_parser
from schemas.errors import UserError


def write_texts(folder: Path, texts: list[str]) -> str:
    folder.mkdir()
    for i, text in enumerate(texts):
        (folder / f"{i}.txt").write_text(text)
    return str(folder)


def test_the_command_writes_a_model_and_prints_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_texts(tmp_path / "good", [f"the miller ground the corn {i}" for i in range(50)])
    bad = write_texts(tmp_path / "bad", [f"buy cheap shoes now {i}" for i in range(50)])
    model = tmp_path / "new" / "m.bin"
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    flags = ["train-classifier", "--positive", good, "--negative", bad, "--output", str(model)]
    arguments = parser.parse_args([*flags, "--dim", "8", "--epochs", "30", "--label", "good"])
    assert arguments.command(arguments) == 0
    printed = capsys.readouterr().out
    assert "AUC 1.0" in printed
    assert f"{model}: min_score = " in printed
    assert probability("the corn", str(model), "good") > probability("cheap", str(model), "good")


def test_a_bad_flag_is_named() -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    flags = ["--positive", "a", "--negative", "b", "--output", "m.bin", "--dim", "0"]
    arguments = parser.parse_args(["train-classifier", *flags])
    with pytest.raises(UserError, match="train-classifier: dim = 0: must be at least 1"):
        arguments.command(arguments)
