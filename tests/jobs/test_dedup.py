"""Duplicates equal an exact oracle, and do not depend on partitions, order or engine."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.clean.pii import Pii
from corpus.dedup import exact, minhash
from corpus.dedup.exact import Exact
from corpus.dedup.line_hashes import Passages
from corpus.dedup.minhash import MinHash
from corpus.dedup.precision_recall import Verify
from corpus.dedup.survivor import Survivor
from corpus.recipe import Recipe
from jobs import pipeline
from jobs.dedup import dedup, links
from jobs.engine.session import Engine
from jobs.engine.stage import Job, UnbalancedError
from jobs.reports import report
from schemas import manifest
from schemas.errors import UserError

Row = dict[str, Any]
Judged = Callable[..., Recipe]
# Letters only: normalising takes all numbers for one.
WORDS = np.array(["".join(letters) for letters in itertools.product("abcdefgh", repeat=4)])


def _texts(kinds: int = 20, seed: int = 11) -> list[str]:
    """Texts of 120 words: some alone, the rest copies with ever more words changed."""
    random = np.random.default_rng(seed)
    texts = []
    for number in range(kinds):
        original = random.choice(WORDS, 120)
        texts.append(" ".join(original))
        for changed in range(0, 2 * (number % 5), 2):
            copy = original.copy()
            copy[random.integers(0, 120, changed)] = "changed"
            texts.append(" ".join(copy))
    return texts


def _rows(texts: list[str]) -> list[Row]:
    """Documents with dates in reverse order, and a score that is neither."""
    dates = [
        f"2024-01-01T{23 - i // 3600:02}:{59 - i // 60 % 60:02}:00Z" for i in range(len(texts))
    ]
    scores = np.random.default_rng(4).random(len(texts)).round(3).tolist()
    return [
        {"text": text, "date": date, "language_score": score}
        for text, date, score in zip(texts, dates, scores, strict=True)
    ]


def _dedup(engine: Engine, root: Path, settings: Recipe, *against: Path) -> list[Row]:
    """Rows of `clusters`, by id."""
    job = Job(settings, root, engine, against=tuple(against))
    pipeline.run(job, pipeline.WITH["dedup"])
    return sorted(_read(root, "clusters"), key=lambda row: (row["id"], row["record_offset"]))


def _read(root: Path, dataset: str) -> list[Row]:
    listed = manifest.read(root / dataset)
    assert listed
    return [row for path in listed.paths(root / dataset) for row in pq.read_table(path).to_pylist()]


def _oracle(texts: list[str], settings: MinHash) -> set[frozenset[int]]:
    """Components over all pairs that share a band or the text, by document number."""
    found = minhash.fingerprints(texts, settings)
    graph = nx.Graph()
    graph.add_nodes_from(range(len(texts)))
    for i, j in itertools.combinations(range(len(texts)), 2):
        shares = found.num_shingles[i] and (found.bands[i] == found.bands[j]).any()
        if shares or found.text_hashes[i] == found.text_hashes[j]:
            graph.add_edge(i, j)
    return set(map(frozenset, nx.connected_components(graph)))


def _partition(rows: list[Row]) -> set[frozenset[int]]:
    groups: dict[int, set[int]] = {}
    for row in rows:
        groups.setdefault(row["cluster"], set()).add(row["record_offset"])
    return set(map(frozenset, groups.values()))


def test_clusters_equal_the_oracle_for_any_files_order_and_either_path(
    engine: Engine, tmp_path: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = _texts()
    expected = _oracle(texts, MinHash())
    assert 20 <= len(expected) < len(texts)
    rows = [row | {"id": f"id-{i:04}", "record_offset": i, "url": f"http://a.example/{i}"}
            for i, row in enumerate(_rows(texts))]  # fmt: skip
    results = []
    for files, edges, bands in ((1, 10**9, 10**9), (7, 10**9, 400), (7, 0, 10**9)):
        root = tmp_path / f"{files}-{edges}"
        settings = judged(root, rows, files)
        monkeypatch.setattr(dedup, "MAX_LOCAL_EDGES", edges)
        monkeypatch.setattr(links, "MAX_MEMBERSHIPS", bands)
        results.append(_dedup(engine, root, settings))
        rows = [rows[i] for i in np.random.default_rng(files).permutation(len(rows))]
    assert _partition(results[0]) == expected
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("keep", ["longest", "earliest", "latest", "first", "highest", "lowest"])
def test_the_survivor_is_the_one_that_the_policy_names(
    engines: Callable[[str], Engine], tmp_path: Path, judged: Judged, keep: str
) -> None:
    rows = _rows(_texts())
    rows[5]["date"] = None
    rows[9]["language_score"] = None
    rows[12]["language_score"] = float("nan")
    signal = "language_score" if keep in ("highest", "lowest") else ""
    settings = judged(tmp_path, rows, survivor=Survivor(keep, signal))  # type: ignore[arg-type]
    found = _dedup(engines("sail"), tmp_path, settings)

    def order(row: Row) -> tuple[Any, ...]:
        given = rows[row["record_offset"]]
        score = given["language_score"]
        known = score is not None and score == score
        date = given["date"] or "9999"
        backwards = [-ord(c) for c in given["date"]] if given["date"] else [1]
        return {
            "longest": (-len(given["text"]), date, row["node"]),
            "earliest": (date, row["node"]),
            "latest": (backwards, row["node"]),
            "first": (row["id"],),
            "highest": (not known, -score if known else 0, date, row["node"]),
            "lowest": (not known, score if known else 0, date, row["node"]),
        }[keep]

    sizes = Counter(row["cluster"] for row in found)
    for row in found:
        members = [other for other in found if other["cluster"] == row["cluster"]]
        survivor = min(members, key=order)
        assert row["cluster_size"] == sizes[row["cluster"]]
        stays = row["id"] == survivor["id"]
        assert row["duplicate_of"] == (None if stays else survivor["id"])
        assert row["duplicate_node"] == (None if stays else survivor["node"])
        assert (row["duplicate_kind"] is None) == stays
    kept = {row["id"] for row in found if row["duplicate_kind"] is None}
    canonical = _read(tmp_path, "canonical")
    assert {row["id"] for row in canonical} == kept
    assert all(row["cluster_size"] == sizes[row["cluster"]] for row in canonical)


def test_a_signal_that_is_not_there_is_refused_with_those_that_are(
    engines: Callable[[str], Engine], tmp_path: Path, judged: Judged
) -> None:
    settings = judged(tmp_path, _rows(_texts(2)), survivor=Survivor("highest", "beauty"))
    with pytest.raises(UserError, match=r"survivor.signal = 'beauty': .*language_score"):
        _dedup(engines("sail"), tmp_path, settings)


def _exact_oracle(rows: list[Row], by: tuple[str, ...]) -> dict[int, str]:
    """Document number -> kind, one key after the other, the longest text going on."""
    alive, kinds = list(range(len(rows))), dict[int, str]()
    nodes = exact.nodes(pa.array(["a.warc.gz"] * len(rows)), pa.array(alive))
    for key, kind in (("text", "exact_duplicate"), ("url", "url_duplicate"),
                      ("payload", "payload_duplicate")):  # fmt: skip
        if key not in by:
            continue
        groups: dict[Any, list[int]] = {}
        for i in alive:
            column = {"text": "text", "url": "url", "payload": "payload_digest"}[key]
            if rows[i].get(column) is not None:
                groups.setdefault(rows[i][column], []).append(i)
        for members in groups.values():
            stays = min(members, key=lambda i: (-len(rows[i]["text"]), nodes[i]))
            kinds |= {i: kind for i in members if i != stays}
        alive = [i for i in alive if i not in kinds]
    return kinds


@pytest.mark.parametrize("by", [("text", "url", "payload"), ("url",), ("payload", "text"), ()])
def test_exact_duplicates_go_first_by_the_keys_of_the_recipe(
    engine: Engine, tmp_path: Path, judged: Judged, by: tuple[str, ...]
) -> None:
    random = np.random.default_rng(7)
    texts = ["".join(f"{w} " for w in random.choice(WORDS, n)) for n in range(3, 40)]
    rows = [
        {
            "text": texts[random.integers(len(texts))],
            "url": f"http://site.example/{random.integers(40)}",
            "payload_digest": f"sha1:{random.integers(30)}" if random.random() < 0.5 else None,
            "date": None,
        }
        for _ in range(80)
    ]
    rows[3]["url"] = None
    rows[7]["url"] = f"{rows[8]['url']}#part"
    order = {"text": 0, "url": 1, "payload": 2}
    in_order = tuple(sorted(by, key=lambda key: order[key]))
    settings = judged(tmp_path, rows, exact=Exact(in_order))  # type: ignore[arg-type]
    found = _dedup(engine, tmp_path, settings)
    rows[7]["url"] = rows[8]["url"]  # a fragment is no part of the page's address
    kinds = {row["record_offset"]: row["duplicate_kind"] for row in found}
    expected = _exact_oracle(rows, in_order)
    assert {i: k for i, k in kinds.items() if k not in (None, "near_duplicate")} == expected
    for row in found:  # who is dropped leads to one who stays, in the same cluster
        if row["duplicate_kind"]:
            (stays,) = [r for r in found if r["node"] == row["duplicate_node"]]
            assert stays["duplicate_kind"] is None
            assert stays["cluster"] == row["cluster"]
            assert stays["id"] == row["duplicate_of"]


def test_a_band_that_many_share_costs_one_edge_a_document(
    engine: Engine, tmp_path: Path, judged: Judged
) -> None:
    text = " ".join(WORDS[:60])
    rows = [{"text": f"{text} {word}"} for word in WORDS[100:400]]
    _dedup(engine, tmp_path, judged(tmp_path, rows))
    listed = manifest.read(tmp_path / "clusters")
    assert listed
    # 14 bands, one hub each, and an edge that several bands give counts once.
    assert 299 <= listed.extra.links["near"] < 14 * 300
    assert listed.counts == {"kept": 1, "near_duplicate": 299}


def test_two_documents_on_one_node_are_refused_and_repeated_ids_counted(
    engines: Callable[[str], Engine],
    tmp_path: Path,
    judged: Judged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [row | {"id": f"id-{i % 3}"} for i, row in enumerate(_rows(_texts(3)))]
    root = tmp_path / "ids"
    found = _dedup(engines("sail"), root, judged(root, rows))
    assert report.funnel(root).repeated_ids == len(rows) - 3
    assert len({row["node"] for row in found}) == len(rows)
    root = tmp_path / "nodes"
    same = [rows[0] | {"record_offset": 5}, rows[1] | {"record_offset": 5}]
    with pytest.raises(UnbalancedError, match="distinct nodes"):
        _dedup(engines("sail"), root, judged(root, same))


def test_poor_texts_pass_and_only_equal_ones_are_duplicates(
    engine: Engine, tmp_path: Path, judged: Judged
) -> None:
    """Nothing, one word, symbols, too few words for a shingle; one word of ten megabytes."""
    texts = ["", "", "word", "Word!", "!!!", "???", "one two three four", "a" * 10_000_000,
             "same " * 2_000_000, "same same same same same"]  # fmt: skip
    found = _dedup(engine, tmp_path, judged(tmp_path, [{"text": text} for text in texts]))
    kinds = [row["duplicate_kind"] for row in found]
    assert Counter(kinds) == {None: 7, "exact_duplicate": 2, "near_duplicate": 1}
    assert kinds[9] == "near_duplicate"  # one shingle, as the endless text has
    assert found[9]["duplicate_of"] == "id-0008"


def test_nothing_at_all_gives_empty_datasets(
    engines: Callable[[str], Engine], tmp_path: Path, judged: Judged
) -> None:
    assert _dedup(engines("sail"), tmp_path, judged(tmp_path, [])) == []
    assert _read(tmp_path, "canonical") == []


# Against earlier roots


def _dumps(tmp_path: Path, judged: Judged, parts: int = 3) -> list[tuple[Path, Recipe, list[str]]]:
    """One collection of texts dealt to several dumps, offsets and ids beginning anew in each."""
    texts = _texts(30, seed=3)
    order = np.random.default_rng(8).permutation(len(texts))
    dumps = []
    for number in range(parts):
        mine = [texts[i] for i in order[number::parts]]
        root = tmp_path / f"dump-{number}"
        rows = [row | {"file_path": f"dump-{number}.warc.gz"} for row in _rows(mine)]
        dumps.append((root, judged(root, rows), mine))
    return dumps


def test_what_earlier_dumps_hold_is_dropped_and_named(
    engine: Engine, tmp_path: Path, judged: Judged
) -> None:
    """As often as the oracle over all dumps says, and their own rows are left as they were."""
    dumps = _dumps(tmp_path, judged)
    roots = [root for root, _, _ in dumps]
    survivors: dict[Path, dict[str, Row]] = {}
    for number, (root, settings, texts) in enumerate(dumps):
        before = [_read(earlier, "clusters") for earlier in roots[:number]]
        found = _dedup(engine, root, settings, *roots[:number])
        assert before == [_read(earlier, "clusters") for earlier in roots[:number]]
        survivors[root] = {row["id"]: row for row in found if row["duplicate_kind"] is None}
        earlier_texts = [text for _, _, mine in dumps[:number] for text in mine]
        _check_against_oracle(texts, earlier_texts, found)
        for row in found:
            if row["duplicate_root"]:
                named = survivors[Path(row["duplicate_root"])][row["duplicate_of"]]
                assert named["node"] == row["duplicate_node"]
    assert report.funnel(roots[-1]).duplicates_by_kind["earlier_duplicate"] > 0


def _check_against_oracle(texts: list[str], earlier: list[str], found: list[Row]) -> None:
    """A component of this dump is dropped whole iff one of its texts shares a band with earlier."""
    mine, theirs = (minhash.fingerprints(side, MinHash()) for side in (texts, earlier))
    held = {
        i
        for i in range(len(texts))
        for j in range(len(earlier))
        if (mine.bands[i] == theirs.bands[j]).any() or mine.text_hashes[i] == theirs.text_hashes[j]
    }
    assert _partition(found) == _oracle(texts, MinHash())
    for part in _partition(found):
        rows = [row for row in found if row["record_offset"] in part]
        kinds = Counter(row["duplicate_kind"] for row in rows)
        assert kinds["earlier_duplicate"] == (1 if part & held else 0)
        assert kinds[None] == (0 if part & held else 1)
        assert all((row["duplicate_root"] is not None) == bool(part & held) for row in rows
                   if row["duplicate_kind"])  # fmt: skip


def test_another_set_of_earlier_dumps_is_another_input(
    engines: Callable[[str], Engine], tmp_path: Path, judged: Judged
) -> None:
    (first, one, _), (second, two, _) = _dumps(tmp_path, judged, 2)
    engine = engines("sail")
    _dedup(engine, first, one)
    _dedup(engine, second, two)
    bands = (second / "bands" / "manifest.json").read_bytes()
    alone = Job(two, second, engine)
    joint = Job(two, second, engine, against=(first,))
    assert pipeline.run(alone, pipeline.WITH["dedup"]) == 0
    assert pipeline.run(joint, pipeline.WITH["dedup"]) == 1  # clusters alone, no band
    assert pipeline.run(joint, pipeline.WITH["dedup"]) == 0
    assert (second / "bands" / "manifest.json").read_bytes() == bands


def test_earlier_roots_that_cannot_be_compared_are_refused(
    engines: Callable[[str], Engine], tmp_path: Path, judged: Judged
) -> None:
    (first, one, _), (second, two, _) = _dumps(tmp_path, judged, 2)
    engine = engines("sail")
    with pytest.raises(UserError, match=r"dump-0: no bands were committed .*run gristmill dedup"):
        _dedup(engine, second, two, first)
    _dedup(engine, first, replace(one, minhash=MinHash(bands=20, rows=5)))
    with pytest.raises(UserError, match=r"bands = 20 there, 14 here, rows = 5 there, 8 here"):
        _dedup(engine, second, two, first)
    with pytest.raises(UserError, match="is the --root itself"):
        _dedup(engine, second, two, second)


# Verification and the estimate


def _jaccards(texts: list[str]) -> dict[tuple[int, int], float]:
    """Exact similarity of all pairs, by Python's own sets of words."""
    sets = []
    for text in texts:
        words = text.split()
        sets.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    return {
        (i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j])
        for i, j in itertools.combinations(range(len(texts)), 2)
    }


def test_verified_links_are_as_similar_as_the_recipe_asks(
    engine: Engine, tmp_path: Path, judged: Judged
) -> None:
    """Few rows a band link much; of that only components of similar pairs are left."""
    texts = _texts()
    loose = MinHash(bands=40, rows=2)
    minimum = 0.6
    settings = judged(tmp_path, _rows(texts), minhash=loose, verify=Verify(minimum))
    found = _dedup(engine, tmp_path, settings)
    similar = nx.Graph()
    similar.add_nodes_from(range(len(texts)))
    similar.add_edges_from(pair for pair, value in _jaccards(texts).items() if value >= minimum)
    assert _partition(found) == set(map(frozenset, nx.connected_components(similar)))
    assert _partition(found) != _oracle(texts, loose)
    said = report.funnel(tmp_path).estimate
    assert said["precision"] == 1.0
    assert said["threshold"] == minimum


def test_pairs_with_earlier_dumps_are_verified_too(
    engines: Callable[[str], Engine], tmp_path: Path, judged: Judged
) -> None:
    engine, minimum = engines("sail"), 0.75
    dumps = _dumps(tmp_path, judged, 2)
    loose, verify = MinHash(bands=40, rows=2), Verify(minimum)
    (first, one, earlier), (second, two, texts) = dumps
    _dedup(engine, first, replace(one, minhash=loose, verify=verify))
    found = _dedup(engine, second, replace(two, minhash=loose, verify=verify), first)
    values = _jaccards([*texts, *earlier])
    for row in found:
        if row["duplicate_root"] is None and row["cluster_size"] == 1:
            i = row["record_offset"]
            pairs = [values[i, len(texts) + j] for j in range(len(earlier))]
            assert max(pairs) < 1.0
        if row["duplicate_kind"] == "earlier_duplicate" and row["cluster_size"] == 1:
            i = row["record_offset"]
            assert max(values[i, len(texts) + j] for j in range(len(earlier))) >= minimum


def test_the_estimate_is_that_of_the_pairs_linked(
    engine: Engine, tmp_path: Path, judged: Judged
) -> None:
    """A sample as large as all there is: the shares can be counted."""
    texts = _texts()
    settings = judged(tmp_path, _rows(texts))
    found = _dedup(engine, tmp_path, settings)
    said = report.funnel(tmp_path).estimate
    values = _jaccards(texts)
    number = {row["node"]: row["record_offset"] for row in found}
    dropped = [
        values[tuple(sorted((row["record_offset"], number[row["duplicate_node"]])))]
        for row in found
        if row["duplicate_kind"] == "near_duplicate"
    ]
    threshold = (1 / 14) ** (1 / 8)
    assert said["num_survivors"] == len(dropped) > 10
    assert said["survivors"] == pytest.approx(np.mean([v >= threshold for v in dropped]), abs=1e-4)
    assert said["precision_low"] <= said["precision"] <= said["precision_high"]
    assert 0.5 < said["recall"] <= 1


def test_without_a_sample_nothing_is_estimated(
    engines: Callable[[str], Engine], tmp_path: Path, judged: Judged
) -> None:
    settings = judged(tmp_path, _rows(_texts()), verify=Verify(sample_pairs=0))
    _dedup(engines("sail"), tmp_path, settings)
    assert report.funnel(tmp_path).estimate["num_pairs"] == 0


# Passages, and what is done again


def test_passages_that_several_documents_hold_are_cut_out_of_all_but_the_first(
    engine: Engine, tmp_path: Path, judged: Judged
) -> None:
    random = np.random.default_rng(1)
    banner = " ".join(random.choice(WORDS, 12))
    own = [" ".join(random.choice(WORDS, 60 + i)) for i in range(6)]
    texts = [f"{text}\n{banner}" for text in own] + [f"{banner}\nshort"]
    passages = Passages(unit="line", min_words=10, min_words_left=50)
    settings = judged(tmp_path, [{"text": text} for text in texts], passages=passages)
    found = _dedup(engine, tmp_path, settings)
    kinds = [row["duplicate_kind"] for row in found]
    assert kinds == [None] * 6 + ["duplicate_passages"]
    stays = {row["record_offset"]: row["text"] for row in _read(tmp_path, "canonical")}
    assert [banner in stays[i].split("\n") for i in range(6)] == [False] * 5 + [True]
    assert [stays[i] for i in range(5)] == own[:5]
    assert report.funnel(tmp_path).passages["dropped"] == 1


def test_other_personal_data_makes_no_band_and_no_cluster_again(
    engines: Callable[[str], Engine], tmp_path: Path, judged: Judged
) -> None:
    settings = judged(tmp_path, _rows(_texts(4)))
    engine = engines("sail")
    _dedup(engine, tmp_path, settings)
    bands = (tmp_path / "bands" / "manifest.json").read_bytes()
    job = Job(replace(settings, pii=Pii(emails="keep")), tmp_path, engine, overwrite=True)
    assert pipeline.run(job, pipeline.WITH["dedup"]) == 1
    assert (tmp_path / "bands" / "manifest.json").read_bytes() == bands
