"""From a place in a batch to the page that its token came from, and back.

A row's segments say which tokens of the window it holds; row groups' sizes and document lengths
say which document those are, and the shard's provenance columns where it came from. The other way,
a document's row is looked up in the provenance columns of the split (one pass, in Arrow), and every
epoch's plan says in which rows its tokens stand. Shards are hashed as a whole before that.

The loader that `trainer where` asks: of flags, or of a run and the shards that it trained on.

A run names its shards by what they hold, not by where they lie, so folders are matched with its
sources by their content hash; those that are not given are looked for where the run found them.

What `trainer where` prints. Whatever the web wrote is shown as text, never as markup.

What the filters said of a page that was trained on: its row in the dataset `judged`.

The root that the shards were made in is the folder above theirs. Manifests say whether `judged` is
still what they were made of; then the row is found by its key. A limit is told beside the signal
that it is named after: `min_` and `max_` go before a name, and counts leave out their `num_`.
Cost: a read of the keys, and of the row groups that hold the row.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from rich.text import Text

from schemas import manifest
from schemas.datasets import KEY
from schemas.errors import UserError
from schemas.manifest import MANIFEST_FILE, Manifest
from schemas.printing import PlainConsole, printable
from schemas.tokenizer import Tokenizer
from trainer.data import spec as data_spec
from trainer.data.loader import Loader, Mixed
from trainer.data.packing import PADS, Int32s, Packing
from trainer.data.rows import SourceRows
from trainer.data.spec import DataSpec, Source
from trainer.durable import read_json

_OF_LANGUAGE = ("language", "language_score")  # signals that are columns, not a struct


@dataclass(frozen=True)
class Signal:
    """A number that a filter measured, and the settings that it has to keep to."""

    name: str
    value: Any
    limits: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What the filters said: `rejected_by` None means that no rule was broken.

    `filters` are in the recipe's order. `absent` says why nothing is known, where nothing is.
    """

    root: str
    absent: str | None = None
    rejected_by: str | None = None
    filters: dict[str, list[Signal]] = field(default_factory=dict)


def find(origin: Origin) -> Verdict:
    """What was said of the page that a token came from."""
    folder = Path(origin.folder).absolute()
    root = folder.parent
    shards, judged = manifest.read(folder), manifest.read(root / "judged")
    if shards and shards.extra.get("kind") == "conversations":
        return Verdict(str(root), "filters do not judge conversations")
    if judged is None:
        return Verdict(str(root), "no dataset `judged` is there")
    if not _made_from(root, shards, judged):
        return Verdict(str(root), "these shards were not made from the dataset `judged` there now")
    row = _row(root / "judged", judged, origin)
    if row is None:
        return Verdict(str(root), "the dataset `judged` there has no row of it")
    filters = {name: _signals(name, row, judged) for name in judged.settings["filters"]}
    return Verdict(str(root), None, row["rejected_by"], filters)


def _made_from(root: Path, shards: Manifest | None, judged: Manifest) -> bool:
    """Whether shards, canonical, bands and judged are each made from the next."""
    made = [shards, *(manifest.read(root / name) for name in ("canonical", "bands")), judged]
    return all(
        one is not None and of is not None and one.inputs.get(of.dataset) == of.fingerprint
        for one, of in itertools.pairwise(made)
    )


def _row(folder: Path, judged: Manifest, origin: Origin) -> dict[str, Any] | None:
    rows: ds.Dataset = ds.dataset(judged.paths(folder), format="parquet")
    named = (*_OF_LANGUAGE, "rejected_by", *judged.settings["filters"])
    columns = [name for name in dict.fromkeys(named) if name in rows.schema.names]
    path, offset = (ds.field(name) == pa.scalar(getattr(origin, name)) for name in KEY)
    found = rows.to_table(columns=columns, filter=path & offset).to_pylist()
    return found[0] if found else None


def _signals(name: str, row: dict[str, Any], judged: Manifest) -> list[Signal]:
    measured = {n: row[n] for n in _OF_LANGUAGE} if name == "language" else row.get(name) or {}
    settings = judged.settings.get(name, {})
    return [Signal(n, value, _limits(name, n, settings)) for n, value in measured.items()]


def _limits(filter_: str, signal: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings named after a signal; tables that are empty decide nothing."""
    bare = signal.removeprefix("num_").removeprefix(f"{filter_}_")
    names = (f"min_{bare}", f"max_{bare}", f"min_{bare}_of", f"{bare}s")
    return {n: settings[n] for n in names if settings.get(n) not in (None, {}, [])}


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
    for line in (_heading(heading, origin), *_origin_lines(origin), Text(), *_verdict(verdict)):
        console.print(line, soft_wrap=True)


def _heading(heading: str, origin: Origin) -> Text:
    before, text, after = (_line(part) for part in (origin.before, origin.text, origin.after))
    said = Text(f"{heading}: token {origin.token_id:,}, the ⟦⟧ in\n  ")
    return said.append(before).append(f"⟦{text}⟧", "bold green").append(after)


def _origin_lines(origin: Origin) -> Iterator[Text]:
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


def open_loader(arguments: argparse.Namespace) -> Loader:
    """The loader of `--run`, or of one folder of shards and the flags of its batches."""
    folders = [path.parent if path.name == MANIFEST_FILE else path for path in arguments.manifest]
    if arguments.of_run is not None:
        return _of_run(arguments.of_run / "run.json", folders)
    if not folders:
        raise UserError("give --run RUN, or --manifest M with the flags of its batches")
    if len(folders) > 1:
        raise UserError(f"--manifest: {len(folders)} folders are mixed as a run says; give --run")
    return Loader(
        folders, seq_len=arguments.seq_len, rows=arguments.batch_size,
        packing=_packing(arguments.packing, folders[0]), seed=arguments.seed, check_files=True,
    )  # fmt: skip


def _packing(asked: str, folder: Path) -> Packing:
    if asked == "auto":
        found = manifest.read(folder)
        chats = found is not None and found.extra.get("kind") == "conversations"
        return "best_fit" if chats else "concat"
    return "concat" if asked == "concat" else "best_fit"


def steps_to_look_at(arguments: argparse.Namespace) -> int:
    """How many steps, from the first: `--steps`, or as many as the run has trained."""
    if arguments.steps is None and arguments.of_run is not None:
        from trainer.model import checkpoint  # torch takes seconds

        latest = checkpoint.pointed(arguments.of_run, checkpoint.LATEST)
        if latest is None:
            raise UserError(f"{arguments.of_run}: has no checkpoint yet; give --steps N")
        return int(latest[1]["step"])
    if arguments.steps is None or arguments.steps < 1:
        raise UserError(f"--steps {arguments.steps}: must be at least 1 with --url or --id")
    return int(arguments.steps)


def _of_run(path: Path, given: list[Path]) -> Loader:
    written = read_json(path)
    if not isinstance(written.get("data"), dict):
        raise UserError(f"{path}: has no data specification: not a run of this version")
    spec = data_spec.from_json(written["data"], f"{path}: data")
    listed = written.get("folders", [])
    if not isinstance(listed, list) or not all(isinstance(folder, str) for folder in listed):
        raise UserError(f"{path}: folders = {listed!r:.80}: must be a list of folders")
    listed = list(map(Path, listed))
    mixed = [
        Mixed(folder, source.weight, source.max_epochs)
        for folder, source in zip(_folders(spec, given, listed, path), spec.sources, strict=True)
    ]
    names = ("seq_len", "rows", "packing", "seed", "split", "window_tokens")
    loader = Loader(mixed, check_files=True, **{name: getattr(spec, name) for name in names})
    data_spec.require_same(spec, loader.spec, str(path))
    return loader


def _folders(spec: DataSpec, given: list[Path], listed: list[Path], path: Path) -> list[Path]:
    """Where each source lies: a folder that was given, else the run's own."""
    hashes = [source.content_hash for source in spec.sources]
    there = _by_hash(given)
    for hash_, folder in there.items():
        if hash_ not in hashes:
            raise UserError(
                f"{folder}: holds shards {hash_[:12]}; {path} was trained on "
                f"{', '.join(h[:12] for h in hashes)}: give the shards that it was trained on"
            )
    at_run = _by_hash(folder for folder in listed if (folder / MANIFEST_FILE).is_file())
    return [_place(source, at_run | there, listed, path) for source in spec.sources]


def _place(source: Source, there: dict[str, Path], listed: list[Path], path: Path) -> Path:
    if source.content_hash not in there:
        looked = ", ".join(map(str, listed)) or "it names no folder"
        raise UserError(
            f"{path}: trained on shards {source.content_hash[:12]}, which are not where they were "
            f"({looked}); say with --manifest where they are"
        )
    return there[source.content_hash]


def _by_hash(folders: Iterable[Path]) -> dict[str, Path]:
    return {_content_hash(folder): folder for folder in folders}


def _content_hash(folder: Path) -> str:
    found: Any = manifest.read(folder)
    if found is None or "content_hash" not in found.extra:
        raise UserError(
            f"{folder}: holds no shards; give a folder with a {MANIFEST_FILE} of shards"
        )
    return str(found.extra["content_hash"])


AROUND = 12  # tokens of the document that are told on each side


@dataclass(frozen=True)
class Origin:
    """Where one token of a batch came from: shard, document and place in it, page and record.

    `folder` is that of the shards, `before`, `text` and `after` are the document around the token.
    """

    folder: str
    shard: str
    row_group: int
    row_in_group: int
    token: int  # of the document, from 0
    token_id: int
    before: str
    text: str
    after: str
    id: str
    url: str | None
    file_path: str
    record_offset: int


class Seen(NamedTuple):
    """A row of a batch that holds tokens of a document, `first` to `end` - 1 of them."""

    step: int
    row: int
    position: int
    first: int
    end: int
    id: str = ""


def where(loader: Loader, step: int, row: int, position: int = 0) -> Origin | None:
    """The origin of token `position` (0 to seq_len) of a row of a global batch; None: padding."""
    _require("--row", row, loader.spec.rows - 1)
    _require("--pos", position, loader.spec.seq_len)
    run_row = step * loader.spec.rows + row
    for number, source in enumerate(loader.sources):
        own = loader.mixture.rows_of(number, run_row, run_row + 1)
        if own:
            return _origin(source, own.start, position)
    raise AssertionError("every row is of some source")


def rows_with(
    loader: Loader, num_steps: int, *, url: str | None = None, document_id: str | None = None
) -> Iterator[Seen]:
    """The rows of steps 0 to `num_steps` - 1 that hold tokens of the documents of a URL or id."""
    for number, source in enumerate(loader.sources):
        end = len(loader.mixture.rows_of(number, 0, num_steps * loader.spec.rows))
        for group, inside in _find(source, url, document_id):
            id_ = source.row_groups.provenance(group).column("id")[inside].as_py()
            for own, position, first, stop in _rows_of_document(source, group, inside, end):
                run_row = int(loader.mixture.places(number, np.array([own]))[0])
                yield Seen(*divmod(run_row, loader.spec.rows), position, first, stop, id_)


def _origin(source: SourceRows, own: int, position: int) -> Origin | None:
    place = source.place(own)
    plan = source.plan(place.epoch)
    segments = plan.segments(place.row, place.row + 1)
    ends = np.cumsum(segments.lengths)
    index = int(np.searchsorted(ends, position, side="right"))
    if segments.kinds[index] == PADS:
        return None
    at = int(segments.starts[index]) + position - int(ends[index] - segments.lengths[index])
    groups, window = source.row_groups, plan.window(place.window)
    group_ends = np.cumsum(groups.tokens[window.groups])
    which = int(np.searchsorted(group_ends, at, side="right"))
    group = int(window.groups[which])
    at -= int(group_ends[which] - groups.tokens[group])
    return _origin_in_group(source, group, at)


def _origin_in_group(source: SourceRows, group: int, at: int) -> Origin:
    """The origin of token `at` of a row group."""
    groups = source.row_groups
    ends = np.cumsum(groups.lengths(group), dtype=np.int64)
    inside = int(np.searchsorted(ends, at, side="right"))
    start = int(ends[inside - 1]) if inside else 0
    tokens = np.empty(groups.tokens[group], np.int32)
    groups.read(group, tokens, None)
    file, row_group = groups.place(group)
    texts = _texts(source.shards.tokenizer, tokens[start : ends[inside]], at - start)
    place = (str(source.shards.folder), file.name, row_group, inside)
    origin = groups.provenance(group).slice(inside, 1).to_pylist()[0]
    return Origin(*place, at - start, int(tokens[at]), *texts, **origin)


def _texts(tokenizer: Tokenizer, tokens: Int32s, at: int) -> tuple[str, str, str]:
    """The document before a token, the token, and the document after it."""
    ids = tokens.tolist()
    before, after = ids[max(0, at - AROUND) : at], ids[at + 1 : at + 1 + AROUND]
    return tokenizer.decode(before), tokenizer.decode([ids[at]]), tokenizer.decode(after)


def _find(
    source: SourceRows, url: str | None, document_id: str | None
) -> Iterator[tuple[int, int]]:
    """Row group and row of each document of the URL or id."""
    name, value = ("url", url) if url is not None else ("id", document_id)
    for group in range(len(source.row_groups.tokens)):
        column = source.row_groups.provenance(group).column(name)
        equal = pc.equal(column, pa.scalar(value, pa.string())).fill_null(False)
        for row in np.flatnonzero(equal.to_numpy()).tolist():
            yield group, row


def _rows_of_document(
    source: SourceRows, group: int, inside: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Own row, position, and which tokens of the document, among the source's first `end` rows."""
    lengths = source.row_groups.lengths(group)
    epoch = 0
    while source.first_row(epoch) < end:
        plan = source.plan(epoch)
        turn = int(np.flatnonzero(plan.groups == group)[0])
        window = plan.window(int(np.searchsorted(plan.windows[:, 0], turn, side="right")))
        before = window.groups[: int(np.flatnonzero(window.groups == group)[0])]
        begin = int(source.row_groups.tokens[before].sum() + lengths[:inside].sum(dtype=np.int64))
        segments = plan.segments(window.rows.start, window.rows.stop)
        within = (segments.starts >= begin) & (segments.starts < begin + int(lengths[inside]))
        offsets = np.cumsum(segments.lengths, dtype=np.int64) - segments.lengths
        for i in np.flatnonzero(within & (segments.kinds != PADS)).tolist():
            row = int(np.searchsorted(segments.row_ends, i, side="right"))
            own = source.first_row(epoch) + window.rows.start + row
            position = int(offsets[i]) - row * (source.spec.seq_len + 1)
            first = int(segments.starts[i]) - begin
            if own < end:
                yield own, position, first, first + int(segments.lengths[i])
        epoch += 1


def _require(flag: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise UserError(f"{flag} {value}: must be from 0 to {most}")


_WHERE = """\
Which page a token of a training batch came from, and what the filters said of that page:
  trainer where --run RUN --step 40 --row 3 --pos 17
  trainer where --manifest demo/corpus/shards --seq-len 256 --batch-size 8 --step 40 --row 3

In which steps and rows a page was trained on:
  trainer where --run RUN --url URL
  trainer where --manifest demo/corpus/shards --seq-len 256 --batch-size 8 --url URL --steps 320

--run RUN takes the data specification from a run, the steps that it has trained and, unless
--manifest says where they are now, its shards; shards that are not its own are refused.
"""


def add_parser(commands: Any) -> None:
    """Add `trainer where` to the command line's subparsers."""
    command = commands.add_parser(
        "where",
        help="which page a token of a batch came from, or where a page was trained on",
        description=_WHERE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    add = command.add_argument
    add("--manifest", "--shards", nargs="+", default=[], type=Path, metavar="M",
        help="folders of shards, or their manifest.json")  # fmt: skip
    add("--run", dest="of_run", type=Path, metavar="RUN", help="a run: its data specification")
    add("--seq-len", type=int, default=256, metavar="T", help="without --run: as its recipe (256)")
    add("--batch-size", type=int, default=8, metavar="B", help="rows of a global batch (8)")
    add("--packing", choices=["auto", "concat", "best_fit"], default="auto",
        help="auto: concat for documents, best_fit for conversations")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the data's order (0)")
    add("--step", type=int, metavar="N", help="batch, from 0: what step N + 1 of the log took")
    add("--row", type=int, default=0, metavar="R", help="row of the global batch, from 0 (0)")
    add("--pos", type=int, default=0, metavar="P", help="token of the row, from 0 (0)")
    add("--url", metavar="URL", help="page to look for")
    add("--id", dest="document_id", metavar="ID", help="document to look for")
    add("--steps", type=int, metavar="N",
        help="with --url or --id: steps to look at (of a run: all it has trained)")  # fmt: skip
    add("--json", action="store_true", help="print a JSON object a line")


def run(arguments: argparse.Namespace) -> None:
    """`trainer where`."""
    loader = open_loader(arguments)
    if arguments.url is not None or arguments.document_id is not None:
        steps = steps_to_look_at(arguments)
        wanted = {"url": arguments.url, "document_id": arguments.document_id}
        show_rows(sorted(rows_with(loader, steps, **wanted)), steps, arguments.json)
        return
    if arguments.step is None or arguments.step < 0:
        raise UserError("give --step N (from 0) with --row and --pos, or --url or --id")
    origin = where(loader, arguments.step, arguments.row, arguments.pos)
    said = None if origin is None else find(origin)
    show_origin(arguments, origin, said)
