from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.durable import sha256
from trainer.model import checkpoint
from trainer.model.model import LanguageModel

CPU = torch.device("cpu")
FILES = ["model.safetensors", "config.json", "tokenizer.gristmill.json", "state.json"]
OPTIMIZER = {"model.norm.weight.step": torch.tensor(7.0)}


@pytest.fixture
def run(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    """A run with one checkpoint."""
    state = {"settings": {"a": 1}}
    checkpoint.save(tmp_path / "run", 7, model, tokenizer, state, OPTIMIZER)
    return tmp_path / "run"


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        checkpoint.load(path, CPU)
    return str(caught.value)


def test_a_loaded_model_has_the_logits_of_the_saved_one(run: Path, model: LanguageModel) -> None:
    tokens = torch.tensor([[268, 4, 5, 268, 6]])
    for path in (run, run / "step-000007"):
        loaded = checkpoint.load(path, CPU)
        assert loaded.model.config == model.config
        assert loaded.state["step"] == 7
        assert loaded.state["settings"] == {"a": 1}
        assert torch.equal(loaded.model(tokens), model(tokens))
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


def test_the_latest_of_several_is_loaded(
    run: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    checkpoint.save(run, 9, model, tokenizer, {})
    assert checkpoint.load(run, CPU).folder.name == "step-000009"
    assert checkpoint.load(run / "step-000007", CPU).state["step"] == 7


@pytest.mark.parametrize("name", FILES)
def test_a_torn_file_is_named(run: Path, name: str) -> None:
    path = run / "step-000007" / name
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in refusal(run)
    assert "torn" in refusal(run)


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_one_bit_changed_is_named(run: Path, name: str) -> None:
    path = run / "step-000007" / name
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    assert str(path) in refusal(run)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / "step-000007" / name).unlink()
    assert str(run / "step-000007" / name) in refusal(run)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path}: no checkpoint here" in refusal(tmp_path)


def test_a_pointer_cannot_lead_out_of_the_run(run: Path) -> None:
    shutil.copytree(run / "step-000007", run.parent / "elsewhere")
    pointer = json.loads((run / "latest").read_text())
    (run / "latest").write_text(json.dumps({**pointer, "folder": "../elsewhere"}))
    assert "not a pointer to a checkpoint" in refusal(run)


def test_the_tokenizer_of_another_model_is_refused(run: Path) -> None:
    """Even with a state.json that lists its size and SHA-256."""
    folder = run / "step-000007"
    other = tokenizers.from_tokens("other", [bytes([b]) for b in range(256)] + [b"zz"])
    other.save(folder / "tokenizer.gristmill.json")
    state = json.loads((folder / "state.json").read_text())
    data = (folder / "tokenizer.gristmill.json").read_bytes()
    state["files"]["tokenizer.gristmill.json"] = {
        "bytes": len(data),
        "sha256": sha256(folder / "tokenizer.gristmill.json"),
    }
    (folder / "state.json").write_text(json.dumps(state))
    message = refusal(folder)
    assert other.hash[:12] in message
    assert "the model was trained with" in message


@pytest.mark.parametrize("step", ["_fill", "flush", "sha256", "point"])
def test_a_save_that_dies_leaves_the_checkpoint_before_it(
    run: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, step, die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(run, 8, model, tokenizer, {})
    monkeypatch.undo()
    assert checkpoint.load(run, CPU).state["step"] == 7
    assert not list(run.glob(".*.tmp"))


def test_a_config_without_a_key_names_it(run: Path) -> None:
    values = json.loads((run / "step-000007" / "config.json").read_text())
    del values["head_dim"]
    with pytest.raises(UserError, match=r"config.json: .*'head_dim' is missing"):
        checkpoint.config_from_json(values, "config.json")


def test_nothing_is_pickled(run: Path) -> None:
    names = {path.name for path in (run / "step-000007").iterdir()}
    assert names == {*FILES, checkpoint.OPTIMIZER_FILE}
    header = (run / "step-000007" / "model.safetensors").read_bytes()[8:9]
    assert header == b"{"


def test_a_folder_that_latest_may_name_is_never_replaced(
    run: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    old = run / "step-000007"
    before = old.stat().st_ino
    state = {"settings": {"a": 1}}
    assert checkpoint.save(run, 7, model, tokenizer, state, OPTIMIZER) == old
    assert old.stat().st_ino == before
    other = checkpoint.save(run, 7, model, tokenizer, {"settings": {"a": 2}})
    assert other.name == "step-000007-again"
    assert checkpoint.load(run, CPU).state["settings"] == {"a": 2}
    assert checkpoint.load(old, CPU).state["settings"] == {"a": 1}


def test_a_torn_checkpoint_of_the_same_step_is_not_taken_for_the_new_one(
    run: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    path = run / "step-000007" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    checkpoint.save(run, 7, model, tokenizer, {"settings": {"a": 1}})
    assert checkpoint.load(run, CPU).state["step"] == 7


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_a_checkpoint_and_has_its_logits(
    tmp_path: Path,
    model: LanguageModel,
    untied_model: LanguageModel,
    tokenizer: Tokenizer,
    tied: bool,
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers, an outside peer")
    ours = model if tied else untied_model
    folder = checkpoint.save(tmp_path, 1, ours, tokenizer, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.tensor([[tokenizer.boundary, 4, 5, 200, 6, 6, 9, 31]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("damage", ["torn", "altered", "gone"])
def test_an_optimizer_state_that_is_not_whole_is_named(run: Path, damage: str) -> None:
    folder, state = checkpoint.find(run)
    assert checkpoint.load_optimizer(folder, state) == OPTIMIZER
    path = folder / checkpoint.OPTIMIZER_FILE
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "torn" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=checkpoint.OPTIMIZER_FILE):
        checkpoint.load_optimizer(folder, state)


def test_a_checkpoint_of_a_newer_format_is_refused(run: Path) -> None:
    path = run / "step-000007" / "state.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    assert f"{path}: checkpoint of format 3, this version reads format 2" in refusal(
        run / "step-000007"
    )


def test_a_full_disk_is_one_sentence_and_what_was_saved_is_untouched(
    run: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    """A file size limit simulates the full disk, in a child because it can't be lifted."""
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            checkpoint.save(run, 8, model, tokenizer, {})
        except UserError as error:
            said = f"{run}: checkpoint of step 8 could not be written"
            os._exit(0 if str(error).startswith(said) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
