"""Recipes as nobody should write them: each is refused in one sentence, before any work starts.

The numbers are found by walking over the settings classes, so that a new one without a range fails.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import corpus.recipe
from corpus.chat.encode import Conversations
from corpus.filters.train_classifier import Training
from corpus.reports.verdicts import parse
from jobs import cli
from schemas import config, json_text, tokenizer
from schemas.errors import UserError
from trainer import cli as trainer_cli
from trainer.data.spec import DataSpec
from trainer.durable import read_json
from trainer.settings import PretrainRecipe, SftRecipe

ROOTS = (corpus.recipe.Recipe, PretrainRecipe, SftRecipe, Conversations, Training, DataSpec)
BAD = (math.inf, -math.inf, math.nan, -1, -1.5, 10**20, -(10**20), 1e308, 10**400, 2**10_000)
# What a section needs beside the number that is tried.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("MinHash", "num_hashes"): {"threshold": 0.8},
    ("DataSpec", ""): {"sources": [{"content_hash": "a"}], "seq_len": 8, "rows": 1},
    ("Source", ""): {"content_hash": "a"},
    ("SourceSettings", ""): {"shards": "a"},
}
NESTED = 100_000
SAYS_WHAT_IS_RIGHT = ("must be", "must not be", "no setting can be")


def sections(cls: type, seen: set[type]) -> Iterator[type]:
    """The settings classes that `cls` holds, each once."""
    if cls in seen:
        return
    seen.add(cls)
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                yield from sections(typing.cast(type, inner), seen)


def numbers() -> Iterator[tuple[type, str, Any]]:
    """(class, field, how a value is wrapped) of every number that a recipe can set."""
    seen: set[type] = set()
    for root in ROOTS:
        for cls in sections(root, seen):
            hints = typing.get_type_hints(cls)
            for one in dataclasses.fields(cls):
                hint = hints[one.name]
                kinds = (hint, *typing.get_args(hint))
                if int in kinds or float in kinds:
                    yield cls, one.name, typing.get_origin(hint)


NUMBERS = list(numbers())


def test_the_walk_finds_the_numbers() -> None:
    names = {(cls.__name__, name) for cls, name, _ in NUMBERS}
    assert {
        ("MinHash", "bands"), ("Extract", "statuses"), ("Extract", "max_cpu_seconds"),
        ("LanguageRule", "min_score_of"), ("Shard", "rows_per_group"), ("Source", "weight"),
        ("SourceSettings", "weight"), ("ModelSettings", "rope_theta"), ("DataSpec", "seed"),
    } <= names  # fmt: skip
    assert len(names) > 100


@pytest.mark.parametrize(
    ("cls", "name", "kind"), NUMBERS, ids=[f"{c.__name__}.{n}" for c, n, _ in NUMBERS]
)
def test_every_number_has_a_finite_range(cls: type, name: str, kind: Any) -> None:
    beside = {**BESIDE.get((cls.__name__, ""), {}), **BESIDE.get((cls.__name__, name), {})}
    for value in BAD:
        wrapped: Any = [value] if kind is tuple else {"en": value} if kind is dict else value
        with pytest.raises(UserError) as caught:
            config.from_dict({**beside, name: wrapped}, cls, "recipes/x.toml")
        message = str(caught.value)
        assert message.startswith("recipes/x.toml: ")
        assert name in message, message
        assert any(said in message for said in SAYS_WHAT_IS_RIGHT)
        assert len(message) < 500


def test_the_issue_of_each_kind_is_named_with_its_range(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for text, said in {
        "[extract]\nmax_cpu_seconds = inf": "extract.max_cpu_seconds = inf: must be at least 0.01",
        "[extract]\nmax_cpu_seconds = nan": "extract.max_cpu_seconds = nan: must be at least 0.01",
        "[extract]\nmax_cpu_seconds = 1e-9": "extract.max_cpu_seconds = 1e-09: must be at least",
        "[minhash]\nbands = 1_000_000_000": "minhash.bands = 1000000000: must be at least 1 and at"
        " most 16384",
        "[minhash]\nbands = 16384\nrows = 2": "their product must be at most 16384",
        "[shard]\nrows_per_group = 100_000_000_000_000_000_000": "shard.rows_per_group: an integer",
        "[shard]\nrows_per_group = 10_000_000": "shard.rows_per_group = 10000000: must be at"
        " least 1 and at most",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            corpus.recipe.load(path)
        assert said in str(caught.value)
        assert str(path) in str(caught.value)


HOSTILE_TOML = {
    "nested lists": "a = " + "[" * NESTED,
    "closed nested lists": "a = " + "[" * 300 + "]" * 300,
    "nested tables": "a = " + "{a=" * NESTED,
    "dotted keys": "[minhash]\nbands." + "a." * 5000 + "b = 1",
    "a long number": "[minhash]\nbands = " + "9" * 5000,
    "a long hexadecimal number": "[minhash]\nbands = 0x" + "f" * 5000,
    "a long value": f"[minhash]\nbands = '{'x' * 100_000}'",
    "a control character": '"\\u001b[2J" = 1',
    "no UTF-8": "\udcff",
}


@pytest.mark.parametrize("kind", HOSTILE_TOML)
def test_a_hostile_recipe_is_a_user_error(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(HOSTILE_TOML[kind], encoding="utf-8", errors="surrogateescape")
    for cls in (corpus.recipe.Recipe, PretrainRecipe):
        with pytest.raises(UserError, match=r"x\.toml: ") as caught:
            config.load_toml(path, cls)
        assert len(str(caught.value)) < 1000
        assert "\x1b" not in str(caught.value)
    arguments = ["--recipe", str(path), "--root", str(tmp_path / "root")]
    assert cli.main(["filter", *arguments]) == 2
    shards = ["--shards", str(tmp_path), "--out", str(tmp_path / "run")]
    assert trainer_cli.main(["pretrain", "--recipe", str(path), *shards]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 2
    assert "Traceback" not in said
    assert "\x1b" not in said
    if kind != "no UTF-8":
        with pytest.raises(UserError):
            config.from_dict(parse([HOSTILE_TOML[kind]]), corpus.recipe.Recipe, "--set")


def test_a_large_recipe_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    with open(path, "wb") as file:
        file.truncate(config.MAX_TOML_BYTES + 1)
    with pytest.raises(UserError, match="a recipe has at most"):
        corpus.recipe.load(path)


HOSTILE_JSON = {
    "nested lists": "[" * NESTED,
    "nested objects": '{"a":' * NESTED,
    "closed nested lists": "[" * NESTED + "]" * NESTED,
    "a long number": "9" * 5000,
    "half a value": '{"a": ',
    "no value": "",
}


@pytest.mark.parametrize("kind", HOSTILE_JSON)
def test_hostile_json_is_a_value_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(HOSTILE_JSON[kind])
    with pytest.raises(ValueError):
        json_text.loads(HOSTILE_JSON[kind])
    with pytest.raises(ValueError):
        json_text.load(path)
    with pytest.raises(UserError, match=r"tokenizer\.json: "):
        tokenizer.load(path)
    with pytest.raises(UserError, match=r"tokenizer\.json: "):
        read_json(path)


def test_json_within_the_limits_is_what_the_standard_library_reads(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, "\u2028\x00"], "b": {"c": True}}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert json_text.load(tmp_path / "a.json") == value


def test_a_large_json_file_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(json_text.MAX_BYTES + 1)
    with pytest.raises(ValueError, match="must be at most"):
        json_text.load(tmp_path / "a.json")
