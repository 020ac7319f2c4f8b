"""What the benchmarks compute of texts and gold, against values worked out by hand."""

from __future__ import annotations

import gzip
import importlib
import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.text.prescreen import LookSignals

PROJECT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    """A module of the benchmarks, which import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROJECT / "benchmarks")
        return importlib.import_module(name)


gold, quality, cascade = map(load, ("common.gold", "extraction_quality", "cascade"))
TEXTS = st.text(alphabet="ab \n中", max_size=20)


def test_f1_counts_a_word_as_often_as_it_occurs() -> None:
    found = gold.agreement("the cat the cat sat", "The cat sat on the mat")
    assert found.precision == 4 / 5  # one cat too many
    assert found.recall == 4 / 6  # on, mat
    assert found.f1 == pytest.approx(2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6))


def test_a_character_of_a_script_without_spaces_is_a_word() -> None:
    assert gold.words("北京9日 (记者 Li's)") == Counter(
        ["北", "京", "9", "日", "记", "者", "li", "s"]
    )


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [("", "", (1, 1, 1)), ("", "a", (0, 0, 0)), ("a", "", (0, 0, 0)), ("a", "b", (0, 0, 0))],
)
def test_nothing_agrees_with_nothing_only(
    text: str, wanted: str, expected: tuple[float, float, float]
) -> None:
    assert gold.agreement(text, wanted) == gold.Agreement(*expected)


@given(TEXTS, TEXTS)
def test_precision_is_the_recall_of_the_other_way_round(one: str, other: str) -> None:
    there, back = gold.agreement(one, other), gold.agreement(other, one)
    assert (there.precision, there.recall, there.f1) == (back.recall, back.precision, back.f1)
    assert (there.f1 == 1) == (gold.words(one) == gold.words(other))


@given(TEXTS, TEXTS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(one: str, other: str) -> None:
    found = gold.agreement(one, other)
    both = found.precision + found.recall
    assert found.f1 == pytest.approx(2 * found.precision * found.recall / both if both else 0)


def test_a_snippet_is_found_across_lines() -> None:
    assert gold.num_found(["two  words", "no words", "A"], "Here are two\nwords.") == 1


def test_dates_are_no_gold_of_a_text(tmp_path: Path) -> None:
    date = {"payload_sha1": "1", "source": "s", "kind": "date", "date": "2020-01-01"}
    text = {"payload_sha1": "1", "source": "s", "kind": "fulltext", "language": "Greek"}
    snippets = {"payload_sha1": "2", "source": "t", "kind": "snippets", "with": ["a"]}
    rows = [{**text, "text": "x"}, date, {**snippets, "without": ["b", "c"]}]
    (tmp_path / "gold.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert gold.read_gold(tmp_path / "gold.gz") == {
        "1": gold.Gold("s", "Greek", "x", (), ()),
        "2": gold.Gold("t", "", None, ("a",), ("b", "c")),
    }


def answers_to(texts: dict[str, str | None]) -> list[object]:
    extractors = {name: lambda html, text=text: (text, 0.5) for name, text in texts.items()}
    known = gold.Gold("s", "", "one two", ("one", "two", "three"), ("menu", "cookies"))
    return list(quality.ask(extractors, gold.Page("u", "1", "<p>"), known))


def test_snippets_give_the_share_found_and_the_share_avoided() -> None:
    full = quality.score(answers_to({"e": "one two menu"}))
    assert (full.wanted_found, full.unwanted_avoided) == (2 / 3, 1 / 2)
    assert (full.precision, full.recall, full.cpu_ms) == (2 / 3, 1, 500)


def test_a_refused_page_counts_as_an_empty_text_and_is_not_compared() -> None:
    answers = answers_to({"trafilatura": None, "trafilatura-plain": "one"})
    assert quality.score(answers[:1]).recall == 0
    assert quality.num_differing(answers) == (0, 0)


def test_a_different_text_is_counted() -> None:
    same = answers_to({"trafilatura": "one", "trafilatura-plain": "one"})
    other = answers_to({"trafilatura": "one", "trafilatura-plain": "one "})
    assert quality.num_differing([*same, *other]) == (1, 2)


def trial(url: str, score: float, passage_chars: int, kept: bool) -> object:
    return cascade.Trial(
        url,
        LookSignals(500, "en", score, passage_chars),
        score_seconds=1,
        passages_seconds=2,
        extract_seconds=10,
        kept=kept,
        agreement=gold.Agreement(1, 1, 1) if kept else None,
    )


TRIALS = [trial("good", 0.9, 0, True), trial("mixed", 0.2, 400, True), trial("bad", 0.2, 9, False)]


@pytest.mark.parametrize(
    ("setting", "num_passed", "look_seconds", "lost"),
    [
        (cascade.NO_LOOK, 3, 0, ()),
        (cascade.Setting(0.1, True), 3, 3, ()),
        (cascade.Setting(0.5, True), 2, 7, ()),
        (cascade.Setting(0.5, False), 1, 3, ("mixed",)),
        (cascade.Setting(1.0, False), 0, 3, ("good", "mixed")),
    ],
)
def test_a_setting_costs_what_it_looks_at_and_loses_what_it_drops(
    setting: object, num_passed: int, look_seconds: float, lost: tuple[str, ...]
) -> None:
    result = cascade.result(TRIALS, setting, min_passage_chars=400)
    assert (result.num_passed, result.look_seconds, result.lost) == (num_passed, look_seconds, lost)
    assert result.extract_seconds == 10 * num_passed
    assert result.num_kept == result.num_gold == 2 - len(lost)
