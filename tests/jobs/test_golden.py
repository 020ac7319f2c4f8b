"""What datatrove 0.10.1's FineWeb pipeline decided for 4,917 real pages, and what we decide."""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow.parquet as pq
import pytest

from corpus import recipe
from corpus.clean.pii import IP_REPLACEMENT, Pii, find
from corpus.dedup import minhash
from corpus.dedup.minhash import MinHash
from corpus.recipe import Recipe
from corpus.text.extract_page import Extract
from jobs import extract, pipeline
from jobs import filter as filter_
from jobs.dedup import dedup
from jobs.engine.session import Engine
from jobs.engine.stage import Job

PROJECT = Path(__file__).parents[2]
KEPT = ("kept", "7_minhash")  # before deduplication
STEPS = {
    "1_url": "url",
    "2_lang": "language",
    "3_gopher_rep": "gopher_repetition",
    "4_gopher_qual": "gopher_quality",
    "5_c4": "c4",
    "6_fineweb_qual": "fineweb_quality",
}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, dict[str, str]]:
    with gzip.open(shared / "golden" / "datatrove-crawl-decisions.tsv.gz", "rt") as lines:
        return {row["id"]: row for row in csv.DictReader(lines, delimiter="\t")}


Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def inputs(shared: Path) -> tuple[str, ...]:
    return tuple(map(str, sorted((shared / "crawl").glob("REALWEB-public-*.warc.gz"))))


@pytest.fixture(scope="module")
def root(
    inputs: tuple[str, ...],
    engines: Callable[[str], Engine],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    fineweb = recipe.load(PROJECT / "recipes" / "fineweb.toml")
    stages = (extract.STAGE, filter_.STAGE, *pipeline.WITH["dedup"])
    pipeline.run(Job(fineweb, folder, engines("sail"), inputs), stages)
    return folder


def _read(root: Path, dataset: str, columns: list[str]) -> list[dict[str, Any]]:
    paths = (root / dataset).glob("*.parquet")
    tables = [pq.read_table(path, columns=columns or None) for path in paths]
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture(scope="module")
def ours(root: Path) -> Rows:
    rows = _read(root, "judged", ["id", "text", "rejected_by", "detail"])
    return {row["id"]: row for row in rows}


def test_every_page_has_a_row(ours: Rows, golden: Rows) -> None:
    assert len(ours) == 4917
    assert set(golden) <= set(ours)


def test_what_datatrove_keeps_is_kept(ours: Rows, golden: Rows) -> None:
    """And nothing else, but for what its URL lists reject, which the recipe does not name."""
    theirs = {page for page, row in golden.items() if row["stage"] in KEPT}
    kept = {page for page, row in ours.items() if row["rejected_by"] is None}
    assert theirs - kept == set()
    more = kept & set(golden) - theirs
    assert {golden[page]["stage"] for page in more} <= {"1_url"}
    assert len(theirs & kept) / len(theirs | kept & set(golden)) > 0.99
    assert len(kept - set(golden)) <= 10  # pages that datatrove lost without a word


# It names a control character (&#03;), for which trafilatura, and so datatrove, gives no text.
CONTROL_REFERENCE = "<urn:uuid:7b9d821a-830b-5f61-bf26-71eb705bd2c4>"


def test_the_page_that_datatrove_cannot_read_is_read(ours: Rows, golden: Rows) -> None:
    assert CONTROL_REFERENCE not in golden
    assert ours[CONTROL_REFERENCE]["rejected_by"] != "no_text"


def test_texts_are_the_same_where_both_keep(ours: Rows, golden: Rows) -> None:
    both = [
        page
        for page, row in golden.items()
        if row["stage"] in KEPT and ours[page]["rejected_by"] is None
    ]
    same = sum(
        hashlib.sha256(ours[page]["text"].encode()).hexdigest()[:16]
        == golden[page]["sha256_16_before_pii"]
        for page in both
    )
    assert same / len(both) > 0.99


def test_personal_data_is_what_datatrove_replaces(ours: Rows, golden: Rows) -> None:
    """But for numbers of sections that it takes for IP addresses, on three pages."""
    changed, other = 0, []
    for page, row in golden.items():
        text = ours[page]["text"]
        if row["stage"] != "kept" or not text or _digest(text) != row["sha256_16_before_pii"]:
            continue
        changed += row["sha256_16"] != row["sha256_16_before_pii"]
        if row["sha256_16"] not in {_digest(_replaced(text, turn)) for turn in (0, 1)}:
            other.append(page)
    assert changed > 30
    assert len(other) <= 3, other


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _replaced(text: str, turn: int) -> str:
    """`text` with our finds replaced as by datatrove, which has two e-mail addresses in turn."""
    emails = itertools.cycle(("email@example.com", "firstname.lastname@example.org"))
    new = {"emails": itertools.islice(emails, turn, None), "ips": itertools.repeat(IP_REPLACEMENT)}
    parts, done = [], 0
    for piece in find(text, Pii()):
        parts += [text[done : piece.start], next(new[piece.kind])]
        done = piece.end
    return "".join([*parts, text[done:]])


def test_pages_are_rejected_at_the_same_step(ours: Rows, golden: Rows) -> None:
    """But for URL lists, and pages that the look calls foreign before another rule is asked."""
    other = {
        page: (row["stage"], ours[page]["rejected_by"])
        for page, row in golden.items()
        if row["stage"] not in (*KEPT, "1_url")
        and ours[page]["rejected_by"].split(".")[0] != STEPS[row["stage"]]
        and not (row["stage"] == "2_lang" and ours[page]["rejected_by"].startswith("look."))
    }
    foreign = {page for page, (_, reason) in other.items() if reason.startswith("look.")}
    assert len(foreign) <= 20
    assert len(other) - len(foreign) <= 5, other


# Below this similarity a pair is missed by one system in twenty, whatever it does right.
MISSABLE = 0.81


@pytest.fixture(scope="module")
def shingles(ours: Rows) -> dict[str, Any]:
    kept = {page: row["text"] for page, row in ours.items() if row["rejected_by"] is None}
    return {page: minhash.shingle_hashes(text, MinHash()) for page, text in kept.items()}


@pytest.fixture(scope="module")
def clusters(root: Path) -> list[set[str]]:
    found: dict[int, set[str]] = {}
    for row in _read(root, "clusters", ["id", "cluster"]):
        found.setdefault(row["cluster"], set()).add(row["id"])
    return list(found.values())


def test_what_datatrove_drops_as_near_duplicate_has_a_copy_of_ours(
    golden: Rows, shingles: dict[str, Any], clusters: list[set[str]]
) -> None:
    """Or is so little like any other that MinHash may miss it."""
    assert MinHash().match_probability(MISSABLE) < 0.95
    dropped = {page for page, row in golden.items() if row["stage"] == "7_minhash"}
    assert len(dropped) == 33
    alone = dropped - set().union(*(members for members in clusters if len(members) > 1))
    for page in alone:
        others = (minhash.jaccard(shingles[page], shingles[o]) for o in shingles if o != page)
        assert max(others) < MISSABLE
    assert len(alone) <= 2


def test_what_we_drop_as_duplicate_datatrove_drops_but_for_pairs_that_may_be_missed(
    golden: Rows, shingles: dict[str, Any], clusters: list[set[str]]
) -> None:
    """Of each cluster it keeps no more than one document of those that are surely alike."""
    several = 0
    for members in clusters:
        known = [page for page in members if golden.get(page, {}).get("stage") in KEPT]
        alike = nx.Graph()
        alike.add_nodes_from(known)
        alike.add_edges_from(
            (a, b)
            for a, b in itertools.combinations(known, 2)
            if minhash.jaccard(shingles[a], shingles[b]) >= MISSABLE
        )
        dropped = sum(golden[page]["stage"] == "7_minhash" for page in known)
        assert len(known) - nx.number_connected_components(alike) <= dropped
        several += len(known) > 1
    assert several >= 20


def test_clusters_of_the_crawl_do_not_depend_on_files_order_or_path(
    inputs: tuple[str, ...],
    engines: Callable[[str], Engine],
    judged: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All pages, in all languages, by resiliparse; 1, 7 and 64 files, one process or the engine."""
    everything = Recipe(name="all", filters=(), extract=Extract(engine="resiliparse"))
    engine, source = engines("sail"), tmp_path / "source"
    pipeline.run(Job(everything, source, engine, inputs), (extract.STAGE,))
    columns = ["text", "id", "url", "date", "file_path", "record_offset", "payload_digest"]
    rows = [row for row in _read(source, "documents", columns) if row["text"]]
    assert len(rows) > 4500
    found = []
    for files, edges in ((1, 10**9), (7, 10**9), (64, 0)):
        folder = tmp_path / str(files)
        np.random.default_rng(files).shuffle(rows)  # type: ignore[arg-type]
        settings = judged(folder, rows, files)
        monkeypatch.setattr(dedup, "MAX_LOCAL_EDGES", edges)
        pipeline.run(Job(settings, folder, engine), pipeline.WITH["dedup"])
        listed = _read(folder, "clusters", [])
        found.append({(row["node"], row["cluster"], row["duplicate_node"]) for row in listed})
    assert len(found[0]) == len(rows)
    assert len({cluster for _, cluster, _ in found[0]}) < len(rows) - 100
    assert found[0] == found[1] == found[2]
