"""trafilatura's own text of a page, in half of its time.

Its decisions are unchanged, except for pages that it loses (see `parse`) and pages that end in more
than a thousand headings (see `_drop_last_headings`);
`benchmarks/extraction_quality.py` counts the pages whose text differs. Work that it repeats is done
once, or skipped where the result is known:

- the tests of attributes in its XPath expressions are evaluated once per page (`AttributeMarks`);
- elements are created in C: lxml.html looks up a Python class each time an element is touched, for
  the sake of forms, whose classes trafilatura does not use;
- scripts and styles are removed before the tree is copied, and the parsed tree is not copied;
- justext's stop words are hashed once;
- characters that XML cannot hold are searched for in bytes;
- readability, its second opinion, is skipped when it cannot be selected: when the page has at most
  twice the text that was found already.

All this replaces internals of trafilatura, so it is done for one version, which pyproject.toml
pins. Any other version is used unpatched, with a warning.
"""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from typing import Any, NamedTuple

from lxml.etree import XPath

TRAFILATURA_VERSION = "2.3.1"

_NAMESPACES = {"re": "http://exslt.org/regular-expressions"}
_PREFIX = "GM"
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<path>\.//[\w*-]+)|(?P<self>self::[\w-]+)"
    r"|(?P<attribute>@[\w-]+)|(?P<name>[A-Za-z][\w:-]*)|(?P<number>\d+)|(?P<mark>[()\[\]|,=]))"
)
# What is remembered of one attribute's values: a full memory is emptied.
_MAX_VALUES, _MAX_CHARS = 1 << 14, 256
# References to characters that XML cannot hold and libxml2's HTML parser accepts, in decimal and
# hexadecimal: C0 controls (but for 0, which is U+FFFD by then, white space, and 28 to 31), U+FFFE
# and U+FFFF. References end with a semicolon or with the first character that is not a digit.
_CONTROL_REFERENCE = re.compile(
    "&#(?:0*+(?:[1-8]|1[4-9]|2[0-7]|6553[45])(?![0-9])"
    "|[xX]0*+(?:[1-8eEfF]|1[0-9abAB]|[fF]{3}[eEfF])(?![0-9a-fA-F]));?"
)
_DELETE = "&#127;"  # a control that XML can hold; trafilatura drops it


def parse(html: str) -> Any:
    """The tree that trafilatura would make of `html`, or None.

    With one difference: trafilatura returns no text at all for a page that refers to a control
    character, such as `&#1;`, in its text. Here only that character is lost.
    """
    prepare()
    from trafilatura import load_html

    if "&#" in html:
        html = _CONTROL_REFERENCE.sub(_DELETE, html)
    return load_html(html)


def extract(tree: Any, fast: bool) -> str:
    """Main text of a tree made by `parse`, as FineWeb calls trafilatura; '' if there is none."""
    from trafilatura import extract as trafilatura_extract

    if (marks := prepare()) is not None:
        # trafilatura drops these first too, but after copying them. JSON-LD identifies a forum.
        for element in list(tree.iter("script", "style")):
            is_data = element.get("type") == "application/ld+json"
            if not is_data and element.getparent() is not None:
                element.drop_tree()
        marks.mark(tree)
        tree = _Parsed(tree)
    text = trafilatura_extract(
        tree, fast=fast, favor_precision=True, include_comments=False, deduplicate=False
    )
    return text or ""


@functools.cache
def prepare() -> AttributeMarks | None:
    """Patch trafilatura, once per process; None, with a warning, if its version does not fit.

    To be called before pages are read: what fails here is not the fault of a page.
    """
    import trafilatura  # half a second, which readers of settings need not spend

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    version = getattr(trafilatura, "__version__", "of unknown version")
    reason = f"its internals are known for {TRAFILATURA_VERSION} alone"
    if version == TRAFILATURA_VERSION:
        try:
            return _patch()
        except (ImportError, AttributeError) as error:
            reason = str(error)
    warnings.warn(
        f"trafilatura {version} is used unpatched, which takes twice the time: {reason}; "
        f"install trafilatura=={TRAFILATURA_VERSION}",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _patch() -> AttributeMarks:
    """Replace internals of trafilatura; looks all of them up before it replaces the first."""
    from lxml.etree import ElementDefaultClassLookup
    from lxml.html import HtmlComment, HtmlElement, HtmlEntity, HtmlProcessingInstruction
    from trafilatura import core as trafilatura_core
    from trafilatura import external, main_extractor, utils, xpaths

    core: Any = trafilatura_core  # its imports are no part of its typed interface
    prune = main_extractor.prune_unwanted_sections
    marks = AttributeMarks()
    lists: tuple[list[Any], ...] = (
        xpaths.RAW_TREE_PRUNE_XPATH,
        xpaths.REMOVE_COMMENTS_AND_LISTS_XPATH,
        xpaths.REMOVE_COMMENTS_XPATH,
        xpaths.BODY_XPATH,
        xpaths.OVERALL_DISCARD_XPATH,
        xpaths.DISCARD_IMAGE_ELEMENTS,
        xpaths.TEASER_DISCARD_XPATH,
        xpaths.PRECISION_DISCARD_XPATH,
    )
    marked = [[marks.expression(original) for original in originals] for originals in lists]
    replaced = (
        (core, "load_html", _take_parsed(core.load_html)),
        (core, "compare_extraction", _skip_readability(core.compare_extraction)),
        (main_extractor, "prune_unwanted_sections", _drop_last_headings(prune)),
        (external, "JT_STOPLIST", _StopWords(external.jt_stoplist_init())),
        (utils, "INVALID_XML_CHARS", _InvalidCharacters(utils.INVALID_XML_CHARS)),
    )
    utils.HTML_PARSER.set_element_class_lookup(
        ElementDefaultClassLookup(
            element=HtmlElement,
            comment=HtmlComment,
            pi=HtmlProcessingInstruction,
            entity=HtmlEntity,
        )
    )
    for originals, expressions in zip(lists, marked, strict=True):
        originals[:] = expressions  # in place: other modules hold the same lists
    for module, name, value in replaced:
        setattr(module, name, value)
    return marks


class _Parsed:
    """A tree that is given away: trafilatura copies one that its caller may still want."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree


def _take_parsed(load_html: Callable[..., Any]) -> Callable[..., Any]:
    return lambda page, *size: page.tree if isinstance(page, _Parsed) else load_html(page, *size)


def _drop_last_headings(prune: Callable[..., Any]) -> Callable[..., Any]:
    """`prune_unwanted_sections`, which deletes headings with nothing behind them, in linear time.

    It counts all children again for each that it deletes: 20 s for 45,000. Those that are over a
    thousand are deleted here, before it compares how much text its other rules leave.
    """

    @functools.wraps(prune)
    def prune_quickly(tree: Any, *arguments: Any, **named: Any) -> Any:
        last = takewhile(lambda child: child.tag == "head", tree.iterchildren(reversed=True))
        for heading in list(islice(last, 1000, None)):
            tree.remove(heading)
        return prune(tree, *arguments, **named)

    return prune_quickly


def _skip_readability(compare: Callable[..., Any]) -> Callable[..., Any]:
    """`compare_extraction`, given an empty page for readability if its text cannot be selected."""
    from lxml.html import fromstring
    from trafilatura.htmlprocessing import prune_unwanted_nodes
    from trafilatura.xpaths import OVERALL_DISCARD_XPATH

    @functools.wraps(compare)
    def compare_quickly(
        cleaned_tree: Any, raw_tree: Any, body: Any, text: str, options: Any
    ) -> Any:
        if text and options.focus == "precision":
            raw_tree = prune_unwanted_nodes(raw_tree, OVERALL_DISCARD_XPATH)
            if not _can_be_selected(raw_tree, body, len(text), options.min_extracted_size):
                raw_tree = fromstring("<html><body></body></html>")
        return compare(cleaned_tree, raw_tree, body, text, options)

    return compare_quickly


def _can_be_selected(raw_tree: Any, body: Any, len_text: int, min_extracted_size: int) -> bool:
    """Whether readability's text of `raw_tree` could be preferred to `len_text` characters.

    It is a part of the page's text. It is preferred if it is more than twice as long, or longer
    than `2 * min_extracted_size` where `body` has no text in paragraphs, or more tables than these.
    """
    for element in list(raw_tree.iter("script", "style")):  # readability drops them too
        element.drop_tree()
    videos = len("VIDEO") * sum(1 for _ in raw_tree.iter("iframe"))  # what it writes in their place
    longest = len(" ".join(raw_tree.text_content().split())) + videos
    if longest > 2 * len_text:
        return True
    # Same as `not body.xpath(".//p//text()")`, which is quadratic in the number of paragraphs.
    deficient = all(next(p.itertext(), None) is None for p in body.iterfind(".//p"))
    deficient = deficient or len(body.findall(".//table")) > len(body.findall(".//p"))
    return deficient and longest > 2 * min_extracted_size


class _StopWords(tuple[str, ...]):
    """justext's stop words, a cache key that would be hashed for every page."""

    @functools.cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _InvalidCharacters:
    """trafilatura's pattern of what XML cannot hold, used only on texts that have such."""

    _CONTROLS = bytes([*range(9), 11, 12, *range(14, 32)])
    _NONCHARACTERS = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")  # U+FFFE, U+FFFF

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def sub(self, new: str, text: str) -> str:
        """Same as the pattern's `sub`."""
        encoded = text.encode("utf-8", "surrogatepass")
        clean = len(encoded.translate(None, self._CONTROLS)) == len(encoded)
        if clean and not any(character in encoded for character in self._NONCHARACTERS):
            return text
        return self._pattern.sub(new, text)


class AttributeMarks:
    """Evaluates the attribute tests of many XPath expressions in one pass over a page.

    trafilatura finds navigation and the like by patterns on `class`, `id` and `style`, in a dozen
    XPath expressions that call a regular expression per element, on four copies of a page: half of
    its cost. `expression` cuts these tests out of an expression. `mark` evaluates them once, on the
    parsed page, and writes the true ones into the tree as attributes (`GM0`, `GM1`, ...; a page
    cannot have them, since HTML's attribute names are lowercase), which copies of the tree keep.
    What is left of an expression asks only for marks, which libxml2 answers without leaving C.

    An element may lose all its attributes later, and its marks with them, but no code that uses
    them sees a changed value. On a tree without marks, the original expression is evaluated.
    """

    def __init__(self) -> None:
        self._tests: list[
            tuple[AttributeTest, ...]
        ] = []  # a mark is set where one of its tests holds
        self._values: dict[tuple[str, ...], _MarksOfValue] = {}
        self._of_attribute: dict[str, list[_MarksOfValue]] = {}

    def expression(self, original: XPath) -> MarkedXPath | XPath:
        """A replacement for `original`; `original` itself if its syntax is not supported."""
        num_marks = len(self._tests)
        try:
            return MarkedXPath(original, *_XPathReader(original.path, self._add).paths())
        except UnsupportedXPathError:
            del self._tests[num_marks:]
            return original

    def _add(self, tests: tuple[AttributeTest, ...]) -> str:
        self._tests.append(tests)
        return f"{_PREFIX}{len(self._tests) - 1}"

    def mark(self, root: Any) -> None:
        """Mark all elements of a parsed page, and list the marks that occur in its root."""
        if not self._of_attribute:
            self._index()
        of_attribute, seen = self._of_attribute, 0
        for element in root.iter("*"):
            marks, decided = 0, 0
            for name, value in element.items():
                for values in of_attribute.get(name, ()):
                    if not decided & values.shared:
                        decided |= values.shared
                        marks |= values[value]
            if marks:
                seen |= marks
                for number in _bits(marks):
                    element.set(f"{_PREFIX}{number}", "")
        root.set(_PREFIX, " ".join(f"{_PREFIX}{number}" for number in _bits(seen)))

    def _index(self) -> None:
        found: dict[tuple[str, ...], dict[str, tuple[int, AttributeTest]]] = defaultdict(dict)
        for number, tests in enumerate(self._tests):
            for test in tests:  # several expressions have the same one
                bits, _ = found[test.attributes].get(test.source, (0, test))
                found[test.attributes][test.source] = bits | 1 << number, test
        for number, (attributes, bits_and_tests) in enumerate(found.items()):
            shared = 1 << number if len(attributes) > 1 else 0
            values = _MarksOfValue(bits_and_tests.values(), shared)
            for name in attributes:
                self._of_attribute.setdefault(name, []).append(values)


class _MarksOfValue(dict[str, int]):
    """Attribute value -> the marks that it gives an element, as bits; computed if missing.

    `shared`: a unique bit if several attributes are tested, of which an element's first decides;
    else 0.
    """

    def __init__(self, tests: Iterable[tuple[int, AttributeTest]], shared: int) -> None:
        super().__init__()
        self._tests = [(bits, test.holds) for bits, test in tests]
        self.shared = shared

    def __missing__(self, value: str) -> int:
        marks = 0
        for bits, holds in self._tests:
            if holds(value):
                marks |= bits
        if len(value) <= _MAX_CHARS:
            if len(self) >= _MAX_VALUES:
                self.clear()
            self[value] = marks
        return marks


def _bits(number: int) -> Iterator[int]:
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


class MarkedXPath:
    """Replaces an XPath: returns the same elements in the same order, with or without marks."""

    def __init__(self, original: XPath, marked: str, needed: list[str]) -> None:
        self._original, self.path, self._needed = original, original.path, needed
        self._marked = XPath(marked, namespaces=_NAMESPACES)

    def __call__(self, tree: Any) -> Any:
        """The elements below `tree` that the XPath selects."""
        marks = tree.getroottree().getroot().get(_PREFIX)
        if marks is None:
            return self._original(tree)
        if self._needed and not any(mark in marks.split() for mark in self._needed):
            return []
        return self._marked(tree)


class UnsupportedXPathError(Exception):
    """The expression has syntax that `_XPathReader` does not support."""


class AttributeTest(NamedTuple):
    """A test of an attribute's value, or of the first of several attributes; false without one."""

    attributes: tuple[str, ...]
    source: str
    holds: Callable[[str], Any]


class _Token(NamedTuple):
    kind: str
    text: str


def _tokens(source: str) -> Iterator[_Token]:
    at, end = 0, len(source.rstrip())
    while at < end:
        found = _TOKEN.match(source, at)
        if not found or not found.lastgroup:
            raise UnsupportedXPathError(f"{source!r}: {source[at : at + 20]!r}")
        yield _Token(found.lastgroup, found[found.lastgroup])
        at = found.end()
    yield _Token("end", "")


class _XPathReader:
    """Recursive descent parser that rewrites an expression with marks in place of its tests.

    Predicates may hold `or`, `and`, `not`, `self::name`, `.//name`, and tests of attributes: `@a`,
    `@a='x'`, and `contains`, `starts-with`, `re:test` of `@a`, `@a|@b` or `translate(@a, ...)`.
    """

    def __init__(self, source: str, add: Callable[[tuple[AttributeTest, ...]], str]) -> None:
        self._source, self._add = source, add
        self._tokens = list(_tokens(source))
        self._next = 0

    def paths(self) -> tuple[str, list[str]]:
        """The rewritten expression, and marks without which it selects nothing (if any)."""
        parts = [self.path()]
        while self.accept("|"):
            parts.append(self.path())
        self.take("end")
        needed = [mark for _, mark in parts if mark]
        written = "|".join(text for text, _ in parts)
        return written, needed if len(needed) == len(parts) else []

    def peek(self) -> _Token:
        return self._tokens[self._next]

    def take(self, *wanted: str) -> str:
        """The next token, whose kind or text must be among `wanted`."""
        token = self.peek()
        if token.kind not in wanted and (token.kind == "text" or token.text not in wanted):
            raise UnsupportedXPathError(
                f"{self._source!r}: {token.text!r} where {wanted} is expected"
            )
        self._next += 1
        return token.text

    def accept(self, text: str) -> bool:
        found = self.peek().text == text and self.peek().kind != "text"
        self._next += found
        return found

    def path(self) -> tuple[str, str | None]:
        if not self.accept("("):
            return self.step()
        text, needed = self.step()
        for mark in (")", "[", "1", "]"):
            self.take(mark)
        return f"({text})[1]", needed

    def step(self) -> tuple[str, str | None]:
        name = self.take("path").removeprefix(".//")
        marks: list[str] = []
        others: list[str] = []
        axis, end = "descendant::", ""
        while self.accept("["):
            if end:
                raise UnsupportedXPathError(f"{self._source!r}: a predicate after [1]")
            if self.accept("1"):
                axis, end = ".//", "[1]"  # the first of each parent's children
            else:
                predicate = self.or_expression()
                (others if isinstance(predicate, str) else marks).append(self.text_of(predicate))
            self.take("]")
        # Marks first: they are rarer than names.
        predicates = "".join(f"[{text}]" for text in (*marks, *others))
        return f"{axis}{name}{predicates}{end}", marks[0].removeprefix("@") if marks else None

    def text_of(self, part: str | tuple[AttributeTest, ...]) -> str:
        return part if isinstance(part, str) else f"@{self._add(part)}"

    def or_expression(self) -> str | tuple[AttributeTest, ...]:
        parts = [self.and_expression()]
        while self.accept("or"):
            parts.append(self.and_expression())
        tests = tuple(test for part in parts if not isinstance(part, str) for test in part)
        texts = [part for part in parts if isinstance(part, str)]
        if not texts:
            return tests
        return " or ".join([*texts, *([self.text_of(tests)] if tests else [])])

    def and_expression(self) -> str | tuple[AttributeTest, ...]:
        parts = [self.term()]
        while self.accept("and"):
            parts.append(self.term())
        return parts[0] if len(parts) == 1 else " and ".join(map(self.text_of, parts))

    def term(self) -> str | tuple[AttributeTest, ...]:
        if self.peek().kind in ("self", "path"):
            return self.take("self", "path")
        if self.accept("not"):
            self.take("(")
            inner = self.text_of(self.or_expression())
            self.take(")")
            return f"not({inner})"
        if self.peek().kind == "name":
            return (self.function(self.take("contains", "starts-with", "re:test")),)
        attribute = self.take("attribute")[1:]
        if not self.accept("="):
            return (AttributeTest((attribute,), "exists", lambda value: True),)
        wanted = self.take("text")[1:-1]
        return (AttributeTest((attribute,), f"= {wanted!r}", wanted.__eq__),)

    def function(self, name: str) -> AttributeTest:
        self.take("(")
        attributes, table = self.value()
        self.take(",")
        wanted = self.take("text")[1:-1]
        flags = self.take("text")[1:-1] if self.accept(",") else ""
        self.take(")")
        # Methods of compiled patterns are called without a Python frame.
        if name == "re:test" and table:
            raise UnsupportedXPathError(f"{self._source!r}: re:test of translate()")
        pattern = wanted if name == "re:test" else "".join(_untranslated(c, table) for c in wanted)
        compiled = re.compile(pattern, re.IGNORECASE if "i" in flags else 0)
        find = compiled.match if name == "starts-with" else compiled.search
        return AttributeTest(attributes, f"{name} {wanted!r} {flags} {table}", find)

    def value(self) -> tuple[tuple[str, ...], dict[int, int]]:
        """The tested attributes, and the character table of `translate`."""
        if not self.accept("translate"):
            names = [self.take("attribute")[1:]]
            while self.accept("|"):
                names.append(self.take("attribute")[1:])
            return tuple(names), {}
        self.take("(")
        name = self.take("attribute")[1:]
        self.take(",")
        before = self.take("text")[1:-1]
        self.take(",")
        after = self.take("text")[1:-1]
        self.take(")")
        if len(before) != len(after):
            raise UnsupportedXPathError(f"{self._source!r}: translate to another length")
        return (name,), str.maketrans(before, after)


def _untranslated(character: str, table: dict[int, int]) -> str:
    """A pattern of the characters that `table` turns into `character`."""
    sources = [chr(before) for before, after in table.items() if chr(after) == character]
    if ord(character) not in table:
        sources.append(character)
    return f"[{re.escape(''.join(sources))}]" if sources else "(?!)"
