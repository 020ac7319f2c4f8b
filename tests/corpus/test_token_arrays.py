"""Arrays of token ids are what the tokenizer says of each text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.tokens.shards import encode_array, token_lists
from schemas import hf_export, tokenizer
from schemas.tokenizer import CHAT_TOKENS, DOCUMENT_BOUNDARY, MAX_BLANKS, Tokenizer

SPELT = st.sampled_from([DOCUMENT_BOUNDARY, *CHAT_TOKENS, "<|fim_prefix|>", "<|", "|>"])
TEXTS = st.lists(SPELT | st.text(max_size=8)).map("".join)


@pytest.fixture(scope="module", params=["bytes", "hugging face", "cl100k_base"])
def known(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "cl100k_base":
        return tokenizer.named(request.param)
    tokens = [*(bytes([b]) for b in range(256)), b"<|", b"|>", b"th", b"the", b" the"]
    ours = tokenizer.from_tokens("bytes", tokens)
    if request.param == "bytes":
        return ours
    return tokenizer.from_hugging_face("bytes", hf_export.to_json(ours))


@given(st.lists(TEXTS))
@settings(deadline=None)
def test_lists_are_the_boundary_and_the_tokenizers_ids(known: Tokenizer, texts: list[str]) -> None:
    found = token_lists(texts, known)
    assert found.to_pylist() == [[known.boundary, *known.encode(text)] for text in texts]
    assert len(found.values) == sum(map(len, found.to_pylist()))


@given(TEXTS)
@settings(deadline=None)
def test_no_text_gives_a_control_token(known: Tokenizer, text: str) -> None:
    control = {known.boundary, *known.chat_ids.values()}
    control |= set(known.special_tokens.values())
    assert not control & set(encode_array(text, known).tolist())


@pytest.mark.parametrize("blanks", [MAX_BLANKS - 1, MAX_BLANKS, 2 * MAX_BLANKS + 3])
def test_runs_of_white_space_are_cut_where_the_tokenizer_cuts_them(
    known: Tokenizer, blanks: int
) -> None:
    text = "a" + " " * blanks + "<|endoftext|> b" + "\n" * blanks
    assert encode_array(text, known).tolist() == known.encode(text)
