"""Passages that several documents hold go as an oracle in plain Python says, on both engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from corpus.dedup import line_hashes as units_of
from corpus.dedup.line_hashes import LISTED, Passages
from corpus.dedup.word_hashes import normalise
from corpus.recipe import Recipe
from jobs.dedup import repeated_lines
from jobs.engine import dataset_io
from jobs.engine.session import Engine
from jobs.engine.stage import Job

RANKS = pa.schema([("node", pa.int64()), ("rank", pa.string())])


def _texts() -> list[str]:
    """Eighty texts: a banner, lines that several share, some of their own, short and blank ones."""
    random = np.random.default_rng(4)
    common = [f"a line that number {'i' * (i + 1)} of them have" for i in range(30)]
    texts = ["", "\n\n", "short", "no passage is shared here by anybody else at all"]
    for number in range(76):
        lines = [common[i] for i in random.integers(0, 30, random.integers(0, 6))]
        lines += ["Accept all cookies, please do!", "short", ""]
        lines += [f"text that document {'x' * number} alone has and nobody else"] * (number % 3)
        texts.append("\n".join(random.permutation(lines)))
    return texts


def _ranks(texts: list[str]) -> dict[int, str]:
    """Nodes in no order, which the ranks do not follow."""
    nodes = np.random.default_rng(5).permutation(len(texts)) * 7 - 100
    longest = enumerate(zip(nodes, texts, strict=True))
    return {int(node): f"{10**9 - len(text)}-{i}" for i, (node, text) in longest}


def _oracle(
    texts: list[str], ranks: dict[int, str], settings: Passages
) -> dict[int, tuple[list[int], bool]]:
    """Node -> (places that go, whether the document goes whole), of those that lose any."""
    found = {
        node: [normalise(unit) for unit in units_of.units(text, settings.unit)]
        for node, text in zip(ranks, texts, strict=True)
    }
    first = _lose(found, set(found), ranks, settings)
    dropped = {node for node, (_, goes) in first.items() if goes}
    if settings.keep == "none":
        return first
    again = _lose(found, set(found) - dropped, ranks, settings)
    return again | {node: first[node] for node in dropped}


def _lose(
    found: dict[int, list[str]], staying: Iterable[int], ranks: dict[int, str], settings: Passages
) -> dict[int, tuple[list[int], bool]]:
    losses = {}
    for node in staying:
        going = []
        for place, unit in enumerate(found[node]):
            if len(unit.split()) < settings.min_words:
                continue
            holders = [other for other in found if unit in found[other]]
            keeper = min((n for n in holders if n in set(staying)), key=ranks.__getitem__)
            keeps = settings.keep == "first" and node == keeper
            shared = len(holders) >= settings.min_documents and not keeps
            if shared or unit in found[node][:place]:
                going.append(place)
        if going:
            left = sum(len(u.split()) for p, u in enumerate(found[node]) if p not in going)
            losses[node] = going, left < settings.min_words_left
    return losses


def _lost(
    engine: Engine, work: Path, texts: list[str], settings: Passages, partitions: int
) -> repeated_lines.Losses:
    ranks = _ranks(texts)
    batch = units_of.list_units(pa.array(ranks, pa.int64()), texts, settings)
    tables = {"listed": pa.Table.from_batches([batch], LISTED)}
    tables["ranks"] = pa.table([list(ranks), list(ranks.values())], schema=RANKS)
    frames = {}
    for name, table in tables.items():
        mixed = table.take(np.random.default_rng(partitions).permutation(len(table)))
        file = dataset_io.write_table(work / name, mixed)
        path = str(work / name / file.name)
        frame = dataset_io.read_files(engine.spark, [path], table.schema)
        frames[name] = frame.repartition(partitions)
    return repeated_lines.lost(frames["ranks"], frames["listed"], settings, work)


def _rows(losses: repeated_lines.Losses) -> dict[int, tuple[list[int], bool]]:
    rows = losses.frame.toArrow().to_pylist()
    assert len({row["node"] for row in rows}) == len(rows)
    return {row["node"]: (row["removed"], row["dropped"]) for row in rows}


def _check_counts(texts: list[str], settings: Passages, losses: repeated_lines.Losses) -> None:
    unit = settings.unit
    by_node = dict(zip(_ranks(texts), texts, strict=True))
    stays = {node: places for node, (places, dropped) in _rows(losses).items() if not dropped}
    assert losses.counts == {
        "passages": sum(len(units_of.units(text, unit)) for text in texts),
        "changed": len(stays),
        "removed": sum(map(len, stays.values())),
        "removed_chars": sum(
            len(units_of.units(by_node[node], unit)[place])
            for node, places in stays.items()
            for place in places
        ),
        "dropped": len(_rows(losses)) - len(stays),
    }


@pytest.mark.parametrize(("name", "partitions"), [("sail", 1), ("sail", 7), ("spark", 7)])
def test_losses_equal_the_oracle_for_any_number_of_partitions(
    engines: Callable[[str], Engine], tmp_path: Path, name: str, partitions: int
) -> None:
    texts, settings = _texts(), Passages(unit="line", min_words=4, min_words_left=12)
    expected = _oracle(texts, _ranks(texts), settings)
    assert 10 < sum(dropped for _, dropped in expected.values()) < len(expected) - 10
    losses = _lost(engines(name), tmp_path, texts, settings, partitions)
    assert _rows(losses) == expected
    _check_counts(texts, settings, losses)


@pytest.mark.parametrize(
    "changed",
    [{"keep": "none"}, {"min_documents": 5}, {"min_words": 1}, {"unit": "paragraph"}],
    ids=str,
)
def test_every_setting_does_what_the_oracle_does(
    engines: Callable[[str], Engine], tmp_path: Path, changed: dict[str, Any]
) -> None:
    texts = _texts()
    settings = Passages(**{"unit": "line", "min_words": 4, "min_words_left": 12} | changed)
    losses = _lost(engines("sail"), tmp_path, texts, settings, 3)
    assert _rows(losses) == _oracle(texts, _ranks(texts), settings)
    _check_counts(texts, settings, losses)


def test_what_a_dropped_document_would_have_kept_the_next_one_keeps(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    one, two, three = "passage one is here", "passage two is here", "passage three is here"
    own = "words that stand in no other document"
    texts = [f"{one} {own}\n{two} {own}\n{own}", f"{one} {own}\n{three}", f"{three}\nbut {own}"]
    settings = Passages(unit="line", min_words=4, min_words_left=8)
    found = _rows(_lost(engines("sail"), tmp_path, texts, settings, 1))
    first, second, third = _ranks(texts)
    # The second loses its long line to the first, and with it goes what it kept from the third.
    assert found == {second: ([0], True)}
    assert first not in found
    assert third not in found


def test_a_banner_on_all_documents_stays_on_the_first_alone(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    texts = ["We and our partners use cookies"] * 20_000
    settings = Passages(unit="line", min_words=3, min_words_left=1)
    losses = _lost(engines("sail"), tmp_path, texts, settings, 4)
    assert losses.counts["dropped"] == 19_999
    keeper = min(_ranks(texts).items(), key=lambda item: item[1])[0]
    assert keeper not in _rows(losses)


def test_documents_without_passages_lose_none(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    losses = _lost(engines("sail"), tmp_path, ["", "one", "one"], Passages(unit="line"), 2)
    assert _rows(losses) == {}
    assert losses.counts == {
        "passages": 2, "changed": 0, "removed": 0, "removed_chars": 0, "dropped": 0,
    }  # fmt: skip


def test_children_list_what_the_oracle_lists(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    texts = _texts()
    ranks = _ranks(texts)
    settings = Passages(unit="line", min_words=4, min_words_left=12)
    job = Job(Recipe(passages=settings), tmp_path, engines("sail"))
    columns = [list(ranks), list(ranks.values()), texts]
    schema = RANKS.append(pa.field("text", pa.string()))
    file = dataset_io.write_table(tmp_path, pa.table(columns, schema=schema))
    stored = dataset_io.read_files(job.spark, [str(tmp_path / file.name)], schema)
    losses = repeated_lines.find(job, stored, len(texts), tmp_path / "work")
    assert _rows(losses) == _oracle(texts, ranks, settings)
