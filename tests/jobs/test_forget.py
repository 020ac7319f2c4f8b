"""Forgotten documents are gone from a root, for good, and nothing else has changed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.clean.removals import REASON, RemovalRequest, plain_id
from corpus.recipe import Recipe
from jobs import extract, pipeline
from jobs.engine import dataset_io
from jobs.engine.roots import refuse_unfinished
from jobs.engine.session import Engine
from jobs.engine.stage import Job
from jobs.reports import report
from jobs.takedown import request as forget
from jobs.takedown.request import TakedownResult
from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import ContaminationExtra, Manifest, SetCounts
from trainer.data.shards import RowGroups, open_shards

EMPTIED = ("documents", "judged")
CUT = ("bands", "clusters", "canonical", "shards")
Rows = list[dict[str, Any]]
Key = tuple[str, int]


def _listed(root: Path, dataset: str) -> Manifest:
    listed = manifest.read(root / dataset)
    assert listed is not None
    return listed


def _key(row: dict[str, Any]) -> Key:
    return row["file_path"], row["record_offset"]


def _rows(root: Path, dataset: str) -> Rows:
    paths = _listed(root, dataset).paths(root / dataset)
    return sorted((row for path in paths for row in pq.read_table(path).to_pylist()), key=_key)


def _all_rows(root: Path) -> Rows:
    """The rows of every Parquet file under the root, listed or not."""
    files = [
        path for path in root.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"PAR1"
    ]
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def _times(root: Path) -> dict[Path, int]:
    found = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def asked(sample_roots: dict[str, Path]) -> list[RemovalRequest]:
    """Of every kind: a page with copies, a copy, a rejected page, a site, and what is not there."""
    root = sample_roots["sail"]
    documents = {_key(row): row for row in _rows(root, "documents")}
    clusters = _rows(root, "clusters")
    copies = Counter(row["duplicate_of"] for row in clusters if row["duplicate_of"])
    copied = next(row for row in clusters if copies[row["id"]] > 1)
    copy = next(r for r in clusters if r["duplicate_of"] and r["cluster"] != copied["cluster"])
    missing = next(row for row in documents.values() if row["rejected_by"] == "bad_status")
    alone = [row for row in clusters if row["cluster_size"] == 1]
    sites = Counter(urlsplit(documents[_key(row)]["url"]).hostname for row in alone)
    host = min(site for site, pages in sites.items() if pages == max(sites.values()))
    page = next(r for r in alone if urlsplit(documents[_key(r)]["url"]).hostname != host)
    url = documents[_key(page)]["url"].partition("://")[2].removeprefix("www.")
    return [
        RemovalRequest("id", plain_id(copied["id"])),
        RemovalRequest("url", f"HTTP://www.{url}#top"),
        RemovalRequest("url", documents[_key(copy)]["url"]),
        RemovalRequest("url", missing["url"]),
        RemovalRequest("url", "https://nowhere.example/"),
        RemovalRequest("domain", host.upper()),
        RemovalRequest("domain", "elsewhere.example"),
    ]


@pytest.fixture(scope="module")
def gone(sample_roots: dict[str, Path], asked: list[RemovalRequest]) -> set[Key]:
    """The keys that a plain loop over `documents` says have to go."""
    rows = _rows(sample_roots["sail"], "documents")
    ids = {r.value for r in asked if r.by == "id"}
    urls = {r.value.partition("://")[2].removeprefix("www.").removesuffix("#top") for r in asked}
    hosts = {r.value.lower() for r in asked if r.by == "domain"}
    found = set()
    for row in rows:
        url = (row["url"] or "").partition("://")[2].removeprefix("www.")
        host = urlsplit(row["url"] or "").hostname or ""
        if (
            plain_id(row["id"]) in ids
            or url in urls
            or any(f".{host}".endswith(f".{h}") for h in hosts)
        ):
            found.add(_key(row))
    assert 4 < len(found) < len(rows) / 4
    return found


@pytest.fixture(scope="module")
def cleaned(
    sample_roots: dict[str, Path],
    asked: list[RemovalRequest],
    engines: Callable[[str], Engine],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Path, TakedownResult]]:
    """Engine -> a copy of the sample root in which all that is asked for was forgotten."""
    done = {}
    for name, root in sample_roots.items():
        copy = tmp_path_factory.mktemp(f"forget-{name}") / "root"
        shutil.copytree(root, copy)
        done[name] = copy, forget.run(copy, engines(name), asked)
    return done


@pytest.fixture(params=["sail", "spark"])
def before_and_after(
    request: pytest.FixtureRequest,
    sample_roots: dict[str, Path],
    cleaned: dict[str, tuple[Path, TakedownResult]],
) -> tuple[Path, Path, TakedownResult]:
    return sample_roots[request.param], *cleaned[request.param]


def test_the_tokens_of_all_other_documents_are_as_they_were(
    before_and_after: tuple[Path, Path, TakedownResult], gone: set[Key]
) -> None:
    old, new, removed = before_and_after
    tokens = {_key(row): row["tokens"] for row in _rows(old, "shards")}
    left = {_key(row): row["tokens"] for row in _rows(new, "shards")}
    assert left == {key: value for key, value in tokens.items() if key not in gone}
    assert len(left) < len(tokens)
    lost = sum(map(len, tokens.values())) - sum(map(len, left.values()))
    assert (
        removed.tokens
        == lost
        == _listed(old, "shards").counts["tokens"] - (_listed(new, "shards").counts["tokens"])
    )


@pytest.mark.parametrize("dataset", CUT)
def test_their_rows_are_gone_and_the_others_as_they_were(
    before_and_after: tuple[Path, Path, TakedownResult], gone: set[Key], dataset: str
) -> None:
    old, new, removed = before_and_after
    rows = _rows(old, dataset)
    left = [row for row in rows if _key(row) not in gone]
    assert _rows(new, dataset) == left
    assert removed.rows[dataset] == len(rows) - len(left) > 0


@pytest.mark.parametrize("dataset", EMPTIED)
def test_of_their_rows_the_names_stay(
    before_and_after: tuple[Path, Path, TakedownResult], gone: set[Key], dataset: str
) -> None:
    old, new, removed = before_and_after
    rows = {_key(row): row for row in _rows(new, dataset)}
    assert removed.rows[dataset] == len(gone)
    for row in _rows(old, dataset):
        now = rows.pop(_key(row))
        if _key(row) not in gone:
            assert now == row
            continue
        assert (now["rejected_by"], now["detail"][:3]) == (REASON, "by ")
        assert all(now[name] == row[name] for name in ("id", "url", "date", "record_length"))
        rest = set(now) - {"rejected_by", "detail", *forget_names()}
        assert not any(now[name] for name in rest)
    assert not rows


def forget_names() -> set[str]:
    return {"id", "dump", "url", "date", "file_path", "record_offset", "record_length", "truncated"}


def test_no_file_holds_a_text_or_tokens_of_them(
    before_and_after: tuple[Path, Path, TakedownResult], gone: set[Key]
) -> None:
    old, new, _ = before_and_after
    left = [row for row in _all_rows(new) if row.get("file_path") and _key(row) in gone]
    assert {_key(row) for row in left} == gone
    assert not any(row.get("text") or row.get("tokens") or row.get("bands") for row in left)
    texts = {r["text"] for r in _all_rows(old) if r.get("text") and _key(r) in gone}
    others = {r["text"] for r in _all_rows(old) if r.get("text") and _key(r) not in gone}
    assert texts - others
    assert not (texts - others) & {row.get("text") for row in _all_rows(new)}


def test_both_engines_leave_the_same(cleaned: dict[str, tuple[Path, TakedownResult]]) -> None:
    (sail, said), (spark, also_said) = cleaned.values()
    assert said == also_said
    for dataset in (*EMPTIED, *CUT):
        assert _rows(sail, dataset) == _rows(spark, dataset)
    names = [{p.name: p.read_bytes() for p in (r / "shards").iterdir() if "manifest" not in p.name}
             for r in (sail, spark)]  # fmt: skip
    assert names[0] == names[1]


def test_the_record_names_every_request_and_document_and_no_text(
    before_and_after: tuple[Path, Path, TakedownResult], asked: list[RemovalRequest], gone: set[Key]
) -> None:
    _, new, removed = before_and_after
    rows = [row for path in _listed(new, "forgotten").paths(new / "forgotten")
            for row in pq.read_table(path).to_pylist()]  # fmt: skip
    requests = [row for row in rows if row["file_path"] is None]
    assert {(row["by"], row["value"]) for row in requests} == {(r.by, r.value) for r in asked}
    matches = [row for row in rows if row["file_path"] is not None]
    assert {_key(row) for row in matches} == gone
    assert len(matches) == len({(row["by"], row["value"], *_key(row)) for row in matches})
    assert all(row["forgotten_at"].endswith("Z") for row in rows)
    assert "text" not in rows[0]
    by_request = {(row["by"], row["value"]) for row in matches}
    assert [r for r in asked if (r.by, r.value) not in by_request] == sorted(
        removed.unmatched, key=asked.index
    )
    assert len(removed.matched) + len(removed.unmatched) == len(asked)


def test_documents_left_of_their_clusters_are_named(
    before_and_after: tuple[Path, Path, TakedownResult], gone: set[Key]
) -> None:
    old, _, removed = before_and_after
    rows = _rows(old, "clusters")
    clusters = {row["cluster"] for row in rows if _key(row) in gone}
    left = [row["id"] for row in rows if row["cluster"] in clusters and _key(row) not in gone]
    assert removed.copies == sorted(left)
    assert len(left) > 2


def test_the_books_balance(
    before_and_after: tuple[Path, Path, TakedownResult], gone: set[Key]
) -> None:
    old, new, removed = before_and_after
    was, now = report.funnel(old), report.funnel(new)  # raises where they do not balance
    assert (now.records, now.documents) == (was.records, was.documents)
    assert now.outcomes[REASON] == len(gone)
    assert now.canonical == was.canonical - removed.rows["canonical"]
    assert now.tokens == was.tokens - removed.tokens
    pii = Counter[str]()
    for row in _rows(new, "canonical"):
        pii.update(row["pii"])
    assert now.pii == {kind: pii[kind] for kind in now.pii}
    for dataset in (*EMPTIED, *CUT):
        listed = _listed(new, dataset)
        paths = listed.paths(new / dataset)
        assert [pq.read_metadata(path).num_rows for path in paths] == [f.rows for f in listed.files]
        assert [Path(path).stat().st_size for path in paths] == [f.bytes for f in listed.files]
        assert listed.fingerprint == _listed(old, dataset).fingerprint
    judged = Counter(row["rejected_by"] or "kept" for row in _rows(new, "judged"))
    assert _listed(new, "judged").counts == judged
    kinds = Counter(row["duplicate_kind"] or "kept" for row in _rows(new, "clusters"))
    assert _listed(new, "clusters").counts == kinds
    bands, counts = _rows(new, "bands"), _listed(new, "bands").counts
    counted = {
        "documents": len(bands),
        "nodes": len({row["node"] for row in bands}),
        "repeated_ids": len(bands) - len({row["id"] for row in bands}),
        "unsigned": sum(row["num_shingles"] == 0 for row in bands),
    }
    assert counts == {name: counted[name] for name in counts}


def test_the_trainer_opens_what_is_left(
    before_and_after: tuple[Path, Path, TakedownResult],
) -> None:
    old, new, _ = before_and_after
    opened = open_shards(new / "shards")
    for split in ("train", "validation"):
        groups = RowGroups(opened, split, check_files=True)
        assert len(groups.tokens) > 0
        for number, size in enumerate(groups.tokens.tolist()):
            groups.read(number, np.empty(size, np.int32), None)  # checks its hash
    assert opened.content_hash != open_shards(old / "shards").content_hash


def test_a_second_run_does_nothing(
    cleaned: dict[str, tuple[Path, TakedownResult]], asked: list[RemovalRequest], engine: Engine
) -> None:
    root, removed = cleaned[engine.name.split()[0]]
    before = _times(root)
    again = forget.run(root, engine, asked)
    assert _times(root) == before
    assert (again.matched, again.unmatched) == (removed.matched, removed.unmatched)
    assert set(again.rows.values()) == {0}


def test_a_run_has_nothing_to_do_afterwards(
    cleaned: dict[str, tuple[Path, TakedownResult]],
    sample_recipe: Recipe,
    sample_inputs: tuple[str, ...],
    engine: Engine,
) -> None:
    root, _ = cleaned[engine.name.split()[0]]
    assert pipeline.run(Job(sample_recipe, root, engine, sample_inputs)) == 0


def test_extracting_again_does_not_bring_them_back(
    cleaned: dict[str, tuple[Path, TakedownResult]],
    sample_recipe: Recipe,
    sample_inputs: tuple[str, ...],
    engines: Callable[[str], Engine],
    tmp_path: Path,
) -> None:
    """What extract writes under the requests is what was left of the rows, to the last column."""
    root = tmp_path / "root"
    shutil.copytree(cleaned["sail"][0] / "forgotten", root / "forgotten")
    pipeline.run(Job(sample_recipe, root, engines("sail"), sample_inputs), (extract.STAGE,))
    assert _rows(root, "documents") == _rows(cleaned["sail"][0], "documents")
    assert _listed(root, "documents").counts == _listed(cleaned["sail"][0], "documents").counts


def _without_names(root: Path) -> dict[str, Any]:
    """What manifests say, but for names, sizes and times."""
    return {
        dataset: dataclasses.asdict(dataclasses.replace(listed, files=(), made={}))
        for dataset in (*EMPTIED, *CUT)
        for listed in [_listed(root, dataset)]
    }


class KilledError(Exception):
    """The process is gone."""


def _kill_at(patch: pytest.MonkeyPatch, module: Any, name: str, nth: int) -> None:
    """Let the function of that name do what it does `nth` - 1 times, and then no more."""
    real, calls = getattr(module, name), Counter[str]()

    def die(*arguments: Any, **named: Any) -> Any:
        calls["all"] += 1
        if calls["all"] >= nth:
            raise KilledError
        return real(*arguments, **named)

    patch.setattr(module, name, die)


def _check_kill(
    where: tuple[Any, str, int],
    old: Path,
    new: Path,
    asked: list[RemovalRequest],
    engine: Engine,
    root: Path,
) -> None:
    shutil.copytree(old, root)
    with pytest.MonkeyPatch.context() as patch:
        _kill_at(patch, *where)
        with pytest.raises(KilledError):
            forget.run(root, engine, asked)
    # No reader takes a part for the whole: shards are the old or the new ones.
    assert open_shards(root / "shards").content_hash in {
        open_shards(r / "shards").content_hash for r in (old, new)
    }
    if (root / "forgotten" / manifest.MANIFEST_FILE).exists():
        with pytest.raises(
            UserError, match="a takedown did not finish there; run gristmill forget --root"
        ):
            refuse_unfinished(root)
        asked = []  # the record knows
    forget.run(root, engine, asked)
    refuse_unfinished(root)
    for dataset in (*EMPTIED, *CUT):
        assert _rows(root, dataset) == _rows(new, dataset), dataset
        there = {path.name for path in (root / dataset).glob("*.parquet")}
        assert there == {file.name for file in _listed(root, dataset).files}
    assert _without_names(root) == _without_names(new)
    report.funnel(root)


# The record twice, six datasets, and the record's end: as many manifests. `documents` is not
# swept, the record once.
KILLS = [(manifest, "write", n) for n in range(1, 10)] + [
    (dataset_io, "sweep", n) for n in (1, 5, 6)
]


@pytest.mark.parametrize("where", [KILLS[0], KILLS[2], KILLS[5], KILLS[10]])
def test_a_killed_run_is_gone_on_with(
    where: tuple[Any, str, int], sample_roots: dict[str, Path], asked: list[RemovalRequest],
    cleaned: dict[str, tuple[Path, TakedownResult]], engines: Callable[[str], Engine],
    tmp_path: Path,
) -> None:  # fmt: skip
    old, (new, _) = sample_roots["sail"], cleaned["sail"]
    _check_kill(where, old, new, asked, engines("sail"), tmp_path / "root")


@pytest.mark.soak
@pytest.mark.parametrize("name", ["sail", "spark"])
@pytest.mark.parametrize("where", KILLS)
def test_a_run_killed_at_any_step_is_gone_on_with(
    where: tuple[Any, str, int], name: str, sample_roots: dict[str, Path],
    asked: list[RemovalRequest], cleaned: dict[str, tuple[Path, TakedownResult]],
    engines: Callable[[str], Engine], tmp_path: Path,
) -> None:  # fmt: skip
    old, (new, _) = sample_roots[name], cleaned[name]
    _check_kill(where, old, new, asked, engines(name), tmp_path / "root")


def test_files_that_no_manifest_lists_lose_them_too(
    sample_roots: dict[str, Path], asked: list[RemovalRequest], gone: set[Key],
    engines: Callable[[str], Engine], tmp_path: Path,
) -> None:  # fmt: skip
    """Rows that extract keeps for later, pieces of a killed run, and what is nobody's."""
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    listed = _listed(root, "documents")
    kept = next(f for f in listed.files if any(f.name.startswith(f"{path}-") for path, _ in gone))
    others = [file for file in listed.files if file != kept]
    counts = dataset_io.sum_counts(tuple(others))
    manifest.write(
        root / "documents", dataclasses.replace(listed, files=tuple(others), counts=counts)
    )
    source = root / "documents" / kept.name
    shutil.copy(source, root / "documents" / f".{kept.name}.00000000000000.piece")
    for folder in ("judged", ".work/dedup/labels", "shards"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / folder / f"part-{0:032x}.parquet")
    shutil.copytree(root / "shards", root / "never-committed")
    (root / "never-committed" / manifest.MANIFEST_FILE).unlink()
    assert any(row.get("text") for row in _all_rows(root) if row and _key(row) in gone)
    forget.run(root, engines("sail"), asked)
    left = [row for row in _all_rows(root) if row.get("file_path") and _key(row) in gone]
    assert not any(row.get("text") or row.get("tokens") for row in left)
    of_file = [path for path, _ in gone if kept.name.startswith(f"{path}-")]
    assert extract.describe(source).counts[REASON] == len(of_file)
    assert [file.name for file in _listed(root, "documents").files] == [f.name for f in others]
    assert not (root / ".work").exists()


def test_shards_of_all_tokenizers_lose_them(
    sample_roots: dict[str, Path], asked: list[RemovalRequest], gone: set[Key],
    engines: Callable[[str], Engine], tmp_path: Path,
) -> None:  # fmt: skip
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    shutil.copytree(root / "shards", root / "shards-bpe")
    removed = forget.run(root, engines("sail"), asked)
    for name in ("shards", "shards-bpe"):
        assert not {_key(row) for row in _rows(root, name)} & gone
        assert open_shards(root / name).content_hash == open_shards(root / "shards").content_hash
    assert removed.tokens % 2 == 0


def test_shards_where_no_takedown_looks_are_refused(
    sample_roots: dict[str, Path], asked: list[RemovalRequest],
    engines: Callable[[str], Engine], tmp_path: Path,
) -> None:  # fmt: skip
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    shutil.copytree(root / "shards", root / "deep" / "shards")
    with pytest.raises(UserError, match=r"deep/shards: shards must be directly in their root"):
        forget.run(root, engines("sail"), asked)


def test_shards_of_another_format_are_refused_before_anything_is_removed(
    sample_roots: dict[str, Path], asked: list[RemovalRequest],
    engines: Callable[[str], Engine], tmp_path: Path,
) -> None:  # fmt: skip
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    path = root / "shards" / manifest.MANIFEST_FILE
    values = json.loads(path.read_text())
    values["extra"]["format"] = 1
    del values["files"][0]["extra"]["row_groups"]
    path.write_text(json.dumps(values))
    before = _listed(root, "shards").fingerprint
    with pytest.raises(UserError, match=r"shards: shards of format 1, .*; rebuild them with"):
        forget.run(root, engines("sail"), asked)
    assert not (root / "forgotten").exists()
    assert _listed(root, "shards").fingerprint == before == values["fingerprint"]


def test_contaminated_documents_are_counted_again(
    sample_roots: dict[str, Path], asked: list[RemovalRequest], gone: set[Key],
    engines: Callable[[str], Engine], tmp_path: Path,
) -> None:  # fmt: skip
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    canonical = _rows(root, "canonical")
    hit = [row for row in canonical if _key(row) in gone][:2]
    hit += [row for row in canonical if _key(row) not in gone][:3]
    rows = [
        {"id": row["id"], "file_path": row["file_path"], "record_offset": row["record_offset"],
         "url": row["url"], "set": name, "items": [i]}
        for i, row in enumerate(hit) for name in ("a", "b")
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=pa.schema(
        [(name, pa.string()) for name in ("id", "file_path", "url", "set")]
        + [("record_offset", pa.int64()), ("items", pa.list_(pa.int32()))]
    ))  # fmt: skip
    file = dataset_io.write_table(root / "contamination", table)
    sets = [SetCounts(name, 9, 0, documents=5, found=5) for name in "ab"]
    sets.append(SetCounts("c", 9, 0, documents=0, found=0))
    counts = {"contaminated": 5, "clean": len(canonical) - 5}
    extra = ContaminationExtra("flag", tuple(sets))
    inputs = {"canonical": _listed(root, "canonical").fingerprint}
    made = Manifest("contamination", "", {}, inputs, (file,), counts, extra)
    manifest.write(root / "contamination", made)
    removed = forget.run(root, engines("sail"), asked)
    listed = _listed(root, "contamination")
    assert removed.rows["contamination"] == 4
    assert listed.counts["contaminated"] == 3
    assert sum(listed.counts.values()) == _listed(root, "canonical").rows
    assert [(one.documents, one.found) for one in listed.extra.sets] == [
        (3, 3),
        (3, 3),
        (0, 0),
    ]
    assert listed.fingerprint == made.fingerprint


def _command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    forget.add_parser(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["forget", *arguments])
    return int(parsed.command(parsed))


def test_the_command_tells_what_it_did(
    sample_roots: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    pages = _rows(root, "canonical")
    (tmp_path / "urls").write_text(f"# two\n{pages[0]['url']}\nhttps://nowhere.example/\n")
    (tmp_path / "ids").write_text(f"{pages[1]['id']}\n")
    lists = ["--urls", str(tmp_path / "urls"), "--ids", str(tmp_path / "ids")]
    assert _command("--root", str(root), *lists, "--copies", str(tmp_path / "copies")) == 0
    printed = capsys.readouterr().out
    assert "matched nothing: url https://nowhere.example/" in printed
    for line in ("urls requested", "ids requested", "rows blanked in documents", "tokens removed"):
        assert line in printed
    assert (tmp_path / "copies").exists()
    assert _command("--root", str(root)) == 0  # what was asked for is known


def test_what_cannot_be_done_is_said_in_a_sentence(
    sample_roots: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "urls").write_text("http://a.example/\n")
    (tmp_path / "empty").mkdir()
    lists = ["--urls", str(tmp_path / "urls")]
    for root in ("empty", "none"):
        with pytest.raises(UserError, match=f"--root .*{root}: holds no dataset"):
            _command("--root", str(tmp_path / root), *lists)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"name files with --urls, --domains or --ids"):
        _command("--root", str(sample_roots["sail"]))
    with pytest.raises(UserError, match=r"--domains .*urls, line 1: .* must be a domain"):
        _command("--root", str(sample_roots["sail"]), "--domains", str(tmp_path / "urls"))
