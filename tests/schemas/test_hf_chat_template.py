"""The chat template gives the ids and the mask that shards of conversations have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from corpus.chat import encode, formats
from corpus.tokens import bpe
from schemas import hf_export, tokenizer
from schemas.hf_export import CHAT_TEMPLATE
from schemas.tokenizer import CHAT_TOKENS, Tokenizer

KNOWN = (Path(__file__).parent / "known_chat_tokens.txt").read_text(encoding="utf-8").split("\n")
LITERALS = [line for line in KNOWN if line]
CONTEXT = 1 << 20

Message = dict[str, Any]


class Both:
    """A tokenizer of ours, and what transformers makes of its export."""

    def __init__(self, known: Tokenizer, folder: Path) -> None:
        self.known = known
        hf_export.export_for_model(known, folder, CHAT_TEMPLATE, CONTEXT)
        self.theirs = transformers.AutoTokenizer.from_pretrained(folder)

    def ours(self, row: dict[str, Any]) -> encode.Framed:
        return encode.frame(formats.read_row(row), self.known, CONTEXT)

    def render(self, row: dict[str, Any], **flags: Any) -> Any:
        flags = {"tokenize": True, "return_dict": False, **flags}
        messages, tools = row["messages"], row.get("tools")
        return self.theirs.apply_chat_template(messages, tools=tools, **flags)

    def masked(self, row: dict[str, Any]) -> tuple[list[int], list[int]]:
        both = self.render(row, return_dict=True, return_assistant_tokens_mask=True)
        return both["input_ids"], both["assistant_masks"]


def _trained() -> Tokenizer:
    words = ["the cat sat on the mat", "12 345", '{"name": "find"}', "ähnlich 東京", "x\n\n y"]
    return bpe.train(words * 3, 300, "bpe")


def _own_boundary() -> Tokenizer:
    """Of Hugging Face's form; it has some control tokens already, one of which swallows blanks."""
    content = hf_export.to_json(_trained())
    for token in content["added_tokens"]:
        token["rstrip"] = token["lstrip"] = True
    return tokenizer.from_hugging_face("hf", content)


@pytest.fixture(scope="module", params=["bpe", "cl100k_base", "hugging face"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    made = {"bpe": _trained, "hugging face": _own_boundary}
    known = made.get(request.param, lambda: tokenizer.named("cl100k_base"))()
    return Both(known, tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(_trained(), tmp_path_factory.mktemp("one"))


def _texts(literals: bool = False) -> st.SearchStrategy[str]:
    """Texts that say something, with blanks and newlines at their ends too."""
    plain = st.text(st.characters(codec="utf-8"), max_size=30)
    pieces = [plain, st.sampled_from([" the cat\n", "{{ x }}", "{% if %}", "<|", "|>", "é\n"])]
    if literals:
        pieces.append(st.sampled_from([*LITERALS, *CHAT_TOKENS]))
    made = st.lists(st.one_of(pieces), min_size=1, max_size=4).map("".join)
    says = made.filter(lambda text: bool(text.strip()))
    return says if literals else says.filter(lambda t: not any(x in t for x in CONTROL))


CONTROL = tuple(tokenizer.CONTROL_TOKENS)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abé"), inner),
    max_leaves=4,
)


def _calls() -> st.SearchStrategy[list[dict[str, Any]]]:
    values = VALUES | st.sampled_from(['a "b"', "<b>&'", "東京"])
    arguments = st.dictionaries(st.sampled_from(["query", "größe", "n"]), values, max_size=2)
    bare = st.fixed_dictionaries({"name": st.sampled_from(["find", "öffne"])})
    full = st.fixed_dictionaries({"name": st.just("find"), "arguments": st.none() | arguments})
    nested = full.map(lambda f: {"type": "function", "id": "1", "function": f})
    return st.lists(bare | full | nested, min_size=1, max_size=2)


def _messages(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[Message]]:
    def said(*roles: str) -> st.SearchStrategy[Message]:
        return st.fixed_dictionaries({"role": st.sampled_from(roles), "content": text})

    answer = st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": text},
        optional={"weight": st.sampled_from([0, 1])},
    )
    calling = st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": st.none() | text, "tool_calls": _calls()}
    )
    silent = st.sampled_from(["", " \n"]).map(lambda t: {"role": "system", "content": t})
    turn = st.one_of(said("system", "developer", "user", "tool"), answer, calling, silent)
    last = st.fixed_dictionaries({"role": st.just("assistant"), "content": text})
    return st.tuples(st.lists(turn, max_size=5), last).map(lambda t: [*t[0], t[1]])


@given(messages=_messages(_texts()))
def test_a_conversation_has_the_ids_and_the_mask_of_a_shard(
    both: Both, messages: list[Message]
) -> None:
    framed = both.ours({"messages": messages})
    assert both.masked({"messages": messages}) == (framed.tokens.tolist(), list(framed.mask))


@given(messages=_messages(_texts()))
def test_the_prompt_of_a_reply_ends_with_the_assistants_name(
    one: Both, messages: list[Message]
) -> None:
    ids = one.ours({"messages": messages}).tokens.tolist()
    prompt = one.render({"messages": messages}, add_generation_prompt=True)
    assert prompt == [*ids, one.known.chat_ids["<|assistant|>"]]


TOOLS = [{"type": "function", "function": {"name": "find", "description": "größer <als>"}}]
ASKED = [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "there"}]


def test_declared_tools_are_a_system_turn(both: Both) -> None:
    row = {"messages": ASKED, "tools": TOOLS}
    assert both.render(row) == both.ours(row).tokens.tolist()


def test_arguments_that_are_a_string_are_taken_as_they_are(one: Both) -> None:
    def row(arguments: str) -> dict[str, Any]:
        call = {"function": {"name": "find", "arguments": arguments}}
        return {"messages": [ASKED[0], {"role": "assistant", "content": "", "tool_calls": [call]}]}

    for same in ('{"q": "東京", "n": [1, 2]}', " "):
        assert one.render(row(same)) == one.ours(row(same)).tokens.tolist()
    other = row('{"q":1}')  # the shards have it written anew, with a blank
    assert one.render(other) != one.ours(other).tokens.tolist()
    assert '{"name": "find", "arguments": {"q":1}}' in one.render(other, tokenize=False)


def test_the_older_form_of_a_call_is_read(one: Both) -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    result = {"role": "function", "name": "f", "content": "42"}
    row = {"messages": [ASKED[0], call, result, ASKED[1]]}
    assert one.render(row) == one.ours(row).tokens.tolist()


def test_texts_of_several_parts_are_encoded_as_one(one: Both) -> None:
    parts = [{"type": "text", "text": "the c"}, {"type": "text", "text": "at sat"}]
    row = {"messages": [{"role": "user", "content": parts}, ASKED[1]]}
    whole = {"messages": [{"role": "user", "content": "the cat sat"}, ASKED[1]]}
    assert one.render(row) == one.ours(whole).tokens.tolist() != one.ours(row).tokens.tolist()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "critic", "content": "x"}, "role critic"),
        ({"role": "user", "content": [{"type": "image", "url": "u"}]}, "type image"),
    ],
)
def test_what_no_shard_can_hold_is_refused(one: Both, message: Message, said: str) -> None:
    with pytest.raises((ValueError, jinja2.TemplateError), match=said):
        one.render({"messages": [message]})


@given(text=_texts(literals=True))
def test_a_literal_becomes_a_control_token_unless_transformers_is_asked_not_to(
    one: Both, text: str
) -> None:
    control = set(one.known.control_ids.values())
    row = {"messages": [{"role": "user", "content": text}, ASKED[1]]}
    framed = [i for i in one.ours(row).tokens if i in control]
    found = [i for i in one.render(row) if i in control]
    assert (found == framed) == (not any(name in text for name in one.known.control_ids))
    clean = one.render(row, sanitize_control_tokens=True)
    assert [i for i in clean if i in control] == framed
    assert one.known.decode(clean) == one.known.decode(one.ours(row).tokens.tolist())
