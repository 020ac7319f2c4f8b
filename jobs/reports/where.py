"""Where a page is: its record in the archive, its row in the shards, and the rows trained on.

What became of the page comes from `jobs.reports.explain`; its row in a shard is found by its key.
Only the trainer knows which batch holds a row: `trainer.data.trace`, the one module of the trainer
that jobs import, and only when a run is named.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.text import Text

from jobs.reports import explain
from jobs.reports.explain import PageReport
from schemas.datasets import KEY
from schemas.printing import PlainConsole, one_line

if TYPE_CHECKING:
    from trainer.data.trace import Occurrence

_EXAMPLES = """\
examples:
  gristmill where --root out --url http://example.com/page
  gristmill where --root out --url http://example.com/page --run model

`gristmill explain` shows every gate and rule for the same page.
"""


@dataclass(frozen=True)
class Placed:
    """A capture's report, its place in its shard, and the rows of a run that hold it.

    `rows` is None if no run was given.
    """

    story: PageReport
    row_group: int | None = None
    row: int | None = None
    rows: list[Occurrence] | None = None


def where(arguments: argparse.Namespace) -> list[Placed]:
    """Every capture that the flags name; raises `UserError` if there is none."""
    stories = explain.asked(arguments)
    rows = None if arguments.run is None else _trained(arguments, stories)
    return [_placed(arguments, story, rows) for story in stories]


def _placed(
    arguments: argparse.Namespace, story: PageReport, rows: list[Occurrence] | None
) -> Placed:
    if story.shard is None:
        return Placed(story)
    path = Path(arguments.root) / arguments.shards / story.shard["file"]
    own = None if rows is None else [row for row in rows if row.id == story.id]
    return Placed(story, *_row_of(path, story.place), own)


def _row_of(shard: Path, key: dict[str, Any]) -> tuple[int, int]:
    """The row group of a key in a shard, and the row in it."""
    with pq.ParquetFile(shard) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=list(KEY))
            here = pc.and_(*(pc.equal(rows[name], pa.scalar(key[name])) for name in KEY))
            row = pc.index(here, True).as_py()
            if row >= 0:
                return group, row
    raise AssertionError(f"{shard} has no row {key}")


def _trained(arguments: argparse.Namespace, stories: Sequence[PageReport]) -> list[Occurrence]:
    """The rows of the run that hold the pages."""
    if all(story.shard is None for story in stories):
        return []
    from trainer.data.trace import loader_of_run, rows_with, steps_to_search

    run = Path(arguments.run)
    loader = loader_of_run(run, [Path(arguments.root) / arguments.shards])
    steps = steps_to_search(arguments.steps, run)
    named = {"url": arguments.url} if arguments.url else {"document_id": stories[0].id}
    return sorted(rows_with(loader, steps, **named))


def _lines(placed: Placed, title: str) -> Iterator[Text]:
    story = placed.story
    heading = story.url or "a record without a URL"
    yield Text(one_line(f"{title}{heading}"), "bold")
    yield from explain.place(story)
    yield from explain.verdicts(story)
    if story.shard:
        tokens, file = story.shard["tokens"], story.shard["file"]
        row = f"row group {placed.row_group:,}, row {placed.row:,}"
        yield Text(f"shard: {tokens:,} tokens in {file}, {row}")
    yield from explain.absences(story)
    if placed.rows is not None:
        yield from _trained_lines(placed.rows)
    elif story.shard is None:
        yield Text("not in a shard: no run on these shards was trained on it")


def _trained_lines(rows: list[Occurrence]) -> Iterator[Text]:
    yield Text(f"trained on, rows: {len(rows):,}" if rows else "not trained on in these steps")
    for row in rows:
        yield Text(
            f"  step {row.step:,}, row {row.row}, pos {row.position}: "
            f"tokens {row.first:,} to {row.end - 1:,}"
        )


def to_json(found: Sequence[Placed]) -> str:
    """The captures as a JSON list; `story` is the output of `gristmill explain --json`."""
    captures = []
    for one in found:
        rows = None if one.rows is None else [row._asdict() for row in one.rows]
        captures.append({**dataclasses.asdict(one), "rows": rows})
    return json.dumps(captures, indent=1)


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the sub-command `where`."""
    text = "show where one page is: its record, its row in the shards, its rows in a training run"
    parser = commands.add_parser(
        "where", help=text, description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    explain.add_page(parser)
    parser.add_argument(
        "--run", metavar="RUN", help="also show steps and rows of this training run"
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="search the first N steps (default: up to the latest checkpoint)",
    )
    parser.set_defaults(command=_where)


def _where(arguments: argparse.Namespace) -> int:
    found = where(arguments)
    if arguments.json:
        print(to_json(found))
        return 0
    console = PlainConsole(highlight=False)
    for number, one in enumerate(found, 1):
        title = f"capture {number} of {len(found)}: " if len(found) > 1 else ""
        for line in _lines(one, title):
            console.print(line, soft_wrap=True)
    return 0
