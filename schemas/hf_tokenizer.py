"""Read a Hugging Face `tokenizer.json` such that no text can produce a special token.

The `tokenizers` package encodes, so ids equal its own on every text. First everything is removed
that would act on a special token's literal: added tokens, their entries in the model's vocabulary,
the post-processor, truncation and padding. Only byte-level BPE is supported, whose tokens decode to
the text byte for byte. tiktoken is not used because it has no counterpart for consecutive
pre-tokenizers, NFC, and merges that are not in the order of ids.
Format: https://huggingface.co/docs/tokenizers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers

NUM_BYTES = 256
MAX_IDS = 10**7
# Pre-tokenizers that keep the whole text; others drop white space or change characters.
LOSSLESS_STEPS = ("ByteLevel", "Split", "Digits", "Punctuation", "UnicodeScripts")
# Encoded and decoded on loading, to refuse tokenizers that lose text.
PROBE = (
    "The  cost\r\n\tis 12,345.67 €;  don't 東京 हिन्दी عربي 👩‍👧 <|x|> [Y] \x00\x7f\u00a0 \n\n end "
)


@dataclass(frozen=True)
class HuggingFaceEncoding:
    """Ordinary ids of a byte-level BPE; made by `parse`.

    `model` has no added tokens. `token_bytes`: id -> bytes of the tokens that text can produce or
    that the file lists as text. `special_tokens`: content -> id of all added tokens.
    """

    model: tokenizers.Tokenizer
    token_bytes: dict[int, bytes]
    special_tokens: dict[str, int]
    identity: str

    @cached_property
    def n_vocab(self) -> int:
        """One more than the last id."""
        return 1 + max(*self.token_bytes, *self.special_tokens.values())

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of `text`, in which special tokens are plain characters."""
        ids: list[int] = self.model.encode(text, add_special_tokens=False).ids
        return ids

    def normalized(self, text: str) -> str:
        """The text that the tokens decode to: NFC if the file says so."""
        normalizer = self.model.normalizer
        return str(normalizer.normalize_str(text)) if normalizer else text


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for every byte: itself if printable, else U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(NUM_BYTES) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(NUM_BYTES + i): byte for i, byte in enumerate(others)})
    return alphabet


def is_tokenizer(content: Any) -> bool:
    """Whether parsed JSON looks like a Hugging Face `tokenizer.json`."""
    return isinstance(content, dict) and isinstance(content.get("model"), dict)


def essence(content: dict[str, Any]) -> dict[str, Any]:
    """The parts of a `tokenizer.json` that decide ids."""
    known = ("version", "normalizer", "pre_tokenizer", "model", "added_tokens")
    return {key: content.get(key) for key in known}


def parse(content: dict[str, Any]) -> HuggingFaceEncoding:
    """The encoding of a `tokenizer.json`; raises `ValueError` if it cannot be used."""
    _check_model(content["model"])
    _check_steps(content)
    specials = _added_ids(content)
    model = _without_added(content["model"], content.get("added_tokens") or [])
    bare = {**essence(content), "model": model, "added_tokens": []}
    encoding = HuggingFaceEncoding(
        _read(bare), _token_bytes(model["vocab"]), specials, _identity(bare, specials)
    )
    _check_gives_back(encoding)
    return encoding


def _check_model(model: dict[str, Any]) -> None:
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    if kind != "BPE" or model.get("byte_fallback"):
        found = "BPE over characters (byte_fallback)" if kind == "BPE" else kind
        raise ValueError(f"its model is {found}: only byte-level BPE can be read (as of GPT-2, "
                         "Llama 3, Qwen), of which the tokens give every text back")  # fmt: skip
    for setting in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(setting):
            raise ValueError(f"model.{setting} = {model[setting]!r}: must be null")


def _check_steps(content: dict[str, Any]) -> None:
    """Refuse normalizers and pre-tokenizers that change or drop text."""
    for step in _flat(content.get("normalizer"), "normalizers"):
        if step["type"] != "NFC":
            raise ValueError(f"its normalizer {step['type']} changes the text: must be none or NFC")
    steps = list(_flat(content.get("pre_tokenizer"), "pretokenizers"))
    for step in steps:
        if step["type"] not in LOSSLESS_STEPS or step.get("behavior") == "Removed":
            raise ValueError(
                f"its pre_tokenizer {step['type']} drops or changes characters: only "
                f"{', '.join(LOSSLESS_STEPS)} that keep all text can be used"
            )
        if step.get("add_prefix_space"):
            raise ValueError("pre_tokenizer.add_prefix_space = true: must be false, or every text "
                             "would gain a blank")  # fmt: skip
    if not any(step["type"] == "ByteLevel" for step in steps):
        raise ValueError("it has no pre_tokenizer ByteLevel: only byte-level BPE can be read")


def _flat(step: dict[str, Any] | None, inner: str) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if step["type"] == "Sequence":
        for one in step[inner]:
            yield from _flat(one, inner)
    else:
        yield step


def _added_ids(content: dict[str, Any]) -> dict[str, int]:
    """Added token -> the id that the package gives it, which may differ from the file's.

    Raises `ValueError` if two tokens share an id: text could produce a special token's id.
    """
    added = content.get("added_tokens") or []
    whole = _read({**essence(content), "added_tokens": added}).get_vocab(with_added_tokens=True)
    shared = next((i for i, count in Counter(whole.values()).items() if count > 1), None)
    if shared is not None:
        names = sorted(token for token, i in whole.items() if i == shared)
        raise ValueError(f"its tokens {names[0]!r} and {names[1]!r} share the id {shared}: a text "
                         "could produce a special token")  # fmt: skip
    if max(whole.values(), default=0) >= MAX_IDS:
        raise ValueError(f"it has the id {max(whole.values()):,}: must be below {MAX_IDS:,}")
    return {token["content"]: whole[token["content"]] for token in added}


def _without_added(model: dict[str, Any], added: list[dict[str, Any]]) -> dict[str, Any]:
    """The model without the entries of added tokens."""
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    parts = {part for merge in merges for part in (*merge, "".join(merge))}
    names = {token["content"] for token in added}
    shared = sorted(names & (parts | byte_alphabet().keys()))
    if shared:
        raise ValueError(f"its added token {shared[0]!r} is also one that its merges make of text: "
                         "a text could produce it")  # fmt: skip
    vocab = {token: i for token, i in model["vocab"].items() if token not in names}
    missing = byte_alphabet().keys() - vocab.keys()
    if missing:
        byte = min(byte_alphabet()[character] for character in missing)
        raise ValueError(f"its vocabulary has no token for byte 0x{byte:02X}: text would be lost")
    return {**model, "type": "BPE", "vocab": vocab, "merges": list(map(list, merges))}


def _token_bytes(vocab: dict[str, int]) -> dict[int, bytes]:
    alphabet = byte_alphabet()
    readable = ((i, token) for token, i in vocab.items() if all(c in alphabet for c in token))
    return {i: bytes(alphabet[c] for c in token) for i, token in readable}


def _read(content: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the package raises bare exceptions
        raise ValueError(f"the tokenizers package cannot read it: {error}") from None


@contextlib.contextmanager
def panics_are_errors() -> Iterator[None]:
    """Turn a panic in a Rust library, which is not an `Exception`, into a `ValueError`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"it fails on a plain text: {error}") from None


def _identity(bare: dict[str, Any], specials: dict[str, int]) -> str:
    """SHA-256 (hex) over everything that decides ids."""
    model = {key: bare["model"].get(key) for key in ("vocab", "merges", "ignore_merges")}
    decisive = [model, bare["normalizer"], bare["pre_tokenizer"], specials]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _check_gives_back(encoding: HuggingFaceEncoding) -> None:
    with panics_are_errors():
        ids = encoding.encode_ordinary(PROBE)
    given = b"".join(encoding.token_bytes.get(i, b"") for i in ids)
    if given != encoding.normalized(PROBE).encode():
        raise ValueError(f"its tokens do not give a text back: {PROBE!r} became {given!r}")
