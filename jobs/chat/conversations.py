"""`gristmill conversations`: files of chats -> shards with a loss mask, for fine-tuning.

No engine is opened: a chat dataset is some millions of rows where a crawl is billions of pages, and
one process streams through it at about the tokenizer's own speed. Token rows wait in a file that is
mapped, not read, until all are known; then each shard is taken from it. Memory is that of a row, a
batch, and what `shards.write_shard` needs for a shard.

Every row is a conversation of a shard, a line of the file of rejected rows, or one that has to be
forgotten (`jobs.takedown.request`), which is counted alone. Order, cut, names, hashes and commit are those of
the shards of documents.

Token rows of conversations on their way to shards: a file that is mapped, not read.

How many shards there are is known once all rows are, and a shard is a range of hashes, so its rows
come from everywhere. For each shard the keys of all rows are looked at and its own rows taken.
Cost: 8 bytes a row and shard, and every token read once; memory is that of one shard.

Conversations for a terminal: what was read and refused in a table, and what is learned marked.

Texts are shown as they come out of the token ids, so that what is seen is what a model sees; what
controls a terminal is not let through.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from corpus.chat import encode
from corpus.chat import files as chat_files
from corpus.chat.encode import COUNTS, Accepted, Conversations, Rejected, Tallies
from corpus.clean import removals
from corpus.clean.contamination import sha256
from corpus.clean.removals import RemovalRequests
from corpus.tokens import shards
from corpus.tokens.shards import Shard
from corpus.tokens.splits import SPLITS
from jobs.chat import row_files
from jobs.engine import dataset_io
from jobs.engine.progress import Tally, console, track
from jobs.engine.roots import locked, refuse_unfinished, shards_folder
from jobs.engine.stage import balance
from jobs.reports.whatif import printable
from schemas import config, manifest, tokenizer
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from schemas.printing import PlainConsole
from schemas.tokenizer import Tokenizer

_CONTROL, _TARGET, _END_OF_TARGET = "dim cyan", "bold green", "bold green reverse"
_LINE = ("\n", "")
_MARKS = ("⟦", "⟧")  # around what is learned where there are no colours


def table(made: Manifest) -> Table:
    """Counts of each form, and of all where there are several."""
    spent = f"{made.made['seconds']:.1f} s, tokenizer {made.extra['tokenizer']['name']}"
    drawn = Table(
        "",
        title=Text(printable(f"conversations: {spent}"), "table.title"),
        title_justify="left",
        show_edge=False,
    )
    forms: list[dict[str, Any]] = made.extra["forms"]
    if len(forms) > 1:
        forms = [*forms, {"form": "all", **{n: sum(one[n] for one in forms) for n in COUNTS}}]
    for form in forms:
        drawn.add_column(Text(printable(form["form"])), justify="right")
    for name in COUNTS:
        drawn.add_row(name.replace("_", " "), *[f"{form[name]:,}" for form in forms])
    return drawn


def ending(made: Manifest, folder: Path) -> Text:
    """Rejected rows by reason and where they are listed, then shards and tokens by split."""
    lines = []
    if made.extra.get("forgotten"):
        lines.append(f"forgotten: {made.extra['forgotten']:,} rows, left out and listed nowhere")
    reasons: dict[str, int] = made.extra["reasons"]
    if reasons:
        counted = ", ".join(f"{reason} {n:,}" for reason, n in reasons.items())
        lines.append(
            f"rejected: {counted}; line by line in {folder / made.extra['rejected']['name']}"
        )
    for split, tokens in made.extra["tokens"].items():
        files = [file for file in made.files if file.extra["split"] == split]
        rows = sum(file.rows for file in files)
        lines.append(f"{split}: {rows:,} conversations, {tokens:,} tokens, {len(files):,} shards")
    return Text("\n".join(lines))


def show(inputs: Sequence[Path], tokenizer: Tokenizer, settings: Conversations, most: int) -> None:
    """Print the first `most` conversations of the files to standard output."""
    console = PlainConsole()
    rows = (row for path in inputs for row in encode.read_file(path, tokenizer, settings))
    accepted = (row for row in rows if isinstance(row, Accepted))
    for one in itertools.islice(accepted, most):
        console.print(drawn(one, tokenizer, marks=not console.is_terminal), soft_wrap=True)


def drawn(one: Accepted, tokenizer: Tokenizer, marks: bool = False) -> Text:
    """One conversation, a turn a line, what is learned in another style and, if asked, in marks."""
    made = one.framed
    cut = f", {one.num_cut} turns cut off" if one.num_cut else ""
    text = Text(printable(f"{one.id} ({one.file_path}, offset {one.record_offset:,}): {one.form}, "
                          f"{len(made.tokens):,} tokens, {made.mask.count(1):,} learned{cut}"),
                style="bold")  # fmt: skip
    shown = Text()
    for target, tokens in _runs(made.tokens.tolist(), made.mask):
        begin, end = _MARKS if marks and target else ("", "")
        parts = list(_parts(tokens, target, tokenizer))
        last = parts.pop() if parts[-1] == _LINE else ("", "")
        for part, style in [(begin, ""), *parts, (end, ""), last]:
            shown.append(part, style)
    return Text("\n").join([text, shown, Text()])


def _runs(tokens: Sequence[int], mask: Sequence[int]) -> Iterator[tuple[bool, list[int]]]:
    """Stretches of tokens that are all targets, or all are not."""
    start = 0
    for target, run in itertools.groupby(mask):
        end = start + sum(1 for _ in run)
        yield bool(target), list(tokens[start:end])
        start = end


def _parts(tokens: list[int], target: bool, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """Text and style; a turn's end ends the line."""
    names = {token: name for name, token in tokenizer.chat_ids.items()}
    names[tokenizer.boundary] = ""  # begins every conversation
    for control, run in itertools.groupby(tokens, key=lambda token: token in names):
        if not control:
            plain = printable(tokenizer.decode(list(run)), keep="\n\t ")
            yield plain, _TARGET if target else ""
            continue
        for name in (names[token] for token in run):
            yield name, _END_OF_TARGET if target else _CONTROL
            if name in ("<|end|>", "<|tool_result_end|>"):
                yield _LINE


ROWS_PER_BATCH = 1024
TOKENS_PER_BATCH = 1 << 20


def batches(accepted: Iterable[Accepted]) -> Iterator[list[Accepted]]:
    """Rows to be written together: so many, or so many tokens and those of one row more."""
    batch: list[Accepted] = []
    tokens = 0
    for one in accepted:
        batch.append(one)
        tokens += len(one.framed.tokens)
        if len(batch) == ROWS_PER_BATCH or tokens >= TOKENS_PER_BATCH:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch


def write_shards(spool: Path, folder: Path, settings: Shard) -> tuple[DataFile, ...]:
    """Take the rows of each shard from the file of all, and write it; in the shards' order.

    Raises `UserError` where a split is empty.
    """
    with pa.memory_map(str(spool)) as source, pa.ipc.open_file(source) as reader:
        num_shards = _num_shards(reader, settings)
        places = [(split, i) for split in SPLITS for i in range(num_shards[split])]
        return tuple(
            shards.write_shard(rows, folder, split, index, settings)
            for split, index in places
            if len(rows := _rows_of(reader, split, index, num_shards[split]))
        )


def write_rows(spool: Path, out: Path) -> None:
    """Write what each conversation was made of, in the order in which they were read."""
    with pa.memory_map(str(spool)) as source, pa.ipc.open_file(source) as reader:
        rows = reader.read_all().rename_columns({"token_count": "tokens", "tokens": "ids"})
        row_files.write_rows(rows.select(encode.ROWS.names), out)


def _num_shards(reader: pa.RecordBatchFileReader, settings: Shard) -> dict[str, int]:
    """Split -> number of shards, from its total of tokens; an empty split is an error."""
    tokens: Counter[str] = Counter()
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        for split in SPLITS:
            here = pc.equal(batch.column("split"), split)
            tokens[split] += pc.sum(batch.column("token_count").filter(here)).as_py() or 0
    for split in SPLITS:
        if not tokens[split]:
            raise UserError(
                f"--validation-fraction {settings.validation_fraction}: no conversation falls "
                f"into the {split} split; use another fraction or more conversations"
            )
    return {split: shards.num_shards_for(tokens[split], settings) for split in SPLITS}


def _rows_of(reader: pa.RecordBatchFileReader, split: str, index: int, num_shards: int) -> pa.Table:
    found = []
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        keys = shards.to_unsigned(batch.column("order_key").to_numpy())
        here = pa.array(shards.shards_of(keys, num_shards) == index)
        found.append(batch.filter(pc.and_(here, pc.equal(batch.column("split"), split))))
    return pa.Table.from_batches(found, encode.TOKENS)


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
        return files | {"grammar": str(encode.GRAMMAR)}


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
            files = write_shards(work / "tokens.arrow", request.folder, request.shard)
            write_rows(work / "tokens.arrow", work / row_files.ROWS_FILE)
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
    paths = [request.folder / name for name in row_files.companions(old)]
    sizes = {request.folder / file.name: file.bytes for file in old.files}
    return all(path.is_file() for path in (*paths, *sizes)) and all(
        path.stat().st_size == size for path, size in sizes.items()
    )


def _read(request: Request, work: Path) -> Tallies:
    """Go through the files: token rows into one file, rejected rows into another."""
    tallies, requests = Tallies(), removals.load(request.root / "forgotten")
    with (
        track(request.root, "conversations: read", len(request.inputs), "files") as progress,
        pa.OSFile(str(work / "tokens.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, encode.TOKENS) as spool,
        open(work / row_files.REJECTED_FILE, "w", encoding="utf-8") as rejected,
    ):
        done = Tally(progress)
        for path in request.inputs:
            accepted = _sort_out(path, request, requests, tallies, rejected)
            for batch in batches(accepted):
                spool.write_batch(encode.token_rows(batch, request.shard))
            done.add(1)
    accounted = tallies.total("conversations") + tallies.total("rejected")
    balance("conversations", "rows", tallies.total("rows"), accounted)
    return tallies


def _sort_out(
    path: Path, request: Request, requests: RemovalRequests, tallies: Tallies, rejected: IO[str]
) -> Iterator[Accepted]:
    """The usable rows of one file; the others are written down. None usable is an error."""
    here = Tallies()
    first: Rejected | None = None
    for one in encode.read_file(path, request.tokenizer, request.conversations):
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
        "rejected": row_files.put(work / row_files.REJECTED_FILE, request.folder),
        "rows": row_files.put(work / row_files.ROWS_FILE, request.folder),
    }
    counts = {"documents": sum(file.rows for file in files), "tokens": tallies.total("tokens")}
    made = Manifest("shards", "conversations", request.settings, inputs, files, counts, extra,
                    _made(started))  # fmt: skip
    manifest.write(request.folder, made)
    dataset_io.sweep(request.folder, made, row_files.companions(made))


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
        show(request.inputs, request.tokenizer, request.conversations, arguments.show)
        return 0
    if arguments.root is None:
        raise UserError("--root: say where the shards are to be, or --show N to only look")
    with locked(request.root, request.shards):
        refuse_unfinished(request.root)
        worked = make(request)
    listed = manifest.read(request.folder)
    assert listed, request.folder
    console.print(table(listed))
    console.print(ending(listed, request.folder), soft_wrap=True)
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
