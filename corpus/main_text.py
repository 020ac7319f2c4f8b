"""Main text of an HTML page by trafilatura or resiliparse, within bounds on the parsed tree.

trafilatura is called as FineWeb calls it (precision, no comments), but without `deduplicate`: that
is a memory of the whole process, so that a page's text depends on what came before it. The tree
is parsed by trafilatura's own loader, counted, and handed over; the text is the same as from the
string.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import re
from collections.abc import Callable
from typing import Any

from corpus.limits import CpuTimeError, cpu_limit

_TAG = re.compile("<[a-zA-Z]")


class RejectedError(Exception):
    """A page that is rejected: `reason` is its `rejected_by`, `detail` what a person wants."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@functools.cache
def extractor_name(engine: str) -> str:
    """Engine and version, for the rows and the manifest."""
    package = engine.split("-")[0]
    return f"{engine} {importlib.metadata.version(package)}"


def main_text(
    html: str, engine: str, max_nodes: int, max_depth: int, max_cpu_seconds: float
) -> str:
    """The main text of `html`, '' if there is none; raises `RejectedError` where a limit is met."""
    try:
        with cpu_limit(max_cpu_seconds):
            _check_tags(html, max_nodes)
            if engine == "resiliparse":
                return _resiliparse(html, max_nodes, max_depth)
            return _trafilatura(html, engine == "trafilatura-fast", max_nodes, max_depth)
    except CpuTimeError:
        raise RejectedError("extraction_cpu_time", f"over {max_cpu_seconds} CPU seconds") from None
    except MemoryError:
        raise RejectedError("extraction_memory", "out of memory") from None
    except RecursionError:
        raise RejectedError("extraction_failed", "RecursionError") from None
    except RejectedError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"[:200]
        raise RejectedError("extraction_failed", detail) from None


def _check_tags(html: str, max_nodes: int) -> None:
    """Refuse before parsing what would not fit in memory; scripts may quote many tags, too."""
    if html.count("<") > 10 * max_nodes and (tags := len(_TAG.findall(html))) > 10 * max_nodes:
        raise RejectedError("too_many_nodes", f"{tags} start tags")


def _trafilatura(html: str, fast: bool, max_nodes: int, max_depth: int) -> str:
    # Imported here: half a second that readers of settings need not pay.
    import trafilatura
    from trafilatura.utils import load_html

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    tree = load_html(html)
    if tree is None:
        return ""
    count, deep = _measures(max_depth)
    _check_bounds(int(count(tree)), deep(tree), max_nodes, max_depth)
    text = trafilatura.extract(
        tree, fast=fast, favor_precision=True, include_comments=False, deduplicate=False
    )
    return text or ""


def _resiliparse(html: str, max_nodes: int, max_depth: int) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    assert tree.document is not None
    num_nodes = len(tree.document.get_elements_by_tag_name("*"))
    deep = tree.document.query_selector(" > ".join("*" * (max_depth + 1))) is not None
    _check_bounds(num_nodes, deep, max_nodes, max_depth)
    return extract_plain_text(tree, main_content=True, comments=False)


def _check_bounds(num_nodes: int, deep: bool, max_nodes: int, max_depth: int) -> None:
    if num_nodes > max_nodes:
        raise RejectedError("too_many_nodes", f"{num_nodes} elements")
    if deep:
        raise RejectedError("too_deep", f"elements nested over {max_depth} deep")


@functools.lru_cache(maxsize=4)
def _measures(max_depth: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """XPath for the number of elements, and whether one is nested deeper."""
    from lxml.etree import XPath

    return XPath("count(//*)"), XPath("boolean(" + "/*" * (max_depth + 1) + ")")
