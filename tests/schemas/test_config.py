"""Settings are strict: what is wrong is named with file, key, value, and what would be right."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from corpus import recipe
from schemas import config
from schemas.errors import UserError


@config.settings
class Section:
    min_words: Annotated[int, Field(ge=0, le=1000)] = 50
    fraction: float = 0.5
    keep: Literal["longest", "first"] = "longest"
    words: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    on: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        if self.name == "":
            raise ValueError("name = '': must not be empty")


@config.settings
class Settings:
    title: str = ""
    section: Section = field(default_factory=Section)


def _load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return config.load_toml(path, Settings)


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    loaded = _load(
        tmp_path,
        'title = "t"\n[section]\nmin_words = 3\nfraction = 1\nkeep = "first"\nwords = ["a", "b"]\n'
        'on = false\nname = "n"\nscores = {en = 0.65, de = 1}',
    )
    assert loaded.section == Section(
        3, 1.0, "first", ("a", "b"), {"en": 0.65, "de": 1.0}, False, "n"
    )
    assert isinstance(loaded.section.fraction, float)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[section]\nmin_wrods = 3", ["section.min_wrods", "min_words", "did you mean"]),
        ("titel = 'x'", ["'titel'", "title"]),
        (
            "[section]\nmin_words = -1",
            ["section.min_words = -1", "must be at least 0 and at most 1000"],
        ),
        ("[section]\nmin_words = 'x'", ["section.min_words = 'x'", "type int"]),
        ("[section]\nmin_words = true", ["section.min_words = True", "type int"]),
        ("[section]\nmin_words = 1.5", ["section.min_words = 1.5", "type int"]),
        ("[section]\nkeep = 'last'", ["section.keep = 'last'", "'longest', 'first'"]),
        ("[section]\nwords = 'a'", ["section.words = 'a'"]),
        ("[section]\nwords = [1]", ["section.words[0] = 1", "type str"]),
        ("section = 3", ["'section'", "table"]),
        ("[section]\nname = ''", ["section.name = '': must not be empty"]),
        ("[section]\nscores = {en = 'x'}", ["section.scores.en = 'x'", "type float"]),
        ("[section]\nmin_words = 1979-05-27", ["section.min_words = ", "type int"]),
        ("[section]\nmin_words = 5000\nmin_wrods = 3", ["unknown key 'section.min_wrods'"]),
        ("not toml", ["not a readable TOML file"]),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, text: str, named: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        _load(tmp_path, text)
    message = str(caught.value)
    assert str(tmp_path / "recipe.toml") in message
    assert "\n" not in message or "TOML" in message
    for word in named:
        assert word in message


def test_a_constructor_says_the_same() -> None:
    with pytest.raises(ValueError, match=r"^min_words = -1: must be at least 0 and at most 1000$"):
        Section(-1)
    with pytest.raises(ValueError, match=r"^name = '': must not be empty$"):
        Section(name="")


def test_the_json_schema_has_ranges_choices_and_no_other_keys() -> None:
    schema = config.json_schema(Settings)
    section = schema["$defs"]["Section"]
    assert schema["additionalProperties"] is False
    words = {"default": 50, "maximum": 1000, "minimum": 0, "title": "Min Words", "type": "integer"}
    assert section["properties"]["min_words"] == words
    assert section["properties"]["keep"]["enum"] == ["longest", "first"]


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such recipe file"):
        config.load_toml(tmp_path / "none.toml", Settings)


def test_a_bare_name_is_a_recipe_that_comes_with_gristmill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe.load("fineweb").name == "fineweb"
    with pytest.raises(UserError, match=r"finweb: no such recipe file, .*: dclm, fineweb"):
        recipe.load("finweb")
    (tmp_path / "fineweb").write_text('name = "mine"')
    assert recipe.load("fineweb").name == "mine"  # a file of that name is meant first


def test_equal_values_have_equal_hashes_whatever_their_order() -> None:
    assert config.json_hash({"a": 1, "b": [2]}) == config.json_hash({"b": [2], "a": 1})
    assert config.json_hash({"a": 1}) != config.json_hash({"a": 2})
