"""Strict settings: a TOML file becomes frozen dataclasses, or one sentence says why not.

A settings class is a frozen dataclass whose fields have defaults. Its `__post_init__` raises
`ValueError("field = value: what would be right")` for a value that makes no sense; the loader puts
the file's name and the section in front. An unknown key names the keys that exist.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import recipes
from schemas.errors import UserError

T = TypeVar("T")

MAX_TOML_BYTES = 16 << 20
MAX_DEPTH = 16  # of tables and lists in each other: recipes have three
MAX_INTEGER = 2**64  # above it no setting makes sense, and thousands of digits cannot be shown
MAX_SHOWN = 200  # characters of a value in a message


def recipe_file(name: str | Path) -> Path:
    """The recipe at a path, or the one of that bare name (`fineweb`) that comes with gristmill."""
    path = Path(name)
    if path.exists() or path.name != str(name) or path.suffix:
        return path
    shipped = {file.stem: file for file in Path(recipes.__file__).parent.glob("*.toml")}
    if path.name not in shipped:
        listed = ", ".join(sorted(shipped))
        raise UserError(f"{name}: no such recipe file, nor one of gristmill's: {listed}")
    return shipped[path.name]


def load_toml(path: str | Path, cls: type[T]) -> T:
    """Read a TOML file, or a recipe that comes with gristmill, into the settings class `cls`.

    Raises `UserError` naming file, key and value.
    """
    path = recipe_file(path)
    try:
        if (size := Path(path).stat().st_size) > MAX_TOML_BYTES:
            raise UserError(f"{path}: {size:,} bytes; a recipe has at most {MAX_TOML_BYTES:,}")
        values = parse_toml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe file") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable TOML file: {error}") from None
    return from_dict(values, cls, str(path))


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text; raises `ValueError` if it is invalid or nested too deeply."""
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH):
        nested = [list(v.values()) if isinstance(v, dict) else v for v in level]
        level = [v for inner in nested for v in inner if isinstance(v, dict | list)]
        if not level:
            return values
    raise ValueError(f"nested too deeply: at most {MAX_DEPTH} levels")


def check_range(settings: object, least: float, most: float, *names: str) -> None:
    """Raise `ValueError` unless these numbers of `settings` are from `least` to `most`.

    The message names the number and the bound. Every number of a recipe has a range, so that
    infinity, NaN or a mistyped zero too many is refused before work starts.
    """
    for name in names:
        value = getattr(settings, name)
        if not value >= least:
            raise ValueError(f"{name} = {value}: must be at least {least}")
        if not value <= most:
            raise ValueError(f"{name} = {value}: must be at most {most}")


def from_dict(values: dict[str, Any], cls: type[T], source: str, section: str = "") -> T:
    """Build the dataclass `cls` from `values`, checking every key and type."""
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for key in values:
        if key not in known:
            raise UserError(f"{source}: unknown key '{section}{key}'{_suggest(key, known)}")
    built = {
        key: _convert(value, hints[key], source, f"{section}{key}") for key, value in values.items()
    }
    try:
        return typing.cast(T, cls(**built))
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{source}: {section}{error}") from None


def to_json(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as plain JSON values (tuples become lists), for manifests and hashes."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(values)))


def canonical_json(values: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(values, sort_keys=True)


def json_hash(values: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def _suggest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"; the keys here are {', '.join(known)}{hint}"


def _convert(value: Any, hint: Any, source: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{source}: '{key}' must be a table [{key}], not {shown(value)}")
        return from_dict(value, typing.cast(type, hint), source, f"{key}.")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [arg for arg in args if arg is not type(None)]
        assert len(kinds) == 1, f"{key}: a setting has one type"
        return _convert(value, kinds[0], source, key)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(v, args[0], source, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {k: _convert(v, args[1], source, f"{key}.{k}") for k, v in value.items()}
    if origin is typing.Literal:
        return _choice(value, args, source, key)
    return _scalar(value, hint, source, key)


def _choice(value: Any, choices: tuple[Any, ...], source: str, key: str) -> Any:
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise UserError(f"{source}: {key} = {shown(value)}: must be one of {listed}")
    return value


def _scalar(value: Any, hint: Any, source: str, key: str) -> Any:
    is_bool = isinstance(value, bool)  # which Python takes for an int
    if isinstance(value, int) and not is_bool and abs(value) > MAX_INTEGER:
        raise UserError(f"{source}: {key}: an integer beyond 2^64, which no setting can be")
    if hint is float and isinstance(value, int) and not is_bool:
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and is_bool == (hint is bool):
        return value
    name = getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
    raise UserError(f"{source}: {key} = {shown(value)}: must be of type {name}")


def shown(value: Any, most: int = MAX_SHOWN) -> str:
    """A value for a message, cut after `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested tables by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
