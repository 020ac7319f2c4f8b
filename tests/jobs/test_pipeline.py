"""The whole road over the sample crawl, on both engines, against what is true of each page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from corpus.recipe import Recipe
from corpus.tokens.shards import companions
from jobs import pipeline
from jobs.engine.stage import Job
from jobs.reports import report
from schemas import manifest, tokenizer
from schemas.datasets import PII_KINDS

TRUTH = Path(__file__).parents[2] / "samples" / "truth.jsonl"
DATASETS = ("documents", "judged", "bands", "clusters", "canonical", "shards")


def _rows(root: Path, dataset: str) -> list[dict]:
    listed = manifest.read(root / dataset)
    assert listed is not None
    rows = [row for path in listed.paths(root / dataset) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["file_path"], row["record_offset"]))


@pytest.fixture(scope="module")
def truth() -> list[dict]:
    return [json.loads(line) for line in TRUTH.read_text(encoding="utf-8").splitlines()]


def test_both_engines_write_the_same_shards_byte_for_byte(sample_roots: dict[str, Path]) -> None:
    sail, spark = (
        {path.name: path.read_bytes() for path in (root / "shards").glob("*.parquet")}
        for root in sample_roots.values()
    )
    assert len(sail) >= 2
    assert sail == spark


@pytest.mark.parametrize("dataset", DATASETS)
def test_both_engines_write_the_same_rows(sample_roots: dict[str, Path], dataset: str) -> None:
    sail, spark = (_rows(root, dataset) for root in sample_roots.values())
    assert sail
    assert sail == spark


def test_every_record_has_one_outcome(sample_roots: dict[str, Path]) -> None:
    for root in sample_roots.values():
        found = report.funnel(root)
        assert found.records == sum(found.outcomes.values())
        assert found.documents == sum(found.rejected.values()) + found.kept
        assert found.kept == found.duplicates + found.canonical
        assert found.tokens == sum(found.tokens_by_split.values())
        assert min(found.tokens_by_split.values()) > 0


def test_every_page_gets_the_decision_that_is_true_of_it(
    sample_roots: dict[str, Path], truth: list[dict]
) -> None:
    root = sample_roots["sail"]
    judged = {(row["file_path"], row["record_offset"]): row for row in _rows(root, "judged")}
    for page in truth:
        if page["why"] == "revisit":
            continue  # a record that is no document
        row = judged[page["warc"], page["offset"]]
        assert (row["rejected_by"] is not None) == (page["expect"] == "reject"), page
        assert (row["text"] is None) == (row["rejected_by"] is not None)


def test_damage_is_recorded_under_its_name(
    sample_roots: dict[str, Path], truth: list[dict]
) -> None:
    judged = {
        (row["file_path"], row["record_offset"]): row
        for row in _rows(sample_roots["sail"], "judged")
    }
    expected = {
        "damaged": "damaged_record",
        "broken_length": "damaged_record",
        "torn": "torn_record",
        "redirect": "bad_status",
        "not_found": "bad_status",
        "server_error": "bad_status",
        "not_html": "not_html",
    }
    pages = [page for page in truth if page["why"] in expected]
    assert {page["why"] for page in pages} == set(expected)
    for page in pages:
        assert judged[page["warc"], page["offset"]]["rejected_by"] == expected[page["why"]], page


def _true_clusters(truth: list[dict]) -> set[frozenset[str]]:
    copies = {page["record_id"]: page["duplicate_of"] for page in truth if page["duplicate_of"]}
    roots: dict[str, set[str]] = {}
    for record, original in copies.items():
        while original in copies:
            original = copies[original]
        roots.setdefault(original, {original}).add(record)
    return {frozenset(members) for members in roots.values()}


def test_clusters_are_the_true_duplicates(sample_roots: dict[str, Path], truth: list[dict]) -> None:
    clusters: dict[int, set[str]] = {}
    for row in _rows(sample_roots["sail"], "clusters"):
        clusters.setdefault(row["cluster"], set()).add(row["id"])
    found = {frozenset(members) for members in clusters.values() if len(members) > 1}
    assert found == _true_clusters(truth)


def test_every_copy_names_the_document_that_stays(sample_roots: dict[str, Path]) -> None:
    root = sample_roots["sail"]
    rows = _rows(root, "clusters")
    kept = {row["id"]: row for row in rows if row["duplicate_of"] is None}
    assert set(kept) == {row["id"] for row in _rows(root, "canonical")}
    assert Counter(row["cluster"] for row in rows) == {
        row["cluster"]: row["cluster_size"] for row in kept.values()
    }
    for row in rows:
        if row["duplicate_of"]:
            assert kept[row["duplicate_of"]]["cluster"] == row["cluster"]
            assert row["duplicate_kind"] in ("exact_duplicate", "near_duplicate")


def test_personal_data_is_scrubbed_in_canonical_only(
    sample_roots: dict[str, Path], truth: list[dict]
) -> None:
    root = sample_roots["sail"]
    marked = {page["record_id"] for page in truth if "pii" in page["traits"]}
    rows = _rows(root, "canonical")
    scrubbed = {row["id"]: row for row in rows if any(row["pii"].values())}
    assert scrubbed
    assert set(scrubbed) <= marked
    before = {row["id"]: row["text"] for row in _rows(root, "judged")}
    assert all(before[id_] != row["text"] for id_, row in scrubbed.items())
    sums = {kind: sum(row["pii"][kind] for row in rows) for kind in PII_KINDS}
    assert sums["emails"] > 0
    assert report.funnel(root).pii == sums


def test_opt_outs_are_recorded(sample_roots: dict[str, Path], truth: list[dict]) -> None:
    rows = {
        (row["file_path"], row["record_offset"]): row
        for row in _rows(sample_roots["sail"], "documents")
    }
    for trait in ("noai", "tdm_reservation"):
        pages = [page for page in truth if trait in page["traits"]]
        assert pages
        assert all(rows[page["warc"], page["offset"]][trait] for page in pages)


def test_tokens_decode_to_the_canonical_texts(sample_roots: dict[str, Path]) -> None:
    root = sample_roots["sail"]
    listed = manifest.read(root / "shards")
    assert listed is not None
    known = tokenizer.load(root / "shards" / listed.extra.tokenizer.file)
    texts = {row["id"]: row["text"] for row in _rows(root, "canonical")}
    rows = _rows(root, "shards")
    assert len(rows) == len(texts)
    for row in rows:
        assert row["tokens"][0] == known.boundary
        assert row["token_count"] == len(row["tokens"])
        assert known.decode(row["tokens"][1:]) == texts[row["id"]]


def test_a_second_run_does_no_work(
    sample_roots: dict[str, Path],
    sample_recipe: Recipe,
    sample_inputs: tuple[str, ...],
    engines: Callable,
) -> None:
    root = sample_roots["sail"]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert pipeline.run(Job(sample_recipe, root, engines("sail"), sample_inputs)) == 0
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before


def test_nothing_but_datasets_is_left_in_a_root(sample_roots: dict[str, Path]) -> None:
    for root in sample_roots.values():
        for dataset in DATASETS:
            listed = manifest.read(root / dataset)
            assert listed is not None
            names = {file.name for file in listed.files} | {manifest.MANIFEST_FILE}
            if dataset == "shards":
                names |= set(companions(listed.files, listed.extra))
            assert {path.name for path in (root / dataset).iterdir()} == names
        assert not (root / ".work").exists() or not list((root / ".work").iterdir())


def test_real_pages_balance_and_give_both_engines_the_same_shards(
    shared: Path, tmp_path: Path, sample_recipe: Recipe, engines: Callable
) -> None:
    inputs = (str(shared / "crawl" / "REALWEB-small-*.warc.gz"),)
    written = []
    for name in ("sail", "spark"):
        root = tmp_path / name
        pipeline.run(Job(sample_recipe, root, engines(name), inputs))
        found = report.funnel(root)
        assert found.documents == 240
        assert found.records == sum(found.outcomes.values())
        written.append({p.name: p.read_bytes() for p in (root / "shards").glob("[!m]*")})
    assert written[0] == written[1]
    assert len(written[0]) >= 2 * 2 + 1  # rows and lengths of both splits, and the tokenizer
