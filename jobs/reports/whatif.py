"""`gristmill whatif`: what other thresholds would keep, from the stored signals of a root.

`judged` holds every signal of every extracted document, so judging it under other settings compares
stored numbers and takes seconds. It is read once, in batches, without texts. Every row is also
judged under the stored settings, which must give the stored outcome. The answer counts how many
documents move from which outcome to which.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from corpus.dedup import exact
from corpus.recipe import Recipe
from corpus.reports import verdicts
from corpus.reports.verdicts import KEPT, READ_AGAIN, Changes, Outcomes, why
from jobs.engine.progress import console
from jobs.engine.stage import UnbalancedError
from schemas import config, manifest
from schemas.datasets import KEY
from schemas.errors import UserError
from schemas.manifest import Manifest
from schemas.printing import PlainConsole, one_line

_MOST_MOVES = 20  # rows of the table of moves; --json has all


@dataclass(frozen=True)
class Example:
    """A page whose outcome changes, with the value and the setting that decide."""

    url: str | None
    id: str
    file_path: str
    record_offset: int
    before: str
    after: str
    why: str


@dataclass
class Side:
    """Pages whose outcome changes in one way, with some examples.

    `words` is None if gopher_quality was not measured. `ranked` are the examples with the smallest
    hash of their key: a sample that does not depend on files or their order.
    """

    documents: int = 0
    html_bytes: int = 0
    words: int | None = None
    ranked: list[tuple[int, Example]] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        """The examples without their ranks."""
        return [example for _, example in self.ranked]

    def to_values(self) -> dict[str, object]:
        """As JSON values."""
        examples = [dataclasses.asdict(example) for example in self.examples]
        sizes = {"html_bytes": self.html_bytes, "words": self.words}
        return {"documents": self.documents, **sizes, "examples": examples}


@dataclass(frozen=True)
class Answer:
    """What would change. `moves` counts documents by (stored outcome, new outcome)."""

    root: str
    recipe: str
    changes: Changes
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    newly_kept: Side = field(default_factory=Side)
    newly_dropped: Side = field(default_factory=Side)
    read_again: Side = field(default_factory=Side)

    @property
    def documents(self) -> int:
        """Rows of `judged`, all of them judged again."""
        return self.moves.total()

    def outcomes(self) -> dict[str, tuple[int, int]]:
        """Outcome -> documents now and then: kept first, the rest by their number now."""
        now: Counter[str] = Counter()
        then: Counter[str] = Counter()
        for (was, becomes), count in self.moves.items():
            now[was] += count
            then[becomes] += count
        rest = sorted((now | then).keys() - {KEPT}, key=lambda n: (-now[n], -then[n], n))
        return {name: (now[name], then[name]) for name in (KEPT, *rest)}

    def moved(self) -> list[tuple[str, str, int]]:
        """(from, to, documents) of documents that change, largest first."""
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
        parts += ["", "No document would change its outcome."]
    parts += ["", *_sides(answer)]
    return Group(*parts)


def _question(answer: Answer) -> Text:
    text = Text(f"recipe '{one_line(answer.recipe)}' in {one_line(answer.root)}", style="bold")
    for name, (old, new) in answer.changes.items():
        text.append(f"\n  {name}: {one_line(_toml(old))} -> {one_line(_toml(new))}")
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
        "to re-extract": answer.read_again,
    }
    for name, side in named.items():
        if side.documents:
            yield Text(f"{name}: {_size(side)}", style="bold")
            yield from map(_example, side.examples)
    if answer.read_again.documents:
        yield Text(
            f"{READ_AGAIN}: other gates would decide on these pages; they would need re-extraction."
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
    lines = Text(f"  {one_line(place)}\n", overflow="fold")
    return lines.append(f"    {reason}: {one_line(example.why)}".rstrip(": "), style="dim")


_ROWS = 16_384  # per batch: about 10 MB of signals
_EXAMPLES = """\
examples:
  gristmill whatif --root out --set gopher_quality.min_words=30
  gristmill whatif --root out --set 'filters=["language", "gopher_quality"]'
  gristmill whatif --root out --set 'extract.statuses=[200, 404]' --set language.min_score=0.5
"""
_WORDS = "gopher_quality.num_words"  # the size of a text, if it was measured


def ask(root: Path, sets: Sequence[str], examples: int = 5) -> Answer:
    """Judge the documents of `root` again with the settings in `sets` (TOML assignments).

    Raises `UserError` for a setting that is invalid or that no stored value can answer, and
    `UnbalancedError` if the stored settings do not give the stored outcomes.
    """
    judged = _judged(root)
    old, new = _recipes(root, judged, verdicts.parse(sets))
    wanted = verdicts.columns(old) + verdicts.columns(new)
    answer = Answer(str(root), judged.recipe, verdicts.compare(old, new))
    for rows in _batches(root / "judged", judged, list(dict.fromkeys(wanted))):
        found = verdicts.outcomes(rows, old, new)
        _check_stored(root, rows, found)
        answer.moves.update(zip(found.stored.tolist(), found.after.tolist(), strict=True))
        _add_changed(answer, rows, found, (old, new), examples)
    return answer


def _judged(root: Path) -> Manifest:
    documents, judged = (manifest.read(root / name) for name in ("documents", "judged"))
    if documents is None or judged is None:
        raise UserError(f"--root {root}: no documents were judged there; start with gristmill run")
    if judged.inputs.get("documents") != documents.fingerprint:
        raise UserError(
            f"{root / 'judged'}: was built from a different 'documents'; run gristmill filter first"
        )
    return judged


def _recipes(root: Path, judged: Manifest, asked: dict[str, Any]) -> tuple[Recipe, Recipe]:
    """The recipe of the stored rows, and the recipe with the settings asked about."""
    documents = manifest.read(root / "documents")
    assert documents is not None
    stored = {"name": judged.recipe, **documents.settings, **judged.settings}
    old = config.from_dict(stored, Recipe, str(root / "judged" / manifest.MANIFEST_FILE))
    new = config.from_dict(verdicts.merge(stored, asked), Recipe, "--set")
    verdicts.check(old, new, verdicts.asked_settings(asked))
    return old, new


def _batches(folder: Path, judged: Manifest, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("judging again", total=judged.rows)
        for path in judged.paths(folder):
            with _open(path, wanted) as file:
                for rows in file.iter_batches(_ROWS, columns=wanted):
                    yield rows
                    bar.advance(task, rows.num_rows)


def _open(path: str, wanted: list[str]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    there = set(_paths(file.schema_arrow))
    lacking = [name for name in wanted if name not in there]
    if lacking:
        raise UserError(
            f"{path}: has no column {lacking[0]}: another version of gristmill wrote it; rebuild "
            "it with gristmill run --overwrite"
        )
    return file


def _paths(schema: pa.Schema) -> Iterator[str]:
    """The columns, those inside a struct as `struct.name`."""
    for column in schema:
        yield column.name
        if pa.types.is_struct(column.type):
            yield from (f"{column.name}.{inner.name}" for inner in column.type)


def _check_stored(root: Path, rows: pa.RecordBatch, found: Outcomes) -> None:
    for i in (found.stored != found.before).nonzero()[0][:1]:
        place = one_line(f"{rows['file_path'][i]}, offset {rows['record_offset'][i]}")
        raise UnbalancedError(
            f"{root / 'judged'}: {place}: stored as {one_line(found.stored[i])}, but its stored "
            f"signals and settings give {one_line(found.before[i])}; another version of gristmill "
            "wrote it; run gristmill filter --overwrite"
        )


def _add_changed(
    answer: Answer, rows: pa.RecordBatch, found: Outcomes, recipes: tuple[Recipe, Recipe], most: int
) -> None:
    """Add the documents of a batch whose outcome changes to the answer."""
    dropped = (found.after != KEPT) & (found.after != READ_AGAIN)
    sides = (
        (answer.newly_kept, (found.stored != KEPT) & (found.after == KEPT)),
        (answer.newly_dropped, (found.stored == KEPT) & dropped),
        (answer.read_again, found.after == READ_AGAIN),
    )
    for side, mask in sides:
        chosen = rows.filter(pa.array(mask))
        side.documents += chosen.num_rows
        side.html_bytes += pc.sum(chosen["html_bytes"]).as_py() or 0
        side.words = _add_words(side.words, chosen)
        pairs = list(zip(found.stored[mask].tolist(), found.after[mask].tolist(), strict=True))
        side.ranked = _first([*side.ranked, *_examples(chosen, pairs, recipes, most)], most)


def _add_words(words: int | None, rows: pa.RecordBatch) -> int | None:
    name, _, signal = _WORDS.partition(".")
    if name not in rows.schema.names:
        return words
    return (words or 0) + (pc.sum(pc.struct_field(rows[name], signal)).as_py() or 0)


def _examples(
    rows: pa.RecordBatch, pairs: list[tuple[str, str]], recipes: tuple[Recipe, Recipe], most: int
) -> Iterator[tuple[int, Example]]:
    """The `most` rows with the smallest hashes of their keys, with what decides."""
    ranks = exact.nodes(*(rows[name] for name in KEY)).tolist()
    for i in sorted(range(rows.num_rows), key=ranks.__getitem__)[:most]:
        row, (before, after) = rows.slice(i, 1).to_pylist()[0], pairs[i]
        reason, recipe = (after, recipes[1]) if before == KEPT else (before, recipes[0])
        shown = {name: row[name] for name in ("url", "id", *KEY)}
        yield ranks[i], Example(**shown, before=before, after=after, why=why(reason, row, recipe))


def _first(ranked: list[tuple[int, Example]], most: int) -> list[tuple[int, Example]]:
    return sorted(ranked, key=lambda pair: pair[0])[:most]


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the sub-command `whatif`."""
    text = "show what other thresholds would keep, from the stored signals"
    parser = commands.add_parser(
        "whatif", help=text, description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--root", required=True, metavar="DIR", help="corpus directory")
    parser.add_argument(
        "--set", required=True, action="append", metavar="NAME=VALUE",
        help="change a setting of the recipe, e.g. gopher_quality.min_words=30 (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--examples", type=int, default=5, metavar="N", help="show N pages per kind (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(command=_whatif)


def _whatif(arguments: argparse.Namespace) -> int:
    answer = ask(Path(arguments.root), arguments.set, max(0, arguments.examples))
    if arguments.json:
        print(answer.to_json())
    else:
        PlainConsole().print(printed(answer))
    return 0
