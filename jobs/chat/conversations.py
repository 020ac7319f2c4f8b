"""`gristmill conversations`: chat files -> shards with a loss mask, for fine-tuning.

No engine is opened: a chat dataset has millions of rows where a crawl has billions of pages, and
one process streams through it at about the tokenizer's speed.

1. Read: every row becomes token rows in a spool file, a line of the file of rejected rows, or is
   only counted, where a takedown request removes it.
2. Write: the number of shards is known once all rows are, and a shard is a range of hashes, so each
   shard filters the keys of the whole spool, which is mapped, and takes its own rows.
3. Commit: order, names, hashes and manifest are those of shards of documents.

Cost: 8 bytes read per row and shard, and every token read once. Memory: one row, one batch, and
what `shards.write_shard` needs for one shard.
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
from corpus.chat.encode import COUNTS, Accepted, ChatCounts, Conversations, Rejected
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
from schemas import config, manifest, tokenizer
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from schemas.printing import PlainConsole, one_line, printable
from schemas.tokenizer import Tokenizer

ROWS_PER_BATCH = 1024
TOKENS_PER_BATCH = 1 << 20

_CONTROL, _TARGET, _END_OF_TARGET = "dim cyan", "bold green", "bold green reverse"
_LINE = ("\n", "")
_MARKS = ("⟦", "⟧")  # around targets where there are no colours

_EXAMPLES = """\
examples:
  gristmill conversations --input chats.jsonl --tokenizer cl100k_base --show 3
  gristmill conversations --input 'chats/*.jsonl.gz' --tokenizer out/shards/tokenizer-....json \\
      --root out --context 2048

Every row becomes a conversation or a line of rejected-....jsonl beside the shards.
"""


@dataclass(frozen=True)
class ChatJob:
    """One run of the command: files in the order of their names, and the shards to write."""

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
        """What shapes the shards, besides the files."""
        known = {"name": self.tokenizer.name, "hash": self.tokenizer.hash}
        framing, shard = dataclasses.asdict(self.conversations), dataclasses.asdict(self.shard)
        return config.to_json({"tokenizer": known, "conversations": framing, "shard": shard})

    def fingerprints(self) -> dict[str, str]:
        """What the shards are made from: the bytes of the files, and how rows are read."""
        files = {f"file {path.name}": sha256(path) for path in self.inputs}
        return files | {"grammar": str(encode.GRAMMAR)}


def make(job: ChatJob) -> bool:
    """Write the shards unless they exist and are valid; returns whether there was work to do."""
    _refuse_other_settings(job)
    inputs, started = job.fingerprints(), time.time()
    if _is_done(job, inputs):
        return False
    work = job.root / ".work" / "conversations"
    work.mkdir(parents=True, exist_ok=True)
    try:
        counts = _read(job, work)
        with track(job.root, "conversations: write", 1, "step"):
            files = write_shards(work / "tokens.arrow", job.folder, job.shard)
            _write_rows(work / "tokens.arrow", work / row_files.ROWS_FILE)
        written = sum(file.rows for file in files)
        balance("conversations", "conversations", counts.total("conversations"), written)
        _commit(job, inputs, files, counts, work, started)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def _refuse_other_settings(job: ChatJob) -> None:
    """Raise `UserError` where other settings, or another command, wrote the shards there."""
    old = manifest.read(job.folder)
    if old is None or (old.settings == job.settings and old.dataset == "shards"):
        return
    if old.dataset != "shards":
        raise UserError(
            f"--shards {job.shards}: {job.folder} holds '{old.dataset}'; give another name"
        )
    if not job.overwrite:
        was, now = _flat(old.settings), _flat(job.settings)
        first = min(name for name in was | now if was.get(name) != now.get(name))
        raise UserError(
            f"{job.folder} was written with other settings: {first} = {was.get(first)!r} "
            f"there, {now.get(first)!r} here; use another --shards or --root, or --overwrite"
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {f"{s}.{name}": value for s, of in settings.items() for name, value in of.items()}


def _is_done(job: ChatJob, inputs: dict[str, str]) -> bool:
    old = manifest.read(job.folder)
    if old is None or old.fingerprint != manifest.fingerprint("shards", job.settings, inputs):
        return False
    if old.shards.rows is None:
        return False  # of an earlier version
    sizes = {job.folder / file.name: file.bytes for file in old.files}
    paths = [job.folder / name for name in shards.companions(old.files, old.shards)]
    return all(path.is_file() for path in (*paths, *sizes)) and all(
        path.stat().st_size == size for path, size in sizes.items()
    )


def _read(job: ChatJob, work: Path) -> ChatCounts:
    """Read the files: token rows into one file, rejected rows into another."""
    counts, requests = ChatCounts(), removals.load(job.root / "forgotten")
    with (
        track(job.root, "conversations: read", len(job.inputs), "files") as progress,
        pa.OSFile(str(work / "tokens.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, encode.TOKENS) as spool,
        open(work / row_files.REJECTED_FILE, "w", encoding="utf-8") as rejected,
    ):
        done = Tally(progress)
        for path in job.inputs:
            accepted = _sort_out(path, job, requests, counts, rejected)
            for batch in batches(accepted):
                spool.write_batch(encode.token_rows(batch, job.shard))
            done.add(1)
    accounted = counts.total("conversations") + counts.total("rejected")
    balance("conversations", "rows", counts.total("rows"), accounted)
    return counts


def _sort_out(
    path: Path, job: ChatJob, requests: RemovalRequests, counts: ChatCounts, rejected: IO[str]
) -> Iterator[Accepted]:
    """Yield the usable rows of one file and write the rejected ones; an error if none is usable."""
    here = ChatCounts()
    first: Rejected | None = None
    for row in encode.read_file(path, job.tokenizer, job.conversations):
        if requests.reason(row.source_id, row.url):
            here.forgotten += 1
            continue
        counts.add(row)
        here.add(row)
        if isinstance(row, Accepted):
            yield row
            continue
        first = first or row
        rejected.write(config.canonical_json(vars(row)) + "\n")
    counts.forgotten += here.forgotten
    if here.total("conversations") or here.forgotten:
        return
    if first is None:
        raise UserError(f"{path}: holds no row")
    reasons = ", ".join(f"{reason} {n}" for reason, n in here.reasons.most_common())
    raise UserError(
        f"{path}: none of its {here.total('rows'):,} rows is a conversation ({reasons}); "
        f"line {first.line}: {first.detail}"
    )


def batches(accepted: Iterable[Accepted]) -> Iterator[list[Accepted]]:
    """Rows to be written together: up to `ROWS_PER_BATCH`, or until `TOKENS_PER_BATCH` is met."""
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
    """Write the shards of a spool file in order; `UserError` where a split is empty."""
    with pa.memory_map(str(spool)) as source, pa.ipc.open_file(source) as reader:
        num_shards = _num_shards(reader, settings)
        places = [(split, i) for split in SPLITS for i in range(num_shards[split])]
        return tuple(
            shards.write_shard(rows, folder, split, index, settings)
            for split, index in places
            if len(rows := _rows_of(reader, split, index, num_shards[split]))
        )


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


def _write_rows(spool: Path, out: Path) -> None:
    """Write what each conversation contributed to the counts, in the order of reading."""
    with pa.memory_map(str(spool)) as source, pa.ipc.open_file(source) as reader:
        rows = reader.read_all().rename_columns({"token_count": "tokens", "tokens": "ids"})
        row_files.write_rows(rows.select(encode.ROWS.names), out)


def _commit(
    job: ChatJob,
    inputs: dict[str, str],
    files: tuple[DataFile, ...],
    counts: ChatCounts,
    work: Path,
    started: float,
) -> None:
    shards.save_tokenizer(job.tokenizer, job.folder)
    extra = dataclasses.replace(
        counts.to_extra(shards.describe(files, job.tokenizer, "conversations")),
        seed=job.shard.seed,
        recipe_hash=config.json_hash(job.settings),
        rejected=row_files.put(work / row_files.REJECTED_FILE, job.folder),
        rows=row_files.put(work / row_files.ROWS_FILE, job.folder),
    )
    written = Manifest(
        dataset="shards",
        recipe="conversations",
        settings=job.settings,
        inputs=inputs,
        files=files,
        counts={"documents": sum(file.rows for file in files), "tokens": counts.total("tokens")},
        extra=extra,
        made={
            "engine": "this process",
            "python": platform.python_version(),
            "seconds": round(time.time() - started, 2),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": {name: version(name) for name in ("gristmill", "pyarrow", "tiktoken")},
        },
    )
    manifest.write(job.folder, written)
    dataset_io.sweep(job.folder, written, shards.companions(files, extra))


# --- What is printed -----------------------------------------------------------------------------


def table(listed: Manifest) -> Table:
    """Counts per form, and of all forms where there are several."""
    spent = f"{listed.made['seconds']:.1f} s, tokenizer {listed.shards.tokenizer.name}"
    title = Text(one_line(f"conversations: {spent}"), "table.title")
    table = Table("", title=title, title_justify="left", show_edge=False)
    counts = ChatCounts.from_extra(listed.shards)
    forms = counts.forms
    if len(forms) > 1:
        forms["all"] = Counter({name: counts.total(name) for name in COUNTS})
    for form in forms:
        table.add_column(Text(one_line(form)), justify="right")
    for name in COUNTS:
        table.add_row(name.replace("_", " "), *[f"{of[name]:,}" for of in forms.values()])
    return table


def ending(listed: Manifest, folder: Path) -> Text:
    """Rejected rows by reason and where they are listed, then shards and tokens per split."""
    lines, counts = [], ChatCounts.from_extra(listed.shards)
    if counts.forgotten:
        lines.append(f"taken down: {counts.forgotten:,} rows, left out and listed nowhere")
    if counts.reasons and listed.shards.rejected:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts.reasons.items())
        lines.append(f"rejected: {reasons}; line by line in {folder / listed.shards.rejected.name}")
    for split, tokens in listed.shards.tokens.items():
        files = [file for file in listed.files if file.shard.split == split]
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
    """One conversation, one turn per line, targets in another style and, if asked, in marks.

    Texts are decoded from the token ids, so that what is shown is what a model sees; control
    characters become spaces.
    """
    framed = one.framed
    cut = f", {one.num_cut} turns cut off" if one.num_cut else ""
    title = one_line(
        f"{one.id} ({one.file_path}, offset {one.record_offset:,}): {one.form}, "
        f"{len(framed.tokens):,} tokens, {framed.mask.count(1):,} learned{cut}"
    )
    shown, start = Text(), 0
    for is_target, run in itertools.groupby(framed.mask):
        end = start + sum(1 for _ in run)
        parts = list(_parts(framed.tokens[start:end].tolist(), bool(is_target), tokenizer))
        start = end
        before, after = _MARKS if marks and is_target else ("", "")
        last = parts.pop() if parts[-1] == _LINE else ("", "")
        for part, style in [(before, ""), *parts, (after, ""), last]:
            shown.append(part, style)
    return Text("\n").join([Text(title, style="bold"), shown, Text()])


def _parts(tokens: list[int], target: bool, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """Text and style of a run; a turn's end ends the line."""
    names = {token: name for name, token in tokenizer.chat_ids.items()}
    names[tokenizer.boundary] = ""  # begins every conversation
    for control, run in itertools.groupby(tokens, key=lambda token: token in names):
        if not control:
            plain = printable(tokenizer.decode(list(run)))
            yield plain, _TARGET if target else ""
            continue
        for name in (names[token] for token in run):
            yield name, _END_OF_TARGET if target else _CONTROL
            if name in ("<|end|>", "<|tool_result_end|>"):
                yield _LINE


# --- The command ---------------------------------------------------------------------------------


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the command to those of `gristmill`."""
    text = "write chat files as shards with a loss mask, for fine-tuning"
    parser = commands.add_parser("conversations", help=text, description=text, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add, settings = parser.add_argument, Shard()
    text = f"chat files, paths or globs: {', '.join('*' + kind for kind in chat_files.KINDS)}"
    add("--input", required=True, nargs="+", metavar="FILE", help=text)
    text = "name of a tiktoken encoding, or a saved tokenizer (*.json)"
    add("--tokenizer", required=True, metavar="NAME", help=text)
    add("--root", metavar="DIR", help="corpus directory")
    text = "folder in the root for these shards (default: conversations)"
    add("--shards", default="conversations", metavar="NAME", help=text)
    context = Conversations().context
    text = f"tokens per conversation; a longer one is cut at a turn (default: {context})"
    add("--context", type=int, default=context, metavar="N", help=text)
    text = f"share of conversations to hold out (default: {settings.validation_fraction})"
    add("--validation-fraction", type=float, default=settings.validation_fraction,
        metavar="F", help=text)  # fmt: skip
    text = f"seed of the shuffle (default: {settings.seed})"
    add("--seed", type=int, default=settings.seed, metavar="N", help=text)
    text = "print the first N conversations with targets marked, and write nothing"
    add("--show", type=int, metavar="N", help=text)
    add("--overwrite", action="store_true", help="replace what other settings wrote")
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    job = _job(arguments)
    if arguments.show is not None:
        if arguments.show < 1:
            raise UserError(f"--show {arguments.show}: must be at least 1")
        show(job.inputs, job.tokenizer, job.conversations, arguments.show)
        return 0
    if arguments.root is None:
        raise UserError("--root: missing; name the root to write to, or use --show N")
    with locked(job.root, job.shards):
        refuse_unfinished(job.root)
        worked = make(job)
    listed = manifest.read(job.folder)
    assert listed, job.folder
    console.print(table(listed))
    console.print(ending(listed, job.folder), soft_wrap=True)
    if not worked:
        console.print("conversations: done already and still valid, nothing to do")
    return 0


def _job(arguments: argparse.Namespace) -> ChatJob:
    try:
        framing = Conversations(arguments.context)
        shard = Shard(arguments.seed, validation_fraction=arguments.validation_fraction)
    except ValueError as error:
        name, problem = str(error).split(" ", 1)
        raise UserError(f"--{name.replace('_', '-')} {problem}") from None
    files = chat_files.resolve(arguments.input)
    root = Path(arguments.root or ".")
    known = tokenizer.find(arguments.tokenizer)
    return ChatJob(files, known, root, arguments.shards, framing, shard, arguments.overwrite)
