"""Every command that the README, the tutorial and the how-to guides show is one that works.

A block without a language holds shell commands: the lines after `$ ` if it has any, else all of
them. `make test` parses each with the real parser; `make soak` runs the blocks in the order read,
in one copy of the project. `<!-- not run: REASON -->` before a block leaves it out of the latter.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs import cli as jobs_cli
from trainer import cli as trainer_cli

PROJECT = Path(__file__).parents[1]
HOW_TO = (  # in the order run: the guides that change `out` come last
    "explain-decisions", "find-similar", "train", "evaluate", "sample-and-chat", "export",
    "trace", "decontaminate", "take-down-documents", "run-on-a-cluster",
)  # fmt: skip
PAGES = ("README.md", "docs/tutorial.md", *(f"docs/how-to/{name}.md" for name in HOW_TO))
PARSERS = {"gristmill": jobs_cli.parser(), "trainer": trainer_cli.parser()}
OTHER_PROGRAMS = {".", "duckdb", "echo"}
NOT_RUN_HERE = {"make test": "runs this test"}


@dataclass(frozen=True)
class Command:
    """One command of a page; `not_run` says why `make soak` leaves it out, or is empty."""

    page: str
    line: int
    text: str
    not_run: str


def commands_of(page: str, text: str) -> list[Command]:
    """The commands of a page's shell blocks, in order."""
    found, block, fence, reason = list[Command](), list[tuple[int, str]](), "", ""
    shell, before = False, ""  # whether the block at hand is one; the line before

    def close() -> None:
        nonlocal reason
        marked = [(number, line[2:]) for number, line in block if line.startswith("$ ")]
        for number, line in marked or block:
            why = reason or NOT_RUN_HERE.get(line.partition("#")[0].strip(), "")
            found.append(Command(page, number, line, why))
        if block:
            reason = ""
        block.clear()

    for number, line in enumerate(text.splitlines(), start=1):
        if fence:
            if line.strip() == fence:
                close()
                fence = ""
            elif shell and line.strip():
                block.append((number, line))
        elif opened := re.match(r"(`{3,})(.*)", line):
            close()
            fence, shell = opened[1], not opened[2].strip()
        elif line.startswith("    ") and (block or not before.strip()):
            block.append((number, line.strip()))
        else:
            if line.strip():
                close()
            if comment := re.fullmatch(r"<!-- not run: (.+) -->", line):
                reason = comment[1]
        before = line
    close()
    return found


COMMANDS = [
    command
    for page in PAGES
    for command in commands_of(page, (PROJECT / page).read_text(encoding="utf-8"))
]


def check(text: str) -> str:
    """The program of a command; raises `ValueError` if it would not take the command."""
    words = shlex.split(text, comments=True)
    program, *arguments = words
    for word in words:
        if re.match(r"(recipes|samples|jobs|docs|benchmarks)/", word) and "*" not in word:
            _needs((PROJECT / word).is_file(), f"{word}: no such file")
    if program == "torchrun":
        _needs("-m" in arguments, "torchrun: -m is missing")
        program, *arguments = arguments[arguments.index("-m") + 1 :]
    elif program == "spark-submit":
        _needs("jobs/submit.py" in arguments, "spark-submit: jobs/submit.py is missing")
        program, arguments = "gristmill", arguments[arguments.index("jobs/submit.py") + 1 :]
    if program in PARSERS:
        _parse(PARSERS[program], arguments)
    elif program == "make":
        makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
        for word in arguments:
            name, sign, _ = word.partition("=")
            pattern = rf"^{name} \?=" if sign else rf"^{name}:"
            _needs(re.search(pattern, makefile, re.M), f"make: the Makefile has no {name}")
    elif program == "python":
        _needs(arguments[:1], "python: which script?")
        folder = (PROJECT / arguments[0]).parent
        known = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
        for flag in (word for word in arguments if word.startswith("--")):
            _needs(f'"{flag}"' in known, f"{arguments[0]}: no flag {flag}")
    else:
        _needs(program in OTHER_PROGRAMS, f"{program}: not one of the programs that docs may call")
    return program


def _needs(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    try:
        parser.parse_args(arguments)
    except SystemExit as error:  # what is wrong is on standard error
        raise ValueError(f"{parser.prog} refuses {shlex.join(arguments)}") from error


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: f"{one.page}:{one.line}")
def test_a_command_of_the_docs_is_one_that_its_program_takes(command: Command) -> None:
    assert check(command.text) in {*PARSERS, *OTHER_PROGRAMS, "make", "python"}


@pytest.mark.parametrize(
    "wrong",
    [
        "gristmill runs --recipe r.toml --input a.warc.gz --root out",
        "gristmill run --recipe r.toml --input a.warc.gz",
        "gristmill report --root out --jsn",
        "gristmill run --recipe recipes/none.toml --input a.warc.gz --root out",
        "trainer sample --prompt x",
        "torchrun --nproc-per-node 2 -m trainer pretrain --recipe R --shards DIR",
        "spark-submit --master yarn jobs/submit.py run --recipe fineweb --root out",
        "make demos",
        "make demo INPUTS=x",
        "python benchmarks/none.py",
        "python benchmarks/generation.py --token 3",
        "curl https://example.com",
    ],
)
def test_a_wrong_command_is_found(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"refuses|no such file|has no|no flag|programs"):
        check(wrong)


def test_blocks_are_read_as_the_pages_mean_them() -> None:
    page = (
        "text\n\n    make demo  # why\n\n    make test\n\n- item\n    continued\n\n"
        "<!-- not run: needs a cluster -->\n\n```\n$ one\noutput\n$ two\n```\n\n"
        "```text\nnone\n```\n\n    three\n"
    )
    assert [(one.line, one.text, one.not_run) for one in commands_of("x.md", page)] == [
        (3, "make demo  # why", ""),
        (5, "make test", "runs this test"),
        (13, "one", "needs a cluster"),
        (15, "two", "needs a cluster"),
        (22, "three", ""),
    ]


def test_every_page_of_commands_is_listed() -> None:
    folder = PROJECT / "docs" / "how-to"
    assert {path.stem for path in folder.glob("*.md")} == set(HOW_TO)
    assert {command.page for command in COMMANDS} == set(PAGES)


def test_few_commands_are_left_out_of_the_soak() -> None:
    assert Counter(command.not_run for command in COMMANDS if command.not_run) == {
        "runs this test": 1,
        "needs a cluster": 1,
        "needs duckdb": 1,
        "needs a page.txt": 1,
    }


_ALL_DOCS = sorted(
    path.relative_to(PROJECT).as_posix() for path in (PROJECT / "docs").rglob("*.md")
)


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(
        dict(action.choices)
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *_ALL_DOCS])
def test_commands_in_sentences_have_known_names_and_flags(page: str) -> None:
    """They leave out what a sentence needs not say, so that they cannot be parsed whole."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    for program, name, rest in re.findall(r"`(gristmill|trainer)\s+([a-z-]+)\b([^`]*)`", text):
        commands = _subcommands(PARSERS[program])
        assert name in commands, f"{page}: {program} {name}"
        for flag in re.findall(r"(?<!\S)--[a-z-]+", rest):
            known = commands[name]._option_string_actions
            assert flag in known, f"{page}: {program} {name} has no {flag}"
    for script in re.findall(r"(?<![\w/])(?:benchmarks|samples|tests|docs)/[\w/]+\.py\b", text):
        assert (PROJECT / script).is_file(), f"{page}: {script}"


# What a page assumes that its reader has, as files of the folder where its commands run.
_PIQA = {"goal": "keep soup warm", "sol1": "put a lid on it", "sol2": "cool it", "label": 0}
READERS_FILES = {
    "docs/how-to/evaluate.md": {"piqa.jsonl": json.dumps(_PIQA)},
    "docs/how-to/decontaminate.md": {
        "evals/reading.jsonl": json.dumps({"question": " ".join(map(str, range(20)))}),
        "notes.txt.gz": "A paragraph that no page of the sample crawl has.",
    },
    "docs/how-to/take-down-documents.md": {
        "urls.txt": "https://cloudbarn-software.dev/docs/workers.html",
        "domains.txt": "copper-ladle-and-spoon.net",
        "ids.txt": "<urn:uuid:659d310c-6044-557b-89c2-ac60ae7bd220>",
    },
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project in a folder of its own, installed: its .venv is the interpreter's environment."""
    folder = tmp_path / "gristmill"
    unneeded = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "demo", "demo-chat", "spark-warehouse",
        "artifacts", "tests",
    )  # fmt: skip
    shutil.copytree(PROJECT, folder, ignore=unneeded)
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith(".installed"):
            (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv" / ".installed").touch()  # newer than what it is made from: no installation
    return folder


def _give(folder: Path, page: str) -> None:
    for name, text in READERS_FILES.get(page, {}).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        packed = gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode()
        path.write_bytes(packed)


def _run(command: Command, folder: Path) -> tuple[int, str]:
    """Run a command as the page says: its exit code, and where it stands with its output."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PATH": f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", command.text], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600,
    )  # fmt: skip
    return done.returncode, f"{command.page}:{command.line}: {command.text}\n{done.stdout[-4000:]}"


@pytest.mark.soak
def test_every_command_runs_in_the_order_read(
    copy: Path, java: None, figures: Callable[[str, str], None]
) -> None:
    """The README, the tutorial and the how-to guides, one after the other in one folder."""
    for page in PAGES:
        _give(copy, page)
        for command in COMMANDS:
            if command.page == page and not command.not_run:
                code, shown = _run(command, copy)
                assert code == 0, shown
    left_out = Counter(command.not_run for command in COMMANDS if command.not_run)
    figures("commands of the docs", f"{len(COMMANDS)}, not run: {dict(left_out)}")
