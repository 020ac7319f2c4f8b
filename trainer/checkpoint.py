"""Checkpoints: a folder of safetensors and JSON that is there whole or not at all.

    RUN/step-000240/model.safetensors        fp32 weights, transformers' Qwen3 names
    RUN/step-000240/config.json              the model's shape, as transformers writes it
    RUN/step-000240/tokenizer.gristmill.json
    RUN/step-000240/state.json               step, settings, data; size and SHA-256 of the others
    RUN/latest                               {"folder": "step-000240", "state_sha256": ...}

The folder is filled under another name, flushed and renamed; then `latest` is replaced. Whenever
the process dies, `latest` names a whole checkpoint or is not there yet. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from schemas import tokenizer as tokenizers
from schemas.config import from_dict
from schemas.errors import UserError
from schemas.manifest import atomic_path
from schemas.tokenizer import TOKENIZER_FILE, Tokenizer
from trainer.model import LanguageModel, ModelConfig
from trainer.settings import ModelSettings

LATEST = "latest"
MODEL_FILE, CONFIG_FILE, STATE_FILE = "model.safetensors", "config.json", "state.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model on its device, its tokenizer and what state.json says."""

    folder: Path
    model: LanguageModel
    tokenizer: Tokenizer
    state: dict[str, Any]


def save(
    run: Path, step: int, model: LanguageModel, tokenizer: Tokenizer, state: dict[str, Any]
) -> Path:
    """Write RUN/step-NNNNNN and point RUN/latest at it; returns the folder.

    A folder that is there is never replaced, `latest` may name it: one of equal content stays as
    it is, beside one of other content the new one gets a longer name.
    """
    temporary = run / f".step-{step:06d}.{uuid.uuid4().hex}.tmp"
    temporary.mkdir(parents=True)
    try:
        _fill(temporary, step, model, tokenizer, state)
        for path in temporary.iterdir():
            _flush(path)
        folder = _put(temporary, run / f"step-{step:06d}")
        _flush(run)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    digest = _sha256(folder / STATE_FILE)
    with atomic_path(run / LATEST) as path:
        path.write_text(json.dumps({"folder": folder.name, "state_sha256": digest}) + "\n")
    return folder


def load(path: str | Path, device: torch.device) -> Checkpoint:
    """Load RUN (its latest checkpoint) or RUN/step-NNNNNN; `UserError` names a torn file."""
    folder, state_sha256 = _find(Path(path))
    state = _checked_state(folder, state_sha256)
    tokenizer = tokenizers.load(folder / TOKENIZER_FILE)
    if tokenizer.hash != state.get("tokenizer_hash"):
        raise UserError(
            f"{folder / TOKENIZER_FILE}: tokenizer hash {tokenizer.hash[:12]}, the model was "
            f"trained with {str(state.get('tokenizer_hash'))[:12]}"
        )
    config = config_from_json(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    if config.vocab_size != tokenizer.padded_vocab_size:
        raise UserError(
            f"{folder / CONFIG_FILE}: vocab_size {config.vocab_size}, the tokenizer pads to "
            f"{tokenizer.padded_vocab_size}"
        )
    model = LanguageModel(config)
    _load_weights(model, folder / MODEL_FILE)
    return Checkpoint(folder, model.to(device), tokenizer, state)


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The shape in the words of transformers' `Qwen3Config`; what it defaults is written out."""
    settings = asdict(config.settings)
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **settings,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "bos_token_id": config.boundary,
        "eos_token_id": config.boundary,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "torch_dtype": "float32",
    }


def config_from_json(values: dict[str, Any], source: str) -> ModelConfig:
    """The shape that `config_to_json` wrote; `UserError` names a key that is missing or wrong."""
    names = asdict(ModelSettings())
    try:
        settings = from_dict({name: values[name] for name in names}, ModelSettings, source)
        return ModelConfig(
            settings,
            int(values["vocab_size"]),
            int(values["bos_token_id"]),
            int(values["max_position_embeddings"]),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{source}: not a config of this trainer: {error} is missing") from None


def _fill(
    folder: Path, step: int, model: LanguageModel, tokenizer: Tokenizer, state: dict[str, Any]
) -> None:
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if model.config.settings.tie_word_embeddings:
        del weights["lm_head.weight"]  # safetensors refuses one tensor under two names
    save_file(weights, folder / MODEL_FILE, metadata={"format": "pt"})
    _write_json(folder / CONFIG_FILE, config_to_json(model.config))
    tokenizer.save(folder / TOKENIZER_FILE)
    mode = (folder / CONFIG_FILE).stat().st_mode  # safetensors writes for the owner alone
    (folder / MODEL_FILE).chmod(mode)
    files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in folder.iterdir()}
    own = {"format": FORMAT, "step": step, "tokenizer_hash": tokenizer.hash, "files": files}
    _write_json(folder / STATE_FILE, {**state, **own})


def _put(temporary: Path, folder: Path) -> Path:
    """Rename `temporary` to `folder`, or find that it is there already."""
    digest = _sha256(temporary / STATE_FILE)
    while folder.exists():
        try:
            _checked_state(folder, digest)
            return folder
        except UserError:  # of another run, or damaged
            folder = folder.with_name(folder.name + "-again")
    temporary.rename(folder)
    return folder


def _find(path: Path) -> tuple[Path, str | None]:
    """The step folder that `path` is or points to, and the hash of its state if known."""
    if (path / STATE_FILE).exists():
        return path, None
    if not (path / LATEST).exists():
        raise UserError(f"{path}: no checkpoint here (neither {LATEST} nor {STATE_FILE})")
    pointer = read_json(path / LATEST)
    name, digest = pointer.get("folder"), pointer.get("state_sha256")
    if not isinstance(name, str) or not isinstance(digest, str) or Path(name).name != name:
        raise UserError(f"{path / LATEST}: not a pointer to a checkpoint: {pointer}")
    return path / name, digest


def _checked_state(folder: Path, state_sha256: str | None) -> dict[str, Any]:
    state = read_json(folder / STATE_FILE)
    if state_sha256 is not None and _sha256(folder / STATE_FILE) != state_sha256:
        raise UserError(f"{folder / STATE_FILE}: altered: {LATEST} says another SHA-256")
    if state.get("format") != FORMAT or not isinstance(state.get("files"), dict):
        raise UserError(f"{folder / STATE_FILE}: format {state.get('format')!r}, expected {FORMAT}")
    for name in (MODEL_FILE, CONFIG_FILE, TOKENIZER_FILE):
        _check_file(folder / name, state["files"].get(name, {}))
    return state


def _check_file(path: Path, expected: dict[str, Any]) -> None:
    if not path.exists():
        raise UserError(f"{path}: missing from the checkpoint")
    if path.stat().st_size != expected.get("bytes"):
        raise UserError(
            f"{path}: torn: {path.stat().st_size} bytes, expected {expected.get('bytes')}"
        )
    if _sha256(path) != expected.get("sha256"):
        raise UserError(f"{path}: altered: its SHA-256 is not the one in {STATE_FILE}")


def _load_weights(model: LanguageModel, path: Path) -> None:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None
    if model.config.settings.tie_word_embeddings and "model.embed_tokens.weight" in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: does not fit {CONFIG_FILE}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a run; `UserError` names it where it is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: torn or missing, not readable JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object")
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
