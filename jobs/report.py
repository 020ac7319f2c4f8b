"""The funnel of a run, from the manifests alone: every record read has exactly one outcome."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from jobs.stage import balance
from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import Manifest


@dataclass(frozen=True)
class Funnel:
    """What became of every record. `outcomes` sums to `records`.

    `rejected` counts `documents` by reason, `duplicates_by_kind` the copies, `pii` the pieces of
    personal data that were taken out of canonical documents; stages that have not
    run yet leave their documents under the outcome they have so far (`extracted`, `kept`).
    """

    recipe: str
    records: int
    outcomes: dict[str, int]
    documents: int
    rejected: dict[str, int]
    kept: int
    duplicates: int
    duplicates_by_kind: dict[str, int]
    repeated_ids: int
    canonical: int
    pii: dict[str, int]
    shards: int
    tokens: int
    tokens_by_split: dict[str, int]
    tokenizer: str
    seconds: dict[str, float]
    engines: dict[str, str]

    def to_json(self) -> str:
        """The funnel as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=1)


def funnel(root: Path, shards_folder: str = "shards") -> Funnel:
    """Read the funnel of a root; `UserError` where nothing was extracted there."""
    documents = manifest.read(root / "documents")
    if documents is None:
        raise UserError(f"--root {root}: no run was committed there; begin with gristmill run")
    judged = _made_from(root / "judged", documents)
    bands = _made_from(root / "bands", judged)
    clusters = _made_from(root / "clusters", judged)
    scrubbed = _made_from(root / "canonical", judged)
    shards = _made_from(root / shards_folder, scrubbed)
    rowless, extracted = _split_rowless(documents)
    by_reason = dict(judged.counts) if judged else extracted
    kept = by_reason.pop("kept", 0) if judged else by_reason.pop("extracted", 0)
    duplicates = dict(clusters.counts) if clusters else {}
    canonical = duplicates.pop("kept", 0)
    last = {"canonical": canonical} if clusters else {"kept" if judged else "extracted": kept}
    outcomes = rowless | by_reason | duplicates | last
    made = {m.dataset: m.made for m in (documents, judged, clusters, shards) if m}
    result = Funnel(
        recipe=documents.recipe,
        records=sum(documents.counts.values()),
        outcomes=_sorted(outcomes),
        documents=documents.rows,
        rejected=_sorted(by_reason),
        kept=kept,
        duplicates=sum(duplicates.values()),
        duplicates_by_kind=duplicates,
        repeated_ids=bands.counts["repeated_ids"] if bands else 0,
        canonical=canonical,
        pii=scrubbed.extra.get("pii", {}) if scrubbed else {},
        seconds={name: m["seconds"] for name, m in made.items()},
        engines={name: m["engine"] for name, m in made.items()},
        **_shard_numbers(shards),
    )
    _check(root, result)
    return result


def _made_from(folder: Path, source: Manifest | None) -> Manifest | None:
    """The manifest in `folder`, unless it was made of something else than what is there now."""
    found = manifest.read(folder)
    if source and found and found.inputs.get(source.dataset) == source.fingerprint:
        return found
    return None


def _split_rowless(documents: Manifest) -> tuple[dict[str, int], dict[str, int]]:
    names = {name for file in documents.files for name in file.extra["rowless"]}
    rowless = {k: v for k, v in documents.counts.items() if k in names}
    return rowless, {k: v for k, v in documents.counts.items() if k not in names}


def _shard_numbers(shards: Manifest | None) -> dict[str, Any]:
    if shards is None:
        return {"shards": 0, "tokens": 0, "tokens_by_split": {}, "tokenizer": ""}
    tokens = shards.extra["tokens"]
    return {
        "shards": len(shards.files),
        "tokens": sum(tokens.values()),
        "tokens_by_split": tokens,
        "tokenizer": shards.extra["tokenizer"]["name"],
    }


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _check(root: Path, result: Funnel) -> None:
    balance(f"report {root}", "records", result.records, sum(result.outcomes.values()))


def stage_table(root: Path, stage: str, shards_folder: str = "shards") -> Table:
    """What a stage did, in a table."""
    found = funnel(root, shards_folder)
    rows = {
        "extract": lambda: _extract_rows(root, found),
        "filter": lambda: _share_rows(found.rejected, found.kept, "kept"),
        "dedup": lambda: _dedup_rows(found),
        "shard": lambda: _shard_rows(found),
    }[stage]()
    dataset = {"extract": "documents", "filter": "judged", "dedup": "clusters", "shard": "shards"}
    name = dataset[stage]
    table = _table(f"{stage}: {found.seconds[name]:.1f} s on {found.engines[name]}")
    for row in rows:
        table.add_row(*row)
    return table


def funnel_table(found: Funnel) -> Table:
    """The whole funnel, in a table: records, outcomes, what was kept, tokens."""
    table = _table(f"funnel of recipe '{found.recipe}'")
    table.add_row("records read", f"{found.records:,}", "")
    for name, count in found.outcomes.items():
        table.add_row(f"  {name}", f"{count:,}", f"{count / max(1, found.records):.1%}")
    table.add_section()
    for name in ("documents", "kept", "duplicates", "canonical", "shards", "tokens"):
        table.add_row(name, f"{getattr(found, name):,}", "")
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column("outcome")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    return table


def _extract_rows(root: Path, found: Funnel) -> list[tuple[str, str, str]]:
    documents = manifest.read(root / "documents")
    assert documents is not None
    rows = _share_rows(_sorted(documents.counts), found.records, "records read")
    return [rows[-1], *rows[:-1]]


def _share_rows(counts: dict[str, int], last: int, name: str) -> list[tuple[str, str, str]]:
    total = max(1, last if name == "records read" else last + sum(counts.values()))
    listed = {**counts, name: last}
    return [(key, f"{n:,}", f"{n / total:.1%}") for key, n in listed.items()]


def _dedup_rows(found: Funnel) -> list[tuple[str, str, str]]:
    rows = _share_rows(found.duplicates_by_kind, found.canonical, "canonical")
    if found.repeated_ids:
        rows.append(("ids that repeat", f"{found.repeated_ids:,}", ""))
    taken = {kind: count for kind, count in found.pii.items() if count}
    return rows + [(f"{kind} taken out", f"{count:,}", "") for kind, count in taken.items()]


def _shard_rows(found: Funnel) -> list[tuple[str, str, str]]:
    rows = [("documents", f"{found.canonical:,}", ""), ("shards", f"{found.shards:,}", "")]
    for split, tokens in found.tokens_by_split.items():
        rows.append((f"{split} tokens", f"{tokens:,}", f"{tokens / max(1, found.tokens):.1%}"))
    return [*rows, (f"tokenizer {found.tokenizer}", "", "")]
