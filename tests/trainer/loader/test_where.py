"""`trainer where`: of flags or of a run, mixed folders, what the filters said, what is printed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import manifest
from schemas.errors import UserError
from schemas.manifest import DataFile, Manifest
from trainer.commands import where
from trainer.data.loader import Loader, Mixed
from trainer.data.spec import DataSpec, Source
from trainer.data.trace import AROUND, TokenOrigin, origin_of
from trainer.model import step_folders

BATCHES: dict[str, Any] = {"seq_len": 24, "rows": 6, "packing": "best_fit", "seed": 3}
FLAGS = ["--seq-len", "24", "--batch-size", "6", "--packing", "best_fit", "--seed", "3"]


@pytest.fixture(autouse=True)
def plans(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of these tests go where the loader's tests keep theirs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders["cache"]))


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    parser = argparse.ArgumentParser()
    where.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["where", *map(str, arguments)])
    parsed.run(parsed)
    return capsys.readouterr().out


def objects(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def write_run(run: Path, spec: DataSpec, folders: list[Path]) -> Path:
    run.mkdir(parents=True)
    told = {"data": spec.to_json(), "folders": [str(folder) for folder in folders]}
    (run / "run.json").write_text(json.dumps(told))
    return run


@pytest.fixture
def mixed(folders: dict[str, Path]) -> Loader:
    """Two sources of other weights."""
    sources = [Mixed(folders["pages"], 3.0), Mixed(folders["books"], 1.0, 2)]
    return Loader(sources, cache=folders["cache"], **BATCHES)


@pytest.fixture
def run(mixed: Loader, folders: dict[str, Path], tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", mixed.spec, [folders["pages"], folders["books"]])


def test_a_folder_its_manifest_and_both_names_of_the_flag_are_the_same(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders["pages"]
    place = [*FLAGS, "--step", 5, "--row", 2, "--pos", 1, "--json"]
    answers = {
        ask(capsys, flag, path, *place)
        for flag in ("--manifest", "--shards")
        for path in (folder, folder / "manifest.json")
    }
    assert len(answers) == 1
    (told,) = objects(answers.pop())
    assert (told["step"], told["row"], told["pos"]) == (5, 2, 1)
    loader = Loader([folder], cache=folders["cache"], **BATCHES)
    origin = origin_of(loader, 5, 2, 1)
    assert origin is not None
    assert {name: told[name] for name in dataclasses.asdict(origin)} == dataclasses.asdict(origin)


@pytest.mark.parametrize(("name", "packing"), [("pages", "concat"), ("chats", "best_fit")])
def test_conversations_are_packed_their_own_way_unless_asked(
    name: str, packing: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--manifest", folders[name], "--seq-len", 24, "--batch-size", 6, "--step", 1, "--json"]
    assert ask(capsys, *asked) == ask(capsys, *asked, "--packing", packing)


def test_a_run_tells_of_every_source_of_its_mixture(
    run: Path, mixed: Loader, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    names = set()
    for row in range(6):
        (told,) = objects(ask(capsys, "--run", run, "--step", 2, "--row", row, "--json"))
        batch = mixed.batch(2)
        assert told.get("token_id", mixed.shards.tokenizer.boundary) == batch.inputs[row, 0]
        names.add(told.get("folder"))
    assert names >= {str(folders["pages"]), str(folders["books"])}


def test_shards_that_moved_are_found_by_what_they_hold(
    run: Path, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given in another order, one or both; what is not given is where the run says."""
    place = ["--step", 2, "--row", 1, "--json"]
    whole = objects(ask(capsys, "--run", run, *place))
    copies = [shutil.copytree(folders[name], tmp_path / name) for name in ("books", "pages")]
    for given in ([copies[0]], [copies[1]], copies):
        told = objects(ask(capsys, "--run", run, "--manifest", *given, *place))
        assert [one | {"folder": "", "verdict": ""} for one in told] == [
            one | {"folder": "", "verdict": ""} for one in whole
        ]


def test_shards_of_another_run_are_refused_by_name(
    run: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"chats: holds shards .* was trained on"):
        ask(capsys, "--run", run, "--manifest", folders["chats"], "--step", 0)


def test_shards_that_are_gone_are_named(
    mixed: Loader, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", mixed.spec, [folders["pages"], tmp_path / "gone"])
    with pytest.raises(UserError, match=r"not where they were \(.*gone\); give .* with --shards"):
        ask(capsys, "--run", run, "--step", 0)
    told = ask(capsys, "--run", run, "--manifest", folders["books"], "--step", 0, "--json")
    assert objects(told)


def test_shards_that_changed_since_are_refused(
    mixed: Loader, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(mixed.spec, sources=(Source("0" * 64), mixed.spec.sources[1]))
    run = write_run(tmp_path / "run", other, [folders["pages"], folders["books"]])
    with pytest.raises(UserError, match="trained on shards 000000000000, which are not where"):
        ask(capsys, "--run", run, "--step", 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--step", "0"], "give --run RUN, or --shards DIR"),
        (
            ["--manifest", "{pages}", "{books}", "--step", "0"],
            "2 folders: only a run says how to mix",
        ),
        (["--manifest", "{pages}"], "give --step N"),
        (["--manifest", "{pages}", "--step", "-1"], "give --step N"),
        (["--manifest", "{pages}", "--url", "x"], "--steps None: must be at least 1"),
        (["--manifest", "{pages}", "--url", "x", "--steps", "0"], "--steps 0: must be at least 1"),
        (["--run", "{cache}", "--step", "0"], r"run\.json: torn or missing"),
        (["--manifest", "{cache}", "--step", "0"], "cache"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(
    arguments: list[str],
    said: str,
    folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match=said):
        ask(capsys, *[a.format(**folders) for a in arguments])


def test_a_run_without_a_data_specification_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"settings": {}}')
    with pytest.raises(UserError, match="has no data specification: not a run of this version"):
        ask(capsys, "--run", tmp_path, "--step", 0)


def test_the_steps_that_a_run_has_trained_are_looked_at(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="has no checkpoint yet; give --steps N"):
        ask(capsys, "--run", run, "--url", "https://example.org/4")
    monkeypatch.setattr(step_folders, "pointed", lambda at, name: (at / "step", {"step": 40}))
    found = ask(capsys, "--run", run, "--url", "https://example.org/4", "--json")
    assert found == ask(
        capsys, "--run", run, "--url", "https://example.org/4", "--steps", 40, "--json"
    )
    rows = objects(found)
    assert rows
    assert {row["id"] for row in rows} == {"<urn:4>"}
    assert rows == sorted(rows, key=lambda row: (row["step"], row["row"], row["position"]))


def test_rows_are_told_to_people_and_counted(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--manifest", folders["pages"], *FLAGS, "--id", "<urn:4>", "--steps", 40]
    rows = objects(ask(capsys, *asked, "--json"))
    printed = ask(capsys, *asked).splitlines()
    tokens = sum(row["end"] - row["first"] for row in rows)
    assert printed[0].startswith(f"tokens: {tokens:,}, rows: {len(rows):,}, steps: ")
    assert len(printed) == 1 + len(rows)
    assert ask(capsys, *asked[:-4], "--id", "nothing", "--steps", 9) == (
        "tokens: 0, rows: 0, steps: 0 of 9\n"
    )


def test_what_surrounds_a_token_is_the_document(folders: dict[str, Path]) -> None:
    loader = Loader([folders["pages"]], cache=folders["cache"], **BATCHES)
    for row in range(6):
        origin = origin_of(loader, 1, row, 7)
        if origin is not None:
            table = pq.read_table(folders["pages"] / origin.shard)
            tokens = table["tokens"][table["id"].to_pylist().index(origin.id)].as_py()
            at, decode = origin.token, loader.shards.tokenizer.decode
            parts = (tokens[max(0, at - AROUND) : at], [tokens[at]])
            assert (origin.before, origin.text) == tuple(map(decode, parts))
            assert origin.after == decode(tokens[at + 1 : at + 1 + AROUND])


# What the filters said


def commit_root(root: Path, shards: Path, rows: list[dict[str, Any]]) -> Path:
    """A root whose `judged` has `rows`, and of which `shards`' content was made."""
    table = pa.Table.from_pylist(rows)
    (root / "judged").mkdir(parents=True)
    pq.write_table(table, root / "judged" / "a.parquet")
    settings = {
        "filters": ["language", "gopher_quality", "added_later"],
        "language": {"languages": ["en"], "min_score": 0.5, "min_score_of": {}},
        "gopher_quality": {"min_words": 50, "max_words": 1000, "max_bullets": 3},
    }
    file = DataFile("a.parquet", len(rows), 1)
    judged = Manifest("judged", "r", settings, {}, (file,), {})
    bands = Manifest("bands", "r", {}, {"judged": judged.fingerprint}, (), {})
    canonical = Manifest("canonical", "r", {}, {"bands": bands.fingerprint}, (), {})
    for one in (judged, bands, canonical):
        manifest.write(root / one.dataset, one)
    shutil.copytree(shards, root / "shards")
    listed = manifest.read(root / "shards")
    assert listed is not None
    inputs = {"canonical": canonical.fingerprint}
    manifest.write(root / "shards", dataclasses.replace(listed, inputs=inputs))
    return root / "shards"


def judged_row(offset: int, **columns: Any) -> dict[str, Any]:
    row = {"file_path": "a.warc.gz", "record_offset": offset, "text": "secret"}
    row |= {"language": "en", "language_score": 0.75, "rejected_by": None, "detail": None}
    return row | {"gopher_quality": {"num_words": 1234, "mean_word_length": 4.56789}} | columns


@pytest.fixture
def origin(folders: dict[str, Path]) -> TokenOrigin:
    loader = Loader([folders["pages"]], cache=folders["cache"], **BATCHES)
    found = origin_of(loader, 0, 0, 0)
    assert found is not None
    return found


def test_every_signal_is_told_beside_the_limits_named_after_it(
    origin: TokenOrigin, folders: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = [judged_row(i) for i in range(200)]
    rows[origin.record_offset]["language_score"] = 0.25
    folder = commit_root(tmp_path / "root", folders["pages"], rows)
    found = where.filter_verdict(dataclasses.replace(origin, folder=str(folder)))
    assert (found.absent, found.rejected_by) == (None, None)
    told = {name: [(s.name, s.value, s.limits) for s in of] for name, of in found.filters.items()}
    assert told == {
        "language": [
            ("language", "en", {"languages": ["en"]}),
            ("language_score", 0.25, {"min_score": 0.5}),
        ],
        "gopher_quality": [
            ("num_words", 1234, {"min_words": 50, "max_words": 1000}),
            ("mean_word_length", 4.56789, {}),
        ],
        "added_later": [],
    }
    printed = ask(capsys, "--manifest", folder, *FLAGS, "--step", 0)
    assert "kept, passed: language, gopher_quality, added_later" in printed
    assert "num_words" in printed
    assert "1,234   min_words = 50, max_words = 1,000" in printed
    assert "secret" not in printed
    (spoken,) = objects(ask(capsys, "--manifest", folder, *FLAGS, "--step", 0, "--json"))
    assert spoken["verdict"] == dataclasses.asdict(found)


def test_a_page_that_was_emptied_since_is_told_as_such(
    origin: TokenOrigin, folders: dict[str, Path], tmp_path: Path
) -> None:
    row = judged_row(origin.record_offset, rejected_by="forgotten", language=None)
    row["gopher_quality"] = None
    folder = commit_root(tmp_path / "root", folders["pages"], [row, judged_row(10_000)])
    found = where.filter_verdict(dataclasses.replace(origin, folder=str(folder)))
    assert found.rejected_by == "forgotten"
    assert found.filters["gopher_quality"] == []


def test_what_is_not_known_of_a_page_is_said_in_a_line(
    origin: TokenOrigin, folders: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    printed = ask(capsys, "--manifest", folders["pages"], *FLAGS, "--step", 0)
    assert printed.splitlines()[-1] == (
        f"filters: unknown: {folders['pages'].parent}: no dataset `judged`"
    )
    chats = commit_root(tmp_path / "chats", folders["chats"], [judged_row(10_000)])
    said = where.filter_verdict(dataclasses.replace(origin, folder=str(chats))).absent
    assert said == "conversations are not filtered"
    folder = commit_root(tmp_path / "root", folders["pages"], [judged_row(10_000)])
    moved = dataclasses.replace(origin, folder=str(folder))
    assert where.filter_verdict(moved).absent == "no row for this page in `judged`"
    other = Manifest("bands", "r", {}, {"judged": "of another run"}, (), {})
    manifest.write(folder.parent / "bands", other)
    assert "not built from its dataset `judged`" in str(where.filter_verdict(moved).absent)


def test_what_is_printed_of_the_web_is_text(
    origin: TokenOrigin, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = dataclasses.replace(
        origin, url="https://e.example/[red]x\x1b[2J\n", before="[/x]\n", id="\x07", text="\t"
    )
    arguments = argparse.Namespace(step=0, row=0, pos=0, json=False)
    where.show_origin(arguments, evil, where.FilterVerdict("[b]root", "nothing"))
    printed = capsys.readouterr().out
    assert "https://e.example/[red]x" in printed
    assert "[/x]↵⟦ ⟧" in printed
    assert not set(printed) & set("\x1b\x07\t")


def test_padding_is_of_no_page(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    loader = Loader([folders["pages"]], cache=folders["cache"], **BATCHES)
    step, row = next(
        (step, row)
        for step in range(50)
        for row in range(6)
        if not origin_of(loader, step, row, 24)
    )
    asked = [*FLAGS, "--step", step, "--row", row, "--pos", 24]
    assert "padding, part of no document" in ask(capsys, "--manifest", folders["pages"], *asked)
    (told,) = objects(ask(capsys, "--manifest", folders["pages"], *asked, "--json"))
    assert told == {"step": step, "row": row, "pos": 24, "padding": True}
