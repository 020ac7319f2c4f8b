"""Judge documents: measure every signal of every filter, and name the first rule broken.

All filters measure all documents, so that a threshold can change later without extracting or
measuring again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from corpus.filters.c4 import C4
from corpus.filters.classifier import QualityClassifier
from corpus.filters.fineweb import FineWebQuality
from corpus.filters.gopher import GopherQuality, GopherRepetition
from corpus.filters.language import LanguageRule
from corpus.filters.refinedweb import RefinedWebLines
from corpus.filters.rules import Document, Filter, Signals
from corpus.text.limits import CpuTimeError, cpu_limit
from schemas.datasets import DOCUMENTS, column, judged_schema

# Each filter measures the text that those before it left.
FILTERS: dict[str, type[Filter]] = {
    "language": LanguageRule,
    "gopher_repetition": GopherRepetition,
    "gopher_quality": GopherQuality,
    "c4": C4,
    "fineweb_quality": FineWebQuality,
    "refinedweb_lines": RefinedWebLines,
    "quality_classifier": QualityClassifier,
}
FINEWEB_FILTERS = ("language", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality")

# Per document, as a backstop: texts of up to `extract.MAX_TEXT_CHARS` take a few seconds.
MAX_CPU_SECONDS = 30.0
TOO_COSTLY = "filter_cpu_time"


@dataclass(frozen=True)
class Judgement:
    """All signals by filter, the text that the filters leave, and the first rule broken."""

    signals: dict[str, Signals]
    text: str
    rejected_by: str | None  # such as "gopher_quality.too_few_words"
    detail: str | None  # such as "num_words = 31, min_words = 50"


def judge_batch(batch: pa.RecordBatch, filters: Mapping[str, Filter]) -> pa.RecordBatch:
    """`documents` rows -> `judged` rows, in the same order.

    Rows without a text were rejected by extract and keep their reason; their signals are null.
    `text` is what the filters leave of it, null where they reject. A document that takes more than
    `MAX_CPU_SECONDS` is rejected with neither language nor signals.
    """
    inputs = (batch[name].to_pylist() for name in ("text", "language", "language_score"))
    judged: list[Judgement | None] = []
    for text, language, score in zip(*inputs, strict=True):
        try:
            with cpu_limit(MAX_CPU_SECONDS):
                doc = None if text is None else Document(text, language, score)
                found = judge(doc, filters) if doc else None
        except CpuTimeError:
            found = Judgement({}, "", TOO_COSTLY, f"over {MAX_CPU_SECONDS:g} CPU seconds")
        judged.append(found)
    schema = judged_schema(signals_schema(filters))
    columns = [_judged_column(field, batch, judged) for field in schema]
    return pa.record_batch(columns, schema=schema)


def judge(doc: Document, filters: Mapping[str, Filter]) -> Judgement:
    """Measure `doc` with every filter in order, also after one has rejected it."""
    signals: dict[str, Signals] = {}
    rejected_by = detail = None
    for name, filter_ in filters.items():
        signals[name] = filter_.measure(doc)
        rule = None if rejected_by else filter_.broken_rule(signals[name])
        if rule:
            rejected_by, detail = f"{name}.{rule.fault}", rule.explain(signals[name], filter_)
        doc = filter_.rewrite(doc)
    return Judgement(signals, doc.text, rejected_by, detail)


def signals_schema(filters: Mapping[str, Filter]) -> pa.Schema:
    """One struct column per filter, unless its signals are columns of `documents`."""
    measured = {n: f for n, f in filters.items() if not is_stored_by_extract(n)}
    return pa.schema([column(n, f.SIGNALS, f"signals of {n}") for n, f in measured.items()])


def is_stored_by_extract(name: str) -> bool:
    """Whether the signals of a filter are columns of `documents`."""
    return all(signal.name in DOCUMENTS.names for signal in FILTERS[name].SIGNALS)


def _judged_column(
    field: pa.Field, batch: pa.RecordBatch, judged: list[Judgement | None]
) -> pa.Array:
    """One column of `judged`: copied from `batch`, or made of the judgements."""
    name = field.name
    if name not in DOCUMENTS.names:
        return pa.array([j and j.signals.get(name) for j in judged], field.type)
    if name == "text":
        return pa.array([j and (None if j.rejected_by else j.text) for j in judged], field.type)
    if name in ("rejected_by", "detail"):
        pairs = zip(judged, batch[name].to_pylist(), strict=True)
        return pa.array([getattr(j, name) if j else old for j, old in pairs], field.type)
    if name in ("language", "language_score"):
        is_known = pa.array([not j or j.rejected_by != TOO_COSTLY for j in judged], pa.bool_())
        return pc.if_else(is_known, batch[name], pa.scalar(None, field.type))
    return batch[name]
