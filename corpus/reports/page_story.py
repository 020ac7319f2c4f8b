"""The story of one page: each gate and each rule with what it found, in the order they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from corpus.recipe import Recipe
from corpus.reports.verdicts import Row, setting, signals_of
from corpus.text.url_filter import LISTS

State = Literal["passed", "rejected", "not reached", "not stored"]


@dataclass(frozen=True)
class GateStep:
    """One gate: what the row says that it found, the settings it stands under, how it ended."""

    gate: str
    found: str | None
    settings: dict[str, Any]
    state: State


@dataclass(frozen=True)
class Check:
    """One rule: the signal against its threshold. `first` is the one that named the verdict.

    `needs` is how the signal has to compare with the threshold, e.g. ">="; '' where no sign says.
    """

    fault: str
    signal: str
    value: Any
    needs: str
    setting: str
    threshold: Any
    broken: bool
    first: bool


@dataclass(frozen=True)
class FilterStep:
    """One filter: all its rules, broken or not, and the signals that no rule looks at."""

    filter: str
    checks: tuple[Check, ...]
    other_signals: dict[str, Any]


@dataclass(frozen=True)
class _Gate:
    """`faults` are values of `rejected_by`; one that ends in a dot stands for all that start so."""

    name: str
    faults: tuple[str, ...]
    settings: tuple[str, ...]
    found: Callable[[Row], str | None]


def _shown(column: str, unit: str = "") -> Callable[[Row], str | None]:
    def show(row: Row) -> str | None:
        value = row.get(column)
        return None if value is None else f"{value:,}{unit}" if unit else str(value)

    return show


def _host(row: Row) -> str | None:
    """What stands between the slashes; a URL of the web need not be one that parses."""
    url: str | None = row["url"]
    host = (url or "").partition("//")[2].partition("/")[0]
    return host or url


def _rights(row: Row) -> str | None:
    if row.get("charset") is None:
        return None  # the page was not looked at: its flags say nothing
    said = [name for name in ("noai", "tdm_reservation") if row[name]]
    return ", ".join(said) if said else "nothing reserved"


def _look(row: Row) -> str | None:
    if row["look_score"] is None:
        return None
    language, passages = row["look_language"] or "no language", row["look_passage_chars"]
    found = f"{language}, score {row['look_score']:.4g} on {row['look_chars']:,} characters"
    return found if passages is None else f"{found}, {passages:,} in wanted passages"


def _text(row: Row) -> str | None:
    text = row.get("text")
    return None if text is None else f"{len(text):,} characters, {row['language']}"


# In the order of corpus/text/extract_page.py.
_GATES: tuple[_Gate, ...] = (
    _Gate("takedown", ("forgotten",), (), _shown("url")),
    _Gate(
        "record",
        ("damaged_record", "torn_record", "not_http"),
        ("extract.max_record_bytes",),
        _shown("record_length", " bytes"),
    ),
    _Gate("status", ("bad_status",), ("extract.statuses",), _shown("http_status")),
    _Gate("type", ("not_html",), ("extract.mime_types",), _shown("content_type")),
    _Gate(
        "size",
        ("too_large", "empty_body", "undecodable_body"),
        ("extract.max_html_bytes",),
        _shown("html_bytes", " bytes"),
    ),
    _Gate(
        "url",
        ("url.",),
        tuple(f"url.{name}" for name in LISTS),
        _host,
    ),
    _Gate("decoding", ("undecodable",), (), _shown("charset")),
    _Gate("rights", ("reserved_rights",), ("extract.honour_noai", "extract.honour_tdm"), _rights),
    _Gate(
        "look",
        ("look.",),
        ("look.languages", "look.min_score", "look.min_passage_chars"),
        _look,
    ),
    _Gate(
        "extraction",
        ("too_many_nodes", "too_many_attributes", "too_deep", "extraction_"),
        ("extract.max_nodes", "extract.max_depth", "extract.max_cpu_seconds"),
        _shown("extractor"),
    ),
    _Gate("text", ("no_text", "text_too_long"), (), _text),
)


def gate_steps(row: Row, recipe: Recipe) -> list[GateStep]:
    """Every gate of extract for a row of `documents`; what an unknown gate rejected comes last."""
    reason = row["rejected_by"]
    at = next((i for i, gate in enumerate(_GATES) if reason and _is_fault(gate, reason)), None)
    steps = [
        _step(gate, row, recipe, _state(gate, row, i, at))
        for i, gate in enumerate(_GATES)
        if gate.name != "look" or recipe.look.languages
    ]
    if reason and at is None:
        steps.append(GateStep(reason, row["detail"], {}, "rejected"))
    return steps


def _step(gate: _Gate, row: Row, recipe: Recipe, state: State) -> GateStep:
    if state == "not reached":
        return GateStep(gate.name, None, {}, state)
    return GateStep(gate.name, gate.found(row), _settings(recipe, gate.settings), state)


def _is_fault(gate: _Gate, reason: str) -> bool:
    return any(reason == f or (f[-1] in "._" and reason.startswith(f)) for f in gate.faults)


def _state(gate: _Gate, row: Row, i: int, at: int | None) -> State:
    if i == at:
        return "rejected"
    if at is not None and i > at:
        return "not reached"
    return "passed" if gate.found(row) is not None else "not stored"


def _settings(recipe: Recipe, names: tuple[str, ...]) -> dict[str, Any]:
    """Settings by name; lists that are empty decide nothing and are left out."""
    values = {name: setting(recipe, name) for name in names}
    return {name: value for name, value in values.items() if value != []}


def filter_steps(row: Row, recipe: Recipe) -> list[FilterStep]:
    """Every filter for a row of `judged`, in order; none where extract rejected the page."""
    if row["language"] is None:
        return []
    return [_filter_step(name, row, recipe) for name in recipe.filters]


def _filter_step(name: str, row: Row, recipe: Recipe) -> FilterStep:
    filter_, signals = getattr(recipe, name), signals_of(row, name)
    checks = tuple(_checks(name, filter_, signals, row["rejected_by"]))
    looked_at = {check.signal for check in checks}
    names = {signal.name for signal in filter_.SIGNALS} - looked_at
    return FilterStep(name, checks, {k: v for k, v in signals.items() if k in names})


def _checks(name: str, filter_: Any, signals: Row, reason: str | None) -> Iterator[Check]:
    for rule in filter_.RULES:
        threshold = rule.threshold(signals, filter_)
        yield Check(
            fault=rule.fault,
            signal=rule.signal,
            value=signals[rule.signal],
            needs="" if threshold.sign == "in" else threshold.sign,
            setting=threshold.setting,
            threshold=threshold.value,
            broken=bool(rule.breaks(signals, filter_)),
            first=reason == f"{name}.{rule.fault}",
        )
