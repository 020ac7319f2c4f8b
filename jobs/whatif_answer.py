"""The answer of `gristmill whatif`: how many documents move from which outcome to which."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from corpus.changes import Changes
from corpus.verdicts import KEPT, READ_AGAIN

_MOST_MOVES = 20  # lines of the table of moves; --json has all


@dataclass(frozen=True)
class Example:
    """A page whose fate changes, and the number against the setting that decides it."""

    url: str | None
    id: str
    file_path: str
    record_offset: int
    before: str
    after: str
    why: str


@dataclass
class Side:
    """Pages whose fate changes in one way, and some of them.

    `words` is None where gopher_quality was not measured. `ranked` are the examples with the
    smallest hash of their key: a sample that depends neither on files nor on their order.
    """

    documents: int = 0
    html_bytes: int = 0
    words: int | None = None
    ranked: list[tuple[int, Example]] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        """The pages alone."""
        return [example for _, example in self.ranked]

    def to_values(self) -> dict[str, object]:
        """As JSON values."""
        examples = [dataclasses.asdict(example) for example in self.examples]
        sizes = {"html_bytes": self.html_bytes, "words": self.words}
        return {"documents": self.documents, **sizes, "examples": examples}


@dataclass(frozen=True)
class Answer:
    """What would change. `moves` counts every document by (outcome stored, outcome then)."""

    root: str
    recipe: str
    changes: Changes
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    newly_kept: Side = field(default_factory=Side)
    newly_dropped: Side = field(default_factory=Side)
    read_again: Side = field(default_factory=Side)

    @property
    def documents(self) -> int:
        """Rows of `judged`, each of them judged again."""
        return self.moves.total()

    def outcomes(self) -> dict[str, tuple[int, int]]:
        """Outcome -> documents now and then: kept first, the rest by how many they are now."""
        now: Counter[str] = Counter()
        then: Counter[str] = Counter()
        for (was, becomes), count in self.moves.items():
            now[was] += count
            then[becomes] += count
        rest = sorted((now | then).keys() - {KEPT}, key=lambda n: (-now[n], -then[n], n))
        return {name: (now[name], then[name]) for name in (KEPT, *rest)}

    def moved(self) -> list[tuple[str, str, int]]:
        """(from, to, documents), largest first, without the documents that stay where they are."""
        moved = [(was, then, n) for (was, then), n in self.moves.items() if was != then]
        return sorted(moved, key=lambda move: (-move[2], move[:2]))

    def to_json(self) -> str:
        """The answer as a JSON object."""
        pairs = self.outcomes().items()
        values = {
            "root": self.root,
            "recipe": self.recipe,
            "changes": {k: {"before": a, "after": b} for k, (a, b) in self.changes.items()},
            "documents": self.documents,
            "outcomes": {name: {"before": a, "after": b} for name, (a, b) in pairs},
            "moves": [{"from": a, "to": b, "documents": n} for a, b, n in self.moved()],
            "newly_kept": self.newly_kept.to_values(),
            "newly_dropped": self.newly_dropped.to_values(),
            "read_again": self.read_again.to_values(),
        }
        return json.dumps(values, indent=1)


def printed(answer: Answer) -> RenderableType:
    """The answer for a terminal: outcomes, moves, examples."""
    parts: list[RenderableType] = [_question(answer), "", _outcome_table(answer)]
    if answer.moved():
        parts += ["", _move_table(answer)]
    else:
        parts += ["", "No document would come to another outcome."]
    parts += ["", *_sides(answer)]
    return Group(*parts)


def _question(answer: Answer) -> Text:
    text = Text(f"recipe '{printable(answer.recipe)}' in {printable(answer.root)}", style="bold")
    for name, (old, new) in answer.changes.items():
        text.append(f"\n  {name}: {printable(_toml(old))} -> {printable(_toml(new))}")
    if not answer.changes:
        text.append("\n  no setting differs from the stored ones")
    return text


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _outcome_table(answer: Answer) -> Table:
    table = Table(show_edge=False)
    table.add_column("outcome", overflow="fold")
    for title in ("now", "then", "difference"):
        table.add_column(title, justify="right")
    for name, (now, then) in answer.outcomes().items():
        difference = f"{then - now:+,}" if then != now else ""
        style = "bold" if name == KEPT else "" if difference else "dim"
        table.add_row(Text(name), f"{now:,}", f"{then:,}", difference, style=style)
    table.add_section()
    table.add_row("documents", f"{answer.documents:,}", f"{answer.documents:,}", "")
    return table


def _move_table(answer: Answer) -> Table:
    moved = answer.moved()
    table = Table(show_edge=False)
    table.add_column("from", overflow="fold")
    table.add_column("to", overflow="fold")
    table.add_column("documents", justify="right")
    for was, then, count in moved[:_MOST_MOVES]:
        table.add_row(Text(was), Text(then), f"{count:,}")
    rest = moved[_MOST_MOVES:]
    if rest:
        table.add_row(f"{len(rest)} smaller moves", "", f"{sum(n for *_, n in rest):,}")
    return table


def _sides(answer: Answer) -> Iterator[RenderableType]:
    named = {
        "newly kept": answer.newly_kept,
        "newly dropped": answer.newly_dropped,
        "to be read again": answer.read_again,
    }
    for name, side in named.items():
        if side.documents:
            yield Text(f"{name}: {_size(side)}", style="bold")
            yield from map(_example, side.examples)
    if answer.read_again.documents:
        yield Text(
            f"{READ_AGAIN}: these pages would come through other gates than they did; whether they "
            "would be kept, only extracting them again can say."
        )
    yield Text("Counted before duplicates are removed.", style="dim")


def _size(side: Side) -> str:
    size = f"{side.documents:,} {'document' if side.documents == 1 else 'documents'}"
    if side.words:
        size += f", {side.words:,} words"
    return size + (f", {_bytes(side.html_bytes)} of HTML" if side.html_bytes else "")


def _bytes(amount: int) -> str:
    return f"{amount / 1e6:,.1f} MB" if amount >= 1e6 else f"{amount / 1e3:,.1f} kB"


def _example(example: Example) -> Text:
    place = example.url or f"{example.file_path}, offset {example.record_offset}"
    reason = example.before if example.before != KEPT else example.after
    lines = Text(f"  {printable(place)}\n", overflow="fold")
    return lines.append(f"    {reason}: {printable(example.why)}".rstrip(": "), style="dim")


def printable(text: str, keep: str = "") -> str:
    """Text of the web for a terminal: what controls it (escapes, bidi marks) becomes a space."""
    return "".join(c if c in keep or unicodedata.category(c)[0] not in "CZ" else " " for c in text)
