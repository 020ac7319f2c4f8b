"""What `gristmill whatif` says is what extracting and judging again with the settings gives."""

from __future__ import annotations

import argparse
import dataclasses
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from corpus import recipe, worker_tasks
from corpus.filters.registry import FILTERS
from corpus.recipe import Recipe
from corpus.reports import verdicts
from jobs.engine import dataset_io
from jobs.engine.stage import UnbalancedError
from jobs.reports import whatif
from jobs.reports.whatif import Example, Side, printed
from schemas import config, manifest
from schemas.errors import UserError
from schemas.manifest import Manifest
from schemas.printing import one_line

SAMPLES = Path(__file__).parents[2] / "samples"


def _extract(settings: Recipe) -> pa.Table:
    """All documents of the sample crawl, extracted in this process."""
    batches: list[pa.RecordBatch] = []
    for path in sorted(SAMPLES.glob("*.warc.gz")):
        request = worker_tasks.ExtractRequest(str(path), path.name).to_batch()
        batches += [
            b.replace_schema_metadata(None) for b in worker_tasks.extract(settings, request)
        ]
    return pa.Table.from_batches(batches)


def _judge(settings: Recipe, documents: pa.Table) -> pa.Table:
    batches = documents.combine_chunks().to_batches()
    return pa.Table.from_batches([row for b in batches for row in worker_tasks.judge(settings, b)])


def _commit(root: Path, settings: Recipe, documents: pa.Table, judged: pa.Table) -> None:
    sections = settings.settings("extract", "url", "look")
    before = Manifest("documents", settings.name, sections, {}, (), {})
    _write(root / "documents", before, documents)
    inputs = {"documents": before.fingerprint}
    after = Manifest("judged", settings.name, settings.settings("filters"), inputs, (), {})
    _write(root / "judged", after, judged)


def _write(folder: Path, listed: Manifest, rows: pa.Table) -> None:
    middle = rows.num_rows // 3  # two files, so that reading one is not enough
    parts = (rows.slice(0, middle), rows.slice(middle))
    files = tuple(dataset_io.write_table(folder, part) for part in parts)
    manifest.write(folder, dataclasses.replace(listed, files=files))


@pytest.fixture(scope="module")
def settings() -> Recipe:
    loaded = recipe.load(Path(__file__).parents[2] / "recipes" / "sample.toml")
    fast = dataclasses.replace(loaded.extract, engine="resiliparse")
    return dataclasses.replace(loaded, extract=fast)


@pytest.fixture(scope="module")
def documents(settings: Recipe) -> pa.Table:
    return _extract(settings)


@pytest.fixture(scope="module")
def judged(settings: Recipe, documents: pa.Table) -> pa.Table:
    return _judge(settings, documents)


@pytest.fixture(scope="module")
def root(
    settings: Recipe,
    documents: pa.Table,
    judged: pa.Table,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("root")
    _commit(folder, settings, documents, judged)
    return folder


def _changed(settings: Recipe, *sets: str) -> Recipe:
    values = config.to_json(dataclasses.asdict(settings))
    return config.from_dict(verdicts.merge(values, verdicts.parse(sets)), Recipe, "test")


def _moves(before: pa.Table, after: pa.Table) -> Counter[tuple[str, str]]:
    reasons = (t["rejected_by"].fill_null("kept").to_pylist() for t in (before, after))
    return Counter(zip(*reasons, strict=True))


@pytest.mark.parametrize(
    "sets",
    [
        ["gopher_quality.min_words=30", "language.min_score=0.4"],
        ["gopher_quality.min_words=200", "fineweb_quality.max_frac_short_lines=0.1"],
        ["gopher_repetition.max_top_2_gram=0.02", "c4.min_sentences=12"],
        ['language.languages=["en"]'],
        ["language.languages=[]", "c4.max_curly_bracket_lines=3"],
        ["language.min_score_of.de=0.99", "language.min_score_of.en=0.1"],
        ["fineweb_quality.reject_at_threshold=true", "fineweb_quality.max_frac_short_lines=0"],
        ['filters=["language", "gopher_quality", "gopher_repetition", "c4"]'],
        ['filters=["c4", "fineweb_quality", "language"]'],
        ["filters=[]"],
    ],
)
def test_filters_answer_as_measuring_again_does(
    root: Path, settings: Recipe, documents: pa.Table, judged: pa.Table, sets: list[str]
) -> None:
    again = _judge(_changed(settings, *sets), documents)
    assert whatif.ask(root, sets).moves == _moves(judged, again)


@pytest.mark.parametrize(
    "sets",
    [
        ["extract.statuses=[404]"],
        ["extract.max_html_bytes=12000"],
        ["extract.max_html_bytes=3000", "gopher_quality.min_words=100"],
        ["extract.honour_noai=true"],
        ["extract.honour_tdm=true", 'extract.mime_types=["application/xhtml+xml"]'],
    ],
)
def test_a_tightened_gate_answers_as_extracting_again_does(
    root: Path, settings: Recipe, judged: pa.Table, sets: list[str]
) -> None:
    new = _changed(settings, *sets)
    again = _moves(judged, _judge(new, _extract(new)))
    found = whatif.ask(root, sets)
    reread = {was for was, then in found.moves if then == verdicts.READ_AGAIN}
    told = {move: n for move, n in found.moves.items() if move[0] not in reread}
    assert told == {move: n for move, n in again.items() if move[0] not in reread}
    assert any(was != then for was, then in told)


def test_a_body_that_broke_off_is_not_too_large_and_a_size_at_the_limit_passes(
    judged: pa.Table, settings: Recipe
) -> None:
    row = next(row for row in judged.to_pylist() if row["rejected_by"] is None)
    broken = row | {"language": None, "rejected_by": "undecodable_body"}
    rows = pa.RecordBatch.from_pylist([row, broken], judged.schema)
    for limit, expected in ((row["html_bytes"], "kept"), (row["html_bytes"] - 1, "too_large")):
        new = _changed(settings, f"extract.max_html_bytes={limit}")
        found = verdicts.outcomes(rows, settings, new)
        assert found.after.tolist() == [expected, "undecodable_body"]


def test_a_loosened_gate_counts_the_pages_that_would_be_read_again(
    root: Path, judged: pa.Table
) -> None:
    rows = judged.to_pylist()
    missing = [r for r in rows if r["rejected_by"] == "bad_status" and r["http_status"] == 404]
    assert missing
    found = whatif.ask(root, ["extract.statuses=[200, 404]"], examples=1000)
    assert found.read_again.documents == len(missing)
    assert {e.url for e in found.read_again.examples} == {row["url"] for row in missing}
    assert found.newly_kept.documents == found.newly_dropped.documents == 0


@pytest.fixture(scope="module")
def looked_at(settings: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A root whose pages had to pass a look for English, and its judged rows."""
    english = _changed(settings, 'look.languages=["en"]', 'language.languages=["en"]')
    documents = _extract(english)
    judged = _judge(english, documents)
    folder = tmp_path_factory.mktemp("looked_at")
    _commit(folder, english, documents, judged)
    return folder, judged


def test_a_lower_bar_of_the_look_counts_the_pages_that_would_be_extracted(
    looked_at: tuple[Path, pa.Table],
) -> None:
    root, judged = looked_at
    rows = [r for r in judged.to_pylist() if r["rejected_by"] == "look.unwanted_language"]
    assert len(rows) > 10
    bar = sorted(row["look_score"] for row in rows)[len(rows) // 2]
    found = whatif.ask(root, [f"look.min_score={bar}"])
    assert found.read_again.documents == sum(row["look_score"] >= bar for row in rows) > 0
    assert {was for was, then, _ in found.moved()} == {"look.unwanted_language"}


def test_a_higher_bar_of_the_look_says_where_passages_were_not_looked_at(
    looked_at: tuple[Path, pa.Table],
) -> None:
    root, judged = looked_at
    looked = [row for row in judged.to_pylist() if row["look_score"] is not None]
    passed = [row for row in looked if row["rejected_by"] != "look.unwanted_language"]
    rows = [row for row in passed if row["look_score"] < 0.9]
    unknown = sum(row["look_passage_chars"] is None for row in rows)
    assert unknown
    found = whatif.ask(root, ["look.min_score=0.9", "look.min_passage_chars=100000"])
    assert found.read_again.documents == unknown
    told = sum(n for was, then, n in found.moved() if then == "look.unwanted_language")
    assert told == len(rows) - unknown
    assert not whatif.ask(root, ["look.min_score=0.3"]).moved()


def test_stored_settings_give_the_stored_verdicts(root: Path, judged: pa.Table) -> None:
    found = whatif.ask(root, ["gopher_quality.min_words=50"])
    assert not found.changes
    assert not found.moved()
    assert found.documents == judged.num_rows


def _thresholds() -> Iterator[tuple[str, str, float]]:
    for name, filter_ in FILTERS.items():
        settings = filter_()
        for setting in sorted(verdicts.thresholds(name)):
            if isinstance(getattr(settings, setting, None), int | float):
                yield name, setting, float(getattr(settings, setting))


@given(st.data())
def test_any_thresholds_judge_rows_as_the_filters_do(judged: pa.Table, data: Any) -> None:
    old = _stored_recipe()
    known = [t for t in _thresholds() if t[0] in old.filters]
    chosen = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=6))
    factors = st.floats(0, 3, allow_nan=False)
    values = {f"{n}.{s}": v * data.draw(factors) for n, s, v in chosen}
    new = old
    for dotted, value in values.items():
        name, setting = dotted.split(".")
        kind = type(getattr(getattr(old, name), setting))
        value = min(value, 0.99) if setting == "min_score" else value
        section = dataclasses.replace(getattr(new, name), **{setting: kind(value)})
        new = dataclasses.replace(new, **{name: section})
    rows = judged.combine_chunks().to_batches()[0]
    expected = [_row_by_row(row, new) for row in rows.to_pylist()]
    assert verdicts.outcomes(rows, old, new).after.tolist() == expected


def _stored_recipe() -> Recipe:
    return recipe.load(Path(__file__).parents[2] / "recipes" / "sample.toml")


def _row_by_row(row: dict[str, Any], settings: Recipe) -> str:
    if row["language"] is None:
        return str(row["rejected_by"])
    for name, filter_ in settings.chosen_filters().items():
        fault = filter_.fault(verdicts.signals_of(row, name))
        if fault:
            return f"{name}.{fault}"
    return verdicts.KEPT


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("gopher_quality.min_wrds=3", "did you mean 'min_words'"),
        ("gopher_quality.min_words='many'", "must be of type int"),
        ("gopher_quality.min_words=-1", "min_words = -1: must be at least 0"),
        ("gopher_quality.min_words", "not TOML"),
        ("language.languages=en", "not TOML"),
        ("c4.min_words_per_line=4", "run gristmill filter --overwrite"),
        ("fineweb_quality.short_line_length=20", "gristmill filter --overwrite"),
        ("extract.engine='trafilatura'", "gristmill extract --overwrite"),
        ("extract.max_nodes=10", "gristmill extract --overwrite"),
        ("url.hard_words=['x.txt']", "gristmill extract --overwrite"),
        ("look.languages=['en', 'de', 'fr', 'es', 'it']", "gristmill extract --overwrite"),
        ("look.min_score=0.5", "nothing is pre-screened"),
        ("minhash.bands=3", "gristmill dedup --overwrite"),
        ("shard.seed=3", "gristmill shard --overwrite"),
        ('filters=["language", "nothing"]', "must be among"),
        ('filters=["language", "fineweb_quality"]', "measured on the text that c4 left"),
        ('filters=["fineweb_quality", "c4"]', "measured on the text that c4 left"),
        ('filters=["c4", "gopher_quality"]', "not on what c4 left"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(root: Path, given: str, named: str) -> None:
    with pytest.raises(UserError) as refused:
        whatif.ask(root, [given])
    assert named in str(refused.value)
    assert "--set" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_filter_that_was_not_measured_is_refused(
    tmp_path: Path, settings: Recipe, documents: pa.Table
) -> None:
    few = dataclasses.replace(settings, filters=("gopher_quality",))
    _commit(tmp_path, few, documents, _judge(few, documents))
    with pytest.raises(UserError, match="c4 was not measured; measured are gopher_quality"):
        whatif.ask(tmp_path, ['filters=["gopher_quality", "c4"]'])
    with pytest.raises(UserError, match="fineweb_quality is not among filters"):
        whatif.ask(tmp_path, ["fineweb_quality.max_newlines_per_word=0.1"])
    with_language = dataclasses.replace(few, filters=("language", "gopher_quality"))
    sets = ['filters=["language", "gopher_quality"]', f"language.languages={_codes(settings)}"]
    expected = _moves(_judge(few, documents), _judge(with_language, documents))
    assert whatif.ask(tmp_path, sets).moves == expected


def _codes(settings: Recipe) -> str:
    return json.dumps(settings.language.languages)


def test_a_verdict_that_the_stored_signals_do_not_give_is_an_error(
    tmp_path: Path, settings: Recipe, documents: pa.Table, judged: pa.Table
) -> None:
    rows = judged.to_pylist()
    row = next(row for row in rows if row["rejected_by"] is None)
    row["rejected_by"] = "gopher_quality.too_few_words"
    _commit(tmp_path, settings, documents, pa.Table.from_pylist(rows, judged.schema))
    with pytest.raises(UnbalancedError) as error:
        whatif.ask(tmp_path, ["gopher_quality.min_words=50"])
    assert f"{row['file_path']}, offset {row['record_offset']}" in str(error.value)


def test_a_root_without_judged_documents_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        whatif.ask(tmp_path, ["gopher_quality.min_words=50"])


def test_judged_documents_of_another_extraction_are_refused(
    tmp_path: Path, settings: Recipe, documents: pa.Table, judged: pa.Table
) -> None:
    _commit(tmp_path, settings, documents, judged)
    other = Manifest("documents", "other", settings.settings("extract"), {"x": "y"}, (), {})
    _write(tmp_path / "documents", other, documents)
    with pytest.raises(UserError, match="was built from a different 'documents'"):
        whatif.ask(tmp_path, ["gopher_quality.min_words=50"])


def test_a_signal_that_is_not_in_the_file_is_named(
    tmp_path: Path, settings: Recipe, documents: pa.Table, judged: pa.Table
) -> None:
    _commit(tmp_path, settings, documents, judged.drop_columns(["c4"]))
    with pytest.raises(UserError, match=r"no column c4\."):
        whatif.ask(tmp_path, ["gopher_quality.min_words=50"])


def test_examples_name_the_number_that_decides_and_do_not_depend_on_files(
    root: Path, tmp_path: Path, settings: Recipe, documents: pa.Table, judged: pa.Table
) -> None:
    sets = ["gopher_quality.min_words=300"]
    found = whatif.ask(root, sets, examples=3).newly_dropped
    assert len(found.examples) == 3 < found.documents
    for example in found.examples:
        row = next(r for r in judged.to_pylist() if r["id"] == example.id)
        words = row["gopher_quality"]["num_words"]
        assert example.why == f"num_words = {words}, min_words = 300"
        assert (example.before, example.after) == ("kept", "gopher_quality.too_few_words")
    order = pa.array(range(judged.num_rows - 1, -1, -1))
    _commit(tmp_path, settings, documents.take(order), judged.take(order))
    assert whatif.ask(tmp_path, sets, examples=3).newly_dropped == found


def test_sizes_are_those_of_the_documents_that_change(root: Path, judged: pa.Table) -> None:
    found = whatif.ask(root, ["gopher_quality.min_words=300"]).newly_dropped
    kept = [row for row in judged.to_pylist() if row["rejected_by"] is None]
    dropped = [row for row in kept if row["gopher_quality"]["num_words"] < 300]
    assert found.documents == len(dropped)
    assert found.html_bytes == sum(row["html_bytes"] for row in dropped)
    assert found.words == sum(row["gopher_quality"]["num_words"] for row in dropped)


def _command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    whatif.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["whatif", *arguments])
    return int(parsed.command(parsed))


def test_json_and_tables_hold_the_same_numbers(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--root", str(root), "--set", "gopher_quality.min_words=300"]
    assert _command(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changes"] == {"gopher_quality.min_words": {"before": 50, "after": 300}}
    assert sum(outcome["after"] for outcome in found["outcomes"].values()) == found["documents"]
    kept = found["outcomes"]["kept"]
    difference = found["newly_kept"]["documents"] - found["newly_dropped"]["documents"]
    assert kept["after"] - kept["before"] == difference < 0
    assert _command(*arguments) == 0
    table = capsys.readouterr().out
    for shown in ("50 -> 300", f"{difference:+,}", found["newly_dropped"]["examples"][0]["url"]):
        assert shown in table.replace("\n", "") or shown in table


@given(st.text())
def test_nothing_printable_controls_a_terminal(text: str) -> None:
    shown = one_line(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    marks = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not {unicodedata.bidirectional(c) for c in shown} & marks
    assert len(shown) == len(text)


def test_markup_and_escapes_of_the_web_are_shown_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = "https://x.example/[bold red]a[/nonsense]\x1b]0;title\x07\x9b31m\u202e"
    example = Example(url, "id", "f", 0, "kept", "c4.lorem_ipsum", "[/why]")
    answer = whatif.Answer("root", "recipe", {})
    answer.newly_dropped.documents = 1
    answer.newly_dropped.ranked.append((0, example))
    Console(width=200).print(printed(answer))
    shown = capsys.readouterr().out
    mark = "\N{REPLACEMENT CHARACTER}"
    assert f"[bold red]a[/nonsense]{mark}]0;title{mark}{mark}31m" in shown
    assert "[/why]" in shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e")


def test_sides_start_empty() -> None:
    assert Side().examples == []
    assert Side().words is None
