"""`gristmill explain`: what became of one page, with every gate, rule, duplicate and shard.

The row is found by its key, URL and id columns; wide columns are read only from the row groups that
hold it. On a terminal, text from the web is never markup.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from corpus.recipe import Recipe
from corpus.reports import decisions
from corpus.reports.decisions import Check, FilterStep, GateStep
from jobs.engine.roots import shards_folder
from schemas import config, manifest
from schemas.datasets import CANONICAL, DOCUMENTS, KEY
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest, OtherShards
from schemas.printing import PlainConsole, one_line, printable

Row = dict[str, Any]

_TEXT_CHARS = 300
_MOST_COPIES = 5  # of a cluster, in --json too
_MOST_URLS = 5_000  # of one host, to find those similar to an unknown URL
# Columns that `canonical` adds to the datasets before it.
_OF_CANONICAL = [name for name in CANONICAL.names if name not in DOCUMENTS.names]
_MADE_FROM = {
    "judged": "documents",
    "bands": "judged",
    "clusters": "bands",
    "canonical": "bands",
    "contamination": "canonical",
    "shards": "canonical",
}


@dataclass(frozen=True)
class Root:
    """The datasets of a root that belong together, and why the others are left out."""

    folder: Path
    shards: str
    manifests: dict[str, Manifest]
    absent: dict[str, str]
    recipe: Recipe

    def find(
        self,
        dataset: str,
        where: pc.Expression,
        columns: list[str] | None = None,
        files: tuple[DataFile, ...] = (),
    ) -> list[Row]:
        """Rows of a dataset, or of some of its files; none if it is absent."""
        import pyarrow.dataset as ds  # here: every command imports this module

        if dataset not in self.manifests:
            return []
        folder = _folder(self.folder, dataset, self.shards)
        paths = [str(folder / f.name) for f in files or self.manifests[dataset].files]
        try:
            table = ds.dataset(paths, format="parquet").to_table(filter=where, columns=columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"--root {self.folder}: {dataset} cannot be read: {error}") from None
        return list(table.to_pylist())


@dataclass(frozen=True)
class PageReport:
    """What became of one capture; None if a dataset has no row of it or is absent."""

    url: str | None
    id: str
    place: Row
    gates: list[GateStep]
    filters: list[FilterStep]
    rejected_by: str | None
    detail: str | None
    judged: bool
    cluster: Row | None
    canonical: Row | None
    contamination: list[Row]
    shard: Row | None
    text: str | None
    absent: dict[str, str] = field(default_factory=dict)


def explain(root: Path, where: pc.Expression, shards: str = "shards") -> list[PageReport]:
    """Reports on all rows of `documents` that satisfy `where`, in the order of their keys."""
    opened = open_root(root, shards)
    keys = opened.find("documents", where, list(KEY))
    return [_tell(opened, _is(key)) for key in sorted(keys, key=lambda k: tuple(k.values()))]


def open_root(folder: Path, shards: str = "shards") -> Root:
    """Read the manifests of a root; raises `UserError` if nothing was extracted there."""
    documents = manifest.read(folder / "documents")
    if documents is None:
        raise UserError(f"--root {folder}: no run was committed there; start with gristmill run")
    found, absent = {"documents": documents}, {}
    for dataset, source in _MADE_FROM.items():
        listed = manifest.read(_folder(folder, dataset, shards))
        if listed is None and dataset == "contamination":
            continue  # most roots have none
        if listed is None:
            absent[dataset] = "not built yet"
        elif source not in found or listed.inputs.get(source) != found[source].fingerprint:
            absent[dataset] = f"was built from a different '{source}'"
        elif isinstance(listed.extra, OtherShards):
            absent[dataset] = f"of format {listed.extra.format}, which this version does not read"
        else:
            found[dataset] = listed
    judged = found["judged"].settings if "judged" in found else {}
    values = {"name": documents.recipe, **documents.settings, **judged}
    recipe = config.from_dict(values, Recipe, f"{folder}: the manifest's settings")
    return Root(folder, shards, found, absent, recipe)


def _folder(root: Path, dataset: str, shards: str) -> Path:
    return shards_folder(root, shards) if dataset == "shards" else root / dataset


def _is(key: Row) -> pc.Expression:
    path, offset = (pc.field(name) == key[name] for name in KEY)
    return path & offset


def _tell(root: Root, where: pc.Expression) -> PageReport:
    document = root.find("documents", where)[0]
    judged = next(iter(root.find("judged", where)), None)
    row = judged or document
    text = document["text"]
    return PageReport(
        url=document["url"],
        id=document["id"],
        place={n: document[n] for n in (*KEY, "record_length", "date", "dump", "truncated")},
        gates=decisions.gate_steps(document, root.recipe),
        filters=decisions.filter_steps(judged, root.recipe) if judged else [],
        rejected_by=row["rejected_by"],
        detail=row["detail"],
        judged=judged is not None,
        cluster=_cluster(root, where),
        canonical=_one(root, "canonical", where, _OF_CANONICAL),
        contamination=root.find(
            "contamination", where, ["set", "num_matches", "example", "action"]
        ),
        shard=_shard(root, where),
        text=text if text is None else text[:_TEXT_CHARS],
        absent=root.absent,
    )


def _one(root: Root, dataset: str, where: pc.Expression, columns: list[str]) -> Row | None:
    return next(iter(root.find(dataset, where, columns)), None)


def _cluster(root: Root, where: pc.Expression) -> Row | None:
    """Size and kind, the survivor, and some other members, each with its URL."""
    said = ["cluster", "cluster_size", "duplicate_of", "duplicate_root", "duplicate_kind"]
    columns = [*KEY, "id", "node", "duplicate_node", *said]
    row = _one(root, "clusters", where, columns)
    if row is None:
        return None
    members = root.find("clusters", pc.field("cluster") == row["cluster"], columns)
    members.sort(key=lambda m: (m["id"], m["record_offset"]))
    stays = [m for m in members if m["node"] == row["duplicate_node"]]
    copies = [m for m in members if m["node"] not in (row["node"], row["duplicate_node"])]
    named = [{"id": m["id"], "url": _url(root, m)} for m in (*stays, *copies)[:_MOST_COPIES]]
    survivor = named.pop(0) if stays else None
    if row["duplicate_root"]:  # pages of earlier roots are not looked up
        survivor = {"id": row["duplicate_of"], "url": row["duplicate_root"]}
    return {**{name: row[name] for name in said}, "survivor": survivor, "copies": named}


def _url(root: Root, key: Row) -> str | None:
    found = _one(root, "judged", _is(key), ["url"])
    return found["url"] if found else None


def _shard(root: Root, where: pc.Expression) -> Row | None:
    for file in root.manifests["shards"].files if "shards" in root.manifests else ():
        for row in root.find("shards", where, ["token_count"], (file,)):
            return {"file": file.name, "split": file.shard.split, "tokens": row["token_count"]}
    return None


def nearest_urls(root: Path, url: str, most: int = 5) -> list[str]:
    """The URLs most similar to `url`: of the same host, else of one with a similar name."""
    host = url.partition("//")[2] or url
    host = host.partition("/")[0].lower().removeprefix("www.")
    name = max(host.split("."), key=len)
    for part in (host, name[: max(4, len(name) * 2 // 3)]):
        urls = _urls_with(root, part) if part else []
        if urls:
            return difflib.get_close_matches(url, urls, most, cutoff=0.5) or urls[:1]
    return []


def _urls_with(root: Path, part: str) -> list[str]:
    holds = pc.match_substring(pc.field("url"), part, ignore_case=True)
    urls = {row["url"] for row in open_root(root).find("documents", holds, ["url"])}
    return sorted(urls)[:_MOST_URLS]


def asked(arguments: argparse.Namespace) -> list[PageReport]:
    """Reports on the page that the flags (`add_page`) name; raises `UserError` if there is none."""
    root = Path(arguments.root)
    found = explain(root, _where(arguments), arguments.shards)
    if not found:
        raise _not_found(root, arguments)
    return found


def _where(arguments: argparse.Namespace) -> pc.Expression:
    """The rows that the flags name."""
    if arguments.url is not None:
        return pc.field("url") == arguments.url
    if arguments.id is not None:
        bare = arguments.id.strip("<>").removeprefix("urn:uuid:")
        return pc.field("id").isin([arguments.id, bare, f"<urn:uuid:{bare}>", f"<{bare}>"])
    if arguments.offset is None:
        raise UserError(f"--file {arguments.file}: needs --offset N")
    path = pc.field("file_path")
    named = (path == arguments.file) | pc.ends_with(path, f"/{arguments.file}")
    return named & (pc.field("record_offset") == arguments.offset)


def _not_found(root: Path, arguments: argparse.Namespace) -> UserError:
    if arguments.url is None:
        named = f"--id {arguments.id}" if arguments.id else f"--file {arguments.file}"
        at = f" --offset {arguments.offset}" if arguments.file else ""
        return UserError(f"{named}{at}: no such row in {root / 'documents'}")
    near = nearest_urls(root, arguments.url)
    listed = ", ".join(one_line(url) for url in near)
    hint = f"; the nearest are {listed}" if near else "; no page of that host is there"
    return UserError(f"--url {arguments.url}: not in {root / 'documents'}{hint}")


_STYLES = {"rejected": "bold red", "passed": "green", "not reached": "dim", "not stored": "dim"}


def printed(one: PageReport, title: str = "") -> RenderableType:
    """Everything known about one capture."""
    heading = one.url or "a record without a URL"
    parts: list[RenderableType] = [_text(f"{title}: {heading}" if title else heading, "bold")]
    parts += [*place(one), "", _gate_table(one.gates)]
    if one.filters:
        parts += ["", _filter_table(one.filters), *_other_signals(one.filters)]
    return Group(*parts, "", *_ending(one))


def _text(text: str, style: str = "") -> Text:
    return Text(one_line(text), style=style, overflow="fold")


def place(one: PageReport) -> Iterator[Text]:
    """Where the record is, and when it was captured."""
    row = one.place
    length = row["record_length"]
    size = f", {length:,} bytes" if length is not None else ""
    yield _text(f"  {row['file_path']}, offset {row['record_offset']:,}{size}")
    seen = ", ".join(filter(None, (row["date"], row["dump"])))
    cut = ", cut by the crawler" if row["truncated"] else ""
    yield _text(f"  {one.id}{', ' if seen else ''}{seen}{cut}")


def _gate_table(steps: list[GateStep]) -> Table:
    table = Table.grid(padding=(0, 2))
    for step in steps:
        settings = [f"{n.removeprefix('extract.')} = {_value(v)}" for n, v in step.settings.items()]
        cells = (f"  {step.gate}", step.found or "", ", ".join(settings))
        style = _STYLES[step.state]
        table.add_row(Text(step.state, style), *map(_text, cells[:2]), _text(cells[2], "dim"))
    return table


def _filter_table(steps: list[FilterStep]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(max_width=14)  # a list of languages would leave no room for the faults
    for step in steps:
        table.add_row(_text(step.filter, "bold"))
        for check in step.checks:
            style = "bold red" if check.first else "red" if check.broken else ""
            limit = f"{check.needs or check.setting} {_value(check.threshold)}"
            cells = (f"  {check.signal}", _value(check.value), limit, _fault(check))
            table.add_row(*[_text(cell, style) for cell in cells])
    return table


def _fault(check: Check) -> str:
    if not check.broken:
        return ""
    return f"{check.fault} (first)" if check.first else check.fault


def _other_signals(steps: list[FilterStep]) -> Iterator[Text]:
    for step in steps:
        if step.other_signals:
            listed = ", ".join(f"{name} = {_value(v)}" for name, v in step.other_signals.items())
            yield _text(f"{step.filter} also measured {listed}", "dim")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _ending(one: PageReport) -> Iterator[RenderableType]:
    """Outcome, shard, and the beginning of the text."""
    yield from verdicts(one)
    if one.shard:
        shard = one.shard
        yield _text(f"shard: {shard['tokens']:,} tokens in {shard['file']} ({shard['split']})")
    yield from absences(one)
    if one.text is not None:
        yield Text("")
        yield Text("the extracted text begins:", style="dim")
        yield Padding(Text(printable(one.text), overflow="fold"), (0, 0, 0, 2), expand=False)
    yield Text("")


def verdicts(one: PageReport) -> Iterator[Text]:
    """The outcomes of gates and filters, dedup, PII scrubbing and decontamination."""
    if one.rejected_by:
        yield _text(f"rejected by {one.rejected_by}: {one.detail or ''}", "bold red")
    else:
        yield _text("kept by the filters" if one.judged else "extracted", "bold green")
    yield from _duplicates(one)
    if one.canonical:
        yield _text(f"canonical: {_scrubbed(one.canonical['pii'])}")
    for found in one.contamination:
        verb = "left out of shards" if found["action"] == "drop" else "flagged"
        yield _text(
            f"contamination: {verb}; holds '{found['example']}' of {found['set']}", "bold red"
        )


def absences(one: PageReport) -> Iterator[Text]:
    """The datasets without information, and why."""
    for dataset, reason in one.absent.items():
        yield _text(f"{dataset}: {reason}", "dim")


def _scrubbed(kinds: Mapping[str, int]) -> str:
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"scrubbed of {found}" if found else "no personal data found"


def _duplicates(one: PageReport) -> Iterator[Text]:
    cluster = one.cluster
    if cluster is None:
        return
    size = f"a cluster of {cluster['cluster_size']:,}"
    stays = cluster["survivor"]
    if stays:
        yield _text(f"dedup: {cluster['duplicate_kind']} in {size}; kept instead:", "bold red")
        yield _text(f"  {stays['url'] or 'a record without a URL'}, {stays['id']}")
    elif cluster["duplicate_kind"]:
        yield _text(
            f"dedup: {cluster['duplicate_kind']}; too short after passage removal", "bold red"
        )
    elif cluster["cluster_size"] == 1:
        yield _text("dedup: no duplicate found")
    else:
        yield _text(f"dedup: the survivor of {size}; others:")
    for copy in cluster["copies"]:
        yield _text(f"  also in the cluster: {copy['url'] or copy['id']}", "dim")


def to_json(reports: Sequence[PageReport]) -> str:
    """The reports as a JSON list."""
    return json.dumps([dataclasses.asdict(one) for one in reports], indent=1)


def add_page(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name a root and a page in it."""
    parser.add_argument("--root", required=True, metavar="DIR", help="corpus directory")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--url", help="URL of the page (all its captures)")
    which.add_argument("--id", help="WARC-Record-ID, with or without <urn:uuid:>")
    which.add_argument(
        "--file", help="WARC file as in column file_path, or its name; with --offset"
    )
    parser.add_argument("--offset", type=int, metavar="N", help="byte offset of the record in it")
    parser.add_argument(
        "--shards", default="shards", metavar="NAME", help="folder of the shards (default: shards)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the sub-command `explain`."""
    text = "show what became of one page: every gate and rule, duplicates, shard"
    parser = commands.add_parser("explain", help=text, description=__doc__)
    add_page(parser)
    parser.set_defaults(command=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    reports = asked(arguments)
    if arguments.json:
        print(to_json(reports))
        return 0
    console = PlainConsole()
    for number, one in enumerate(reports, 1):
        title = f"capture {number} of {len(reports)}" if len(reports) > 1 else ""
        console.print(printed(one, title))
    return 0
