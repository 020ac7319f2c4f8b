"""A search tool for chat: BM25 (bm25s) over passages of documents, in memory.

Documents are those of a corpus directory's `canonical`, or of a JSONL file. They are split into
passages of whole sentences; words are runs of letters and digits, lowercased. A passage's score is
the sum over the query's words of idf * f / (f + k1 * (1 - b + b * length / mean length)), with
idf = ln(1 + (N - n + 0.5) / (n + 0.5)) (Robertson and Zaragoza, The Probabilistic Relevance
Framework, 2009; k1 and b as in Lucene).

Opening reads all text and keeps it, so memory must hold the corpus several times. Raises
`UserError` naming the file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import pyarrow.parquet as pq

from schemas import json_text
from schemas import manifest as manifests
from schemas.errors import UserError

K1, B = 1.2, 0.75
PASSAGE_WORDS = 100  # a passage ends with the sentence that reaches this length
NUM_RESULTS = 3
_WORD = re.compile(r"\w+")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Passage:
    """Some sentences of a document, and its URL."""

    text: str
    url: str | None = None


def open_search(source: Path, passage_words: int = PASSAGE_WORDS) -> Search:
    """Index a corpus root, or a JSONL file of objects with `text` and optionally `url`."""
    if (source / "canonical").is_dir():
        documents = _canonical(source / "canonical")
    elif source.is_file():
        documents = _jsonl(source)
    else:
        raise UserError(
            f"--search {source}: neither a corpus root (with canonical/) nor a JSONL file"
        )
    search = Search(p for text, url in documents for p in split(text, url, passage_words))
    if not search.passages:
        raise UserError(f"--search {source}: no document with text")
    return search


def _canonical(folder: Path) -> Iterator[tuple[str, str | None]]:
    manifest = manifests.read(folder)
    if manifest is None:
        raise UserError(f"{folder}: no manifest: the dataset is not finished")
    for path in manifest.paths(folder):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["text", "url"]):
                for row in batch.to_pylist():
                    if row["text"]:
                        yield row["text"], row["url"]


def _jsonl(path: Path) -> Iterator[tuple[str, str | None]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json_text.loads(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise UserError(f"{path}:{number}: must be an object with string `text`")
            url = row.get("url")
            yield row["text"], url if isinstance(url, str) else None


def split(
    text: str, url: str | None = None, passage_words: int = PASSAGE_WORDS
) -> Iterator[Passage]:
    """Split a text into passages; only sentences of twice `passage_words` are cut."""
    words: list[str] = []
    for sentence in _SENTENCES.split(text):
        words += sentence.split()
        begin = 0
        while len(words) - begin >= 2 * passage_words:
            yield Passage(" ".join(words[begin : begin + passage_words]), url)
            begin += passage_words
        words = words[begin:]
        if len(words) >= passage_words:
            yield Passage(" ".join(words), url)
            words = []
    if words:
        yield Passage(" ".join(words), url)


class Search:
    """A BM25 index of passages."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        self.passages = list(passages)
        words = [words_of(passage.text) for passage in self.passages]
        self._index: bm25s.BM25 | None = None
        if any(words):
            self._index = bm25s.BM25(method="lucene", k1=K1, b=B)
            self._index.index(words, show_progress=False)

    def best(self, query: str, count: int = NUM_RESULTS) -> list[Passage]:
        """At most `count` passages that share a word with the query, best first."""
        words = list(dict.fromkeys(words_of(query)))
        if not words or self._index is None:
            return []
        scores = self._index.get_scores(words)
        order = np.argsort(-scores, kind="stable")[:count]
        return [self.passages[i] for i in order if scores[i] > 0]


def words_of(text: str) -> list[str]:
    """The words of a text, lowercased."""
    return _WORD.findall(text.lower())
