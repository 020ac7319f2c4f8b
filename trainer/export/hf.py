"""Out to Hugging Face and in from it: a folder that transformers loads without code of ours.

    DIR/config.json                            Qwen3ForCausalLM, with what it defaults written out
    DIR/generation_config.json                 what ends a text, and ids that are never drawn
    DIR/model.safetensors                      lm_head is left out where it is the embedding
    DIR/tokenizer.json, tokenizer_config.json  with the chat template

The weights have transformers' names already. What cannot be written is the document mask: there a
sequence is one document. Reading refuses every setting that this decoder has no counterpart of.
Cost: one copy of the weights. Format: https://huggingface.co/docs/transformers/model_doc/qwen3.

An exported folder against the checkpoint it was made from, as transformers computes it.

Both get equal random ids behind the document boundary; what is compared are the logits of every
place, and what each writes when it always takes the likeliest token. Cost: three forward passes and
a short generation on the CPU.
"""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas import hf_export
from schemas import tokenizer as tokenizers
from schemas.config import from_dict
from schemas.errors import UserError
from schemas.hf_export import CHAT_TEMPLATE
from schemas.names import plain_component
from schemas.tokenizer import Tokenizer
from trainer.durable import fault, flush, read_json
from trainer.model.checkpoint import CONFIG_FILE, MODEL_FILE, Checkpoint, config_to_json
from trainer.model.model import INIT_STD, LanguageModel, ModelConfig, require_room
from trainer.settings import ModelSettings

GENERATION_FILE, INDEX_FILE = "generation_config.json", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REPLY = ("<|end|>", "<|tool_call|>", "<|tool_call_end|>")  # control tokens that an assistant says

# What transformers' Qwen3Config takes where a file says nothing; other keys must be there.
DEFAULTS = {
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "document_mask": True,  # ours alone: files of others have none
}
# Key -> the values that this decoder can do, the first of them what a missing key means.
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "attention_dropout": (0.0,),
    "use_sliding_window": (False,),
    "quantization_config": (None,),
}


class Imported(NamedTuple):
    """A model of Hugging Face's form in fp32, on its device, and its tokenizer."""

    model: LanguageModel
    config: ModelConfig
    tokenizer: Tokenizer


def require_empty(folder: Path) -> None:
    """`UserError` where `folder` is there and holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: not an empty folder; choose another DIR")


def export(loaded: Checkpoint, folder: Path, dtype: str = "float32") -> None:
    """Write a checkpoint as `folder`, which is there whole or not at all.

    `dtype` is that of the weights in the file: `float32` or `bfloat16`. `UserError` where the
    folder is not empty, or where the tokenizer cannot be written with equal ids.
    """
    require_empty(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    temporary.mkdir()
    try:
        _fill(temporary, loaded, dtype)
        for path in temporary.iterdir():
            flush(path)
        temporary.rename(folder)
        flush(folder.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: not written: {fault(folder.parent, error)}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def never_drawn(tokenizer: Tokenizer, chats: bool) -> list[int]:
    """Ids that no text of the model may hold: undefined ones, and control tokens of others' turns.

    A model that does not chat says the document boundary alone.
    """
    said = {tokenizer.boundary} | {tokenizer.chat_ids[name] for name in REPLY if chats}
    control = {*tokenizer.special_tokens.values(), *tokenizer.control_ids.values()}
    return sorted((control | set(tokenizer.undefined_ids)) - said)


def _fill(folder: Path, loaded: Checkpoint, dtype: str) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    ends = [tokenizer.boundary, tokenizer.chat_ids["<|end|>"]]
    tokens = {"bos_token_id": ends[0], "eos_token_id": ends, "pad_token_id": ends[0]}
    rope = {"rope_type": "default", "rope_theta": model.config.settings.rope_theta}
    config = {
        **config_to_json(model.config),
        **tokens,
        "rope_parameters": rope,  # transformers 5; `rope_theta` beside it is read by 4
        "initializer_range": INIT_STD,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    drawn = {"suppress_tokens": never_drawn(tokenizer, loaded.state.get("kind") == "sft")}
    _write(folder / CONFIG_FILE, config)
    _write(folder / GENERATION_FILE, {**tokens, **drawn})
    weights = {
        name: weight.detach().to("cpu", DTYPES[dtype]).contiguous()
        for name, weight in model.state_dict().items()
        if name != HEAD or not model.config.settings.tie_word_embeddings
    }
    save_file(weights, folder / MODEL_FILE, metadata={"format": "pt"})
    context = model.config.max_position_embeddings
    hf_export.export_for_model(tokenizer, folder, CHAT_TEMPLATE, context)
    mode = (folder / CONFIG_FILE).stat().st_mode  # safetensors writes for the owner alone
    (folder / MODEL_FILE).chmod(mode)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load(folder: str | Path, device: torch.device) -> Imported:
    """Read a model of Qwen3's form; `UserError` names the file, the key and the value in the way.

    The embedding, and a head of its own, get the tokenizer's `padded_vocab_size` rows: ids that
    the file has no row for start as the mean of all rows (https://nlp.stanford.edu/~johnhew/
    vocab-expansion.html), rows after the last are padding, which no id names, and are left out.
    """
    folder = Path(folder)
    source = str(folder / CONFIG_FILE)
    values = read_json(folder / CONFIG_FILE)
    tokenizer = tokenizers.load(folder / hf_export.MODEL_FILE)
    config = config_of(values, tokenizer, source)
    weights = _weights(folder)
    require_room(config, sum(weight.nbytes for weight in weights.values()), source)
    model = LanguageModel(config)
    if config.settings.tie_word_embeddings:
        weights.pop(HEAD, None)
    for name in (EMBEDDING, HEAD):
        if name in weights:
            rows = weights[name]
            if len(rows) != values.get("vocab_size"):
                raise UserError(
                    f"{folder}: {name} has {len(rows)} rows, {CONFIG_FILE} says vocab_size = "
                    f"{values.get('vocab_size')}"
                )
            weights[name] = _with_rows(rows.float(), config.vocab_size)
    _put(model, weights, folder)
    return Imported(model.to(device), config, tokenizer)


def config_of(values: dict[str, Any], tokenizer: Tokenizer, source: str) -> ModelConfig:
    """The shape that a config.json describes; `UserError` names what this decoder cannot do."""
    if values.get("model_type") != "qwen3":
        raise UserError(
            f"{source}: model_type = {values.get('model_type')!r}: only 'qwen3' can be read"
        )
    for key, choices in ONLY.items():
        if values.get(key, choices[0]) not in choices:
            raise _refused(source, key, values[key], choices[0])
    layers = values.get("layer_types") or []
    for kind in layers if isinstance(layers, list) else [layers]:
        if kind != "full_attention":
            raise _refused(source, "layer_types", kind, "full_attention")
    known = {**DEFAULTS, **values, "rope_theta": _rope_theta(values, source)}
    missing = [name for name in (*asdict(ModelSettings()), *_SIZES) if known.get(name) is None]
    if missing:
        raise UserError(f"{source}: {missing[0]} is missing")
    settings = from_dict({k: known[k] for k in asdict(ModelSettings())}, ModelSettings, source)
    for name in _SIZES:
        if type(known[name]) is not int or known[name] < 1:
            raise UserError(f"{source}: {name} = {known[name]!r}: must be a whole number above 0")
    if tokenizer.encoding.n_vocab > known["vocab_size"]:
        raise UserError(
            f"{source}: vocab_size = {known['vocab_size']}: the tokenizer beside it has ids up to "
            f"{tokenizer.encoding.n_vocab - 1}"
        )
    return ModelConfig(
        settings, tokenizer.padded_vocab_size, tokenizer.boundary, known["max_position_embeddings"]
    )


_SIZES = ("vocab_size", "max_position_embeddings")


def _rope_theta(values: dict[str, Any], source: str) -> Any:
    """RoPE's base, from where transformers 4 or 5 writes it; scaled RoPE is refused."""
    theta = values.get("rope_theta", 10_000.0)
    for key in ("rope_scaling", "rope_parameters"):
        rope = values.get(key) or {}
        if not isinstance(rope, dict):
            raise _refused(source, key, rope, None)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise _refused(source, f"{key}.rope_type", kind, "default")
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            name = f"{key}.partial_rotary_factor"
            raise _refused(source, name, rope["partial_rotary_factor"], 1.0)
        theta = rope.get("rope_theta", theta)
    return theta


def _refused(source: str, key: str, value: Any, right: Any) -> UserError:
    return UserError(f"{source}: {key} = {value!r}: this decoder can do {right!r} alone")


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of one file, or of the files beside it that an index names.

    They may be symbolic links: the cache of Hugging Face's hub is made of such.
    """
    if not (folder / INDEX_FILE).exists():
        if not (folder / MODEL_FILE).exists():
            raise UserError(f"{folder}: neither {MODEL_FILE} nor {INDEX_FILE} is here")
        return _read(folder / MODEL_FILE)
    places = read_json(folder / INDEX_FILE).get("weight_map")
    try:
        if not isinstance(places, dict) or not places:
            raise ValueError(f"{places!r:.80}: must be an object")
        names = {plain_component(name) for name in places.values()}
    except ValueError as error:
        raise UserError(
            f"{folder / INDEX_FILE}: weight_map must name files beside it: {error}"
        ) from None
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        found |= _read(folder / name)
    return found


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None


def _with_rows(rows: Tensor, count: int) -> Tensor:
    """The first `count` rows; where there are fewer, their mean again and again."""
    more = count - len(rows)
    return torch.cat([rows, rows.mean(0).expand(more, -1)]) if more > 0 else rows[:count]


def _put(model: LanguageModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Copy the weights in place; `UserError` names one that is missing, unknown or misshapen."""
    own = dict(model.named_parameters())  # a tied head is the embedding, and named once
    for name in sorted(own.keys() ^ weights.keys()):
        fault = "is missing" if name in own else "has no place in this decoder"
        raise UserError(f"{folder}: weight {name} {fault}")
    with torch.no_grad():
        for name, parameter in own.items():
            if weights[name].shape != parameter.shape:
                raise UserError(
                    f"{folder}: weight {name} is {tuple(weights[name].shape)}, {CONFIG_FILE} "
                    f"asks for {tuple(parameter.shape)}"
                )
            parameter.copy_(weights[name])


MAX_DIFFERENCE = 1e-4  # of a logit in fp32
ROWS, MAX_TOKENS, NUM_GREEDY = 4, 128, 32


@dataclass(frozen=True)
class Comparison:
    """The greatest difference of a logit in fp32 and bf16, and the greatest logit there is.

    `bf16_agrees` is the share of places where bf16 has the same likeliest token; `num_equal` of
    `num_greedy` tokens that greedy generation began with are equal.
    """

    fp32: float
    bf16: float
    largest: float
    bf16_agrees: float
    num_equal: int
    num_greedy: int


def compare(
    model: LanguageModel, tokenizer: Tokenizer, folder: Path, dtype: str, chats: bool
) -> Comparison:
    """Compare `model` (on the CPU) with its export in `dtype`; `UserError` without transformers.

    Where the file has bf16 weights, `model` is taken with weights rounded to them.
    """
    try:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError:
        raise UserError(
            "--check needs transformers, which is not installed: pip install transformers"
        ) from None
    quiet: Any = logging.disable_progress_bar
    quiet()
    model, tokens = _rounded(model, DTYPES[dtype]), _probe(model, tokenizer)
    with torch.no_grad():
        ours = model.eval()(tokens)
        theirs = {}
        for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype=kind, attn_implementation="sdpa"
            )
            theirs[name] = loaded(tokens).logits.float()
            if name == "fp32":
                equal, count = _greedy(model, loaded, tokenizer, chats)
    return Comparison(
        fp32=float((ours - theirs["fp32"]).abs().max()),
        bf16=float((ours - theirs["bf16"]).abs().max()),
        largest=float(ours.abs().max()),
        bf16_agrees=float((ours.argmax(-1) == theirs["bf16"].argmax(-1)).double().mean()),
        num_equal=equal,
        num_greedy=count,
    )


def _rounded(model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """A copy of the model, its weights as a file of `dtype` holds them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    return model


def _probe(model: LanguageModel, tokenizer: Tokenizer) -> Tensor:
    """`ROWS` documents of random ids, each begun by the boundary."""
    random = torch.Generator().manual_seed(0)
    known = torch.tensor(sorted(tokenizer.token_bytes))
    length = min(MAX_TOKENS, model.config.max_position_embeddings)
    tokens = known[torch.randint(len(known), (ROWS, length), generator=random)]
    tokens[:, 0] = tokenizer.boundary
    return tokens


def _greedy(
    model: LanguageModel, loaded: Any, tokenizer: Tokenizer, chats: bool
) -> tuple[int, int]:
    """How many tokens of both texts are equal before the first that is not, and of how many."""
    prompt = _probe(model, tokenizer)[:1, :8]
    count = min(NUM_GREEDY, model.config.max_position_embeddings - prompt.shape[1])
    given = torch.ones_like(prompt)
    theirs = loaded.generate(prompt, attention_mask=given, max_new_tokens=count, do_sample=False)
    forbidden, tokens = never_drawn(tokenizer, chats), prompt
    for _ in range(theirs.shape[1] - prompt.shape[1]):
        logits = model(tokens)[:, -1]
        logits[:, forbidden] = -torch.inf
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    equal = (tokens == theirs)[0, prompt.shape[1] :].long()
    return int(equal.cumprod(0).sum()), len(equal)
