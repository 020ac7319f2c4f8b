"""The data specification of a run: everything that a batch depends on besides the step.

Shards are identified by content, not by path, so the same specification gives the same batches from
a copy elsewhere, on any number of ranks. It is stored as plain JSON in checkpoints; a run does not
resume with a different one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.config import from_dict, json_hash, settings, to_json
from schemas.errors import UserError
from trainer.data.packing import Packing
from trainer.settings import MAX_COUNT, MAX_ROWS, MAX_SEED, MAX_SEQ_LEN, MAX_WEIGHT

FORMAT = 1  # to be increased when the same specification would give different batches


@settings
class Source:
    """A folder of shards in a mixture, identified by its manifest's content hash.

    `weight` is relative to the other sources'; `max_epochs` 0 means no limit.
    """

    content_hash: str
    weight: Annotated[float, Field(gt=0, le=MAX_WEIGHT)] = 1.0
    max_epochs: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0


@settings
class DataSpec:
    """A batch is a pure function of this and the step.

    `rows` counts the rows of a global batch, over all ranks; each has `seq_len` inputs. Row groups
    are packed together in windows of up to `window_tokens` tokens.
    """

    sources: tuple[Source, ...]
    seq_len: Annotated[int, Field(ge=2, le=MAX_SEQ_LEN)]
    rows: Annotated[int, Field(ge=1, le=MAX_ROWS)]
    packing: Packing = "concat"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    split: Literal["train", "validation"] = "train"
    window_tokens: Annotated[int, Field(ge=1, le=2**32)] = 1 << 22
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources = (): must name at least one folder of shards")
        hashes = [source.content_hash for source in self.sources]
        if len(set(hashes)) < len(hashes):
            raise ValueError("sources: two folders hold the same shards; add up their weights")
        if self.format != FORMAT:
            raise ValueError(f"format = {self.format}: must be {FORMAT} in this version")

    @property
    def hash(self) -> str:
        """SHA-256 (hex); equal hashes give equal batches at every step."""
        return json_hash(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them."""
        return to_json(asdict(self))


def from_json(values: dict[str, Any], source: str) -> DataSpec:
    """Read what `DataSpec.to_json` returned; `UserError` names the file `source` and the key."""
    return from_dict(values, DataSpec, source)


def difference(old: DataSpec, new: DataSpec) -> str:
    """`name = old, now new` for every value that differs; empty if none does."""
    before, after = _flat(old.to_json()), _flat(new.to_json())
    return "; ".join(
        f"{name} = {before.get(name, 'none')}, now {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    )


def require_same(old: DataSpec, new: DataSpec, source: str) -> None:
    """`UserError` if `new` differs from `old`, which was read from the file `source`."""
    if old != new:
        raise UserError(
            f"{source}: has a different data specification: {difference(old, new)}; use the old "
            "values or start a new run"
        )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in values.items() if name != "sources"}
    for i, source in enumerate(values["sources"]):
        flat |= {f"sources[{i}].{name}": value for name, value in source.items()}
    return flat
