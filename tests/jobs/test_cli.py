"""Bad input: one clear sentence that names what and where, exit code 2, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli, pipeline
from jobs.engine.stage import UnbalancedError, balance

PROJECT = Path(__file__).parents[2]
SAMPLE = str(PROJECT / "samples" / "SAMPLE-00000.warc.gz")
RECIPE = str(PROJECT / "recipes" / "sample.toml")


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("gristmill: error: ")
    assert "Traceback" not in error
    assert "\n" not in error
    return error


def _run(root: Path, *inputs: str, recipe: str = RECIPE) -> list[str]:
    return ["run", "--recipe", recipe, "--root", str(root), "--input", *inputs]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("missing.warc.gz", "missing.warc.gz: no such file"),
        ("none-*.warc.gz", "none-*.warc.gz: no file matches"),
        ("s3://bucket/x.warc.gz", "s3://bucket/x.warc.gz"),
        (".", "is a folder"),
    ],
)
def test_input_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, given: str, named: str
) -> None:
    assert named in _refused(capsys, *_run(tmp_path / "root", given))
    assert not (tmp_path / "root").exists()


def test_a_file_that_is_no_warc_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html>not an archive</html>")
    error = _refused(capsys, *_run(tmp_path / "root", str(page)))
    assert "page.html: is not a WARC file" in error


def test_an_empty_list_of_paths_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "warc.paths").write_text("\n")
    error = _refused(capsys, *_run(tmp_path / "root", str(tmp_path / "warc.paths")))
    assert "warc.paths: lists no file" in error


def test_two_inputs_of_one_name_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copy(SAMPLE, tmp_path)
    error = _refused(capsys, *_run(tmp_path / "root", SAMPLE, str(tmp_path / Path(SAMPLE).name)))
    assert "SAMPLE-00000.warc.gz" in error
    assert "rename one" in error


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[gopher_quality]\nmin_wrods = 3", "gopher_quality.min_wrods"),
        ("[gopher_quality]\nmin_words = 'many'", "gopher_quality.min_words = 'many'"),
        ("filters = ['gopher']", "filters = 'gopher'"),
        ("[extract]\nengine = 'lynx'", "extract.engine = 'lynx'"),
        ("[survivor]\nkeep = 'best'", "survivor.keep = 'best'"),
        ("[shard]\nvalidation_fraction = 2.0", "shard.validation_fraction = 2.0"),
        ("[tokenizer]\nname = 'cl200k'", "cl200k"),
        ("=", "not a readable TOML file"),
    ],
)
def test_a_bad_recipe_is_named_with_file_key_and_value(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    error = _refused(capsys, *_run(tmp_path / "root", SAMPLE, recipe=str(tmp_path / "bad.toml")))
    assert named in error
    assert "bad.toml" in error


def test_a_missing_recipe_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no.toml: no such recipe" in _refused(capsys, *_run(tmp_path, SAMPLE, recipe="no.toml"))


@pytest.mark.parametrize(
    "setting", ['extract]\nlanguage_model = "not-here"', 'url]\ndomains = ["not-here"]']
)
def test_a_file_that_the_recipe_names_and_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: str
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"[{setting}\n")
    error = _refused(capsys, *_run(tmp_path / "root", SAMPLE, recipe=str(recipe)))
    assert "not-here" in error


def test_a_classifier_that_is_not_there_is_named_before_any_page_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('filters = ["quality_classifier"]\n[quality_classifier]\nmodel = "no.bin"\n')
    error = _refused(capsys, *_run(tmp_path / "root", SAMPLE, recipe=str(recipe)))
    assert "no.bin" in error
    assert not (tmp_path / "root" / "documents").exists()


def test_both_engines_at_once_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [*_run(tmp_path / "r", SAMPLE), "--master", "local", "--remote", "sc://h"]
    assert "give only one of them" in _refused(capsys, *arguments)


@pytest.mark.parametrize("remote", ["http://host", "sc://127.0.0.1:9"])
def test_a_service_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, remote: str
) -> None:
    assert remote in _refused(capsys, *_run(tmp_path / "r", SAMPLE), "--remote", remote)


def test_spark_without_java_says_what_is_needed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    error = _refused(capsys, *_run(tmp_path / "r", SAMPLE), "--master", "local[2]")
    assert "Java 17" in error


def test_a_root_without_a_run_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert str(tmp_path) in _refused(capsys, "report", "--root", str(tmp_path))


def test_a_root_of_another_recipe_is_refused_and_left_as_it_was(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sample_roots: dict[str, Path]
) -> None:
    root = tmp_path / "root"
    shutil.copytree(sample_roots["sail"], root)
    other = tmp_path / "other.toml"
    other.write_text(Path(RECIPE).read_text() + "\n[gopher_repetition]\nmax_dup_line_frac = 0.5\n")
    text = other.read_text()
    assert text.count("[gopher_repetition]") == 1
    other.write_text(
        text.split("[gopher_repetition]")[0].replace("min_score = 0.65", "min_score = 0.7")
    )
    before = {path: path.read_bytes() for path in root.rglob("*.json")}
    error = _refused(capsys, *_run(root, SAMPLE, recipe=str(other)))
    for word in (str(root / "judged"), "'sample'", "language.min_score = 0.65 there, 0.7 here"):
        assert word in error
    assert {path: path.read_bytes() for path in root.rglob("*.json")} == before


def test_a_stage_before_its_input_says_which_stage_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = _refused(capsys, "dedup", "--recipe", RECIPE, "--root", str(tmp_path / "r"))
    assert "'judged'" in error


def test_a_locked_root_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from jobs.engine.roots import locked

    with locked(tmp_path):
        assert "another run" in _refused(capsys, *_run(tmp_path, SAMPLE))


def test_books_that_do_not_balance_end_the_command_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    balance("stage", "records", 3, 3)
    with pytest.raises(UnbalancedError, match="3 accounted for"):
        balance("stage", "records", 4, 3)

    def lose_a_record(*_: object) -> int:
        raise UnbalancedError("extract: 4 records read, 3 accounted for")

    monkeypatch.setattr(pipeline, "run", lose_a_record)
    assert cli.main(_run(tmp_path / "r", SAMPLE)) == 1
    assert "3 accounted for" in capsys.readouterr().err


def test_report_prints_json_and_writes_a_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sample_roots: dict[str, Path]
) -> None:
    import json

    page = tmp_path / "funnel.html"
    root = str(sample_roots["sail"])
    assert cli.main(["report", "--root", root, "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    needed = "records outcomes documents rejected kept duplicates canonical shards tokens"
    assert set(needed.split()) <= set(found)
    assert found["records"] == sum(found["outcomes"].values())
    html = page.read_text()
    assert "<script" not in html
    assert f"{found['tokens']:,}" in html


def test_spark_submit_is_the_same_thing(
    java: None, tmp_path: Path, sample_roots: dict[str, Path]
) -> None:
    home = Path(__import__("pyspark").__file__).parent
    command = [str(home / "bin" / "spark-submit"), "--master", "local[2]", "jobs/submit.py"]
    command += [
        "run",
        "--recipe",
        RECIPE,
        "--input",
        "samples/*.warc.gz",
        "--root",
        str(tmp_path / "r"),
    ]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Sessions of the tests themselves leave their marks in the environment.
    clean = {name: value for name, value in os.environ.items() if "SPARK" not in name}
    environment = {**clean, "PYSPARK_PYTHON": sys.executable, "PATH": path}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    written = {p.name: p.read_bytes() for p in (tmp_path / "r" / "shards").glob("*.parquet")}
    expected = (sample_roots["sail"] / "shards").glob("*.parquet")
    assert written == {p.name: p.read_bytes() for p in expected}


def test_the_schema_of_recipes_and_the_recipes_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["minhash"] == {"$ref": "#/$defs/MinHash"}
    bands = schema["$defs"]["MinHash"]["properties"]["bands"]
    assert (bands["default"], bands["minimum"], bands["maximum"]) == (14, 1, 16384)
    assert cli.main(["recipe", "show", "fineweb"]) == 0
    assert capsys.readouterr().out == (PROJECT / "recipes" / "fineweb.toml").read_text()
    assert "give the name of a recipe" in _refused(capsys, "recipe", "show")
