"""What the filters said of a page that was trained on: its row in the dataset `judged`.

The root that the shards were made in is the folder above theirs. Manifests say whether `judged` is
still what they were made of; then the row is found by its key. A limit is told beside the signal
that it is named after: `min_` and `max_` go before a name, and counts leave out their `num_`.
Cost: a read of the keys, and of the row groups that hold the row.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds

from schemas import manifest
from schemas.datasets import KEY
from schemas.manifest import Manifest

if TYPE_CHECKING:
    from trainer.where import Origin

_OF_LANGUAGE = ("language", "language_score")  # signals that are columns, not a struct


@dataclass(frozen=True)
class Signal:
    """A number that a filter measured, and the settings that it has to keep to."""

    name: str
    value: Any
    limits: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What the filters said: `rejected_by` None means that no rule was broken.

    `filters` are in the recipe's order. `absent` says why nothing is known, where nothing is.
    """

    root: str
    absent: str | None = None
    rejected_by: str | None = None
    filters: dict[str, list[Signal]] = field(default_factory=dict)


def find(origin: Origin) -> Verdict:
    """What was said of the page that a token came from."""
    folder = Path(origin.folder).absolute()
    root = folder.parent
    shards, judged = manifest.read(folder), manifest.read(root / "judged")
    if shards and shards.extra.get("kind") == "conversations":
        return Verdict(str(root), "filters do not judge conversations")
    if judged is None:
        return Verdict(str(root), "no dataset `judged` is there")
    if not _made_from(root, shards, judged):
        return Verdict(str(root), "these shards were not made from the dataset `judged` there now")
    row = _row(root / "judged", judged, origin)
    if row is None:
        return Verdict(str(root), "the dataset `judged` there has no row of it")
    filters = {name: _signals(name, row, judged) for name in judged.settings["filters"]}
    return Verdict(str(root), None, row["rejected_by"], filters)


def _made_from(root: Path, shards: Manifest | None, judged: Manifest) -> bool:
    """Whether shards, canonical, bands and judged are each made from the next."""
    made = [shards, *(manifest.read(root / name) for name in ("canonical", "bands")), judged]
    return all(
        one is not None and of is not None and one.inputs.get(of.dataset) == of.fingerprint
        for one, of in itertools.pairwise(made)
    )


def _row(folder: Path, judged: Manifest, origin: Origin) -> dict[str, Any] | None:
    rows: ds.Dataset = ds.dataset(judged.paths(folder), format="parquet")
    named = (*_OF_LANGUAGE, "rejected_by", *judged.settings["filters"])
    columns = [name for name in dict.fromkeys(named) if name in rows.schema.names]
    path, offset = (ds.field(name) == pa.scalar(getattr(origin, name)) for name in KEY)
    found = rows.to_table(columns=columns, filter=path & offset).to_pylist()
    return found[0] if found else None


def _signals(name: str, row: dict[str, Any], judged: Manifest) -> list[Signal]:
    measured = {n: row[n] for n in _OF_LANGUAGE} if name == "language" else row.get(name) or {}
    settings = judged.settings.get(name, {})
    return [Signal(n, value, _limits(name, n, settings)) for n, value in measured.items()]


def _limits(filter_: str, signal: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings named after a signal; tables that are empty decide nothing."""
    bare = signal.removeprefix("num_").removeprefix(f"{filter_}_")
    names = (f"min_{bare}", f"max_{bare}", f"min_{bare}_of", f"{bare}s")
    return {n: settings[n] for n in names if settings.get(n) not in (None, {}, [])}
