"""Import directions: schemas <- corpus <- jobs, and schemas <- trainer; nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
OURS = {"schemas", "corpus", "jobs", "trainer"}
MAY_IMPORT = {
    "schemas": set(),
    "corpus": {"schemas"},
    "jobs": {"schemas", "corpus"},
    "trainer": {"schemas"},
}
NEVER = {
    "schemas": {"pyspark", "pysail", "torch"},
    "corpus": {"pyspark", "pysail", "torch"},
    "jobs": {"torch"},
    "trainer": {"pyspark", "pysail"},
}


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    files = list((PROJECT / package).rglob("*.py"))
    assert files
    for path in files:
        imported = _imports(path)
        assert imported & OURS <= MAY_IMPORT[package] | {package}, path
        assert not imported & NEVER[package], path


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_relative_import_hides_nothing(package: str) -> None:
    for path in (PROJECT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_no_module_reaches_for_the_network_when_it_is_imported() -> None:
    """All modules import in a process whose sockets refuse to connect."""
    modules = [
        ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        for package in sorted(OURS)
        for path in sorted((PROJECT / package).rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    code = (
        "import socket, importlib\n"
        "def refuse(*a, **k): raise AssertionError('a connection at import')\n"
        "socket.socket.connect = refuse\n"
        "socket.create_connection = refuse\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
