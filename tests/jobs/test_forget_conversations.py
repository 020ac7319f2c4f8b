"""What is forgotten leaves the conversations that a fresh run would have made without it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus.chat.encode import Conversations
from corpus.clean.removals import DocumentKeys, RemovalRequest, load_keys
from corpus.tokens.shards import Shard
from jobs.chat import conversations, row_files
from jobs.engine import dataset_io
from jobs.engine.roots import refuse_unfinished
from jobs.engine.session import Engine
from jobs.takedown import request as forget
from schemas import manifest, tokenizer
from schemas.datasets import FORGOTTEN
from schemas.errors import UserError
from schemas.manifest import DataFile, ForgottenExtra, Manifest
from trainer.data.shards import open_shards

NUM_ROWS = 80


def row(i: int) -> dict[str, Any]:
    """Two forms, some too long for the context, some that nothing can be made of."""
    named = {"id": f"chat-{i}", "url": f"https://site{i % 5}.example/{i}"}
    if i % 9 == 4:
        return named | {"messages": [{"role": f"secret-{i}", "content": "x"}]}
    if i % 4 == 0:
        return {"prompt": f"why {i}", "response": "because"}  # its name is the file's and the line
    said = [{"role": "user", "content": f"hello {i}"}, {"role": "assistant", "content": "yes"}]
    return named | {"messages": said * (1 + i % 6)}


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("chats")
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row(i)) for i in range(NUM_ROWS)))
    pairs = [{"id": f"pair-{i}", "prompt": "who", "response": f"me {i}"} for i in range(20)]
    (folder / "b.json").write_text(json.dumps(pairs))
    return folder / "a.jsonl", folder / "b.json"


@pytest.fixture(scope="module")
def asked() -> list[RemovalRequest]:
    """By id of a conversation, of one that has no id of its own, of a rejected row; URL; domain."""
    return [
        RemovalRequest("id", "chat-1"),
        RemovalRequest("id", "a.jsonl:9"),
        RemovalRequest("id", "chat-13"),
        RemovalRequest("id", "pair-7"),
        RemovalRequest("url", "http://www.site2.example/2#top"),
        RemovalRequest("domain", "site3.example"),
        RemovalRequest("id", "nobody"),
    ]


def is_asked(i: int) -> bool:
    """What `asked` means of the rows of a.jsonl, by a plain look."""
    has_url = "url" in row(i)
    return i in (1, 13, 8) or (has_url and (i % 5 == 3 or i == 2))


def request(root: Path, chats: tuple[Path, ...], **changed: Any) -> conversations.ChatJob:
    known = tokenizer.from_tokens("bytes", [bytes([i]) for i in range(256)])
    framing, shard = Conversations(64), Shard(seed=1, validation_fraction=0.3)
    made = conversations.ChatJob(chats, known, root, "chats", framing, shard)
    return dataclasses.replace(made, **changed)


def listed(folder: Path) -> Manifest:
    found = manifest.read(folder)
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != manifest.MANIFEST_FILE}


def numbers(folder: Path) -> tuple[Any, ...]:
    """What a manifest says, but for times and the order of files."""
    made = listed(folder)
    return made.files, made.counts, made.extra, made.fingerprint


@pytest.fixture
def root(chats: tuple[Path, ...], tmp_path: Path) -> Path:
    conversations.make(request(tmp_path / "root", chats))
    return tmp_path / "root"


def fresh(root: Path, chats: tuple[Path, ...], other: Path, **changed: Any) -> Path:
    """The conversations of another root that knew from the start what has to be forgotten."""
    shutil.copytree(root / "forgotten", other / "forgotten")
    made = request(other, chats, **changed)
    conversations.make(made)
    return made.folder


def test_what_is_left_is_what_a_fresh_run_makes_to_the_byte(
    root: Path, chats: tuple[Path, ...], asked: list[RemovalRequest], engine: Engine, tmp_path: Path
) -> None:
    before = listed(root / "chats")
    removed = forget.run(root, engine, asked)
    assert removed.unmatched == [RemovalRequest("id", "nobody")]
    other = fresh(root, chats, tmp_path / "other")
    assert contents(root / "chats") == contents(other)
    assert numbers(root / "chats") == numbers(other)
    gone = sum(map(is_asked, range(NUM_ROWS))) + 1
    after = listed(root / "chats")
    assert after.extra.forgotten == removed.rows["chats"] == gone
    assert after.rows < before.rows
    assert len(after.extra.forms) == len(before.extra.forms) == 2
    assert sum(form.rows for form in after.extra.forms) == NUM_ROWS + 20 - gone
    assert removed.tokens == before.counts["tokens"] - after.counts["tokens"] > 0


def test_nothing_names_them_any_more_but_the_record(
    root: Path, asked: list[RemovalRequest], engines: Callable[[str], Engine]
) -> None:
    forget.run(root, engines("sail"), asked)
    rejected = (root / "chats" / listed(root / "chats").extra.rejected.name).read_text()
    told = {json.loads(line)["line"] - 1 for line in rejected.splitlines()}
    assert told == {i for i in range(NUM_ROWS) if i % 9 == 4 and not is_asked(i)}
    assert "secret-13" not in rejected
    files = listed(root / "chats").paths(root / "chats")
    ids = {id_ for path in files for id_ in pq.read_table(path)["id"].to_pylist()}
    assert not ids & {"chat-1", "a.jsonl:9", "pair-7", "chat-2", "chat-3"}
    rows = [row for path in listed(root / "forgotten").paths(root / "forgotten")
            for row in pq.read_table(path).to_pylist() if row["file_path"]]  # fmt: skip
    named = {"chat-1", "a.jsonl:9", "chat-13", "pair-7", "chat-2", "chat-3"}
    assert named <= {row["id"] for row in rows}


def test_counts_are_those_of_the_rows_that_are_there(
    root: Path, asked: list[RemovalRequest], engines: Callable[[str], Engine]
) -> None:
    forget.run(root, engines("sail"), asked)
    made = listed(root / "chats")
    rows = [row for path in made.paths(root / "chats") for row in pq.read_table(path).to_pylist()]
    names = ("conversations", "tokens", "target_tokens", "rejected", "rows")
    totals = {name: sum(getattr(form, name) for form in made.extra.forms) for name in names}
    assert totals["conversations"] == len(rows) == made.counts["documents"]
    assert totals["tokens"] == sum(len(row["tokens"]) for row in rows) == made.counts["tokens"]
    assert totals["target_tokens"] == sum(sum(row["loss_mask"]) for row in rows)
    assert totals["target_tokens"] == made.extra.target_tokens
    assert totals["rejected"] == sum(made.extra.reasons.values())
    opened = open_shards(root / "chats")
    assert opened.content_hash == made.extra.content_hash


def test_what_is_forgotten_is_not_done_again_and_does_not_come_back(
    root: Path, chats: tuple[Path, ...], asked: list[RemovalRequest],
    engines: Callable[[str], Engine], tmp_path: Path,
) -> None:  # fmt: skip
    forget.run(root, engines("sail"), asked)
    before = {path: path.stat().st_mtime_ns for path in (root / "chats").iterdir()}
    again = forget.run(root, engines("sail"), asked)
    assert not conversations.make(request(root, chats))
    assert {path: path.stat().st_mtime_ns for path in (root / "chats").iterdir()} == before
    assert again.rows == {"chats": 0}
    longer = {"conversations": Conversations(200), "overwrite": True}
    assert conversations.make(request(root, chats, **longer))
    assert numbers(root / "chats") == numbers(fresh(root, chats, tmp_path / "other", **longer))


def test_a_file_of_which_all_is_forgotten_is_no_error(
    root: Path, chats: tuple[Path, ...], engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    forget.run(root, engines("sail"), [RemovalRequest("id", f"pair-{i}") for i in range(20)])
    other = fresh(root, chats, tmp_path / "other")
    assert listed(other).extra.forgotten == 20
    assert "b.json" not in {
        name for path in listed(other).paths(other)
        for name in pq.read_table(path)["file_path"].to_pylist()
    }  # fmt: skip


def test_shards_of_an_earlier_version_lose_them_and_keep_their_counts_by_form(
    root: Path, asked: list[RemovalRequest], engines: Callable[[str], Engine]
) -> None:
    made = listed(root / "chats")
    extra = dataclasses.replace(made.extra, rows=None, forgotten=None)
    (root / "chats" / made.extra.rows.name).unlink()
    manifest.write(root / "chats", dataclasses.replace(made, extra=extra))
    removed = forget.run(root, engines("sail"), asked)
    after = listed(root / "chats")
    assert after.rows == after.counts["documents"] == made.rows - (removed.rows["chats"] - 2)
    assert after.extra.rows is None


class KilledError(Exception):
    """The process is gone."""


@pytest.mark.parametrize(
    ("module", "name", "nth"),
    [
        (row_files, "put", 1),
        (row_files, "put", 2),
        (manifest, "write", 3),
        (dataset_io, "sweep", 1),
    ],
)
def test_a_killed_run_is_gone_on_with(
    module: Any, name: str, nth: int, root: Path, chats: tuple[Path, ...],
    asked: list[RemovalRequest], engines: Callable[[str], Engine], tmp_path: Path,
) -> None:  # fmt: skip
    real, calls = getattr(module, name), []

    def die(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == nth:
            raise KilledError
        return real(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, die)
        with pytest.raises(KilledError):
            forget.run(root, engines("sail"), asked)
    open_shards(root / "chats")
    with pytest.raises(UserError, match="a takedown did not finish"):
        refuse_unfinished(root)
    forget.run(root, engines("sail"), [])
    other = fresh(root, chats, tmp_path / "other")
    assert contents(root / "chats") == contents(other)
    assert numbers(root / "chats") == numbers(other)


def test_a_missing_file_of_rejected_rows_is_named(
    root: Path, asked: list[RemovalRequest], engines: Callable[[str], Engine]
) -> None:
    name = listed(root / "chats").extra.rejected.name
    (root / "chats" / name).unlink()
    with pytest.raises(Exception, match=rf"{name}: missing, the manifest lists it"):
        forget.run(root, engines("sail"), asked)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gone=st.sets(st.integers(0, NUM_ROWS - 1), max_size=40), batch=st.sampled_from([3, 1 << 16]))
def test_any_rows_leave_both_files_and_all_counts_as_a_fresh_run_would(
    gone: set[int], batch: int, chats: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    whole = request(folder / "whole", chats)
    conversations.make(whole)
    lines = chats[0].read_bytes().split(b"\n")
    names = [row(i).get("id", f"a.jsonl:{i + 1}") for i in range(NUM_ROWS)]
    offsets = [sum(map(len, lines[:i])) + i for i in range(NUM_ROWS)]
    record(folder / "other" / "forgotten", [names[i] for i in gone], [offsets[i] for i in gone])
    other = request(folder / "other", chats)
    conversations.make(other)
    keys: DocumentKeys = load_keys(folder / "other" / "forgotten")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, "ROWS_PER_BATCH", batch)
        found, counted = row_files.without(
            whole.folder, listed(whole.folder).extra, keys, folder / "work"
        )
    assert counted.forgotten == len(gone)
    same: tuple[str, ...] = ("forms", "reasons", "target_tokens", "forgotten", "rejected")
    same += ("rows",) if batch > 3 else ()  # a file's bytes do not depend on how it was read
    wanted = listed(other.folder).extra
    for name in same:
        assert getattr(found, name) == getattr(wanted, name), name
    for name in (found.rejected.name, wanted.rejected.name):
        assert (other.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def record(folder: Path, ids: list[str], offsets: list[int]) -> None:
    """A dataset `forgotten` that asks for these ids and has found them at these offsets."""
    asked = [{"by": "id", "value": id_} for id_ in ids]
    places = [{"file_path": "a.jsonl", "record_offset": offset} for offset in offsets]
    found = [one | place for one, place in zip(asked, places, strict=True)]
    files = []
    for kind, rows in (("requests", asked), ("matches", found)):
        file = dataset_io.write_table(folder, pa.Table.from_pylist(rows, schema=FORGOTTEN))
        files.append(dataclasses.replace(file, counts={kind: len(rows)} if rows else {}))
    kept: tuple[DataFile, ...] = tuple(files)
    manifest.write(folder, Manifest("forgotten", "", {}, {}, kept, {}, ForgottenExtra()))
