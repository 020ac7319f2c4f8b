"""Trace a token of a training batch to its page, and a page to the rows that hold its tokens.

A batch is a pure function of shards, data specification and step, so both answers are computed:

- `origin_of`: step and row give a source and its own row; the epoch's plan gives the row's
  segments; sizes of row groups and documents give the document, and the shard's provenance columns
  its page.
- `rows_with`: one pass over the provenance columns finds the documents of a URL or id, and each
  epoch's plan the rows that hold them.

`loader_of_run` opens the loader of a run, from its run.json. Steps, rows, positions and tokens
count from 0; a row has T + 1 positions. Raises `UserError` for a place outside the batch, and for
shards that are missing or not the run's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import MANIFEST_FILE
from trainer.data import spec as data_spec
from trainer.data.loader import Loader, Mixed
from trainer.data.packing import PADS
from trainer.data.rows import SourceRows
from trainer.durable import read_json
from trainer.model import step_folders

AROUND = 12  # tokens of the document to decode on each side of a token


@dataclass(frozen=True)
class TokenOrigin:
    """Where one token of a batch came from: shard, document and place in it, page and record.

    `folder` is that of the shards; `before`, `text` and `after` are the document around the token.
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


class Occurrence(NamedTuple):
    """A row of a batch that holds tokens `first` to `end` - 1 of a document, from `position` on."""

    step: int
    row: int
    position: int
    first: int
    end: int
    id: str


def loader_of_run(run: Path, moved: Sequence[Path] = ()) -> Loader:
    """The loader of a run's training batches; `moved` are folders of its shards that have moved.

    A run names its shards by content hash, so folders match in any order. Shards that are not in
    `moved` are looked for where the run found them.
    """
    path = run / "run.json"
    written = read_json(path)
    if not isinstance(written.get("data"), dict):
        raise UserError(f"{path}: has no data specification: not a run of this version")
    spec = data_spec.from_json(written["data"], f"{path}: data")
    listed = written.get("folders", [])
    if not isinstance(listed, list) or not all(isinstance(folder, str) for folder in listed):
        raise UserError(f"{path}: folders = {listed!r:.80}: must be a list of folders")

    hashes, given = [source.content_hash for source in spec.sources], _by_content(moved)
    for hash_, folder in given.items():
        if hash_ not in hashes:
            raise UserError(
                f"{folder}: holds shards {hash_[:12]}; {path} was trained on "
                f"{', '.join(h[:12] for h in hashes)}: give the shards that it was trained on"
            )
    there = [Path(folder) for folder in listed if (Path(folder) / MANIFEST_FILE).is_file()]
    folders = _by_content(there) | given
    for hash_ in hashes:
        if hash_ not in folders:
            raise UserError(
                f"{path}: trained on shards {hash_[:12]}, which are not where they were "
                f"({', '.join(listed) or 'no folder is listed'}); give their folder with --shards"
            )

    loader = Loader(
        [Mixed(folders[s.content_hash], s.weight, s.max_epochs) for s in spec.sources],
        seq_len=spec.seq_len,
        rows=spec.rows,
        packing=spec.packing,
        seed=spec.seed,
        split=spec.split,
        window_tokens=spec.window_tokens,
        check_files=True,
    )
    data_spec.require_same(spec, loader.spec, str(path))
    return loader


def _by_content(folders: Iterable[Path]) -> dict[str, Path]:
    """Folders of shards by the content hash of their manifests."""
    found = {}
    for folder in folders:
        listed = manifest.read(folder)
        if listed is None or listed.dataset != "shards":
            raise UserError(
                f"{folder}: holds no shards; give a folder with a {MANIFEST_FILE} of shards"
            )
        found[listed.shards.content_hash] = folder
    return found


def origin_of(loader: Loader, step: int, row: int, position: int = 0) -> TokenOrigin | None:
    """The origin of token `position` (0 to seq_len) of a row of a global batch; None: padding."""
    spec = loader.spec
    for flag, value, most in (("--row", row, spec.rows - 1), ("--pos", position, spec.seq_len)):
        if not 0 <= value <= most:
            raise UserError(f"{flag} {value}: must be from 0 to {most}")
    run_row = step * spec.rows + row
    shares = [loader.mixture.rows_of(n, run_row, run_row + 1) for n in range(len(loader.sources))]
    number = next(number for number, rows in enumerate(shares) if rows)
    source, own = loader.sources[number], shares[number].start
    place = source.place(own)
    plan = source.plan(place.epoch)
    segments = plan.segments(place.row, place.row + 1)
    segment, inside = _part_at(segments.lengths, position)
    if segments.kinds[segment] == PADS:
        return None
    groups = plan.window(place.window).groups
    which, token = _part_at(
        source.row_groups.tokens[groups], int(segments.starts[segment]) + inside
    )
    return _origin_in_group(source, int(groups[which]), token)


def _origin_in_group(source: SourceRows, group: int, token: int) -> TokenOrigin:
    """The origin of token `token` of a row group."""
    groups, decode = source.row_groups, source.shards.tokenizer.decode
    lengths = groups.lengths(group)
    document, at = _part_at(lengths, token)
    tokens = np.empty(groups.tokens[group], np.int32)
    groups.read(group, tokens, None)
    ids = tokens[token - at :][: lengths[document]].tolist()
    file, row_group = groups.place(group)
    return TokenOrigin(
        folder=str(source.shards.folder),
        shard=file.name,
        row_group=row_group,
        row_in_group=document,
        token=at,
        token_id=ids[at],
        before=decode(ids[max(0, at - AROUND) : at]),
        text=decode([ids[at]]),
        after=decode(ids[at + 1 : at + 1 + AROUND]),
        **groups.provenance(group).slice(document, 1).to_pylist()[0],
    )


def _part_at(lengths: npt.NDArray[Any], at: int) -> tuple[int, int]:
    """Of parts laid end to end, the one that place `at` is in, and the place within it."""
    ends = np.cumsum(lengths, dtype=np.int64)
    part = int(np.searchsorted(ends, at, side="right"))
    return part, at - int(ends[part]) + int(lengths[part])


def steps_to_search(steps: int | None, run: Path | None) -> int:
    """How many steps, from the first: `steps`, or as many as the run has trained."""
    if steps is None and run is not None:
        latest = step_folders.pointed(run, step_folders.LATEST)
        if latest is None:
            raise UserError(f"{run}: has no checkpoint yet; give --steps N")
        return int(latest[1]["step"])
    if steps is None or steps < 1:
        raise UserError(f"--steps {steps}: must be at least 1 with --url or --id")
    return steps


def rows_with(
    loader: Loader, num_steps: int, *, url: str | None = None, document_id: str | None = None
) -> Iterator[Occurrence]:
    """The rows of steps 0 to `num_steps` - 1 that hold tokens of the documents of a URL or id."""
    name, value = ("url", url) if url is not None else ("id", document_id)
    wanted = pa.scalar(value, pa.string())
    for number, source in enumerate(loader.sources):
        end = len(loader.mixture.rows_of(number, 0, num_steps * loader.spec.rows))
        for group in range(len(source.row_groups.tokens)):
            provenance = source.row_groups.provenance(group)
            equal = pc.equal(provenance.column(name), wanted).fill_null(False)
            for document in np.flatnonzero(equal.to_numpy()).tolist():
                id_ = provenance.column("id")[document].as_py()
                for own, position, first, stop in _rows_of_document(source, group, document, end):
                    run_row = int(loader.mixture.places(number, np.array([own]))[0])
                    step, row = divmod(run_row, loader.spec.rows)
                    yield Occurrence(step, row, position, first, stop, id_)


def _rows_of_document(
    source: SourceRows, group: int, document: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Own row, position, first and end token of a document, in the source's first `end` rows."""
    lengths = source.row_groups.lengths(group)
    epoch = 0
    while source.first_row(epoch) < end:
        plan = source.plan(epoch)
        turn = int(np.flatnonzero(plan.groups == group)[0])
        window = plan.window(int(np.searchsorted(plan.windows[:, 0], turn, side="right")))
        before = window.groups[: int(np.flatnonzero(window.groups == group)[0])]
        begin = int(source.row_groups.tokens[before].sum() + lengths[:document].sum(dtype=np.int64))
        segments = plan.segments(window.rows.start, window.rows.stop)
        within = (segments.starts >= begin) & (segments.starts < begin + int(lengths[document]))
        offsets = np.cumsum(segments.lengths, dtype=np.int64) - segments.lengths
        for i in np.flatnonzero(within & (segments.kinds != PADS)).tolist():
            row = int(np.searchsorted(segments.row_ends, i, side="right"))
            own = source.first_row(epoch) + window.rows.start + row
            position = int(offsets[i]) - row * (source.spec.seq_len + 1)
            first = int(segments.starts[i]) - begin
            if own < end:
                yield own, position, first, first + int(segments.lengths[i])
        epoch += 1
