"""Checkpoints: a folder of safetensors and JSON that is there whole or not at all.

    RUN/step-000240/model.safetensors        fp32 weights, transformers' Qwen3 names
    RUN/step-000240/optimizer.safetensors    the optimizer's state by parameter name, whole
    RUN/step-000240/config.json              the model's shape, as transformers writes it
    RUN/step-000240/tokenizer.gristmill.json
    RUN/step-000240/state.json               step, settings, data; size and SHA-256 of the others
    RUN/latest                               {"folder": "step-000240", "state_sha256": ...}
    RUN/best                                 the same, of the lowest validation loss

The folder is filled under another name, flushed and renamed; then `latest` is replaced, and only
then older folders go. Whenever the process dies, `latest` names a whole checkpoint or is not there
yet. Nothing is unpickled, and nothing depends on the number of processes.
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
from trainer.durable import fault, file_in, flush, read_json, sha256, to_text, write_json
from trainer.model.model import LanguageModel, ModelConfig, require_room
from trainer.settings import MAX_SEQ_LEN, MAX_VOCAB_SIZE, ModelSettings

LATEST, BEST = "latest", "best"
MODEL_FILE, OPTIMIZER_FILE = "model.safetensors", "optimizer.safetensors"
CONFIG_FILE, STATE_FILE = "config.json", "state.json"
FILES = (MODEL_FILE, OPTIMIZER_FILE, CONFIG_FILE, TOKENIZER_FILE, STATE_FILE)
FORMAT = 2
_STEP_FOLDER = re.compile(r"step-(\d{6,})((?:-again)*)")
# What a killed process leaves: a step folder being filled or removed, a file being written.
_LEFTOVER = re.compile(
    r"\.(step-\d{6,}|run\.json|log\.jsonl|loss\.png|report\.json|latest|best)\.[0-9a-f]+\.tmp"
    r"|\.removed-step-\d{6,}(-again)*"
)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model on its device, its tokenizer and what state.json says."""

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

    A folder that is there is never replaced, `latest` may name it: one of equal content stays as
    it is, beside one of other content the new one gets a longer name. `UserError` where the disk
    does not take it; then everything is as before.
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
            "what was saved before is untouched: make room and go on with --resume"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def point(run: Path, name: str, folder: Path) -> None:
    """Make RUN/`name` (`latest`, `best`) name a step folder."""
    digest = sha256(folder / STATE_FILE)
    write_json(run / name, {"folder": folder.name, "state_sha256": digest})


def pointed(run: Path, name: str) -> tuple[Path, dict[str, Any]] | None:
    """The step folder that RUN/`name` names and its checked state; None where there is none."""
    if not (run / name).exists():
        return None
    folder, digest = _follow(run, name)
    return folder, _checked_state(folder, digest)


def keep(run: Path, count: int) -> None:
    """Remove all step folders but the `count` newest (0: none of them), `latest` and `best`.

    A folder first gets another name, so that none is ever there in part. What a killed process left
    unfinished goes too. Nothing that this trainer did not write is removed: a step folder with
    another file in it stays, and so does a symbolic link.
    """
    for path in list(run.iterdir()):
        if _LEFTOVER.fullmatch(path.name) and not path.is_symlink():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    folders = sorted(filter(_STEP_FOLDER.fullmatch, (p.name for p in run.iterdir())), key=_age)
    kept = {_follow(run, name)[0].name for name in (LATEST, BEST) if (run / name).exists()}
    for name in folders[:-count] if count else []:
        if name not in kept and _is_ours_alone(run / name):
            trash = run / f".removed-{name}"
            (run / name).rename(trash)
            shutil.rmtree(trash, ignore_errors=True)


def load(path: str | Path, device: torch.device) -> Checkpoint:
    """Load RUN (its latest checkpoint) or RUN/step-NNNNNN; `UserError` names a torn file."""
    folder, state = find(Path(path))
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
    require_room(config, (folder / MODEL_FILE).stat().st_size, str(folder / CONFIG_FILE))
    model = LanguageModel(config)
    _load_weights(model, folder / MODEL_FILE)
    return Checkpoint(folder, model.to(device), tokenizer, state)


def find(path: Path) -> tuple[Path, dict[str, Any]]:
    """The step folder that `path` is, or whose run it is (its latest), and its checked state."""
    if (path / STATE_FILE).exists():
        return path, _checked_state(path, None)
    found = pointed(path, LATEST)
    if found is None:
        raise UserError(f"{path}: no checkpoint here (neither {LATEST} nor {STATE_FILE})")
    return found


def load_optimizer(folder: Path, state: dict[str, Any]) -> dict[str, Tensor]:
    """The optimizer's state of a checkpoint, checked against its `state`."""
    _check_file(folder / OPTIMIZER_FILE, state["files"].get(OPTIMIZER_FILE, {}))
    return _read(folder / OPTIMIZER_FILE)


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
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if model.config.settings.tie_word_embeddings:
        del weights["lm_head.weight"]  # safetensors refuses one tensor under two names
    save_file(weights, folder / MODEL_FILE, metadata={"format": "pt"})
    save_file(optimizer, folder / OPTIMIZER_FILE)
    (folder / CONFIG_FILE).write_text(to_text(config_to_json(model.config)), encoding="utf-8")
    tokenizer.save(folder / TOKENIZER_FILE)
    mode = (folder / CONFIG_FILE).stat().st_mode  # safetensors writes for the owner alone
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        (folder / name).chmod(mode)
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in folder.iterdir()}
    own = {"format": FORMAT, "step": step, "tokenizer_hash": tokenizer.hash, "files": files}
    (folder / STATE_FILE).write_text(to_text({**state, **own}), encoding="utf-8")


def _put(temporary: Path, folder: Path) -> Path:
    """Rename `temporary` to `folder`, or find that it is there already."""
    digest = sha256(temporary / STATE_FILE)
    while folder.exists():
        try:
            _checked_state(folder, digest)
            return folder
        except UserError:  # of another run, or damaged
            folder = folder.with_name(folder.name + "-again")
    temporary.rename(folder)
    return folder


def _age(name: str) -> tuple[int, int]:
    found = _STEP_FOLDER.fullmatch(name)
    assert found is not None, name
    return int(found[1]), len(found[2])


def _is_ours_alone(folder: Path) -> bool:
    """Whether a step folder is a folder, and holds the files of a checkpoint and nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(p.name in FILES and p.is_file() and not p.is_symlink() for p in folder.iterdir())


def _follow(run: Path, name: str) -> tuple[Path, str]:
    """The folder that a pointer names, and the hash of its state."""
    pointer = read_json(run / name)
    folder, digest = pointer.get("folder"), pointer.get("state_sha256")
    named = isinstance(folder, str) and _STEP_FOLDER.fullmatch(folder)
    if not named or not isinstance(digest, str):
        raise UserError(f"{run / name}: not a pointer to a checkpoint: {str(pointer)[:200]}")
    return file_in(run, folder, run / name), digest


def _checked_state(folder: Path, state_sha256: str | None) -> dict[str, Any]:
    state = read_json(folder / STATE_FILE)
    if state_sha256 is not None and sha256(folder / STATE_FILE) != state_sha256:
        raise UserError(f"{folder / STATE_FILE}: altered: the run's pointer says another SHA-256")
    files, step = state.get("files"), state.get("step")
    if state.get("format") != FORMAT or not isinstance(files, dict):
        raise UserError(
            f"{folder / STATE_FILE}: checkpoint of format {state.get('format')!r}, this version "
            f"reads format {FORMAT}"
        )
    if type(step) is not int or step < 0 or not all(isinstance(f, dict) for f in files.values()):
        raise UserError(f"{folder / STATE_FILE}: not a checkpoint's: step = {step!r:.80}")
    for name in (MODEL_FILE, CONFIG_FILE, TOKENIZER_FILE):
        _check_file(folder / name, files.get(name, {}))
    return state


def _check_file(path: Path, expected: dict[str, Any]) -> None:
    if not path.exists():
        raise UserError(f"{path}: missing from the checkpoint")
    if path.stat().st_size != expected.get("bytes"):
        raise UserError(
            f"{path}: torn: {path.stat().st_size} bytes, expected {expected.get('bytes')}"
        )
    if sha256(path) != expected.get("sha256"):
        raise UserError(f"{path}: altered: its SHA-256 is not the one in {STATE_FILE}")


def _load_weights(model: LanguageModel, path: Path) -> None:
    weights = _read(path)
    if model.config.settings.tie_word_embeddings and "model.embed_tokens.weight" in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: does not fit {CONFIG_FILE}: {error}") from None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None
