"""trafilatura's own text of a page, for half of its time.

Nothing of what it decides is changed, but for pages that it loses (see `parse`);
`benchmarks/extraction_quality.py` counts the pages on which the text differs. What it does again
and again is done once, or not where the result is known:

- what its XPath expressions ask of attributes is asked once a page (`corpus.text.fast_trafilatura`);
- elements are made in C: lxml.html looks up a class in Python each time an element is touched, for
  the sake of forms, whose classes trafilatura does not use;
- scripts and styles go before the tree is copied, and the tree that is handed over is not;
- justext's stop words are hashed once;
- characters that XML has not are looked for in bytes;
- readability, its second opinion, is not heard where it cannot win: where the page has no more than
  twice the text that was found already.

XPath expressions made cheap: what they ask of attributes is asked once a page.

trafilatura finds furniture by patterns on `class`, `id` and `style`, in a dozen XPath expressions
that call a regular expression for each element, on four copies of a page: half of what it costs.
Here the tests of attributes are cut out of the expressions. `Quick.mark` asks them once, when a
page has been parsed, and writes what holds into the tree as attributes of its own (`GM0`, `GM1`,
...; a page cannot have them, HTML's attribute names are lower case), which copies of the tree keep.
What is left of an expression then only asks for marks, which libxml2 answers without leaving C.

An element may lose all its attributes later, and its marks with them, but nothing here sees a
changed value. On a tree without marks, the original expression is evaluated.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from lxml.etree import XPath

_NAMESPACES = {"re": "http://exslt.org/regular-expressions"}
_PREFIX = "GM"
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<path>\.//[\w*-]+)|(?P<self>self::[\w-]+)"
    r"|(?P<attribute>@[\w-]+)|(?P<name>[A-Za-z][\w:-]*)|(?P<number>\d+)|(?P<mark>[()\[\]|,=]))"
)
# What pages can make us remember of one attribute: a full memory is emptied.
_MAX_VALUES, _MAX_CHARS = 1 << 14, 256


class UnreadError(Exception):
    """The expression holds something that this module does not read."""


class Test(NamedTuple):
    """Of an attribute's value, or of the first of several attributes; false where there is none."""

    attributes: tuple[str, ...]
    source: str
    holds: Callable[[str], Any]


class Quick:
    """Some expressions, and the marks by which they are evaluated."""

    def __init__(self) -> None:
        self._tests: list[tuple[Test, ...]] = []  # a mark is set where one of its tests holds
        self._values: dict[tuple[str, ...], _Values] = {}
        self._of_attribute: dict[str, list[_Values]] = {}

    def expression(self, original: XPath) -> Expression | XPath:
        """What stands in for `original`: itself, if it is not of the kind that is read here."""
        num_marks = len(self._tests)
        try:
            return Expression(original, *_Reader(original.path, self._add).paths())
        except UnreadError:
            del self._tests[num_marks:]
            return original

    def _add(self, tests: tuple[Test, ...]) -> str:
        self._tests.append(tests)
        return f"{_PREFIX}{len(self._tests) - 1}"

    def mark(self, root: Any) -> None:
        """Mark every element of a parsed page, and write into its root which marks there are."""
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
        found: dict[tuple[str, ...], dict[str, tuple[int, Test]]] = defaultdict(dict)
        for number, tests in enumerate(self._tests):
            for test in tests:  # several expressions have the same one
                bits, _ = found[test.attributes].get(test.source, (0, test))
                found[test.attributes][test.source] = bits | 1 << number, test
        for number, (attributes, bits_and_tests) in enumerate(found.items()):
            shared = 1 << number if len(attributes) > 1 else 0
            values = _Values(bits_and_tests.values(), shared)
            for name in attributes:
                self._of_attribute.setdefault(name, []).append(values)


class _Values(dict[str, int]):
    """Attribute value -> the marks that it gives an element, as bits; made where missing.

    `shared`: a bit of its own where several attributes are asked, of which an element's first one
    decides; else 0.
    """

    def __init__(self, tests: Iterable[tuple[int, Test]], shared: int) -> None:
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


class Expression:
    """Stands in for an XPath: the same elements in the same order, with or without marks."""

    def __init__(self, original: XPath, marked: str, needed: list[str]) -> None:
        self._original, self.path, self._needed = original, original.path, needed
        self._marked = XPath(marked, namespaces=_NAMESPACES)

    def __call__(self, tree: Any) -> Any:
        """The elements below `tree`, as the XPath gives them."""
        marks = tree.getroottree().getroot().get(_PREFIX)
        if marks is None:
            return self._original(tree)
        if self._needed and not any(mark in marks.split() for mark in self._needed):
            return []
        return self._marked(tree)


class _Token(NamedTuple):
    kind: str
    text: str


def _tokens(source: str) -> Iterator[_Token]:
    at, end = 0, len(source.rstrip())
    while at < end:
        found = _TOKEN.match(source, at)
        if not found or not found.lastgroup:
            raise UnreadError(f"{source!r}: {source[at : at + 20]!r}")
        yield _Token(found.lastgroup, found[found.lastgroup])
        at = found.end()
    yield _Token("end", "")


class _Reader:
    """Recursive descent through an expression, which gives it back with marks for its tests.

    Predicates may hold `or`, `and`, `not`, `self::name`, `.//name`, and tests of attributes: `@a`,
    `@a='x'`, and `contains`, `starts-with`, `re:test` of `@a`, `@a|@b` or `translate(@a, ...)`.
    """

    def __init__(self, source: str, add: Callable[[tuple[Test, ...]], str]) -> None:
        self._source, self._add = source, add
        self._tokens = list(_tokens(source))
        self._next = 0

    def paths(self) -> tuple[str, list[str]]:
        """The whole expression, and the marks of which it needs one (none: it needs no mark)."""
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
        """The next token, which must be of a kind, or be a mark or name, among `wanted`."""
        token = self.peek()
        if token.kind not in wanted and (token.kind == "text" or token.text not in wanted):
            raise UnreadError(f"{self._source!r}: {token.text!r} where {wanted} is expected")
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
                raise UnreadError(f"{self._source!r}: a predicate behind [1]")
            if self.accept("1"):
                axis, end = ".//", "[1]"  # the first of each parent's children
            else:
                predicate = self.either()
                (others if isinstance(predicate, str) else marks).append(self.written(predicate))
            self.take("]")
        # Marks first: they are rarer than names.
        predicates = "".join(f"[{text}]" for text in (*marks, *others))
        return f"{axis}{name}{predicates}{end}", marks[0].removeprefix("@") if marks else None

    def written(self, part: str | tuple[Test, ...]) -> str:
        return part if isinstance(part, str) else f"@{self._add(part)}"

    def either(self) -> str | tuple[Test, ...]:
        parts = [self.both()]
        while self.accept("or"):
            parts.append(self.both())
        tests = tuple(test for part in parts if not isinstance(part, str) for test in part)
        texts = [part for part in parts if isinstance(part, str)]
        if not texts:
            return tests
        return " or ".join([*texts, *([self.written(tests)] if tests else [])])

    def both(self) -> str | tuple[Test, ...]:
        parts = [self.single()]
        while self.accept("and"):
            parts.append(self.single())
        return parts[0] if len(parts) == 1 else " and ".join(map(self.written, parts))

    def single(self) -> str | tuple[Test, ...]:
        if self.peek().kind in ("self", "path"):
            return self.take("self", "path")
        if self.accept("not"):
            self.take("(")
            inner = self.written(self.either())
            self.take(")")
            return f"not({inner})"
        if self.peek().kind == "name":
            return (self.function(self.take("contains", "starts-with", "re:test")),)
        return (self.comparison(),)

    def function(self, name: str) -> Test:
        self.take("(")
        attributes, table = self.value()
        self.take(",")
        wanted = self.take("text")[1:-1]
        flags = self.take("text")[1:-1] if self.accept(",") else ""
        self.take(")")
        # All as methods of compiled patterns, which are called without a frame of Python's.
        if name == "re:test" and table:
            raise UnreadError(f"{self._source!r}: re:test of translate()")
        pattern = wanted if name == "re:test" else "".join(_untranslated(c, table) for c in wanted)
        compiled = re.compile(pattern, re.IGNORECASE if "i" in flags else 0)
        find = compiled.match if name == "starts-with" else compiled.search
        return Test(attributes, f"{name} {wanted!r} {flags} {table}", find)

    def comparison(self) -> Test:
        attribute = self.take("attribute")[1:]
        if not self.accept("="):
            return Test((attribute,), "exists", lambda value: True)
        wanted = self.take("text")[1:-1]
        return Test((attribute,), f"= {wanted!r}", wanted.__eq__)

    def value(self) -> tuple[tuple[str, ...], dict[int, int]]:
        """The attributes that are asked for, and what `translate` changes of their characters."""
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
            raise UnreadError(f"{self._source!r}: translate to another length")
        return (name,), str.maketrans(before, after)


def _untranslated(character: str, table: dict[int, int]) -> str:
    """A pattern of what `table` makes `character` of."""
    sources = [chr(before) for before, after in table.items() if chr(after) == character]
    if ord(character) not in table:
        sources.append(character)
    return f"[{re.escape(''.join(sources))}]" if sources else "(?!)"


def quicken(quick: Quick, lists: Iterable[list[Any]]) -> None:
    """Put quick expressions in the place of those in `lists`."""
    for expressions in lists:
        expressions[:] = [quick.expression(expression) for expression in expressions]


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
