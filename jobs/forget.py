"""`gristmill forget`: takes documents out of every dataset of a root, down to the token shards.

1. What is asked for is recorded in `forgotten`, before anything is removed. From then on extract
   asks it of every page, so that none comes back.
2. All datasets are searched, and the documents found are recorded too: names, never a text.
3. The files that hold them are written anew, from `documents` down to the shards, and the old ones
   deleted once the new manifest is in place. Settings and inputs in the manifests stay, so what was
   done stays done; the tokens of all other documents stay as they are.

Documents come first and shards last: whatever is made anew in between, it is made without them. A
run that was killed is marked in `forgotten` and gone on with by any further `gristmill forget`.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from corpus.forget import KINDS, Request, read_list
from jobs.forget_files import EMPTIED
from jobs.forget_places import find_places, forget_in
from jobs.forget_record import Record, answered, copies, record_matches
from jobs.roots import check_path, locked
from jobs.session import Engine, open_engine
from schemas import manifest
from schemas.console import PlainConsole
from schemas.errors import UserError
from schemas.printable import printable

_EXAMPLES = """\
examples:
  gristmill forget --root out --urls urls.txt
  gristmill forget --root out --domains domains.txt --ids ids.txt --copies copies.txt
  gristmill forget --root out --ids copies.txt         # and what was a copy of them
  gristmill forget --root out                          # go on with a run that was killed
"""


@dataclass(frozen=True)
class Removed:
    """What a run did: `matched` and `unmatched` are the requests asked for, `rows` by folder.

    `tokens` were taken out of shards. `copies` are documents left that stood in a cluster with one
    that was forgotten, in this run or before.
    """

    matched: list[Request]
    unmatched: list[Request]
    rows: dict[str, int]
    tokens: int
    copies: list[str] = field(default_factory=list)


def run(root: Path, engine: Engine, asked: list[Request]) -> Removed:
    """Forget what is asked for now and what was asked for before; `root` has to be locked."""
    root = root.absolute()  # tasks may run elsewhere
    places = find_places(root)
    _clear(root / ".work")  # texts and tokens of a run that was killed
    record = Record(root / "forgotten", engine)
    record.ask(asked)
    try:
        record_matches(root, engine.spark, record, places)
        rows, tokens = dict[str, int](), 0
        for place in places:
            changes = forget_in(root, engine.spark, record.folder, place)
            name = place.folder.name
            rows[name] = rows.get(name, 0) + sum(change.rows for change in changes)
            tokens += sum(change.counts.get("tokens", 0) for change in changes)
    finally:
        _clear(root / ".work")
    record.finish()
    matched, unmatched = answered(engine.spark, record, asked)
    return Removed(matched, unmatched, rows, tokens, copies(engine.spark, root, record))


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the sub-command `forget`."""
    text = "take documents out of every dataset, by URL, domain or id"
    parser = commands.add_parser(
        "forget", help=text, description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--root", required=True, metavar="DIR", help="where the datasets are")
    meaning = {"url": "all captures of it", "domain": "its hosts and those below", "id": "of rows"}
    for kind in KINDS:
        parser.add_argument(
            f"--{kind}s", nargs="+", default=[], type=Path, metavar="FILE",
            help=f"files with one {kind} a line ({meaning[kind]}); # before a comment",
        )  # fmt: skip
    parser.add_argument(
        "--copies", type=Path, metavar="FILE",
        help="write the ids of documents that stay and were duplicates of forgotten ones",
    )  # fmt: skip
    parser.add_argument(
        "--master", metavar="URL", help="run on Apache Spark, e.g. local[2] or yarn (needs Java 17)"
    )
    parser.add_argument("--remote", metavar="URL", help="run on a Spark Connect service, sc://HOST")
    parser.add_argument("--verbose", action="store_true", help="show the engine's own log")
    parser.set_defaults(command=_forget)


def _forget(arguments: argparse.Namespace) -> int:
    asked = [
        r
        for kind in KINDS
        for path in getattr(arguments, f"{kind}s")
        for r in read_list(path, kind)
    ]
    root = Path(arguments.root)
    check_path("--root", root)
    find_places(root)  # before a lock makes a folder of a name that was mistyped
    if not asked and manifest.read(root / "forgotten") is None:
        raise UserError("gristmill forget: name files with --urls, --domains or --ids")
    with locked(root), open_engine(arguments.master, arguments.remote, arguments.verbose) as engine:
        removed = run(root, engine, asked)
    if arguments.copies:
        arguments.copies.write_text("".join(f"{i}\n" for i in removed.copies), encoding="utf-8")
    PlainConsole().print(_table(root, removed))
    for request in removed.unmatched:
        print(printable(f"matched nothing: {request.by} {request.value}"))
    return 0


def _table(root: Path, removed: Removed) -> Table:
    table = Table(title=f"forgotten in {root}", title_justify="left", show_edge=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    for kind in KINDS:
        found, missed = (
            sum(request.by == kind for request in requests)
            for requests in (removed.matched, removed.unmatched)
        )
        if found or missed:
            table.add_row(f"{kind}s asked for", f"{found + missed:,}")
            table.add_row("  that matched documents", f"{found:,}")
            table.add_row("  that matched nothing", f"{missed:,}")
    table.add_section()
    for name, rows in removed.rows.items():
        verb = "emptied in" if name in EMPTIED else "taken out of"
        table.add_row(f"rows {verb} {name}", f"{rows:,}")
    table.add_row("tokens taken out of shards", f"{removed.tokens:,}")
    table.add_row(
        "documents that stay, once duplicates of forgotten ones", f"{len(removed.copies):,}"
    )
    return table
