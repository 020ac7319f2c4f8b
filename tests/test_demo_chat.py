"""The sample conversations and the demo that is trained on them: consistent, true to the crawl."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from corpus.chat import encode as framing
from corpus.chat.encode import Accepted, Conversations
from schemas import tokenizer as tokenizers
from schemas.chat import read_call
from schemas.config import load_toml
from trainer.settings import PretrainRecipe, SftRecipe

PROJECT = Path(__file__).parents[1]
SAMPLES = PROJECT / "samples"
FILES = sorted((SAMPLES / "conversations").glob("*.jsonl"))


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The scripts of samples/, which import each other by their bare names."""
    names = ["texts", "chat_texts", "conversations", "demo", "demo_chat", "chat_check"]
    sys.path.insert(0, str(SAMPLES))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(SAMPLES))
        for name in names:
            sys.modules.pop(name, None)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def messages() -> list[list[dict[str, Any]]]:
    return [row["messages"] for path in FILES for row in rows(path)]


def said(conversation: list[dict[str, Any]]) -> list[str]:
    return [m["content"] for m in conversation if m["role"] == "user"]


def test_the_committed_files_are_what_the_generator_writes(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    modules["conversations"].write(tmp_path)
    written = sorted((tmp_path / "conversations").iterdir())
    assert [path.name for path in written] == [path.name for path in FILES]
    for ours, theirs in zip(FILES, written, strict=True):
        assert ours.read_bytes() == theirs.read_bytes(), ours.name
    held_out = (SAMPLES / "held_out.jsonl").read_bytes()
    assert held_out == (tmp_path / "held_out.jsonl").read_bytes()


def test_the_conversations_are_small_and_their_ids_differ() -> None:
    ids = [row["id"] for path in FILES for row in rows(path)]
    assert len(ids) == len(set(ids))
    assert 2_000 <= len(ids) <= 4_000
    assert sum(path.stat().st_size for path in FILES) < 2_000_000


def test_every_fact_stands_in_the_article_that_it_is_taken_from(
    modules: dict[str, ModuleType],
) -> None:
    texts = {article.slug: article.text for article in modules["texts"].english_articles()}
    for fact in modules["chat_texts"].read_facts():
        assert fact.short.lower() in texts[fact.slug].lower(), fact
        assert fact.short.lower() in fact.answer.lower(), fact
        assert fact.short.lower() in fact.passages[0].lower(), fact
        assert len(fact.questions) == 3, fact


def test_every_row_is_a_conversation_that_fits_a_row_of_the_demo(
    modules: dict[str, ModuleType],
) -> None:
    letters = tokenizers.from_tokens("bytes", [bytes([b]) for b in range(256)])
    for path in FILES:
        for row in framing.read_file(path, letters, Conversations(context=10_000)):
            assert isinstance(row, Accepted), row
            assert row.num_cut == 0
            # Tokens of three letters on average are more than the demo's tokenizer makes of them.
            assert len(row.framed.tokens) < 3 * modules["demo_chat"].CONTEXT, row.id


def test_what_is_held_out_is_asked_in_no_conversation() -> None:
    questions = rows(SAMPLES / "held_out.jsonl")
    named = ("a name given to it", "an answer from a search")
    asked = {text for conversation in messages() for text in said(conversation)}
    with_system = {(c[0]["content"], *said(c)) for c in messages() if c[0]["role"] == "system"}
    for question in questions:
        text = said(question["messages"])[0]
        if question["kind"] in named:
            assert (question["messages"][0]["content"], text) not in with_system, question
        else:
            assert text not in asked, question


def test_no_held_out_name_is_in_a_conversation(modules: dict[str, ModuleType]) -> None:
    chat_texts = modules["chat_texts"]
    words = chat_texts.read_words()
    invented = {
        start + end for start in words["place start"] for end in words["place end"]
    }  # fmt: skip
    held_out = {name for name in invented if chat_texts.is_held_out(name)}
    text = "\n".join(path.read_text("ascii") for path in FILES)
    assert len(held_out) > 20
    assert not [name for name in held_out if name in text]
    pages = "\n".join(article.text for article in modules["texts"].english_articles())
    assert not [name for name in invented if f" {name} " in pages]


def test_the_demo_asks_about_a_known_and_about_a_held_out_town(
    modules: dict[str, ModuleType],
) -> None:
    known, invented, *_ = (question.prompt for question in modules["demo_chat"].QUESTIONS)
    assert known.replace("Tollgate", "Norgate") == invented
    assert modules["chat_texts"].is_held_out("Norgate")


def test_a_reply_is_compared_as_its_question_says(modules: dict[str, ModuleType]) -> None:
    check = modules["chat_check"]
    call = '{"name": "search", "arguments": {"query": "bell Ashcombe"}}'
    cases = [
        ("is", "Nell.", "Nell.", (), True),
        ("is", "Nell.", "Nell", (), False),
        ("starts", "I'm not sure.", "I'm not sure. My pages do not say that.", (), True),
        ("contains", "a duck", "It is shaped like A duck.", (), True),
        ("contains", "a duck", "It is shaped like a goose.", (), False),
        ("calls", "Ashcombe", "", (call,), True),
        ("calls", "Ashcombe", "bell Ashcombe", (), False),
        ("calls", "Millrace", "", (call,), False),
    ]
    for how, expected, text, calls, right in cases:
        reply = check.Reply(text, calls, None, True)
        assert check.is_right({"how": how, "expect": expected}, reply) is right, (how, text)


def test_held_out_questions_are_read_as_conversations_are(modules: dict[str, ModuleType]) -> None:
    for row in rows(SAMPLES / "held_out.jsonl"):
        turns = modules["chat_check"].turns_of(row)
        assert [turn.role for turn in turns] == [message["role"] for message in row["messages"]]
        assert all(read_call(call) for turn in turns for call in turn.calls)


def test_the_demo_trains_two_and_a_half_million_tokens_on_rows_that_hold_a_conversation(
    modules: dict[str, ModuleType],
) -> None:
    demo = modules["demo_chat"]
    base = load_toml(PROJECT / demo.BASE_RECIPE, PretrainRecipe)
    chat = load_toml(PROJECT / demo.CHAT_RECIPE, SftRecipe)
    assert base.data.seq_len == chat.data.seq_len == demo.CONTEXT - 1
    assert base.data.vocab_size == chat.data.vocab_size == 4096
    tokens = [r.run.num_steps * r.data.batch_size * r.data.seq_len for r in (base, chat)]
    assert tokens == [pytest.approx(2_000_000, rel=0.02), pytest.approx(500_000, rel=0.02)]


def test_the_table_has_a_line_for_each_time_and_loss(modules: dict[str, ModuleType]) -> None:
    run = {
        "parameters": 5,
        "tokens": 2_000,
        "epochs": {"a/shards": 1.5},
        "train_loss_first": 8.0,
        "train_loss_last": 0.5,
        "validation_loss_first": 8.0,
        "validation_loss_last": 0.25,
    }
    report = {
        "corpus": {"canonical": 3, "tokens": 100},
        "conversations": {"documents": 7, "tokens": 90, "target_tokens": 40},
        "base": run,
        "assistant": run,
        "seconds": {"corpus": 1.0, "all": 2.0},
    }
    lines = modules["demo_chat"].rows(report)
    assert ("base model: tokens", "2,000 (1.5 epochs)") in lines
    assert ("assistant: validation loss", "8.00 -> 0.25") in lines
    assert lines[-2:] == [("corpus", "1.0 s"), ("all", "2.0 s")]
    kinds = {"a": {"questions": 2, "in_format": 2, "right": 1}}
    kinds["b"] = {"questions": 3, "in_format": 1, "right": 0}
    assert modules["demo_chat"].total(kinds) == {"questions": 5, "in_format": 3, "right": 1}


def test_a_demo_deletes_what_a_demo_made_alone(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    make_fresh = modules["demo"].make_fresh
    (tmp_path / "corpus").mkdir()
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(SystemExit, match=r"thesis\.docx"):
        make_fresh(tmp_path, ("corpus", "model"))
    (tmp_path / "thesis.docx").rename(tmp_path / "corpus" / "thesis.docx")
    (tmp_path / "model").symlink_to(tmp_path / "corpus")
    with pytest.raises(SystemExit, match="symbolic link"):
        make_fresh(tmp_path, ("corpus", "model"))
    (tmp_path / "model").unlink()
    make_fresh(tmp_path, ("corpus", "model"))
    assert not tmp_path.exists()
