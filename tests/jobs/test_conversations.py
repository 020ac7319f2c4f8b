"""`gristmill conversations`: every row in a shard or in the list of rejected ones, made once."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.chat import encode as framing
from corpus.chat.encode import Accepted, Conversations
from corpus.tokens import shards
from corpus.tokens.shards import Shard
from jobs.chat import conversations
from jobs.chat.conversations import ChatJob
from schemas import manifest, tokenizer
from schemas.datasets import CONVERSATION_SHARDS
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from schemas.tokenizer import Tokenizer
from trainer.data.loader import Loader

NUM_ROWS = 300
BAD = [
    (7, "{", "invalid_json"),
    (20, '{"messages": [{"role": "bot", "content": "a"}]}', "unknown_role"),
    (21, '{"id": "long", "prompt": "%s", "response": "a"}' % ("word " * 99), "too_long"),
    (NUM_ROWS, '{"id": "mute", "messages": [{"role": "user", "content": "a"}]}',
     "nothing_to_learn"),
]  # fmt: skip


@pytest.fixture(scope="module")
def known() -> Tokenizer:
    merged = [b"th", b"the", b" t", b"wo", b"rd", b" wo", b" word"]
    return tokenizer.from_tokens("small", [bytes([i]) for i in range(256)] + merged)


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, ...]:
    """Lines with four bad ones, and an array of the same conversations under other ids."""
    draw = np.random.default_rng(2)

    def chat(i: int) -> dict[str, Any]:
        words = [" ".join(draw.choice(["the", "word", "ü", "<|end|>"], 4)) for _ in range(6)]
        said = [{"role": ("user", "assistant")[j % 2], "content": w} for j, w in enumerate(words)]
        return {"id": i, "messages": said[: 2 + 2 * (i % 3)]}

    lines = [json.dumps(chat(i)) for i in range(NUM_ROWS)]
    for number, line, _ in BAD:
        lines[number - 1] = line
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    pairs = [{"instruction": "the", "output": f"word {i}"} for i in range(100)]
    (tmp_path / "b.json").write_text(json.dumps(pairs, indent=1))
    return tmp_path / "a.jsonl", tmp_path / "b.json"


@pytest.fixture
def request_(inputs: tuple[Path, ...], known: Tokenizer, tmp_path: Path) -> ChatJob:
    settings = Shard(seed=5, tokens_per_shard=3000, rows_per_group=16, validation_fraction=0.2)
    return ChatJob(inputs, known, tmp_path / "root", "chats", Conversations(90), settings)


def committed(request: ChatJob) -> Manifest:
    found = manifest.read(request.folder)
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name != manifest.MANIFEST_FILE
    }


def stored(request: ChatJob, split: str) -> list[dict[str, Any]]:
    files = [f for f in committed(request).files if f.extra.split == split]
    assert [file.extra.index for file in files] == list(range(len(files)))
    return [row for f in files for row in pq.read_table(request.folder / f.name).to_pylist()]


def test_every_row_is_in_a_shard_or_in_the_list_of_rejected_ones(request_: ChatJob) -> None:
    assert conversations.make(request_)
    made = committed(request_)
    rejected = (request_.folder / made.extra.rejected.name).read_text().splitlines()
    told = [json.loads(line) for line in rejected]
    assert [(row["file_path"], row["line"], row["reason"]) for row in told] == [
        ("a.jsonl", number, reason) for number, _, reason in BAD
    ]
    assert [row["id"] for row in told] == [None, None, "long", "mute"]
    assert made.extra.reasons == {reason: 1 for _, _, reason in BAD}
    assert made.rows == NUM_ROWS - len(BAD) + 100 == made.counts["documents"]
    for form in made.extra.forms:
        assert form.rows == form.conversations + form.rejected
    assert sum(form.rows for form in made.extra.forms) == NUM_ROWS + 100


def test_shards_hold_what_a_slow_reading_in_the_order_of_the_hash_gives(
    request_: ChatJob, known: Tokenizer
) -> None:
    conversations.make(request_)
    rows: dict[str, list[tuple[Any, ...]]] = {"train": [], "validation": []}
    for path in request_.inputs:
        for one in framing.read_file(path, known, request_.conversations):
            if isinstance(one, Accepted):
                split = framing.split_of_id(one.id, 0.2)
                key = shards.order_key(5, one.id)
                made = (one.framed.tokens.tolist(), list(one.framed.mask))
                rows[split].append((key, one.id, one.file_path, one.record_offset, *made))
    for split, expected in rows.items():
        found = [(r["tokens"], r["loss_mask"], r["id"]) for r in stored(request_, split)]
        assert found == [(tokens, mask, id_) for _, id_, *_, tokens, mask in sorted(expected)]
    assert len([f for f in committed(request_).files if f.extra.split == "train"]) > 2


def test_shards_are_of_the_form_of_all_shards(request_: ChatJob, known: Tokenizer) -> None:
    conversations.make(request_)
    made = committed(request_)
    assert (made.dataset, made.extra.kind) == ("shards", "conversations")
    assert made.extra.content_hash == shards.shards_content_hash(
        made.files, known.hash, known.vocab_size
    )
    for file in made.files:
        table = pq.read_table(request_.folder / file.name)
        assert table.schema.names == CONVERSATION_SHARDS.names
        lengths = np.load(request_.folder / file.extra.lengths.name)
        assert lengths.tolist() == table["token_count"].to_pylist()
        assert all(1 in mask for mask in table["loss_mask"].to_pylist())
    learned = sum(map(sum, (row["loss_mask"] for row in stored(request_, "train"))))
    learned += sum(map(sum, (row["loss_mask"] for row in stored(request_, "validation"))))
    assert learned == made.extra.target_tokens


def test_a_token_is_traced_to_its_line(request_: ChatJob) -> None:
    conversations.make(request_)
    for row in stored(request_, "train"):
        path = next(path for path in request_.inputs if path.name == row["file_path"])
        data = path.read_bytes()[row["record_offset"] :]
        value, _ = json.JSONDecoder().raw_decode(data.decode())
        assert row["id"] == str(value["id"]) if "id" in value else row["id"].startswith("b.json:")


def test_what_is_done_is_not_done_again(request_: ChatJob) -> None:
    assert conversations.make(request_)
    before = (request_.folder / manifest.MANIFEST_FILE).read_bytes()
    assert not conversations.make(request_)
    assert (request_.folder / manifest.MANIFEST_FILE).read_bytes() == before
    next(request_.folder.glob("rejected-*")).unlink()
    assert conversations.make(request_)
    shard = next(request_.folder.glob("train-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert conversations.make(request_)
    path = request_.inputs[0]
    path.write_text(path.read_text().replace("word", "sword"))
    assert conversations.make(request_)
    assert not conversations.make(request_)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"conversations": Conversations(80)}, "conversations.context = 90 there, 80 here"),
        ({"shard": Shard(seed=6)}, "shard.rows_per_group = 16 there, 1024 here"),
        ({"tokenizer": tokenizer.from_tokens("x", [bytes([i]) for i in range(256)])},
         "tokenizer.hash = "),
    ],
)  # fmt: skip
def test_shards_of_other_settings_are_refused_and_made_anew_when_asked(
    changed: dict[str, Any], said: str, request_: ChatJob
) -> None:
    conversations.make(request_)
    other = dataclasses.replace(request_, **changed)
    with pytest.raises(UserError, match=said):
        conversations.make(other)
    assert conversations.make(dataclasses.replace(other, overwrite=True))


def test_other_files_are_other_shards_and_nothing_of_the_old_stays(request_: ChatJob) -> None:
    conversations.make(request_)
    old = set(contents(request_.folder))
    fewer = dataclasses.replace(request_, inputs=request_.inputs[:1])
    assert conversations.make(fewer)
    made = committed(fewer)
    listed = {*shards.companions(made.files, made.extra), made.extra.rows.name}
    listed |= {file.name for file in made.files}
    assert set(contents(request_.folder)) == listed
    assert listed != old


def test_another_dataset_is_never_written_over(request_: ChatJob) -> None:
    manifest.write(request_.folder, Manifest("documents", "r", {}, {}, (), {}))
    with pytest.raises(UserError, match=r"--shards chats: .* holds 'documents'"):
        conversations.make(dataclasses.replace(request_, overwrite=True))


def test_bytes_do_not_depend_on_batches(
    request_: ChatJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conversations.make(request_)
    monkeypatch.setattr(conversations, "ROWS_PER_BATCH", 7)
    other = dataclasses.replace(request_, root=tmp_path / "other")
    conversations.make(other)
    assert contents(other.folder) == contents(request_.folder)


def test_a_killed_run_leaves_the_old_shards_whole(
    request_: ChatJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conversations.make(request_)
    before = contents(request_.folder)
    changed = dataclasses.replace(request_, conversations=Conversations(70), overwrite=True)
    write, written = shards.write_shard, []

    def fail(*arguments: Any) -> DataFile:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*arguments))
        return written[-1]

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", fail)
        with pytest.raises(KeyboardInterrupt):
            conversations.make(changed)
    assert not conversations.make(request_)
    assert before.items() <= contents(request_.folder).items()
    conversations.make(changed)
    straight = dataclasses.replace(changed, root=tmp_path / "straight")
    conversations.make(straight)
    assert contents(changed.folder) == contents(straight.folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"c\.jsonl: holds no row"),
        ("[]", r"c\.jsonl: holds no row"),
        (
            '{"a": 1}\n\nx',
            r"c\.jsonl: none of its 2 rows .*unknown_form 1, .* line 1: fields with a value: 'a'",
        ),
    ],
)
def test_a_file_of_which_nothing_can_be_used_is_an_error(
    content: str, said: str, request_: ChatJob, tmp_path: Path
) -> None:
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(UserError, match=said):
        conversations.make(dataclasses.replace(request_, inputs=(tmp_path / "c.jsonl",)))


@pytest.mark.parametrize(("fraction", "split"), [(0.0, "validation"), (1 - 1e-9, "train")])
def test_an_empty_split_is_an_error_that_names_the_setting(
    fraction: float, split: str, request_: ChatJob
) -> None:
    shard = Shard(validation_fraction=fraction)
    with pytest.raises(UserError, match=f"--validation-fraction .* into the {split} split"):
        conversations.make(dataclasses.replace(request_, shard=shard))


# The command


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    conversations.add_parser(parser.add_subparsers())
    chosen = parser.parse_args(["conversations", *map(str, arguments)])
    return int(chosen.command(chosen))


def test_the_command_tells_what_became_of_every_row(
    inputs: tuple[Path, ...], known: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known.save(tmp_path / "t.json")
    flags = ("--tokenizer", tmp_path / "t.json", "--root", tmp_path / "r", "--context", 90)
    assert run("--input", *inputs, *flags, "--validation-fraction", 0.1) == 0
    told = capsys.readouterr().err
    assert "rejected: invalid_json 1, nothing_to_learn 1, too_long 1, unknown_role 1" in told
    assert "rejected-" in told
    assert "openai" in told
    assert run("--input", *inputs, *flags, "--validation-fraction", 0.1) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--context", "1"], "--context = 1: must be at least 2"),
        (["--validation-fraction", "1"], "--validation-fraction = 1.0: must be"),
        (["--seed", "-1"], "--seed = -1: must be"),
        ([], "--root: missing"),
        (["--show", "0"], "--show 0: must be at least 1"),
    ],
)
def test_a_flag_that_makes_no_sense_is_named(
    flags: list[str], said: str, inputs: tuple[Path, ...]
) -> None:
    with pytest.raises(UserError, match=said):
        run("--input", *inputs, "--tokenizer", "cl100k_base", *flags)


def test_show_marks_what_is_learned_and_writes_nothing(
    inputs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"id": "x\x1b[2J", "prompt": "Who\x1b?", "response": "I. [b]"}))
    before = set(tmp_path.iterdir())
    assert run("--input", path, "--tokenizer", "cl100k_base", "--show", 3) == 0
    shown = capsys.readouterr().out
    assert "<|user|>Who\N{REPLACEMENT CHARACTER}?<|end|>\n<|assistant|>⟦I. [b]<|end|>⟧\n" in shown
    assert "\x1b" not in shown
    assert set(tmp_path.iterdir()) == before


def test_colours_mark_exactly_the_targets(known: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"prompt": "the word", "response": "a word"}))
    (one,) = framing.read_file(path, known, Conversations())
    assert isinstance(one, Accepted)
    text = conversations.drawn(one, known)
    green = "".join(text.plain[s.start : s.end] for s in text.spans if "green" in str(s.style))
    assert green == "a word<|end|>"


def test_token_rows_of_many_batches_come_back_by_shard(tmp_path: Path, known: Tokenizer) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join('{"prompt": "a", "response": "b"}' for _ in range(50)))
    accepted = [
        a for a in framing.read_file(path, known, Conversations()) if isinstance(a, Accepted)
    ]
    assert [len(b) for b in conversations.batches(iter(accepted))] == [50]
    settings = Shard(tokens_per_shard=60, validation_fraction=0.3)
    with pa.ipc.new_file(str(tmp_path / "spool"), framing.TOKENS) as spool:
        for i in range(0, 50, 3):
            spool.write_batch(framing.token_rows(accepted[i : i + 3], settings))
    files = conversations.write_shards(tmp_path / "spool", tmp_path / "out", settings)
    assert sum(file.rows for file in files) == 50
    assert len({file.name for file in files}) == len(files) > 5


def test_an_epoch_of_the_loader_learns_every_target_once(request_: ChatJob, tmp_path: Path) -> None:
    conversations.make(request_)
    loader = Loader([request_.folder], seq_len=89, rows=1, packing="best_fit", cache=tmp_path / "c")
    steps = next(n for n in itertools.count(1) if loader.epochs(n)[0] >= 1)
    learned: Counter[int] = Counter()
    for step in range(steps):
        targets = loader[step].targets
        learned.update(targets[targets >= 0].tolist())
    expected: Counter[int] = Counter()
    for row in stored(request_, "train"):
        expected.update(t for t, m in zip(row["tokens"], row["loss_mask"], strict=True) if m)
    assert learned == expected
