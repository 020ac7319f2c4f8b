"""Flags, settings and files: the documentation has them all, and what it links to exists."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

from corpus.recipe import Recipe
from jobs import cli as jobs_cli

PROJECT = Path(__file__).parents[1]
PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted(p for p in (PROJECT / "docs").rglob("*.md") if p.parent.name != "generated"),
]


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    flags: set[str] = set()
    for action in parser._actions:
        flags |= {option for option in action.option_strings if option.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                flags |= {name} | _flags(command)
    return flags - {"--help"}


def test_every_flag_and_command_of_gristmill_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = {flag for flag in _flags(jobs_cli.parser()) if f"{flag}" not in text}
    assert not missing


def test_every_setting_of_a_recipe_is_documented() -> None:
    text = (PROJECT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    for section in dataclasses.fields(Recipe):
        default = getattr(Recipe(), section.name)
        if not dataclasses.is_dataclass(default):
            assert f"`{section.name}`" in text, section.name
            continue
        part = re.split(rf"^## \[{section.name}\]", text, flags=re.M)
        assert len(part) == 2, f"[{section.name}] has no section of its own"
        body = part[1].split("\n## ")[0]
        for setting in dataclasses.fields(default):
            assert f"`{setting.name}`" in body, f"{section.name}.{setting.name}"
            repeated = f"`{setting.name}` ("  # a default, which the generated page has
            assert repeated not in body, f"{section.name}.{setting.name}"


def test_every_link_to_a_file_of_the_project_leads_somewhere() -> None:
    for page in [*PAGES, PROJECT / "CHANGELOG.md", PROJECT / "samples" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_generated_pages_are_what_the_code_says() -> None:
    """`make reference` writes them. Python 3.13 formats `--help` otherwise than 3.11."""
    command = [sys.executable, "docs/generate.py", "--check"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    stale = {line.partition(":")[0] for line in done.stdout.splitlines()}
    if sys.version_info[:2] != (3, 11):
        stale -= {"gristmill.md", "trainer.md"}
    assert stale == set()
