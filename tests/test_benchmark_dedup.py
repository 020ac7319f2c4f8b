"""The deduplication benchmark's made-up texts hold what they claim, and its scores are exact."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.dedup.word_hashes import normalise

PROJECT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    """A module of the benchmarks, which import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROJECT / "benchmarks")
        return importlib.import_module(name)


NAMES = ("dedup_parts.synthetic", "dedup_parts.runs", "dedup_parts.real", "whole_dump", "curve")
synthetic, runs, real, paper, curve = map(load, NAMES)
LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), min_size=1, max_size=30)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split(" ")
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def all_texts(corpus: object) -> list[str]:
    return list(synthetic.texts(corpus, 0, len(corpus.labels)).to_pylist())


@pytest.mark.parametrize("similarity", synthetic.SIMILARITIES)
def test_every_planted_pair_has_exactly_the_similarity_it_claims(similarity: float) -> None:
    texts = all_texts(synthetic.Pairs(similarity, 60))
    assert {jaccard(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)} == {similarity}
    assert not set.intersection(*(shingles(text) for text in texts[::2]))


def test_a_similarity_that_cannot_be_planted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"similarity = 0\.75: must be one of 0\.5, 0\.6"):
        synthetic.Pairs(0.75, 10)


def test_a_member_is_as_similar_to_the_original_as_its_changes_say() -> None:
    corpus = synthetic.Planted(400, 40)
    texts, changes, labels = all_texts(corpus), corpus.changes, corpus.labels
    originals = {labels[i]: texts[i] for i in np.flatnonzero(changes == 0)}
    assert set(changes) == set(range(synthetic.MAX_CHANGES + 1))
    for text, label, changed in zip(texts, labels, changes, strict=True):
        same, other = 296 - 5 * changed, 296 + 5 * changed
        assert jaccard(text, originals[label]) == same / other


def test_cluster_sizes_are_zipfs() -> None:
    sizes = Counter(Counter(synthetic.Planted(1000, 50).labels.tolist()).values())
    expected = Counter(50 // rank for rank in range(1, 26))
    assert {size: n for size, n in sizes.items() if size > 1} == expected
    assert sum(size * n for size, n in sizes.items()) == 1000


def test_near_identical_texts_differ_in_a_word_and_no_two_are_equal() -> None:
    texts = all_texts(synthetic.NearIdentical(700))
    assert len(set(texts)) == 700
    words = [text.split(" ") for text in texts]
    differing = [sum(a != b for a, b in zip(words[0], other, strict=True)) for other in words[1:]]
    assert set(differing) <= {1, 2}


def test_distinct_texts_have_no_shingle_in_common() -> None:
    counted = Counter(s for text in all_texts(synthetic.Distinct(300)) for s in shingles(text))
    assert set(counted.values()) == {1}


def test_words_are_what_normalising_leaves_alone() -> None:
    words = np.unique(synthetic._letters(), axis=0)
    assert len(words) == synthetic.VOCABULARY
    text = all_texts(synthetic.Distinct(1))[0]
    assert normalise(text) == text


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: synthetic.Planted(90, 20, seed),
        lambda seed: synthetic.NearIdentical(90, seed),
        lambda seed: synthetic.Distinct(90, seed),
        lambda seed: synthetic.Pairs(0.8, 45, seed),
    ],
)
def test_texts_follow_from_the_seed_alone_whatever_the_batch(make) -> None:  # type: ignore[no-untyped-def]
    whole = all_texts(make(3))
    parts = [synthetic.texts(make(3), start, start + 7).to_pylist() for start in range(0, 90, 7)]
    assert list(itertools.chain(*parts)) == whole
    assert whole != all_texts(make(4))


@given(LABELS)
def test_agreement_equals_counting_document_by_document(labels: list[tuple[int, int]]) -> None:
    planted, found = (np.array(column, dtype=np.int64) for column in zip(*labels, strict=True))
    sizes = Counter(planted.tolist())
    together = Counter(labels)
    several = [p for p, size in sizes.items() if size > 1]
    assert runs.agreement(planted, found) == runs.Agreement(
        sum(sizes[p] for p in several),
        sum(max(n for (q, _), n in together.items() if q == p) for p in several),
        sum(len({q for q, f in labels if f == cluster}) > 1 for cluster in set(found.tolist())),
    )


@given(st.lists(st.integers(-2, 2), max_size=12))
def test_pairs_are_all_that_carry_one_label(labels: list[int]) -> None:
    both = itertools.combinations(range(len(labels)), 2)
    expected = {(a, b) for a, b in both if labels[a] == labels[b]}
    assert real._pairs(np.array(labels, dtype=np.int64)) == expected


def test_texts_are_topped_up_with_copies_whose_lines_are_reordered() -> None:
    pages = ["a\nb\nc\nd", "alone"]
    found = real.topped_up(pages, 7)
    assert found[:2] == pages
    assert len(found) == 7
    for number, text in enumerate(found):
        assert sorted(text.split("\n")) == pages[number % 2].split("\n")
    assert found == real.topped_up(pages, 7)
    assert len({text for text in found if text != "alone"}) > 1
    assert real.topped_up(pages, 1) == pages[:1]


def test_a_run_on_planted_clusters_finds_them(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "benchmarks" / "dedup.py"), "scale"]
    command += ["--documents", "200", "--work", str(tmp_path / "work")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    root = load("dedup_parts.judged_root").Root(tmp_path / "work" / "planted")
    planted = bench_planted(200)
    found = runs.agreement(planted, root.clusters())
    assert found.num_mixed == 0
    assert found.num_together >= 0.9 * found.num_planted > 0
    assert f"{found.num_together:,} of {found.num_planted:,}" in run.stdout
    assert len(root.kept()) == len(set(root.clusters().tolist()))


def bench_planted(documents: int) -> np.ndarray:
    return synthetic.Planted(documents, documents // 20).labels


def test_twice_the_documents_cost_twice_and_a_round_more() -> None:
    constants = paper.Constants()
    one, two = (paper.Estimate(n, constants) for n in (1e9, 2e9))
    assert two.core_hours == pytest.approx(2 * one.core_hours)
    assert two.shuffled == pytest.approx(2 * one.shuffled) == sum(two.shuffles.values())
    assert two.rounds == one.rounds + 1
    assert paper.Estimate(1000, constants).rounds == 0


def test_the_guide_shows_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["whole_dump.py"])
    paper.main()
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    path = PROJECT / "docs" / "explanation" / "output" / "whole-dump.txt"
    shown = [line.removeprefix("    ") for line in path.read_text(encoding="utf-8").splitlines()]
    first = shown.index(printed[0])
    assert shown[first : first + len(printed)] == printed


def test_the_picture_of_the_guide_is_the_one_that_the_command_draws() -> None:
    drawn = (PROJECT / "docs" / "curve.svg").read_text(encoding="utf-8")
    assert drawn == curve.svg()
