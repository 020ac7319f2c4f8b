"""Texts of real pages for the parts that need many: resiliparse's main text, cheap to get."""

from __future__ import annotations

import functools

from rich.console import Console
from rich.progress import track

from common.gold import read_pages
from corpus.text.main_text import Bounds, RejectedError, limited, main_text

BOUNDS = Bounds(max_nodes=50_000, max_depth=250)
MIN_CHARS = 200


@functools.cache
def page_texts(crawl: str, console: Console) -> list[str]:
    """The main text of every page of the WARC files that has more than `MIN_CHARS` characters."""
    pages = track(read_pages(crawl), "pages", console=console, transient=True)
    found = [text for page in pages if len(text := _text(page.html)) > MIN_CHARS]
    if not found:
        raise SystemExit(f"--crawl {crawl}: no page with a text there")
    return found


def _text(html: str) -> str:
    try:
        with limited(10):
            return main_text(html, "resiliparse", BOUNDS)
    except RejectedError:
        return ""
