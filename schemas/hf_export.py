"""Export a tokenizer as Hugging Face `tokenizer.json`, and the chat template of conversations.

Ids are equal on text that contains no special token's literal. tiktoken has ranks, the `tokenizers`
package pairs to merge. A token's pair is found by encoding its bytes with the tokens of lower rank,
which leaves exactly two parts for a BPE learned merge by merge. All special tokens are put in the
vocabulary, since the package chooses ids for those that are not. Before writing, every character
and a mixed text are encoded both ways and compared, which takes two seconds for cl100k_base. After
`bpe` in https://github.com/openai/tiktoken (_educational.py) and transformers' TikTokenConverter.

The chat template (Jinja, https://huggingface.co/docs/transformers/chat_templating) gives the ids
and loss mask of our shards for conversations in OpenAI's format. Its limits: transformers tokenizes
the rendered text, so a special token's literal in a text becomes that token; texts of several parts
are encoded as one; arguments given as a string are used unchanged. Targets stand in a `generation`
block, which `return_assistant_tokens_mask` reads.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiktoken
import tokenizers

from schemas.errors import UserError
from schemas.hf_tokenizer import PROBE, HuggingFaceEncoding, byte_alphabet
from schemas.manifest import atomic_path
from schemas.tokenizer import DOCUMENT_BOUNDARY, Tokenizer

MODEL_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
# Planes that have characters, without surrogates.
CHARACTERS = (*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xF0000))


def oniguruma_pattern(pattern: str) -> str:
    """tiktoken's split pattern in the dialect of the `tokenizers` package.

    In that dialect `{1,3}+` repeats the repetition, and `$` matches at every line end. tiktoken's
    other possessive quantifiers are followed by nothing that could make them backtrack.
    """
    return pattern.replace("{1,3}+", "{1,3}").replace("$", r"\z")


def export(known: Tokenizer, target: str | Path) -> Path:
    """Write `target` (`*.json`), or `tokenizer.json` and its configuration in that folder.

    Returns the path of `tokenizer.json`. Raises `UserError` if ids would differ.
    """
    path, content = model_path(target), to_json(known)
    check_equal(known, content)
    _write(path, content)
    if path != Path(target):
        _write(path.with_name(CONFIG_FILE), _config())
    return path


def export_for_model(known: Tokenizer, folder: Path, chat_template: str, context: int) -> None:
    """Write both files into the folder of a model with a context of `context` tokens.

    The document boundary is put before each text, as in training; the template writes its own.
    """
    content = {**to_json(known), "post_processor": _boundary_first(known.boundary)}
    check_equal(known, content)
    _write(folder / MODEL_FILE, content)
    config = {**_config(), "pad_token": DOCUMENT_BOUNDARY, "model_max_length": context}
    _write(folder / CONFIG_FILE, {**config, "chat_template": chat_template})


def model_path(target: str | Path) -> Path:
    """The file that `export` writes: `target`, or `tokenizer.json` in it if it is a folder."""
    target = Path(target)
    return target if target.suffix == ".json" else target / MODEL_FILE


def to_json(known: Tokenizer) -> dict[str, Any]:
    """The content of `tokenizer.json`: the ordinary ids, then all special and control tokens."""
    encoding = known.encoding
    if isinstance(encoding, HuggingFaceEncoding):
        content = dict(known.spec["tokenizer"])
    else:
        content = _from_ranks(encoding, known.name)
    specials = known.special_tokens | known.control_ids
    vocab = {**content["model"]["vocab"], **specials}
    old = {token["content"]: token for token in content.get("added_tokens") or []}
    ours = known.control_ids  # flags of the original file may strip white space next to them
    added = [
        (t not in ours and old.get(t)) or _added(t, i)
        for t, i in sorted(specials.items(), key=lambda x: x[1])
    ]
    parts = {"post_processor": None, "decoder": _byte_level(), "truncation": None, "padding": None}
    model = {**content["model"], "vocab": vocab}
    return {"version": "1.0", **content, **parts, "added_tokens": added, "model": model}


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that makes each multi-byte token, by rank; raises `ValueError` if none does."""
    found = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _encode_below(token, ranks, rank)
            if len(parts) != 2:
                raise ValueError(f"token {rank} ({token!r}) is no pair of earlier tokens")
            found.append((parts[0], parts[1]))
    return found


def check_equal(known: Tokenizer, content: dict[str, Any]) -> None:
    """Raise `UserError` if the file gives other ids than the tokenizer on any character."""
    bare = {**content, "added_tokens": []}
    model = tokenizers.Tokenizer.from_str(json.dumps(bare))
    starts = range(0, len(CHARACTERS), 1024)
    for text in (PROBE, *("".join(map(chr, CHARACTERS[i : i + 1024])) for i in starts)):
        if known.encode(text) != model.encode(text, add_special_tokens=False).ids:
            raise UserError(
                f"tokenizer {known.name}: tokenizers {version('tokenizers')} and tiktoken "
                f"{version('tiktoken')} split text differently near U+{ord(text[0]):04X}; "
                "install versions of the same Unicode"
            )


def _from_ranks(encoding: tiktoken.Encoding, name: str) -> dict[str, Any]:
    try:
        pairs = merges(encoding._mergeable_ranks)
    except ValueError as error:
        raise UserError(f"tokenizer {name}: cannot be exported as merges: {error}") from None
    character = {byte: stand_in for stand_in, byte in byte_alphabet().items()}

    def text(token: bytes) -> str:
        return "".join(map(character.__getitem__, token))

    ranked = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
    pattern = {"Regex": oniguruma_pattern(encoding._pat_str)}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, _byte_level()]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text(token): rank for token, rank in ranked},
            "merges": [[text(left), text(right)] for left, right in pairs],
        },
    }


def _encode_below(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """The parts of `token` after merging pairs of rank below `limit`, lowest rank first."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while True:
        pairs = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        lowest = min(pairs, default=limit)
        if lowest >= limit:
            return parts
        at = pairs.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def _byte_level() -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }


def _added(token: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **flags, "special": True}


def _boundary_first(number: int) -> dict[str, Any]:
    """The post-processor that puts the boundary first when `add_special_tokens` is set."""
    name = DOCUMENT_BOUNDARY
    boundary = {"SpecialToken": {"id": name, "type_id": 0}}
    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [boundary, first],
        "pair": [boundary, first, boundary, second],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }


def _config() -> dict[str, Any]:
    """What transformers' `AutoTokenizer` needs besides `tokenizer.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": DOCUMENT_BOUNDARY,
        "eos_token": DOCUMENT_BOUNDARY,
        "clean_up_tokenization_spaces": False,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


CHAT_TEMPLATE = """\
{%- macro said(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content or [] -%}
            {%- if part is string -%}
                {{- part -}}
            {%- elif part.type == 'text' -%}
                {{- part.text -}}
            {%- else -%}
                {{- raise_exception('content of type ' ~ part.type ~ ': only text') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro called(call) -%}
    {%- set function = call.function or call -%}
    {%- set arguments = function.arguments -%}
    {{- '<|tool_call|>{"name": ' ~ (function.name | tojson) ~ ', "arguments": ' -}}
    {%- if arguments is string -%}
        {{- arguments if arguments | trim else '{}' -}}
    {%- else -%}
        {{- ({} if arguments is none or arguments is undefined else arguments) | tojson -}}
    {%- endif -%}
    {{- '}<|tool_call_end|>' -}}
{%- endmacro -%}
{%- macro reply(message) -%}
    {{- said(message.content) -}}
    {%- for call in message.tool_calls or [] -%}
        {{- called(call) -}}
    {%- endfor -%}
    {%- if message.function_call -%}
        {{- called(message.function_call) -}}
    {%- endif -%}
    {{- '<|end|>' -}}
{%- endmacro -%}
{{- bos_token -}}
{%- if tools -%}
    {{- '<|system|>' ~ (tools | tojson) ~ '<|end|>' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role in ['system', 'developer'] -%}
        {%- if said(message.content) | trim -%}
            {{- '<|system|>' ~ said(message.content) ~ '<|end|>' -}}
        {%- endif -%}
    {%- elif message.role == 'user' -%}
        {{- '<|user|>' ~ said(message.content) ~ '<|end|>' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<|assistant|>' -}}
        {%- if message.weight is defined and message.weight == 0 -%}
            {{- reply(message) -}}
        {%- else -%}
            {%- generation -%}
                {{- reply(message) -}}
            {%- endgeneration -%}
        {%- endif -%}
    {%- elif message.role in ['tool', 'function'] -%}
        {{- '<|tool_result|>' ~ said(message.content) ~ '<|tool_result_end|>' -}}
    {%- else -%}
        {{- raise_exception('role ' ~ message.role ~ ': system, user, assistant, tool') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""
