"""What `trainer where` prints. Whatever the web wrote is shown as text, never as markup."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from schemas.console import PlainConsole
from schemas.printable import printable

if TYPE_CHECKING:
    from trainer.verdict import Signal, Verdict
    from trainer.where import Origin, Seen


def show_origin(
    arguments: argparse.Namespace, origin: Origin | None, verdict: Verdict | None
) -> None:
    """Where one token came from, and what was said of its page; both None: padding."""
    place = {name: getattr(arguments, name) for name in ("step", "row", "pos")}
    if arguments.json:
        told = {"padding": True} if origin is None else asdict(origin)
        said = {} if verdict is None else {"verdict": asdict(verdict)}
        print(json.dumps({**place, **told, **said}))
        return
    console = PlainConsole(highlight=False)
    heading = ", ".join(f"{name} {value:,}" for name, value in place.items())
    if origin is None or verdict is None:
        console.print(f"{heading}: padding, of no document")
        return
    for line in (_heading(heading, origin), *_origin(origin), Text(), *_verdict(verdict)):
        console.print(line, soft_wrap=True)


def _heading(heading: str, origin: Origin) -> Text:
    before, text, after = (_line(part) for part in (origin.before, origin.text, origin.after))
    said = Text(f"{heading}: token {origin.token_id:,}, the ⟦⟧ in\n  ")
    return said.append(before).append(f"⟦{text}⟧", "bold green").append(after)


def _origin(origin: Origin) -> Iterator[Text]:
    yield _field("page", origin.url or "without a URL")
    yield _field("record", f"{origin.file_path}, offset {origin.record_offset:,}")
    yield _field("document", f"{origin.id}, its token {origin.token:,}")
    row = f"row group {origin.row_group:,}, row {origin.row_in_group:,}"
    yield _field("shard", f"{origin.folder}/{origin.shard}, {row}")


def _verdict(verdict: Verdict) -> Iterator[Text]:
    if verdict.absent:
        yield Text(f"what the filters said is not known: {verdict.root}: {verdict.absent}")
        return
    passed = ", ".join(verdict.filters) or "there are none"
    if verdict.rejected_by:
        yield Text(f"rejected by {_line(verdict.rejected_by)}", "bold red")
    else:
        yield Text(f"kept: no rule was broken of {passed}", "bold green")
    for name, signals in verdict.filters.items():
        yield Text(f"  {name}", "bold")
        yield from (_signal(signal) for signal in signals)


def _signal(signal: Signal) -> Text:
    limits = ", ".join(f"{name} = {_value(value)}" for name, value in signal.limits.items())
    text = Text(f"    {signal.name:30} {_line(_value(signal.value)):>8}")
    return text.append(f"   {limits}" if limits else "", "dim")


def show_rows(seen: Sequence[Seen], num_steps: int, as_json: bool) -> None:
    """The rows that hold a page, in order."""
    if as_json:
        for one in seen:
            print(json.dumps(one._asdict()))
        return
    console = PlainConsole(highlight=False)
    steps = len({one.step for one in seen})
    tokens = sum(one.end - one.first for one in seen)
    console.print(f"tokens: {tokens:,}, rows: {len(seen):,}, steps: {steps:,} of {num_steps:,}")
    for one in seen:
        line = (
            f"  step {one.step:,}, row {one.row}, pos {one.position}: "
            f"tokens {one.first:,} to {one.end - 1:,} of {_line(one.id)}"
        )
        console.print(Text(line), soft_wrap=True)


def _field(name: str, text: str) -> Text:
    return Text(f"  {name:10}").append(_line(text))


def _line(text: str) -> str:
    """Text of the web in a line, without what controls a terminal."""
    return printable(text).replace("\n", "↵").replace("\t", " ")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | dict):
        return json.dumps(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
