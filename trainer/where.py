"""From a place in a batch to the page that its token came from, and back.

A row's segments say which tokens of the window it holds; row groups' sizes and document lengths
say which document those are, and the shard's provenance columns where it came from. The other way,
a document's row is looked up in the provenance columns of the split (one pass, in Arrow), and every
epoch's plan says in which rows its tokens stand. Shards are hashed as a whole before that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer import verdict, where_data, where_page
from trainer.loader import Loader
from trainer.packing import PADS, Int32s
from trainer.windows import SourceRows

AROUND = 12  # tokens of the document that are told on each side


@dataclass(frozen=True)
class Origin:
    """Where one token of a batch came from: shard, document and place in it, page and record.

    `folder` is that of the shards, `before`, `text` and `after` are the document around the token.
    """

    folder: str
    shard: str
    row_group: int
    row_in_group: int
    token: int  # of the document, from 0
    token_id: int
    before: str
    text: str
    after: str
    id: str
    url: str | None
    file_path: str
    record_offset: int


class Seen(NamedTuple):
    """A row of a batch that holds tokens of a document, `first` to `end` - 1 of them."""

    step: int
    row: int
    position: int
    first: int
    end: int
    id: str = ""


def where(loader: Loader, step: int, row: int, position: int = 0) -> Origin | None:
    """The origin of token `position` (0 to seq_len) of a row of a global batch; None: padding."""
    _require("--row", row, loader.spec.rows - 1)
    _require("--pos", position, loader.spec.seq_len)
    run_row = step * loader.spec.rows + row
    for number, source in enumerate(loader.sources):
        own = loader.mixture.rows_of(number, run_row, run_row + 1)
        if own:
            return _origin(source, own.start, position)
    raise AssertionError("every row is of some source")


def rows_with(
    loader: Loader, num_steps: int, *, url: str | None = None, document_id: str | None = None
) -> Iterator[Seen]:
    """The rows of steps 0 to `num_steps` - 1 that hold tokens of the documents of a URL or id."""
    for number, source in enumerate(loader.sources):
        end = len(loader.mixture.rows_of(number, 0, num_steps * loader.spec.rows))
        for group, inside in _find(source, url, document_id):
            id_ = source.row_groups.provenance(group).column("id")[inside].as_py()
            for own, position, first, stop in _rows_of_document(source, group, inside, end):
                run_row = int(loader.mixture.places(number, np.array([own]))[0])
                yield Seen(*divmod(run_row, loader.spec.rows), position, first, stop, id_)


def _origin(source: SourceRows, own: int, position: int) -> Origin | None:
    place = source.place(own)
    plan = source.plan(place.epoch)
    segments = plan.segments(place.row, place.row + 1)
    ends = np.cumsum(segments.lengths)
    index = int(np.searchsorted(ends, position, side="right"))
    if segments.kinds[index] == PADS:
        return None
    at = int(segments.starts[index]) + position - int(ends[index] - segments.lengths[index])
    groups, window = source.row_groups, plan.window(place.window)
    group_ends = np.cumsum(groups.tokens[window.groups])
    which = int(np.searchsorted(group_ends, at, side="right"))
    group = int(window.groups[which])
    at -= int(group_ends[which] - groups.tokens[group])
    return _origin_in_group(source, group, at)


def _origin_in_group(source: SourceRows, group: int, at: int) -> Origin:
    """The origin of token `at` of a row group."""
    groups = source.row_groups
    ends = np.cumsum(groups.lengths(group), dtype=np.int64)
    inside = int(np.searchsorted(ends, at, side="right"))
    start = int(ends[inside - 1]) if inside else 0
    tokens = np.empty(groups.tokens[group], np.int32)
    groups.read(group, tokens, None)
    file, row_group = groups.place(group)
    texts = _texts(source.shards.tokenizer, tokens[start : ends[inside]], at - start)
    place = (str(source.shards.folder), file.name, row_group, inside)
    origin = groups.provenance(group).slice(inside, 1).to_pylist()[0]
    return Origin(*place, at - start, int(tokens[at]), *texts, **origin)


def _texts(tokenizer: Tokenizer, tokens: Int32s, at: int) -> tuple[str, str, str]:
    """The document before a token, the token, and the document after it."""
    ids = tokens.tolist()
    before, after = ids[max(0, at - AROUND) : at], ids[at + 1 : at + 1 + AROUND]
    return tokenizer.decode(before), tokenizer.decode([ids[at]]), tokenizer.decode(after)


def _find(
    source: SourceRows, url: str | None, document_id: str | None
) -> Iterator[tuple[int, int]]:
    """Row group and row of each document of the URL or id."""
    name, value = ("url", url) if url is not None else ("id", document_id)
    for group in range(len(source.row_groups.tokens)):
        column = source.row_groups.provenance(group).column(name)
        equal = pc.equal(column, pa.scalar(value, pa.string())).fill_null(False)
        for row in np.flatnonzero(equal.to_numpy()).tolist():
            yield group, row


def _rows_of_document(
    source: SourceRows, group: int, inside: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Own row, position, and which tokens of the document, among the source's first `end` rows."""
    lengths = source.row_groups.lengths(group)
    epoch = 0
    while source.first_row(epoch) < end:
        plan = source.plan(epoch)
        turn = int(np.flatnonzero(plan.groups == group)[0])
        window = plan.window(int(np.searchsorted(plan.windows[:, 0], turn, side="right")))
        before = window.groups[: int(np.flatnonzero(window.groups == group)[0])]
        begin = int(source.row_groups.tokens[before].sum() + lengths[:inside].sum(dtype=np.int64))
        segments = plan.segments(window.rows.start, window.rows.stop)
        within = (segments.starts >= begin) & (segments.starts < begin + int(lengths[inside]))
        offsets = np.cumsum(segments.lengths, dtype=np.int64) - segments.lengths
        for i in np.flatnonzero(within & (segments.kinds != PADS)).tolist():
            row = int(np.searchsorted(segments.row_ends, i, side="right"))
            own = source.first_row(epoch) + window.rows.start + row
            position = int(offsets[i]) - row * (source.spec.seq_len + 1)
            first = int(segments.starts[i]) - begin
            if own < end:
                yield own, position, first, first + int(segments.lengths[i])
        epoch += 1


def _require(flag: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise UserError(f"{flag} {value}: must be from 0 to {most}")


_WHERE = """\
Which page a token of a training batch came from, and what the filters said of that page:
  trainer where --run RUN --step 40 --row 3 --pos 17
  trainer where --manifest demo/corpus/shards --seq-len 256 --batch-size 8 --step 40 --row 3

In which steps and rows a page was trained on:
  trainer where --run RUN --url URL
  trainer where --manifest demo/corpus/shards --seq-len 256 --batch-size 8 --url URL --steps 320

--run RUN takes the data specification from a run, the steps that it has trained and, unless
--manifest says where they are now, its shards; shards that are not its own are refused.
"""


def add_parser(commands: Any) -> None:
    """Add `trainer where` to the command line's subparsers."""
    command = commands.add_parser(
        "where",
        help="which page a token of a batch came from, or where a page was trained on",
        description=_WHERE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    add = command.add_argument
    add("--manifest", "--shards", nargs="+", default=[], type=Path, metavar="M",
        help="folders of shards, or their manifest.json")  # fmt: skip
    add("--run", dest="of_run", type=Path, metavar="RUN", help="a run: its data specification")
    add("--seq-len", type=int, default=256, metavar="T", help="without --run: as its recipe (256)")
    add("--batch-size", type=int, default=8, metavar="B", help="rows of a global batch (8)")
    add("--packing", choices=["auto", "concat", "best_fit"], default="auto",
        help="auto: concat for documents, best_fit for conversations")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the data's order (0)")
    add("--step", type=int, metavar="N", help="batch, from 0: what step N + 1 of the log took")
    add("--row", type=int, default=0, metavar="R", help="row of the global batch, from 0 (0)")
    add("--pos", type=int, default=0, metavar="P", help="token of the row, from 0 (0)")
    add("--url", metavar="URL", help="page to look for")
    add("--id", dest="document_id", metavar="ID", help="document to look for")
    add("--steps", type=int, metavar="N",
        help="with --url or --id: steps to look at (of a run: all it has trained)")  # fmt: skip
    add("--json", action="store_true", help="print a JSON object a line")


def run(arguments: argparse.Namespace) -> None:
    """`trainer where`."""
    loader = where_data.open_loader(arguments)
    if arguments.url is not None or arguments.document_id is not None:
        steps = where_data.steps_to_look_at(arguments)
        wanted = {"url": arguments.url, "document_id": arguments.document_id}
        where_page.show_rows(sorted(rows_with(loader, steps, **wanted)), steps, arguments.json)
        return
    if arguments.step is None or arguments.step < 0:
        raise UserError("give --step N (from 0) with --row and --pos, or --url or --id")
    origin = where(loader, arguments.step, arguments.row, arguments.pos)
    said = None if origin is None else verdict.find(origin)
    where_page.show_origin(arguments, origin, said)
