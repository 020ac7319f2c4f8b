"""What other thresholds would keep: answered in seconds from the stored signals of a root.

`judged` holds every signal of every extracted document, so a verdict under other settings is a
comparison of stored numbers. It is read once, a batch at a time, signals alone and no text. Every
verdict is first computed under the stored settings as well and has to be the one that is stored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.progress import Progress

from corpus import changes, keys, verdicts
from corpus.recipe import Recipe
from corpus.verdicts import KEPT, READ_AGAIN, Outcomes, why
from jobs.progress import console
from jobs.stage import BooksDontBalanceError
from jobs.whatif_answer import Answer, Example, printable, printed
from schemas import config, manifest
from schemas.console import PlainConsole
from schemas.datasets import KEY
from schemas.errors import UserError
from schemas.manifest import Manifest

_ROWS = 16_384  # in memory at once: about 10 MB of signals
_EXAMPLES = """\
examples:
  gristmill whatif --root out --set gopher_quality.min_words=30
  gristmill whatif --root out --set 'filters=["language", "gopher_quality"]'
  gristmill whatif --root out --set 'extract.statuses=[200, 404]' --set language.min_score=0.5
"""
_WORDS = "gopher_quality.num_words"  # the size of a text, where it was measured


def ask(root: Path, sets: Sequence[str], examples: int = 5) -> Answer:
    """Judge the documents of `root` again with the settings in `sets` (TOML assignments).

    Raises `UserError` for a setting that is wrong or that nothing stored can answer, and
    `BooksDontBalanceError` where the stored settings do not give the stored verdicts.
    """
    judged = _judged(root)
    old, new = _recipes(root, judged, changes.parse(sets))
    wanted = verdicts.columns(old) + verdicts.columns(new)
    answer = Answer(str(root), judged.recipe, changes.compare(old, new))
    for rows in _batches(root / "judged", judged, list(dict.fromkeys(wanted))):
        found = verdicts.outcomes(rows, old, new)
        _check_stored(root, rows, found)
        answer.moves.update(zip(found.stored.tolist(), found.after.tolist(), strict=True))
        _add_changed(answer, rows, found, (old, new), examples)
    return answer


def _judged(root: Path) -> Manifest:
    documents, judged = (manifest.read(root / name) for name in ("documents", "judged"))
    if documents is None or judged is None:
        raise UserError(f"--root {root}: no documents were judged there; begin with gristmill run")
    if judged.inputs.get("documents") != documents.fingerprint:
        raise UserError(
            f"{root / 'judged'}: judges other documents than those extracted now; "
            "run gristmill filter first"
        )
    return judged


def _recipes(root: Path, judged: Manifest, asked: dict[str, Any]) -> tuple[Recipe, Recipe]:
    """The recipe that made what is stored, and the one that is asked about."""
    documents = manifest.read(root / "documents")
    assert documents is not None
    stored = {"name": judged.recipe, **documents.settings, **judged.settings}
    old = config.from_dict(stored, Recipe, str(root / "judged" / manifest.MANIFEST_FILE))
    new = config.from_dict(changes.merge(stored, asked), Recipe, "--set")
    changes.check(old, new, changes.asked_settings(asked))
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
            f"{path}: lacks {lacking[0]}: another version of gristmill wrote it; "
            "gristmill run --overwrite makes it anew"
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
        place = printable(f"{rows['file_path'][i]}, offset {rows['record_offset'][i]}")
        raise BooksDontBalanceError(
            f"{root / 'judged'}: {place}: stored as {printable(found.stored[i])}, but its stored "
            f"signals and settings give {printable(found.before[i])}; another version of gristmill "
            "wrote it: gristmill filter --overwrite judges again"
        )


def _add_changed(
    answer: Answer, rows: pa.RecordBatch, found: Outcomes, recipes: tuple[Recipe, Recipe], most: int
) -> None:
    """Add the documents of a batch that change to the sides they change to."""
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
    """The `most` rows with the smallest hashes of their keys, each with what decides it."""
    ranks = keys.nodes(*(rows[name] for name in KEY)).tolist()
    for i in sorted(range(rows.num_rows), key=ranks.__getitem__)[:most]:
        row, (before, after) = rows.slice(i, 1).to_pylist()[0], pairs[i]
        reason, recipe = (after, recipes[1]) if before == KEPT else (before, recipes[0])
        shown = {name: row[name] for name in ("url", "id", *KEY)}
        yield ranks[i], Example(**shown, before=before, after=after, why=why(reason, row, recipe))


def _first(ranked: list[tuple[int, Example]], most: int) -> list[tuple[int, Example]]:
    return sorted(ranked, key=lambda pair: pair[0])[:most]


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the sub-command `whatif`."""
    text = "what other thresholds would keep, from the stored signals"
    parser = commands.add_parser(
        "whatif", help=text, description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--root", required=True, metavar="DIR", help="where the datasets are")
    parser.add_argument(
        "--set", required=True, action="append", metavar="NAME=VALUE",
        help="a setting as in the recipe, e.g. gopher_quality.min_words=30 (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--examples", type=int, default=5, metavar="N", help="pages to show of each kind (5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.set_defaults(command=_whatif)


def _whatif(arguments: argparse.Namespace) -> int:
    answer = ask(Path(arguments.root), arguments.set, max(0, arguments.examples))
    if arguments.json:
        print(answer.to_json())
    else:
        PlainConsole().print(printed(answer))
    return 0
