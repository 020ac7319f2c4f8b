"""A run's folder: what is deleted in it, who may write to it, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.cli import main
from trainer.data import epoch_plan
from trainer.data.loader import Loader
from trainer.data.shards import open_shards
from trainer.model import checkpoint
from trainer.model.model import LanguageModel
from trainer.train import run_folder

from .conftest import write_shards

Capture = pytest.CaptureFixture[str]
CPU = torch.device("cpu")


@pytest.fixture
def arguments(recipe_file: Path, shards_folder: Path, tmp_path: Path) -> list[str]:
    """A run of 8 steps with a checkpoint every 2, of which 1 is kept."""
    text = recipe_file.read_text()
    settings = "[run]\ncheckpoint_every = 2\nkeep_checkpoints = 1"
    recipe_file.write_text(text.replace("[run]", settings))
    flags = ["--recipe", str(recipe_file), "--shards", str(shards_folder)]
    return ["pretrain", *flags, "--device", "cpu", "--out", str(tmp_path / "run")]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def run(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    """A run with checkpoints of steps 1 to 3."""
    for step in (1, 2, 3):
        checkpoint.save(tmp_path / "run", step, model, tokenizer, {})
    return tmp_path / "run"


def test_pruning_leaves_what_the_trainer_did_not_write(run: Path, tmp_path: Path) -> None:
    """Notes in a step folder, files that look temporary, and links to folders elsewhere."""
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "thesis.docx").write_bytes(b"years of work")
    shutil.copy(run / "step-000001" / "model.safetensors", documents)
    (run / "step-000001" / "notes.txt").write_text("the best one")
    for name in (".mine.tmp", ".removed-mine", ".latest.tmp", ".step-000001.tmp", "step-00000X"):
        (run / name).write_text("mine")
    (run / ".cache.tmp").mkdir()
    (run / ".cache.tmp" / "thesis.docx").write_bytes(b"years of work")
    (run / "step-000000").symlink_to(documents)
    (run / f".step-000009.{'a' * 32}.tmp").symlink_to(documents)
    (run / ".removed-step-000009").symlink_to(documents)
    (run / "step-0000001").mkdir()
    (run / "step-0000001" / "model.safetensors").symlink_to(documents / "thesis.docx")
    kept = contents(run)
    checkpoint.prune(run, 1)
    gone = {name for name in kept if name.startswith("step-000002/")}
    assert len(gone) == len(checkpoint.FILES)
    assert contents(run) == {name: data for name, data in kept.items() if name not in gone}
    assert (documents / "thesis.docx").read_bytes() == b"years of work"
    assert (documents / "model.safetensors").exists()
    assert (run / "step-000000").is_symlink()


def test_what_killed_processes_left_is_removed(run: Path) -> None:
    kept = contents(run)
    for name in (f".step-000004.{'b' * 32}.tmp", ".removed-step-000001-again"):
        (run / name).mkdir()
        (run / name / "model.safetensors").write_bytes(b"half")
    for name in ("latest", "best", "run.json", "log.jsonl", "loss.png", "report.json"):
        (run / f".{name}.{'0' * 32}.tmp").write_text("half")
    checkpoint.prune(run, 0)
    assert contents(run) == kept
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("folder", ["..", ".", "", "/", "../run", "step-000003/..", "elsewhere"])
def test_a_pointer_names_a_step_folder_of_its_run(run: Path, folder: str) -> None:
    pointer = json.loads((run / "latest").read_text())
    shutil.copytree(run / "step-000003", run, dirs_exist_ok=True)
    for name in checkpoint.FILES:
        shutil.move(run / name, run.parent / name)
    (run / "latest").write_text(json.dumps({**pointer, "folder": folder}))
    with pytest.raises(UserError, match="latest: not a pointer to a checkpoint"):
        checkpoint.load(run, CPU)


def test_a_step_folder_that_is_a_link_is_not_followed(run: Path) -> None:
    (run / "step-000003").rename(run.parent / "elsewhere")
    (run / "step-000003").symlink_to(run.parent / "elsewhere")
    with pytest.raises(UserError, match="step-000003: a symbolic link, not followed"):
        checkpoint.load(run, CPU)


@pytest.mark.parametrize("value", [None, "7", -1, 7.0, True, [7]])
def test_a_state_whose_step_is_no_step_is_refused(run: Path, value: object) -> None:
    path = run / "step-000003" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "step": value}))
    with pytest.raises(UserError, match=r"state\.json: not the state of a checkpoint: step = "):
        checkpoint.load(run / "step-000003", CPU)


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.docx": "years"},
        {"run.json": '{"task": "thesis"}', "log.jsonl": "mine\n"},
        {"run.json": '{"identity": "mine"}', "log.jsonl": "mine\n"},
        {"run.json": "[]", "step-000002/notes.txt": "mine"},
        {"run.json": "{" * 100_000, "report.json": "mine"},
        {"log.jsonl": "mine\n", "latest": "mine", "step-000002/model.safetensors": "mine"},
    ],
)
@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_a_folder_of_somebody_else_is_refused_and_untouched(
    arguments: list[str], tmp_path: Path, files: dict[str, str], flags: list[str], capsys: Capture
) -> None:
    for name, text in files.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(text)
    before = contents(tmp_path / "run")
    assert main([*arguments, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"trainer: error: {tmp_path / 'run'}")
    assert error.count("\n") == 1
    assert contents(tmp_path / "run") == before


def test_what_a_user_puts_beside_and_into_checkpoints_stays(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files put there while the run is on, of which only one checkpoint is kept."""
    folder, save = tmp_path / "run", checkpoint.save
    own = {"notes.txt", ".mine.tmp", "step-000002/notes.txt", "step-000004/sub/notes.txt"}

    def save_beside(run: Path, step: int, *rest: Any) -> Path:
        made = save(run, step, *rest)
        for name in own:
            if (folder / name).parent.exists() or ("sub" in name and step == 4):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text("mine")
        return made

    monkeypatch.setattr(checkpoint, "save", save_beside)
    assert main(arguments) == 0
    assert own < contents(folder).keys()
    assert not (folder / "step-000006").exists()
    assert checkpoint.load(folder, CPU).state["step"] == 8


def test_a_second_trainer_is_kept_out_of_a_run(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    codes: list[int] = []
    original = checkpoint.save

    def save(*rest: Any) -> Path:
        codes.append(main([*arguments, "--resume"]))
        return original(*rest)

    monkeypatch.setattr(checkpoint, "save", save)
    assert main(arguments) == 0
    assert codes == [2] * 4
    error = capsys.readouterr().err.splitlines()
    assert error == [
        f"trainer: error: --out {tmp_path / 'run'}: another trainer is writing to it"
    ] * 4  # fmt: skip
    monkeypatch.undo()
    assert main(arguments) == 0  # the lock goes with the run


def test_a_lock_that_a_file_system_does_not_have_stops_no_run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    assert main(arguments) == 0


@pytest.mark.parametrize("out", ["file", "file/run", "loop"])
def test_an_out_that_can_be_no_folder_is_one_sentence(
    arguments: list[str], tmp_path: Path, out: str, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    assert main([*arguments[:-1], str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert "trainer: error: --out " in error
    assert error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("at", ["mkdir", "open"])
def test_an_out_that_cannot_be_written_to_is_one_sentence(
    arguments: list[str],
    tmp_path: Path,
    number: int,
    at: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    (tmp_path / "run").mkdir()

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    if at == "mkdir":
        monkeypatch.setattr(run_folder.os, "open", refuse)
    else:
        monkeypatch.setattr(run_folder, "write_json", refuse)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'run'}" in error
    assert os.strerror(number) in error
    assert "the disk at " in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "run").iterdir())


def test_a_checkpoint_of_another_run_is_refused(
    arguments: list[str], tmp_path: Path, recipe_file: Path, capsys: Capture
) -> None:
    """`run.json` is of this run, what `latest` names of one with another learning rate."""
    assert main(arguments) == 0
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace("learning_rate = 1e-2", "learning_rate = 2e-2"))
    other = [*arguments[:-1], str(tmp_path / "other")]
    assert main(other) == 0
    shutil.rmtree(tmp_path / "run" / "step-000008")
    shutil.copytree(tmp_path / "other" / "step-000008", tmp_path / "run" / "step-000008")
    shutil.copy(tmp_path / "other" / "latest", tmp_path / "run" / "latest")
    (tmp_path / "run" / "report.json").unlink()
    recipe_file.write_text(text)
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 2
    changed = "settings.optimizer.learning_rate = 0.02, now 0.01"
    assert f"step-000008: of a run of other settings ({changed})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("\0\0", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "no step"),
        ('{"step": "2"}', "no step"),
    ],
)
def test_a_line_of_a_log_that_makes_no_sense_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n' + line)
    assert run_folder.read_log(tmp_path) == [{"step": 1}]  # torn by a kill or a full disk
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"log\.jsonl:2: .*{said}"):
        run_folder.read_log(tmp_path)


def test_a_plan_that_is_not_whole_is_built_again_and_nothing_else_is_removed(
    tmp_path: Path, write_corpus: Callable[..., Path]
) -> None:
    shards, cache = write_corpus(tmp_path / "shards", 60), tmp_path / "cache"

    def batch() -> Any:
        return Loader([shards], seq_len=32, rows=8, cache=cache).batch(0).inputs

    right = batch()
    (folder,) = cache.iterdir()
    (folder / "windows.npy").write_bytes(b"half")
    assert (batch() == right).all()
    (folder / "windows.npy").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="the plan cannot be kept here"):
        batch()
    assert (folder / "notes.txt").read_text() == "mine"
    shutil.rmtree(folder)
    assert (batch() == right).all()


@pytest.mark.parametrize("name", ["../../thesis.npy", "/etc/hostname", "windows.npy"])
def test_a_plan_names_no_files_of_its_own(
    tmp_path: Path, write_corpus: Callable[..., Path], name: str
) -> None:
    shards, cache = write_corpus(tmp_path / "shards", 60), tmp_path / "cache"
    Loader([shards], seq_len=32, rows=8, cache=cache).batch(0)
    (told,) = cache.glob("*/plan.json")
    told.write_text(json.dumps({"bytes": {name: 1}, "sha256": {name: "x"}}))
    assert epoch_plan._load(told.parent) is None


# Resuming with other settings.

CHANGES = {
    "settings.model.head_dim": ("head_dim = 8", "head_dim = 16", 8, 16),
    "settings.model.rope_theta": ("[model]", "[model]\nrope_theta = 5e3", 10000.0, 5000.0),
    "settings.model.document_mask": ("[model]", "[model]\ndocument_mask = false", True, False),
    "settings.optimizer.learning_rate": ("= 1e-2", "= 2e-2", 0.01, 0.02),
    "settings.optimizer.kind": ("[optimizer]", '[optimizer]\nkind = "muon"', "adamw", "muon"),
    "settings.optimizer.max_grad_norm": ("[optimizer]", "[optimizer]\nmax_grad_norm = 2", 1.0, 2.0),
    "settings.schedule.kind": ("[schedule]", '[schedule]\nkind = "wsd"', "cosine", "wsd"),
    "settings.schedule.warmup_steps": ("warmup_steps = 2", "warmup_steps = 3", 2, 3),
    "settings.run.num_steps": ("num_steps = 8", "num_steps = 9", 8, 9),
    "settings.run.seed": ("[run]", "[run]\nseed = 1", 0, 1),
    "data.seq_len": ("seq_len = 32", "seq_len = 16", 32, 16),
    "data.rows": ("batch_size = 4", "batch_size = 8", 4, 8),
    "data.seed": ("[data]", "[data]\nseed = 1", 0, 1),
    "data.packing": ("[data]", '[data]\npacking = "best_fit"', "concat", "best_fit"),
}


@pytest.fixture
def unfinished(arguments: list[str], tmp_path: Path, recipe_file: Path) -> list[str]:
    """Arguments of a run that has its checkpoints of steps 2 to 8 and no report."""
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace("keep_checkpoints = 1", "keep_checkpoints = 0"))
    assert main(arguments) == 0
    (tmp_path / "run" / "report.json").unlink()
    checkpoint.point(tmp_path / "run", "latest", tmp_path / "run" / "step-000004")
    return [*arguments, "--resume"]


def test_a_resumed_run_names_the_setting_that_differs_with_both_values(
    unfinished: list[str], recipe_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    text, before = recipe_file.read_text(), contents(tmp_path / "run")
    capsys.readouterr()
    for name, (old, new, was, now) in CHANGES.items():
        assert text.count(old) == 1
        recipe_file.write_text(text.replace(old, new))
        assert main(unfinished) == 2, name
        error = capsys.readouterr().err
        assert (
            f"run: holds an unfinished run of other settings ({name} = {was}, now {now})" in error
        )
    assert contents(tmp_path / "run") == before
    recipe_file.write_text(text)
    assert main(unfinished) == 0


def test_a_resumed_run_names_other_shards_and_another_tokenizer(
    unfinished: list[str],
    shards_folder: Path,
    tmp_path: Path,
    write_corpus: Callable[..., Path],
    capsys: Capture,
) -> None:
    before = contents(tmp_path / "run")
    here = open_shards(shards_folder)
    other = open_shards(write_corpus(tmp_path / "other", 60, 9))
    tokens = [bytes([b]) for b in range(256)] + [b"zz"]
    texts = ["zz top"] * 60
    strange = open_shards(
        write_shards(tmp_path / "strange", texts, tokenizers.from_tokens("other", tokens))
    )
    capsys.readouterr()
    for shards in (other, strange):
        assert main([*unfinished, "--shards", str(shards.folder)]) == 2
        error = capsys.readouterr().err
        assert f"content_hash = {here.content_hash}, now {shards.content_hash}" in error
    assert f"tokenizer = {here.tokenizer.hash}, now {strange.tokenizer.hash}" in error
    assert contents(tmp_path / "run") == before


def test_what_decides_no_number_may_change_when_a_run_is_resumed(
    unfinished: list[str], recipe_file: Path, shards_folder: Path, tmp_path: Path
) -> None:
    whole = contents(tmp_path / "run" / "step-000008")["model.safetensors"]
    text = recipe_file.read_text()
    settings = "[run]\nlog_every = 1\neval_every = 1\neval_rows = 2\nmax_skipped_steps = 0\n"
    text = text.replace("[run]", settings).replace("max_tokens = 12", "max_tokens = 3")
    recipe_file.write_text(text.replace("checkpoint_every = 2", "checkpoint_every = 3"))
    copy = shutil.copytree(shards_folder, tmp_path / "moved")
    assert main([*unfinished, "--shards", str(copy)]) == 0
    folder, _ = checkpoint.find(tmp_path / "run")
    assert contents(folder)["model.safetensors"] == whole
