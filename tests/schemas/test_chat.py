"""The grammar of conversations: what is encoded is read back, and no text makes a control id."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import chat, tokenizer
from schemas.chat import Call, Reply, Turn, encode_turn, parse_reply, read_call, reply_prompt
from schemas.tokenizer import CHAT_TOKENS

KNOWN_CHAT_TOKENS = (
    (Path(__file__).parent / "known_chat_tokens.txt").read_text(encoding="utf-8").splitlines()
)
SMALL = tokenizer.from_tokens(
    "small", [bytes([i]) for i in range(256)] + [b"<|", b"|>", b"<|e", b"<|en", b"<|end"]
)
IDS = SMALL.chat_ids
TEXTS = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from([*KNOWN_CHAT_TOKENS, "<|", "<|en"])), max_size=5
).map("".join)
TURNS = st.one_of(
    st.builds(Turn, st.sampled_from(["system", "user", "tool"]), st.tuples(TEXTS)),
    st.builds(Turn, st.just("assistant"), st.tuples(TEXTS), st.lists(TEXTS, max_size=3).map(tuple)),
)


def reply_ids(turn: Turn) -> list[int]:
    """What follows `<|assistant|>` in the ids of an assistant's turn."""
    ids = encode_turn(turn, SMALL)
    assert ids[0] == IDS["<|assistant|>"]
    return ids[1:]


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_a_reply_is_read_back_as_it_was_written(text: str, calls: list[str]) -> None:
    turn = Turn("assistant", (text,), tuple(calls))
    assert parse_reply(reply_ids(turn), SMALL) == Reply(text, tuple(calls), None, True)


@given(TEXTS, st.lists(TEXTS, max_size=3), st.data())
def test_a_reply_that_is_cut_keeps_what_was_whole(
    text: str, calls: list[str], data: st.DataObject
) -> None:
    ids = reply_ids(Turn("assistant", (text,), tuple(calls)))
    kept = data.draw(st.integers(0, len(ids) - 1))
    found = parse_reply(ids[:kept], SMALL)
    assert not found.ended
    assert found.calls == tuple(calls[: len(found.calls)])
    ends = ids[:kept].count(IDS["<|tool_call_end|>"])
    assert len(found.calls) == ends
    assert (found.cut_call is not None) == (ids[:kept].count(IDS["<|tool_call|>"]) > ends)
    if found.calls or found.cut_call is not None:
        assert found.text == text


@given(st.lists(st.integers(0, SMALL.padded_vocab_size - 1), max_size=30))
def test_any_ids_are_a_reply(ids: list[int]) -> None:
    found = parse_reply(ids, SMALL)
    assert found.ended <= (IDS["<|end|>"] in ids)
    assert len(found.calls) <= ids.count(IDS["<|tool_call_end|>"])


@given(st.lists(TURNS, max_size=4))
def test_the_prompt_of_a_reply_is_the_conversation_and_the_assistants_name(
    turns: list[Turn],
) -> None:
    ids = reply_prompt(turns, SMALL)
    assert ids[0] == SMALL.boundary
    assert ids[-1] == IDS["<|assistant|>"]
    assert ids[1:-1] == [token for turn in turns for token in encode_turn(turn, SMALL)]


@given(TURNS)
def test_a_turn_has_the_control_ids_of_its_grammar_and_no_others(turn: Turn) -> None:
    control = [token for token in encode_turn(turn, SMALL) if token not in SMALL.token_bytes]
    name, end = ("tool_result", "tool_result_end") if turn.role == "tool" else (turn.role, "end")
    calls = ["tool_call", "tool_call_end"] * len(turn.calls)
    assert control == [IDS[f"<|{token}|>"] for token in (name, *calls, end)]


@pytest.mark.parametrize("token", [SMALL.boundary, IDS["<|user|>"], IDS["<|tool_call_end|>"], 300])
def test_an_id_that_cannot_stand_in_a_reply_ends_it(token: int) -> None:
    assert parse_reply([104, 105, token, 104], SMALL) == Reply("hi", (), None, False)


def test_no_text_follows_a_call() -> None:
    call = [IDS["<|tool_call|>"], 123, 125, IDS["<|tool_call_end|>"]]
    assert parse_reply([*call, 104, IDS["<|end|>"]], SMALL) == Reply("", ("{}",), None, False)


def test_bytes_that_are_no_text_are_marked() -> None:
    assert parse_reply([0xE2, 0x82, IDS["<|end|>"]], SMALL).text == "\ufffd"


def test_every_place_of_a_reply_leads_to_its_end_over_tokens_that_exist() -> None:
    for follows in chat.FOLLOWS.values():
        assert set(follows) <= set(CHAT_TOKENS)
        assert set(follows.values()) <= set(chat.FOLLOWS)
    assert chat.FOLLOWS["end"] == {}


def test_a_call_is_read_and_nothing_else_is_taken_for_one() -> None:
    assert read_call('{"name": "f", "arguments": {"a": 1}}') == Call("f", {"a": 1})
    assert read_call('{"name": "f"}') == Call("f", {})
    for text in (
        "",
        "{",
        "[]",
        "3",
        '{"name": 3}',
        '{"name": "f", "arguments": []}',
        "[" * 100_000,
    ):
        assert read_call(text) is None
