"""A page's story for a terminal. Whatever the web wrote is shown as text, never as markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from corpus.story import Check, FilterStep, GateStep
from jobs.whatif_answer import printable

if TYPE_CHECKING:
    from jobs.explain import Story

_STYLES = {"rejected": "bold red", "passed": "green", "not reached": "dim", "not stored": "dim"}


def printed(one: Story, title: str = "") -> RenderableType:
    """All that is known of one capture."""
    heading = one.url or "a record without a URL"
    parts: list[RenderableType] = [_text(f"{title}: {heading}" if title else heading, "bold")]
    parts += [*place(one), "", _gate_table(one.gates)]
    if one.filters:
        parts += ["", _filter_table(one.filters), *_other_signals(one.filters)]
    return Group(*parts, "", *_ending(one))


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style, overflow="fold")


def place(one: Story) -> Iterator[Text]:
    """Where the record lies, and when it was captured."""
    row = one.place
    length = row["record_length"]
    size = f", {length:,} bytes" if length is not None else ""
    yield _text(f"  {row['file_path']}, offset {row['record_offset']:,}{size}")
    seen = ", ".join(filter(None, (row["date"], row["dump"])))
    cut = ", cut by the crawler" if row["truncated"] else ""
    yield _text(f"  {one.id}{', ' if seen else ''}{seen}{cut}")


def _gate_table(steps: list[GateStep]) -> Table:
    table = Table.grid(padding=(0, 2))
    for step in steps:
        settings = [f"{n.removeprefix('extract.')} = {_value(v)}" for n, v in step.settings.items()]
        cells = (f"  {step.gate}", step.found or "", ", ".join(settings))
        style = _STYLES[step.state]
        table.add_row(Text(step.state, style), *map(_text, cells[:2]), _text(cells[2], "dim"))
    return table


def _filter_table(steps: list[FilterStep]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(max_width=14)  # a list of languages would take the room of the faults
    for step in steps:
        table.add_row(_text(step.filter, "bold"))
        for check in step.checks:
            style = "bold red" if check.first else "red" if check.broken else ""
            limit = f"{check.needs or check.setting} {_value(check.threshold)}"
            cells = (f"  {check.signal}", _value(check.value), limit, _fault(check))
            table.add_row(*[_text(cell, style) for cell in cells])
    return table


def _fault(check: Check) -> str:
    if not check.broken:
        return ""
    return f"{check.fault} (first)" if check.first else check.fault


def _other_signals(steps: list[FilterStep]) -> Iterator[Text]:
    for step in steps:
        if step.other_signals:
            listed = ", ".join(f"{name} = {_value(v)}" for name, v in step.other_signals.items())
            yield _text(f"{step.filter} also measured {listed}", "dim")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _ending(one: Story) -> Iterator[RenderableType]:
    """Verdicts, shard, and how the text begins."""
    yield from verdicts(one)
    if one.shard:
        shard = one.shard
        yield _text(f"shard: {shard['tokens']:,} tokens in {shard['file']} ({shard['split']})")
    yield from absences(one)
    if one.text is not None:
        yield Text("")
        yield Text("the extracted text begins:", style="dim")
        yield Padding(
            Text(printable(one.text, keep="\n"), overflow="fold"), (0, 0, 0, 2), expand=False
        )
    yield Text("")


def verdicts(one: Story) -> Iterator[Text]:
    """What gates and filters, dedup, the scrubbing and decontamination came to."""
    if one.rejected_by:
        yield _text(f"rejected by {one.rejected_by}: {one.detail or ''}", "bold red")
    else:
        yield _text("kept by the filters" if one.judged else "extracted", "bold green")
    yield from _duplicates(one)
    if one.canonical:
        yield _text(f"canonical: {_scrubbed(one.canonical['pii'])}")
    for found in one.contamination:
        verb = "left out of shards" if found["action"] == "drop" else "flagged"
        yield _text(
            f"contamination: {verb}; holds '{found['example']}' of {found['set']}", "bold red"
        )


def absences(one: Story) -> Iterator[Text]:
    """The datasets that say nothing, and why."""
    for dataset, reason in one.absent.items():
        yield _text(f"{dataset}: {reason}", "dim")


def _scrubbed(kinds: Mapping[str, int]) -> str:
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"scrubbed of {found}" if found else "no personal data was found in it"


def _duplicates(one: Story) -> Iterator[Text]:
    cluster = one.cluster
    if cluster is None:
        return
    size = f"a cluster of {cluster['cluster_size']:,}"
    stays = cluster["survivor"]
    if stays:
        yield _text(f"dedup: {cluster['duplicate_kind']} in {size}; what stays is", "bold red")
        yield _text(f"  {stays['url'] or 'a record without a URL'}, {stays['id']}")
    elif cluster["duplicate_kind"]:
        yield _text(f"dedup: {cluster['duplicate_kind']}; little is left of it", "bold red")
    elif cluster["cluster_size"] == 1:
        yield _text("dedup: no copy of it was found")
    else:
        yield _text(f"dedup: the document that stays of {size}; copies:")
    for copy in cluster["copies"]:
        yield _text(f"  also in it: {copy['url'] or copy['id']}", "dim")
