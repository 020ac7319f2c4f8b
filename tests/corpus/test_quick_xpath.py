"""Marked expressions select what libxml2 selects with the originals, on any tree."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html
from lxml.etree import XPath
from trafilatura import core, main_extractor, xpaths

from corpus.text.fast_trafilatura import AttributeMarks, MarkedXPath, prepare

RE = {"re": "http://exslt.org/regular-expressions"}
SOURCES = [
    ".//*[self::div or self::p][re:test(@id|@class, 'cookie') or re:test(@class, '^nav|menu$')]",
    ".//*[self::div][@class='post' or @itemprop='body' or re:test(@class, 'FULL', 'i')][1]",
    "(.//*[self::div or self::p][contains(translate(@id, 'CM','cm'), 'main-c')])[1]|(.//p)[1]",
    ".//*[self::div][re:test(@class, 'wall')][not(.//p) or re:test(@class, 'box')]",
    (
        ".//*[self::div or self::ol][re:test(@id, '^(?:a|b)') or @class='menu']"
        "[not(self::ol) or re:test(@id, '^a') and starts-with(@class, 'm')]"
    ),
    ".//*[@aria-hidden='true' or contains(@style, 'display:none') or @data-x]",
    ".//p|.//ol",
]
NAMES = ["div", "p", "ol", "span"]
VALUES = st.sampled_from(
    ["", "cookie", "nav", "menu", "a cookie", "post", "full", "Main-Content", "wall box", "a1"]
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["id", "class", "style", "itemprop", "aria-hidden", "data-x"]),
    VALUES | st.sampled_from(["display:none", "true", "body"]),
)
TREES = st.recursive(
    st.tuples(st.sampled_from(NAMES), ATTRIBUTES, st.just(())),
    lambda children: st.tuples(st.sampled_from(NAMES), ATTRIBUTES, st.lists(children, max_size=4)),
    max_leaves=25,
)


def build(tree: Any) -> Any:
    name, attributes, children = tree
    element = html.Element(name)
    for key, value in attributes.items():
        element.set(key, value)
    element.extend([build(child) for child in children])
    return element


def page(tree: Any) -> Any:
    root = html.Element("html")
    root.append(build(tree))
    return root


@pytest.fixture(scope="module")
def quick() -> tuple[AttributeMarks, list[tuple[XPath, Any]]]:
    quick = AttributeMarks()
    originals = [XPath(source, namespaces=RE) for source in SOURCES]
    return quick, [(original, quick.expression(original)) for original in originals]


@given(tree=TREES)
def test_marked_trees_and_their_copies_give_the_same_elements(
    quick: tuple[AttributeMarks, list[tuple[XPath, Any]]], tree: Any
) -> None:
    marks, pairs = quick
    root = page(tree)
    marks.mark(root)
    for changed in (root, copy(root), deepcopy(root[0])):
        for original, expression in pairs:
            assert isinstance(expression, MarkedXPath)
            assert expression(changed) == original(changed)
    for element in root.iter("p"):  # as extractors do: an element loses what it had
        element.attrib.clear()
        element.tag = "span"
    for original, expression in pairs:
        assert expression(root) == original(root)


@given(tree=TREES)
def test_a_tree_without_marks_is_asked_in_the_original_words(
    quick: tuple[AttributeMarks, list[tuple[XPath, Any]]], tree: Any
) -> None:
    root = page(tree)
    for original, expression in quick[1]:
        assert expression(root) == original(root)


def test_of_several_attributes_the_first_in_the_source_decides() -> None:
    quick = AttributeMarks()
    expression = quick.expression(XPath(".//*[re:test(@id|@class, 'x')]", namespaces=RE))
    root = html.fromstring("<html><body><p class=x id=y></p><p id=y class=x></p></body></html>")
    quick.mark(root)
    assert [dict(element.attrib)["class"] for element in expression(root)] == ["x"]
    assert next(iter(expression(root))).getprevious() is None


def test_a_page_cannot_mark_itself() -> None:
    quick = AttributeMarks()
    expression = quick.expression(XPath(".//*[contains(@class, 'menu')]"))
    root = html.fromstring(
        '<html GM="GM0"><body><p GM0="">text</p><p class=menu></p></body></html>'
    )
    quick.mark(root)
    assert [element.text for element in expression(root)] == [None]


@pytest.mark.parametrize(
    "source",
    ["//p", ".//p[2]", ".//p[1][@class='x']", ".//p[last()]", ".//p[@a = @b]", ".//p[text()]",
     ".//p/a", ".//*[translate(@id, 'ab', 'c') = 'x']"],
)  # fmt: skip
def test_what_is_not_read_is_left_to_libxml2(source: str) -> None:
    original = XPath(source)
    assert AttributeMarks().expression(original) is original


def test_lists_are_changed_in_place_in_every_module_that_has_them() -> None:
    assert prepare() is not None
    for module in (xpaths, main_extractor, core):
        held = [value for name, value in vars(module).items() if name.endswith("_XPATH")]
        kinds = {type(expression) for expressions in held for expression in expressions}
        assert MarkedXPath in kinds, module
