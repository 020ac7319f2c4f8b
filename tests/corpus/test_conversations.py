"""Conversations: every form read alike, no control token from a field, and what is learned."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from corpus.chat import encode, files, formats
from corpus.chat.encode import Accepted, Conversations, Framed, Rejected
from corpus.chat.formats import Conversation, RowError, Turn
from corpus.tokens.shards import Shard
from corpus.tokens.splits import split_of_id
from schemas import tokenizer
from schemas.errors import UserError
from schemas.tokenizer import CHAT_TOKENS, DOCUMENT_BOUNDARY, Tokenizer

T = TypeVar("T")
KNOWN_CHAT_TOKENS = (
    (Path(__file__).parents[1] / "schemas" / "known_chat_tokens.txt")
    .read_text(encoding="utf-8")
    .splitlines()
)
HALVES = [literal[i:] for literal in CHAT_TOKENS for i in (2, 5)] + ["<", "<|", "<|us", "<|en"]
# Texts that hold control tokens, or parts of them that a neighbour could complete.
TEXTS = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from([*KNOWN_CHAT_TOKENS, *HALVES])), max_size=5
).map("".join)


@pytest.fixture(scope="module")
def known() -> Tokenizer:
    """Bytes and merges that make up parts of the control tokens."""
    merged = [b"th", b"the", b" t", b"<|", b"|>", b"end", b"<|end", b"<|end|>", b"user"]
    return tokenizer.from_tokens("small", [bytes([i]) for i in range(256)] + merged)


SMALL = tokenizer.from_tokens(
    "small", [bytes([i]) for i in range(256)] + [b"<|", b"|>", b"<|e", b"<|en", b"<|end"]
)
CONTROL = {SMALL.boundary: DOCUMENT_BOUNDARY, **{i: name for name, i in SMALL.chat_ids.items()}}


def turns() -> st.SearchStrategy[Turn]:
    texts = st.lists(TEXTS, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Turn, st.sampled_from(["system", "user", "tool"]), texts),
        st.builds(Turn, st.just("assistant"), texts, texts, st.booleans()),
    )


def chats() -> st.SearchStrategy[Conversation]:
    learned = st.builds(Turn, st.just("assistant"), st.just(("yes",)), learned=st.just(True))
    many = st.tuples(st.lists(turns(), max_size=5), learned, st.lists(turns(), max_size=3))
    return many.map(
        lambda parts: Conversation("openai", "1", None, (*parts[0], parts[1], *parts[2]))
    )


def ask(*texts: str) -> tuple[Turn, ...]:
    """Users and assistants in turn."""
    roles: list[formats.Role] = ["user", "assistant"]
    return tuple(Turn(roles[i % 2], (text,), learned=i % 2 == 1) for i, text in enumerate(texts))


def read(row: Any) -> tuple[Turn, ...]:
    return formats.read_row(row).turns


def fault(row: Any) -> str:
    with pytest.raises(RowError) as raised:
        formats.read_row(row)
    return raised.value.reason


def outcome(work: Callable[[], T]) -> T | RowError:
    try:
        return work()
    except RowError as error:
        return error


# Forms


SAME = {
    "openai": {
        "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    },
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
            {"role": "assistant", "content": "I."},
        ]
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]
    },
    "alpaca": {"instruction": "Who?", "input": "", "output": "I."},
    "dolly": {"instruction": "Who?", "context": "", "response": "I.", "category": "open_qa"},
    "prompt": {"prompt": "Who?", "response": "I."},
    "oasst": {
        "prompt": {
            "text": "Who?", "role": "prompter",
            "replies": [{"text": "I.", "role": "assistant", "rank": 0, "replies": []}],
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("form", SAME)
def test_one_exchange_reads_the_same_in_every_form(form: str) -> None:
    assert read(SAME[form]) == ask("Who?", "I.")
    assert formats.form_of(SAME[form]) == ("openai" if form == "parts" else form)


def test_a_field_that_is_null_is_no_field() -> None:
    nothing = dict.fromkeys(
        ("messages", "conversations", "prompt", "instruction", "input", "tools")
    )
    for row in SAME.values():
        assert read({**nothing, **row}) == read(row)
    both = {"prompt": "Who?", "response": None, "completion": "I."}
    assert read(both) == ask("Who?", "I.")


def test_what_an_instruction_is_about_is_a_field_of_its_own() -> None:
    asked = ("Sum up.", formats.BETWEEN, "A text.")
    for row in (
        {"instruction": "Sum up.", "input": "A text.", "output": "Short."},
        {"instruction": "Sum up.", "context": "A text.", "response": "Short."},
    ):
        assert read(row)[0] == Turn("user", asked)


def test_every_known_name_of_a_role_is_read_and_no_other() -> None:
    for name, role in formats.ROLES.items():
        row = {"messages": [{"role": name, "content": "a"}, {"role": "assistant", "content": "b"}]}
        assert read(row)[0].role == role
    for name in ("Assistant", "narrator", "", None, 3, ["user"]):
        assert fault({"messages": [{"role": name, "content": "a"}]}) == "unknown_role"


def test_calls_and_results_of_every_way_to_write_them_read_the_same() -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    text = json.dumps(call)
    ask_ = {"role": "user", "content": "1?"}
    ways = [
        {"messages": [ask_, {"role": "assistant", "content": None, "tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]},
            {"role": "tool", "tool_call_id": "x", "content": "2"}]},
        {"messages": [ask_, {"role": "assistant", "tool_calls": [{"function": call}]},
            {"role": "tool", "content": "2"}]},
        {"messages": [ask_, {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "add", "content": "2"}]},
        {"conversations": [{"from": "human", "value": "1?"}, {"from": "function_call",
            "value": text}, {"from": "observation", "value": "2"}]},
    ]  # fmt: skip
    for way in ways:
        assert read(way) == (
            Turn("user", ("1?",)),
            Turn("assistant", (), (text,), learned=True),
            Turn("tool", ("2",)),
        )


def test_declared_tools_are_a_system_turn_before_all_others() -> None:
    tools = [{"type": "function", "function": {"name": "é"}}]
    row = {**SAME["openai"], "tools": tools, "system": "Be brief."}
    assert read(row) == (
        Turn("system", (json.dumps(tools, ensure_ascii=False),)),
        Turn("system", ("Be brief.",)),
        *ask("Who?", "I."),
    )


def test_a_message_of_weight_0_is_not_learned() -> None:
    row = {"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 1},
    ]}  # fmt: skip
    assert [turn.learned for turn in read(row)] == [False, False, False, True]


def reply(text: str, role: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"text": text, "role": role, "replies": list(replies), **more}


def test_of_a_tree_the_best_ranked_answers_are_taken_and_no_dead_ends() -> None:
    tree = {"message_tree_id": "t", "prompt": reply("q", "prompter",
        reply("unranked", "assistant"),
        reply("worse", "assistant", rank=1),
        reply("deleted", "assistant", rank=0, deleted=True),
        reply("refused", "assistant", rank=0, review_result=False),
        reply("best", "assistant",
            reply("dead end", "prompter"),
            reply("refused only", "prompter", reply("no", "assistant", deleted=True)),
            reply("go on", "prompter", reply("answer", "assistant")),
            rank=0))}  # fmt: skip
    assert read(tree) == ask("q", "best", "go on", "answer")
    assert formats.read_row(tree).id == "t"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "not_an_object"),
        ("text", "not_an_object"),
        (None, "not_an_object"),
        ({}, "unknown_form"),
        ({"question": "a", "answer": "b"}, "unknown_form"),
        ({"messages": []}, "empty"),
        ({"messages": [{"role": "system", "content": " "}]}, "empty"),
        ({"messages": {}}, "bad_field"),
        ({"messages": ["hello"]}, "bad_field"),
        ({"messages": [{"role": "user", "content": 3}]}, "bad_field"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}, "bad_field"),
        ({"instruction": None, "output": "a"}, "unknown_form"),
        ({"instruction": 1, "output": "a"}, "bad_field"),
        ({"instruction": "a", "output": ["b"]}, "bad_field"),
        ({"instruction": "a", "output": " \n"}, "empty_turn"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty_turn"),
        ({"messages": [{"role": "assistant", "content": None}]}, "empty_turn"),
        ({"messages": [{"role": "user", "content": "a"}]}, "nothing_to_learn"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}, "nothing_to_learn"),
        ({"prompt": {"text": "a", "role": "prompter", "replies": []}}, "nothing_to_learn"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "unsupported_content",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "bad_tool_call"),
        ({"conversations": [{"from": "function_call", "value": "add(1)"}]}, "bad_tool_call"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{"}}]},
            "bad_tool_call",
        ),
    ],
)
def test_a_row_that_is_no_conversation_says_why(row: Any, reason: str) -> None:
    assert fault(row) == reason


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(
        st.sampled_from(["messages", "conversations", "role", "from", "content", "value", "text",
                         "prompt", "replies", "instruction", "output", "response", "tool_calls",
                         "function", "name", "arguments", "tools", "type", "weight", "user"]),
        inner, max_size=4)),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_any_json_is_a_conversation_or_a_named_fault(row: Any) -> None:
    made = outcome(lambda: formats.read_row(row))
    if isinstance(made, RowError):
        assert made.reason
        assert made.detail
    else:
        assert any(turn.learned for turn in made.turns)


def test_values_nested_too_deep_to_show_are_faults_like_others() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert fault({"messages": [{"role": deep, "content": "a"}]}) == "unknown_role"
    assert (
        fault({"messages": [{"role": "assistant", "content": "a", "weight": deep}]}) == "bad_field"
    )
    assert fault({**SAME["openai"], "tools": deep}) == "bad_field"
    huge = {"prompt": reply("q", "prompter", reply("a", "assistant", rank=10**400))}
    assert read(huge) == ask("q", "a")


def test_every_form_role_field_and_reason_is_documented() -> None:
    project = Path(__file__).parents[2]
    text = (project / "docs" / "reference" / "conversations.md").read_text(encoding="utf-8")
    source = "".join(
        (project / "corpus" / name).read_text(encoding="utf-8")
        for name in ("chat/formats.py", "chat/encode.py")
    )
    reasons = set(re.findall(r'RowError\(\s*"(\w+)"', source))
    assert {"too_long", "unknown_form", "bad_field"} < reasons
    names = {*formats.FORMS, *formats.IDS, *formats.CALLS[:1], *reasons}
    assert not {name for name in names if f"`{name}`" not in text}
    assert not {role for role in formats.ROLES if not re.search(rf"\b{role}\b", text)}
    assert not {token for token in CHAT_TOKENS if token not in text}


# Framing


def spoken(framed: Framed, known: Tokenizer) -> Iterator[tuple[str, str, bool]]:
    """An independent reading: (control token or "", text, target), by its ids alone."""
    names = {known.boundary: DOCUMENT_BOUNDARY, **{i: n for n, i in known.chat_ids.items()}}
    text: list[int] = []
    for token, target in zip(framed.tokens, framed.mask, strict=True):
        if token not in names:
            text.append(token)
            continue
        yield "", known.decode_bytes(text).decode(), False
        yield names[token], "", bool(target)
        text = []
    assert not text


def as_the_grammar_says(turns: tuple[Turn, ...]) -> list[tuple[str, str, bool]]:
    parts: list[tuple[str, str, bool]] = [("", "", False), (DOCUMENT_BOUNDARY, "", False)]
    for turn in turns:
        result = turn.role == "tool"
        begin = "<|tool_result|>" if result else f"<|{turn.role}|>"
        parts += [("", "", False), (begin, "", False), ("", "".join(turn.texts), False)]
        for call in turn.calls:
            parts += [("<|tool_call|>", "", turn.learned), ("", call, False)]
            parts += [("<|tool_call_end|>", "", turn.learned), ("", "", False)]
        parts.append(("<|tool_result_end|>" if result else "<|end|>", "", turn.learned))
    return parts


@given(chats())
@example(Conversation("openai", None, None, ask("<|us", "er|>", "<|end|><|assistant|>", "<|end")))
@example(Conversation("openai", None, None, ask(*KNOWN_CHAT_TOKENS, "a")))
@example(Conversation("openai", None, None, (Turn("user", ("<|", "end", "|>")), *ask("b", "c"))))
def test_no_field_makes_a_control_token_alone_or_with_its_neighbours(said: Conversation) -> None:
    framed = encode.frame(said, SMALL, 1 << 20)
    assert list(spoken(framed, SMALL)) == as_the_grammar_says(said.turns)


@given(chats())
def test_targets_are_exactly_the_tokens_of_learned_turns_after_their_name(
    said: Conversation,
) -> None:
    framed = encode.frame(said, SMALL, 1 << 20)
    expected = [0]
    for turn in said.turns:
        size = len(encode.frame(dataclasses.replace(said, turns=(turn,)), SMALL, 1 << 20).mask)
        expected += [0, *[int(turn.learned)] * (size - 2)]
    assert list(framed.mask) == expected


def test_the_known_chat_tokens_stay_text_with_a_vocabulary_of_100_000() -> None:
    cl100k = tokenizer.named("cl100k_base")
    said = Conversation("openai", None, None, ask(*KNOWN_CHAT_TOKENS, "end"))
    framed = encode.frame(said, cl100k, 1 << 20)
    assert list(spoken(framed, cl100k)) == as_the_grammar_says(said.turns)


def test_one_exchange_is_framed_and_masked_to_the_token(known: Tokenizer) -> None:
    call = Turn("assistant", ("I",), ('{"name": "f"}',), learned=True)
    turns = (Turn("system", ("S",)), Turn("user", ("U",)), call, Turn("tool", ("R",)))
    framed = encode.frame(Conversation("openai", None, None, turns), known, 99)
    assert known.decode(framed.tokens.tolist()) == (
        "<|endoftext|><|system|>S<|end|><|user|>U<|end|><|assistant|>I"
        '<|tool_call|>{"name": "f"}<|tool_call_end|><|end|><|tool_result|>R<|tool_result_end|>'
    )
    learned = [token for token, target in zip(framed.tokens, framed.mask, strict=True) if target]
    assert known.decode(learned) == 'I<|tool_call|>{"name": "f"}<|tool_call_end|><|end|>'


@given(chats(), st.integers(2, 60))
def test_a_cut_keeps_the_most_whole_turns_that_end_with_a_learned_one(
    said: Conversation, context: int
) -> None:
    def first(number: int) -> list[int]:
        kept = dataclasses.replace(said, turns=said.turns[:number])
        return encode.frame(kept, SMALL, 1 << 20).tokens.tolist()

    everything = len(said.turns)
    fitting = [
        number for number in range(everything, 0, -1)
        if len(first(number)) <= context
        and (number == everything or said.turns[number - 1].learned)
    ]  # fmt: skip
    framed = outcome(lambda: encode.frame(said, SMALL, context))
    if isinstance(framed, RowError):
        assert framed.reason == "too_long"
        assert not fitting
        return
    assert framed.num_turns == fitting[0]
    assert framed.tokens.tolist() == first(fitting[0])
    assert len(framed.mask) == len(framed.tokens) <= context
    assert 1 in framed.mask
    kept = said.turns[: framed.num_turns]
    texts = "".join(text for turn in kept for text in (*turn.texts, *turn.calls))
    assert framed.text_bytes == len(texts.encode())


def test_a_conversation_as_long_as_the_context_fits(known: Tokenizer) -> None:
    said = Conversation("openai", None, None, ask("a", "b", "c", "d"))
    assert encode.frame(said, known, 13).num_turns == 4
    assert encode.frame(said, known, 12).num_turns == 2
    assert encode.frame(said, known, 7).num_turns == 2
    with pytest.raises(RowError, match=r"too_long: .* over 6 tokens \(context = 6\)"):
        encode.frame(said, known, 6)


def test_a_context_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="context = 1: must be at least 2"):
        Conversations(context=1)


# Files


ROWS = st.lists(
    st.dictionaries(st.text(max_size=5), st.one_of(TEXTS, st.lists(TEXTS, max_size=2)), max_size=3),
    max_size=6,
)


@given(ROWS, st.sampled_from([None, 1]), st.integers(1, 40), st.booleans())
def test_rows_of_lines_and_of_an_array_are_what_json_reads(
    rows: list[dict[str, Any]], indent: int | None, step: int, marked: bool
) -> None:
    array = json.dumps(rows, indent=indent, ensure_ascii=False)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n\n" for row in rows)
    for text in (array, lines):
        data = (b"\xef\xbb\xbf" if marked else b"") + text.encode()
        pieces = (data[i : i + step] for i in range(0, len(data), step))
        found = list(files.rows_of(pieces))
        assert [json.loads(row.data) for row in found] == rows
        for row in found:
            assert data[row.offset : row.offset + len(row.data)] == row.data
            assert row.line == 1 + data.count(b"\n", 0, row.offset)


@given(st.binary(max_size=60).map(lambda b: b"[" + b), st.integers(1, 9))
@example(b'[1, "a", {"b": "]}\\""},,[2]] tail', 3)
@example(b'[{"a": 1]', 1)
@example(b"[{}]}[{]", 1)
def test_every_byte_of_an_array_is_in_a_row_or_a_blank_or_a_comma(data: bytes, step: int) -> None:
    pieces = (data[i : i + step] for i in range(0, len(data), step))
    left = bytearray(data)
    for row in files.rows_of(pieces):
        assert data[row.offset : row.offset + len(row.data)] == row.data
        left[row.offset : row.offset + len(row.data)] = b" " * len(row.data)
    assert not left.strip(b" \t\r\n,[]")


def test_a_damaged_element_costs_only_itself(tmp_path: Path, known: Tokenizer) -> None:
    path = tmp_path / "a.json"
    good = json.dumps(SAME["openai"])
    path.write_text(f"[{good},\n{{'a': 1}},\n{good},\n[],\n{good}")
    read = list(encode.read_file(path, known, Conversations()))
    assert [type(one) for one in read] == [
        Accepted,
        Rejected,
        Accepted,
        Rejected,
        Accepted,
        Rejected,
    ]
    wrong = [one for one in read if isinstance(one, Rejected)]
    assert [(one.line, one.reason) for one in wrong] == [
        (2, "invalid_json"), (4, "not_an_object"), (5, "invalid_json"),
    ]  # fmt: skip


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz"])
def test_packed_files_have_the_offsets_of_what_they_hold(ending: str, tmp_path: Path) -> None:
    data = b"".join(json.dumps({"id": i}).encode() + b"\n" for i in range(5))
    packers = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / f"a{ending}"
    pack = packers.get(path.suffix, bytes)
    path.write_bytes(pack(data[:20]) + pack(data[20:]))
    assert [row.offset for row in files.read_rows(path)] == [i * 10 for i in range(5)]


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": 1}\n' * 50)[:-9])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: cannot be read: .*ends inside"):
        list(files.read_rows(path))


@pytest.mark.parametrize("first", [b"", b"["])
def test_a_row_without_an_end_is_refused_before_it_is_held(
    first: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 1 << 20)
    path = tmp_path / "a.json"
    path.write_bytes(first + b'{"id": 1},\n{"text": "' + b"a" * (3 << 20))
    with pytest.raises(UserError, match=r"a\.json: line [12]: a row of more than 1 MiB"):
        list(files.read_rows(path))


def test_input_files_are_told_apart_by_name_and_known_by_ending(tmp_path: Path) -> None:
    for name in ("a/x.jsonl", "b/x.jsonl", "a/y.json.zst", "a/z.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = files.resolve([f"{tmp_path}/a/y*", f"{tmp_path}/a/x.jsonl", f"{tmp_path}/a/x*"])
    assert [path.name for path in found] == ["x.jsonl", "y.json.zst"]
    for pattern, fault in {
        f"{tmp_path}/*/x.jsonl": "rename one",
        f"{tmp_path}/a/z.csv": r"must be one of \*\.jsonl, ",
        f"{tmp_path}/a": "is a folder",
        f"{tmp_path}/none": "no such file",
        f"{tmp_path}/none*": "no file matches",
    }.items():
        with pytest.raises(UserError, match=fault):
            files.resolve([pattern])


# Rows


def test_a_row_is_traced_by_its_own_id_else_by_file_and_line(
    tmp_path: Path, known: Tokenizer
) -> None:
    rows = [SAME["openai"], {**SAME["prompt"], "id": 7, "url": "http://a/"}, {"id": "bad"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + "\n".join(map(json.dumps, rows)))
    one, two, bad = encode.read_file(path, known, Conversations())
    assert isinstance(one, Accepted)
    assert isinstance(two, Accepted)
    assert isinstance(bad, Rejected)
    assert (one.id, one.url, one.file_path, one.record_offset) == ("a.jsonl:2", None, "a.jsonl", 1)
    assert (two.id, two.url, two.form) == ("7", "http://a/", "prompt")
    assert (bad.id, bad.line, bad.form, bad.reason) == ("bad", 4, None, "unknown_form")


@pytest.mark.parametrize("line", [b'{"messages": [', b"nothing", b"[" * 100_000, b'{"a": "\xff"}'])
def test_a_line_that_is_no_json_is_rejected_by_its_number(
    line: bytes, tmp_path: Path, known: Tokenizer
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(SAME["openai"]).encode() + b"\n" + line)
    _, bad = encode.read_file(path, known, Conversations())
    assert isinstance(bad, Rejected)
    assert bad.line == 2
    assert bad.reason == ("not_utf8" if b"\xff" in line else "invalid_json")


def test_halves_of_surrogate_pairs_become_a_character(tmp_path: Path, known: Tokenizer) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "\\ud800", "prompt": "\\udc00", "response": "a\\ud83d\\ude00"}')
    (one,) = encode.read_file(path, known, Conversations())
    assert isinstance(one, Accepted)
    assert one.id == "�"
    assert "a😀<|end|>" in known.decode(one.framed.tokens.tolist())


def test_token_rows_hold_what_was_framed(tmp_path: Path, known: Tokenizer) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({**SAME["openai"], "id": i}) for i in range(40)))
    accepted = list(encode.read_file(path, known, Conversations()))
    made = [one for one in accepted if isinstance(one, Accepted)]
    batch = encode.token_rows(made, Shard(validation_fraction=0.5))
    batch.validate(full=True)
    assert batch.schema.equals(encode.TOKENS)
    for row, one in zip(batch.to_pylist(), made, strict=True):
        assert row["tokens"] == one.framed.tokens.tolist()
        assert row["loss_mask"] == list(one.framed.mask)
        assert row["token_count"] == len(row["tokens"])
        assert row["split"] == split_of_id(one.id, 0.5)
    assert set(pa.array(batch.column("split")).to_pylist()) == {"train", "validation"}


@pytest.mark.parametrize(
    ("name", "form", "rows"),
    [
        ("dolly_hhrlhf_train_small.jsonl", "prompt", 1000),
        ("oasst-en-100-trees.jsonl", "oasst", 100),
        ("fastchat-dummy.json", "sharegpt", 500),
    ],
)
def test_real_files_are_read_whole(shared: Path, name: str, form: str, rows: int) -> None:
    path = shared / "corpora" / name
    read = list(encode.read_file(path, SMALL, Conversations(context=1 << 20)))
    assert (
        [one.form for one in read if isinstance(one, Accepted)]
        == [form] * rows
        == [form] * len(read)
    )
    data = path.read_bytes()
    for one in read:
        assert isinstance(
            json.JSONDecoder().raw_decode(data[one.record_offset :].decode())[0], dict
        )
