"""What a user asks of a run, and the data that it names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from schemas import manifest as manifests
from schemas.config import to_json
from schemas.errors import UserError
from schemas.manifest import MANIFEST_FILE
from trainer.data.loader import Loader, Mixed
from trainer.data.packing import Packing
from trainer.settings import Recipe

Kind = Literal["pretrain", "sft"]
Beginning = Literal["scratch", "init-from", "extend", "from-hf"]
# Settings of [run] that decide a run's numbers; the others say how and how often.
DECIDING = ("num_steps", "seed")
NAMED_FILES = 5  # unlisted files that a warning names


@dataclass(frozen=True)
class RunRequest:
    """A recipe and the flags of `trainer pretrain` or `trainer sft`.

    `beginning` says what `weights` is: a checkpoint to take weights from (`init-from`), one to
    continue for more steps (`extend`), or a Hugging Face folder (`from-hf`).
    """

    kind: Kind
    recipe: Recipe
    out: Path
    shards: tuple[Path, ...] = ()
    device: str = "auto"
    resume: bool = False
    beginning: Beginning = "scratch"
    weights: Path | None = None


def open_data(request: RunRequest) -> tuple[Loader, Loader]:
    """Loaders of the training batches and of the held-out rows."""
    data, run, mixture = request.recipe.data, request.recipe.run, _mixture(request)
    loader = Loader(
        mixture,
        seq_len=data.seq_len,
        rows=data.batch_size,
        packing=_packing(request),
        seed=data.seed,
        vocab_size=data.vocab_size,
        check_files=True,
    )
    loader.epochs(run.num_steps)  # raises an error above a source's max_epochs
    rows = run.device_batch_size or data.batch_size
    validation = Loader(
        mixture, seq_len=data.seq_len, rows=rows, packing="best_fit", split="validation"
    )
    return loader, validation


def folders(request: RunRequest) -> list[Path]:
    """The folders of shards, in the order of the mixture."""
    return [Path(mixed.folder) for mixed in _mixture(request)]


def _mixture(request: RunRequest) -> list[Mixed]:
    sources = request.recipe.data.sources
    if bool(sources) == bool(request.shards):
        both = "both" if sources else "neither"
        raise UserError(
            f"data: {both} of --shards DIR and [[data.sources]] of the recipe given; give one"
        )
    if request.shards:
        return [Mixed(folder) for folder in request.shards]
    return [Mixed(Path(s.shards), s.weight, s.max_epochs) for s in sources]


def _packing(request: RunRequest) -> Packing:
    """The recipe's packing, with `auto` decided by what the shards hold."""
    read = [manifests.read(folder) for folder in folders(request)]
    kinds = {"conversations" if m and m.has_conversations else "documents" for m in read}
    if request.kind == "sft" and kinds == {"documents"}:
        raise UserError(
            f"{folders(request)[0]}: holds documents, not conversations; make shards for trainer "
            "sft with gristmill conversations, or train on these with trainer pretrain"
        )
    if request.recipe.data.packing == "auto":
        return "best_fit" if "conversations" in kinds else "concat"
    return request.recipe.data.packing


def identity(request: RunRequest, loader: Loader, origin: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's numbers: two runs with equal identities are the same run."""
    settings = asdict(request.recipe)
    del settings["sample"], settings["data"]
    settings["run"] = {name: settings["run"][name] for name in DECIDING}
    return {
        "kind": request.kind,
        "settings": to_json(settings),
        "data": loader.spec.to_json(),
        "tokenizer": loader.shards.tokenizer.hash,
        "weights": origin,
    }


def warnings_of_data(request: RunRequest, loader: Loader) -> list[str]:
    """Warnings of files that are not read, and of conversations that may not fit in a row."""
    warnings, room = [], request.recipe.data.seq_len + 1
    for shards in (source.shards for source in loader.sources):
        if shards.unlisted:
            more = len(shards.unlisted) - NAMED_FILES
            named = ", ".join(shards.unlisted[:NAMED_FILES]) + (f" and {more} more" * (more > 0))
            warnings.append(
                f"{shards.folder}: not listed in {MANIFEST_FILE} and not read: {named}; left by an "
                "interrupted gristmill shard, or copied here"
            )
        context = shards.manifest.settings.get("conversations", {}).get("context", 0)
        if context > room:
            warnings.append(
                f"{shards.folder}: conversations have up to {context} tokens; those over "
                f"data.seq_len + 1 = {room} are split"
            )
    return warnings
