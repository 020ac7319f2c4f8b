"""A token of a batch is traced to the bytes of its record, and a page to the rows that hold it."""

from __future__ import annotations

import argparse
import functools
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from corpus.clean import pii
from corpus.filters.registry import judge_batch
from corpus.recipe import Recipe
from corpus.text.extract_page import Gates, extract_file
from jobs.reports import explain, where
from jobs.reports.explain import PageReport
from schemas.datasets import DOCUMENTS
from schemas.errors import UserError
from trainer.data.loader import IGNORED, Loader
from trainer.data.trace import Occurrence, origin_of, rows_with

SAMPLES = Path(__file__).parents[2] / "samples"
NUM_POSITIONS, NUM_STEPS = 1000, 250


@pytest.fixture(scope="module")
def root(sample_roots: dict[str, Path]) -> Path:
    return sample_roots["sail"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where plans of these tests are kept."""
    return tmp_path_factory.mktemp("cache")


def open_loader(root: Path, cache: Path, packing: str, **changed: Any) -> Loader:
    settings = {"seq_len": 64, "rows": 8, "packing": packing, "seed": 4, **changed}
    return Loader([root / "shards"], cache=cache / "gristmill" / "plans", **settings)


def text_of(path: Path, offset: int, recipe: Recipe) -> str:
    """The text that the record at `offset` comes to, made of the archive and the recipe alone."""
    gates = Gates(recipe.extract, recipe.look)
    outcome = next(extract_file(str(path), path.name, gates, offset))
    assert outcome.row is not None
    assert outcome.row["record_offset"] == offset
    batch = pa.RecordBatch.from_pylist([outcome.row], schema=DOCUMENTS)
    (judged,) = judge_batch(batch, recipe.chosen_filters()).to_pylist()
    return pii.scrub(judged["text"], recipe.pii).text


def header_of(path: Path, offset: int) -> dict[str, str]:
    """The header of the record in the gzip member at `offset`, by zlib alone."""
    with open(path, "rb") as file:
        file.seek(offset)
        header = zlib.decompressobj(31).decompress(file.read(), 1 << 16).partition(b"\r\n\r\n")[0]
    lines = (line.partition(":") for line in header.decode().split("\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in lines}


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_a_thousand_positions_are_traced_to_the_bytes_of_their_records_and_back(
    packing: str, root: Path, cache: Path, sample_recipe: Recipe
) -> None:
    loader = open_loader(root, cache, packing)
    tokenizer = loader.shards.tokenizer

    @functools.cache
    def encoded(file_path: str, offset: int) -> list[int]:
        text = text_of(SAMPLES / file_path, offset, sample_recipe)
        return [tokenizer.boundary, *tokenizer.encode(text)]

    @functools.cache
    def rows_of(id_: str) -> list[Occurrence]:
        return list(rows_with(loader, NUM_STEPS, document_id=id_))

    draw, checked = np.random.default_rng(0), 0
    while checked < NUM_POSITIONS:
        step, row, position = draw.integers(0, [NUM_STEPS, 8, 65]).tolist()
        origin = origin_of(loader, step, row, position)
        if origin is None:
            continue
        checked += 1
        header = header_of(SAMPLES / origin.file_path, origin.record_offset)
        assert (header["warc-target-uri"], header["warc-record-id"]) == (origin.url, origin.id)
        tokens = encoded(origin.file_path, origin.record_offset)
        assert tokens[origin.token] == origin.token_id
        batch = loader.batch(step)
        of_row = np.append(batch.inputs[row], batch.targets[row, -1])
        assert of_row[position] in (origin.token_id, IGNORED)
        assert any(
            (seen.step, seen.row) == (step, row)
            and position - seen.position == origin.token - seen.first
            and seen.first <= origin.token < seen.end
            for seen in rows_of(origin.id)
        )


# The command


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    parser = argparse.ArgumentParser()
    where.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["where", *map(str, arguments)])
    assert parsed.command(parsed) == 0
    return capsys.readouterr().out


@pytest.fixture
def run(root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the root's shards that has trained nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    folder = tmp_path / "run"
    folder.mkdir()
    spec = open_loader(root, cache, "concat").spec
    told = {"data": spec.to_json(), "folders": [str(root / "shards")]}
    (folder / "run.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def pages(root: Path) -> dict[str, PageReport]:
    """A page of every outcome: rejected by a gate, by a filter, a copy, and one that stands."""
    opened, everything = explain.open_root(root), ds.field("record_offset") >= 0
    rows = opened.find("judged", everything, ["id", "rejected_by"])
    ids = {row["rejected_by"]: row["id"] for row in rows}
    rows = opened.find("clusters", everything, ["id", "duplicate_kind"])
    ids |= {row["duplicate_kind"]: row["id"] for row in rows}
    return {
        outcome or "stands": explain.explain(root, ds.field("id") == id_)[0]
        for outcome, id_ in ids.items()
    }


def test_a_page_is_told_with_its_record_its_verdicts_and_its_row(
    root: Path, pages: dict[str, PageReport], capsys: pytest.CaptureFixture[str]
) -> None:
    page = pages["stands"]
    assert page.url
    (told,) = json.loads(ask(capsys, "--root", root, "--url", page.url, "--json"))
    assert told["story"] == json.loads(explain.to_json([page]))[0]
    table = pq.read_table(root / "shards" / told["story"]["shard"]["file"])
    assert told["row_group"] == 0
    assert table["id"][told["row"]].as_py() == page.id
    assert told["rows"] is None
    printed = ask(capsys, "--root", root, "--url", page.url)
    place = f"{page.place['file_path']}, offset {page.place['record_offset']:,}"
    for said in (page.url, page.id, place, "kept by the filters", "dedup: "):
        assert said in printed
    assert f"row group 0, row {told['row']:,}" in printed
    assert "trained on" not in printed


def test_the_row_of_every_document_of_many_row_groups_is_found(tmp_path: Path) -> None:
    rows = [{"file_path": f"{i % 3}.warc", "record_offset": i // 2} for i in range(100)]
    path = tmp_path / "shard.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    assert [where._row_of(path, row) for row in rows] == [divmod(i, 7) for i in range(100)]


def test_a_page_that_stands_in_no_shard_is_told_why(
    root: Path, pages: dict[str, PageReport], capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    """No trainer is started for it: `run` has no steps, and it would say so."""
    for outcome, page in pages.items():
        if outcome != "stands":
            printed = ask(capsys, "--root", root, "--id", page.id, "--run", run)
            assert "not in a shard: no run on these shards was trained on it" in printed
            assert outcome in printed
            assert "row group" not in printed


def test_a_run_is_asked_for_steps_and_rows(
    root: Path, cache: Path, pages: dict[str, PageReport], run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    page = pages["stands"]
    asked = ["--root", root, "--url", page.url, "--run", run, "--steps", 150]
    (told,) = json.loads(ask(capsys, *asked, "--json"))
    loader = open_loader(root, cache, "concat")
    seen = sorted(rows_with(loader, 150, document_id=page.id))
    assert seen
    assert told["rows"] == [one._asdict() for one in seen]
    printed = ask(capsys, *asked)
    assert f"trained on, rows: {len(seen):,}\n" in printed
    assert f"  step {seen[0].step:,}, row {seen[0].row}, pos {seen[0].position}: " in printed


def test_what_the_trainer_refuses_is_said_as_it_says_it(
    root: Path, pages: dict[str, PageReport], run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    page = pages["stands"]
    with pytest.raises(UserError, match=r"^.*run: has no checkpoint yet; give --steps N$"):
        ask(capsys, "--root", root, "--url", page.url, "--run", run)
    with pytest.raises(UserError, match=r"^.*nowhere.run\.json: torn or missing"):
        ask(capsys, "--root", root, "--id", page.id, "--run", tmp_path / "nowhere", "--steps", 1)


def test_what_is_not_there_is_said_as_explain_says_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"--url https://nowhere\.example/: not in .*documents"):
        ask(capsys, "--root", root, "--url", "https://nowhere.example/")
