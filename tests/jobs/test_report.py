"""`gristmill report` on whatever a root holds: documents, conversations, or both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from corpus.chat.encode import Conversations
from corpus.tokens.shards import Shard
from jobs import cli
from jobs.chat import conversations
from schemas import manifest, tokenizer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Conversations alone, one of them refused."""
    rows = [{"id": i, "prompt": "who", "response": f"me {i}"} for i in range(30)]
    lines = [*map(json.dumps, rows), "{"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    known = tokenizer.from_tokens("bytes", [bytes([i]) for i in range(256)])
    shard = Shard(validation_fraction=0.3)
    inputs = (tmp_path / "a.jsonl",)
    conversations.make(
        conversations.ChatJob(inputs, known, tmp_path / "r", "chats", Conversations(64), shard)
    )
    return tmp_path / "r"


def test_conversations_are_reported_without_documents(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", "--root", str(root), "--shards", "chats"]) == 0
    printed = capsys.readouterr().out
    assert "target tokens" in printed
    assert "rejected: invalid_json 1; line by line in" in printed
    assert "train: " in printed


def test_conversations_are_reported_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--root", str(root), "--shards", "chats", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    made = manifest.read(root / "chats")
    assert made is not None
    assert (told["kind"], told["forms"]) == ("conversations", list(map(vars, made.extra.forms)))
    assert (told["reasons"], told["forgotten"]) == ({"invalid_json": 1}, 0)
    assert (told["tokens"], told["shards"]) == (made.counts["tokens"], len(made.files))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--shards", "chats", "--html", "x.html"], "--html: charts web documents only"),
        ([], "no run was committed there; start with gristmill run"),
        (["--shards", "other"], "no run was committed there"),
    ],
)
def test_what_cannot_be_reported_is_said_in_a_sentence(
    flags: list[str], said: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", "--root", str(root), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not Path("x.html").exists()


def test_beside_conversations_documents_have_their_funnel(
    root: Path, sample_roots: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    both = root.parent / "both"
    shutil.copytree(sample_roots["sail"], both)
    shutil.copytree(root / "chats", both / "chats")
    assert cli.main(["report", "--root", str(both)]) == 0
    assert "funnel of recipe 'sample'" in capsys.readouterr().out
    assert cli.main(["report", "--root", str(both), "--shards", "chats"]) == 0
    assert "target tokens" in capsys.readouterr().out
