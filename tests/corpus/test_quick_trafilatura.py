"""The text is trafilatura's own, as a process gives it in which nothing was made quick."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.text import fast_trafilatura
from corpus.text.charset import decode
from corpus.text.extract_page import Gates, extract_file
from corpus.warc.http import decode_body, parse_response
from corpus.warc.records import read_records

PROJECT = Path(__file__).parents[2]
_REFERENCE = """
import json, logging, sys, trafilatura
logging.disable(logging.CRITICAL)
settings = json.loads(sys.argv[1])
for line in sys.stdin:
    text = trafilatura.extract(
        json.loads(line), favor_precision=True, include_comments=False, **settings
    )
    print(json.dumps(text or ""))
"""


def pages(path: Path) -> list[str]:
    found = []
    for record in read_records(str(path)):
        response = parse_response(record.content) if record.content else None
        if response and response.status == 200:
            found.append(decode(decode_body(response, 8 << 20).content).text)
    return [page for page in found if page.strip()]


def reference(htmls: list[str], fast: bool) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _REFERENCE, json.dumps({"fast": fast})],
        input="".join(f"{json.dumps(page)}\n" for page in htmls),
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def quick(page: str, fast: bool) -> str:
    tree = fast_trafilatura.parse(page)
    return "" if tree is None else fast_trafilatura.extract(tree, fast)


@pytest.mark.parametrize("fast", [False, True])
def test_texts_of_real_pages_are_the_same(shared: Path, fast: bool) -> None:
    htmls = pages(shared / "crawl" / "REALWEB-small-00000.warc.gz")
    assert len(htmls) > 200
    assert [quick(page, fast) for page in htmls] == reference(htmls, fast)


def test_texts_of_the_sample_crawl_are_the_same() -> None:
    htmls = pages(PROJECT / "samples" / "SAMPLE-00000.warc.gz")[:60]
    assert [quick(page, False) for page in htmls] == reference(htmls, False)


def test_readability_is_heard_where_it_finds_more(shared: Path) -> None:
    """Else the comparison above would not touch it: some pages take their text from there."""
    heard = 0
    for page in pages(shared / "crawl" / "REALWEB-small-00000.warc.gz"):
        tree = fast_trafilatura.parse(page)
        if tree is not None:
            heard += quick(page, False) != quick(page, True)
    assert heard > 5


def _controls() -> list[str]:
    """References to every C0 and C1 control, surrogates, non-characters and what is no character,
    as HTML reads them: in decimal and hexadecimal, with zeros before them, with and without ";".
    """
    numbers = [*range(32), *range(127, 160), 0xD800, 0xDFFF, 0xFDD0, 0xFFFE, 0xFFFF, 0x1FFFF]
    forms = ("&#{:d};", "&#{:06d};", "&#x{:x};", "&#X{:05X};", "&#{:d} ", "&#x{:x}. ")
    return [form.format(n) for n in (*numbers, 0x110000, 1 << 32, 10**40) for form in forms]


_PARAGRAPHS = [
    f"This is paragraph {number} of a page which has enough of them to be read as a whole, one"
    f"{{}} after the other, until {number} sentences have been said about it."
    for number in range(8)
]


@pytest.mark.parametrize("fast", [False, True])
def test_a_reference_to_a_control_costs_itself_alone(fast: bool) -> None:
    """trafilatura gives no text at all for a page with "&#1;" in it."""
    for reference_ in _controls():
        html = "".join(f"<p>{text.format(reference_)}</p>" for text in _PARAGRAPHS)
        html += f'<p><a href="/{reference_}" title="{reference_}">Paragraphs have links.</a></p>'
        found = quick(f"<html><body><article>{html}</article></body></html>", fast)
        printable = "".join(c for c in found if c.isprintable() or c == "\n")
        for number, text in enumerate(_PARAGRAPHS):
            first, last = text.split("{}")
            assert first in printable, (reference_, number)
            assert last.strip() in printable, (reference_, number)


def test_what_a_reference_stood_between_makes_no_other_one() -> None:
    replace = functools.partial(fast_trafilatura._CONTROL_REFERENCE.sub, "[]")
    assert replace("&&#1;#1; &#x1F; &#1 &#27a &#x1A;") == "&[]#1; &#x1F; [] []a []"
    others = "&#9; &#10; &#11; &#12; &#13; &#0; &#128; &#x80; &#28; &#x1e; &#100; &#x1000; &#1234;"
    assert replace(others) == others


@pytest.mark.soak
def test_pages_of_the_crawl_that_name_a_control_are_read(
    shared: Path, figures: Callable[[str, str], None]
) -> None:
    """Of all its other pages the source, and so the text, is what it was."""
    found = {}
    for path in sorted((shared / "crawl").glob("REALWEB-public-*.warc.gz")):
        for page in pages(path):
            if fast_trafilatura._CONTROL_REFERENCE.search(page):
                found[page] = quick(page, fast=False)
    without = reference(list(found), fast=False)
    assert len(found) == 3
    assert [bool(text) for text in found.values()] == [True] * 3
    lost = sum(not text for text in without)
    figures("control references", f"{len(found)} of 4,917 pages; trafilatura alone loses {lost}")


def test_the_version_that_is_patched_is_the_one_that_is_pinned() -> None:
    pin = f"trafilatura=={fast_trafilatura.TRAFILATURA_VERSION}"
    assert pin in tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert pin in (PROJECT / "constraints.txt").read_text().splitlines()


_OTHER_TRAFILATURA = """
import json, sys, types, warnings
import trafilatura
from corpus.text.extract_page import Gates, extract_file
from corpus.text.fast_trafilatura import TRAFILATURA_VERSION

if sys.argv[1] == "another version":
    trafilatura.__version__ = "2.3.2"
else:  # the public functions alone, none of the modules that are patched
    stub = types.ModuleType("trafilatura")
    stub.__version__ = TRAFILATURA_VERSION
    stub.load_html, stub.extract = trafilatura.load_html, trafilatura.extract
    for name in [name for name in sys.modules if name.startswith("trafilatura")]:
        del sys.modules[name]
    sys.modules["trafilatura"] = stub
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rows = [one.row for _ in range(2) for one in extract_file(sys.argv[2], "a.warc.gz", Gates())]
texts = [(row["rejected_by"], row["text"]) for row in rows if row]
print(json.dumps([texts, [str(one.message) for one in caught]]))
"""


@pytest.mark.parametrize("misfit", ["another version", "no internals"])
def test_a_trafilatura_that_does_not_fit_is_used_unpatched_with_one_warning(misfit: str) -> None:
    path = PROJECT / "samples" / "SAMPLE-00000.warc.gz"
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_TRAFILATURA, misfit, str(path)],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows, warnings = json.loads(done.stdout)
    expected = [
        [one.row["rejected_by"], one.row["text"]]
        for one in extract_file(str(path), "a.warc.gz", Gates())
        if one.row
    ]
    assert rows == 2 * expected
    assert sum(text is not None for _, text in expected) > 50
    (warning,) = [text for text in warnings if "trafilatura" in text]
    assert "is used unpatched" in warning
    assert f"install trafilatura=={fast_trafilatura.TRAFILATURA_VERSION}" in warning
    assert ("2.3.2" in warning) == (misfit == "another version")
