"""Main text of an HTML page by trafilatura or resiliparse, with bounds on the parsed tree.

trafilatura is called as FineWeb calls it (precision, no comments), but without `deduplicate`, which
keeps state for the whole process and makes a page's text depend on the pages before it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from lxml.etree import XPath

from corpus.text import fast_trafilatura
from corpus.text.limits import CpuTimeError, cpu_limit

Engine = Literal["trafilatura", "trafilatura-fast", "resiliparse"]

_TAG = re.compile("<[a-zA-Z]")

# Both parsers take time quadratic in the attributes of an element. `_MAX_ATTRIBUTES` bounds those
# beyond the first hundred of an element, summed over a page; 4,917 real pages have 2,016 at most.
_USUAL_ATTRIBUTES, _MAX_ATTRIBUTES = 100, 10_000
_SHORT_CHARS = 64 << 10  # up to here a page's attributes cost a second at most
_LONG_CHARS = 2 << 20  # from here on a page can have enough attributes to fill memory
_FEW_TABLE_TAGS = 20
# HTML standard, 13.2.5.32 to 13.2.5.40.
_ATTRIBUTE = (
    r"(?:[ \t\n\f\r/]*+[^ \t\n\f\r/>][^ \t\n\f\r/>=]*+"
    r"(?:[ \t\n\f\r]*+=[ \t\n\f\r]*+"
    r"(?:\"[^\"]*+\"?|'[^']*+'?|[^ \t\n\f\r>\"'][^ \t\n\f\r>]*+)?+)?+)"
)
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_ALL_ATTRIBUTES = re.compile(rf"<[a-zA-Z][^ \t\n\f\r/>]*+({_ATTRIBUTE}*+)")
# Elements that an HTML parser opens again in every paragraph until they are closed (HTML standard,
# 13.2.4.3), three of a kind at most: a page can have as many elements as these times its tags. And
# <html> and <body>, each of which adds its attributes to those of the first one.
_FORMATTING = re.compile(
    r"<(/)?(?=[bBcCeEfFhHiInNsStTuU])"
    r"((?i:b|big|body|code|em|font|html|i|nobr|s|small|strike|strong|tt|u))(?=[ \t\n\f\r/>])"
    rf"((?(1)|{_ATTRIBUTE}*+))"
)
_USUAL_FORMATTING, _MAX_ROOTS = 100, 1000
# Elements that have no end, or end where the next begins or their parent ends; and formatting.
_NO_DEPTH = """
    area base br col embed hr img input link meta param source track wbr
    p li dt dd tr td th thead tbody tfoot option optgroup colgroup caption rt rp rb rtc
    html head body
    a b big code em font i nobr s small strike strong tt u"""
_NOT_COUNTED = frozenset(_NO_DEPTH.split())
_NAME = re.compile("</?[a-zA-Z][^ \t\n\f\r/>]*+")
# At some tags a parser visits all open elements; that is cheap if tags are few.
_FEW_TAGS, _USUAL_TAGS, _DEPTHS = 2000, 10_000, 20
_MAX_SPAN, _MAX_ROW = 100, 10_000  # the largest colspan trafilatura uses; cells of a row
_UNUSUAL_ATTRIBUTES = re.compile(
    rf"<[a-zA-Z][^ \t\n\f\r/>]*+{_ATTRIBUTE}{{0,{_USUAL_ATTRIBUTES}}}+({_ATTRIBUTE}*+)"
)


class RejectedError(Exception):
    """A page that is rejected; `reason` and `detail` become its `rejected_by` and `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def main_text(html: str, engine: Engine, bounds: Bounds) -> str:
    """The main text of `html`, '' if there is none; raises `RejectedError` beyond a bound."""
    if engine == "resiliparse":
        return ResiliparsePage(html, bounds).main_content
    bounds.check_source(html)
    tree = fast_trafilatura.parse(html)
    if tree is None:
        return ""
    count, deep = _measures(bounds.max_depth)
    # A start tag adds at most three elements (td: tbody and tr too), so few tags need no count.
    num_nodes = 0 if 3 * html.count("<") + 3 <= bounds.max_nodes else int(count(tree))
    bounds.check_tree(num_nodes, deep(tree))
    if html.count("<t") + html.count("<T") > _FEW_TABLE_TAGS:
        bounds.check_tables(tree)
    return fast_trafilatura.extract(tree, fast=engine == "trafilatura-fast")


@functools.lru_cache(maxsize=4)
def _measures(max_depth: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """XPaths for the number of elements, and whether one is nested deeper."""
    return XPath("count(//*)"), XPath("boolean(" + "/*" * (max_depth + 1) + ")")


@functools.cache
def extractor_name(engine: str) -> str:
    """Engine and version, for rows and manifests."""
    package = engine.split("-")[0]
    return f"{engine} {importlib.metadata.version(package)}"


@contextmanager
def limited(max_cpu_seconds: float) -> Iterator[None]:
    """Turn every exception in the block, and too much CPU time, into a `RejectedError`."""
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


class ResiliparsePage:
    """A page that resiliparse parses when its text is first read.

    Raises `RejectedError` then if it is beyond a bound.
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
        """The main text as DCLM extracts it."""
        from resiliparse.extract.html2text import extract_plain_text

        return extract_plain_text(self._tree, main_content=True, comments=False)

    @functools.cached_property
    def all_text(self) -> str:
        """All visible text."""
        from resiliparse.extract.html2text import extract_plain_text

        return extract_plain_text(self._tree, main_content=False)


@dataclass(frozen=True)
class Bounds:
    """Limits on a parsed page: its elements, and the depth of their nesting."""

    max_nodes: int
    max_depth: int

    def check_source(self, html: str) -> None:
        """Reject before parsing what would not fit in memory; tags in scripts count too."""
        most = 10 * self.max_nodes
        if html.count("<") > most and (tags := len(_TAG.findall(html))) > most:
            raise RejectedError("too_many_nodes", f"{tags} start tags")
        if len(html) > _SHORT_CHARS:
            tails = filter(None, _UNUSUAL_ATTRIBUTES.findall(html))
            more = sum(len(_ATTRIBUTES.findall(tail)) for tail in tails)
            if more > _MAX_ATTRIBUTES:
                detail = f"{more} beyond the first {_USUAL_ATTRIBUTES} of an element"
                raise RejectedError("too_many_attributes", detail)
        if len(html) > _LONG_CHARS:
            total = sum(len(_ATTRIBUTES.findall(tag)) for tag in _ALL_ATTRIBUTES.findall(html))
            if total > most:
                raise RejectedError("too_many_attributes", f"{total} attributes")
        num_tags = html.count("<")
        if num_tags > _FEW_TAGS:
            roots, formatting = _roots_and_formatting(html)
            if roots > _MAX_ROOTS:
                raise RejectedError("too_many_nodes", f"{roots} <html> and <body> tags")
            if formatting > _USUAL_FORMATTING and formatting * num_tags > most:
                detail = f"{formatting} formatting elements open over {num_tags} tags"
                raise RejectedError("too_many_nodes", detail)
        if num_tags > _USUAL_TAGS and _most_open(html) > _DEPTHS * self.max_depth:
            raise RejectedError("too_deep", f"over {_DEPTHS * self.max_depth} start tags left open")

    def check_tree(self, num_nodes: int, too_deep: bool) -> None:
        """Reject a parsed tree."""
        if num_nodes > self.max_nodes:
            raise RejectedError("too_many_nodes", f"{num_nodes} elements")
        if too_deep:
            raise RejectedError("too_deep", f"elements nested over {self.max_depth} deep")

    def check_tables(self, tree: Any) -> None:
        """Reject tables of which trafilatura would make too many cells.

        It fills rows up to the widest one and below cells that span rows, and counts a row's cells
        again for each cell that it adds.
        """
        widths, spanned = Counter[Any](), 0
        for cell in tree.iter("td", "th"):
            columns = _span(cell, "colspan")
            widths[cell.getparent()] += columns
            spanned += columns * (_span(cell, "rowspan") - 1)
        work = sum(width * width for width in widths.values())
        widest = max(widths.values(), default=0)
        cells = len(widths) * min(_MAX_SPAN, widest)
        if work > _MAX_ROW**2 or max(cells, spanned) > self.max_nodes:
            raise RejectedError("too_many_nodes", f"{len(widths)} table rows of {widest} cells")


def _span(cell: Any, name: str) -> int:
    value = cell.get(name, "1")
    return min(int(value), _MAX_SPAN) if value.isdecimal() and len(value) < 10 else 1


def _roots_and_formatting(html: str) -> tuple[int, int]:
    """The number of <html> and <body> tags, and of formatting elements that can be open at once.

    Those without attributes are of a few kinds only, and not counted.
    """
    found = _FORMATTING.findall(html)
    still, most, roots = Counter[str](), Counter[str](), 0
    kinds = defaultdict[str, set[str]](set)
    for end, name, attributes in found if len(found) > _USUAL_FORMATTING else ():
        name = name.lower()
        if name in ("html", "body"):
            roots += 1
        elif end:
            still[name] = max(0, still[name] - 1)
        elif attributes:
            still[name] += 1
            most[name] = max(most[name], still[name])
            kinds[name].add(attributes)
    return roots, sum(min(count, 3 * len(kinds[name])) for name, count in most.items())


def _most_open(html: str) -> int:
    """The largest number of open elements that only an end tag closes."""
    still, now, most = Counter[str](), 0, 0
    for tag in _NAME.findall(html):
        name = tag.strip("</").lower()
        if name in _NOT_COUNTED:
            continue
        if tag[1] != "/":
            still[name] += 1
            now += 1
            most = max(most, now)
        elif still[name]:
            still[name] -= 1
            now -= 1
    return most
