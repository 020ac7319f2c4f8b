"""The decisions on one page: each gate and each rule with what it found, in the order checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from corpus.recipe import Recipe
from corpus.reports.verdicts import Row, setting, signals_of
from corpus.text.extract_page import EXTRACT_GATES

State = Literal["passed", "rejected", "not reached", "not stored"]


@dataclass(frozen=True)
class GateStep:
    """One gate: what it found, the settings that decided, and the outcome."""

    gate: str
    found: str | None
    settings: dict[str, Any]
    state: State


@dataclass(frozen=True)
class Check:
    """One rule: the signal and its threshold. `first`: the rule that rejected the page.

    `needs` is how the signal must compare with the threshold, e.g. ">="; '' if it is a set.
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
    """One filter: all its rules, broken or not, and the signals that no rule reads."""

    filter: str
    checks: tuple[Check, ...]
    other_signals: dict[str, Any]


def _shown(column: str, unit: str = "") -> Callable[[Row], str | None]:
    def show(row: Row) -> str | None:
        value = row.get(column)
        return None if value is None else f"{value:,}{unit}" if unit else str(value)

    return show


def _host(row: Row) -> str | None:
    """The host, found without parsing: not every URL on the web is valid."""
    url: str | None = row["url"]
    host = (url or "").partition("//")[2].partition("/")[0]
    return host or url


def _rights(row: Row) -> str | None:
    if row.get("charset") is None:
        return None  # the page was not parsed: its flags say nothing
    said = [name for name in ("noai", "tdm_reservation") if row[name]]
    return ", ".join(said) if said else "nothing reserved"


def _prescreen(row: Row) -> str | None:
    if row["look_score"] is None:
        return None
    language, passages = row["look_language"] or "no language", row["look_passage_chars"]
    found = f"{language}, score {row['look_score']:.4g} on {row['look_chars']:,} characters"
    return found if passages is None else f"{found}, {passages:,} in wanted passages"


def _text(row: Row) -> str | None:
    text = row.get("text")
    return None if text is None else f"{len(text):,} characters, {row['language']}"


# Name of a gate -> what a row of `documents` says that it found.
_FOUND: dict[str, Callable[[Row], str | None]] = {
    "takedown": _shown("url"),
    "record": _shown("record_length", " bytes"),
    "status": _shown("http_status"),
    "type": _shown("content_type"),
    "size": _shown("html_bytes", " bytes"),
    "url": _host,
    "decoding": _shown("charset"),
    "rights": _rights,
    "look": _prescreen,
    "extraction": _shown("extractor"),
    "text": _text,
}


def gate_steps(row: Row, recipe: Recipe) -> list[GateStep]:
    """Every gate of extract for a row of `documents`, in the order checked.

    What a gate of another version rejected comes last.
    """
    reason, steps, state = row["rejected_by"], list[GateStep](), ""
    for gate in EXTRACT_GATES:
        if gate.name == "look" and not recipe.look.languages:
            continue
        found = _FOUND[gate.name](row)
        if reason in gate.reasons:
            state = "rejected"
        elif state:
            steps.append(GateStep(gate.name, None, {}, "not reached"))
            continue
        values = {name: setting(recipe, name) for name in gate.settings}
        used = {name: value for name, value in values.items() if value != []}  # decide nothing
        passed: State = "passed" if found is not None else "not stored"
        steps.append(GateStep(gate.name, found, used, "rejected" if state else passed))
    if reason and not state:
        steps.append(GateStep(reason, row["detail"], {}, "rejected"))
    return steps


def filter_steps(row: Row, recipe: Recipe) -> list[FilterStep]:
    """Every filter for a row of `judged`, in order; none if extract rejected the page."""
    steps = []
    for name in recipe.filters if row["language"] is not None else ():
        filter_, signals = getattr(recipe, name), signals_of(row, name)
        checks = []
        for rule in filter_.RULES:
            threshold = rule.threshold(signals, filter_)
            checks.append(
                Check(
                    fault=rule.fault,
                    signal=rule.signal,
                    value=signals[rule.signal],
                    needs="" if threshold.sign == "in" else threshold.sign,
                    setting=threshold.setting,
                    threshold=threshold.value,
                    broken=bool(rule.breaks(signals, filter_)),
                    first=row["rejected_by"] == f"{name}.{rule.fault}",
                )
            )
        others = {one.name for one in filter_.SIGNALS} - {check.signal for check in checks}
        other_signals = {k: v for k, v in signals.items() if k in others}
        steps.append(FilterStep(name, tuple(checks), other_signals))
    return steps
