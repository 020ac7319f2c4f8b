"""The weights that a run begins with: drawn, taken from a checkpoint, or gone on with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.data import spec
from trainer.data.loader import Loader
from trainer.distributed import Ranks
from trainer.durable import sha256
from trainer.export import hf
from trainer.model import checkpoint
from trainer.model.checkpoint import Checkpoint
from trainer.model.model import LanguageModel, ModelConfig
from trainer.settings import PretrainRecipe, ScheduleSettings
from trainer.train import run_folder
from trainer.train.optimizer import learning_rate_factor
from trainer.train.request import Request, identity


@dataclass(frozen=True)
class Weights:
    """A model to train, after `step` steps that left `optimizer`; `origin` tells it from others."""

    model: LanguageModel
    origin: dict[str, Any]
    step: int = 0
    optimizer: dict[str, Tensor] | None = None
    state: dict[str, Any] = field(default_factory=dict)


def first_weights(request: Request, loader: Loader, group: Ranks) -> Weights:
    """The weights that the request begins with, on the device."""
    if request.beginning == "scratch":
        return Weights(_new_model(request, loader).to(group.device), {"from": "scratch"})
    assert request.weights is not None
    if request.beginning == "from-hf":
        imported = hf.load(request.weights, group.device)
        _require_ids(loader, imported.tokenizer, request.weights)
        files = sorted(request.weights.glob("*.safetensors"))
        origin = {"from": "from-hf", "files": {file.name: sha256(file) for file in files}}
        return Weights(_fitting(request, loader, imported.model), origin)
    loaded = checkpoint.load(request.weights, group.device)
    _require_tokenizer(loader, loaded)
    model = _fitting(request, loader, loaded.model)
    digest = sha256(loaded.folder / checkpoint.STATE_FILE)
    origin = {"from": request.beginning, "state_sha256": digest}
    if request.beginning == "init-from":
        return Weights(model, origin)
    _require_extensible(request, loader, loaded)
    optimizer = checkpoint.load_optimizer(loaded.folder, loaded.state)
    return Weights(model, origin, int(loaded.state["step"]), optimizer, loaded.state)


def latest_weights(
    out: Path, first: Weights, identity: dict[str, Any], group: Ranks
) -> Weights | None:
    """The newest checkpoint of the run; None where it got to none.

    `UserError` where the checkpoint is of a run of another `identity`.
    """
    if checkpoint.pointed(out, checkpoint.LATEST) is None:
        return None
    loaded = checkpoint.load(out, group.device)
    if loaded.state.get("identity") != identity:
        changes = run_folder.changes(loaded.state.get("identity") or {}, identity)
        raise UserError(f"{loaded.folder}: of a run of other settings ({changes})")
    optimizer = checkpoint.load_optimizer(loaded.folder, loaded.state)
    return Weights(loaded.model, first.origin, int(loaded.state["step"]), optimizer, loaded.state)


def _new_model(request: Request, loader: Loader) -> LanguageModel:
    """Drawn on the CPU from the seed: equal weights on every rank and device."""
    assert isinstance(request.recipe, PretrainRecipe)
    tokenizer = loader.shards.tokenizer
    config = ModelConfig(
        request.recipe.model,
        tokenizer.padded_vocab_size,
        tokenizer.boundary,
        request.recipe.data.seq_len,
    )
    torch.manual_seed(request.recipe.run.seed)
    return LanguageModel(config)


def _fitting(request: Request, loader: Loader, model: LanguageModel) -> LanguageModel:
    """The loaded model, once it is known that data and recipe fit it."""
    config, seq_len = model.config, request.recipe.data.seq_len
    vocab_size = loader.shards.tokenizer.padded_vocab_size
    if seq_len > config.max_position_embeddings:
        raise UserError(
            f"data.seq_len = {seq_len}: the model of {request.weights} reads at most "
            f"{config.max_position_embeddings} tokens"
        )
    if config.vocab_size != vocab_size:
        raise UserError(
            f"{request.weights}: a vocabulary of {config.vocab_size}, the shards' tokenizer "
            f"{loader.shards.tokenizer.name} has {vocab_size}"
        )
    if isinstance(request.recipe, PretrainRecipe) and request.recipe.model != config.settings:
        changes = "; ".join(
            f"model.{name} = {wanted}, the weights have {asdict(config.settings)[name]}"
            for name, wanted in asdict(request.recipe.model).items()
            if asdict(config.settings)[name] != wanted
        )
        raise UserError(f"{request.weights}: {changes}; give the recipe the shape of the weights")
    return model


def _require_ids(loader: Loader, tokenizer: Tokenizer, folder: Path) -> None:
    """`UserError` unless each id means the same; how text is split is the shards' affair."""
    own = loader.shards.tokenizer
    if (tokenizer.token_bytes, tokenizer.control_ids) != (own.token_bytes, own.control_ids):
        raise UserError(
            f"{folder}: its tokenizer's ids mean something else than those of "
            f"{loader.shards.folder} ({own.name}); make shards with --tokenizer "
            f"{folder / 'tokenizer.json'}"
        )


def _require_tokenizer(loader: Loader, loaded: Checkpoint) -> None:
    shards = loader.shards
    if loaded.tokenizer.hash != shards.tokenizer.hash:
        raise UserError(
            f"{shards.folder}: tokenizer {shards.tokenizer.name} ({shards.tokenizer.hash[:12]}), "
            f"{loaded.folder} was trained with {loaded.tokenizer.name} "
            f"({loaded.tokenizer.hash[:12]})"
        )


def _require_extensible(request: Request, loader: Loader, loaded: Checkpoint) -> None:
    """`UserError` unless the run is the checkpoint's, only longer, and its decay is not begun."""
    old, step = loaded.state["identity"], int(loaded.state["step"])
    spec.require_same(
        spec.from_json(old["data"], str(loaded.folder)), loader.spec, str(loaded.folder)
    )
    new = identity(request, loader, {})["settings"]
    for name in sorted(new.keys() | old["settings"].keys()):
        if name not in ("run", "schedule") and new.get(name) != old["settings"].get(name):
            raise UserError(
                f"{loaded.folder}: [{name}] differs from that run's: --extend changes "
                "run.num_steps and the schedule's decay alone; --init-from takes weights only"
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
            f"the new run longer than {step} steps"
        )
