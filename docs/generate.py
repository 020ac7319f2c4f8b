"""Write the reference pages that follow from the code: commands, settings, columns, reasons.

python docs/generate.py            # docs/reference/generated/*.md
python docs/generate.py --check    # exit code 1 if a page is not what the code says
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

FOLDER = Path(__file__).parent / "reference" / "generated"
NOTE = "<!-- Written by docs/generate.py: change the code, then run `make reference`. -->\n\n"


def pages() -> dict[str, str]:
    """File name -> text of every page."""
    return {
        "gristmill.md": "\n".join(_commands("gristmill")),
        "trainer.md": "\n".join(_commands("trainer")),
        "settings.md": "\n".join(_settings()),
        "columns.md": "\n".join(_columns()),
        "reasons.md": "\n".join(_reasons()),
    }


def _commands(program: str) -> Iterator[str]:
    from jobs import cli
    from trainer import cli as trainer_cli

    parser = cli.parser() if program == "gristmill" else trainer_cli.parser()
    yield f"# `{program}`\n\n    " + parser.format_help().replace("\n", "\n    ").rstrip() + "\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                shown = command.format_help().replace("\n", "\n    ").rstrip()
                yield f"## {program} {name}\n\n    {shown}\n"


def _settings() -> Iterator[str]:
    from corpus.recipe import Recipe
    from schemas.config import json_schema
    from trainer.settings import PretrainRecipe, SftRecipe

    yield "# Settings\n"
    for title, recipe in (
        ("Recipes of `gristmill`", Recipe),
        ("Recipes of `trainer pretrain`", PretrainRecipe),
        ("Recipes of `trainer sft` (others as for `pretrain`)", SftRecipe),
    ):
        yield f"## {title}\n"
        schema = json_schema(recipe)
        for name, found in schema["properties"].items():
            if "$ref" not in found:
                yield from _table({name: found})
                continue
            table = schema["$defs"][found["$ref"].rpartition("/")[2]]
            yield f"### [{name}]\n\n{inspect.cleandoc(table.get('description', ''))}\n"
            yield from _table(table["properties"])


def _table(settings: dict[str, Any]) -> Iterator[str]:
    yield "| setting | default | values |\n|---|---|---|"
    for name, schema in settings.items():
        yield f"| `{name}` | {_shown(schema.get('default', ''))} | {_values(schema)} |"
    yield ""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value!r}`".replace("'", '"').replace("|", "\\|")


def _values(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f'`"{choice}"`' for choice in schema["enum"])
    if schema.get("type") == "array":
        return f"list of: {_values(schema['items'])}" if "items" in schema else "list"
    if schema.get("type") == "object":
        return f"table of: {_values(schema['additionalProperties'])}"
    words = {
        "minimum": "at least", "exclusiveMinimum": "above",
        "maximum": "at most", "exclusiveMaximum": "below",
    }  # fmt: skip
    bounds = [f"{word} {schema[key]}" for key, word in words.items() if key in schema]
    kind = {"$ref": "table"}.get(next(iter(schema)), schema.get("type", "value"))
    return f"{kind}, {' and '.join(bounds)}" if bounds else str(kind)


def _columns() -> Iterator[str]:
    from corpus.filters.registry import FILTERS
    from schemas import datasets

    yield "# Columns\n"
    schemas = {**datasets.DATASETS, "shards of conversations": datasets.CONVERSATION_SHARDS}
    for name, schema in schemas.items():
        yield f"## {name}\n\n| column | type | |\n|---|---|---|"
        for field in schema:
            doc = (field.metadata or {}).get(b"doc", b"").decode().replace("|", "\\|")
            yield f"| `{field.name}` | {_type(field.type)} | {doc} |"
        yield ""
    yield "## judged\n\nThe columns of `documents`, and a struct per filter with its signals:\n"
    for name, filter_ in FILTERS.items():
        signals = ", ".join(f"`{signal.name}`" for signal in filter_.SIGNALS)
        yield f"- `{name}`: {signals}"
    yield ""


def _type(kind: pa.DataType) -> str:
    return re.sub(r"element|item", "", str(kind)).replace(": ", "").replace(" not null", "")


def _reasons() -> Iterator[str]:
    from corpus.recipe import Recipe
    from corpus.text.extract_page import EXTRACT_GATES

    yield "# Reasons\n\nValues of `rejected_by`, in the order checked.\n"
    yield "## extract\n\n| gate | reasons | settings |\n|---|---|---|"
    for gate in EXTRACT_GATES:
        named = (", ".join(f"`{one}`" for one in each) for each in (gate.reasons, gate.settings))
        yield f"| {gate.name} | {' | '.join(named)} |"
    yield "\n## filter\n\n| reason | rejects a document unless | default |\n|---|---|---|"
    for section in dataclasses.fields(Recipe):
        filter_ = getattr(Recipe(), section.name)
        for rule in getattr(filter_, "RULES", ()):
            value = getattr(filter_, rule.setting)
            needs = f"`{rule.signal}` {rule.sign} `{rule.setting}`"
            yield f"| `{section.name}.{rule.fault}` | {needs} | {_shown(value)} |"
    yield ""


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if stale")
    check = parser.parse_args().check
    os.environ["COLUMNS"] = "100"
    FOLDER.mkdir(exist_ok=True)
    stale = []
    for name, text in pages().items():
        path, content = FOLDER / name, NOTE + text
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            stale.append(name)
            if not check:
                path.write_text(content, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'is stale; run `make reference`' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
