"""The loader that `trainer where` asks: of flags, or of a run and the shards that it trained on.

A run names its shards by what they hold, not by where they lie, so folders are matched with its
sources by their content hash; those that are not given are looked for where the run found them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import MANIFEST_FILE
from trainer import data_spec
from trainer.data_spec import DataSpec, Source
from trainer.durable import read_json
from trainer.loader import Loader, Mixed
from trainer.packing import Packing


def open_loader(arguments: argparse.Namespace) -> Loader:
    """The loader of `--run`, or of one folder of shards and the flags of its batches."""
    folders = [path.parent if path.name == MANIFEST_FILE else path for path in arguments.manifest]
    if arguments.of_run is not None:
        return _of_run(arguments.of_run / "run.json", folders)
    if not folders:
        raise UserError("give --run RUN, or --manifest M with the flags of its batches")
    if len(folders) > 1:
        raise UserError(f"--manifest: {len(folders)} folders are mixed as a run says; give --run")
    return Loader(
        folders, seq_len=arguments.seq_len, rows=arguments.batch_size,
        packing=_packing(arguments.packing, folders[0]), seed=arguments.seed, check_files=True,
    )  # fmt: skip


def _packing(asked: str, folder: Path) -> Packing:
    if asked == "auto":
        found = manifest.read(folder)
        chats = found is not None and found.extra.get("kind") == "conversations"
        return "best_fit" if chats else "concat"
    return "concat" if asked == "concat" else "best_fit"


def steps_to_look_at(arguments: argparse.Namespace) -> int:
    """How many steps, from the first: `--steps`, or as many as the run has trained."""
    if arguments.steps is None and arguments.of_run is not None:
        from trainer import checkpoint  # torch takes seconds

        latest = checkpoint.pointed(arguments.of_run, checkpoint.LATEST)
        if latest is None:
            raise UserError(f"{arguments.of_run}: has no checkpoint yet; give --steps N")
        return int(latest[1]["step"])
    if arguments.steps is None or arguments.steps < 1:
        raise UserError(f"--steps {arguments.steps}: must be at least 1 with --url or --id")
    return int(arguments.steps)


def _of_run(path: Path, given: list[Path]) -> Loader:
    written = read_json(path)
    if not isinstance(written.get("data"), dict):
        raise UserError(f"{path}: has no data specification: not a run of this version")
    spec = data_spec.from_json(written["data"], f"{path}: data")
    listed = written.get("folders", [])
    if not isinstance(listed, list) or not all(isinstance(folder, str) for folder in listed):
        raise UserError(f"{path}: folders = {listed!r:.80}: must be a list of folders")
    listed = list(map(Path, listed))
    mixed = [
        Mixed(folder, source.weight, source.max_epochs)
        for folder, source in zip(_folders(spec, given, listed, path), spec.sources, strict=True)
    ]
    names = ("seq_len", "rows", "packing", "seed", "split", "window_tokens")
    loader = Loader(mixed, check_files=True, **{name: getattr(spec, name) for name in names})
    data_spec.require_same(spec, loader.spec, str(path))
    return loader


def _folders(spec: DataSpec, given: list[Path], listed: list[Path], path: Path) -> list[Path]:
    """Where each source lies: a folder that was given, else the run's own."""
    hashes = [source.content_hash for source in spec.sources]
    there = _by_hash(given)
    for hash_, folder in there.items():
        if hash_ not in hashes:
            raise UserError(
                f"{folder}: holds shards {hash_[:12]}; {path} was trained on "
                f"{', '.join(h[:12] for h in hashes)}: give the shards that it was trained on"
            )
    at_run = _by_hash(folder for folder in listed if (folder / MANIFEST_FILE).is_file())
    return [_place(source, at_run | there, listed, path) for source in spec.sources]


def _place(source: Source, there: dict[str, Path], listed: list[Path], path: Path) -> Path:
    if source.content_hash not in there:
        looked = ", ".join(map(str, listed)) or "it names no folder"
        raise UserError(
            f"{path}: trained on shards {source.content_hash[:12]}, which are not where they were "
            f"({looked}); say with --manifest where they are"
        )
    return there[source.content_hash]


def _by_hash(folders: Iterable[Path]) -> dict[str, Path]:
    return {_content_hash(folder): folder for folder in folders}


def _content_hash(folder: Path) -> str:
    found: Any = manifest.read(folder)
    if found is None or "content_hash" not in found.extra:
        raise UserError(
            f"{folder}: holds no shards; give a folder with a {MANIFEST_FILE} of shards"
        )
    return str(found.extra["content_hash"])
