"""The search tool: scores against the formula in plain Python, and documents that are read."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import manifest as manifests
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from trainer.generate.search import K1, B, Passage, Search, open_search, split, words_of

TEXTS = st.lists(st.text(st.sampled_from("ab cd\né"), max_size=20), max_size=8)


@given(TEXTS, st.text(st.sampled_from("ab cdé"), max_size=8))
def test_the_scores_are_those_of_the_formula(texts: list[str], query: str) -> None:
    documents = [Counter(words_of(text)) for text in texts]
    mean = sum(d.total() for d in documents) / max(1, len(documents))

    def score(document: Counter[str]) -> float:
        total = 0.0
        for word in set(words_of(query)):
            having = sum(1 for d in documents if d[word])
            idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            f = document[word]
            long = 1 - B + B * document.total() / (mean or 1)
            total += idf * f / (f + K1 * long) if f else 0
        return total

    expected = [score(document) for document in documents]
    found = Search(map(Passage, texts)).best(query, len(texts))
    assert len(found) == sum(x > 0 for x in expected)
    scores = [score(Counter(words_of(one.text))) for one in found]
    assert scores == pytest.approx(sorted((x for x in expected if x > 0), reverse=True))


@given(st.text(max_size=200), st.integers(1, 5), st.integers(1, 40))
def test_passages_lose_no_word_and_stay_short(text: str, times: int, most: int) -> None:
    text = "\n".join([text, "One ends. " * 7 + "word " * 130] * times)
    passages = list(split(text, "u", most))
    assert [word for one in passages for word in one.text.split()] == text.split()
    sizes = [len(one.text.split()) for one in passages]
    assert all(most <= size < 2 * most for size in sizes[:-1])
    assert sizes[-1] < 2 * most


def test_passages_end_where_sentences_do() -> None:
    text = "One two three. Four five\nsix seven eight? Nine."
    assert [one.text for one in split(text, None, 3)] == [
        "One two three.",
        "Four five six seven eight?",
        "Nine.",
    ]


def write_root(folder: Path, rows: list[tuple[str | None, str]]) -> Path:
    """A root with a `canonical` dataset of texts and URLs."""
    (folder / "canonical").mkdir(parents=True)
    texts, urls = zip(*rows, strict=True)
    table = pa.table({"text": pa.array(texts, pa.string()), "url": urls})
    pq.write_table(table, folder / "canonical" / "part-0.parquet")
    file = DataFile("part-0.parquet", len(rows), 1)
    manifests.write(folder / "canonical", Manifest("canonical", "r", {}, {}, (file,), {}))
    return folder


def test_a_root_and_a_jsonl_file_of_the_same_documents_answer_alike(tmp_path: Path) -> None:
    rows = [("A mill grinds grain.", "https://a.org/"), ("Boats float.", "https://b.org/")]
    root = write_root(tmp_path / "root", [*rows, (None, "https://c.org/")])
    path = tmp_path / "documents.jsonl"
    path.write_text("\n".join(json.dumps({"text": t, "url": u}) for t, u in rows) + "\n\n")
    for source in (root, path):
        search = open_search(source)
        assert search.best("What grinds GRAIN?") == [Passage(*rows[0])]
        assert search.best("?") == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (
            '{"text": "a"}\n{"text": 3}\n',
            "documents.jsonl:2: must be an object with string `text`",
        ),
        ('{"text": "a"\n', "documents.jsonl:1: not JSON"),
        ("\n", "no document with text"),
    ],
)
def test_documents_that_cannot_be_read_are_named(tmp_path: Path, content: str, error: str) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=error):
        open_search(path)
    with pytest.raises(UserError, match="neither a corpus root"):
        open_search(tmp_path / "nowhere")
    (tmp_path / "canonical").mkdir()
    with pytest.raises(UserError, match="canonical: no manifest: the dataset"):
        open_search(tmp_path)
