"""trafilatura's own text of a page, for half of its time.

Nothing of what it decides is changed, but for pages that it loses (see `parse`);
`benchmarks/extraction_quality.py` counts the pages on which the text differs. What it does again
and again is done once, or not where the result is known:

- what its XPath expressions ask of attributes is asked once a page (`corpus.quick_xpath`);
- elements are made in C: lxml.html looks up a class in Python each time an element is touched, for
  the sake of forms, whose classes trafilatura does not use;
- scripts and styles go before the tree is copied, and the tree that is handed over is not;
- justext's stop words are hashed once;
- characters that XML has not are looked for in bytes;
- readability, its second opinion, is not heard where it cannot win: where the page has no more than
  twice the text that was found already.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from typing import Any

from corpus.quick_xpath import Quick, quicken

# References to characters that XML cannot hold and libxml2's HTML parser lets pass, in decimal and
# hexadecimal: C0 controls (but for 0, which is U+FFFD by then, white space, and 28 to 31), U+FFFE
# and U+FFFF. References end with a semicolon or with the first character that is no digit.
_CONTROL_REFERENCE = re.compile(
    "&#(?:0*+(?:[1-8]|1[4-9]|2[0-7]|6553[45])(?![0-9])"
    "|[xX]0*+(?:[1-8eEfF]|1[0-9abAB]|[fF]{3}[eEfF])(?![0-9a-fA-F]));?"
)
_DELETE = "&#127;"  # a control that XML can hold; trafilatura drops it


def parse(html: str) -> Any:
    """The tree that trafilatura would make of `html`, or None.

    With one difference: trafilatura gives no text at all for a page that names a control character,
    such as `&#1;`, in its text. Here such a reference is one to another control, so that the
    character alone is lost.
    """
    _prepare()
    from trafilatura.utils import load_html

    if "&#" in html:
        html = _CONTROL_REFERENCE.sub(_DELETE, html)
    return load_html(html)


def extract(tree: Any, fast: bool) -> str:
    """Main text of a tree made by `parse`, as FineWeb calls trafilatura; '' if there is none."""
    from trafilatura import extract as trafilatura_extract

    quick = _prepare()
    _drop_code(tree)
    quick.mark(tree)
    text = trafilatura_extract(
        _Parsed(tree), fast=fast, favor_precision=True, include_comments=False, deduplicate=False
    )
    return text or ""


def _drop_code(tree: Any) -> None:
    """Take scripts and styles out, as all of trafilatura's ways do first, but after copying them.

    JSON-LD stays: it tells a forum.
    """
    from trafilatura.xml import delete_element

    for element in list(tree.iter("script", "style")):
        if element.get("type") != "application/ld+json":
            delete_element(element)


class _Parsed:
    """A tree that is given away: trafilatura copies one that its caller may still want."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree


class _InvalidCharacters:
    """trafilatura's pattern of what XML cannot hold, asked only of texts that have such."""

    _CONTROLS = bytes([*range(9), 11, 12, *range(14, 32)])
    _NONCHARACTERS = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")  # U+FFFE, U+FFFF

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def sub(self, new: str, text: str) -> str:
        """As the pattern's `sub`."""
        encoded = text.encode("utf-8", "surrogatepass")
        clean = len(encoded.translate(None, self._CONTROLS)) == len(encoded)
        if clean and not any(character in encoded for character in self._NONCHARACTERS):
            return text
        return self._pattern.sub(new, text)


class _StopWords(tuple[str, ...]):
    """justext's stop words, which are the key of a memory and are hashed for every page."""

    @functools.cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


@functools.cache
def _prepare() -> Quick:
    # Imported here: half a second that readers of settings need not pay.
    from lxml.etree import ElementDefaultClassLookup
    from lxml.html import HtmlComment, HtmlElement, HtmlEntity, HtmlProcessingInstruction
    from trafilatura import core as trafilatura_core
    from trafilatura import external, utils, xpaths

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    quick = Quick()
    lists = (
        xpaths.RAW_TREE_PRUNE_XPATH,
        xpaths.REMOVE_COMMENTS_AND_LISTS_XPATH,
        xpaths.REMOVE_COMMENTS_XPATH,
        xpaths.BODY_XPATH,
        xpaths.OVERALL_DISCARD_XPATH,
        xpaths.DISCARD_IMAGE_ELEMENTS,
        xpaths.TEASER_DISCARD_XPATH,
        xpaths.PRECISION_DISCARD_XPATH,
    )
    quicken(quick, lists)
    utils.HTML_PARSER.set_element_class_lookup(
        ElementDefaultClassLookup(
            element=HtmlElement,
            comment=HtmlComment,
            pi=HtmlProcessingInstruction,
            entity=HtmlEntity,
        )
    )
    core: Any = trafilatura_core
    loading: Any = utils
    loading.INVALID_XML_CHARS = _InvalidCharacters(utils.INVALID_XML_CHARS)
    core.load_html = _take_parsed(core.load_html)
    core.compare_extraction = _hear_readability_where_it_can_win(core.compare_extraction)
    justext: Any = external
    justext.JT_STOPLIST = _StopWords(external.jt_stoplist_init())
    return quick


def _take_parsed(load_html: Callable[..., Any]) -> Callable[..., Any]:
    return lambda page, *size: page.tree if isinstance(page, _Parsed) else load_html(page, *size)


def _hear_readability_where_it_can_win(compare: Callable[..., Any]) -> Callable[..., Any]:
    """`compare_extraction`, given an empty page for readability where a page's text cannot win."""
    from lxml.html import fromstring
    from trafilatura.htmlprocessing import prune_unwanted_nodes
    from trafilatura.xpaths import OVERALL_DISCARD_XPATH

    @functools.wraps(compare)
    def compare_quickly(
        cleaned_tree: Any, raw_tree: Any, body: Any, text: str, options: Any
    ) -> Any:
        if text and options.focus == "precision":
            raw_tree = prune_unwanted_nodes(raw_tree, OVERALL_DISCARD_XPATH)
            if not _can_win(raw_tree, body, len(text), options.min_extracted_size):
                raw_tree = fromstring("<html><body></body></html>")
        return compare(cleaned_tree, raw_tree, body, text, options)

    return compare_quickly


def _can_win(raw_tree: Any, body: Any, len_text: int, min_extracted_size: int) -> bool:
    """Whether readability's text of `raw_tree` could be preferred to `len_text` characters.

    It is a part of the page's text. It is preferred if it is more than twice as long, or longer
    than `2 * min_extracted_size` where `body` has no text in paragraphs, or more tables than these.
    """
    most = _most_text(raw_tree)
    if most > 2 * len_text:
        return True
    # As `not body.xpath(".//p//text()")`, which takes time with the square of the paragraphs.
    deficient = all(next(p.itertext(), None) is None for p in body.iterfind(".//p"))
    deficient = deficient or len(body.findall(".//table")) > len(body.findall(".//p"))
    return deficient and most > 2 * min_extracted_size


def _most_text(tree: Any) -> int:
    """Characters that readability can find in `tree`, from which it, too, first drops scripts."""
    for element in list(tree.iter("script", "style")):
        element.drop_tree()
    videos = len("VIDEO") * sum(1 for _ in tree.iter("iframe"))  # what it writes in their place
    return len(" ".join(tree.text_content().split())) + videos
