"""From a place in a batch to the page that its token came from, and back.

A row's segments say which tokens of the window it holds; row groups' sizes and document lengths
say which document those are, and the shard's provenance columns where it came from. The other way,
a document's row is looked up in the provenance columns of the split (one pass, in Arrow), and every
epoch's plan says in which rows its tokens stand. Shards are hashed as a whole before that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import UserError
from trainer import data_spec
from trainer.loader import Loader
from trainer.packing import PADS
from trainer.windows import SourceRows


@dataclass(frozen=True)
class Origin:
    """Where one token of a batch came from: shard, document and place in it, page and record."""

    shard: str
    row_group: int
    row_in_group: int
    token: int  # of the document, from 0
    token_id: int
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
            for own, position, first, stop in _rows_of_document(source, group, inside, end):
                run_row = int(loader.mixture.places(number, np.array([own]))[0])
                yield Seen(*divmod(run_row, loader.spec.rows), position, first, stop)


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
    documents = np.cumsum(groups.lengths(group), dtype=np.int64)
    inside = int(np.searchsorted(documents, at, side="right"))
    token = at - (int(documents[inside - 1]) if inside else 0)
    tokens = np.empty(groups.tokens[group], np.int32)
    groups.read(group, tokens, None)
    file, row_group = groups.place(group)
    origin = groups.provenance(group).slice(inside, 1).to_pylist()[0]
    return Origin(file.name, row_group, inside, token, int(tokens[at]), **origin)


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
Which page a token of a training batch came from:
  trainer where --shards demo/corpus/shards --seq-len 256 --batch-size 8 --step 40 --row 3 --pos 17

In which steps and rows of the first 320 steps a page was trained on:
  trainer where --shards demo/corpus/shards --seq-len 256 --batch-size 8 --steps 320 --url URL

--run RUN takes the data specification from a run instead, and refuses shards that are not its own.
Prints a JSON object a line.
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
    add("--shards", required=True, type=Path, metavar="DIR", help="folder of shards")
    add("--run", dest="of_run", type=Path, metavar="RUN", help="a run: its data specification")
    add("--seq-len", type=int, default=256, metavar="T", help="as in the recipe (256)")
    add("--batch-size", type=int, default=8, metavar="B", help="rows of a global batch (8)")
    add("--packing", choices=["concat", "best_fit"], default="concat", help="(concat)")
    add("--seed", type=int, default=0, metavar="N", help="of the data's order (0)")
    add("--step", type=int, metavar="N", help="step, from 0")
    add("--row", type=int, default=0, metavar="R", help="row of the global batch, from 0 (0)")
    add("--pos", type=int, default=0, metavar="P", help="token of the row, from 0 (0)")
    add("--steps", type=int, default=0, metavar="N", help="with --url or --id: steps to look at")
    add("--url", metavar="URL", help="page to look for")
    add("--id", dest="document_id", metavar="ID", help="document to look for")


def run(arguments: argparse.Namespace) -> None:
    """`trainer where`."""
    loader = _loader(arguments)
    if arguments.url is not None or arguments.document_id is not None:
        if arguments.steps < 1:
            raise UserError(f"--steps {arguments.steps}: must be at least 1 with --url or --id")
        wanted = {"url": arguments.url, "document_id": arguments.document_id}
        for seen in sorted(rows_with(loader, arguments.steps, **wanted)):
            print(json.dumps(seen._asdict()))
        return
    if arguments.step is None or arguments.step < 0:
        raise UserError("give --step N (from 0) with --row and --pos, or --url or --id")
    origin = where(loader, arguments.step, arguments.row, arguments.pos)
    print(json.dumps({"padding": True} if origin is None else asdict(origin)))


def _loader(arguments: argparse.Namespace) -> Loader:
    keys = {"seq_len": "seq_len", "rows": "batch_size", "packing": "packing", "seed": "seed"}
    values = {key: getattr(arguments, flag) for key, flag in keys.items()}
    if arguments.of_run is None:
        return Loader([arguments.shards], check_files=True, **values)
    from trainer.run_folder import RUN_FILE  # torch takes seconds; --help should not

    path = arguments.of_run / RUN_FILE
    try:
        written = json.loads(path.read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no data specification here: {error!r}") from None
    spec = data_spec.from_json(written, str(path))
    values = {key: getattr(spec, key) for key in (*keys, "split", "window_tokens")}
    loader = Loader([arguments.shards], check_files=True, **values)
    data_spec.require_same(spec, loader.spec, str(path))
    return loader
