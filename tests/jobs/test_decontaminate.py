"""Documents with texts of evaluation sets are found, listed, and left out of shards."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.clean.contamination import Decontaminate
from corpus.recipe import Recipe
from corpus.tokens.shards import Shard
from jobs import cli, decontaminate, pipeline, shard
from jobs.engine import dataset_io
from jobs.engine.session import Engine
from jobs.engine.stage import Job, run_stage
from jobs.reports import report
from schemas import manifest
from schemas.datasets import CANONICAL
from schemas.errors import UserError
from schemas.manifest import Manifest, SetCounts

PROJECT = Path(__file__).parents[2]
RECIPE = str(PROJECT / "recipes" / "sample.toml")
WORDS = np.array([a + b + c for a in "bdgklmnprst" for b in "aeiou" for c in "lmnrst"])
PLANTED = {0: [3, 150], 2: [3], 4: [299]}  # item -> documents that hold it


def _text(seed: int, num_words: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, num_words))


ITEMS = [_text(seed, 30) for seed in range(5)]


def _texts() -> list[str]:
    texts = [_text(1000 + i, 80) for i in range(300)]
    for item, places in PLANTED.items():
        for place in places:
            texts[place] += f"\n\n{ITEMS[item].upper()}!\n\n{_text(2000 + place, 10)}"
    return texts


def _write_canonical(root: Path, texts: list[str], num_files: int = 3, source: str = "one") -> None:
    rows = [
        {
            "text": text,
            "id": f"id-{i:03}",
            "url": f"http://site-{i % 40}.example/{i}",
            "file_path": f"file-{i % 2}",
            "record_offset": i,
        }
        for i, text in enumerate(texts)
    ]
    table = pa.Table.from_pylist(rows, schema=CANONICAL)
    size = max(1, -(-len(rows) // num_files))
    files = [
        dataset_io.write_table(root / "canonical", table.slice(start, size))
        for start in range(0, max(1, len(rows)), size)
    ]
    made_from = {"source": source}
    manifest.write(root / "canonical", Manifest("canonical", "r", {}, made_from, tuple(files), {}))


def _write_sets(folder: Path) -> tuple[str, str]:
    rows = [{"question": text, "answers": ["no", "yes"]} for text in ITEMS] + [{"question": "Why?"}]
    folder.mkdir(exist_ok=True)
    (folder / "exam.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "notes.txt").write_text(_text(77, 40))
    return str(folder / "exam.jsonl"), str(folder / "notes.txt")


def _job(engine: Engine, root: Path, settings: Decontaminate) -> Job:
    chosen = Recipe(name="r", decontaminate=settings, shard=Shard(validation_fraction=0.3))
    return Job(chosen, root, engine)


def _rows(job: Job, dataset: str) -> list[dict]:
    paths = job.manifest(dataset).paths(job.folder(dataset))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize(("name", "num_files"), [("sail", 1), ("sail", 7), ("spark", 3)])
def test_planted_documents_are_found_with_their_sets_and_items(
    engines: Callable[[str], Engine], tmp_path: Path, name: str, num_files: int
) -> None:
    _write_canonical(tmp_path / "root", _texts(), num_files)
    job = _job(engines(name), tmp_path / "root", Decontaminate(_write_sets(tmp_path)))
    assert run_stage(decontaminate.STAGE, job)
    found = {row["id"]: row for row in _rows(job, "contamination")}
    assert {name: row["items"] for name, row in found.items()} == {
        "id-003": [0, 2], "id-150": [0], "id-299": [4]
    }  # fmt: skip
    runs = 30 - 13 + 1
    assert found["id-003"] == {
        "id": "id-003",
        "file_path": "file-1",
        "record_offset": 3,
        "url": "http://site-3.example/3",
        "set": "exam",
        "num_matches": 2 * runs,
        "items": [0, 2],
        "example": " ".join(ITEMS[0].split()[:13]),
        "action": "drop",
    }
    made = job.manifest("contamination")
    assert made.counts == {"contaminated": 3, "clean": 297}
    assert made.extra.sets == (
        SetCounts("exam", items=6, too_short=1, documents=3, found=3),
        SetCounts("notes", items=1, too_short=0, documents=0, found=0),
    )
    assert not list((job.root / ".work").rglob("*.npy"))
    left = {row["id"] for row in decontaminate.clean(job).toArrow().to_pylist()}
    assert left == {f"id-{i:03}" for i in range(300)} - found.keys()


def test_shards_leave_out_what_is_dropped_and_keep_what_is_flagged(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    engine = engines("sail")
    settings = Decontaminate(_write_sets(tmp_path))
    _write_canonical(tmp_path / "root", _texts())
    job = _job(engine, tmp_path / "root", settings)
    run_stage(shard.STAGE, job)
    before = {row["id"]: row["tokens"] for row in _rows(job, "shards")}
    assert len(before) == 300
    run_stage(decontaminate.STAGE, job)
    assert run_stage(shard.STAGE, job)
    after = {row["id"]: row["tokens"] for row in _rows(job, "shards")}
    assert before.keys() - after.keys() == {"id-003", "id-150", "id-299"}
    assert after.items() <= before.items()
    assert not run_stage(shard.STAGE, job)
    flagging = dataclasses.replace(settings, action="flag")
    job = dataclasses.replace(_job(engine, job.root, flagging), overwrite=True)
    run_stage(decontaminate.STAGE, job)
    assert run_stage(shard.STAGE, job)
    assert {row["id"]: row["tokens"] for row in _rows(job, "shards")} == before


def test_the_files_contents_decide_whether_there_is_work(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    _write_canonical(tmp_path / "root", _texts())
    job = _job(engines("sail"), tmp_path / "root", Decontaminate(_write_sets(tmp_path / "a")))
    assert run_stage(decontaminate.STAGE, job)
    assert not run_stage(decontaminate.STAGE, job)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    elsewhere = Decontaminate((str(tmp_path / "b" / "*"),))
    job = _job(engines("sail"), tmp_path / "root", elsewhere)
    assert not run_stage(decontaminate.STAGE, job)
    (tmp_path / "b" / "exam.jsonl").write_text(json.dumps(ITEMS[4]))
    assert run_stage(decontaminate.STAGE, job)
    assert [row["id"] for row in _rows(job, "contamination")] == ["id-299"]


def test_shards_are_not_made_by_what_was_found_in_another_canonical(
    engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    _write_canonical(tmp_path / "root", _texts())
    job = _job(engines("sail"), tmp_path / "root", Decontaminate(_write_sets(tmp_path)))
    run_stage(decontaminate.STAGE, job)
    _write_canonical(tmp_path / "root", _texts()[:200], source="another")
    with pytest.raises(UserError, match="contamination: was built from a different 'canonical'"):
        run_stage(shard.STAGE, job)
    run_stage(decontaminate.STAGE, job)
    assert run_stage(shard.STAGE, job)
    assert len(_rows(job, "shards")) == 198


def test_a_clean_or_an_empty_corpus_is_no_fault(engine: Engine, tmp_path: Path) -> None:
    for name, texts in (("clean", ["nothing of the kind"] * 2), ("empty", [])):
        _write_canonical(tmp_path / name, texts)
        job = _job(engine, tmp_path / name, Decontaminate(_write_sets(tmp_path)))
        assert run_stage(decontaminate.STAGE, job)
        assert job.manifest("contamination").counts == {"contaminated": 0, "clean": len(texts)}
        assert not _rows(job, "contamination")


def test_a_recipe_that_names_sets_leaves_their_texts_out_of_the_whole_road(
    engines: Callable[[str], Engine],
    sample_roots: dict[str, Path],
    sample_recipe: Recipe,
    sample_inputs: tuple[str, ...],
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    job = Job(sample_recipe, root, engines("sail"), sample_inputs)
    page = max(_rows(job, "canonical"), key=lambda row: len(row["text"]))
    middle = page["text"].split()[10:60]
    (tmp_path / "leaked.txt").write_text("A:\n" + "\n".join(middle))
    settings = Decontaminate((str(tmp_path / "leaked.txt"),))
    job = dataclasses.replace(
        job, recipe=dataclasses.replace(sample_recipe, decontaminate=settings)
    )
    assert pipeline.run(job) == 2  # decontaminate, shard
    before, after = report.funnel(sample_roots["sail"]), report.funnel(root)
    dropped = {row["id"] for row in _rows(job, "contamination")}
    assert page["id"] in dropped
    assert after.contaminated == after.outcomes["contaminated"] == len(dropped)
    assert after.outcomes["canonical"] + len(dropped) == before.outcomes["canonical"]
    assert after.records == sum(after.outcomes.values())
    assert not dropped & {row["id"] for row in _rows(job, "shards")}
    assert pipeline.run(job) == 0
    # Without the files in the recipe, what was found still holds.
    assert pipeline.run(dataclasses.replace(job, recipe=sample_recipe)) == 0


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["decontaminate", "--recipe", RECIPE, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("gristmill: error: ")
    assert "\n" not in error
    return error


def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    exam, _ = _write_sets(tmp_path)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"a": 1}\n{"b"')
    error = _refused(capsys, "--root", root)
    assert "decontaminate.against = []" in error
    assert "--against" in error
    assert "none.jsonl: no such file" in _refused(capsys, "--root", root, "--against", "none.jsonl")
    assert "bad.jsonl:2:" in _refused(capsys, "--root", root, "--against", str(bad))
    assert "ngram = 0" in _refused(capsys, "--root", root, "--against", exam, "--ngram", "0")
    assert not (tmp_path / "root").exists()
    assert "canonical" in _refused(capsys, "--root", root, "--against", exam)


def test_flags_stand_for_settings() -> None:
    given = argparse.Namespace(against=["a.jsonl", "b.txt"], ngram=10, flag=True)
    chosen = decontaminate.with_flags(Recipe(), given).decontaminate
    assert chosen == Decontaminate(("a.jsonl", "b.txt"), ngram=10, action="flag")
    none_given = argparse.Namespace(against=None, ngram=None, flag=False)
    assert decontaminate.with_flags(Recipe(), none_given) == Recipe()
