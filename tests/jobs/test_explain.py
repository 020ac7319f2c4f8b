"""`gristmill explain`: a page's story holds what the datasets hold of it, and nothing else."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from corpus import recipe, worker_tasks
from corpus.filters.fineweb import FineWebQuality
from corpus.filters.language import LanguageRule
from corpus.recipe import Recipe
from corpus.reports import decisions
from corpus.text.prescreen import Look
from jobs.engine import dataset_io
from jobs.reports import explain
from jobs.reports.explain import PageReport
from schemas import manifest
from schemas.datasets import BANDS, CANONICAL, CLUSTERS, CONTAMINATION, DOCUMENTS, PII_KINDS, SHARDS
from schemas.errors import UserError
from schemas.manifest import ContaminationExtra, Extra, Manifest
from tests.listed_shards import listed_as_shard

PROSE = (
    "The ferry leaves the harbour at seven. It carries the post and a few of the people who work "
    "on the island. In winter it does not go when the wind is from the north. Then there is no "
    "bread in the shops, and nobody seems to mind that very much. We asked an old man why he had "
    "stayed. He said that he liked to be where the weather decides what is to be done with a day. "
    "His daughter laughed and told us he was just afraid of boats."
)
EVIL = "https://evil.example/[red]x[/oops]\x1b[2J\u202e"


def _row(offset: int, url: str | None, **columns: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(DOCUMENTS.names)
    row |= {"id": f"<urn:uuid:{offset}>", "dump": "D", "date": "2024-01-01T00:00:00Z"}
    row |= {"url": url, "file_path": "crawl-data/a/x.warc.gz", "record_offset": offset}
    row |= {"record_length": 100, "truncated": False, "noai": False, "tdm_reservation": False}
    return row | columns


def _page(offset: int, url: str, text: str | None, **columns: Any) -> dict[str, Any]:
    page = {"http_status": 200, "content_type": "text/html", "charset": "utf-8"}
    page |= {"html_bytes": 5000, "extractor": "resiliparse 1", "text": text}
    page |= {"language": "en", "language_score": 0.9}
    return _row(offset, url, **(page | columns))


ROWS = [
    _page(0, "https://a.example/ferry", PROSE),
    _page(100, "https://a.example/short", "The end of it. " * 12),
    _page(200, "https://www.b.example/ferry", PROSE, id="<urn:uuid:-200>"),
    _page(300, "https://a.example/ferry", PROSE, language_score=0.1),
    _row(400, None, rejected_by="damaged_record", detail="gzip member: Error -3"),
    _row(500, "https://a.example/gone", http_status=404, rejected_by="bad_status", detail="404"),
    _page(
        600, "https://a.example/mine", None, language=None, language_score=None,
        noai=True, rejected_by="reserved_rights", detail="noai",
    ),
    _row(700, "https://a.example/new", rejected_by="gate_of_tomorrow", detail="something"),
    _page(800, EVIL, "[link=x]" + PROSE + "\x1b]0;title\x07", extractor="[/x]"),
]  # fmt: skip


def _commit(root: Path, name: str, rows: pa.Table, settings: Any, inputs: dict[str, str]) -> str:
    file = dataset_io.write_table(root / name, rows)
    extra: Any = Extra()
    if name == "shards":
        file, extra = listed_as_shard(file)
    elif name == "contamination":
        extra = ContaminationExtra("drop", ())
    made = Manifest(name, "r", settings, inputs, (file,), {}, extra)
    manifest.write(root / name, made)
    return made.fingerprint


def _sections(settings: Recipe) -> dict[str, Any]:
    return settings.settings("extract", "url", "look")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ROWS`, judged; the pages at 200 and 800 count as copies of the one at 0."""
    folder = tmp_path_factory.mktemp("root")
    settings = recipe.Recipe(name="r")
    documents = pa.Table.from_pylist(ROWS, DOCUMENTS)
    first = _commit(folder, "documents", documents, _sections(settings), {})
    batches = documents.to_batches()
    judged = pa.Table.from_batches([b for d in batches for b in worker_tasks.judge(settings, d)])
    filters = settings.settings("filters")
    second = _commit(folder, "judged", judged, filters, {"documents": first})
    bands = _commit(folder, "bands", BANDS.empty_table(), {}, {"judged": second})
    _commit(folder, "clusters", _clusters(), {}, {"bands": bands})
    kept = judged.filter(ds.field("record_offset") == 0)
    third = _commit(folder, "canonical", _canonical(kept), {}, {"bands": bands})
    shard = {"tokens": [1, 2, 3], "token_count": 3, **{n: ROWS[0][n] for n in SHARDS.names[2:]}}
    _commit(folder, "shards", pa.Table.from_pylist([shard], SHARDS), {}, {"canonical": third})
    return folder


def _clusters() -> pa.Table:
    def member(offset: int, of: str | None) -> dict[str, Any]:
        row = {name: ROWS[offset // 100][name] for name in ("id", "file_path", "record_offset")}
        row |= {"node": offset, "cluster": 7, "cluster_size": 3, "duplicate_of": of}
        row |= {"duplicate_node": 0 if of else None, "duplicate_root": None}
        return row | {"duplicate_kind": "exact_duplicate" if of else None}

    copies = [member(offset, "<urn:uuid:0>") for offset in (200, 800)]
    return pa.Table.from_pylist([*copies, member(0, None)], CLUSTERS)


def _canonical(kept: pa.Table) -> pa.Table:
    counts = {kind: int(kind == "emails") for kind in PII_KINDS}
    added = {"cluster": pa.array([7]), "cluster_size": pa.array([3])}
    added |= {"pii": pa.array([counts], CANONICAL.field("pii").type)}
    columns = [added[n] if n in added else kept[n] for n in CANONICAL.names]
    return pa.table(columns, schema=CANONICAL)


def _story(root: Path, offset: int) -> PageReport:
    (found,) = explain.explain(root, ds.field("record_offset") == offset)
    return found


def _states(found: PageReport) -> dict[str, str]:
    return {step.gate: step.state for step in found.gates}


def test_a_page_that_was_kept_passed_every_gate_and_broke_no_rule(root: Path) -> None:
    found = _story(root, 0)
    assert found.rejected_by is None
    assert set(_states(found).values()) == {"passed"}
    assert [step.filter for step in found.filters] == list(Recipe().filters)
    assert not any(check.broken for step in found.filters for check in step.checks)
    assert found.text == PROSE[:300]
    assert found.shard is not None
    assert (found.shard["tokens"], found.shard["split"]) == (3, "train")
    assert found.canonical is not None
    assert found.canonical["cluster_size"] == 3


def test_all_broken_rules_are_marked_and_the_first_one_is_the_verdict(root: Path) -> None:
    found = _story(root, 100)
    broken = [(s.filter, c) for s in found.filters for c in s.checks if c.broken]
    assert len(broken) > 2
    first = [f"{name}.{check.fault}" for name, check in broken if check.first]
    assert first == [found.rejected_by] == [f"{broken[0][0]}.{broken[0][1].fault}"]
    check = broken[0][1]
    assert check.value > check.threshold
    assert (check.needs, check.setting[:4]) == ("<=", "max_")
    assert found.cluster is found.canonical is found.shard is None


def test_the_threshold_told_is_the_one_that_judged(root: Path) -> None:
    judged = explain.open_root(root).find("judged", ds.field("record_offset") == 300)[0]
    own = dataclasses.replace(LanguageRule(), min_score_of={"en": 0.05})
    at = dataclasses.replace(FineWebQuality(), reject_at_threshold=True)
    settings = dataclasses.replace(Recipe(), language=own, fineweb_quality=at)
    checks = {c.fault: c for step in decisions.filter_steps(judged, settings) for c in step.checks}
    score = checks["low_language_score"]
    assert (score.setting, score.threshold, score.needs) == ("min_score_of.en", 0.05, ">")
    assert not score.broken
    assert checks["too_many_short_lines"].needs == "<"
    assert checks["too_few_words"].needs == ">="


def test_every_signal_is_in_the_story(root: Path) -> None:
    judged = explain.open_root(root).find("judged", ds.field("record_offset") == 100)[0]
    for step in _story(root, 100).filters:
        told = {check.signal: check.value for check in step.checks} | step.other_signals
        stored = judged[step.filter] if step.filter != "language" else judged
        assert told == {name: stored[name] for name in told}
        assert step.filter == "language" or set(told) == set(stored)


@pytest.mark.parametrize(
    ("offset", "gate", "passed"),
    [(400, "record", 0), (500, "status", 1), (600, "rights", 6), (700, "gate_of_tomorrow", 0)],
)
def test_the_gate_that_rejected_is_named_and_none_behind_it_was_reached(
    root: Path, offset: int, gate: str, passed: int
) -> None:
    found = _story(root, offset)
    states = _states(found)
    assert states[gate] == "rejected"
    names = list(states)
    assert set(list(states.values())[names.index(gate) + 1 :]) <= {"not reached"}
    assert list(states.values()).count("passed") >= passed
    assert found.filters == []
    assert found.detail == ROWS[offset // 100]["detail"]


def test_every_gate_of_extract_has_its_place(root: Path) -> None:
    """A reason that corpus/text/extract_page.py gives is never shown as that of an unknown gate."""
    reasons = (
        "damaged_record torn_record not_http bad_status not_html too_large empty_body "
        "undecodable_body url.domain url.substring undecodable reserved_rights "
        "look.unwanted_language too_many_nodes too_many_attributes too_deep extraction_failed "
        "extraction_crashed extraction_cpu_time extraction_memory no_text text_too_long"
    )
    settings = dataclasses.replace(Recipe(), look=Look(languages=("en",)))
    for reason in reasons.split():
        steps = decisions.gate_steps({**ROWS[0], "rejected_by": reason, "detail": ""}, settings)
        assert [step.state for step in steps].count("rejected") == 1
        assert reason not in [step.gate for step in steps]


def test_the_look_is_told_of_where_there_was_one() -> None:
    assert "look" not in [step.gate for step in decisions.gate_steps(ROWS[0], Recipe())]
    looked = {**ROWS[0], "look_score": 0.2, "look_language": "de", "look_chars": 1234}
    looked |= {"look_passage_chars": 90, "rejected_by": "look.unwanted_language", "detail": ""}
    settings = dataclasses.replace(Recipe(), look=Look(languages=("en",)))
    step = next(s for s in decisions.gate_steps(looked, settings) if s.gate == "look")
    assert step.state == "rejected"
    assert step.found == "de, score 0.2 on 1,234 characters, 90 in wanted passages"
    assert step.settings["look.languages"] == ["en"]


def test_a_copy_names_the_document_that_stays_by_its_url(root: Path) -> None:
    copy, stays = _story(root, 800), _story(root, 0)
    assert copy.cluster is not None
    assert stays.cluster is not None
    assert copy.cluster["survivor"] == {"id": "<urn:uuid:0>", "url": "https://a.example/ferry"}
    assert copy.cluster["duplicate_kind"] == "exact_duplicate"
    assert [c["id"] for c in copy.cluster["copies"]] == ["<urn:uuid:-200>"]
    assert stays.cluster["survivor"] is None
    urls = {c["url"] for c in stays.cluster["copies"]}
    assert urls == {"https://www.b.example/ferry", EVIL}
    assert copy.canonical is None


def test_a_dataset_of_other_documents_is_left_out_and_said_so(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "root"
    shutil.copytree(root, other)
    rows = pa.Table.from_pylist(ROWS, DOCUMENTS)
    _commit(other, "documents", rows, _sections(Recipe()), {"another": "input"})
    found = _story(other, 0)
    assert not found.judged
    assert found.filters == []
    assert found.shard is found.canonical is found.cluster is None
    assert found.absent["judged"] == "was built from a different 'documents'"
    assert set(found.absent) == {"judged", "bands", "clusters", "canonical", "shards"}


def _command(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> str:
    parser = argparse.ArgumentParser()
    explain.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["explain", "--root", str(root), *arguments])
    assert parsed.command(parsed) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--id", "<urn:uuid:400>"],
        ["--id", "400"],
        ["--file", "x.warc.gz", "--offset", "400"],
        ["--file", "crawl-data/a/x.warc.gz", "--offset", "400"],
    ],
)
def test_a_record_without_a_url_is_found_by_id_or_place(
    capsys: pytest.CaptureFixture[str], root: Path, arguments: list[str]
) -> None:
    (found,) = json.loads(_command(capsys, root, *arguments, "--json"))
    assert found["url"] is None
    assert found["rejected_by"] == "damaged_record"
    assert "a record without a URL" in _command(capsys, root, *arguments)


def test_every_capture_of_a_url_is_told_of(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    found = json.loads(_command(capsys, root, "--url", "https://a.example/ferry", "--json"))
    assert [one["place"]["record_offset"] for one in found] == [0, 300]
    assert [one["rejected_by"] for one in found] == [None, "language.low_language_score"]
    assert "capture 2 of 2" in _command(capsys, root, "--url", "https://a.example/ferry")


def test_what_it_holds_of_an_evaluation_set_is_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    canonical = manifest.read(copy / "canonical")
    assert canonical
    key = {name: ROWS[0][name] for name in ("id", "file_path", "record_offset", "url")}
    row = key | {"set": "gsm8k", "num_matches": 2, "example": "how many eggs", "action": "drop"}
    table = pa.Table.from_pylist([row], CONTAMINATION)
    _commit(copy, "contamination", table, {}, {"canonical": canonical.fingerprint})
    assert _story(root, 0).contamination == []
    assert _story(copy, 0).contamination[0]["set"] == "gsm8k"
    assert _story(copy, 200).contamination == []
    shown = _command(capsys, copy, "--url", ROWS[0]["url"])
    assert "left out of shards; holds 'how many eggs' of gsm8k" in " ".join(shown.split())


def test_what_is_printed_of_the_web_is_text(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    shown = _command(capsys, root, "--url", EVIL)
    assert "https://evil.example/[red]x[/oops]\N{REPLACEMENT CHARACTER}[2J" in shown
    assert "[link=x]The ferry" in shown
    assert not set(shown) & set("\x1b\x07\u202e")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--url", "http://a.example/fery"], "nearest are https://a.example/ferry"),
        (["--url", "b.example/ferry"], "nearest are https://www.b.example/ferry"),
        (["--url", "https://nowhere.example.org/"], "not in"),
        (["--url", ""], "no page of that host"),
        (["--url", "http://[::1"], "no page of that host"),
        (["--id", "nothing"], "--id nothing: no such row"),
        (["--file", "x.warc.gz", "--offset", "1"], "--file x.warc.gz --offset 1: no such row"),
        (["--file", "x.warc.gz"], "--offset"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], root: Path, arguments: list[str], named: str
) -> None:
    with pytest.raises(UserError) as error:
        _command(capsys, root, *arguments)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_root_without_documents_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        explain.explain(tmp_path, ds.field("url") == "x")


def test_the_story_of_a_page_of_every_outcome_agrees_with_the_datasets(
    sample_roots: dict[str, Path],
) -> None:
    opened = explain.open_root(sample_roots["sail"])
    everything = ds.field("record_offset") >= 0
    by_outcome = {row["rejected_by"]: row for row in opened.find("judged", everything)}
    clusters = opened.find("clusters", everything)
    by_outcome |= {row["duplicate_kind"]: row for row in clusters}
    canonical = {row["id"] for row in opened.find("canonical", everything, ["id"])}
    tokens = {row["id"]: row["token_count"] for row in opened.find("shards", everything)}
    assert len(by_outcome) > 10
    for outcome, row in by_outcome.items():
        (found,) = explain.explain(opened.folder, ds.field("id") == row["id"])
        assert not found.absent
        assert (found.canonical is not None) == (row["id"] in canonical)
        assert (found.shard and found.shard["tokens"]) == tokens.get(row["id"])
        assert (found.cluster is None) == (found.rejected_by is not None)
        if outcome and found.cluster:
            assert found.cluster["duplicate_kind"] == outcome
            assert found.cluster["survivor"]["id"] in canonical
        else:
            assert found.rejected_by == outcome
