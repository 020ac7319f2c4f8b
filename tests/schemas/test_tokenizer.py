"""The token contract: ids in a fixed order, and no text that becomes a control token."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from schemas import tokenizer
from schemas.errors import UserError
from schemas.tokenizer import CHAT_TOKENS, Tokenizer

KNOWN = (Path(__file__).parent / "known_chat_tokens.txt").read_text(encoding="utf-8").split("\n")
CONTROL_LITERALS = [line for line in KNOWN if line]


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    merged = [b"th", b"the", b" t", b"<|", b"|>", b"end"]
    return tokenizer.from_tokens("small", [bytes([i]) for i in range(256)] + merged)


@pytest.fixture(scope="module")
def cl100k() -> Tokenizer:
    return tokenizer.named("cl100k_base")


def test_the_ids_of_cl100k_base_are_as_documented(cl100k: Tokenizer) -> None:
    assert cl100k.encoding.n_vocab == 100_277
    assert cl100k.boundary == 100_257
    assert cl100k.chat_ids == {token: 100_277 + i for i, token in enumerate(CHAT_TOKENS)}
    assert cl100k.padded_vocab_size % 64 == 0
    assert cl100k.padded_vocab_size - cl100k.vocab_size < 64
    holes = {100_256, *range(100_261, 100_276)}
    padding = set(range(cl100k.vocab_size, cl100k.padded_vocab_size))
    assert set(cl100k.undefined_ids) == holes | padding


def test_undefined_ids_are_exactly_those_that_do_not_decode(small: Tokenizer) -> None:
    for i in range(small.padded_vocab_size):
        if i in small.undefined_ids:
            with pytest.raises(UserError, match=str(i)):
                small.decode([i])
        else:
            assert small.decode_bytes([i])


@given(st.text(), st.lists(st.sampled_from(CONTROL_LITERALS)), st.text())
def test_no_text_becomes_a_control_token(before: str, literals: list[str], after: str) -> None:
    known = tokenizer.from_tokens("bytes", [bytes([i]) for i in range(256)])
    text = before + "".join(literals) + after
    ids = known.encode(text)
    assert not {known.boundary, *known.chat_ids.values()} & set(ids)
    assert known.decode(ids) == text


def test_literals_of_control_tokens_stay_text_in_cl100k(cl100k: Tokenizer) -> None:
    controls = {cl100k.boundary, *cl100k.chat_ids.values()}
    controls |= set(cl100k.encoding._special_tokens.values())
    for literal in CONTROL_LITERALS:
        assert not controls & set(cl100k.encode(f"a{literal}b"))


def test_a_saved_tokenizer_is_the_same(small: Tokenizer, tmp_path: Path) -> None:
    small.save(tmp_path / "t.json")
    loaded = tokenizer.load(tmp_path / "t.json")
    assert loaded.hash == small.hash
    assert loaded.encode("the end") == small.encode("the end")


def test_another_rank_is_another_hash(small: Tokenizer) -> None:
    tokens = [bytes([i]) for i in range(256)]
    assert tokenizer.from_tokens("small", [*tokens, b"th"]).hash != small.hash
    assert tokenizer.from_tokens("x", tokens).hash == tokenizer.from_tokens("y", tokens).hash


def test_the_split_pattern_is_that_of_cl100k_base(cl100k: Tokenizer) -> None:
    assert cl100k.encoding._pat_str == tokenizer.GPT4_SPLIT_PATTERN


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "x", "name": "y"}', "[1]"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=r"t\.json"):
        tokenizer.load(tmp_path / "t.json")


def test_an_unknown_encoding_names_those_there_are() -> None:
    with pytest.raises(UserError, match="cl100k_base") as caught:
        tokenizer.named("cl200k")
    assert "cl200k" in str(caught.value)


def test_ranks_that_cannot_be_had_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> tiktoken.Encoding:
        raise ConnectionError

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(UserError, match="TIKTOKEN_CACHE_DIR"):
        tokenizer.named("cl100k_base")
