"""Checkpoints: folders of safetensors and JSON that are complete or absent.

    RUN/step-000240/model.safetensors        fp32 weights, transformers' Qwen3 names
    RUN/step-000240/optimizer.safetensors    the whole optimizer state, by parameter name
    RUN/step-000240/config.json              the model's shape, in transformers' format
    RUN/step-000240/tokenizer.gristmill.json
    RUN/step-000240/state.json               step, settings, data; size and SHA-256 of the others
    RUN/latest                               {"folder": "step-000240", "state_sha256": ...}
    RUN/best                                 the same, for the lowest validation loss

A folder is filled under a temporary name, flushed and renamed; then `latest` is replaced, and only
then are older folders removed. If the process dies at any point, `latest` names a complete
checkpoint or does not exist yet. Nothing is unpickled; nothing depends on the number of processes.
"""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas import tokenizer as tokenizers
from schemas.config import from_dict
from schemas.errors import UserError
from schemas.tokenizer import TOKENIZER_FILE, Tokenizer
from trainer.durable import fault, flush, read_json, sha256, to_text, write_json
from trainer.model.model import LanguageModel, ModelConfig, require_room
from trainer.model.step_folders import BEST as BEST
from trainer.model.step_folders import (
    CONFIG_FILE,
    FORMAT,
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    STEP_FOLDER,
    check_file,
    checked_state,
    follow,
)
from trainer.model.step_folders import LATEST as LATEST
from trainer.model.step_folders import pointed as pointed
from trainer.settings import MAX_SEQ_LEN, MAX_VOCAB_SIZE, ModelSettings

FILES = (MODEL_FILE, OPTIMIZER_FILE, CONFIG_FILE, TOKENIZER_FILE, STATE_FILE)
# Left by a killed process: a step folder being filled or removed, a file being written.
_LEFTOVER = re.compile(
    r"\.(step-\d{6,}|run\.json|log\.jsonl|loss\.png|report\.json|latest|best)\.[0-9a-f]+\.tmp"
    r"|\.removed-step-\d{6,}(-again)*"
)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model on its device, its tokenizer and the content of state.json."""

    folder: Path
    model: LanguageModel
    tokenizer: Tokenizer
    state: dict[str, Any]


def save(
    run: Path,
    step: int,
    model: LanguageModel,
    tokenizer: Tokenizer,
    state: dict[str, Any],
    optimizer: dict[str, Tensor] | None = None,
) -> Path:
    """Write RUN/step-NNNNNN and point RUN/latest at it; returns the folder.

    `latest` may name an existing folder of this step, so that is never replaced: if its content is
    equal it is used, else the new folder gets a longer name. If writing fails, `UserError` is
    raised and the run is unchanged.
    """
    temporary = run / f".step-{step:06d}.{uuid.uuid4().hex}.tmp"
    try:
        temporary.mkdir(parents=True)
        _fill(temporary, step, model, tokenizer, state, optimizer or {})
        for path in temporary.iterdir():
            flush(path)
        folder = _put(temporary, run / f"step-{step:06d}")
        flush(run)
        point(run, LATEST, folder)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{run}: checkpoint of step {step} could not be written ({fault(run, error)}); "
            "earlier checkpoints are intact: free disk space and continue with --resume"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def point(run: Path, name: str, folder: Path) -> None:
    """Make RUN/`name` (`latest` or `best`) name a step folder."""
    digest = sha256(folder / STATE_FILE)
    write_json(run / name, {"folder": folder.name, "state_sha256": digest})


def prune(run: Path, count: int) -> None:
    """Keep the `count` newest step folders (0: all), `latest` and `best`; remove the others.

    A folder is renamed before it is removed, so that none is ever incomplete. Temporary files of
    killed processes are removed too. Files that this trainer did not write are kept: a step folder
    that holds one stays, and so does a symbolic link.
    """
    for path in list(run.iterdir()):
        if _LEFTOVER.fullmatch(path.name) and not path.is_symlink():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    matches = [found for path in run.iterdir() if (found := STEP_FOLDER.fullmatch(path.name))]
    by_age = [found[0] for found in sorted(matches, key=lambda m: (int(m[1]), len(m[2])))]
    kept = {follow(run, name)[0].name for name in (LATEST, BEST) if (run / name).exists()}
    for name in by_age[:-count] if count else []:
        if name not in kept and _holds_only_our_files(run / name):
            trash = run / f".removed-{name}"
            (run / name).rename(trash)
            shutil.rmtree(trash, ignore_errors=True)


def load(path: str | Path, device: torch.device) -> Checkpoint:
    """Load RUN (its latest checkpoint) or RUN/step-NNNNNN; `UserError` names a damaged file."""
    folder, state = find(Path(path))
    tokenizer = tokenizers.load(folder / TOKENIZER_FILE)
    if tokenizer.hash != state.get("tokenizer_hash"):
        raise UserError(
            f"{folder / TOKENIZER_FILE}: tokenizer hash {tokenizer.hash[:12]}, the model was "
            f"trained with {str(state.get('tokenizer_hash'))[:12]}"
        )
    config_path, model_path = folder / CONFIG_FILE, folder / MODEL_FILE
    config = config_from_json(read_json(config_path), str(config_path))
    if config.vocab_size != tokenizer.padded_vocab_size:
        raise UserError(
            f"{config_path}: vocab_size = {config.vocab_size}, the tokenizer pads to "
            f"{tokenizer.padded_vocab_size}"
        )
    require_room(config, model_path.stat().st_size, str(config_path))
    model, weights = LanguageModel(config), _read_tensors(model_path)
    if config.settings.tie_word_embeddings and "model.embed_tokens.weight" in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{model_path}: does not fit {CONFIG_FILE}: {error}") from None
    return Checkpoint(folder, model.to(device), tokenizer, state)


def find(path: Path) -> tuple[Path, dict[str, Any]]:
    """The step folder `path`, or the latest one of the run `path`, and its checked state."""
    if (path / STATE_FILE).exists():
        return path, checked_state(path, None)
    found = pointed(path, LATEST)
    if found is None:
        raise UserError(f"{path}: no checkpoint here (neither {LATEST} nor {STATE_FILE})")
    return found


def load_optimizer(folder: Path, state: dict[str, Any]) -> dict[str, Tensor]:
    """The optimizer state of a checkpoint, its file checked against `state`."""
    check_file(folder / OPTIMIZER_FILE, state["files"].get(OPTIMIZER_FILE, {}))
    return _read_tensors(folder / OPTIMIZER_FILE)


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The shape as transformers' `Qwen3Config`, with its defaults written out."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **asdict(config.settings),
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
    """Read what `config_to_json` returned; `UserError` names a key that is missing or invalid."""
    names = asdict(ModelSettings())
    try:
        settings = from_dict({name: values[name] for name in names}, ModelSettings, source)
        limits = {
            "vocab_size": MAX_VOCAB_SIZE,
            "bos_token_id": MAX_VOCAB_SIZE,
            "max_position_embeddings": MAX_SEQ_LEN,
        }
        for name, most in limits.items():
            if type(values[name]) is not int or not 1 <= values[name] <= most:
                raise UserError(
                    f"{source}: {name} = {values[name]!r:.80}: must be from 1 to {most}"
                )
        return ModelConfig(settings, *(values[name] for name in limits))
    except KeyError as error:
        raise UserError(f"{source}: not a config of this trainer: {error} is missing") from None


def _fill(
    folder: Path,
    step: int,
    model: LanguageModel,
    tokenizer: Tokenizer,
    state: dict[str, Any],
    optimizer: dict[str, Tensor],
) -> None:
    """Write all files of a checkpoint, state.json last."""
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if model.config.settings.tie_word_embeddings:
        del weights["lm_head.weight"]  # safetensors refuses one tensor under two names
    save_file(weights, folder / MODEL_FILE, metadata={"format": "pt"})
    save_file(optimizer, folder / OPTIMIZER_FILE)
    (folder / CONFIG_FILE).write_text(to_text(config_to_json(model.config)), encoding="utf-8")
    tokenizer.save(folder / TOKENIZER_FILE)
    mode = (folder / CONFIG_FILE).stat().st_mode  # safetensors makes files private to the owner
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        (folder / name).chmod(mode)
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in folder.iterdir()}
    own = {"format": FORMAT, "step": step, "tokenizer_hash": tokenizer.hash, "files": files}
    (folder / STATE_FILE).write_text(to_text({**state, **own}), encoding="utf-8")


def _put(temporary: Path, folder: Path) -> Path:
    """Rename `temporary` to `folder`, unless that exists with equal content."""
    digest = sha256(temporary / STATE_FILE)
    while folder.exists():
        try:
            checked_state(folder, digest)
            return folder
        except UserError:  # of another run, or damaged
            folder = folder.with_name(folder.name + "-again")
    temporary.rename(folder)
    return folder


def _holds_only_our_files(folder: Path) -> bool:
    """Whether it is a real folder that holds files of a checkpoint and nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(p.name in FILES and p.is_file() and not p.is_symlink() for p in folder.iterdir())


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None
