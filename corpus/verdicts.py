"""What every row of `judged` came to and would come to, from the stored columns and signals alone.

A row's outcome is the first gate of extract that its columns fail, else the first rule of the
filters that its signals break. A gate that looks into the page itself (damage, URL lists, the size
of its tree) cannot be asked again: what it decided stays. Whole Arrow batches at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from corpus.document import Rule
from corpus.filters import FILTERS, Filter
from corpus.recipe import Recipe
from schemas.datasets import DOCUMENTS, KEY

KEPT = "kept"
READ_AGAIN = "read_again"  # the gates now go another way: only extracting it again can tell

Row = Mapping[str, Any]
Mask = NDArray[np.bool_]
Names = NDArray[np.object_]


@dataclass(frozen=True)
class Gate:
    """A gate that the stored columns can be put through again, under other settings.

    `fails` is false where the row did not get as far, and null where the columns cannot say.
    """

    name: str
    columns: tuple[str, ...]
    settings: tuple[str, ...]
    fails: Callable[[pa.RecordBatch, Recipe], pa.Array]


def _is_bad_status(rows: pa.RecordBatch, recipe: Recipe) -> pa.Array:
    return _is_outside(rows["http_status"], recipe.extract.statuses)


def _is_not_html(rows: pa.RecordBatch, recipe: Recipe) -> pa.Array:
    # The text of a WET record comes without a page whose type could be asked.
    is_page = pc.not_equal(rows["extractor"].fill_null(""), "wet")
    return pc.and_(_is_outside(rows["content_type"], recipe.extract.mime_types), is_page)


def _is_too_large(rows: pa.RecordBatch, recipe: Recipe) -> pa.Array:
    # A body whose encoding breaks off is rejected before its size is looked at.
    is_whole = pc.not_equal(rows["rejected_by"].fill_null(""), "undecodable_body")
    size = rows["html_bytes"].fill_null(0)
    return pc.and_(pc.greater(size, recipe.extract.max_html_bytes), is_whole)


def _is_reserved(rows: pa.RecordBatch, recipe: Recipe) -> pa.Array:
    noai = pc.and_(rows["noai"], recipe.extract.honour_noai)
    return pc.or_(noai, pc.and_(rows["tdm_reservation"], recipe.extract.honour_tdm))


def _is_unwanted(rows: pa.RecordBatch, recipe: Recipe) -> pa.Array:
    # Passages were looked at only where the score did not suffice: it cannot be known what those of
    # a page hold whose score would not suffice now.
    few = pc.less(rows["look_passage_chars"], recipe.look.min_passage_chars)
    fails = pc.and_kleene(pc.less(rows["look_score"], recipe.look.min_score), few)
    return pc.if_else(pc.is_valid(rows["look_score"]), fails, False)


def _is_outside(column: pa.Array, wanted: tuple[Any, ...]) -> pa.Array:
    inside = pc.is_in(column, value_set=pa.array(wanted, column.type))
    return pc.and_(pc.is_valid(column), pc.invert(inside))


_LOOK = "look.unwanted_language"
# In the order in which they stand in corpus/extract.py.
GATES: tuple[Gate, ...] = (
    Gate("bad_status", ("http_status",), ("extract.statuses",), _is_bad_status),
    Gate("not_html", ("content_type",), ("extract.mime_types",), _is_not_html),
    Gate("too_large", ("html_bytes",), ("extract.max_html_bytes",), _is_too_large),
    Gate(
        "reserved_rights",
        ("noai", "tdm_reservation"),
        ("extract.honour_noai", "extract.honour_tdm"),
        _is_reserved,
    ),
    Gate(
        _LOOK,
        ("look_score", "look_passage_chars"),
        ("look.min_score", "look.min_passage_chars"),
        _is_unwanted,
    ),
)
ROW = (*KEY, "id", "url", "rejected_by", "language", "html_bytes", "extractor")


def columns(recipe: Recipe) -> list[str]:
    """What `outcomes` reads of `judged` under a recipe, as Parquet names its columns."""
    needed = dict.fromkeys([*ROW, *(name for gate in GATES for name in gate.columns)])
    for name, filter_ in recipe.chosen_filters().items():
        needed |= dict.fromkeys(_path(name, signal) for signal in _read(filter_))
    return list(needed)


def _path(filter_name: str, signal: str) -> str:
    return signal if is_stored_by_extract(filter_name) else f"{filter_name}.{signal}"


def is_stored_by_extract(filter_name: str) -> bool:
    """Whether a filter's signals are columns of `documents`: it has no struct of its own."""
    return all(signal.name in DOCUMENTS.names for signal in FILTERS[filter_name].SIGNALS)


@dataclass(frozen=True)
class Outcomes:
    """Of each row: what is stored, what the old recipe gives again, what the new one gives."""

    stored: Names
    before: Names
    after: Names


def outcomes(rows: pa.RecordBatch, old: Recipe, new: Recipe) -> Outcomes:
    """Judge rows of `judged` again; each outcome is `KEPT`, a reason, or `READ_AGAIN`."""
    stored = _strings(rows["rejected_by"].fill_null(KEPT))
    extracted = _mask(pc.is_valid(rows["language"]))
    was, now = (_failed_gates(rows, recipe) for recipe in (old, new))
    judged = [np.where(extracted, _broken_rules(rows, r), stored) for r in (old, new)]
    before = np.where(was != "", was, judged[0])
    reopened = np.where(was != "", READ_AGAIN, judged[1])
    return Outcomes(stored, before, np.where(now != "", now, reopened))


def _failed_gates(rows: pa.RecordBatch, recipe: Recipe) -> Names:
    """The first of `GATES` that each row fails, or may fail; '' where it fails none."""
    names = np.full(rows.num_rows, "", dtype=object)
    for gate in reversed(GATES):
        fails = gate.fails(rows, recipe)
        names[_mask(pc.is_null(fails))] = READ_AGAIN
        names[_mask(fails)] = gate.name
    return names


def _broken_rules(rows: pa.RecordBatch, recipe: Recipe) -> Names:
    """The first rule that each row breaks, as `filter.fault`; means nothing without signals."""
    names = np.full(rows.num_rows, KEPT, dtype=object)
    for name, filter_ in reversed(recipe.chosen_filters().items()):
        signals = {signal: _signal(rows, name, signal) for signal in _read(filter_)}
        for rule in reversed(filter_.RULES):
            broken = np.asarray(rule.breaks(signals, filter_), bool)
            names[broken] = f"{name}.{rule.fault}"
    return names


def _signal(rows: pa.RecordBatch, filter_name: str, signal: str) -> NDArray[Any]:
    """A signal's values; any value where there was no text to measure."""
    stored = is_stored_by_extract(filter_name)
    column = rows[signal] if stored else pc.struct_field(rows[filter_name], signal)
    filled = column.fill_null("" if pa.types.is_string(column.type) else 0)
    return np.asarray(filled.to_numpy(zero_copy_only=False))


def _read(filter_: Filter) -> list[str]:
    """The signals that the rules of a filter read."""
    return list(dict.fromkeys(signal for rule in filter_.RULES for signal in signals_read(rule)))


def signals_read(rule: Rule) -> tuple[str, ...]:
    """The signal that a rule judges, and the one that chooses its threshold, if any."""
    return (rule.signal, *(rule.own[:1] if rule.own else ()))


def _mask(array: pa.Array) -> Mask:
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), bool)


def _strings(array: pa.Array) -> Names:
    return np.asarray(array.to_numpy(zero_copy_only=False), object)


def why(outcome: str, row: Row, recipe: Recipe) -> str:
    """The deciding value against its setting: "num_words = 31, min_words = 50"; '' of others.

    `row` is a row of `judged` as Python values.
    """
    # Of a page that was extracted, only the look can ask for reading it again.
    failed = _LOOK if outcome == READ_AGAIN else outcome
    for gate in GATES:
        if gate.name == failed:
            return _shown(row, recipe, gate)
    name, _, fault = outcome.partition(".")
    filter_ = recipe.chosen_filters().get(name)
    for rule in filter_.RULES if filter_ else ():
        if rule.fault == fault:
            return str(rule.explain(signals_of(row, name), filter_))
    return ""


def signals_of(row: Row, filter_name: str) -> Row:
    """A filter's signals in a row of `judged`: its struct, else the columns themselves."""
    found = row.get(filter_name)
    return found if isinstance(found, Mapping) else row


def _shown(row: Row, recipe: Recipe, gate: Gate) -> str:
    """What the gate looks at; a flag that is not set rejects nothing and is left out."""
    found = {name: row[name] for name in gate.columns}
    settings = {name.partition(".")[2]: setting(recipe, name) for name in gate.settings}
    pairs = (found | settings).items()
    shown = {n: f"{v:.6g}" if isinstance(v, float) else v for n, v in pairs}
    return ", ".join(f"{n} = {v}" for n, v in shown.items() if v is not None and v is not False)


def setting(recipe: Recipe, dotted: str) -> Any:
    """The value of `section.name`; lists as TOML has them."""
    section, _, name = dotted.partition(".")
    value = getattr(getattr(recipe, section), name)
    return list(value) if isinstance(value, tuple) else value
