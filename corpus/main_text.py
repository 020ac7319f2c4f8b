"""Main text of an HTML page by trafilatura or resiliparse, within bounds on the parsed tree.

trafilatura is called as FineWeb calls it (precision, no comments), but without `deduplicate`: that
is a memory of the whole process, so that a page's text depends on what came before it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from corpus import quick_trafilatura
from corpus.limits import CpuTimeError, cpu_limit

Engine = Literal["trafilatura", "trafilatura-fast", "resiliparse"]

_TAG = re.compile("<[a-zA-Z]")

# What an element's attributes cost grows with their square in both parsers. Of all that an element
# has beyond the first hundred, a page may have this many; 4,917 real pages have 2,016 at most.
_USUAL_ATTRIBUTES, _MAX_ATTRIBUTES = 100, 10_000
# HTML standard, 13.2.5.32 to 13.2.5.40.
_ATTRIBUTE = (
    r"(?:[ \t\n\f\r/]*+[^ \t\n\f\r/>][^ \t\n\f\r/>=]*+"
    r"(?:[ \t\n\f\r]*+=[ \t\n\f\r]*+"
    r"(?:\"[^\"]*+\"?|'[^']*+'?|[^ \t\n\f\r>\"'][^ \t\n\f\r>]*+)?+)?+)"
)
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_UNUSUAL_ATTRIBUTES = re.compile(
    rf"<[a-zA-Z][^ \t\n\f\r/>]*+{_ATTRIBUTE}{{0,{_USUAL_ATTRIBUTES}}}+({_ATTRIBUTE}*+)"
)


class RejectedError(Exception):
    """A page that is rejected: `reason` is its `rejected_by`, `detail` what a person wants."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Bounds:
    """What a parsed page may have: elements, and elements one inside the other."""

    max_nodes: int
    max_depth: int

    def check_source(self, html: str) -> None:
        """Refuse before parsing what would not fit in memory; scripts may quote many tags, too."""
        most = 10 * self.max_nodes
        if html.count("<") > most and (tags := len(_TAG.findall(html))) > most:
            raise RejectedError("too_many_nodes", f"{tags} start tags")
        if len(html) > 2 * _MAX_ATTRIBUTES:
            tails = filter(None, _UNUSUAL_ATTRIBUTES.findall(html))
            more = sum(len(_ATTRIBUTES.findall(tail)) for tail in tails)
            if more > _MAX_ATTRIBUTES:
                detail = f"{more} beyond the first {_USUAL_ATTRIBUTES} of an element"
                raise RejectedError("too_many_attributes", detail)

    def check_tree(self, num_nodes: int, too_deep: bool) -> None:
        """Refuse a tree by what was counted in it."""
        if num_nodes > self.max_nodes:
            raise RejectedError("too_many_nodes", f"{num_nodes} elements")
        if too_deep:
            raise RejectedError("too_deep", f"elements nested over {self.max_depth} deep")


@functools.cache
def extractor_name(engine: str) -> str:
    """Engine and version, for the rows and the manifest."""
    package = engine.split("-")[0]
    return f"{engine} {importlib.metadata.version(package)}"


@contextmanager
def limited(max_cpu_seconds: float) -> Iterator[None]:
    """Make a `RejectedError` of whatever goes wrong in the block, and of too much CPU time."""
    try:
        with cpu_limit(max_cpu_seconds):
            yield
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


def main_text(html: str, engine: Engine, bounds: Bounds) -> str:
    """The main text of `html`, '' if there is none; raises `RejectedError` where a bound is met."""
    if engine == "resiliparse":
        return ResiliparsePage(html, bounds).main_content
    bounds.check_source(html)
    tree = quick_trafilatura.parse(html)
    if tree is None:
        return ""
    count, deep = _measures(bounds.max_depth)
    # A start tag gives at most three elements (td: tbody and tr, too), so few tags need no count.
    num_nodes = 0 if 3 * html.count("<") + 3 <= bounds.max_nodes else int(count(tree))
    bounds.check_tree(num_nodes, deep(tree))
    return quick_trafilatura.extract(tree, fast=engine == "trafilatura-fast")


@functools.lru_cache(maxsize=4)
def _measures(max_depth: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """XPath for the number of elements, and whether one is nested deeper."""
    from lxml.etree import XPath

    return XPath("count(//*)"), XPath("boolean(" + "/*" * (max_depth + 1) + ")")


class ResiliparsePage:
    """A page as resiliparse sees it, parsed when a text is first asked for.

    Raises `RejectedError` then, where it meets a bound.
    """

    def __init__(self, html: str, bounds: Bounds) -> None:
        self.html, self._bounds = html, bounds

    @functools.cached_property
    def _tree(self) -> Any:
        from resiliparse.parse.html import HTMLTree

        bounds = self._bounds
        bounds.check_source(self.html)
        tree = HTMLTree.parse(self.html)
        assert tree.document is not None
        num_nodes = len(tree.document.get_elements_by_tag_name("*"))
        deeper = " > ".join("*" * (bounds.max_depth + 1))
        too_deep = num_nodes > bounds.max_depth and bool(tree.document.query_selector(deeper))
        bounds.check_tree(num_nodes, too_deep)
        return tree

    @functools.cached_property
    def main_content(self) -> str:
        """The main text as DCLM takes it."""
        from resiliparse.extract.html2text import extract_plain_text

        return extract_plain_text(self._tree, main_content=True, comments=False)

    @functools.cached_property
    def all_text(self) -> str:
        """All text that a reader sees."""
        from resiliparse.extract.html2text import extract_plain_text

        return extract_plain_text(self._tree, main_content=False)
