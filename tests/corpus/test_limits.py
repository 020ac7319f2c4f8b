"""What one page may cost. Limits that end a process are tried on a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from corpus.text.limits import CpuTimeError, cpu_limit
from corpus.text.main_text import Bounds, Engine, RejectedError, main_text

PROJECT = Path(__file__).parents[2]


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_is_bounded_even_where_exceptions_are_swallowed() -> None:
    def stubborn() -> None:
        while True:
            try:
                spin(0.05)
            except Exception:
                continue

    with pytest.raises(CpuTimeError), cpu_limit(0.1):
        stubborn()


def test_waiting_is_not_counted() -> None:
    started = time.monotonic()
    with cpu_limit(0.1):
        time.sleep(0.3)
    assert time.monotonic() - started >= 0.3  # the block ended by itself


def test_afterwards_nothing_is_left_running() -> None:
    before = signal.getsignal(signal.SIGPROF)
    with cpu_limit(0.05):
        pass
    spin(0.15)
    assert signal.getsignal(signal.SIGPROF) == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_in_another_thread_the_limit_is_not_set_and_nothing_fails() -> None:
    done: list[bool] = []

    def work() -> None:
        with cpu_limit(0.01):
            spin(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


@pytest.mark.parametrize("engine", ["trafilatura", "trafilatura-fast", "resiliparse"])
@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<p>x</p>" * 600, "too_many_nodes"),
        ("<i>" * 6000, "too_many_nodes"),
        ("<div>" * 120 + "<p>text</p>", "too_deep"),
    ],
)
def test_size_and_depth_are_bounded(engine: Engine, html: str, reason: str) -> None:
    with pytest.raises(RejectedError) as rejection:
        main_text(f"<html><body>{html}</body></html>", engine, Bounds(500, 100))
    assert rejection.value.reason == reason


@pytest.mark.parametrize("engine", ["trafilatura", "trafilatura-fast", "resiliparse"])
@pytest.mark.parametrize(
    "page",
    [
        "<p " + " ".join(f"a{i}=x" for i in range(20_000)) + ">text</p>",  # 3 s before
        "<p " + " ".join(f"a{i}='>'" for i in range(20_000)) + ">text",
        "<p/" + "/".join(f"a{i}" for i in range(20_000)) + ">text",
        "<p " + "".join(f'a{i}="\'"' for i in range(20_000)) + ">text",
        "".join(f"<p{' x' * 300} a{i}>text" for i in range(120)),
        "<p " + "\n".join(f"<p{i}" for i in range(20_000)),
    ],
)
def test_attributes_are_bounded_before_they_are_parsed(engine: Engine, page: str) -> None:
    start = time.process_time()
    with pytest.raises(RejectedError, match="too_many_attributes"):
        main_text(f"<html><body>{page}</body></html>", engine, Bounds(50_000, 250))
    assert time.process_time() - start < 1


@pytest.mark.parametrize("engine", ["trafilatura", "resiliparse"])
@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("".join(f"<body a{i}=x>" for i in range(20_000)), "too_many_nodes"),  # 16 s at 1 MB
        ("".join(f"<HTML a{i}=x>" for i in range(20_000)), "too_many_nodes"),  # 17 s
        ("".join(f"<b a{i}><p>x" for i in range(20_000)), "too_many_nodes"),  # 20 GB
        ("".join(f"<b a='>{i}'><p>x</i>" for i in range(20_000)), "too_many_nodes"),
        ("<form><div>" * 40_000, "too_deep"),  # 7 s
        ("<div></x>" * 40_000, "too_deep"),
    ],
)
def test_what_parsers_multiply_is_bounded_before_they_see_it(
    engine: Engine, page: str, reason: str
) -> None:
    start = time.process_time()
    with pytest.raises(RejectedError, match=reason):
        main_text(f"<html><body>{page}</body></html>", engine, Bounds(50_000, 250))
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "table",
    [
        "<td colspan=1000000 rowspan=1000000>x" * 10_000,  # 57 s
        "<tr><td rowspan=99 colspan=99>x" * 800,  # over a minute
        "<tr>" + "<td>x" * 100 + "<tr><td>x" * 2000,  # 2.5 s
        "<tr>" + "<td>x" * 20_000,
    ],
)
def test_cells_that_trafilatura_adds_to_tables_are_bounded(table: str) -> None:
    start = time.process_time()
    with pytest.raises(RejectedError, match=r"too_many_nodes: .* table rows"):
        main_text(f"<html><body><table>{table}", "trafilatura", Bounds(50_000, 250))
    assert time.process_time() - start < 2


def test_formatting_that_is_closed_or_of_one_kind_is_read() -> None:
    icons = "".join(
        f"<p><i class=icon{i}></i><b>A</b> paragraph<font size=2>." for i in range(3000)
    )
    Bounds(50_000, 250).check_source(f"<html><body>{icons}")


def test_pages_with_many_attributes_in_all_are_read() -> None:
    paragraph = f"<p {' '.join(f'a{i}=x' for i in range(90))}>A paragraph of text.</p>"
    bounds = Bounds(50_000, 250)
    assert main_text(f"<html><body>{paragraph * 300}</body></html>", "resiliparse", bounds)


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_memory_of_a_confined_process_is_bounded() -> None:
    code = (
        "from corpus.text.limits import confine; confine(512)\n"
        "try: bytearray(1 << 30)\n"
        "except MemoryError: print('refused')\n"
    )
    assert run(code).stdout == "refused\n"


def test_a_call_that_never_returns_ends_a_confined_process() -> None:
    """A pattern that backtracks for ever runs no Python code in which a signal could be raised."""
    code = (
        "import corpus.text.limits as limits, re; limits.GRACE_SECONDS = 0; limits.confine(2048)\n"
        "with limits.cpu_limit(0.5): re.match(r'(a|a?)+$', 'a' * 40 + 'b')\n"
    )
    assert run(code).returncode in (-signal.SIGXCPU, 1)


def test_a_page_that_takes_too_long_is_named() -> None:
    """In a process of its own: a test runner's callbacks would swallow the first signal."""
    code = (
        "from corpus.text.main_text import Bounds, limited, main_text\n"
        "html = '<html><body>' + '<ul><li>item one two three</li></ul>' * 4000\n"
        "try:\n"
        "    with limited(0.05): main_text(html, 'trafilatura', Bounds(100_000, 250))\n"
        "except Exception as error: print(error)\n"
    )
    assert run(code).stdout == "extraction_cpu_time: over 0.05 CPU seconds\n"
