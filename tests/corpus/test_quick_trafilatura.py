"""The text is trafilatura's own, as a process gives it in which nothing was made quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from corpus import quick_trafilatura
from corpus.charset import decode
from corpus.http_body import decode_body, parse_response
from corpus.warc import read_records

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
    tree = quick_trafilatura.parse(page)
    return "" if tree is None else quick_trafilatura.extract(tree, fast)


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
        tree = quick_trafilatura.parse(page)
        if tree is not None:
            heard += quick(page, False) != quick(page, True)
    assert heard > 5
