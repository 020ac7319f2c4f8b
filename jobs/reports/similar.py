"""`gristmill similar`: the documents of a corpus directory that are near-duplicates of a text.

The text is hashed under the stored [minhash] settings. Documents that share a band with it are
candidates; only their texts are read, and compared exactly. `bands`, `judged` and `clusters` are
read row group by row group, so memory does not depend on the size of the root.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from corpus.arrays import Int64s
from corpus.dedup import minhash
from corpus.dedup.minhash import MinHash
from corpus.dedup.precision_recall import Verify
from jobs.engine.progress import console
from jobs.engine.roots import refuse_unfinished
from jobs.reports.explain import Root, open_root
from schemas import config, manifest
from schemas.datasets import BANDS, CLUSTERS, DOCUMENTS, KEY
from schemas.errors import UserError
from schemas.printing import PlainConsole, one_line

MAX_TEXT_BYTES = 16 << 20
MAX_COMPARED = 10_000  # candidates whose texts are read
_LIMIT = 20
_FATE = ("cluster", "cluster_size", "duplicate_of", "duplicate_root", "duplicate_kind")
_EXAMPLES = """\
examples:
  gristmill similar --root out --text page.txt
  trafilatura < page.html | gristmill similar --root out --text - --min-similarity 0.5

Candidates are the documents that passed the filters and share a MinHash band with the text, under
the recipe that the root was built with. Each is compared exactly: the Jaccard similarity of both
sets of shingles, its text taken as it was before passages and personal data were removed.
Documents that share no band are missed, most of them below the recipe's threshold; the last line
of the output says with what probability.
"""


@dataclass(frozen=True)
class Candidate:
    """A row of `bands` that shares `num_shared` bands with the text."""

    num_shared: int
    node: int
    id: str
    file_path: str
    record_offset: int


@dataclass(frozen=True)
class Match:
    """A similar document. `outcome` is `kept` or a `duplicate_kind`, None without `clusters`."""

    similarity: float
    url: str | None
    id: str
    file_path: str
    record_offset: int
    outcome: str | None = None
    cluster: int | None = None
    cluster_size: int | None = None
    duplicate_of: str | None = None
    duplicate_root: str | None = None


@dataclass(frozen=True)
class Answer:
    """The most similar documents, first the one most similar.

    `num_candidates` share a band, `num_compared` of them were compared, `num_similar` reach
    `min_similarity`, and `matches` are the first of those. `absent`: why there is no outcome.
    """

    root: str
    minhash: MinHash
    num_shingles: int
    min_similarity: float
    num_candidates: int
    num_compared: int
    num_similar: int
    matches: list[Match]
    absent: str | None = None

    def to_json(self) -> str:
        """The answer as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=1)


def similar(
    folder: Path, text: str, min_similarity: float | None = None, limit: int = _LIMIT
) -> Answer:
    """The documents of a root most similar to `text`, at most `limit` of them.

    `min_similarity` defaults to the similarity from which the root's recipe counts a pair as
    duplicates. Raises `UserError` for a root without bands and for a text without shingles.
    """
    refuse_unfinished(folder)
    root = open_root(folder)
    settings = _settings(root)
    own = minhash.fingerprints([text], settings)
    if not own.num_shingles[0]:
        raise UserError(
            f"--text: has fewer than {settings.ngram} words, which make a shingle "
            f"(minhash.ngram of {folder}); give a longer text"
        )
    if min_similarity is None:
        min_similarity = _verify(root).threshold(settings)
    candidates, num_candidates = _candidates(root, own.bands[0])
    scored = _compare(root, candidates, text, settings)
    found = sorted(
        (pair for pair in scored if pair[1].similarity >= min_similarity),
        key=lambda pair: (-pair[1].similarity, pair[0]),
    )
    return Answer(
        root=str(folder),
        minhash=settings,
        num_shingles=int(own.num_shingles[0]),
        min_similarity=min_similarity,
        num_candidates=num_candidates,
        num_compared=len(candidates),
        num_similar=len(found),
        matches=_with_outcomes(root, dict(found[:limit])),
        absent=root.absent.get("clusters"),
    )


def _settings(root: Root) -> MinHash:
    """The settings that the root's bands were made with."""
    for dataset in ("judged", "bands"):
        if dataset not in root.manifests:
            raise UserError(
                f"--root {root.folder}: '{dataset}' {root.absent[dataset]}, and similar texts are "
                "found by 'bands'; build both with gristmill run"
            )
    path, bands = root.folder / "bands" / manifest.MANIFEST_FILE, root.manifests["bands"]
    scheme = bands.inputs.get("minhash.scheme")
    if scheme != minhash.SCHEME:
        raise UserError(
            f"{path}: minhash.scheme = {scheme!r}: this version hashes by {minhash.SCHEME!r}; "
            "rebuild the bands with gristmill dedup"
        )
    return config.from_dict(bands.settings.get("minhash", {}), MinHash, f"{path}: [minhash]")


def _verify(root: Root) -> Verify:
    """The [verify] settings of the root's clusters; the default ones if it has none."""
    if "clusters" not in root.manifests:
        return Verify()
    path = root.folder / "clusters" / manifest.MANIFEST_FILE
    values = root.manifests["clusters"].settings.get("verify", {})
    return config.from_dict(values, Verify, f"{path}: [verify]")


def _candidates(root: Root, own: Int64s) -> tuple[list[Candidate], int]:
    """The `MAX_COMPARED` documents that share most bands with `own` (bands,), and how many share
    any. Among equals, those with the smallest node.
    """
    best, total = list[Candidate](), 0

    def shares(rows: pa.Table) -> pa.Array:
        return pa.array(_num_shared(rows["bands"], own) > 0)

    for rows in _rows(root, "bands", BANDS, ("bands",), ("node", "id", *KEY), shares):
        shared = _num_shared(rows["bands"], own).tolist()
        columns = rows.drop_columns("bands").to_pylist()
        best += [Candidate(n, **row) for n, row in zip(shared, columns, strict=True)]
        total += rows.num_rows
        if len(best) > 2 * MAX_COMPARED:
            best = _most_shared(best)
    return _most_shared(best), total


def _most_shared(candidates: list[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda c: (-c.num_shared, c.node))[:MAX_COMPARED]


def _num_shared(stored: pa.ChunkedArray, own: Int64s) -> Int64s:
    """How many bands each document shares with `own`; 0 for one without a signature."""
    lists = stored.combine_chunks()
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    if not np.isin(lengths, (0, len(own))).all() or lists.flatten().null_count:
        raise pa.ArrowInvalid(f"column bands has lists of other than {len(own)} hashes")
    shared = np.zeros(len(lists), dtype=np.int64)
    shared[lengths > 0] = (lists.flatten().to_numpy().reshape(-1, len(own)) == own).sum(axis=1)
    return shared


def _compare(
    root: Root, candidates: list[Candidate], text: str, settings: MinHash
) -> Iterator[tuple[int, Match]]:
    """(node, match) of every candidate, with its exact similarity to `text`."""
    if not candidates:
        return
    wanted = {(c.file_path, c.record_offset): c for c in candidates}
    values = [pa.array(list(set(each))) for each in zip(*wanted, strict=True)]

    def has_key(rows: pa.Table) -> pa.Array:
        return pc.and_(*(pc.is_in(rows[n], v) for n, v in zip(KEY, values, strict=True)))

    own = minhash.shingle_hashes(text, settings)
    for rows in _rows(root, "judged", DOCUMENTS, KEY, ("url", "text"), has_key):
        for row in rows.filter(rows["text"].is_valid()).to_pylist():
            one = wanted.pop((row["file_path"], row["record_offset"]), None)
            if one is not None:
                theirs = minhash.shingle_hashes(row["text"], settings)
                place = {"id": one.id, **{name: row[name] for name in KEY}}
                yield one.node, Match(minhash.jaccard(own, theirs), row["url"], **place)
    for one in wanted.values():
        raise UserError(
            f"{root.folder / 'judged'}: has no text of {one.file_path}, offset "
            f"{one.record_offset}, which 'bands' lists; remove both folders and run gristmill run"
        )


def _with_outcomes(root: Root, matches: dict[int, Match]) -> list[Match]:
    """Matches by node, with what `clusters` says of them."""
    if "clusters" not in root.manifests or not matches:
        return list(matches.values())
    nodes = pa.array(list(matches))

    def is_match(rows: pa.Table) -> pa.Array:
        return pc.is_in(rows["node"], nodes)

    for rows in _rows(root, "clusters", CLUSTERS, ("node",), _FATE, is_match):
        for row in rows.to_pylist():
            node, kind = row.pop("node"), row.pop("duplicate_kind")
            matches[node] = dataclasses.replace(matches[node], outcome=kind or "kept", **row)
    return list(matches.values())


def _rows(
    root: Root,
    dataset: str,
    schema: pa.Schema,
    narrow: Sequence[str],
    wide: Sequence[str],
    chosen: Callable[[pa.Table], pa.Array],
) -> Iterator[pa.Table]:
    """The columns `narrow` and `wide` of the rows of a dataset for which `chosen` is true.

    `chosen` is given `narrow` alone; `wide` is read only in row groups with such a row.
    """
    listed = root.manifests[dataset]
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"reading {dataset}", total=listed.rows)
        for path in listed.paths(root.folder / dataset):
            try:
                with pq.ParquetFile(path) as file:
                    _check_columns(file.schema_arrow, schema, (*narrow, *wide))
                    for group in range(file.num_row_groups):
                        rows = file.read_row_group(group, columns=list(narrow))
                        bar.advance(task, rows.num_rows)
                        mask = chosen(rows)
                        if pc.any(mask).as_py():
                            more = file.read_row_group(group, columns=list(wide))
                            for name in wide:
                                rows = rows.append_column(name, more[name])
                            yield rows.filter(mask)
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{path}: cannot be read: {error}") from None


def _check_columns(there: pa.Schema, schema: pa.Schema, names: Sequence[str]) -> None:
    for name in names:
        if name not in there.names or there.field(name).type != schema.field(name).type:
            raise pa.ArrowInvalid(f"has no column {name} of type {schema.field(name).type}")


def table(matches: Sequence[Match]) -> Table:
    """The matches for a terminal."""
    shown = Table(show_edge=False)
    shown.add_column("similarity", justify="right", no_wrap=True)
    shown.add_column("outcome", overflow="fold")
    shown.add_column("document", overflow="fold")
    for match in matches:
        outcome = Text(one_line(match.outcome or "not deduplicated"))
        shown.add_row(f"{match.similarity:.4f}", outcome, _document(match))
    return shown


def _document(match: Match) -> Text:
    """URL, id, place, and the cluster if others are in it."""
    lines = [match.url or "a record without a URL", match.id]
    lines.append(f"{match.file_path}, offset {match.record_offset:,}")
    if match.cluster_size is not None and match.cluster_size > 1:
        lines.append(f"cluster {match.cluster}, {match.cluster_size:,} documents")
    if match.duplicate_root:
        lines.append(f"kept in {match.duplicate_root}")
    return Text("\n".join(map(one_line, lines)))


def _ending(answer: Answer) -> Iterator[Text]:
    """How many were found, compared, and missed."""
    least = f"{answer.min_similarity:.4g}"
    yield Text(
        f"documents that share a band with the text: {answer.num_candidates:,}; at least {least} "
        f"similar: {answer.num_similar:,}; shown: {len(answer.matches):,}"
    )
    if answer.num_compared < answer.num_candidates:
        yield Text(f"only the {answer.num_compared:,} that share most bands were compared")
    if answer.absent:
        yield Text(one_line(f"clusters: {answer.absent}"), "dim")
    missed = 1 - answer.minhash.match_probability(answer.min_similarity)
    yield Text(f"a document of similarity {least} is missed with probability {missed:.2g}", "dim")


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the sub-command `similar`."""
    text = "show the documents that are near-duplicates of a text"
    parser = commands.add_parser(
        "similar", help=text, description=f"{text.capitalize()}.", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--root", required=True, metavar="DIR", help="corpus directory")
    parser.add_argument(
        "--text", required=True, metavar="FILE", help="file of the text, UTF-8; -: standard input"
    )
    parser.add_argument(
        "--min-similarity", type=float, metavar="S",
        help="show documents of at least this Jaccard similarity, 0 to 1 (default: that from which "
        "the recipe counts a pair as duplicates)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=int, default=_LIMIT, metavar="N",
        help=f"show the N most similar documents (default: {_LIMIT})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(command=_similar)


def _similar(arguments: argparse.Namespace) -> int:
    least, limit = arguments.min_similarity, arguments.limit
    if least is not None and not 0 <= least <= 1:
        raise UserError(f"--min-similarity {least}: must be at least 0 and at most 1")
    if not 1 <= limit <= MAX_COMPARED:
        raise UserError(f"--limit {limit}: must be at least 1 and at most {MAX_COMPARED:,}")
    answer = similar(Path(arguments.root), _read_text(arguments.text), least, limit)
    if arguments.json:
        print(answer.to_json())
    else:
        shown = PlainConsole(highlight=False)
        if answer.matches:
            shown.print(table(answer.matches), "")
        for line in _ending(answer):
            shown.print(line, soft_wrap=True)
    return 0


def _read_text(name: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise UserError(f"--text {name}: is longer than {MAX_TEXT_BYTES:,} bytes; give a part")
        return data.decode("utf-8")
    except OSError as error:
        raise UserError(f"--text {name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--text {name}: is not UTF-8: byte {error.start} is invalid") from None
