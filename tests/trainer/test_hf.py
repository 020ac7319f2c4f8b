"""Out to Hugging Face and in from it, against transformers itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from corpus.tokens import bpe
from schemas import hf_export
from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.commands import export
from trainer.export import hf
from trainer.model import checkpoint
from trainer.model.checkpoint import Checkpoint
from trainer.model.model import LanguageModel, ModelConfig
from trainer.settings import ModelSettings

CPU = torch.device("cpu")
SHAPE = ModelSettings(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    intermediate_size=64, rope_theta=5_000.0, rms_norm_eps=1e-5,
)  # fmt: skip
CONTEXT = 48


@pytest.fixture(autouse=True, scope="module")
def _unchecked() -> Iterator[None]:
    """Encoding every character before writing takes a second; that has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_export, "check_equal", lambda *_: None)
        yield


def a_checkpoint(known: Tokenizer, tied: bool = True, kind: str = "pretrain") -> Checkpoint:
    """An untrained model with opinions, and norms that are not 1."""
    torch.manual_seed(3)
    shape = dataclasses.replace(SHAPE, tie_word_embeddings=tied)
    config = ModelConfig(shape, known.padded_vocab_size, known.boundary, CONTEXT)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return Checkpoint(Path("run"), model, known, {"kind": kind})


class Exported:
    """A checkpoint, its folder, and what transformers loads from there."""

    def __init__(self, loaded: Checkpoint, folder: Path, dtype: str = "float32") -> None:
        self.ours, self.folder = loaded, folder
        hf.export(loaded, folder, dtype)
        self.model, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="sdpa", output_loading_info=True
        )
        assert not any(found.values()), found
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def exported(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    loaded = a_checkpoint(tokenizer, request.param)
    return Exported(loaded, tmp_path_factory.mktemp("out") / "hf")


def random_tokens(known: Tokenizer, rows: int = 3) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(len(known.token_bytes), (rows, CONTEXT), generator=random)
    tokens[:, 0] = known.boundary
    return tokens


@torch.no_grad()
def test_logits_in_fp32_are_those_of_transformers(exported: Exported) -> None:
    tokens = random_tokens(exported.ours.tokenizer)
    ours, theirs = exported.ours.model(tokens), exported.model(tokens).logits
    assert ours.abs().max() > 1
    assert exported.model.dtype == torch.float32
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


@torch.no_grad()
def test_greedy_generation_from_a_text_is_that_of_transformers(exported: Exported) -> None:
    known = exported.ours.tokenizer
    given = exported.tokenizer("the cat", return_tensors="pt")
    assert given["input_ids"][0].tolist() == [known.boundary, *known.encode("the cat")]
    theirs = exported.model.generate(**given, max_new_tokens=24)
    tokens, forbidden = given["input_ids"], hf.never_drawn(known, chats=False)
    while tokens.shape[1] < theirs.shape[1]:
        logits = exported.ours.model(tokens)[:, -1]
        logits[:, forbidden] = -math.inf
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    assert theirs.tolist() == tokens.tolist()
    assert theirs.shape[1] == given["input_ids"].shape[1] + 24 or theirs[0, -1] == known.boundary


@torch.no_grad()
def test_the_document_mask_cannot_be_exported(exported: Exported) -> None:
    """A sequence is one document for transformers: behind a second boundary they part."""
    tokens = random_tokens(exported.ours.tokenizer)
    tokens[:, 20] = exported.ours.tokenizer.boundary
    ours, theirs = exported.ours.model(tokens), exported.model(tokens).logits
    torch.testing.assert_close(theirs[:, :20], ours[:, :20], atol=1e-4, rtol=0)
    assert (theirs[:, 20:] - ours[:, 20:]).abs().max() > 0.01


def test_the_config_says_what_transformers_would_default(exported: Exported) -> None:
    written = json.loads((exported.folder / "config.json").read_text())
    for key in ("head_dim", "tie_word_embeddings", "rope_theta", "rms_norm_eps"):
        assert written[key] == getattr(exported.ours.model.config.settings, key)
    assert exported.model.config.rope_parameters["rope_theta"] == SHAPE.rope_theta
    known = exported.ours.tokenizer
    assert exported.model.config.eos_token_id == [known.boundary, known.chat_ids["<|end|>"]]
    assert exported.tokenizer.eos_token_id == exported.tokenizer.bos_token_id == known.boundary
    assert exported.tokenizer.model_max_length == CONTEXT
    tied = exported.ours.model.config.settings.tie_word_embeddings
    assert ("lm_head.weight" in load_file(exported.folder / "model.safetensors")) != tied


def test_a_base_model_says_the_boundary_alone_and_an_assistant_its_ends_too(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    drawn = {}
    for kind in ("pretrain", "sft"):
        hf.export(a_checkpoint(tokenizer, kind=kind), tmp_path / kind)
        written = json.loads((tmp_path / kind / "generation_config.json").read_text())
        drawn[kind] = set(range(tokenizer.padded_vocab_size)) - set(written["suppress_tokens"])
    text = {*tokenizer.token_bytes, tokenizer.boundary}
    ends = {tokenizer.chat_ids[f"<|{name}|>"] for name in ("end", "tool_call", "tool_call_end")}
    assert drawn == {"pretrain": text, "sft": text | ends}


def _huggingface(folder: Path) -> Tokenizer:
    """A tokenizer of theirs that has a boundary, an end and a token that we have no use for."""
    known = bpe.train(["the cat sat on the mat"] * 3, 270, "bpe")
    content = hf_export.to_json(known)
    keep = ("<|endoftext|>", "<|end|>")
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in keep]
    for token in known.chat_ids.keys() - set(keep):
        del content["model"]["vocab"][token]
    content["added_tokens"].append({**content["added_tokens"][0], "id": 300, "content": "<x>"})
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content))
    return tokenizers.load(path)


@pytest.mark.parametrize("kind", ["tiktoken", "hugging face"])
def test_every_kind_of_tokenizer_goes_out_and_comes_in(kind: str, tmp_path: Path) -> None:
    known = tokenizers.named("cl100k_base") if kind == "tiktoken" else _huggingface(tmp_path)
    out = Exported(a_checkpoint(known), tmp_path / "hf")
    text = "the cat, naïve 東京 123"
    ids = [known.boundary, *known.encode(text)]
    assert out.tokenizer(text).input_ids == ids
    chat = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "cat"}]
    rendered = out.tokenizer.apply_chat_template(chat, return_dict=False)
    said = [known.chat_ids[n] for n in ("<|user|>", "<|end|>", "<|assistant|>", "<|end|>")]
    user, end, assistant, end = said
    the, cat = known.encode("the"), known.encode("cat")
    assert rendered == [known.boundary, user, *the, end, assistant, *cat, end]
    again = hf.load(tmp_path / "hf", CPU)
    assert again.model.config == out.ours.model.config
    assert again.tokenizer.control_ids == known.control_ids
    with torch.no_grad():
        tokens = torch.tensor([ids])
        assert torch.equal(again.model(tokens), out.ours.model(tokens))


def test_bfloat16_weights_are_the_rounded_ones(tokenizer: Tokenizer, tmp_path: Path) -> None:
    out = Exported(a_checkpoint(tokenizer), tmp_path / "hf", "bfloat16")
    assert out.model.dtype == torch.bfloat16
    assert (tmp_path / "hf" / "model.safetensors").stat().st_size < 2.2 * (
        out.ours.model.num_parameters
    )
    found = hf.compare(out.ours.model, tokenizer, tmp_path / "hf", "bfloat16", chats=False)
    assert found.fp32 <= 1e-4 < found.bf16 < 0.1 * found.largest
    assert found.num_equal == found.num_greedy == 32


def test_a_folder_that_holds_something_is_left_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        hf.export(a_checkpoint(tokenizer), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_export_that_breaks_off_leaves_nothing(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf, "save_file", full)
    with pytest.raises(UserError, match="hf: not written: No space left on device; the disk at"):
        hf.export(a_checkpoint(tokenizer), tmp_path / "hf")
    assert not list(tmp_path.iterdir())


# In: a model that transformers made.


def _theirs(folder: Path, known: Tokenizer, vocab_size: int = 0, **changes: Any) -> Any:
    """A tiny Qwen3 of transformers, saved with a tokenizer of ours."""
    torch.manual_seed(5)
    values: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10,
        "max_position_embeddings": 64, "tie_word_embeddings": True, "bos_token_id": None,
        "vocab_size": vocab_size or known.padded_vocab_size,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip
    size = changes.pop("max_shard_size", "5GB")
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**values, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.eval().save_pretrained(folder, max_shard_size=size)
    hf_export.export(known, folder)
    return model


def _forget_the_chat(folder: Path, known: Tokenizer) -> None:
    """Take the chat's tokens out of a tokenizer.json, as files of others have none."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    added = [t for t in content["added_tokens"] if t["content"] not in known.chat_ids]
    vocab = {t: i for t, i in content["model"]["vocab"].items() if t not in known.chat_ids}
    model = {**content["model"], "vocab": vocab}
    path.write_text(json.dumps({**content, "added_tokens": added, "model": model}))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", ["5GB", "20KB"])
@torch.no_grad()
def test_a_model_of_transformers_computes_the_same_here(
    tokenizer: Tokenizer, tmp_path: Path, tied: bool, size: str
) -> None:
    theirs = _theirs(tmp_path, tokenizer, tie_word_embeddings=tied, max_shard_size=size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (size == "20KB")
    found = hf.load(tmp_path, CPU)
    tokens = random_tokens(tokenizer)
    ours = found.model.eval()(tokens)
    torch.testing.assert_close(ours, theirs(tokens).logits, atol=1e-5, rtol=0)
    assert found.model.config.settings.rope_theta == 1e6
    assert found.model.config.max_position_embeddings == 64


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_rows_of_ids_that_are_padding_go_and_those_of_new_ids_are_the_mean(
    tokenizer: Tokenizer, tmp_path: Path, tied: bool
) -> None:
    tokens = random_tokens(tokenizer)
    wide = _theirs(tmp_path / "wide", tokenizer, vocab_size=400, tie_word_embeddings=tied)
    found = hf.load(tmp_path / "wide", CPU).model.eval()
    size = tokenizer.padded_vocab_size
    torch.testing.assert_close(found(tokens), wide(tokens).logits[..., :size], atol=1e-5, rtol=0)
    own = tokenizer.encoding.n_vocab  # no rows for the chat's tokens
    narrow = _theirs(tmp_path / "narrow", tokenizer, vocab_size=own, tie_word_embeddings=tied)
    _forget_the_chat(tmp_path / "narrow", tokenizer)
    loaded = hf.load(tmp_path / "narrow", CPU)
    assert loaded.tokenizer.control_ids == tokenizer.control_ids
    logits, old = loaded.model.eval()(tokens), narrow(tokens).logits
    torch.testing.assert_close(logits[..., :own], old, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        logits[..., own:], old.mean(-1, keepdim=True).expand(*old.shape[:2], size - own),
        atol=1e-4, rtol=0,
    )  # fmt: skip
    rows = loaded.model.model.embed_tokens.weight
    torch.testing.assert_close(rows[own:].mean(0), rows[:own].mean(0))


@pytest.fixture(scope="module")
def saved(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    _theirs(folder, tokenizer)
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "llama"}, "model_type = 'llama'"),
        ({"model_type": None}, "model_type = None"),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope_scaling.rope_type = 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.rope_type = 'linear'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": 3}, "rope_parameters = 3"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "32"}, "hidden_size = '32': must be of type int"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3: must divide"),
        ({"vocab_size": 12}, "vocab_size = 12: the tokenizer in this folder has ids up to 276"),
        ({"vocab_size": 0.5}, "vocab_size = 0.5: must be a whole number"),
        ({"vocab_size": 384}, "has 320 rows, config.json says vocab_size = 384"),
        ({"intermediate_size": 47}, "config.json asks for"),
        ({"num_hidden_layers": 3}, "weight model.layers.2.* is missing"),
        ({"num_hidden_layers": 1}, "weight model.layers.1.* has no place"),
    ],
)
def test_what_this_decoder_cannot_do_is_refused_by_key_and_value(
    saved: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((saved / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=said) as caught:
        hf.load(tmp_path, CPU)
    assert str(tmp_path) in str(caught.value)


def test_config_files_of_transformers_4_are_read(saved: Path, tokenizer: Tokenizer) -> None:
    values = json.loads((saved / "config.json").read_text())
    new = hf.config_of(values, tokenizer, "c")
    theta = values.pop("rope_parameters")["rope_theta"]
    old = {**values, "rope_theta": theta, "rope_scaling": None}
    assert hf.config_of(old, tokenizer, "c") == new


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", None, "neither model.safetensors nor"),
        ("model.safetensors", b"\x08", "not a readable safetensors file"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../x"}}', "must name files"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "b"}}', "b: not a readable"),
        ("tokenizer.json", None, "no such tokenizer file"),
        ("config.json", b"[", "not readable JSON"),
    ],
)
def test_a_file_that_is_missing_or_torn_is_named(
    saved: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        hf.load(tmp_path, CPU)


# The command.


def _run(arguments: list[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    export.add_parser(parser.add_subparsers())
    known = parser.parse_args(["export", *arguments])
    known.run(known)


@pytest.fixture
def run_folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    loaded = a_checkpoint(tokenizer)
    checkpoint.save(tmp_path / "run", 1, loaded.model, tokenizer, loaded.state)
    return tmp_path / "run"


def test_the_command_writes_and_compares(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hf"
    _run(["--to", "hf", str(out), "--checkpoint", str(run_folder), "--check"])
    said = capsys.readouterr().out
    assert "parameters in float32" in said
    assert "greedy generation: 32 of 32 tokens are equal" in said
    assert {path.name for path in out.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    with pytest.raises(UserError, match="choose another DIR"):
        _run(["--to", "hf", str(out), "--checkpoint", str(run_folder)])


def _swap_norms(path: Path) -> None:
    weights = load_file(path)
    weights["model.norm.weight"] *= 1.5
    save_file(weights, path, metadata={"format": "pt"})


def test_the_comparison_finds_a_weight_that_is_another(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right: Callable[..., None] = hf.export

    def wrong(loaded: Checkpoint, folder: Path, dtype: str) -> None:
        right(loaded, folder, dtype)
        _swap_norms(folder / "model.safetensors")

    monkeypatch.setattr(hf, "export", wrong)
    with pytest.raises(UserError, match="differs in transformers: logits by"):
        _run(["--to", "hf", str(tmp_path / "o"), "--checkpoint", str(run_folder), "--check"])
