"""The weights that a run starts with: new, from a checkpoint, or from its own latest checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.errors import UserError
from trainer.data import spec
from trainer.data.loader import Loader
from trainer.distributed import Ranks
from trainer.durable import sha256
from trainer.export import hf
from trainer.model import checkpoint
from trainer.model.checkpoint import Checkpoint
from trainer.model.model import LanguageModel, ModelConfig
from trainer.model.step_folders import STATE_FILE
from trainer.settings import PretrainRecipe, ScheduleSettings
from trainer.train import run_folder
from trainer.train.optimizer import learning_rate_factor
from trainer.train.request import RunRequest, identity


@dataclass(frozen=True)
class Weights:
    """A model on its device after `step` steps, with the `optimizer` and checkpoint `state` of it.

    `origin` says where the run's first weights came from; it is a part of the run's identity.
    """

    model: LanguageModel
    origin: dict[str, Any]
    step: int = 0
    optimizer: dict[str, Tensor] | None = None
    state: dict[str, Any] = field(default_factory=dict)


def initial_weights(request: RunRequest, loader: Loader, group: Ranks) -> Weights:
    """The weights that the request names; `UserError` where data or recipe do not fit them."""
    own = loader.shards.tokenizer
    if request.weights is None:
        assert isinstance(request.recipe, PretrainRecipe)
        torch.manual_seed(request.recipe.run.seed)
        config = ModelConfig(
            request.recipe.model,
            own.padded_vocab_size,
            own.boundary,
            request.recipe.data.seq_len,
        )
        model = LanguageModel(config)  # on the CPU: equal weights on every rank and device
        return Weights(model.to(group.device), {"from": "scratch"})
    if request.beginning == "from-hf":
        imported = hf.load(request.weights, group.device)
        theirs = imported.tokenizer  # may split text otherwise, but its ids must mean the same
        if (theirs.token_bytes, theirs.control_ids) != (own.token_bytes, own.control_ids):
            raise UserError(
                f"{request.weights}: its token ids differ from those of {loader.shards.folder} "
                f"({own.name}); make shards with --tokenizer {request.weights / 'tokenizer.json'}"
            )
        _require_shape(request, loader, imported.model)
        files = sorted(request.weights.glob("*.safetensors"))
        origin = {"from": "from-hf", "files": {file.name: sha256(file) for file in files}}
        return Weights(imported.model, origin)
    loaded = checkpoint.load(request.weights, group.device)
    if loaded.tokenizer.hash != own.hash:
        raise UserError(
            f"{loader.shards.folder}: tokenizer {own.name} ({own.hash[:12]}), "
            f"{loaded.folder} was trained with {loaded.tokenizer.name} "
            f"({loaded.tokenizer.hash[:12]})"
        )
    _require_shape(request, loader, loaded.model)
    digest = sha256(loaded.folder / STATE_FILE)
    origin = {"from": request.beginning, "state_sha256": digest}
    if request.beginning == "init-from":
        return Weights(loaded.model, origin)
    _require_extensible(request, loader, loaded)
    return _at_checkpoint(loaded, origin)


def latest_weights(
    out: Path, initial: Weights, identity: dict[str, Any], group: Ranks
) -> Weights | None:
    """The newest checkpoint of the run; None where there is none yet.

    `UserError` where it is the checkpoint of a run of another `identity`.
    """
    if checkpoint.pointed(out, checkpoint.LATEST) is None:
        return None
    loaded = checkpoint.load(out, group.device)
    if loaded.state.get("identity") != identity:
        changes = run_folder.changes(loaded.state.get("identity") or {}, identity)
        raise UserError(f"{loaded.folder}: of a run of other settings ({changes})")
    return _at_checkpoint(loaded, initial.origin)


def _at_checkpoint(loaded: Checkpoint, origin: dict[str, Any]) -> Weights:
    optimizer = checkpoint.load_optimizer(loaded.folder, loaded.state)
    return Weights(loaded.model, origin, int(loaded.state["step"]), optimizer, loaded.state)


def _require_shape(request: RunRequest, loader: Loader, model: LanguageModel) -> None:
    """`UserError` unless the loaded model fits the row length, the vocabulary and `[model]`."""
    config, seq_len, tokenizer = model.config, request.recipe.data.seq_len, loader.shards.tokenizer
    if seq_len > config.max_position_embeddings:
        raise UserError(
            f"data.seq_len = {seq_len}: the model of {request.weights} reads at most "
            f"{config.max_position_embeddings} tokens"
        )
    if config.vocab_size != tokenizer.padded_vocab_size:
        raise UserError(
            f"{request.weights}: a vocabulary of {config.vocab_size}, the shards' tokenizer "
            f"{tokenizer.name} has {tokenizer.padded_vocab_size}"
        )
    if isinstance(request.recipe, PretrainRecipe) and request.recipe.model != config.settings:
        known = asdict(config.settings)
        changes = "; ".join(
            f"model.{name} = {wanted}, the weights have {known[name]}"
            for name, wanted in asdict(request.recipe.model).items()
            if known[name] != wanted
        )
        raise UserError(f"{request.weights}: {changes}; set [model] to the shape of the weights")


def _require_extensible(request: RunRequest, loader: Loader, loaded: Checkpoint) -> None:
    """`UserError` unless the run is the checkpoint's, only longer, and its decay has not begun."""
    old, step = loaded.state["identity"], int(loaded.state["step"])
    spec.require_same(
        spec.from_json(old["data"], str(loaded.folder)), loader.spec, str(loaded.folder)
    )
    new = identity(request, loader, {})["settings"]
    for name in sorted(new.keys() | old["settings"].keys()):
        if name not in ("run", "schedule") and new.get(name) != old["settings"].get(name):
            raise UserError(
                f"{loaded.folder}: [{name}] differs from that run's: --extend may change only "
                "run.num_steps and the schedule's decay; --init-from takes the weights alone"
            )
    before, after = old["settings"]["run"]["num_steps"], request.recipe.run.num_steps
    factors = [
        learning_rate_factor(ScheduleSettings(**old["settings"]["schedule"]), step - 1, before),
        learning_rate_factor(request.recipe.schedule, step, after),
    ]
    if request.recipe.schedule.kind != "wsd" or factors != [1.0, 1.0] or after <= step:
        raise UserError(
            f"{loaded.folder}: step {step} of {before} cannot be extended to run.num_steps = "
            f"{after}: the schedule must be 'wsd' with its learning rate at the peak there, and "
            f"run.num_steps above {step}"
        )
