"""The trained tokenizer: tiktoken's ids against the trainer's own, and what text may never make."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import regex
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corpus.tokens import bpe
from corpus.tokens.bpe import TokenizerSettings, train
from schemas import tokenizer
from schemas.errors import UserError
from schemas.tokenizer import CHAT_TOKENS, DOCUMENT_BOUNDARY, GPT4_SPLIT_PATTERN, Tokenizer

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
CONTROL_LITERALS = (
    *CHAT_TOKENS,
    DOCUMENT_BOUNDARY,
    "<|im_start|>",
    "<|im_end|>",
    "<|endofprompt|>",
    "<|fim_prefix|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|bos|>",
    "<s>",
    "</s>",
    "<pad>",
    "[INST]",
    "<start_of_turn>",
)
COMMON = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from "
    "or had an they which one you were all her she there would their we him been has when who will "
    "no more if out so up said what its about than into them can only other time new some could "
    "these two may first then do any like my now over such our man me even most made after also"
)
WORDS = COMMON.split()
OTHER_SCRIPTS = (
    "Straße naïve çà où señor – «цена» мир и труд, 東京は日本の首都です。 한국어 문장 하나 "
    "नमस्ते दुनिया สวัสดีครับ שלום עולם مرحبا بالعالم 🎉🎉👩‍👩‍👧 don't we'LL I'm 1234567 3.14\r\n\t x"
)


def sample_texts() -> list[str]:
    """Two hundred texts of words by a fixed draw, other scripts and control literals among them."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=60)).capitalize() + ".\n" for _ in range(200)]
    return [*texts, OTHER_SCRIPTS * 3, " ".join(CONTROL_LITERALS) * 20]


@pytest.fixture(scope="module")
def model() -> tokenizers.Tokenizer:
    return bpe.train_merges(sample_texts(), 600 - bpe.NUM_CONTROL_IDS)


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train(sample_texts(), 600, "bpe")


# Characters that this Python knows: newer letters are letters to one splitter and not the other.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=200),
    st.lists(
        st.sampled_from(
            [*WORDS, *OTHER_SCRIPTS.split(), *CONTROL_LITERALS, " ", "\n", "\r\n", "  "]
        ),
        max_size=60,
    ).map("".join),
)


@given(text=TEXTS)
@example(text=" \n\n  \r\n \t end \n ")
@example(text="12345678901234567890 1 12 123 1234")
@example(text="'Sa'LL'ſ don'T")
@settings(max_examples=300, deadline=None)
def test_tiktoken_gives_the_ids_of_the_trained_model(
    model: tokenizers.Tokenizer, trained: Tokenizer, text: str
) -> None:
    assert trained.encode(text) == model.encode(text, add_special_tokens=False).ids


@given(text=TEXTS)
@example(text=" \n\n  \r\n \t end \n ")
@example(text="12345678901234567890 1 12 123 1234\n")
@settings(max_examples=300, deadline=None)
def test_the_trainer_splits_as_the_gpt4_pattern_does(text: str) -> None:
    split = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(bpe.ONIGURUMA_SPLIT_PATTERN), behavior="isolated"
    )
    # `$` is the very end to Rust, which Python writes \Z.
    pattern = GPT4_SPLIT_PATTERN.replace("$", r"\Z")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == regex.findall(pattern, text)


@given(text=TEXTS)
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_and_holds_no_control_id(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert not {trained.boundary, *trained.chat_ids.values()} & set(ids)


@pytest.mark.parametrize("literal", CONTROL_LITERALS)
def test_a_control_literal_in_text_stays_text(trained: Tokenizer, literal: str) -> None:
    for text in (literal, f"a{literal}b", literal * 50, f" {literal}\n"):
        ids = trained.encode(text)
        assert len(ids) > 1
        assert max(ids) < trained.boundary
        assert trained.decode(ids) == text


def test_ids_are_bytes_then_merges_then_boundary_then_chat_tokens(trained: Tokenizer) -> None:
    num_ranks = 600 - bpe.NUM_CONTROL_IDS
    tokens = [trained.encoding.decode_single_token_bytes(i) for i in range(num_ranks)]
    assert sorted(tokens[:256]) == [bytes([byte]) for byte in range(256)]
    assert trained.vocab_size == 600
    assert trained.boundary == num_ranks
    assert list(trained.chat_ids.values()) == list(range(num_ranks + 1, 600))
    assert len(set(tokens)) == num_ranks
    for i in range(256, num_ranks):
        parts = [(tokens[i][:cut], tokens[i][cut:]) for cut in range(1, len(tokens[i]))]
        assert any(a in tokens[:i] and b in tokens[:i] for a, b in parts), tokens[i]


def test_order_of_texts_changes_nothing(trained: Tokenizer) -> None:
    texts = sample_texts()
    assert train(iter(texts), 600, "bpe").hash == trained.hash
    assert train(reversed(texts), 600, "bpe").hash == trained.hash


@pytest.mark.parametrize("threads", ["1", "2", "7"])
def test_threads_change_nothing(trained: Tokenizer, threads: str) -> None:
    script = (
        "from tests.corpus.test_bpe import sample_texts; from corpus.tokens.bpe import train;"
        "print(train(sample_texts(), 600, 'bpe').hash)"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    made = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.strip() == trained.hash


def test_saved_and_loaded_it_is_the_same(trained: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / tokenizer.TOKENIZER_FILE
    trained.save(path)
    loaded = tokenizer.load(path)
    assert loaded.hash == trained.hash
    assert loaded.vocab_size == trained.vocab_size
    assert loaded.encode(OTHER_SCRIPTS) == trained.encode(OTHER_SCRIPTS)


def test_a_corpus_too_small_says_how_many_ids_it_fills() -> None:
    with pytest.raises(UserError, match="vocab_size = 4096: the corpus fills only 275 ids"):
        train(["hello hello world"], 4096, "bpe")
    assert train(["hello hello world"], 275, "bpe").vocab_size == 275
    with pytest.raises(UserError, match="fills only 265 ids"):
        train([], 266, "bpe")


def test_a_page_of_one_endless_word_costs_little_and_gives_no_endless_token() -> None:
    pages = ["a" * 1_000_000, " " * 1_000_000 + "x", "-=" * 500_000]
    made = train([*sample_texts(), *pages], 600, "bpe")
    tokens = [made.encoding.decode_single_token_bytes(i) for i in range(made.boundary)]
    assert max(map(len, tokens)) == bpe.MAX_PIECE
    assert b" the" in tokens


def test_a_vocabulary_below_bytes_and_control_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="vocab_size = 264: must be at least 265"):
        train(["text"], 264, "bpe")
    assert train([], 265, "bpe").encode("é") == train(["text"], 265, "bpe").encode("é")


@pytest.mark.parametrize("blank", [" ", "\t", "\u3000", "\n", " \n"])
def test_a_million_blanks_do_not_stop_the_tokenizer(trained: Tokenizer, blank: str) -> None:
    for text in (
        f"a{blank * 1_000_000}b",
        f"a{blank * 99_999}b{blank * 100_000}c{blank * 350_001}d",
    ):
        assert trained.decode(trained.encode(text)) == text


def test_text_under_the_limit_of_blanks_is_encoded_as_tiktoken_does(trained: Tokenizer) -> None:
    text = f"{' ' * 99_999}x " * 3
    assert trained.encode(text) == trained.encoding.encode_ordinary(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": ""}, "name = '': must be 'bpe' or"),
        ({"vocab_size": 264}, "vocab_size = 264: must be at least 265"),
        ({"sample_bytes": 0}, "sample_bytes = 0: must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerSettings(**values)  # type: ignore[arg-type]


def test_real_text_takes_under_a_third_as_many_tokens_as_bytes() -> None:
    path = SHARED / "corpora" / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    text = path.read_text(encoding="utf-8")
    made = train([text], 2048, "shakespeare")
    ids = made.encode(text)
    assert made.decode(ids) == text
    assert len(text.encode()) / len(ids) > 3  # 3.13 when this was written
