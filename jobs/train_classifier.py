"""`gristmill train-classifier`: two folders of texts -> the model of `quality_classifier`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from rich.table import Table

from corpus.filters.train_classifier import Trained, Training, train
from schemas.errors import UserError
from schemas.printing import PlainConsole

_HELP = {
    "label": "name of the wanted kind",
    "other_label": "name of the others",
    "dim": "size of a word's vector",
    "epochs": "times that all texts are read",
    "word_ngrams": "longest run of words that counts as a feature",
    "buckets": "rows of the table of runs of words; 400 bytes each at 100 dimensions",
    "learning_rate": "of the first step; it falls to 0",
    "min_count": "words that occur more seldom are left out",
    "threads": "more than 1: faster, and another model each time",
    "seed": "of the order of texts and of the first vectors",
    "held_out": "share of the texts to measure the model on",
}


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the command to those of `gristmill`."""
    text = "train a fastText quality classifier on two folders of texts"
    parser = commands.add_parser("train-classifier", help=text, description=text)
    folder = "folder of *.txt, *.jsonl[.gz|.zst] or *.parquet with texts"
    parser.add_argument("--positive", required=True, metavar="DIR", type=Path, help=folder)
    parser.add_argument("--negative", required=True, metavar="DIR", type=Path, help=folder)
    parser.add_argument("--output", required=True, metavar="FILE", type=Path, help="the model")
    defaults = Training()
    for field in fields(Training):
        default = getattr(defaults, field.name)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(default), default=default,
            metavar=type(default).__name__.upper(), help=f"{_HELP[field.name]} ({default})",
        )  # fmt: skip
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    chosen = {field.name: getattr(arguments, field.name) for field in fields(Training)}
    try:
        settings = Training(**chosen)
    except ValueError as error:
        raise UserError(f"train-classifier: {error}") from None
    trained = train(arguments.positive, arguments.negative, arguments.output, settings)
    PlainConsole().print(_table(trained))
    kept = trained.min_score_for(0.1)
    print(f"{arguments.output}: min_score = {kept:.6f} keeps a tenth of texts like the others")
    return 0


def _table(trained: Trained) -> Table:
    title = (
        f"{trained.num_trained:,} texts learned; held out {trained.num_wanted:,} wanted and "
        f"{trained.num_others:,} others; AUC {trained.auc:.4f}"
    )
    table = Table("min_score", "others kept", "recall", "precision", title=title)
    for point in trained.points:
        shares = (point.kept_others, point.recall, point.precision)
        table.add_row(f"{point.min_score:.6f}", *(f"{share:.1%}" for share in shares))
    return table
