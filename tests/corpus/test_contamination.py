"""Shared runs of words are those of plain Python, and evaluation files are read as they are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from corpus.clean import contamination
from corpus.clean.contamination import Decontaminate, Index, Match
from corpus.dedup.word_hashes import normalise
from schemas.errors import UserError

QUESTION = (
    "Question: A baker fills 24 trays with 18 rolls each, and sells the rolls in bags of nine. "
    "How many bags does she need for all of her rolls?"
)
PAGE = (
    "Puzzles for the weekend.\n\nA BAKER fills 12 trays (with 15 rolls each) and sells the\nrolls "
    "in bags of nine -- how many bags does she need for all of her rolls?\n\nAnswers on page 4."
)
PARAPHRASE = (
    "There are 24 trays of 18 rolls in a bakery. If nine rolls go into one bag, find the number of "
    "bags that are needed for all of these rolls."
)


def _write(folder: Path, name: str, rows: Sequence[object]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def _index(folder: Path, rows: Sequence[object], ngram: int = 13, min_words: int = 8) -> Index:
    path = _write(folder, "questions.jsonl", rows)
    return contamination.build({"questions": path}, ngram, min_words)


def _runs(text: str, ngram: int, min_words: int) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    n = min(ngram, len(words))
    if n < min(ngram, min_words):
        return set()
    runs = {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
    return {run for run in runs if 2 * len(set(run)) >= n}


def _oracle(
    documents: list[str], sets: dict[str, list[list[str]]], settings: Decontaminate
) -> list[Match]:
    """By strings alone: which sets' texts each document has."""
    found = []
    for number, document in enumerate(documents):
        words = normalise(document).split()
        here: dict[tuple[str, ...], int] = {}
        for n in range(1, settings.ngram + 1):
            for i in range(len(words) - n + 1):
                here.setdefault(tuple(words[i : i + n]), i)
        for name, items in sets.items():
            matched: set[tuple[str, ...]] = set()
            touched = []
            for place, texts in enumerate(items):
                for text in texts:
                    runs = _runs(text, settings.ngram, settings.min_words)
                    shared = runs & here.keys()
                    if shared and len(shared) >= min(settings.min_matches, len(runs)):
                        matched |= shared
                        touched.append(place)
            if matched:
                example = min(matched, key=lambda run: (here[run], len(run)))
                items_found = sorted(set(touched))
                found.append(Match(number, name, len(matched), items_found, " ".join(example)))
    return found


WORDS = st.sampled_from(["sun", "Moon", "STAR,", "7", "1,200", "(sea)", "été", "月"])
TEXTS = st.lists(WORDS, max_size=9).map(" ".join)
ITEMS = st.lists(st.lists(TEXTS, max_size=3), min_size=1, max_size=5)


@given(
    documents=st.lists(st.lists(WORDS, max_size=30).map("\n".join), max_size=4),
    sets=st.dictionaries(st.sampled_from("abc"), ITEMS, min_size=1),
    ngram=st.integers(1, 5),
    min_words=st.integers(1, 6),
    min_matches=st.integers(1, 3),
)
def test_what_is_found_is_what_plain_strings_find(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[str],
    sets: dict[str, list[list[str]]],
    ngram: int,
    min_words: int,
    min_matches: int,
) -> None:
    settings = Decontaminate((), ngram, min_words, min_matches)
    folder = tmp_path_factory.mktemp("sets")
    paths = {name: _write(folder, f"{name}.jsonl", items) for name, items in sets.items()}
    runs = {
        name: [any(_runs(text, ngram, min_words) for text in item) for item in items]
        for name, items in sets.items()
    }
    if not any(map(any, runs.values())):
        with pytest.raises(
            UserError, match=f"min_words = {min_words}: no text of .* is long enough"
        ):
            contamination.build(paths, ngram, min_words)
        return
    index = contamination.build(paths, ngram, min_words)
    assert contamination.find(documents, min_matches, index) == _oracle(documents, sets, settings)
    counted = {one.name: (one.items, one.too_short) for one in index.sets}
    assert counted == {name: (len(has), has.count(False)) for name, has in runs.items()}


def test_a_question_is_found_in_a_page_whatever_its_case_numbers_and_line_breaks(
    tmp_path: Path,
) -> None:
    index = _index(tmp_path, [{"query": "What else?"}, {"query": QUESTION, "gold": 2}])
    (match,) = contamination.find(["An innocent page.", PAGE], 1, index)
    assert (match.document, match.set, match.items) == (1, "questions", [1])
    assert match.example == "a baker fills 0 trays with 0 rolls each and sells the rolls"
    assert match.num_matches == len(_runs(QUESTION.removeprefix("Question:"), 13, 8))


def test_a_paraphrase_is_not_found(tmp_path: Path) -> None:
    assert not contamination.find([PARAPHRASE], 1, _index(tmp_path, [QUESTION]))


def test_a_short_text_is_looked_for_whole_and_a_shorter_one_not_at_all(tmp_path: Path) -> None:
    whole = "Which of these planets is closest to the sun"  # nine words
    index = _index(tmp_path, [whole, "Which planet is closest to the sun"])
    assert index.sets[0].too_short == 1
    texts = [f"We ask: {whole}?", whole.rpartition(" ")[0], "Which planet is closest to the sun?"]
    assert [match.document for match in contamination.find(texts, 1, index)] == [0]


def test_one_run_is_enough_where_a_text_has_no_more_than_that(tmp_path: Path) -> None:
    thirteen = " ".join(normalise(QUESTION).split()[:13])
    index = _index(tmp_path, [thirteen, QUESTION])
    (match,) = contamination.find([thirteen], 5, index)
    assert match.items == [0]


def test_a_table_of_numbers_holds_no_calculation(tmp_path: Path) -> None:
    sums = "16 - 3 - 4 = <<16-3-4=9>>9 and 9 * 2 = $<<9*2=18>>18 in the end"
    index = _index(tmp_path, [sums + " she makes that much every day of the week at the market"])
    assert not contamination.find([" ".join(map(str, range(999))) + sums], 1, index)


def test_a_match_does_not_reach_from_one_document_into_the_next(tmp_path: Path) -> None:
    words = normalise(QUESTION).split()[:13]
    index = _index(tmp_path, [" ".join(words)])
    assert not contamination.find([" ".join(words[:6]), " ".join(words[6:])], 1, index)


def test_a_page_that_repeats_an_item_holds_it_once(tmp_path: Path) -> None:
    index = _index(tmp_path, [QUESTION, "Which of these planets is closest to the sun"])
    once = contamination.find([QUESTION], 1, index)
    assert contamination.find([f"{QUESTION}\n" * 3000], 1, index) == once


def test_portions_of_a_batch_make_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _index(tmp_path, [QUESTION])
    texts = ["", PAGE, "nothing here", PAGE + QUESTION, ""]
    whole = contamination.find(texts, 1, index)
    monkeypatch.setattr(contamination, "_CHARS_AT_ONCE", 10)
    assert contamination.find(texts, 1, index) == whole
    assert [match.document for match in whole] == [1, 3]


def test_an_index_is_the_same_from_its_files(tmp_path: Path) -> None:
    built = _index(tmp_path, [QUESTION, PARAPHRASE, "Which of these planets is closest to the sun"])
    built.save(tmp_path / "index")
    loaded = contamination.load(tmp_path / "index")
    for name, value in vars(built).items():
        assert np.array_equal(getattr(loaded, name), value), name
    assert contamination.find([PAGE], 1, loaded) == contamination.find([PAGE], 1, built)


def test_items_read_in_batches_keep_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[], [QUESTION], ["short"], [PARAPHRASE, QUESTION]]
    whole = contamination.find([PAGE], 1, _index(tmp_path, rows))
    monkeypatch.setattr(contamination, "_CHARS_PER_BATCH", 1)
    monkeypatch.setattr(contamination, "_RUNS_AT_ONCE", 2)
    assert contamination.find([PAGE], 1, _index(tmp_path, rows)) == whole
    assert whole[0].items == [1, 3]


def test_texts_of_a_row_are_its_strings_wherever_they_stand(tmp_path: Path) -> None:
    row = {
        "query": "Question:\n Why?",
        "choices": ["one", {"text": "two", "label": "A"}],
        "gold": 1,
        "source": "https://example.com/a-page-with-a-long-name",
        "note": "see https://example.com",
        "half": "\ud800!",
    }
    path = _write(tmp_path, "rows.jsonl", [row, [], None, "alone", 7])
    assert list(contamination.read_items(path)) == [
        ["\n Why?", "one", "two", "A", "see https://example.com", "?!"], [], [], ["alone"], [],
    ]  # fmt: skip


def test_paragraphs_of_a_text_are_items(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("\n\nfirst line\nsecond line\n \t\n\nanother\n")
    assert list(contamination.read_items(path)) == [["first line\nsecond line"], ["another"]]


@pytest.mark.parametrize("ending", [".jsonl", ".txt"])
def test_compressed_files_are_the_same_items(tmp_path: Path, ending: str) -> None:
    plain = _write(tmp_path, f"set{ending}", ["one", "two"])
    packed = {
        ".gz": gzip.compress(plain.read_bytes()),
        ".zst": zstandard.compress(plain.read_bytes()),
    }
    for suffix, content in packed.items():
        path = tmp_path / f"set{ending}{suffix}"
        path.write_bytes(content)
        assert list(contamination.read_items(path)) == list(contamination.read_items(plain))
        path.write_bytes(content + content)  # two members
        assert len(list(contamination.read_items(path))) == (4 if ending == ".jsonl" else 1)
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="cannot be read"):
            list(contamination.read_items(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": "b"}\n\n{"a": \n', "bad.jsonl:3: not a line of JSON"),
        (b"[" * 100_000, "bad.jsonl:1: not a line of JSON"),
        (b'"\xff"', "cannot be read"),
        (b" \n\n", "holds no item"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        list(contamination.read_items(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("none.jsonl", "no such file"),
        ("none*.jsonl", "no file matches"),
        (".", "is a folder"),
        ("a/set.json", "must be one of"),
        ("*/same.*", "rename one"),
    ],
)
def test_a_pattern_that_gives_no_set_is_named(tmp_path: Path, pattern: str, said: str) -> None:
    for name in ("a/set.json", "a/same.jsonl", "a/same.txt"):
        _write(tmp_path, name, ["x"])
    with pytest.raises(UserError, match=said):
        contamination.resolve([str(tmp_path / pattern)])


def test_sets_are_called_by_as_much_of_their_path_as_tells_them_apart(tmp_path: Path) -> None:
    names = ("arc/easy/test.jsonl", "arc/hard/test.jsonl.gz", "piqa.v2.jsonl", "lambada/test.txt")
    paths = [_write(tmp_path, name, ["x"]) for name in names]
    found = contamination.resolve([str(tmp_path / "**" / "*.*"), str(paths[0])])
    assert found == {
        "easy/test": paths[0], "hard/test": paths[1], "lambada/test": paths[3], "piqa.v2": paths[2]
    }  # fmt: skip


@pytest.mark.parametrize(
    "values", [{"ngram": 0}, {"min_words": 0}, {"min_matches": -1}, {"against": ("",)}]
)
def test_settings_without_sense_are_named(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))} = .*: must be"):
        Decontaminate(**values)  # type: ignore[arg-type]


def test_a_real_set_is_found_in_its_own_texts_and_nowhere_else(shared: Path) -> None:
    names = ("arc_easy", "gsm8k-test", "piqa", "winogrande")
    paths = {name: shared / "corpora" / f"{name}.jsonl" for name in names}
    index = contamination.build(paths, 13, 8)
    for number, name in enumerate(names):
        # Each field is a paragraph, so that nothing is found across fields.
        texts = ["\n".join(item) for item in contamination.read_items(paths[name])][:400]
        found = contamination.find(texts, 1, index)
        assert {match.set for match in found} == {name}
        assert all(match.document in match.items for match in found)
        if index.sets[number].too_short == 0:
            assert [match.document for match in found] == list(range(len(texts)))
