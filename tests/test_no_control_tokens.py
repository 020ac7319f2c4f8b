"""No text becomes a control token: hostile strings as pages and as every field of a chat.

The ids that a tokenizer keeps to itself (its own special tokens and our control tokens) are counted
in what the code that writes shards makes of generated strings. In pages there is the document
boundary in front and nothing else; in chats exactly the control tokens of the grammar, in order.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers

from corpus.chat import encode, formats
from corpus.chat.formats import RowError
from corpus.tokens import bpe
from corpus.tokens.shards import token_lists
from schemas import chat, tokenizer
from schemas.chat import Turn
from schemas.errors import UserError
from schemas.tokenizer import CHAT_TOKENS, CONTROL_TOKENS, Tokenizer

PROJECT = Path(__file__).parents[1]
KNOWN = (PROJECT / "tests/schemas/known_chat_tokens.txt").read_text("utf-8").split("\n")
TIKTOKEN = ("cl100k_base", "o200k_base", "p50k_base", "r50k_base", "gpt2")
LESSON = ["the cat sat on the mat, it's 1234 o'clock; naïve 東京 <|im_start|> <|user|> " * 40]
ZERO_WIDTH = ("\u200b", "\u200d", "\ufeff", "\u2060", "\u00ad")
ODD = ("\x00", "\ud83d", "\ude00", "\U0001f600", "\u202e", "\x1b[2J", "\r\n", "\n\n", " " * 9, "é")
BATCH = 2000


def hugging_face(normalizer: Any, first: bool) -> dict[str, Any]:
    """A byte-level BPE whose own special tokens are all those known, before or after the rest."""
    specials = [*CONTROL_TOKENS, *(k for k in KNOWN if k and k not in CONTROL_TOKENS)]
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=specials if first else [], show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(LESSON, trainer=trainer)
    if not first:
        made.add_special_tokens([AddedToken(token, special=True) for token in specials])
        made.add_tokens([AddedToken("<think>", normalized=False), AddedToken(" the cat")])
    content: dict[str, Any] = json.loads(made.to_str())
    return content


def _tiktoken(name: str) -> Tokenizer | None:
    """An encoding whose ranks are on this machine; None for one that would be downloaded."""
    cache = PROJECT.parent / "shared" / "models" / "tiktoken"
    with pytest.MonkeyPatch.context() as patch:
        if "TIKTOKEN_CACHE_DIR" not in os.environ and cache.is_dir():
            patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        patch.setattr("requests.get", _refuse)
        try:
            return tokenizer.named(name)
        except UserError:
            return None


def _refuse(url: str) -> None:
    raise OSError(f"{url}: not on this machine")


@functools.cache
def known_tokenizers() -> dict[str, Tokenizer]:
    found: dict[str, Tokenizer | None] = {name: _tiktoken(name) for name in TIKTOKEN}
    found["trained"] = bpe.train(LESSON, 300, "trained")
    first = hugging_face(None, True)
    last = hugging_face(normalizers.NFC(), False)
    found["hf, specials first"] = tokenizer.from_hugging_face("first", first)
    found["hf, specials last, NFC"] = tokenizer.from_hugging_face("last", last)
    return {name: made for name, made in found.items() if made is not None}


def kept_ids(known: Tokenizer) -> set[int]:
    """The ids that no text may produce, each once."""
    controls = known.control_ids.values()
    assert len(set(controls)) == len(CONTROL_TOKENS)
    kept = {*known.special_tokens.values(), *controls}
    assert not kept & known.token_bytes.keys()
    return kept


@functools.cache
def fragments() -> tuple[str, ...]:
    """Every special token of every tokenizer, whole, cut, and disguised in each way."""
    literals = {*CONTROL_TOKENS, *filter(None, KNOWN)}
    for known in known_tokenizers().values():
        literals |= known.special_tokens.keys()
    found: list[str] = [*ODD, *ZERO_WIDTH, "the cat", " the", "1234", "<|", "|>", "<", ">", "|"]
    for literal in sorted(literals):
        middle = len(literal) // 2
        wide = "".join(chr(ord(c) + 0xFEE0) if 0x21 <= ord(c) <= 0x7E else c for c in literal)
        found += [literal] * 4
        found += [literal.upper(), literal.title(), f" {literal}", f"{literal}\n", f"Ġ{literal}"]
        found += [html.escape(literal), wide, literal.replace("|", "｜"), literal.replace("|", "¦")]
        found += [literal[:middle], literal[middle:], literal[:-1], literal[1:]]
        found += [f"{literal[:middle]}{mark}{literal[middle:]}" for mark in (*ZERO_WIDTH, "\x00")]
        found += ["".join(f"&#{ord(c)};" for c in literal), literal.encode().hex(), literal[::-1]]
    return tuple(found)


def strings(draw: random.Random, count: int) -> list[str]:
    """Up to six fragments in a row, every eighth string with characters from anywhere."""
    pieces = fragments()
    made = []
    for number in range(count):
        some = draw.choices(pieces, k=draw.randint(1, 6))
        if number % 8 == 0:
            some.insert(draw.randrange(len(some)), chr(draw.randrange(0x110000)))
        made.append("".join(some))
    return made


def check_pages(known: Tokenizer, kept: set[int], texts: list[str], seed: int) -> int:
    """The special ids that the texts of pages produced, counted: always 0."""
    lists = token_lists(texts, known)
    values, starts = lists.values.to_numpy(), lists.offsets.to_numpy()[:-1]
    assert (values[starts] == known.boundary).all()
    special = np.isin(values, sorted(kept))
    special[starts] = False
    assert not special.any(), f"seed {seed}: {known.name}: {_culprit(known, kept, texts)!r}"
    return len(texts)


def _culprit(known: Tokenizer, kept: set[int], texts: list[str]) -> str:
    return next(text for text in texts if kept & set(known.encode(text)))


def chats(draw: random.Random, texts: list[str]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Rows whose every field is one of `texts`, and the control tokens that the grammar gives."""
    left = iter(texts)
    while True:
        row, names, turns = _chat(draw, left)
        if turns is None:
            return
        yield row, names


def _chat(
    draw: random.Random, left: Iterator[str]
) -> tuple[dict[str, Any], list[str], list[dict[str, Any]] | None]:
    try:
        system, *others = (next(left) for _ in range(10))
    except (StopIteration, RuntimeError):
        return {}, [], None
    # A turn of white space alone says nothing, and its row is rejected.
    asked, first, second, answer, name, key, value, result, made_up = (
        text if text.strip() else f"{text}." for text in others
    )
    arguments: Any = {key: value, "n": [value, {key: None}]}
    if draw.random() < 0.5:
        arguments = json.dumps(arguments)
    calls = [{"type": "function", "id": key, "function": {"name": name, "arguments": arguments}}]
    parts: Any = [{"type": "text", "text": first}, second] if draw.random() < 0.5 else asked
    messages: list[dict[str, Any]] = [
        {"role": "user", "name": name, "content": parts},
        {"role": "assistant", "content": answer, "tool_calls": calls, made_up: value},
        {"role": "tool", "tool_call_id": name, "name": key, "content": result},
        {"role": "assistant", "content": second + ".", "weight": draw.choice([0, 1])},
    ]
    names = [
        "<|user|>", "<|end|>",
        "<|assistant|>", "<|tool_call|>", "<|tool_call_end|>", "<|end|>",
        "<|tool_result|>", "<|tool_result_end|>",
        "<|assistant|>", "<|end|>",
    ]  # fmt: skip
    if system.strip():
        messages.insert(0, {"role": "system", "content": system})
        names = ["<|system|>", "<|end|>", *names]
    row: dict[str, Any] = {"id": result, "url": asked, made_up: result, "messages": messages}
    if draw.random() < 0.5:
        row["tools"] = [{"type": "function", "function": {"name": name, "description": value}}]
        names = ["<|system|>", "<|end|>", *names]
    return row, names, messages


def check_chats(
    known: Tokenizer, kept: set[int], texts: list[str], draw: random.Random, seed: int
) -> int:
    """Frame each row as shards have it; exactly the grammar's control tokens are there."""
    count = 0
    for row, names in chats(draw, texts):
        said = formats.read_row(row)
        tokens = encode.frame(said, known, 1 << 24).tokens
        found = [token for token in tokens if token in kept]
        expected = [known.control_ids[name] for name in ("<|endoftext|>", *names)]
        assert found == expected, f"seed {seed}: {known.name}: {row}"
        assert chat.reply_prompt(said.turns, known)[:-1] == tokens.tolist()
        count += 1
    return count


def prove(count: int, seed: int) -> tuple[int, int, int]:
    """Pages, chats and tokenizers that were tried with `count` strings."""
    draw = random.Random(seed)
    known = {name: (made, kept_ids(made)) for name, made in known_tokenizers().items()}
    turn = list(known.values())
    num_pages = num_chats = 0
    for begin in range(0, count, BATCH):
        texts = strings(draw, min(BATCH, count - begin))
        for made, kept in known.values():
            num_pages += check_pages(made, kept, texts, seed)
        num_chats += check_chats(*turn[begin // BATCH % len(turn)], texts, draw, seed)
    return num_pages, num_chats, len(known)


def test_no_string_becomes_a_control_token(figures: Callable[[str, str], None]) -> None:
    pages, rows, known = prove(20_000, 0)
    assert rows > 1500
    figures("no control token from text",
            f"0 of 20,000 strings, as pages of {known} tokenizers ({pages:,} encodings) and in all "
            f"fields of {rows:,} chats; seed 0")  # fmt: skip


@pytest.mark.soak
def test_no_string_of_a_million_becomes_a_control_token(
    figures: Callable[[str, str], None],
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    pages, rows, known = prove(1_000_000, seed)
    assert rows > 80_000
    figures("no control token from text",
            f"0 of 1,000,000 strings, as pages of {known} tokenizers ({pages:,} encodings) and in "
            f"all fields of {rows:,} chats; seed {seed}")  # fmt: skip


def test_the_count_sees_a_control_token() -> None:
    """The check itself: one id that text may not produce is found, in a page and in a chat."""
    known = known_tokenizers()["trained"]
    text = "the cat"
    planted = {*kept_ids(known), known.encode(text)[0]}
    with pytest.raises(AssertionError, match="the cat"):
        check_pages(known, planted, ["12", text], 7)
    with pytest.raises(AssertionError, match="seed 7"):
        check_chats(known, planted, [text] * 10, random.Random(0), 7)


def test_a_role_is_a_name_and_never_a_text() -> None:
    for name in (*fragments()[:2000], "system\n", "User", "assistant "):
        if name not in formats.ROLES and name not in formats.CALLS:
            row = {"messages": [{"role": name, "content": "a"}, {"role": "user", "content": "b"}]}
            with pytest.raises(RowError, match="role"):
                formats.read_row(row)


@pytest.mark.parametrize("first", CHAT_TOKENS)
def test_no_token_is_joined_over_a_border_of_turns(first: str) -> None:
    for known in known_tokenizers().values():
        kept = kept_ids(known)
        for cut in range(1, len(first)):
            turns = [Turn("user", (first[:cut], first[cut:])), Turn("tool", (first[cut:], "a"))]
            found = [i for i in chat.reply_prompt(turns, known) if i in kept]
            names = ["<|endoftext|>", "<|user|>", "<|end|>", "<|tool_result|>"]
            names += ["<|tool_result_end|>", "<|assistant|>"]
            assert found == [known.control_ids[name] for name in names]


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = hugging_face(None, True)
    change(content)
    return content


def _share_with_text(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["<|end|>"] = content["model"]["vocab"]["t"]


def _share_two(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["<|end|>"] = content["model"]["vocab"]["<|user|>"]


def _share_two_texts(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["a"] = content["model"]["vocab"]["t"]


@pytest.mark.parametrize("change", [_share_with_text, _share_two, _share_two_texts])
def test_a_tokenizer_whose_tokens_share_an_id_is_refused(
    change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    """A text "t" gave the id of <|end|>, where a tokenizer.json listed both under one id."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(changed(change)))
    with pytest.raises(UserError, match=r"tokenizer\.json: .* share the id"):
        tokenizer.load(path)


def test_an_id_beyond_all_vocabularies_is_refused(tmp_path: Path) -> None:
    """A model of as many rows would have taken all memory."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(changed(lambda c: c["model"]["vocab"].update(zz=2**31))))
    with pytest.raises(UserError, match=r"tokenizer\.json: .*id 2,147,483,648: must be below"):
        tokenizer.load(path)


BYTES = [base64.b64encode(bytes([byte])).decode() for byte in range(256)]
HOSTILE_SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "a byte is missing": ({"tokens": BYTES[:100]}, "byte 0x64 has none"),
    "a token twice": ({"tokens": [*BYTES, BYTES[0]]}, "each must be there once"),
    "an empty token": ({"tokens": [*BYTES, ""]}, "each must be there once"),
    "no token": ({"tokens": []}, "byte 0x00 has none"),
    "numbers": ({"tokens": [5]}, "not a tokenizer saved by gristmill"),
    "a pattern that finds nothing": ({"pattern": "zzz"}, "it loses text"),
    "a pattern that backtracks": ({"pattern": r"(?=(a+)+$)\w+"}, "it loses text"),
    "an empty pattern": ({"pattern": ""}, "it fails on a plain text"),
    "a pattern that does not end": ({"pattern": "(" * 100_000}, "not a tokenizer saved by"),
    "a pattern of 10^9 letters": ({"pattern": "((a{1000}){1000}){1000}"}, "not a tokenizer saved"),
    "no name": ({"name": None, "kind": "tiktoken"}, "tiktoken knows"),
    "another kind": ({"kind": "pickle"}, "kind = 'pickle': must be"),
}


@pytest.mark.parametrize("kind", HOSTILE_SPECS)
def test_a_saved_tokenizer_that_loses_text_is_refused(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """tiktoken took some of these, and panicked at the first page."""
    more, said = HOSTILE_SPECS[kind]
    spec = {"kind": "bpe", "name": "x", "pattern": tokenizer.GPT4_SPLIT_PATTERN, "tokens": BYTES}
    path = tmp_path / "tokenizer.gristmill.json"
    path.write_text(json.dumps({**spec, **more}))
    with pytest.raises(UserError) as caught:
        tokenizer.load(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_tokenizer_is_read_or_refused(seed: int, tmp_path: Path) -> None:
    """Values of a tokenizer.json replaced at random: a `UserError`, or ids out of text's reach."""
    draw, path = random.Random(seed), tmp_path / "tokenizer.json"
    values: tuple[Any, ...] = (
        None,
        [],
        {},
        -1,
        2**31,
        1e300,
        "",
        "ByteLevel",
        "\ud83d",
        [[]],
        True,
    )
    whole = hugging_face(normalizers.NFC() if seed % 2 else None, seed < 2)
    for _ in range(60):
        content = json.loads(json.dumps(whole))
        for _ in range(draw.randint(1, 3)):
            _change_one(content, draw, values)
        path.write_text(json.dumps(content))
        try:
            known = tokenizer.load(path)
        except UserError:
            continue
        assert not kept_ids(known) & {i for f in fragments()[::40] for i in known.encode(f)}


def _change_one(content: Any, draw: random.Random, values: tuple[Any, ...]) -> None:
    """Replace or drop one value, however deep."""
    while True:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        key = draw.choice(list(keys))
        inner = content[key]
        if not isinstance(inner, dict | list) or not inner or draw.random() < 0.2:
            break
        content = inner
    if isinstance(content, dict) and draw.random() < 0.2:
        del content[key]
    else:
        content[key] = draw.choice(values)
