"""`trainer eval` as a user types it."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas import manifest as manifests
from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.commands import evaluate as eval_command
from trainer.data.loader import Loader
from trainer.distributed import Ranks
from trainer.evaluate.loss import bytes_of_tokens, validate
from trainer.model import checkpoint
from trainer.model.model import LanguageModel

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    """A run with a checkpoint of step 7."""
    checkpoint.save(tmp_path / "run", 7, model, tokenizer, {"kind": "pretrain"})
    return tmp_path / "run"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    row = {"query": "Question: Why?", "choices": ["cat", "the dog"], "gold": 1}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 8)
    return tmp_path / "rows.jsonl"


def evaluate(run: Path, *flags: object) -> None:
    parser = argparse.ArgumentParser()
    eval_command.add_parser(parser.add_subparsers())
    words = ["eval", "--checkpoint", run, "--device", "cpu", *flags]
    arguments = parser.parse_args([str(word) for word in words])
    arguments.run(arguments)


def printed(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def test_shards_are_measured_as_validation_measures_them(
    run: Path, shards_folder: Path, model: LanguageModel, tokenizer: Tokenizer, capsys: Capture
) -> None:
    evaluate(run, "--shards", shards_folder, "--json")
    found = printed(capsys)
    loader = Loader([shards_folder], seq_len=32, rows=8, packing="best_fit", split="validation")
    sizes, alone = bytes_of_tokens(tokenizer), Ranks(torch.device("cpu"))
    expected = validate(model, loader, sizes, alone, torch.float32)
    assert found["loss"] == expected.loss
    assert found["bits_per_byte"] == expected.bits_per_byte
    assert (found["targets"], found["text_bytes"]) == (expected.targets, expected.text_bytes)
    assert (found["step"], found["dtype"]) == (7, "float32")
    assert "domains" not in found
    evaluate(run, "--shards", shards_folder)
    shown = capsys.readouterr().out
    assert f"{expected.loss:.4f} nats per token, {expected.targets:,} targets" in shown
    assert f"{expected.bits_per_byte:.4f}, {expected.text_bytes:,} bytes of text" in shown


def test_all_bytes_of_held_out_text_are_measured(
    run: Path, shards_folder: Path, capsys: Capture
) -> None:
    evaluate(run, "--shards", shards_folder, "--json")
    manifest = manifests.read(shards_folder)
    assert manifest is not None
    assert printed(capsys)["text_bytes"] == manifest.extra.text_bytes["validation"]


def test_domains_stand_in_a_table_and_all_of_them_in_json(
    run: Path, shards_folder: Path, capsys: Capture
) -> None:
    evaluate(run, "--shards", shards_folder, "--by", "domain", "--json")
    found = printed(capsys)
    assert sum(domain["text_bytes"] for domain in found["domains"]) == found["text_bytes"]
    evaluate(run, "--shards", shards_folder, "--by", "domain")
    shown = capsys.readouterr().out
    assert "domain       documents" in shown
    first = found["domains"][0]
    assert f"{first['domain']}  " in shown
    assert f"{first['bits_per_byte']:.4f}" in shown


def test_only_the_domains_with_most_text_are_shown(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, shards_folder: Path
) -> None:
    monkeypatch.setattr(eval_command, "SHOWN_DOMAINS", 0)
    evaluate(run, "--shards", shards_folder, "--by", "domain")
    assert "domains with less text; --json prints all of them" in capsys.readouterr().out


def test_a_task_stands_beside_chance_and_standard_error(
    run: Path, questions: Path, capsys: Capture
) -> None:
    evaluate(run, "--task", "arc_easy", "--data", questions, "--json")
    found = printed(capsys)
    assert (found["task"], found["examples"], found["data"]) == ("arc_easy", 8, str(questions))
    assert set(found["metrics"]) == {"acc", "acc_norm"}
    for metric in found["metrics"].values():
        assert metric["chance"] == 0.5
        score = metric["score"]
        assert metric["stderr"] == pytest.approx(math.sqrt(score * (1 - score) / 8))
    evaluate(run, "--task", "arc_easy", "--data", questions, "--max-examples", 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("arc_easy, 3 examples:")
    assert [line.split()[0] for line in lines[3:]] == ["acc", "acc_norm"]


def test_what_the_model_cannot_read_whole_is_said(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    row = {"text": "the cat sat on the mat and " * 20 + "ran"}
    (tmp_path / "long.jsonl").write_text(f"{json.dumps(row)}\n")
    evaluate(run, "--task", "lambada", "--data", tmp_path / "long.jsonl")
    shown = capsys.readouterr().out
    assert "truncated at the start to the context of 32 tokens: 1 examples" in shown
    assert "perplexity" in shown


def test_a_model_that_diverged_is_told_in_json_that_can_be_read(
    run: Path, tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer, capsys: Capture
) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    checkpoint.save(tmp_path / "lost", 1, model, tokenizer, {})
    (tmp_path / "rows.jsonl").write_text('{"text": "the cat sat on the mat"}\n')
    evaluate(tmp_path / "lost", "--task", "lambada", "--data", tmp_path / "rows.jsonl", "--json")
    assert printed(capsys)["metrics"]["perplexity"]["score"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --shards DIR .held-out text. or --task NAME .questions."),
        (["--task", "piqa"], "--task needs --data FILE"),
        (["--data", "x.jsonl"], "give --shards DIR"),
        (["--shards", "x", "--data", "x.jsonl"], "--data needs --task NAME"),
        (["--task", "piqa", "--data", "x", "--by", "domain"], "--by domain: needs --shards DIR"),
        (["--shards", "x", "--max-rows", "-1"], "--max-rows -1: must be at least 0"),
        (["--shards", "x", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
    ],
)
def test_flags_that_do_not_go_together_are_named(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(tmp_path, *flags)


def test_shards_of_another_tokenizer_are_refused(
    tmp_path: Path, shards_folder: Path, model: LanguageModel
) -> None:
    other = tokenizers.from_tokens("other", [bytes([b]) for b in range(256)])
    config = checkpoint.config_to_json(model.config)
    config |= {"vocab_size": other.padded_vocab_size, "bos_token_id": other.boundary}
    small = LanguageModel(checkpoint.config_from_json(config, "test"))
    checkpoint.save(tmp_path / "other", 1, small, other, {})
    with pytest.raises(UserError, match=r"tokenized with tiny \(.*uses other \("):
        evaluate(tmp_path / "other", "--shards", shards_folder)
