"""`gristmill conversations`: files of chats -> shards with a loss mask, for fine-tuning.

No engine is opened: a chat dataset is some millions of rows where a crawl is billions of pages, and
one process streams through it at about the tokenizer's own speed. Token rows wait in a file that is
mapped, not read, until all are known; then each shard is taken from it. Memory is that of a row, a
batch, and what `shards.write_shard` needs for a shard.

Every row is a conversation of a shard, a line of the file of rejected rows, or one that has to be
forgotten (`jobs.forget`), which is counted alone. Order, cut, names, hashes and commit are those of
the shards of documents.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from corpus import chat_files, conversations, forget, shards
from corpus.conversations import Accepted, Conversations, Rejected, Tallies
from corpus.evaluation_sets import sha256
from corpus.forget import Requests
from corpus.shards import Shard
from jobs import chat_rows, chat_spool, chat_view, datasets
from jobs.progress import Tally, console, track
from jobs.roots import locked, refuse_unfinished, shards_folder
from jobs.stage import balance
from schemas import config, manifest, tokenizer
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from schemas.tokenizer import Tokenizer

_EXAMPLES = """\
examples:
  gristmill conversations --input chats.jsonl --tokenizer cl100k_base --show 3
  gristmill conversations --input 'chats/*.jsonl.gz' --tokenizer out/shards/tokenizer-....json \\
      --root out --context 2048

Every row becomes a conversation or a line of rejected-....jsonl beside the shards.
"""


@dataclass(frozen=True)
class Request:
    """One invocation: files in the order of their names, and the shards to make of them."""

    inputs: tuple[Path, ...]
    tokenizer: Tokenizer
    root: Path
    shards: str = "conversations"
    conversations: Conversations = field(default_factory=Conversations)
    shard: Shard = field(default_factory=Shard)
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Where the shards and their manifest are."""
        return shards_folder(self.root, self.shards)

    @property
    def settings(self) -> dict[str, Any]:
        """What shapes the shards beside the files."""
        known = {"name": self.tokenizer.name, "hash": self.tokenizer.hash}
        framing, shard = dataclasses.asdict(self.conversations), dataclasses.asdict(self.shard)
        return config.to_json({"tokenizer": known, "conversations": framing, "shard": shard})

    def fingerprints(self) -> dict[str, str]:
        """What the shards are made from: the bytes of the files, and how rows are read."""
        files = {f"file {path.name}": sha256(path) for path in self.inputs}
        return files | {"grammar": str(conversations.GRAMMAR)}


def refuse_other_settings(request: Request) -> None:
    """Raise `UserError` where other settings, or another command, wrote the shards there."""
    old = manifest.read(request.folder)
    if old is None or (old.settings == request.settings and old.dataset == "shards"):
        return
    if old.dataset != "shards":
        raise UserError(f"--shards {request.shards}: {request.folder} holds '{old.dataset}'; "
                        "give another name")  # fmt: skip
    if not request.overwrite:
        was, now = _flat(old.settings), _flat(request.settings)
        first = min(name for name in was | now if was.get(name) != now.get(name))
        raise UserError(
            f"{request.folder} was written with other settings: {first} = {was.get(first)!r} "
            f"there, {now.get(first)!r} here; use another --shards or --root, or --overwrite"
        )


def make(request: Request) -> bool:
    """Make the shards unless they are there and valid; says whether there was work to do."""
    refuse_other_settings(request)
    inputs, started = request.fingerprints(), time.time()
    if _is_done(request, inputs):
        return False
    work = request.root / ".work" / "conversations"
    work.mkdir(parents=True, exist_ok=True)
    try:
        tallies = _read(request, work)
        with track(request.root, "conversations: write", 1, "step"):
            files = chat_spool.write_shards(work / "tokens.arrow", request.folder, request.shard)
            chat_spool.write_rows(work / "tokens.arrow", work / chat_rows.ROWS_FILE)
        balance("conversations", "conversations",
                tallies.total("conversations"), sum(file.rows for file in files))  # fmt: skip
        _commit(request, inputs, files, tallies, work, started)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def _is_done(request: Request, inputs: dict[str, str]) -> bool:
    old = manifest.read(request.folder)
    if old is None:
        return False
    if old.fingerprint != manifest.fingerprint("shards", request.settings, inputs):
        return False
    if "rows" not in old.extra:
        return False  # of an earlier version
    paths = [request.folder / name for name in chat_rows.companions(old)]
    sizes = {request.folder / file.name: file.bytes for file in old.files}
    return all(path.is_file() for path in (*paths, *sizes)) and all(
        path.stat().st_size == size for path, size in sizes.items()
    )


def _read(request: Request, work: Path) -> Tallies:
    """Go through the files: token rows into one file, rejected rows into another."""
    tallies, requests = Tallies(), forget.load(request.root / "forgotten")
    with (
        track(request.root, "conversations: read", len(request.inputs), "files") as progress,
        pa.OSFile(str(work / "tokens.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, conversations.TOKENS) as spool,
        open(work / chat_rows.REJECTED_FILE, "w", encoding="utf-8") as rejected,
    ):
        done = Tally(progress)
        for path in request.inputs:
            accepted = _sort_out(path, request, requests, tallies, rejected)
            for batch in chat_spool.batches(accepted):
                spool.write_batch(conversations.token_rows(batch, request.shard))
            done.add(1)
    accounted = tallies.total("conversations") + tallies.total("rejected")
    balance("conversations", "rows", tallies.total("rows"), accounted)
    return tallies


def _sort_out(
    path: Path, request: Request, requests: Requests, tallies: Tallies, rejected: IO[str]
) -> Iterator[Accepted]:
    """The usable rows of one file; the others are written down. None usable is an error."""
    here = Tallies()
    first: Rejected | None = None
    for one in conversations.read_file(path, request.tokenizer, request.conversations):
        if requests.reason(one.source_id, one.url):
            here.forgotten += 1
            continue
        tallies.add(one)
        here.add(one)
        if isinstance(one, Accepted):
            yield one
            continue
        first = first or one
        rejected.write(config.canonical_json(vars(one)) + "\n")
    tallies.forgotten += here.forgotten
    if not here.total("conversations") and not here.forgotten:
        raise UserError(_nothing(path, here, first))


def _nothing(path: Path, here: Tallies, first: Rejected | None) -> str:
    if first is None:
        return f"{path}: holds no row"
    counts = ", ".join(f"{reason} {n}" for reason, n in here.reasons.most_common())
    return (f"{path}: none of its {here.total('rows'):,} rows is a conversation ({counts}); "
            f"line {first.line}: {first.detail}")  # fmt: skip


def _commit(
    request: Request,
    inputs: dict[str, str],
    files: tuple[DataFile, ...],
    tallies: Tallies,
    work: Path,
    started: float,
) -> None:
    known = request.tokenizer
    shards.save_tokenizer(known, request.folder)
    extra = {
        **shards.describe(files, known, "conversations"),
        "seed": request.shard.seed,
        "recipe_hash": config.json_hash(request.settings),
        "target_tokens": tallies.total("target_tokens"),
        "forms": tallies.rows(),
        "reasons": dict(sorted(tallies.reasons.items())),
        "forgotten": tallies.forgotten,
        "rejected": chat_rows.put(work / chat_rows.REJECTED_FILE, request.folder),
        "rows": chat_rows.put(work / chat_rows.ROWS_FILE, request.folder),
    }
    counts = {"documents": sum(file.rows for file in files), "tokens": tallies.total("tokens")}
    made = Manifest("shards", "conversations", request.settings, inputs, files, counts, extra,
                    _made(started))  # fmt: skip
    manifest.write(request.folder, made)
    datasets.sweep(request.folder, made, chat_rows.companions(made))


def _made(started: float) -> dict[str, Any]:
    return {
        "engine": "this process",
        "python": platform.python_version(),
        "seconds": round(time.time() - started, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: version(name) for name in ("gristmill", "pyarrow", "tiktoken")},
    }


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {f"{s}.{name}": value for s, of in settings.items() for name, value in of.items()}


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the command to those of `gristmill`."""
    text = "files of chats -> shards with a loss mask, for fine-tuning"
    parser = commands.add_parser("conversations", help=text, description=text, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add, settings = parser.add_argument, Shard()
    text = f"chats: {', '.join('*' + kind for kind in chat_files.KINDS)}; paths or globs"
    add("--input", required=True, nargs="+", metavar="FILE", help=text)
    text = "a tiktoken encoding by name, or a saved tokenizer (*.json)"
    add("--tokenizer", required=True, metavar="NAME", help=text)
    add("--root", metavar="DIR", help="where the datasets are")
    text = "folder in the root for these shards (conversations)"
    add("--shards", default="conversations", metavar="NAME", help=text)
    context = Conversations().context
    text = f"tokens that a conversation may have; a longer one is cut at a turn ({context})"
    add("--context", type=int, default=context, metavar="N", help=text)
    text = f"share of the conversations to hold out ({settings.validation_fraction})"
    add("--validation-fraction", type=float, default=settings.validation_fraction,
        metavar="F", help=text)  # fmt: skip
    text = f"of the shuffle ({settings.seed})"
    add("--seed", type=int, default=settings.seed, metavar="N", help=text)
    text = "print the first N conversations with what is learned marked, and write nothing"
    add("--show", type=int, metavar="N", help=text)
    add("--overwrite", action="store_true", help="make anew what other settings wrote")
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    request = _request(arguments)
    if arguments.show is not None:
        if arguments.show < 1:
            raise UserError(f"--show {arguments.show}: must be at least 1")
        chat_view.show(request.inputs, request.tokenizer, request.conversations, arguments.show)
        return 0
    if arguments.root is None:
        raise UserError("--root: say where the shards are to be, or --show N to only look")
    with locked(request.root, request.shards):
        refuse_unfinished(request.root)
        worked = make(request)
    listed = manifest.read(request.folder)
    assert listed, request.folder
    console.print(chat_view.table(listed))
    console.print(chat_view.ending(listed, request.folder), soft_wrap=True)
    if not worked:
        console.print("conversations: done already and still valid, nothing to do")
    return 0


def _request(arguments: argparse.Namespace) -> Request:
    try:
        framing = Conversations(arguments.context)
        shard = Shard(arguments.seed, validation_fraction=arguments.validation_fraction)
    except ValueError as error:
        name, said = str(error).split(" ", 1)
        raise UserError(f"--{name.replace('_', '-')} {said}") from None
    files = chat_files.resolve(arguments.input)
    root = Path(arguments.root or ".")
    return Request(files, tokenizer.find(arguments.tokenizer), root, arguments.shards, framing,
                   shard, arguments.overwrite)  # fmt: skip
