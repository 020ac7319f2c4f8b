"""Judge documents: measure every signal of every filter, and name the first rule broken.

A filter is a frozen dataclass whose fields are its thresholds. All filters measure all documents,
so that a threshold can change later without extracting or measuring again. Settings that change
what is measured are listed in `MEASURING`; all others act through `RULES` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from corpus.filters.c4 import C4
from corpus.filters.classifier import QualityClassifier
from corpus.filters.fineweb import FineWebQuality
from corpus.filters.gopher import GopherQuality, GopherRepetition
from corpus.filters.language import LanguageRule
from corpus.filters.refinedweb import RefinedWebLines
from corpus.filters.rules import Document, Rule, Signals
from corpus.text.limits import CpuTimeError, cpu_limit
from schemas.datasets import DOCUMENTS, column, judged_schema


class Filter(Protocol):
    """What the filters have in common. Some also have `rewrite(doc) -> Document`."""

    MEASURING: ClassVar[tuple[str, ...]]
    SIGNALS: ClassVar[pa.StructType]
    RULES: ClassVar[tuple[Rule, ...]]

    def measure(self, doc: Document) -> Signals:
        """Every signal of `SIGNALS`, whatever the document."""

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The first of `RULES` that the signals break, or None."""


# All filters there are. A filter judges what those before it left of the text.
FILTERS: dict[str, type[Filter]] = {
    "language": LanguageRule,
    "gopher_repetition": GopherRepetition,
    "gopher_quality": GopherQuality,
    "c4": C4,
    "fineweb_quality": FineWebQuality,
    "refinedweb_lines": RefinedWebLines,
    "quality_classifier": QualityClassifier,
}
# The backstop for one document: `extract.MAX_TEXT_CHARS` comes first, and of that length any text
# takes a few seconds.
MAX_CPU_SECONDS = 30.0
TOO_COSTLY = "filter_cpu_time"

FINEWEB_FILTERS = ("language", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality")


@dataclass(frozen=True)
class Verdict:
    """All signals by filter, the text as the filters leave it, and the first rule broken."""

    signals: dict[str, Signals]
    text: str
    rejected_by: str | None  # such as "gopher_quality.too_few_words"
    detail: str | None  # such as "num_words = 31, min_words = 50"


def judge(doc: Document, filters: Mapping[str, Filter]) -> Verdict:
    """Measure `doc` with every filter in order, also after one has rejected it."""
    signals: dict[str, Signals] = {}
    rejected_by = detail = None
    for name, filter_ in filters.items():
        signals[name] = filter_.measure(doc)
        fault = None if rejected_by else filter_.fault(signals[name])
        if fault:
            rejected_by, detail = f"{name}.{fault}", _explain(filter_, fault, signals[name])
        rewrite = getattr(filter_, "rewrite", None)
        doc = rewrite(doc) if rewrite else doc
    return Verdict(signals, doc.text, rejected_by, detail)


def _explain(filter_: Filter, fault: str, signals: Signals) -> str:
    rule = next(rule for rule in filter_.RULES if rule.fault == fault)
    return rule.explain(signals, filter_)


def signals_schema(filters: Mapping[str, Filter]) -> pa.Schema:
    """One struct column a filter, except where its signals are columns of `documents` already."""
    measured = {n: f for n, f in filters.items() if not _are_columns(f)}
    return pa.schema([column(n, f.SIGNALS, f"signals of {n}") for n, f in measured.items()])


def _are_columns(filter_: Filter) -> bool:
    return all(signal.name in DOCUMENTS.names for signal in filter_.SIGNALS)


def judge_batch(batch: pa.RecordBatch, filters: Mapping[str, Filter]) -> pa.RecordBatch:
    """`documents` rows -> `judged` rows, in the same order.

    Rows without a text were rejected by extract: they pass through, their signals null. `text` is
    what the filters leave of it, null where they reject. A document that takes over
    `MAX_CPU_SECONDS` becomes a row as extract rejects one, without language and signals.
    """
    inputs = (batch[name].to_pylist() for name in ("text", "language", "language_score"))
    verdicts: list[Verdict | None] = []
    for i, (text, language, score) in enumerate(zip(*inputs, strict=True)):
        try:
            with cpu_limit(MAX_CPU_SECONDS):
                doc = None if text is None else Document(text, language, score)
                verdict = judge(doc, filters) if doc else None
        except CpuTimeError:
            verdict, batch = None, _with_too_costly(batch, i)
        verdicts.append(verdict)
    schema = judged_schema(signals_schema(filters))
    columns = [_judged_column(field.name, field.type, batch, verdicts) for field in schema]
    return pa.record_batch(columns, schema=schema)


def _with_too_costly(batch: pa.RecordBatch, row: int) -> pa.RecordBatch:
    """`batch` with one row rejected for its cost."""
    is_row = pa.array([i == row for i in range(batch.num_rows)])
    detail = f"over {MAX_CPU_SECONDS:g} CPU seconds"
    new = {"rejected_by": TOO_COSTLY, "detail": detail, "language": None, "language_score": None}
    columns = [
        pc.if_else(is_row, pa.scalar(new[field.name], field.type), batch[field.name])
        if field.name in new
        else batch[field.name]
        for field in batch.schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _judged_column(
    name: str, type_: pa.DataType, batch: pa.RecordBatch, verdicts: list[Verdict | None]
) -> pa.Array[Any]:
    """One column of `judged`: copied from `batch`, or made of the verdicts."""
    if name not in DOCUMENTS.names:
        return pa.array([v and v.signals[name] for v in verdicts], type_)
    if name == "text":
        return pa.array([v and (None if v.rejected_by else v.text) for v in verdicts], type_)
    if name in ("rejected_by", "detail"):
        before = batch[name].to_pylist()
        pairs = zip(verdicts, before, strict=True)
        return pa.array([getattr(v, name) if v else old for v, old in pairs], type_)
    return batch[name]
