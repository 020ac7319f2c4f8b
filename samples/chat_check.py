"""How many held-out questions an assistant answers, by kind.

A reply is in the format of the conversations if it says something and ends its turn, and its calls
are calls. It is right if it is, begins with, or contains what the question expects, or searches for
the name that the question is about. Replies are greedy, written in batches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from corpus.chat.formats import read_row
from schemas.chat import Reply, Turn, parse_reply, read_call, reply_prompt
from trainer.generate.chat import ReplyReader, grammar_masks
from trainer.generate.generate import stream_ids
from trainer.model import checkpoint
from trainer.model.checkpoint import Checkpoint
from trainer.settings import SampleSettings

BATCH = 32
GREEDY = SampleSettings(temperature=0, max_tokens=64)


@dataclass(frozen=True)
class Answer:
    """A held-out question, as in held_out.jsonl, and what became of it."""

    question: dict[str, Any]
    text: str
    in_format: bool
    right: bool


def check(run: Path, questions: Path) -> list[Answer]:
    """Ask a run's newest checkpoint all questions of a file."""
    loaded = checkpoint.load(run, torch.device("cpu"))
    rows = [json.loads(line) for line in questions.read_text("utf-8").splitlines()]
    answers = []
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        replies = _replies(loaded, [turns_of(row) for row in batch])
        answers += [_answer(row, reply) for row, reply in zip(batch, replies, strict=True)]
    return answers


def turns_of(row: dict[str, Any]) -> list[Turn]:
    """The turns before the reply, read as those of a conversation are."""
    reply = {"role": "assistant", "content": "-"}
    return list(read_row({"messages": [*row["messages"], reply]}).turns[:-1])


def by_kind(answers: list[Answer]) -> dict[str, dict[str, int]]:
    """Kind of question -> how many there are, are in the format, are right."""
    found: dict[str, dict[str, int]] = {}
    for answer in answers:
        kind = answer.question["kind"]
        counts = found.setdefault(kind, {"questions": 0, "in_format": 0, "right": 0})
        counts["questions"] += 1
        counts["in_format"] += answer.in_format
        counts["right"] += answer.right
    return found


def _replies(loaded: Checkpoint, conversations: list[list[Turn]]) -> list[Reply]:
    tokenizer = loaded.tokenizer
    masks = grammar_masks(tokenizer)
    prompts = [reply_prompt(turns, tokenizer) for turns in conversations]
    readers = [ReplyReader(tokenizer, masks) for _ in prompts]
    randoms = [torch.Generator() for _ in prompts]  # greedy: never drawn from
    for _ in stream_ids(loaded.model, tokenizer, prompts, readers, randoms, GREEDY):
        pass
    return [parse_reply(reader.ids, tokenizer) for reader in readers]


def _answer(row: dict[str, Any], reply: Reply) -> Answer:
    said = bool(reply.text.strip() or reply.calls)
    in_format = reply.ended and said and all(map(read_call, reply.calls))
    shown = "".join((reply.text, *(f"[tool call] {call}" for call in reply.calls)))
    return Answer(row, shown, bool(in_format), in_format and is_right(row, reply))


def is_right(row: dict[str, Any], reply: Reply) -> bool:
    """Whether a reply is what its question expects."""
    expected, text = row["expect"], reply.text
    match row["how"]:
        case "is":
            return bool(text == expected)
        case "starts":
            return text.startswith(expected)
        case "contains":
            return expected.lower() in text.lower()
        case "calls":
            calls = [call for call in map(read_call, reply.calls) if call and call.name == "search"]
            return any(expected in str(call.arguments.get("query")) for call in calls)
    raise AssertionError(row["how"])
