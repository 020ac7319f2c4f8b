"""Settings that somebody asks about: read, checked, and refused where nothing stored can answer.

Thresholds of filters can be asked about, and the gates of extract that look at stored columns; what
decides a measurement or a text cannot, without making it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from corpus import verdicts
from corpus.filters import FILTERS
from corpus.recipe import Recipe
from schemas import config
from schemas.errors import UserError

Changes = dict[str, tuple[Any, Any]]  # "gopher_quality.min_words" -> (50, 30)

_ASKABLE = frozenset(name for gate in verdicts.GATES for name in gate.settings)


def parse(texts: Iterable[str]) -> dict[str, Any]:
    """TOML assignments (`gopher_quality.min_words=30`) as one table; of equals the last wins."""
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
    """Both tables as one, table by table; the second's values win."""
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
    """Raise `UserError` where the stored signals cannot say what `new` gives.

    `asked` are the settings that were set, changed or not; `old` is the recipe of what is stored.
    """
    changed = compare(old, new)
    for name in asked:
        _check_has_effect(name, new)
    for name in changed:
        _check_can_be_told(name)
    _check_filters(old, new)


def asked_settings(values: Mapping[str, Any]) -> list[str]:
    """The dotted names in what `parse` gave."""
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
            f"--set {name}: look.languages is empty: there is no look, so nothing changes"
        )


def _check_can_be_told(name: str) -> None:
    section, _, setting = name.partition(".")
    if name in ("filters", "name") or name in _ASKABLE:
        return
    if section in FILTERS:
        if setting in thresholds(section):
            return
        raise UserError(
            f"--set {name}: it decides what is measured, which no stored signal can tell; "
            "gristmill filter --overwrite measures again"
        )
    if section in _STAGE_OF:
        stage, why = _STAGE_OF[section]
        raise UserError(f"--set {name}: {why}; gristmill {stage} --overwrite does it again")
    raise UserError(f"--set {name}: the judged documents do not depend on it; nothing would change")


_PAGES = "the stored columns do not hold what it looks at"
_AFTER = "it acts after the filters, on what they keep"
_STAGE_OF = {
    "extract": ("extract", _PAGES),
    "url": ("extract", "what lists say of a URL is not stored"),
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
    """The settings of a filter that are compared with stored signals and do nothing else."""
    filter_ = FILTERS[filter_name]
    return {name for rule in filter_.RULES for name in rule.settings} - set(filter_.MEASURING)


def _check_filters(old: Recipe, new: Recipe) -> None:
    for name in new.filters:
        if verdicts.is_stored_by_extract(name):
            continue
        if name not in old.filters:
            raise UserError(
                f"--set filters: {name} was not measured; those that were: {', '.join(old.filters)}"
            )
        before, after = (_rewriters_before(name, recipe.filters) for recipe in (old, new))
        if before != after:
            differing = ", ".join(sorted(set(before) ^ set(after)) or before)
            raise UserError(
                f"--set filters: {name} was measured on the text that {_listed(before)}, not on "
                f"what {_listed(after)} ({differing} rewrites it); "
                "gristmill filter --overwrite measures again"
            )


def _rewriters_before(name: str, filters: tuple[str, ...]) -> tuple[str, ...]:
    before = filters[: filters.index(name)]
    return tuple(other for other in before if hasattr(FILTERS[other], "rewrite"))


def _listed(rewriters: tuple[str, ...]) -> str:
    return f"{' and '.join(rewriters)} left" if rewriters else "extract gave"
