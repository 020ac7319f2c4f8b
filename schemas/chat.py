"""The token grammar of conversations, shared by shards, chat and exported templates.

    conversation = <|endoftext|> turn*
    turn         = <|system|> text <|end|>
                 | <|user|> text <|end|>
                 | <|assistant|> text call* <|end|>
                 | <|tool_result|> text <|tool_result_end|>
    call         = <|tool_call|> json <|tool_call_end|>

Each text is encoded by itself, and only this module inserts control ids. So no field can end its
turn or begin another, nor can two fields together. A reply is what follows `<|assistant|>`; it is
parsed by `FOLLOWS`, which also says what a model may write next.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from schemas import json_text
from schemas.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant", "tool"]
Place = Literal["text", "call", "called", "end"]

# Place in a reply -> the control tokens that may come there, and the place after each.
FOLLOWS: dict[Place, dict[str, Place]] = {
    "text": {"<|tool_call|>": "call", "<|end|>": "end"},
    "call": {"<|tool_call_end|>": "called"},
    "called": {"<|tool_call|>": "call", "<|end|>": "end"},
    "end": {},
}
HOLDS_TEXT: tuple[Place, ...] = ("text", "call")


@dataclass(frozen=True)
class Turn:
    """One turn: fields of text, and an assistant's tool calls, each as JSON.

    `learned`: the turn's tokens are targets.
    """

    role: Role
    texts: tuple[str, ...]
    calls: tuple[str, ...] = ()
    learned: bool = False


@dataclass
class Framed:
    """Token ids, their loss mask (1: target), and the number of turns and UTF-8 bytes of text."""

    tokens: array[int] = field(default_factory=lambda: array("i"))
    mask: bytearray = field(default_factory=bytearray)
    num_turns: int = 0
    text_bytes: int = 0

    def turn(self, turn: Turn, tokenizer: Tokenizer) -> None:
        """Append a turn; its texts, calls and end (not its name) are targets if it is learned."""
        ids, target = tokenizer.chat_ids, turn.learned
        name, end = "<|tool_result|>", "<|tool_result_end|>"
        if turn.role != "tool":
            name, end = f"<|{turn.role}|>", "<|end|>"
        self.control(ids[name], False)
        for text in turn.texts:
            self.text(text, tokenizer, target)
        for call in turn.calls:
            self.control(ids["<|tool_call|>"], target)
            self.text(call, tokenizer, target)
            self.control(ids["<|tool_call_end|>"], target)
        self.control(ids[end], target)

    def control(self, token: int, target: bool) -> None:
        """Append one id that no text can produce."""
        self.tokens.append(token)
        self.mask.append(target)

    def text(self, text: str, tokenizer: Tokenizer, target: bool) -> None:
        """Append the ids of a text."""
        ids = tokenizer.encode(text)
        self.tokens.extend(ids)
        self.mask.extend(bytes([target]) * len(ids))
        self.text_bytes += len(tokenizer.normalized(text).encode())


def encode_turn(turn: Turn, tokenizer: Tokenizer) -> list[int]:
    """The ids of one turn."""
    framed = Framed()
    framed.turn(turn, tokenizer)
    return framed.tokens.tolist()


def reply_prompt(turns: Iterable[Turn], tokenizer: Tokenizer) -> list[int]:
    """The ids after which an assistant's reply to `turns` begins."""
    ids = [tokenizer.boundary]
    for turn in turns:
        ids += encode_turn(turn, tokenizer)
    return [*ids, tokenizer.chat_ids["<|assistant|>"]]


@dataclass(frozen=True)
class Reply:
    """A parsed reply. `cut_call`: a call without an end; `ended`: whether the turn ended."""

    text: str
    calls: tuple[str, ...]
    cut_call: str | None
    ended: bool


def parse_reply(ids: Sequence[int], tokenizer: Tokenizer) -> Reply:
    """Parse the ids after `<|assistant|>`, up to `<|end|>` or the first that cannot come there.

    Invalid UTF-8 becomes U+FFFD.
    """
    parts: list[list[int]] = [[]]  # the text, then the calls
    place: Place = "text"
    for token in ids:
        after = next_place(place, token, tokenizer)
        if after is None:
            break
        if after == "call" and place != "call":
            parts.append([])
        elif after == place:
            parts[-1].append(token)
        place = after
        if place == "end":
            break
    text, *calls = (tokenizer.decode(part) for part in parts)
    cut_call = calls.pop() if place == "call" else None
    return Reply(text, tuple(calls), cut_call, place == "end")


def next_place(place: Place, token: int, tokenizer: Tokenizer) -> Place | None:
    """Where a reply stands after `token`; None where the grammar has no such token."""
    for name, after in FOLLOWS[place].items():
        if token == tokenizer.chat_ids[name]:
            return after
    return place if place in HOLDS_TEXT and token in tokenizer.token_bytes else None


@dataclass(frozen=True)
class Call:
    """A tool call: the tool's name and its arguments by name."""

    name: str
    arguments: dict[str, Any]


def read_call(text: str) -> Call | None:
    """The call that a call's JSON stands for; None where it is no call."""
    try:
        value = json_text.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    return Call(value["name"], arguments) if isinstance(arguments, dict) else None
