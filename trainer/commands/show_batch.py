"""`trainer show-batch`: print rows of a training batch, and which of their tokens are learned.

Token i + 1 of a row is learned unless target i is ignored by the loss. Text is decoded from runs of
token ids, so it is what the model reads; characters that control a terminal are replaced.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from schemas.errors import UserError
from schemas.printing import PlainConsole, printable
from schemas.tokenizer import Tokenizer
from trainer.commands import flags
from trainer.data.loader import IGNORED, Batch

CONTEXT, TARGET, PADDING = "dim", "green", "bright_black"
MARKS = ("⟦", "⟧")  # around learned text on a console without colors
_SHOW_BATCH = """\
Print rows of a training batch, one line per document. Learned tokens are green, context is dim,
padding grey, control tokens bold; without colors, learned tokens are between ⟦ and ⟧.

  trainer show-batch --shards out/conversations --rows 2
  trainer show-batch --run demo/model --step 40
"""


def add_parser(commands: Any) -> None:
    """Add `trainer show-batch` to the command line's subparsers."""
    command = flags.add_command(
        commands,
        "show-batch",
        run,
        "print rows of a batch, colored by what is learned",
        _SHOW_BATCH,
    )
    flags.add_batches(command)
    add = command.add_argument
    # fmt: off
    add("--step", type=int, default=0, metavar="N",
        help="print batch N, counted from 0 (default: %(default)s)")
    add("--rows", type=int, default=4, metavar="R",
        help="print the first R rows of the batch (default: %(default)s)")
    # fmt: on


def run(arguments: argparse.Namespace) -> None:
    """`trainer show-batch`."""
    for flag, value, least in (("--step", arguments.step, 0), ("--rows", arguments.rows, 1)):
        if value < least:
            raise UserError(f"{flag} {value}: must be at least {least}")
    loader = flags.open_loader(arguments)
    batch, tokenizer = loader.batch(arguments.step), loader.shards.tokenizer
    show(PlainConsole(), batch, tokenizer, min(arguments.rows, loader.spec.rows))


def show(console: Console, batch: Batch, tokenizer: Tokenizer, num_rows: int) -> None:
    """Print the first rows of a batch, and how much of it is learned."""
    marks = not console.is_terminal or console.no_color
    for number in range(num_rows):
        row = row_of(batch, number, tokenizer.boundary)
        learned = _share(sum(row.learned), row.seq_len)
        documents = f"{row.num_documents} document{'s' * (row.num_documents != 1)}"
        padding = f", {row.num_padding} of padding" if row.num_padding else ""
        heading = f"step {batch.step}, row {number}: {learned} learned, {documents}{padding}"
        console.print(Text(heading, "bold"), soft_wrap=True)
        console.print(row_text(row, tokenizer, marks), soft_wrap=True)
        console.print()
    learned = _share(int(np.count_nonzero(batch.targets != IGNORED)), batch.targets.size)
    console.print(Text(f"all {len(batch.targets)} rows: {learned} learned"))


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} tokens ({part / whole:.1%})"


@dataclass(frozen=True)
class BatchRow:
    """One row as lists of equal length: ids, which are learned, and each one's document, from 0.

    It has one token more than the model reads if the last target is learned. The document of
    padding is -1.
    """

    ids: list[int]
    learned: list[bool]
    documents: list[int]
    seq_len: int

    @property
    def num_documents(self) -> int:
        """Documents, or parts of them."""
        return len(set(self.documents) - {-1})

    @property
    def num_padding(self) -> int:
        """Tokens of padding."""
        return self.documents.count(-1)


def row_of(batch: Batch, row: int, boundary: int) -> BatchRow:
    """A row of a batch. Padding is its last document if that is boundaries only, none learned.

    An empty document at the end that is not learned looks the same and counts as padding.
    """
    ids, targets = batch.inputs[row].tolist(), batch.targets[row].tolist()
    documents = batch.document_ids[row].tolist()
    learned = [False, *(target != IGNORED for target in targets[:-1])]
    last = [i for i, document in enumerate(documents) if document == documents[-1]]
    if targets[-1] == IGNORED and all(ids[i] == boundary and not learned[i] for i in last):
        documents[last[0] :] = [-1] * len(last)
    if targets[-1] != IGNORED:
        ids.append(targets[-1])
        learned.append(True)
        documents.append(documents[-1] + (targets[-1] == boundary))
    return BatchRow(ids, learned, documents, len(targets))


def row_text(row: BatchRow, tokenizer: Tokenizer, marks: bool) -> Text:
    """The row, one line per document: learned text in green or, with `marks`, between `MARKS`."""
    shown = Text()
    for document, places in itertools.groupby(range(len(row.ids)), row.documents.__getitem__):
        if shown:
            shown.append("\n")
        if document < 0:
            shown.append(f"({row.num_padding} of padding)", PADDING)
            continue
        for learned, run in itertools.groupby(places, row.learned.__getitem__):
            begin, end = MARKS if marks and learned else ("", "")
            shown.append(begin)
            for text, control in _decode_runs([row.ids[i] for i in run], tokenizer):
                style = TARGET if learned else CONTEXT
                shown.append(text, f"bold {style}" if control else style)
            shown.append(end)
    return shown


def _decode_runs(ids: list[int], tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """Text of each run of ids, and whether they are control tokens."""
    control = set(tokenizer.control_ids.values())
    for is_control, run in itertools.groupby(ids, control.__contains__):
        yield printable(tokenizer.decode(list(run))), is_control
