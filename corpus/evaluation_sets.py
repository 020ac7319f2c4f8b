"""Evaluation sets as files: test items, and the texts in them that nobody should train on.

An item is a line of a *.jsonl file, or a paragraph of a *.txt file (between blank lines). The texts
of a line are its string values, nested ones too, each by itself and none joined to another: which
fields a page would show one after the other, and in which order, no file says, and a run of words
inside one field finds the page anyway. Two things are no text: the label in front of one
("Question: ", which evaluation harnesses add and web pages lack) and a value that is a URL.

Cost: that of the JSON parser; one item in memory at a time.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from corpus.compression import DamageError
from corpus.packed_files import CODECS, unpacked
from schemas import json_text
from schemas.errors import UserError

JSON_LINES = tuple(f".jsonl{ending}" for ending in CODECS)
PARAGRAPHS = tuple(f".txt{ending}" for ending in CODECS)
KINDS = (*JSON_LINES, *PARAGRAPHS)


_LABEL = re.compile(r"\A\s*(?:question|answer|context|passage|premise|q|a)\s*:", re.I)
_URL = re.compile(r"\s*\w+://\S*\s*")


def resolve(patterns: Sequence[str]) -> dict[str, Path]:
    """Name of each set -> its file, by name.

    A set is called as its file without the endings, with as many folders in front as tell it from
    others. Raises `UserError` naming what is missing, of another kind, or not to be told apart.
    """
    found = {Path(path).absolute() for pattern in patterns for path in _expand(pattern)}
    paths = {_without_ending(path): path for path in sorted(found)}
    if len(paths) < len(found):
        one, two = next(
            (a, b)
            for a, b in itertools.combinations(sorted(found), 2)
            if _without_ending(a) == _without_ending(b)
        )
        raise UserError(f"--against: {one} and {two} would both be the set '{_without_ending(one)}'"
                        "; rename one")  # fmt: skip
    return dict(sorted((_name(path, list(paths)), file) for path, file in paths.items()))


def read_items(path: Path) -> Iterator[list[str]]:
    """Yield the texts of each item; none where an item has no string.

    Raises `UserError` naming file and line where it is not what its ending says, and for a file
    without an item.
    """
    read = _read_json_lines if path.name.endswith(JSON_LINES) else _read_paragraphs
    is_empty = True
    try:
        for item in read(path):
            is_empty = False
            yield item
    except (OSError, UnicodeDecodeError, DamageError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if is_empty:
        raise UserError(f"{path}: holds no item")


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _expand(pattern: str) -> list[str]:
    is_one = Path(pattern).exists()
    paths = [pattern] if is_one else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    if not paths:
        kind = "no file matches" if glob.has_magic(pattern) else "no such file"
        raise UserError(f"--against {pattern}: {kind}")
    for path in paths:
        if Path(path).is_dir():
            raise UserError(f"--against {path}: is a folder; name files, e.g. {path}/*.jsonl")
        if not path.endswith(KINDS):
            raise UserError(f"--against {path}: must be one of {', '.join('*' + k for k in KINDS)}")
    return paths


def _without_ending(path: Path) -> Path:
    ending = max((kind for kind in KINDS if path.name.endswith(kind)), key=len)
    return path.with_name(path.name.removesuffix(ending) or path.name)


def _name(path: Path, others: list[Path]) -> str:
    """As much of the path's end as no other has."""
    parts, alike = 0, len(others)
    while alike > 1:
        parts += 1
        alike = sum(other.parts[-parts:] == path.parts[-parts:] for other in others)
    return "/".join(path.parts[-max(1, parts) :])


def _read_json_lines(path: Path) -> Iterator[list[str]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json_text.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not a line of JSON: {error}") from None
        yield [_without_label(text) for text in _strings(row) if not _URL.fullmatch(text)]


def _read_paragraphs(path: Path) -> Iterator[list[str]]:
    for blank, lines in itertools.groupby(_lines(path), key=lambda line: not line.strip()):
        if not blank:
            yield [_without_label("\n".join(lines))]


def _lines(path: Path) -> Iterator[str]:
    begun: list[bytes] = []
    for piece in unpacked(path):
        first, *others = piece.split(b"\n")
        begun.append(first)
        for other in others:
            yield b"".join(begun).decode("utf-8")
            begun = [other]
    yield b"".join(begun).decode("utf-8")


def _strings(row: Any) -> Iterator[str]:
    """All string values, in order, of a value as JSON gives it; keys are none."""
    waiting = [row]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            # JSON can hold halves of surrogate pairs, which are no characters.
            yield value.encode("utf-8", "replace").decode("utf-8")
        elif isinstance(value, dict | list):
            waiting.extend(reversed(list(value.values() if isinstance(value, dict) else value)))


def _without_label(text: str) -> str:
    return _LABEL.sub("", text, count=1)
