"""Whole runs, from the command line as a user starts them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.cli import main, parser, wait_without_spinning
from trainer.data.loader import Loader
from trainer.model import checkpoint
from trainer.train import step
from trainer.train.run import Run

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def arguments(recipe_file: Path, shards_folder: Path, tmp_path: Path) -> list[str]:
    """`trainer pretrain` into tmp_path/run."""
    flags = ["--recipe", recipe_file, "--shards", shards_folder, "--out", tmp_path / "run"]
    return ["pretrain", *map(str, flags), "--device", "cpu"]


Capture = pytest.CaptureFixture[str]


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_report_a_log_and_a_model_that_writes(
    arguments: list[str], tmp_path: Path, capsys: Capture
) -> None:
    assert main(arguments) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    steps = [line for line in log_of(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 9))
    assert report["tokens"] == 8 * 4 * 32
    assert report["dtype"] == "float32"
    assert report["train_loss_first"] == steps[0]["loss"]
    assert report["train_loss_last"] == steps[-1]["loss"]
    assert report["validation_loss_last"] < report["validation_loss_first"]
    assert report["validation_bits_per_byte"] < report["validation_bits_per_byte_first"]
    loaded = checkpoint.load(tmp_path / "run", torch.device("cpu"))
    assert report["parameters"] == loaded.model.num_parameters
    assert loaded.state["step"] == report["steps"] == 8
    assert "Trained" in capsys.readouterr().out
    sample = ["--prompt", "the", "--max-tokens", "5", "--temperature", "0", "--device", "cpu"]
    assert main(["sample", "--checkpoint", str(tmp_path / "run"), *sample]) == 0
    assert capsys.readouterr().out.startswith("the")


def test_evaluations_and_checkpoints_happen_when_the_recipe_says(
    arguments: list[str], recipe_file: Path, tmp_path: Path
) -> None:
    every = "[run]\neval_every = 3\nsample_every = 4\ncheckpoint_every = 5"
    recipe_file.write_text(recipe_file.read_text().replace("[run]", every))
    assert main(arguments) == 0
    log = log_of(tmp_path / "run")
    assert [line["step"] for line in log if "validation_loss" in line] == [0, 3, 6, 8]
    assert [line["step"] for line in log if "sample" in line] == [4, 8]
    folders = sorted(path.name for path in (tmp_path / "run").glob("step-*"))
    assert folders == ["step-000005", "step-000008"]


def test_the_same_run_again_does_nothing(
    arguments: list[str], tmp_path: Path, capsys: Capture
) -> None:
    assert main(arguments) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    capsys.readouterr()
    assert main(arguments) == 0
    assert "this run is finished; nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_a_run_of_other_settings_is_not_overwritten(
    arguments: list[str], tmp_path: Path, capsys: Capture
) -> None:
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--steps", "9"]) == 2
    assert capsys.readouterr().err == (
        f"trainer: error: {tmp_path / 'run'}: holds a finished run of other settings "
        "(settings.run.num_steps = 8, now 9); choose another --out\n"
    )


def test_a_run_that_was_killed_starts_again_and_ends_alike(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trainer.model.checkpoint.flush", die)
        assert main(arguments) == 130
    assert not (tmp_path / "run" / "report.json").exists()
    assert main(arguments) == 0
    assert "an unfinished run of the same settings" in capsys.readouterr().out
    again = [*arguments[:-4], "--out", str(tmp_path / "other"), "--device", "cpu"]
    assert main(again) == 0
    losses = [
        [line["loss"] for line in log_of(tmp_path / name) if "loss" in line]
        for name in ("run", "other")
    ]
    assert losses[0] == losses[1]


def test_settings_that_do_not_fit_the_shards_leave_no_run_behind(
    arguments: list[str], recipe_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace("seq_len = 32", "seq_len = 99999"))
    assert main(arguments) == 2
    assert "data.seq_len = 99999 needs at least 100000" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_attempt_that_diverged_can_be_made_again_with_other_settings(
    arguments: list[str], recipe_file: Path, capsys: Capture
) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(
        text.replace("learning_rate = 1e-2", "learning_rate = 1e3\nweight_decay = 1e3")
    )
    assert main(arguments) == 2
    assert "training diverged; lower optimizer.learning_rate" in capsys.readouterr().err
    recipe_file.write_text(text)
    assert main(arguments) == 0


def test_an_unfinished_run_is_kept_from_other_settings_once_it_has_a_checkpoint(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "trainer.train.run_folder.finish", lambda *_: (_ for _ in ()).throw(OSError("full"))
        )
        assert main(arguments) == 2
    capsys.readouterr()
    assert main([*arguments, "--steps", "9"]) == 2
    assert "holds an unfinished run of other settings" in capsys.readouterr().err


def test_a_folder_of_something_else_is_not_touched(
    arguments: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    assert main(arguments) == 2
    assert "not empty and no run of this trainer" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_dry_run_writes_nothing(arguments: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert main([*arguments, "--dry-run", "--steps", "50"]) == 0
    out = capsys.readouterr().out
    assert "6,400 in 50 steps" in out
    assert not (tmp_path / "run").exists()


def in_two_processes(arguments: list[str]) -> None:
    flags = ["--standalone", "--nproc-per-node", "2", "-m", "trainer"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *flags, *arguments],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_have_the_losses_of_one(
    arguments: list[str], recipe_file: Path, tmp_path: Path
) -> None:
    settings = "[run]\ndevice_batch_size = 1\neval_every = 4"
    recipe_file.write_text(recipe_file.read_text().replace("[run]", settings))
    assert main(arguments) == 0
    in_two_processes([*arguments[:-4], "--out", str(tmp_path / "two"), "--device", "cpu"])
    one, other = log_of(tmp_path / "run"), log_of(tmp_path / "two")
    assert len(one) == len(other) == 8 + 3 + 1
    for a, b in zip(one, other, strict=True):
        for name in ("loss", "grad_norm", "validation_loss", "validation_bits_per_byte"):
            assert b.get(name) == pytest.approx(a.get(name), abs=1e-6)
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["processes"] == 2


def test_uneven_masks_and_another_number_of_processes_on_resume_change_rounding_alone(
    arguments: list[str],
    recipe_file: Path,
    tmp_path: Path,
    write_corpus: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fine-tuning by one process, against one, then two, then one of them."""
    assert main(arguments) == 0
    text = recipe_file.read_text().replace("[run]", "[run]\ncheckpoint_every = 2")
    sft_file = tmp_path / "sft.toml"
    sft_file.write_text(text[text.index("[data]") :])
    chats = write_corpus(tmp_path / "chats", 60, 3, "conversations")
    flags = ["--recipe", sft_file, "--shards", chats, "--init-from", tmp_path / "run"]
    sft = ["sft", *map(str, flags), "--device", "cpu", "--out"]
    assert main([*sft, str(tmp_path / "one")]) == 0

    def stop_after(step: int) -> None:
        original = Run.save

        def save(run: Run, saved: int) -> None:
            original(run, saved)
            if saved == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Run, "save", save)
            assert main([*sft, str(tmp_path / "across"), "--resume"]) == 130

    stop_after(2)
    log = tmp_path / "across" / "log.jsonl"
    in_two_processes([*sft, str(tmp_path / "across"), "--resume"])
    assert len(log.read_text().splitlines()) == 8 + 2 + 1
    one, other = log_of(tmp_path / "one"), log_of(tmp_path / "across")
    for a, b in zip(one, other, strict=True):
        for name in ("loss", "grad_norm", "validation_loss"):
            assert b.get(name) == pytest.approx(a.get(name), abs=1e-6)


def test_sources_are_mixed_by_weight_and_their_epochs_reported(
    recipe_file: Path, tmp_path: Path, write_corpus: Callable[..., Path], capsys: Capture
) -> None:
    folders = [write_corpus(tmp_path / name, 60, seed) for seed, name in enumerate("ab")]
    sources = "".join(
        f'[[data.sources]]\nshards = "{folder}"\nweight = {weight}\nmax_epochs = 40\n'
        for folder, weight in zip(folders, (3.0, 1.0), strict=True)
    )
    recipe_file.write_text(recipe_file.read_text() + sources)
    command = ["pretrain", "--recipe", str(recipe_file), "--out", str(tmp_path / "run")]
    assert main([*command, "--device", "cpu"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    loaders = [Loader([folder], seq_len=32, rows=1) for folder in folders]
    expected = [24 / loaders[0].num_rows(), 8 / loaders[1].num_rows()]
    assert list(report["epochs"].values()) == pytest.approx(expected)
    assert list(report["epochs"]) == [str(folder) for folder in folders]
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["folders"] == [str(folder) for folder in folders]
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "long"), "--steps", "9999"]) == 2
    assert "max_epochs = 40: the run takes" in capsys.readouterr().err
    assert main([*command, "--shards", str(folders[0]), "--dry-run"]) == 2
    assert "both of --shards DIR and [[data.sources]]" in capsys.readouterr().err


def test_lost_steps_are_skipped_with_shard_and_row_and_too_many_end_the_run(
    arguments: list[str], recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:  # fmt: skip
    """Row 2 of steps 3 and 4, and of all from 6 on, has a loss of infinity."""
    original = step.row_losses

    def row_losses(training: Any, model: Any, micro_batch: Any) -> torch.Tensor:
        losses = original(training, model, micro_batch)
        lost = {tuple(training.loader.batch(n).inputs[2].tolist()) for n in (2, 3, 5, 6, 7)}
        rows = [tuple(row) in lost for row in micro_batch.inputs.tolist()]
        return losses + torch.where(torch.tensor(rows), torch.inf, 0.0)

    monkeypatch.setattr(step, "row_losses", row_losses)
    recipe_file.write_text(recipe_file.read_text().replace("[run]", "[run]\nmax_skipped_steps = 2"))
    assert main(arguments) == 2
    said = capsys.readouterr()
    named = r"row 2 \((train-\d+\.parquet), document ([\w-]+)\)"
    assert (
        len(re.findall(rf"step \d: loss inf, .* weights unchanged; {named}$", said.out, re.M)) == 4
    )
    assert re.search(rf"step 8: .*{named}: 3 such steps in a row .*lower optimizer", said.err)
    log = {line["step"]: line for line in log_of(tmp_path / "run") if "loss" in line}
    assert [n for n, line in log.items() if line["skipped"]] == [3, 4, 6, 7, 8]
    assert log[3]["loss"] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--init-from", "nowhere"], "nowhere: no checkpoint here"),
        (["--from-hf", "nowhere"], "nowhere/config.json: torn or missing"),
        (["--extend", "RUN"], "cannot be extended to run.num_steps = 8"),
    ],
)
def test_weights_that_cannot_be_taken_are_one_sentence(
    arguments: list[str], change: list[str], said: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(arguments) == 0
    flags = [str(tmp_path / "run") if flag == "RUN" else flag for flag in change]
    assert main([*arguments[:-4], *flags, "--out", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_conversations_with_nothing_to_learn_are_refused(
    arguments: list[str], recipe_file: Path, silent_chats: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(arguments) == 0
    text = recipe_file.read_text()
    recipe_file.write_text(text[text.index("[data]") :])
    flags = ["--recipe", recipe_file, "--shards", silent_chats, "--init-from", tmp_path / "run"]
    assert main(["sft", *map(str, flags), "--out", str(tmp_path / "sft")]) == 2
    error = capsys.readouterr().err
    assert "silent: 144 tokens in split 'train', none of them a target" in error
    assert not (tmp_path / "sft").exists()


def test_files_beside_the_shards_are_named_in_one_warning(
    arguments: list[str], own_shards: Path, tmp_path: Path, capsys: Capture
) -> None:
    for i in range(7):
        (own_shards / f"train-{i:05d}-0123456789abcdef.parquet").write_bytes(b"of a killed run")
    assert main([*arguments, "--shards", str(own_shards)]) == 0
    said = capsys.readouterr().out
    assert said.count("warning") == 1
    assert (
        f"warning: {own_shards}: not listed in manifest.json and not read: "
        "train-00000-0123456789abcdef.parquet, " in said
    )
    assert (
        "train-00004-0123456789abcdef.parquet and 2 more; left by an interrupted gristmill shard"
        in said
    )


def test_documents_are_no_conversations(
    arguments: list[str], recipe_file: Path, shards_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(arguments) == 0
    text = recipe_file.read_text()
    recipe_file.write_text(text[text.index("[data]") :])
    flags = ["--recipe", recipe_file, "--shards", shards_folder, "--out", tmp_path / "sft"]
    assert main(["sft", *map(str, flags), "--init-from", str(tmp_path / "run")]) == 2
    assert "holds documents, not conversations" in capsys.readouterr().err
    assert main(["sft", *map(str, flags)]) == 2
    assert "give --init-from RUN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--recipe", "nowhere.toml"], "nowhere.toml: no such recipe file"),
        (["--shards", "nowhere"], "nowhere: no shards here"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
    ],
)
def test_a_wrong_flag_is_one_sentence_and_exit_code_2(
    arguments: list[str], change: list[str], said: str, capsys: Capture
) -> None:
    assert main([*arguments, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"trainer: error: {said}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--temperature", "-1"], "temperature = -1.0: must be at least 0"),
        (["--top-p", "1.5"], "top_p = 1.5: must be above 0 and at most 1"),
        (["--seed", "-1"], "seed = -1: must be at least 0"),
        ([], "nowhere: no checkpoint here"),
    ],
)
def test_sample_says_what_is_wrong(flags: list[str], said: str, capsys: Capture) -> None:
    assert main(["sample", "--checkpoint", "nowhere", "--prompt", "", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_module_starts_from_the_command_line_without_a_traceback() -> None:
    command = [sys.executable, "-m", "trainer", "pretrain", "--recipe", "r", "--shards", "s"]
    done = subprocess.run([*command, "--out", "o"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("trainer: error: r: no such recipe file, nor one of gristmill")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_leave_the_core_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(before))
    wait_without_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == after


def test_torch_is_not_imported_before_the_threads_are_told() -> None:
    code = "import sys, trainer.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


def flags_of_all_commands() -> list[str]:
    commands: dict[str, Any] = parser()._subparsers._group_actions[0].choices  # type: ignore
    actions = [action for command in commands.values() for action in command._actions]
    return sorted({o for action in actions for o in action.option_strings if o.startswith("--")})


def written_pages() -> str:
    """The documentation that people write: all but what follows from the code."""
    pages = sorted((PROJECT / "docs").rglob("*.md"))
    return "".join(p.read_text(encoding="utf-8") for p in pages if p.parent.name != "generated")


@pytest.mark.parametrize("flag", flags_of_all_commands())
def test_every_flag_is_in_the_documentation(flag: str) -> None:
    text = written_pages()
    assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text)


@pytest.mark.parametrize("command", ["pretrain", "sft", "sample"])
def test_help_teaches_with_examples(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"trainer {command} --" in capsys.readouterr().out


def test_control_characters_that_a_model_writes_do_not_reach_the_terminal() -> None:
    from schemas.printing import printable

    assert (
        printable("a\x1b[2Jb\x07\x9b1m\r\tc\n")
        == "a\N{REPLACEMENT CHARACTER}[2Jb"
        + ("\N{REPLACEMENT CHARACTER}" * 2)
        + "1m\N{REPLACEMENT CHARACTER}\tc\n"
    )
