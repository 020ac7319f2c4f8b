"""Import directions: schemas <- corpus <- jobs, and schemas <- trainer; one exception."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import networkx
import pytest

PROJECT = Path(__file__).parents[1]
OURS = {"schemas", "corpus", "jobs", "trainer"}
MAY_IMPORT = {
    "schemas": set(),
    "corpus": {"schemas"},
    "jobs": {"schemas", "corpus"},
    "trainer": {"schemas"},
}
# `gristmill where` asks in which batches a page is.
EXCEPTION = ("jobs/reports/where.py", "trainer.data.trace")
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
        also = {"trainer"} if path == PROJECT / EXCEPTION[0] else set()
        assert imported & OURS <= MAY_IMPORT[package] | {package} | also, path
        assert not imported & NEVER[package], path


def test_jobs_import_one_module_of_the_trainer_which_needs_no_torch() -> None:
    found = set()
    for path in (PROJECT / "jobs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("trainer"):
                found.add((path.relative_to(PROJECT).as_posix(), node.module))
    assert found == {EXCEPTION}
    code = f"import sys, {EXCEPTION[1]}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_relative_import_hides_nothing(package: str) -> None:
    for path in (PROJECT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def _modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the four packages."""
    found = {}
    for package in sorted(OURS):
        for path in (PROJECT / package).rglob("*.py"):
            name = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def _imported_modules(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of ours that a module imports when it is imported itself."""
    found = set[str]()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
    return found


def test_no_modules_import_each_other_in_a_cycle() -> None:
    modules = _modules()
    graph = networkx.DiGraph()
    for name, path in modules.items():
        graph.add_edges_from((name, other) for other in _imported_modules(path, modules))
    assert graph.number_of_edges() > 300
    cycles = [group for group in networkx.strongly_connected_components(graph) if len(group) > 1]
    assert cycles == []


def test_folders_stay_small_enough_to_be_surveyed() -> None:
    sizes = Counter(path.parent for path in _modules().values())
    assert {str(folder): size for folder, size in sizes.items() if size > 15} == {}


@pytest.mark.parametrize("folder", ["jobs", "benchmarks", "benchmarks/peers", "samples"])
def test_no_script_hides_a_module_of_the_standard_library_or_a_package_of_ours(folder: str) -> None:
    """`python FOLDER/script.py` and spark-submit put the script's folder first on `sys.path`."""
    names = {path.stem for path in (PROJECT / folder).iterdir()}
    assert names & (sys.stdlib_module_names | set(SCANNED)) == set()


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


# What runs code that data holds, or reaches the network: forbidden by the full name of what is
# called or imported. A call in NEEDS is allowed with the argument that makes it harmless.
FORBIDDEN = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code",
    "eval", "exec", "compile", "execfile", "__import__", "builtins.eval", "builtins.exec",
    "builtins.compile", "builtins.__import__", "runpy", "imp",
    "importlib.util.spec_from_file_location", "importlib.machinery.SourceFileLoader",
    "os.system", "os.popen", "pty.spawn", "subprocess.getoutput", "subprocess.getstatusoutput",
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.unsafe_load_all",
    "torch.jit.load", "torch.hub", "torch.package", "torch.export.load", "pandas.read_pickle",
    "pyarrow.PyExtensionType", "pyarrow.deserialize",
    "tempfile.mktemp", "jinja2.Environment", "jinja2.Template", "ctypes",
    "shutil.unpack_archive", "xml", "lxml.etree.XMLParser", "lxml.etree.fromstring",
    "socket", "socketserver", "ssl", "http.client", "http.server", "urllib.request", "requests",
    "urllib3", "httpx", "aiohttp", "ftplib", "smtplib", "telnetlib", "xmlrpc", "asyncio",
}  # fmt: skip
NEEDS = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
}
FORBIDDEN_BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"extractall", "read_pickle", "to_pickle", "exec_module", "set_auto_load"}
ARCHIVE_METHODS = {"extract"}  # where a module reads archives
NEVER_TRUE = {"shell", "trust_remote_code", "allow_pickle", "unsafe"}
NAMED_BY_DATA = {"importlib.import_module", "importlib.reload"}  # only of a name written out
# File -> what it may do, each for the reason that stands beside it there.
ALLOWED = {
    "jobs/engine/session.py": {"socket"},  # whether a Spark Connect server answers
    "benchmarks/common/measured.py": {"ctypes"},  # prctl, for the processes that it measures
}
SCANNED = ("corpus", "jobs", "schemas", "trainer", "samples", "benchmarks")


def dangers(source: str) -> list[str]:
    """What of the forbidden a module calls or imports, by full name, whatever its alias."""
    tree, names, found = ast.parse(source), dict[str, str](), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                top = one.name.split(".")[0]
                names[one.asname or top] = one.name if one.asname else top
                found += _forbidden(one.name)
        elif isinstance(node, ast.ImportFrom):
            for one in node.names:
                full = f"{node.module}.{one.name}"
                names[one.asname or one.name] = full
                found += _forbidden(full)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += _dangers_of(node, names)
        elif isinstance(getattr(node, "ctx", None), ast.Load):  # also where it is only handed on
            found += _forbidden(_full_name(node, names))
    return sorted(set(found))


def _dangers_of(call: ast.Call, names: dict[str, str]) -> list[str]:
    full, found = _full_name(call.func, names), []
    given = {word.arg: word.value for word in call.keywords}
    if full in NEEDS:
        argument, right = NEEDS[full]
        value = given.get(argument)
        if not (isinstance(value, ast.Constant) and value.value is right):
            found.append(full)
    if full in NAMED_BY_DATA and not (call.args and isinstance(call.args[0], ast.Constant)):
        found.append(full)
    reads_archives = any(name.split(".")[0] in ("tarfile", "zipfile") for name in names.values())
    methods = METHODS | ARCHIVE_METHODS if reads_archives else METHODS
    if isinstance(call.func, ast.Attribute) and call.func.attr in methods:
        found.append(call.func.attr)
    for argument in NEVER_TRUE & given.keys():
        value = given[argument]
        if not (isinstance(value, ast.Constant) and not value.value):
            found.append(argument)
    if None in given and full in NEEDS:  # **options may hold anything
        found.append(full)
    return found


def _full_name(node: ast.AST, names: dict[str, str]) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    known = isinstance(node, ast.Name) and (node.id in names or node.id in FORBIDDEN_BUILTINS)
    if not known:  # a variable, which may have a module's name
        return ""
    assert isinstance(node, ast.Name)
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def _forbidden(full: str) -> list[str]:
    parts = full.split(".")
    prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return sorted(prefixes & FORBIDDEN)


@pytest.mark.parametrize("package", SCANNED)
def test_no_module_runs_code_from_data_or_reaches_for_the_network(package: str) -> None:
    files = list((PROJECT / package).rglob("*.py"))
    assert files
    for path in files:
        name = path.relative_to(PROJECT).as_posix()
        found = set(dangers(path.read_text(encoding="utf-8")))
        assert found <= ALLOWED.get(name, set()), f"{name}: {sorted(found)}"
        assert found == ALLOWED.get(name, set()), f"{name}: no longer needs what it is allowed"


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads as parse", "pickle"),
        ("import marshal", "marshal"),
        ("import shelve", "shelve"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("run = exec\nrun(text)", "exec"),
        ("compile(text, '', 'exec')", "compile"),
        ("import builtins\nbuiltins.eval(text)", "builtins.eval"),
        ("__import__(name)", "__import__"),
        ("import importlib\nimportlib.import_module(name)", "importlib.import_module"),
        ("from importlib import import_module as load\nload(name)", "importlib.import_module"),
        ("import importlib.util as u\nu.spec_from_file_location(a, b)",
         "importlib.util.spec_from_file_location"),
        ("spec.loader.exec_module(module)", "exec_module"),
        ("import os\nos.system(text)", "os.system"),
        ("from os import popen", "os.popen"),
        ("import subprocess as s\ns.run(text, shell=True)", "shell"),
        ("import subprocess\nsubprocess.run(text, shell=flag)", "shell"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("import torch\ntorch.load(path)", "torch.load"),
        ("import torch\ntorch.load(path, weights_only=False)", "torch.load"),
        ("import torch\ntorch.load(path, **options)", "torch.load"),
        ("from torch import load\nload(path)", "torch.load"),
        ("import torch.jit\ntorch.jit.load(path)", "torch.jit.load"),
        ("import tarfile\ntarfile.open(path).extractall(to)", "extractall"),
        ("import tarfile as t\nt.open(path).extract(member)", "extract"),
        ("import shutil\nshutil.unpack_archive(path)", "shutil.unpack_archive"),
        ("import numpy as np\nnp.load(path)", "numpy.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "allow_pickle"),
        ("import numpy as np\nnp.save(path, array)", "numpy.save"),
        ("import pandas as pd\npd.read_pickle(path)", "pandas.read_pickle"),
        ("import pyarrow as pa\npa.PyExtensionType.set_auto_load(True)", "set_auto_load"),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", "trust_remote_code"),
        ("import jinja2\njinja2.Environment()", "jinja2.Environment"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("import socket", "socket"),
        ("from urllib.request import urlopen", "urllib.request"),
        ("from urllib import request", "urllib.request"),
        ("import requests", "requests"),
        ("import http.client", "http.client"),
    ],
)  # fmt: skip
def test_the_check_finds_each_danger(source: str, named: str) -> None:
    assert named in dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile(text)",
        "import torch\ntorch.compile(model)\nmodel.eval()",
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path, mmap_mode='r', allow_pickle=False)",
        "import importlib\nimportlib.import_module('jobs.cli')",
        "from urllib.parse import urlsplit\nurlsplit(url)",
        "import subprocess\nsubprocess.run(['a', text], shell=False)",
        "import tarfile\ntarfile.open(path).extractfile(member)",
        "def f(requests, code): return requests.reason(code)",
        "text = trafilatura.extract(html)",
    ],
)
def test_the_check_lets_harmless_code_be(source: str) -> None:
    assert not dangers(source)
