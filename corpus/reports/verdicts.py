"""Judge stored rows of `judged` again under other settings, from their columns and signals alone.

A row's outcome is the first gate of extract that its columns fail, else the first rule of the
filters that its signals break. Gates that look into the page itself (damage, URL lists, the size of
its tree) cannot be checked again: their decision stays. Settings that change a measurement or a
text are refused, since no stored value can answer for them. Works on whole Arrow batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from corpus.filters.registry import FILTERS, is_stored_by_extract
from corpus.filters.rules import Filter
from corpus.recipe import Recipe
from corpus.text.extract_page import EXTRACT_GATES
from corpus.text.prescreen import UNWANTED_LANGUAGE
from schemas import config
from schemas.datasets import KEY
from schemas.errors import UserError

KEPT = "kept"
READ_AGAIN = "read_again"  # other gates would decide: only re-extraction can tell

Row = Mapping[str, Any]
Mask = NDArray[np.bool_]
Names = NDArray[np.object_]


@dataclass(frozen=True)
class StoredCheck:
    """A check of extract that stored columns can answer under other settings.

    `fails` is false if the row did not get that far, and null if the columns cannot tell.
    """

    reason: str
    columns: tuple[str, ...]
    settings: tuple[str, ...]
    fails: Callable[[pa.RecordBatch, Recipe], pa.Array]


def _is_bad_status(rows: pa.RecordBatch, recipe: Recipe) -> pa.Array:
    return _is_outside(rows["http_status"], recipe.extract.statuses)


def _is_not_html(rows: pa.RecordBatch, recipe: Recipe) -> pa.Array:
    # The text of a WET record has no page whose type could be checked.
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
    # Passages were measured only if the score did not suffice. They are unknown for a page whose
    # score would not suffice now.
    few = pc.less(rows["look_passage_chars"], recipe.look.min_passage_chars)
    fails = pc.and_kleene(pc.less(rows["look_score"], recipe.look.min_score), few)
    return pc.if_else(pc.is_valid(rows["look_score"]), fails, False)


def _is_outside(column: pa.Array, wanted: tuple[Any, ...]) -> pa.Array:
    inside = pc.is_in(column, value_set=pa.array(wanted, column.type))
    return pc.and_(pc.is_valid(column), pc.invert(inside))


_CHECKS = (
    StoredCheck("bad_status", ("http_status",), ("extract.statuses",), _is_bad_status),
    StoredCheck("not_html", ("content_type",), ("extract.mime_types",), _is_not_html),
    StoredCheck("too_large", ("html_bytes",), ("extract.max_html_bytes",), _is_too_large),
    StoredCheck(
        "reserved_rights",
        ("noai", "tdm_reservation"),
        ("extract.honour_noai", "extract.honour_tdm"),
        _is_reserved,
    ),
    StoredCheck(
        UNWANTED_LANGUAGE,
        ("look_score", "look_passage_chars"),
        ("look.min_score", "look.min_passage_chars"),
        _is_unwanted,
    ),
)
_ORDER = [reason for gate in EXTRACT_GATES for reason in gate.reasons]
STORED_CHECKS = sorted(_CHECKS, key=lambda check: _ORDER.index(check.reason))
ROW = (*KEY, "id", "url", "rejected_by", "language", "html_bytes", "extractor")


def columns(recipe: Recipe) -> list[str]:
    """What `outcomes` reads of `judged` under a recipe, as Parquet names its columns."""
    needed = dict.fromkeys([*ROW, *(name for check in STORED_CHECKS for name in check.columns)])
    for name, filter_ in recipe.chosen_filters().items():
        needed |= dict.fromkeys(_path(name, signal) for signal in _read(filter_))
    return list(needed)


def _path(filter_name: str, signal: str) -> str:
    return signal if is_stored_by_extract(filter_name) else f"{filter_name}.{signal}"


@dataclass(frozen=True)
class Outcomes:
    """Of each row: the stored outcome, and what the old and the new recipe give."""

    stored: Names
    before: Names
    after: Names


def outcomes(rows: pa.RecordBatch, old: Recipe, new: Recipe) -> Outcomes:
    """Judge rows of `judged` again: each outcome is `KEPT`, a reason, or `READ_AGAIN`."""
    stored = _strings(rows["rejected_by"].fill_null(KEPT))
    extracted = _mask(pc.is_valid(rows["language"]))
    was, now = (_failed_gates(rows, recipe) for recipe in (old, new))
    judged = [np.where(extracted, _broken_rules(rows, r), stored) for r in (old, new)]
    before = np.where(was != "", was, judged[0])
    reopened = np.where(was != "", READ_AGAIN, judged[1])
    return Outcomes(stored, before, np.where(now != "", now, reopened))


def _failed_gates(rows: pa.RecordBatch, recipe: Recipe) -> Names:
    """The first of `STORED_CHECKS` that each row fails, or may fail; '' if it fails none."""
    names = np.full(rows.num_rows, "", dtype=object)
    for check in reversed(STORED_CHECKS):
        fails = check.fails(rows, recipe)
        names[_mask(pc.is_null(fails))] = READ_AGAIN
        names[_mask(fails)] = check.reason
    return names


def _broken_rules(rows: pa.RecordBatch, recipe: Recipe) -> Names:
    """The first rule that each row breaks, as `filter.fault`; meaningless without signals."""
    names = np.full(rows.num_rows, KEPT, dtype=object)
    for name, filter_ in reversed(recipe.chosen_filters().items()):
        signals = {signal: _signal(rows, name, signal) for signal in _read(filter_)}
        for rule in reversed(filter_.RULES):
            broken = np.asarray(rule.breaks(signals, filter_), bool)
            names[broken] = f"{name}.{rule.fault}"
    return names


def _signal(rows: pa.RecordBatch, filter_name: str, signal: str) -> NDArray[Any]:
    """A signal's values; an arbitrary one if there was no text to measure."""
    stored = is_stored_by_extract(filter_name)
    column = rows[signal] if stored else pc.struct_field(rows[filter_name], signal)
    filled = column.fill_null("" if pa.types.is_string(column.type) else 0)
    return np.asarray(filled.to_numpy(zero_copy_only=False))


def _read(filter_: Filter | type[Filter]) -> list[str]:
    """The signals that the rules of a filter read."""
    return list(dict.fromkeys(signal for rule in filter_.RULES for signal in rule.signals))


def _mask(array: pa.Array) -> Mask:
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), bool)


def _strings(array: pa.Array) -> Names:
    return np.asarray(array.to_numpy(zero_copy_only=False), object)


def why(outcome: str, row: Row, recipe: Recipe) -> str:
    """The deciding value and its setting, "num_words = 31, min_words = 50"; '' if not stored.

    `row` is a row of `judged` as Python values.
    """
    # Of an extracted page, only pre-screening can require extracting it again.
    failed = UNWANTED_LANGUAGE if outcome == READ_AGAIN else outcome
    for check in STORED_CHECKS:
        if check.reason == failed:
            return _shown(row, recipe, check)
    name, _, fault = outcome.partition(".")
    filter_ = recipe.chosen_filters().get(name)
    for rule in filter_.RULES if filter_ else ():
        if rule.fault == fault:
            return rule.explain(signals_of(row, name), filter_)
    return ""


def signals_of(row: Row, filter_name: str) -> Row:
    """A filter's signals in a row of `judged`: its struct, else the columns themselves."""
    found = row.get(filter_name)
    return found if isinstance(found, Mapping) else row


def _shown(row: Row, recipe: Recipe, check: StoredCheck) -> str:
    """What a check compares; a flag that is not set rejects nothing and is left out."""
    found = {name: row[name] for name in check.columns}
    settings = {name.partition(".")[2]: setting(recipe, name) for name in check.settings}
    pairs = (found | settings).items()
    shown = {n: f"{v:.6g}" if isinstance(v, float) else v for n, v in pairs}
    return ", ".join(f"{n} = {v}" for n, v in shown.items() if v is not None and v is not False)


def setting(recipe: Recipe, dotted: str) -> Any:
    """The value of `section.name`; lists as TOML has them."""
    section, _, name = dotted.partition(".")
    value = getattr(getattr(recipe, section), name)
    return list(value) if isinstance(value, tuple) else value


Changes = dict[str, tuple[Any, Any]]  # "gopher_quality.min_words" -> (50, 30)

_ASKABLE = frozenset(name for check in STORED_CHECKS for name in check.settings)


def parse(texts: Iterable[str]) -> dict[str, Any]:
    """TOML assignments (`gopher_quality.min_words=30`) as one table; the last of equals wins."""
    values: dict[str, Any] = {}
    for text in texts:
        try:
            values = merge(values, config.parse_toml(text))
        except ValueError as error:
            raise UserError(
                f"--set {text}: not TOML ({error}); write --set gopher_quality.min_words=30 "
                'or --set \'language.languages=["en", "de"]\''
            ) from None
    return values


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables merged recursively; the second's values win."""
    merged = dict(first)
    for key, value in second.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def compare(old: Recipe, new: Recipe) -> Changes:
    """Every setting that differs, by its dotted name."""
    before, after = (_flat(dataclasses.asdict(recipe)) for recipe in (old, new))
    return {k: (before[k], after[k]) for k in before if before[k] != after[k]}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, value in config.to_json(dict(values)).items():
        if isinstance(value, dict):
            flat |= {f"{section}.{name}": inner for name, inner in value.items()}
        else:
            flat[section] = value
    return flat


def check(old: Recipe, new: Recipe, asked: Iterable[str]) -> None:
    """Raise `UserError` if the stored signals cannot tell what `new` gives.

    `asked` are the settings given, changed or not; `old` is the recipe of the stored rows.
    """
    changed = compare(old, new)
    for name in asked:
        _check_has_effect(name, new)
    for name in changed:
        _check_can_be_told(name)
    _check_filters(old, new)


def asked_settings(values: Mapping[str, Any]) -> list[str]:
    """The dotted names in the result of `parse`."""
    return list(_flat(values))


def _check_has_effect(name: str, new: Recipe) -> None:
    section = name.partition(".")[0]
    if section in FILTERS and section not in new.filters:
        raise UserError(
            f"--set {name}: {section} is not among filters = {list(new.filters)}, "
            "so it changes nothing"
        )
    if section == "look" and not new.look.languages:
        raise UserError(
            f"--set {name}: look.languages is empty: nothing is pre-screened, so nothing changes"
        )


def _check_can_be_told(name: str) -> None:
    section, _, setting = name.partition(".")
    if name in ("filters", "name") or name in _ASKABLE:
        return
    if section in FILTERS:
        if setting in thresholds(section):
            return
        raise UserError(
            f"--set {name}: changes what is measured, which no stored signal can tell; "
            "run gristmill filter --overwrite"
        )
    if section in _STAGE_OF:
        stage, why = _STAGE_OF[section]
        raise UserError(f"--set {name}: {why}; run gristmill {stage} --overwrite")
    raise UserError(f"--set {name}: judged documents do not depend on it, so nothing changes")


_PAGES = "it acts on pages, which are not stored"
_AFTER = "it acts after the filters"
_STAGE_OF = {
    "extract": ("extract", _PAGES),
    "url": ("extract", "matches of URL lists are not stored"),
    "look": ("extract", _PAGES),
    "exact": ("dedup", _AFTER),
    "minhash": ("dedup", _AFTER),
    "verify": ("dedup", _AFTER),
    "survivor": ("dedup", _AFTER),
    "passages": ("dedup", _AFTER),
    "pii": ("dedup", _AFTER),
    "decontaminate": ("decontaminate", _AFTER),
    "tokenizer": ("shard", _AFTER),
    "shard": ("shard", _AFTER),
}


def thresholds(filter_name: str) -> set[str]:
    """The settings of a filter that are only compared with stored signals."""
    return {name for rule in FILTERS[filter_name].RULES for name in rule.settings}


def _check_filters(old: Recipe, new: Recipe) -> None:
    for name in new.filters:
        if is_stored_by_extract(name):
            continue
        if name not in old.filters:
            raise UserError(
                f"--set filters: {name} was not measured; measured are {', '.join(old.filters)}"
            )
        before, after = (_rewriters_before(name, recipe.filters) for recipe in (old, new))
        if before != after:
            differing = ", ".join(sorted(set(before) ^ set(after)) or before)
            raise UserError(
                f"--set filters: {name} was measured on the text that {_listed(before)}, not on "
                f"what {_listed(after)} ({differing} rewrites it); run gristmill filter --overwrite"
            )


def _rewriters_before(name: str, filters: tuple[str, ...]) -> tuple[str, ...]:
    before = filters[: filters.index(name)]
    return tuple(other for other in before if FILTERS[other].rewrite is not Filter.rewrite)


def _listed(rewriters: tuple[str, ...]) -> str:
    return f"{' and '.join(rewriters)} left" if rewriters else "extract gave"
