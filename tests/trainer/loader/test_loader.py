"""Batches compared with a slow reference reader, for any ranks, workers and first step."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from trainer.data.epoch_plan import _seed
from trainer.data.loader import IGNORED, Batch, Loader, Mixed, _rebuild, rank_rows
from trainer.data.packing import permutation
from trainer.data.rows import HELD_WINDOWS
from trainer.data.spec import DataSpec
from trainer.data.trace import origin_of, rows_with

from ..conftest import altered, content_hash

# The reference reader: plain Python that reads everything from the start.

Token = tuple[int, int, Any, int]  # id, whether it can be a target, its document, its place there
Row = list[Token]


def epoch_rows(folder: Path, spec: DataSpec, epoch: int) -> list[Row]:
    """An epoch's rows of seq_len + 1 tokens; padding has the document None."""
    groups = _groups(folder, spec.split)
    order = [groups[i] for i in permutation(len(groups), _seed(spec.seed, epoch))]
    windows: list[list[Row]] = []
    for group in order:
        size = sum(map(len, group)) + sum(map(len, windows[-1] if windows else []))
        if not windows or size > spec.window_tokens:
            windows.append([])
        windows[-1] += group
    rows: list[Row] = []
    for number, documents in enumerate(windows):
        packed = (_concat if spec.packing == "concat" else _best_fit)(documents, spec.seq_len)
        rows += [packed[i] for i in permutation(len(packed), _seed(spec.seed, epoch, number))]
    return rows


def inputs_and_targets(row: Row) -> tuple[list[int], list[int]]:
    """A row's inputs and targets."""
    targets = []
    for i, (token, learned, document, place) in enumerate(row):
        middle = place > 0 and (i == 0 or row[i - 1][2] != document)
        targets.append(token if learned and document is not None and not middle else IGNORED)
    return [token for token, *_ in row[:-1]], targets[1:]


def _groups(folder: Path, split: str) -> list[list[Row]]:
    """Row groups, as lists of documents, as lists of tokens."""
    manifest, groups = manifests.read(folder), []
    assert manifest is not None
    for file in manifest.files:
        parquet = pq.ParquetFile(folder / file.name)
        for i in range(parquet.num_row_groups * (file.extra.split == split)):
            rows = parquet.read_row_group(i).to_pylist()
            groups.append([_document((file.name, i, j), row) for j, row in enumerate(rows)])
    return groups


def _document(name: Any, row: dict[str, Any]) -> Row:
    mask = row.get("loss_mask") or [1] * len(row["tokens"])
    both = zip(row["tokens"], mask, strict=True)
    return [(token, learned, name, place) for place, (token, learned) in enumerate(both)]


def _concat(documents: list[Row], seq_len: int) -> list[Row]:
    stream = [token for document in documents for token in document]
    return [stream[i : i + seq_len + 1] for i in range(0, len(stream) - seq_len, seq_len)]


def _best_fit(documents: list[Row], seq_len: int) -> list[Row]:
    cuts = [(d, i) for d in documents for i in range(0, len(d) - 1, seq_len)]
    pieces = [document[i : i + seq_len + 1] for document, i in cuts]
    pieces = [piece for piece in pieces if any(learned for _, learned, *_ in piece[1:])]
    rows: list[Row] = []
    filled: list[int] = []  # rows, the latest filled last: of equal space, that one is taken
    for piece in sorted(pieces, key=len, reverse=True):
        fitting = [r for r in filled if len(rows[r]) + len(piece) <= seq_len + 1]
        if not fitting:
            rows.append([])
        best = max(reversed(fitting), key=lambda r: len(rows[r])) if fitting else len(rows) - 1
        rows[best] = rows[best] + piece
        filled = [r for r in filled if r != best] + [best]
    boundary = documents[0][0][0]
    return [row + [(boundary, 0, None, 0)] * (seq_len + 1 - len(row)) for row in rows]


def tokens_of(rows: list[Row]) -> set[tuple[Any, int]]:
    """All tokens in the rows, without padding: document and position in it."""
    return {(document, place) for row in rows for _, _, document, place in row if document}


# Batches


def open_loader(folders: dict[str, Path], *names: str, **settings: Any) -> Loader:
    values = {"seq_len": 32, "rows": 6, "window_tokens": 1500, "packing": "best_fit", **settings}
    return Loader([folders[name] for name in names], cache=folders["cache"], **values)


def equal(one: Batch, other: Batch) -> bool:
    parts = ("inputs", "targets", "document_ids", "positions")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in parts)


@pytest.mark.parametrize(
    ("name", "packing"), [("pages", "concat"), ("pages", "best_fit"), ("chats", "best_fit")]
)
@settings(max_examples=15)
@given(seq_len=st.integers(2, 70), seed=st.integers(0, 3), rows=st.integers(1, 9))
def test_batches_equal_a_slow_readers(
    folders: dict[str, Path], name: str, packing: str, seq_len: int, seed: int, rows: int
) -> None:
    wanted = {"packing": packing, "seq_len": seq_len, "seed": seed, "rows": rows}
    loader = open_loader(folders, name, **wanted)
    expected = [r for e in range(2) for r in epoch_rows(folders[name], loader.spec, e)]
    for step in (0, 1, len(expected) // rows // 2, len(expected) // rows - 1):
        batch = loader.batch(step)
        for row in range(rows):
            slow = expected[step * rows + row]
            inputs, targets = inputs_and_targets(slow)
            assert batch.inputs[row].tolist() == inputs
            assert batch.targets[row].tolist() == targets
            _check_documents(slow, batch.document_ids[row], batch.positions[row])


def _check_documents(row: Row, ids: np.ndarray, positions: np.ndarray) -> None:
    """Ids are equal within a document; positions count from its first token in the row."""
    names = [document for _, _, document, _ in row[:-1]]
    changes = [i for i in range(1, len(names)) if names[i] != names[i - 1]]
    assert np.flatnonzero(np.diff(ids)).tolist() == [i - 1 for i in changes]
    starts = [max(c for c in [0, *changes] if c <= i) for i in range(len(names))]
    assert positions.tolist() == [i - start for i, start in enumerate(starts)]


@pytest.mark.parametrize(
    ("name", "packing"), [("pages", "concat"), ("pages", "best_fit"), ("chats", "best_fit")]
)
def test_every_token_is_trained_or_declared_dropped(
    folders: dict[str, Path], name: str, packing: str
) -> None:
    loader = open_loader(folders, name, packing=packing)
    for epoch in range(3):
        plan = loader.sources[0].plan(epoch)
        rows = epoch_rows(folders[name], loader.spec, epoch)
        assert len(rows) == plan.num_rows
        if name == "pages":  # of a conversation a piece without a target may share a token
            assert len(tokens_of(rows)) == plan.tokens - plan.dropped
        assert plan.tokens == loader.shards.manifest.extra.tokens["train"]


def test_no_row_of_conversations_is_without_a_target(folders: dict[str, Path]) -> None:
    loader = open_loader(folders, "chats", seq_len=16)
    for step in range(loader.sources[0].plan(0).num_rows // 6):
        assert ((loader.batch(step).targets != IGNORED).sum(1) > 0).all()


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_split_is_gone_over_once_by_the_number_of_its_rows(
    folders: dict[str, Path], packing: str, size: int
) -> None:
    loader = open_loader(folders, "pages", packing=packing, split="validation")
    rows = epoch_rows(folders["pages"], loader.spec, 0)
    assert loader.num_rows() == len(rows)
    assert loader.num_rows(1) == len(epoch_rows(folders["pages"], loader.spec, 1))
    found = [
        targets
        for first in range(0, len(rows), size)
        for targets in loader.batch(0, range(first, min(first + size, len(rows)))).targets.tolist()
    ]
    assert found == [inputs_and_targets(row)[1] for row in rows]


def test_conversations_are_not_cut_anywhere(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"packing = 'concat': .*chats holds conversations"):
        open_loader(folders, "chats", packing="concat").batch(0)


def test_epochs_are_shuffled_anew_and_seeds_differ(folders: dict[str, Path]) -> None:
    loader = open_loader(folders, "pages")
    first, second = loader.sources[0].plan(0), loader.sources[0].plan(1)
    assert sorted(first.groups.tolist()) == sorted(second.groups.tolist())
    assert first.groups.tolist() != second.groups.tolist()
    other = open_loader(folders, "pages", seed=1).sources[0].plan(0)
    assert first.groups.tolist() != other.groups.tolist()


def global_batches(loader: Loader, world_size: int, steps: range) -> Iterator[list[np.ndarray]]:
    """Each step's global batch, joined from ranks that open the data separately."""
    ranks = [_rebuild(loader.__reduce__()[1][0]) for _ in range(world_size)]
    for step in steps:
        shares = [rank_rows(loader.spec.rows, rank, world_size) for rank in range(world_size)]
        parts = [ranks[rank].batch(step, shares[rank]) for rank in range(world_size)]
        names = ("inputs", "targets", "document_ids", "positions")
        yield [np.concatenate([getattr(part, name) for part in parts]) for name in names]


@pytest.mark.parametrize("names", [("pages",), ("pages", "chats", "books")])
def test_one_then_two_then_one_ranks_see_the_same_global_batches(
    folders: dict[str, Path], names: tuple[str, ...]
) -> None:
    loader = open_loader(folders, *names)
    whole = list(global_batches(loader, 1, range(30)))
    changing = [
        *global_batches(loader, 1, range(10)),
        *global_batches(loader, 2, range(10, 20)),
        *global_batches(loader, 1, range(20, 25)),
        *global_batches(loader, 3, range(25, 30)),
    ]
    for one, other in zip(whole, changing, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_workers_gives_the_same_batches(
    folders: dict[str, Path], workers: int
) -> None:
    loader = open_loader(folders, "pages", "chats")
    context = "spawn" if workers else None
    served = DataLoader(
        loader,  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(3, 15),
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context=context,
    )
    for step, batch in zip(range(3, 15), served, strict=True):
        assert equal(batch, loader.batch(step))


def _as_it_is(batch: Batch) -> Batch:
    return batch


@settings(max_examples=30)
@given(first=st.integers(0, 200), count=st.integers(0, 12), stride=st.integers(1, 3))
def test_batches_made_ahead_are_the_same(
    folders: dict[str, Path], first: int, count: int, stride: int
) -> None:
    loader = open_loader(folders, "pages")
    steps = range(first, first + count, stride)
    ahead = list(loader.batches(first, first + count, stride=stride))
    assert [batch.step for batch in ahead] == list(steps)
    assert all(equal(batch, loader.batch(batch.step)) for batch in ahead)
    assert 0 <= loader.wait_share <= 1


def test_an_error_of_the_thread_reaches_the_caller(folders: dict[str, Path]) -> None:
    loader = Loader(
        [Mixed(folders["pages"], max_epochs=1)], seq_len=32, rows=6, cache=folders["cache"]
    )
    with pytest.raises(UserError, match="max_epochs = 1: used up"):
        list(loader.batches(0))


def test_a_start_reads_only_the_row_groups_of_its_rows(folders: dict[str, Path]) -> None:
    loader = open_loader(folders, "pages", rows=2)
    source = loader.sources[0]
    read: list[int] = []
    original = source.row_groups.read
    source.row_groups.read = lambda group, *out: read.append(group) or original(group, *out)  # type: ignore[method-assign,func-returns-value]
    loader.batch(40)
    wanted = set()
    for row in (80, 81):
        place = source.place(row)
        window = source.plan(place.epoch).window(place.window)
        ends = np.cumsum(source.row_groups.tokens[window.groups])
        starts = source.plan(place.epoch).segments(place.row, place.row + 1).starts
        inside = starts[starts < ends[-1]]
        wanted |= set(window.groups[np.searchsorted(ends, inside, side="right")].tolist())
    assert sorted(read) == sorted(wanted)


def test_a_start_imports_no_pandas_which_takes_longer_than_the_rest(
    folders: dict[str, Path],
) -> None:
    code = (
        "import sys; from trainer.data.loader import Loader; "
        "Loader([sys.argv[1]], seq_len=32, rows=6, cache=sys.argv[2]).batch(3); "
        "assert 'pandas' not in sys.modules"
    )
    arguments = [str(folders["pages"]), str(folders["cache"])]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def test_few_windows_are_held_however_much_is_read(folders: dict[str, Path]) -> None:
    loader = open_loader(folders, "pages")
    assert len(loader.sources[0].plan(0).windows) > 2 * HELD_WINDOWS
    for _ in loader.batches(0, 120):
        assert len(loader.sources[0]._held) <= HELD_WINDOWS


def test_a_mixture_takes_its_shares_and_reports_epochs(folders: dict[str, Path]) -> None:
    mixed = [Mixed(folders["pages"], 1.0), Mixed(folders["books"], 3.0)]
    loader = Loader(mixed, seq_len=32, rows=8, packing="best_fit", cache=folders["cache"])
    epochs, rows = loader.epochs(512), 512 * 8
    for k, share in enumerate((0.25, 0.75)):
        assert epochs[k] == rows * share / loader.sources[k].plan(0).num_rows
    alone = [open_loader(folders, n, window_tokens=1 << 22, rows=1) for n in ("pages", "books")]
    taken = [0, 0]
    for step in range(20):
        batch = loader.batch(step)
        for row in range(8):
            own = [loader.mixture.rows_of(k, step * 8 + row, step * 8 + row + 1) for k in (0, 1)]
            k = 0 if own[0] else 1
            assert np.array_equal(batch.inputs[row], alone[k].batch(taken[k]).inputs[0])
            assert np.array_equal(batch.targets[row], alone[k].batch(taken[k]).targets[0])
            assert np.array_equal(batch.positions[row], alone[k].batch(taken[k]).positions[0])
            taken[k] += 1


def refusal(*mixed: Mixed | Path) -> str:
    with pytest.raises(UserError) as caught:
        Loader(mixed, seq_len=32, rows=8)
    return str(caught.value)


def test_what_cannot_be_mixed_is_refused_by_its_folder(
    folders: dict[str, Path], tmp_path: Path, write_corpus: Callable[..., Path]
) -> None:
    pages, books = folders["pages"], folders["books"]
    assert f"{tmp_path / 'x'}: no shards here" in refusal(pages, tmp_path / "x")
    again = shutil.copytree(pages, tmp_path / "again")
    assert f"{again}: holds the same shards as {pages}: name one" in refusal(pages, books, again)
    assert "sources = (): must name at least one folder" in refusal()
    assert f"{books}: weight = 0.0: must be above 0" in refusal(pages, Mixed(books, 0))
    assert f"{books}: max_epochs = -1: must be" in refusal(pages, Mixed(books, 1, -1))
    poor = refusal(pages, Mixed(books, 1e-6))
    assert poor.startswith(f"weight = 1e-06 of {books}: under 1 in 4096 of the rows")


def test_shards_of_two_tokenizers_do_not_mix(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["books"], tmp_path / "other")
    other = tokenizers.from_tokens("other", [bytes([b]) for b in range(256)] + [b"zz"])
    with altered(folder) as values:
        told = values["extra"]["tokenizer"]
        other.save(folder / told["file"])
        told |= {"name": other.name, "hash": other.hash, "vocab_size": other.vocab_size}
        values["extra"]["content_hash"] = content_hash(values)
    pages = folders["pages"]
    said = f"{folder}: tokenizer other ({other.hash[:12]}), {pages} has tiny ("
    assert refusal(pages, folder).startswith(said)


def test_more_epochs_than_allowed_are_refused_before_the_run(folders: dict[str, Path]) -> None:
    mixed = [Mixed(folders["pages"], 1.0, 2), Mixed(folders["books"], 1.0)]
    loader = Loader(mixed, seq_len=32, rows=8, packing="best_fit", cache=folders["cache"])
    enough = loader.sources[0].first_row(2) * 2 // 8
    assert loader.epochs(enough - 1)[0] <= 2.1
    with pytest.raises(UserError, match=r"pages: max_epochs = 2: the run takes .* lower its"):
        loader.epochs(enough + 2)


@pytest.mark.parametrize(("rows", "world", "micro"), [(8, 3, 0), (8, 2, 3), (6, 4, 1)])
def test_rows_that_ranks_and_pieces_do_not_divide_are_refused(
    rows: int, world: int, micro: int
) -> None:
    with pytest.raises(UserError, match=rf"data.batch_size = {rows}: must be a multiple of the"):
        rank_rows(rows, 0, world, micro)


def test_a_plan_is_built_again_where_it_is_missing_or_torn(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    def batch() -> Batch:
        return Loader([folders["pages"]], seq_len=32, rows=6, cache=tmp_path).batch(9)

    first = batch()
    (plan,) = tmp_path.iterdir()
    before = {path.name: path.read_bytes() for path in plan.iterdir()}
    (plan / "starts.npy").write_bytes(before["starts.npy"][:-4])
    assert equal(batch(), first)
    (plan / "plan.json").unlink()
    assert equal(batch(), first)
    assert {path.name: path.read_bytes() for path in plan.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [plan.name]


def test_a_flip_in_a_plan_never_reaches_a_batch(folders: dict[str, Path], tmp_path: Path) -> None:
    def batches() -> list[Batch]:
        settings = {"seq_len": 32, "rows": 6, "packing": "best_fit", "cache": tmp_path}
        loader = Loader([folders["pages"]], **settings)  # type: ignore[arg-type]
        return [loader.batch(step) for step in range(loader.num_rows() // 6)]

    right, draw = batches(), random.Random(3)
    (plan,) = tmp_path.iterdir()
    for path in plan.glob("*.npy"):
        before = path.read_bytes()
        for _ in range(8):
            data = bytearray(before)
            data[draw.randrange(128, len(data))] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
            if path.stem in ("groups", "windows"):  # checked when opened, and built again
                assert all(equal(*pair) for pair in zip(batches(), right, strict=True))
            else:
                with pytest.raises(UserError, match=f"{plan}: altered: remove this folder"):
                    batches()
            path.write_bytes(before)


def test_too_few_tokens_for_a_row_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"tokens in split 'train', data.seq_len = 999999 needs"):
        open_loader(folders, "pages", seq_len=999_999, packing="concat").batch(0)


@pytest.mark.parametrize(("name", "packing"), [("pages", "concat"), ("chats", "best_fit")])
def test_where_names_the_document_of_any_token_and_comes_back(
    folders: dict[str, Path], name: str, packing: str
) -> None:
    loader = open_loader(folders, name, packing=packing, seq_len=24)
    draw = np.random.default_rng(0)
    expected = [r for e in range(3) for r in epoch_rows(folders[name], loader.spec, e)]
    steps = len(expected) // 6
    for step, row, position in draw.integers(0, [steps, 6, 25], (60, 3)).tolist():
        token, _, document, place = expected[step * 6 + row][position]
        origin = origin_of(loader, step, row, position)
        if document is None:
            assert origin is None
            continue
        assert origin is not None
        assert (origin.shard, origin.row_group, origin.row_in_group) == document
        assert (origin.token, origin.token_id) == (place, token)
        assert origin.id == f"<urn:{origin.record_offset}>"
        back = list(rows_with(loader, steps, url=origin.url))
        seen = [s for s in back if (s.step, s.row) == (step, row)]
        assert any(s.position <= position < s.position + s.end - s.first for s in seen)
        assert back == list(rows_with(loader, steps, document_id=origin.id))
        in_all = sum(t[2] == document for r in expected[: steps * 6] for t in r)
        assert sum(s.end - s.first for s in back) == in_all


def test_a_place_outside_the_batch_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="--row 6: must be from 0 to 5"):
        origin_of(open_loader(folders, "pages"), 0, 6)
    with pytest.raises(UserError, match="--pos 33: must be from 0 to 32"):
        origin_of(open_loader(folders, "pages"), 0, 0, 33)
