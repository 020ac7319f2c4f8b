"""`trainer where`: which page a token of a batch came from, or which rows a page was trained on.

For a token it also shows what the filters measured of its page. That is the page's row of the
dataset `judged` in the root that the shards lie in, if manifests show that the shards were built
from it; otherwise the output says why it is unknown. Text of the web is printed as text, never as
markup. Raises `UserError` for flags that don't fit together, and from `trainer.data.trace`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from rich.text import Text

from schemas import manifest
from schemas.datasets import KEY
from schemas.errors import UserError
from schemas.manifest import Manifest
from schemas.printing import PlainConsole, printable
from trainer.commands import flags
from trainer.data.trace import Occurrence, TokenOrigin, origin_of, rows_with, steps_to_search

_WHERE = """\
Show which page a token of a training batch came from, and what the filters measured of that page:
  trainer where --run RUN --step 40 --row 3 --pos 17
  trainer where --shards demo/corpus/shards --seq-len 256 --batch-size 8 --step 40 --row 3

Show in which steps and rows a page was trained on:
  trainer where --run RUN --url URL
  trainer where --shards demo/corpus/shards --seq-len 256 --batch-size 8 --url URL --steps 320

Shards of a run that have moved are matched by content hash; other shards are refused.
"""
_OF_LANGUAGE = ("language", "language_score")  # signals that are columns, not a struct


def add_parser(commands: Any) -> None:
    """Add `trainer where` to the command line's subparsers."""
    command = flags.add_command(
        commands, "where", run, "trace a token to its page, or a page to steps and rows", _WHERE
    )
    flags.add_batches(command)
    add = command.add_argument
    # fmt: off
    add("--step", type=int, metavar="N",
        help="trace a token of batch N, counted from 0 (step N + 1 of the log)")
    add("--row", type=int, default=0, metavar="R",
        help="select row R of the global batch, counted from 0 (default: %(default)s)")
    add("--pos", type=int, default=0, metavar="P",
        help="select token P of the row, counted from 0 (default: %(default)s)")
    add("--url", metavar="URL", help="find the rows of the page with this URL")
    add("--id", dest="document_id", metavar="ID", help="find the rows of the document with this id")
    add("--steps", type=int, metavar="N",
        help="with --url or --id: search N steps (default: all that --run has trained)")
    add("--json", action="store_true", help="print one JSON object per line")
    # fmt: on


def run(arguments: argparse.Namespace) -> None:
    """`trainer where`."""
    loader = flags.open_loader(arguments)
    if arguments.url is not None or arguments.document_id is not None:
        steps = steps_to_search(arguments.steps, arguments.of_run)
        found = rows_with(loader, steps, url=arguments.url, document_id=arguments.document_id)
        show_rows(sorted(found), steps, arguments.json)
        return
    if arguments.step is None or arguments.step < 0:
        raise UserError("give --step N (from 0) with --row and --pos, or --url or --id")
    origin = origin_of(loader, arguments.step, arguments.row, arguments.pos)
    verdict = None if origin is None else filter_verdict(origin)
    show_origin(arguments, origin, verdict)


@dataclass(frozen=True)
class Signal:
    """A number that a filter measured, and the settings that limit it."""

    name: str
    value: Any
    limits: dict[str, Any]


@dataclass(frozen=True)
class FilterVerdict:
    """What the filters decided on a page; `rejected_by` None means that it was kept.

    `filters` are in the recipe's order. `absent` says why nothing is known, where nothing is.
    """

    root: str
    absent: str | None = None
    rejected_by: str | None = None
    filters: dict[str, list[Signal]] = field(default_factory=dict)


def filter_verdict(origin: TokenOrigin) -> FilterVerdict:
    """What the filters decided on the page of a token; reads the key columns of `judged`."""
    folder = Path(origin.folder).absolute()
    root = folder.parent
    shards, judged = manifest.read(folder), manifest.read(root / "judged")
    if shards and shards.has_conversations:
        return FilterVerdict(str(root), "conversations are not filtered")
    if judged is None:
        return FilterVerdict(str(root), "no dataset `judged`")
    stages = [shards, *(manifest.read(root / name) for name in ("canonical", "bands")), judged]
    for one, of in itertools.pairwise(stages):
        if one is None or of is None or one.inputs.get(of.dataset) != of.fingerprint:
            reason = "these shards were not built from its dataset `judged`"
            return FilterVerdict(str(root), reason)
    row = _judged_row(root / "judged", judged, origin)
    if row is None:
        return FilterVerdict(str(root), "no row for this page in `judged`")
    filters = {name: _signals(name, row, judged) for name in judged.settings["filters"]}
    return FilterVerdict(str(root), None, row["rejected_by"], filters)


def _judged_row(folder: Path, judged: Manifest, origin: TokenOrigin) -> dict[str, Any] | None:
    rows: ds.Dataset = ds.dataset(judged.paths(folder), format="parquet")
    named = (*_OF_LANGUAGE, "rejected_by", *judged.settings["filters"])
    columns = [name for name in dict.fromkeys(named) if name in rows.schema.names]
    path, offset = (ds.field(name) == pa.scalar(getattr(origin, name)) for name in KEY)
    found = rows.to_table(columns=columns, filter=path & offset).to_pylist()
    return found[0] if found else None


def _signals(filter_: str, row: dict[str, Any], judged: Manifest) -> list[Signal]:
    """The signals of a filter, each with the settings that are named after it.

    `min_` and `max_` go before a signal's name, without its `num_`; empty tables limit nothing.
    """
    is_language, settings = filter_ == "language", judged.settings.get(filter_, {})
    measured = {name: row[name] for name in _OF_LANGUAGE} if is_language else row.get(filter_) or {}
    signals = []
    for name, value in measured.items():
        bare = name.removeprefix("num_").removeprefix(f"{filter_}_")
        limits = (f"min_{bare}", f"max_{bare}", f"min_{bare}_of", f"{bare}s")
        given = {n: settings[n] for n in limits if settings.get(n) not in (None, {}, [])}
        signals.append(Signal(name, value, given))
    return signals


def show_origin(
    arguments: argparse.Namespace, origin: TokenOrigin | None, verdict: FilterVerdict | None
) -> None:
    """Print where one token came from and the verdict on its page; both None: padding."""
    place = {name: getattr(arguments, name) for name in ("step", "row", "pos")}
    if arguments.json:
        values = {"padding": True} if origin is None else asdict(origin)
        judged = {} if verdict is None else {"verdict": asdict(verdict)}
        print(json.dumps({**place, **values, **judged}))
        return
    console = PlainConsole(highlight=False)
    heading = ", ".join(f"{name} {value:,}" for name, value in place.items())
    if origin is None or verdict is None:
        console.print(f"{heading}: padding, part of no document")
        return
    for line in (*_origin_lines(heading, origin), Text(), *_verdict_lines(verdict)):
        console.print(line, soft_wrap=True)


def _origin_lines(heading: str, origin: TokenOrigin) -> Iterator[Text]:
    before, text, after = map(_one_line, (origin.before, origin.text, origin.after))
    shown = Text(f"{heading}: token {origin.token_id:,}, marked ⟦⟧ in\n  {before}")
    yield shown.append(f"⟦{text}⟧", "bold green").append(after)
    row = f"row group {origin.row_group:,}, row {origin.row_in_group:,}"
    for name, value in (
        ("page", origin.url or "without a URL"),
        ("record", f"{origin.file_path}, offset {origin.record_offset:,}"),
        ("document", f"{origin.id}, its token {origin.token:,}"),
        ("shard", f"{origin.folder}/{origin.shard}, {row}"),
    ):
        yield Text(f"  {name:10}{_one_line(value)}")


def _verdict_lines(verdict: FilterVerdict) -> Iterator[Text]:
    if verdict.absent:
        yield Text(f"filters: unknown: {verdict.root}: {verdict.absent}")
        return
    if verdict.rejected_by:
        yield Text(f"rejected by {_one_line(verdict.rejected_by)}", "bold red")
    else:
        yield Text(f"kept, passed: {', '.join(verdict.filters) or 'no filters'}", "bold green")
    for name, signals in verdict.filters.items():
        yield Text(f"  {name}", "bold")
        for signal in signals:
            limits = ", ".join(f"{limit} = {_format(x)}" for limit, x in signal.limits.items())
            text = Text(f"    {signal.name:30} {_one_line(_format(signal.value)):>8}")
            yield text.append(f"   {limits}" if limits else "", "dim")


def show_rows(found: Sequence[Occurrence], num_steps: int, as_json: bool) -> None:
    """Print the rows that hold a page, in order."""
    if as_json:
        for one in found:
            print(json.dumps(one._asdict()))
        return
    console = PlainConsole(highlight=False)
    steps = len({one.step for one in found})
    tokens = sum(one.end - one.first for one in found)
    console.print(f"tokens: {tokens:,}, rows: {len(found):,}, steps: {steps:,} of {num_steps:,}")
    for one in found:
        line = (
            f"  step {one.step:,}, row {one.row}, pos {one.position}: "
            f"tokens {one.first:,} to {one.end - 1:,} of {_one_line(one.id)}"
        )
        console.print(Text(line), soft_wrap=True)


def _one_line(text: str) -> str:
    """Text of the web on one line, without what controls a terminal."""
    return printable(text).replace("\n", "↵").replace("\t", " ")


def _format(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | dict):
        return json.dumps(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
