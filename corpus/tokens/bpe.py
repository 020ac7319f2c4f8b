"""Train a byte-level BPE on the corpus, since small models need a small vocabulary.

The `tokenizers` package (Rust) learns the merges; tiktoken encodes with them. Ranks are the 256
bytes, then the merges in the order in which they were learned. Merges are chosen by count, ties by
the smaller pair of ids, so neither threads nor the order of texts change the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import tiktoken
import tokenizers
from pydantic import Field
from tokenizers import models, pre_tokenizers, trainers

import schemas.tokenizer
from schemas.config import settings
from schemas.errors import UserError
from schemas.hf_export import oniguruma_pattern
from schemas.hf_tokenizer import NUM_BYTES, byte_alphabet
from schemas.tokenizer import CHAT_TOKENS, GPT4_SPLIT_PATTERN, Tokenizer

NUM_CONTROL_IDS = 1 + len(CHAT_TOKENS)  # the document boundary and the chat tokens
MIN_VOCAB_SIZE = NUM_BYTES + NUM_CONTROL_IDS
MAX_VOCAB_SIZE = 10**7

ONIGURUMA_SPLIT_PATTERN = oniguruma_pattern(GPT4_SPLIT_PATTERN)
# Longer pieces are cut while training: merging takes time quadratic in a piece's length (hours for
# two million letters in a row), and so long a token is not worth an id.
MAX_PIECE = 64


@settings
class TokenizerSettings:
    """Which tokenizer the shards are made with.

    `name`: "bpe" trains one on the corpus; `*.json` is a saved one or a Hugging Face
    `tokenizer.json`; anything else is one of tiktoken's encodings. For "bpe", `vocab_size` is the
    number of ids including control tokens, `sample_bytes` the UTF-8 bytes of text to train on.
    """

    name: str = "cl100k_base"
    vocab_size: Annotated[int, Field(ge=MIN_VOCAB_SIZE, le=MAX_VOCAB_SIZE)] = 4096
    sample_bytes: Annotated[int, Field(ge=1, le=10**12)] = 50_000_000

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name = '': must be 'bpe' or the name of a tiktoken encoding")
        known = tiktoken.list_encoding_names()
        if not (self.trains or self.name.endswith(".json") or self.name in known):
            raise ValueError(
                f"name = {self.name!r}: must be 'bpe', a tokenizer's file (*.json), or one of "
                f"tiktoken's encodings: {', '.join(known)}"
            )

    @property
    def trains(self) -> bool:
        """Whether the tokenizer is trained on the corpus."""
        return self.name == "bpe"


def train(texts: Iterable[str], vocab_size: int, name: str) -> Tokenizer:
    """A BPE with exactly `vocab_size` ids: bytes, merges, the document boundary, chat tokens.

    The order of the texts and the number of threads do not change the result. Raises `UserError`
    for a `vocab_size` too small for the bytes and control tokens, or larger than the texts fill.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"tokenizer.vocab_size = {vocab_size}: must be at least {MIN_VOCAB_SIZE} "
            f"({NUM_BYTES} bytes and {NUM_CONTROL_IDS} control tokens)"
        )
    model = train_merges(texts, vocab_size - NUM_CONTROL_IDS)
    byte_of = byte_alphabet()
    vocab = model.get_vocab(with_added_tokens=False)
    tokens = [bytes(byte_of[c] for c in token) for token in sorted(vocab, key=vocab.__getitem__)]
    filled = len(tokens) + NUM_CONTROL_IDS
    if filled < vocab_size:
        raise UserError(
            f"tokenizer.vocab_size = {vocab_size}: the corpus fills only {filled} ids; "
            f"choose at most {filled}, or train on more text"
        )
    return schemas.tokenizer.from_tokens(name, tokens, GPT4_SPLIT_PATTERN)


def train_merges(texts: Iterable[str], num_ranks: int) -> tokenizers.Tokenizer:
    """A `tokenizers` model of up to `num_ranks` ranks, without control tokens."""
    model = tokenizers.Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=num_ranks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    model.pre_tokenizer = _splitter(ONIGURUMA_SPLIT_PATTERN, rf"[\s\S]{{1,{MAX_PIECE}}}")
    model.train_from_iterator(texts, trainer=trainer)
    model.pre_tokenizer = _splitter(ONIGURUMA_SPLIT_PATTERN)
    return model


def _splitter(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Split a text by each pattern in turn, then map its bytes to printable characters."""
    cuts = [pre_tokenizers.Split(tokenizers.Regex(p), behavior="isolated") for p in patterns]
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*cuts, as_bytes])
