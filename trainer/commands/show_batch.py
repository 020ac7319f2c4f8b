"""`trainer show-batch`: the rows of a training batch, and which of their tokens are learned.

Token i + 1 of a row is learned where target i is not left out. Texts are shown as they come out of
the token ids, stretch by stretch, so that what is seen is what a model sees; what controls a
terminal is not let through.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import MANIFEST_FILE
from schemas.printing import PlainConsole, printable
from schemas.tokenizer import Tokenizer
from trainer.commands import where
from trainer.data.loader import IGNORED, Batch

CONTEXT, TARGET, PADDING = "dim", "green", "bright_black"
MARKS = ("⟦", "⟧")  # around what is learned where there are no colours


@dataclass(frozen=True)
class Row:
    """One row as lists of equal length: ids, which are learned, and each one's document, from 0.

    It has one token more than the model reads where the last target is learned. The document of
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


def row_of(batch: Batch, row: int, boundary: int) -> Row:
    """A row of a batch. Padding is the last stretch, nothing but boundaries that are not learned.

    So is an empty document there that is not learned, which looks and counts like it.
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
    return Row(ids, learned, documents, len(targets))


def drawn(row: Row, tokenizer: Tokenizer, marks: bool) -> Text:
    """The row, a line a document: what is learned in green or, with `marks`, between `MARKS`."""
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
            for text, control in _texts([row.ids[i] for i in run], tokenizer):
                style = TARGET if learned else CONTEXT
                shown.append(text, f"bold {style}" if control else style)
            shown.append(end)
    return shown


def _texts(ids: list[int], tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """Text of each stretch of ids, and whether they are control tokens."""
    control = set(tokenizer.control_ids.values())
    for is_control, run in itertools.groupby(ids, control.__contains__):
        yield printable(tokenizer.decode(list(run))), is_control


_SHOW = """\
Print rows of a training batch: what is learned is green, what is only read is dim, padding is grey,
control tokens are bold; a line a document. Without colours, what is learned stands in ⟦ ⟧.

  trainer show-batch --shards out/conversations --rows 2
  trainer show-batch --run demo/model --step 40
"""


def add_parser(commands: Any) -> None:
    """Add `trainer show-batch` to the command line's subparsers."""
    command = commands.add_parser(
        "show-batch",
        help="print rows of a batch, coloured by what is learned",
        description=_SHOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    add = command.add_argument
    add("--shards", dest="manifest", nargs="+", default=[], type=Path, metavar="DIR",
        help="folder of shards; with --run where they are now")  # fmt: skip
    add("--run", dest="of_run", type=Path, metavar="RUN", help="a run: its data specification")
    add("--step", type=int, default=0, metavar="N", help="step, from 0 (0)")
    add("--rows", type=int, default=4, metavar="R", help="so many of its rows, at most (4)")
    add("--seq-len", type=int, default=256, metavar="T", help="without --run: as its recipe (256)")
    add("--batch-size", type=int, default=8, metavar="B", help="rows of a global batch (8)")
    add("--packing", choices=["auto", "concat", "best_fit"], default="auto",
        help="auto: best_fit for conversations, else concat")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the data's order (0)")


def run(arguments: argparse.Namespace) -> None:
    """`trainer show-batch`."""
    for flag, least in (("step", 0), ("rows", 1)):
        if getattr(arguments, flag) < least:
            raise UserError(f"--{flag} {getattr(arguments, flag)}: must be at least {least}")
    if arguments.packing == "auto" and arguments.manifest and arguments.of_run is None:
        arguments.packing = _packing(arguments.manifest[0])
    loader = where.open_loader(arguments)
    batch, tokenizer = loader.batch(arguments.step), loader.shards.tokenizer
    show(PlainConsole(), batch, tokenizer, min(arguments.rows, loader.spec.rows))


def show(console: Console, batch: Batch, tokenizer: Tokenizer, num_rows: int) -> None:
    """Print the first rows of a batch, and how much of it is learned."""
    marks = not console.is_terminal or console.no_color
    for number in range(num_rows):
        row = row_of(batch, number, tokenizer.boundary)
        head = f"step {batch.step}, row {number}: {_share(sum(row.learned), row.seq_len)} learned"
        count = f"{row.num_documents} document{'s' * (row.num_documents != 1)}"
        padding = f", {row.num_padding} of padding" if row.num_padding else ""
        console.print(Text(f"{head}, {count}{padding}", "bold"), soft_wrap=True)
        console.print(drawn(row, tokenizer, marks), soft_wrap=True)
        console.print()
    learned = int(np.count_nonzero(batch.targets != IGNORED))
    total = f"all {len(batch.targets)} rows: {_share(learned, batch.targets.size)} learned"
    console.print(Text(total))


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} tokens ({part / whole:.1%})"


def _packing(path: Path) -> str:
    found = manifest.read(path.parent if path.name == MANIFEST_FILE else path)
    kind = None if found is None else found.extra.get("kind")
    return "best_fit" if kind == "conversations" else "concat"
