"""Language identification, with the model that a dependency ships."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from corpus.text.language_id import identify, model_path, model_sha256
from schemas.errors import UserError


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The quick brown fox\njumps over the lazy dog\nand runs away.", "en"),
        ("Der schnelle braune Fuchs springt über den faulen Hund.", "de"),
        ("Быстрая коричневая лиса прыгает через ленивую собаку.", "ru"),
        ("素早い茶色の狐がのろまな犬を飛び越える。", "ja"),
    ],
)
def test_languages_are_told_apart(text: str, language: str) -> None:
    found, score = identify(text)
    assert found == language
    assert 0.5 < score <= 1


@pytest.mark.parametrize("text", ["", "\n", "\0", "12345", "__label__xx", "a" * 100_000])
def test_any_text_gets_an_answer_between_0_and_1(text: str) -> None:
    assert 0 <= identify(text)[1] <= 1


def test_line_ends_are_spaces_or_what_is_asked_for() -> None:
    text = "the\nend and the\nstart"
    assert identify(text) == identify("the end and the start")
    assert identify(text, newline="") == identify("theend and thestart")
    assert identify(text, newline="") != identify(text)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    identify("hello", str(model_path()))
    assert capfd.readouterr() == ("", "")


def test_the_model_is_the_known_one(shared: Path) -> None:
    given = hashlib.sha256((shared / "models" / "lid.176.ftz").read_bytes()).hexdigest()
    assert model_sha256() == given


def test_a_missing_or_foreign_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.ftz: no such language model"):
        identify("hello", str(tmp_path / "none.ftz"))
    other = tmp_path / "other.ftz"
    other.write_bytes(b"no model" * 100)
    with pytest.raises(UserError, match=r"other\.ftz: not a fastText model"):
        identify("hello", str(other))
