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
# Settings of [run] that decide which numbers come out; the others say how and how often.
DECIDING = ("num_steps", "seed")
NAMED_FILES = 5  # of those that are not listed


@dataclass(frozen=True)
class Request:
    """What a user asks for: a recipe, and what the flags say beside it.

    `beginning` says what `weights` is: a checkpoint whose weights are taken (`init-from`), one that
    is gone on with for more steps (`extend`), or a Hugging Face folder (`from-hf`).
    """

    kind: Kind
    recipe: Recipe
    out: Path
    shards: tuple[Path, ...] = ()
    device: str = "auto"
    resume: bool = False
    beginning: Beginning = "scratch"
    weights: Path | None = None


def folders(request: Request) -> list[Path]:
    """The folders of shards, in the order of the mixture."""
    return [Path(mixed.folder) for mixed in _mixture(request)]


def open_data(request: Request) -> tuple[Loader, Loader]:
    """The batches to train on, and the held-out rows; `UserError` names what does not fit."""
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
    loader.epochs(run.num_steps)  # refuses more than a source's max_epochs
    rows = run.device_batch_size or data.batch_size
    validation = Loader(
        mixture, seq_len=data.seq_len, rows=rows, packing="best_fit", split="validation"
    )
    return loader, validation


def identity(request: Request, loader: Loader, origin: dict[str, Any]) -> dict[str, Any]:
    """What makes two runs the same run."""
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


def warnings_of_data(request: Request, loader: Loader) -> list[str]:
    """Files beside the shards that are not read, and conversations that may not fit in a row."""
    said, room = [], request.recipe.data.seq_len + 1
    for shards in (source.shards for source in loader.sources):
        if shards.unlisted:
            more = len(shards.unlisted) - NAMED_FILES
            named = ", ".join(shards.unlisted[:NAMED_FILES]) + (f" and {more} more" * (more > 0))
            said.append(
                f"{shards.folder}: not listed in {MANIFEST_FILE} and not read: {named}; left by a "
                "gristmill shard that did not end, or copied here"
            )
        settings = shards.manifest.settings.get("conversations", {})
        if settings.get("context", 0) > room:
            said.append(
                f"{shards.folder}: conversations of up to {settings['context']} tokens; those over "
                f"data.seq_len + 1 = {room} are cut into pieces"
            )
    return said


def _mixture(request: Request) -> list[Mixed]:
    sources = request.recipe.data.sources
    if bool(sources) == bool(request.shards):
        both = "both" if sources else "neither"
        raise UserError(
            f"data: {both} of --shards DIR and [[data.sources]] of the recipe given; one of them "
            "must say where the shards are"
        )
    if request.shards:
        return [Mixed(folder) for folder in request.shards]
    return [Mixed(Path(s.shards), s.weight, s.max_epochs) for s in sources]


def _packing(request: Request) -> Packing:
    kinds = {_kind_of(folder) for folder in folders(request)}
    if request.kind == "sft" and kinds == {"documents"}:
        raise UserError(
            f"{folders(request)[0]}: holds documents, no conversations: gristmill conversations "
            "makes shards for trainer sft; trainer pretrain takes these"
        )
    if request.recipe.data.packing == "auto":
        return "best_fit" if "conversations" in kinds else "concat"
    return request.recipe.data.packing


def _kind_of(folder: Path) -> str:
    manifest = manifests.read(folder)
    return "documents" if manifest is None else str(manifest.extra.get("kind", "documents"))
