"""Settings: strict, frozen dataclasses validated by pydantic, read from TOML files.

A settings class is declared with `@settings`; every field has a default and, if it is a number, a
range (`Annotated[int, Field(ge=1, le=10)]`). A `__post_init__` raises
`ValueError("field = value: must be ...")` for what no single field can tell. Errors come out as one
`UserError` that names the file, the key, the value, and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import ConfigDict, TypeAdapter, ValidationError

import recipes
from schemas.errors import UserError

T = TypeVar("T")

MAX_TOML_BYTES = 16 << 20
MAX_DEPTH = 16  # of nested tables and lists; recipes have three
MAX_INTEGER = 2**64  # above it no setting makes sense, and thousands of digits cannot be shown
MAX_SHOWN = 200  # characters of a value in a message

_STRICT = ConfigDict(extra="forbid", strict=True)


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """Make a class a settings class: a frozen dataclass whose values are validated strictly.

    Made by its constructor it raises `ValueError` with the sentence of the first error.
    """
    made = pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)(cls)
    validate = made.__init__
    names = [field.name for field in dataclasses.fields(made)]

    def init(self: object, *values: object, **named: object) -> None:
        try:
            validate(self, **dict(zip(names, values, strict=False)), **named)
        except ValidationError as error:
            raise ValueError(_sentence(error, made)) from None

    made.__init__ = functools.wraps(validate)(init)  # type: ignore[method-assign]
    return typing.cast(type[T], made)


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


def from_dict(values: dict[str, Any], cls: type[T], source: str) -> T:
    """Validate `values` into the settings class `cls`; `UserError` names `source` and the key."""
    _refuse_huge_integers(values, source)
    try:
        # As JSON, where lists become tuples and tables dataclasses, and nothing else is converted.
        made = _adapter(cls).validate_json(json.dumps(values, default=repr))  # type: ignore[arg-type]
        return typing.cast(T, made)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error, cls)}") from None


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema of a settings class, for editors."""
    return _adapter(cls).json_schema()


@functools.cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def to_json(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as plain JSON values (tuples become lists), for manifests and hashes."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(values)))


def canonical_json(values: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(values, sort_keys=True)


def json_hash(values: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


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


def _refuse_huge_integers(value: Any, source: str, key: str = "") -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_huge_integers(inner, source, f"{key}.{name}" if key else name)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _refuse_huge_integers(inner, source, f"{key}[{i}]")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise UserError(f"{source}: {key}: an integer beyond 2^64, which no setting can be")


_KINDS = {
    "int_type": "of type int",
    "int_from_float": "of type int",
    "float_type": "of type float",
    "bool_type": "of type bool",
    "string_type": "of type str",
    "tuple_type": "a list",
    "dict_type": "a table",
    "finite_number": "a finite number",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _sentence(all_errors: ValidationError, cls: type) -> str:
    """The first of pydantic's errors as `key = value: must be ...`; unknown keys come first."""
    error = min(all_errors.errors(), key=lambda one: one["type"] != "unexpected_keyword_argument")
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    key = ""
    for part in error["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    if kind == "unexpected_keyword_argument":
        known = [field.name for field in dataclasses.fields(_annotation_at(cls, error["loc"][:-1]))]
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"unknown key '{shown(key)[1:-1]}'; the keys here are {', '.join(known)}{hint}"
    if kind == "value_error":  # raised with the value, and by a `__post_init__` with its field
        joint = " = " if isinstance(value, str) else "." if key else ""
        return f"{key}{joint}{context['error']}"
    if kind == "dataclass_type":
        named = f"'{key}' must be a table [{key}]" if key else "must be a table"
        return f"{named}, not {shown(value)}"
    if kind == "literal_error":
        right = f"one of {context['expected'].replace(' or ', ', ')}"
    elif kind.startswith(("greater_than", "less_than")):
        right = _range(_annotation_at(cls, error["loc"]))
    elif kind == "missing":
        return f"{key}: is missing"
    else:
        right = _KINDS.get(kind, f"valid: {error['msg']}")
    return f"{key} = {shown(value)}: must be {right}"


def _annotation_at(cls: Any, location: tuple[int | str, ...]) -> Any:
    """The type of the value at `location` in the settings class `cls`."""
    for part in location:
        if dataclasses.is_dataclass(cls):
            cls = typing.get_type_hints(cls, include_extras=True)[str(part)]
        else:  # tuple[X, ...] or dict[str, X]
            arguments = typing.get_args(cls)
            cls = arguments[1] if typing.get_origin(cls) is dict else arguments[0]
        if isinstance(cls, types.UnionType):  # X | None
            cls = typing.get_args(cls)[0]
    return cls


def _range(annotation: Any) -> str:
    """The bounds of `Annotated[int, Field(ge=1, le=10)]`: "at least 1 and at most 10"."""
    bounds = [
        f"{word} {getattr(bound, name)}"
        for bound in typing.get_args(annotation)[1].metadata
        for name, word in _BOUNDS.items()
        if hasattr(bound, name)
    ]
    return " and ".join(bounds)
