"""Judging: all signals, the first fault, and the decisions of datatrove on real pages."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import trafilatura
from fastwarc.warc import ArchiveIterator
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.filters import registry
from corpus.filters.fineweb import FineWebQuality
from corpus.filters.gopher import GopherQuality
from corpus.filters.language import LanguageRule
from corpus.filters.registry import FILTERS, FINEWEB_FILTERS, judge, judge_batch, signals_schema
from corpus.filters.rules import Document
from schemas.datasets import DOCUMENTS, judged_schema

DEFAULTS = {name: FILTERS[name]() for name in FINEWEB_FILTERS}
PROSE = (
    "The mill by the river ground corn for the whole valley, and people came to it with carts. "
    "Nobody remembered who had built the wheel or when its stones were cut. Children were told "
    "that a miller who cheated would have to turn them himself until spring. That is why every "
    "sack was weighed twice. The owner watched. Then he went home with his flour."
)
SHORT = PROSE.partition(" Children")[0]

# Our reasons -> datatrove's, as they stand in the golden file.
PEER_REASONS = {
    "gopher_repetition.duplicate_paragraphs": "dup_para_frac",
    "gopher_repetition.duplicate_paragraph_chars": "dup_para_char_frac",
    "gopher_repetition.duplicate_lines": "dup_line_frac",
    "gopher_repetition.duplicate_line_chars": "dup_line_char_frac",
    **{f"gopher_repetition.top_{n}_gram": f"top_{n}_gram" for n in (2, 3, 4)},
    **{f"gopher_repetition.duplicate_{n}_grams": f"duplicated_{n}_n_grams" for n in range(5, 11)},
    "gopher_quality.too_few_words": "gopher_short_doc",
    "gopher_quality.too_many_words": "gopher_long_doc",
    "gopher_quality.short_mean_word": "gopher_below_avg_threshold",
    "gopher_quality.long_mean_word": "gopher_above_avg_threshold",
    "gopher_quality.too_many_hashes": "gopher_too_many_hashes",
    "gopher_quality.too_many_ellipses": "gopher_too_many_ellipsis",
    "gopher_quality.too_many_bullet_lines": "gopher_too_many_bullets",
    "gopher_quality.too_many_ellipsis_lines": "gopher_too_many_end_ellipsis",
    "gopher_quality.too_few_alphabetic_words": "gopher_below_alpha_threshold",
    "gopher_quality.too_few_stop_words": "gopher_enough_stop_words",
    "c4.lorem_ipsum": "lorem_ipsum",
    "c4.curly_bracket": "curly_bracket",
    "c4.too_few_sentences": "too_few_sentences",
    "fineweb_quality.too_few_punctuated_lines": "line_punct_ratio",
    "fineweb_quality.too_many_short_lines": "short_line_ratio",
    "fineweb_quality.duplicate_line_chars": "char_dup_ratio",
    "fineweb_quality.list_like": "list_ratio",
}


def english(text: str) -> Document:
    return Document(text, "en", 0.9)


def test_every_rule_has_a_peer() -> None:
    reasons = {f"{n}.{r.fault}" for n, f in DEFAULTS.items() if n != "language" for r in f.RULES}
    assert reasons == set(PEER_REASONS)


def test_prose_is_kept_as_it_is() -> None:
    verdict = judge(english(PROSE), DEFAULTS)
    assert (verdict.rejected_by, verdict.detail, verdict.text) == (None, None, PROSE)


def test_the_first_fault_is_named_with_its_numbers() -> None:
    verdict = judge(english(SHORT), DEFAULTS)
    assert verdict.rejected_by == "gopher_quality.too_few_words"
    assert verdict.detail == "num_words = 31, min_words = 50"


def test_a_rejected_document_is_measured_to_the_end() -> None:
    verdict = judge(Document("a { b } c d e", "de", 0.99), DEFAULTS)
    assert verdict.rejected_by == "language.unwanted_language"
    assert verdict.detail == "language = de, languages = ('en',)"
    assert verdict.signals["c4"]["num_curly_bracket_lines"] == 1
    assert set(verdict.signals) == set(DEFAULTS)


def test_fineweb_measures_what_c4_leaves() -> None:
    verdict = judge(english(f"{PROSE}\nmenu\nhome\nlogin"), DEFAULTS)
    assert verdict.text == PROSE
    assert verdict.signals["gopher_quality"]["num_words"] == 68
    assert verdict.signals["fineweb_quality"]["newlines_per_word"] == 0
    assert verdict.signals["c4"]["num_lines"] == 4


def test_thresholds_apply_to_stored_signals() -> None:
    signals = judge(english(SHORT), DEFAULTS).signals["gopher_quality"]
    assert GopherQuality(min_words=31).fault(signals) is None
    assert GopherQuality(min_words=32).fault(signals) == "too_few_words"


@pytest.mark.parametrize(
    ("language", "score", "expected"),
    [("en", 0.66, None), ("en", 0.65, "low_language_score"), ("de", 0.9, "unwanted_language")],
)
def test_language_and_score_must_both_do(language: str, score: float, expected: str | None) -> None:
    rule = LanguageRule()
    assert rule.fault(rule.measure(Document("", language, score))) == expected


def test_a_language_may_have_a_threshold_of_its_own() -> None:
    rule = LanguageRule(languages=("en", "sw"), min_score=0.65, min_score_of={"sw": 0.3})
    measured = rule.measure(Document("", "sw", 0.4))
    assert rule.fault(measured) is None
    assert rule.fault({**measured, "language": "en"}) == "low_language_score"
    low = judge(Document("", "sw", 0.2), {"language": rule})
    assert low.detail == "language_score = 0.2, min_score_of.sw = 0.3"
    with pytest.raises(ValueError, match=r"min_score_of\.de = 0\.5: must be among languages"):
        LanguageRule(languages=("en", "sw"), min_score_of={"de": 0.5})
    with pytest.raises(ValueError, match=r"min_score_of\.en = 1\.5: must be at least 0"):
        LanguageRule(min_score_of={"en": 1.5})


def test_an_empty_list_takes_any_language() -> None:
    rule = LanguageRule(languages=())
    assert rule.fault(rule.measure(Document("", "tlh", 0.9))) is None
    assert rule.fault(rule.measure(Document("", None, None))) == "low_language_score"


@pytest.mark.parametrize("score", [-0.1, 1.0, float("nan")])
def test_an_impossible_score_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="min_score = "):
        LanguageRule(min_score=score)


@pytest.mark.parametrize("name", FILTERS)
def test_rules_read_settings_and_signals_of_their_filter(name: str) -> None:
    filter_ = FILTERS[name]
    settings, signals = {f.name for f in fields(filter_)}, {f.name for f in filter_.SIGNALS}
    for rule in filter_.RULES:
        assert settings.issuperset(rule.settings)
        assert signals.issuperset(rule.signals)


@pytest.mark.parametrize("name", [*list(DEFAULTS)[1:], "refinedweb_lines"])
def test_a_threshold_changes_no_signal_and_no_text(name: str) -> None:
    doc, usual = english(f"{PROSE}\nmenu\n{PROSE}"), FILTERS[name]()
    rules = {rule.setting for rule in usual.RULES}
    others = replace(usual, **{s: getattr(usual, s) // 2 for s in rules})
    assert others.measure(doc) == usual.measure(doc)
    assert others.rewrite(doc) == usual.rewrite(doc)


SCORES = st.sampled_from([0.0, 0.2, 0.3, 0.65, 0.9])
LANGUAGES = st.sampled_from(["en", "sw", "de", ""])


@given(st.lists(st.tuples(LANGUAGES, SCORES), min_size=1), st.booleans())
def test_rules_judge_arrays_as_they_judge_documents(
    rows: list[tuple[str, float]], any_language: bool
) -> None:
    wanted = () if any_language else ("en", "sw")
    filter_ = LanguageRule(languages=wanted, min_score_of={"sw": 0.3})
    signals = [filter_.measure(Document("", *row)) for row in rows]
    columns = {
        "language": np.array([s["language"] for s in signals], object),
        "language_score": np.array([s["language_score"] for s in signals]),
    }
    for rule in filter_.RULES:
        one_by_one = [rule.breaks(s, filter_) for s in signals]
        assert rule.breaks(columns, filter_).tolist() == one_by_one


@given(st.lists(st.sampled_from([0.0, 0.12, 0.3, 0.67, 0.9]), min_size=1), st.booleans())
def test_a_threshold_that_is_reached_can_be_a_fault(shares: list[float], reached: bool) -> None:
    filter_ = FineWebQuality(reject_at_threshold=reached)
    rule = next(rule for rule in filter_.RULES if rule.setting == "max_frac_short_lines")
    broken = rule.breaks({"frac_short_lines": np.array(shares)}, filter_)
    assert broken.tolist() == [s >= 0.67 if reached else s > 0.67 for s in shares]
    assert broken.tolist() == [rule.breaks({"frac_short_lines": s}, filter_) for s in shares]


def documents(*rows: dict[str, Any]) -> pa.RecordBatch:
    blank = dict.fromkeys(DOCUMENTS.names)
    return pa.RecordBatch.from_pylist([{**blank, **row} for row in rows], schema=DOCUMENTS)


def test_a_batch_keeps_its_rows_and_gains_signals() -> None:
    kept = {"id": "1", "text": f"{PROSE}\nmenu", "language": "en", "language_score": 0.9}
    short = {"id": "2", "text": SHORT, "language": "en", "language_score": 0.9}
    unread = {"id": "3", "rejected_by": "not_html", "detail": "application/pdf"}
    batch = judge_batch(documents(kept, short, unread), DEFAULTS)
    assert batch.schema.equals(judged_schema(signals_schema(DEFAULTS)))
    rows = batch.to_pylist()
    assert [r["id"] for r in rows] == ["1", "2", "3"]
    assert [r["text"] for r in rows] == [PROSE, None, None]
    reasons = [None, "gopher_quality.too_few_words", "not_html"]
    assert [r["rejected_by"] for r in rows] == reasons
    assert [r["detail"] for r in rows] == [
        None,
        "num_words = 31, min_words = 50",
        "application/pdf",
    ]
    assert rows[1]["gopher_quality"]["num_words"] == 31
    assert rows[2]["gopher_quality"] is None


def test_a_document_that_takes_too_long_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [PROSE, "<" * 300_000, None, PROSE]
    rows = pa.RecordBatch.from_pylist(
        [
            {"text": text, "language": text and "en", "language_score": text and 0.9,
             "rejected_by": None if text else "no_text"}
            for text in texts
        ],
        schema=DOCUMENTS,
    )  # fmt: skip
    expected = judge_batch(rows, DEFAULTS).to_pylist()
    monkeypatch.setattr(registry, "MAX_CPU_SECONDS", 0.1)
    found = judge_batch(rows, DEFAULTS)
    found.validate(full=True)
    found = found.to_pylist()
    assert [row["rejected_by"] for row in found] == [None, "filter_cpu_time", "no_text", None]
    assert found[1]["detail"] == "over 0.1 CPU seconds"
    assert [name for name, value in found[1].items() if value is not None] == [
        "rejected_by",
        "detail",
    ]
    assert [found[i] for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]


def test_a_batch_may_be_empty_or_judged_by_nothing() -> None:
    assert judge_batch(documents(), DEFAULTS).num_rows == 0
    assert judge_batch(documents({"text": "x"}), {}).to_pylist()[0]["text"] == "x"


def test_no_column_has_two_meanings() -> None:
    names = judged_schema(signals_schema(DEFAULTS)).names
    assert len(set(names)) == len(names)
    assert "gopher_repetition" in names


NOISE = st.sampled_from(
    ["the ", "of ", "\n", "\n\n", "...", "#", "{", "- ", "[1]", "\u2028", "\x00"]
)


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(st.one_of(NOISE, st.text(max_size=4))).map("".join)))
def test_any_text_gets_one_verdict_that_arrow_can_hold(text: str) -> None:
    verdict = judge(english(text), DEFAULTS)
    assert verdict == judge(english(text), DEFAULTS)
    for name, filter_ in DEFAULTS.items():
        pa.array([verdict.signals[name]], filter_.SIGNALS)


LINES = st.sampled_from(
    [PROSE, " Don't stop. ", "menu", "a fact[1] that is known", "", "one {", "{"]
)


@given(st.lists(LINES, max_size=8), st.sampled_from(["spacy", "treebank", "spaces", "unicode"]))
def test_a_rewritten_document_has_the_words_of_its_text(lines: list[str], splitter: Any) -> None:
    doc = english("\n".join(lines))
    doc.words(splitter)
    for name in ("c4", "refinedweb_lines"):
        left = FILTERS[name]().rewrite(doc)
        assert left.words(splitter) == english(left.text).words(splitter)


def golden(shared: Path) -> dict[str, dict[str, str]]:
    with gzip.open(shared / "golden" / "datatrove-crawl-decisions.tsv.gz", "rt") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {r["id"]: r for r in rows if r["language"] == "en" and r["stage"] != "2_lang"}


def golden_pages(shared: Path, limit: int, max_bytes: int) -> Iterator[tuple[dict[str, str], str]]:
    """datatrove's row and the extracted text of `limit` English pages."""
    rows = golden(shared)
    for path in sorted((shared / "crawl").glob("REALWEB-public-*.warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, parse_http=True):
                row = rows.get(record.headers.get("WARC-Record-ID") or "")
                body = record.reader.read() if row else b""
                if not row or len(body) > max_bytes:
                    continue
                try:
                    html = body.decode("utf-8")
                except UnicodeDecodeError:
                    continue
                text = trafilatura.extract(html, favor_precision=True, include_comments=False)
                yield row, text or ""
                limit -= 1
                if not limit:
                    return


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_decisions_on_real_pages_are_datatroves(shared: Path) -> None:
    same_decision = same_reason = same_text = kept = total = 0
    for row, text in golden_pages(shared, limit=300, max_bytes=30_000):
        verdict = judge(Document(text, "en", float(row["language_score"])), DEFAULTS)
        theirs_kept = row["stage"] in ("kept", "7_minhash")
        ours = PEER_REASONS[verdict.rejected_by] if verdict.rejected_by else ""
        total += 1
        same_decision += theirs_kept == (verdict.rejected_by is None)
        same_reason += row["reason"] == ours
        if theirs_kept and verdict.rejected_by is None:
            digest = hashlib.sha256(verdict.text.encode()).hexdigest()
            kept += 1
            same_text += digest.startswith(row["sha256_16_before_pii"])
    assert total == 300
    assert kept > 100
    assert same_decision / total >= 0.97
    assert same_reason / total >= 0.95
    assert same_text / kept >= 0.97


def test_unicode_words_are_runs_of_letters_and_digits_with_what_joins_them() -> None:
    doc = Document("Don't pay 1,000.5 € at e-mail.example (l’été) — 3 o'clock...\nстрана, 東京")
    assert doc.words("unicode").by_line == [
        ["Don't", "pay", "1,000.5", "at", "e", "mail.example", "l’été", "3", "o'clock"],
        ["страна", "東京"],
    ]
