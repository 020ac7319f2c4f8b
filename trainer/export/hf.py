"""Export to a Hugging Face folder, import from one, and compare an export with its checkpoint.

    DIR/config.json                            Qwen3ForCausalLM, with its defaults written out
    DIR/generation_config.json                 ids that end a text, and ids that are never drawn
    DIR/model.safetensors                      without lm_head where it is the embedding
    DIR/tokenizer.json, tokenizer_config.json  with the chat template

transformers loads the folder without custom code; the weights have its names already. The document
mask cannot be exported: there a sequence is one document. Import refuses every setting that this
decoder does not implement. Cost: one copy of the weights.
Format: https://huggingface.co/docs/transformers/model_doc/qwen3.
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
from trainer.model.checkpoint import Checkpoint, config_to_json
from trainer.model.model import INIT_STD, LanguageModel, ModelConfig, require_room
from trainer.model.step_folders import CONFIG_FILE, MODEL_FILE
from trainer.settings import ModelSettings

GENERATION_FILE, INDEX_FILE = "generation_config.json", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REPLY = ("<|end|>", "<|tool_call|>", "<|tool_call_end|>")  # control tokens of an assistant's turn
SIZES = ("vocab_size", "max_position_embeddings")

# transformers' Qwen3Config defaults; every other key must be in the file.
DEFAULTS = {
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "document_mask": True,  # of this trainer alone: other files have no such key
}
# The values that this decoder implements; the first of them is what a missing key means.
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "attention_dropout": (0.0,),
    "use_sliding_window": (False,),
    "quantization_config": (None,),
}

MAX_DIFFERENCE = 1e-4  # of a logit in fp32
ROWS, MAX_TOKENS, NUM_GREEDY = 4, 128, 32  # of a comparison


def require_empty(folder: Path) -> None:
    """`UserError` where `folder` exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: not an empty folder; choose another DIR")


def export(loaded: Checkpoint, folder: Path, dtype: str = "float32") -> None:
    """Write a checkpoint as `folder`, which appears whole or not at all.

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


def _fill(folder: Path, loaded: Checkpoint, dtype: str) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    ends = [tokenizer.boundary, tokenizer.chat_ids["<|end|>"]]
    tokens = {"bos_token_id": ends[0], "eos_token_id": ends, "pad_token_id": ends[0]}
    rope = {"rope_type": "default", "rope_theta": model.config.settings.rope_theta}
    config = {
        **config_to_json(model.config),
        **tokens,
        "rope_parameters": rope,  # read by transformers 5; version 4 reads `rope_theta`
        "initializer_range": INIT_STD,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    suppressed = never_drawn(tokenizer, loaded.state.get("kind") == "sft")
    generation = {**tokens, "suppress_tokens": suppressed}
    for name, values in ((CONFIG_FILE, config), (GENERATION_FILE, generation)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
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


def never_drawn(tokenizer: Tokenizer, chats: bool) -> list[int]:
    """Ids that the model must not write: undefined ones, and control tokens of others' turns.

    Of control tokens, a model that does not chat writes the document boundary alone.
    """
    allowed = {tokenizer.boundary} | {tokenizer.chat_ids[name] for name in REPLY if chats}
    control = {*tokenizer.special_tokens.values(), *tokenizer.control_ids.values()}
    return sorted((control | set(tokenizer.undefined_ids)) - allowed)


class Imported(NamedTuple):
    """A model from a Hugging Face folder, in fp32 on its device, and its tokenizer."""

    model: LanguageModel
    tokenizer: Tokenizer


def load(folder: str | Path, device: torch.device) -> Imported:
    """Import a Qwen3 model; `UserError` names the file, key and value that prevent it.

    The embedding, and a head of its own, get the tokenizer's `padded_vocab_size` rows: ids without
    a row in the file start as the mean of all rows (https://nlp.stanford.edu/~johnhew/
    vocab-expansion.html); rows that no id names are padding and are dropped.
    """
    folder = Path(folder)
    source = str(folder / CONFIG_FILE)
    values = read_json(folder / CONFIG_FILE)
    tokenizer = tokenizers.load(folder / hf_export.MODEL_FILE)
    config = config_of(values, tokenizer, source)
    weights = _read_weights(folder)
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
            rows, more = rows.float()[: config.vocab_size], config.vocab_size - len(rows)
            if more > 0:
                rows = torch.cat([rows, rows.mean(0).expand(more, -1)])
            weights[name] = rows
    _copy_weights(weights, model, folder)
    return Imported(model.to(device), tokenizer)


def config_of(values: dict[str, Any], tokenizer: Tokenizer, source: str) -> ModelConfig:
    """The shape in a config.json; `UserError` names what this decoder does not implement."""
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
    names = tuple(asdict(ModelSettings()))
    for name in (*names, *SIZES):
        if known.get(name) is None:
            raise UserError(f"{source}: {name} is missing")
    settings = from_dict({name: known[name] for name in names}, ModelSettings, source)
    for name in SIZES:
        if type(known[name]) is not int or known[name] < 1:
            raise UserError(f"{source}: {name} = {known[name]!r}: must be a whole number above 0")
    if tokenizer.encoding.n_vocab > known["vocab_size"]:
        raise UserError(
            f"{source}: vocab_size = {known['vocab_size']}: the tokenizer in this folder has ids "
            f"up to {tokenizer.encoding.n_vocab - 1}"
        )
    return ModelConfig(
        settings, tokenizer.padded_vocab_size, tokenizer.boundary, known["max_position_embeddings"]
    )


def _rope_theta(values: dict[str, Any], source: str) -> Any:
    """RoPE's base, from the key of transformers 4 or 5; scaled RoPE is refused."""
    theta = values.get("rope_theta", 10_000.0)
    for key in ("rope_scaling", "rope_parameters"):
        rope = values.get(key) or {}
        if not isinstance(rope, dict):
            raise _refused(source, key, rope, None)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise _refused(source, f"{key}.rope_type", kind, "default")
        rotated = rope.get("partial_rotary_factor", 1.0)
        if rotated != 1.0:
            raise _refused(source, f"{key}.partial_rotary_factor", rotated, 1.0)
        theta = rope.get("rope_theta", theta)
    return theta


def _refused(source: str, key: str, value: Any, right: Any) -> UserError:
    return UserError(f"{source}: {key} = {value!r}: this decoder supports only {right!r}")


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the files in the folder that an index names.

    The files may be symbolic links, as in the cache of Hugging Face's hub.
    """
    if not (folder / INDEX_FILE).exists():
        if not (folder / MODEL_FILE).exists():
            raise UserError(f"{folder}: neither {MODEL_FILE} nor {INDEX_FILE} is here")
        names = {MODEL_FILE}
    else:
        places = read_json(folder / INDEX_FILE).get("weight_map")
        try:
            if not isinstance(places, dict) or not places:
                raise ValueError(f"{places!r:.80}: must be an object")
            names = {plain_component(name) for name in places.values()}
        except ValueError as error:
            raise UserError(
                f"{folder / INDEX_FILE}: weight_map must name files in this folder: {error}"
            ) from None
    found: dict[str, Tensor] = {}
    for path in (folder / name for name in sorted(names)):
        try:
            found |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file: {error}") from None
    return found


def _copy_weights(weights: dict[str, Tensor], model: LanguageModel, folder: Path) -> None:
    """Copy all weights to the model; `UserError` names one that does not fit."""
    own = dict(model.named_parameters())  # a tied head is the embedding, and named once
    for name in sorted(own.keys() ^ weights.keys()):
        problem = "is missing" if name in own else "has no place in this decoder"
        raise UserError(f"{folder}: weight {name} {problem}")
    with torch.no_grad():
        for name, parameter in own.items():
            if weights[name].shape != parameter.shape:
                raise UserError(
                    f"{folder}: weight {name} is {tuple(weights[name].shape)}, {CONFIG_FILE} "
                    f"asks for {tuple(parameter.shape)}"
                )
            parameter.copy_(weights[name])


@dataclass(frozen=True)
class Comparison:
    """The largest difference of a logit in fp32 and in bf16, and the largest logit.

    `bf16_agrees` is the share of positions where bf16 has the same likeliest token. Of `num_greedy`
    tokens that greedy generation writes, `num_equal` are equal before the first that is not.
    """

    fp32: float
    bf16: float
    largest: float
    bf16_agrees: float
    num_equal: int
    num_greedy: int


@torch.no_grad()
def compare(
    model: LanguageModel, tokenizer: Tokenizer, folder: Path, dtype: str, chats: bool
) -> Comparison:
    """Compare `model` (on the CPU) with its export in `dtype`, loaded by transformers.

    Both read equal random ids after the document boundary, and write greedily after a prompt of
    eight. The model's weights are rounded as the file has them. Cost: three forward passes and a
    short generation. `UserError` where transformers is not installed.
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
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.copy_(parameter.to(DTYPES[dtype]))
    random = torch.Generator().manual_seed(0)
    known = torch.tensor(sorted(tokenizer.token_bytes))
    length = min(MAX_TOKENS, model.config.max_position_embeddings)
    tokens = known[torch.randint(len(known), (ROWS, length), generator=random)]
    tokens[:, 0] = tokenizer.boundary
    ours, theirs = model(tokens), {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype=kind, attn_implementation="sdpa"
        )
        theirs[name] = loaded(tokens).logits.float()
        if name == "fp32":
            equal = _greedy_agreement(model, loaded, tokens[:1, :8], never_drawn(tokenizer, chats))
    return Comparison(
        fp32=float((ours - theirs["fp32"]).abs().max()),
        bf16=float((ours - theirs["bf16"]).abs().max()),
        largest=float(ours.abs().max()),
        bf16_agrees=float((ours.argmax(-1) == theirs["bf16"].argmax(-1)).double().mean()),
        num_equal=int(equal.cumprod(0).sum()),
        num_greedy=len(equal),
    )


def _greedy_agreement(
    model: LanguageModel, loaded: Any, prompt: Tensor, forbidden: list[int]
) -> Tensor:
    """Which of the tokens that both write greedily after the prompt are equal, as 0 or 1."""
    count = min(NUM_GREEDY, model.config.max_position_embeddings - prompt.shape[1])
    theirs: Tensor = loaded.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False
    )
    tokens = prompt
    while tokens.shape[1] < theirs.shape[1]:
        logits = model(tokens)[:, -1]
        logits[:, forbidden] = -torch.inf
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    return (tokens == theirs)[0, prompt.shape[1] :].long()
