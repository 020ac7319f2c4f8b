"""Spellings of one URL, domain or id compare equal; others don't."""

from __future__ import annotations

import itertools

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.clean.removals import host_of, plain_domain, plain_id, plain_url

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@pytest.mark.parametrize(
    "spellings",
    [
        ("http://a.example", "https://A.example/", "a.example", " //www.a.example:443#top"),
        ("http://a.example/?", "a.example", "a.example/ #", "a.example/ /"),
        ("http://a.example/b", "https://www.a.example/b/", "http://u:p@a.example:80/b#c"),
        ("http://a.example/~b%2Fc", "http://a.example/%7eb%2fc"),
        ("http://a.example/ä b", "http://a.example/%C3%A4%20b", "http://a.example/%c3%a4%20b"),
        ("http://münchen.example/", "http://xn--mnchen-3ya.example", "HTTP://MÜNCHEN。example/"),
        ("http://a.example/?q=1", "http://a.example?q=1", "a.example?q=1#x"),
        ("http://a.example\\b", "http://a.example/b"),
        ("http://[2001:DB8::1]:80/b", "http://[2001:db8::1]/b"),
    ],
)  # fmt: skip
def test_spellings_of_one_url_compare_equal(spellings: tuple[str, ...]) -> None:
    assert len({plain_url(spelling) for spelling in spellings}) == 1


def test_other_urls_compare_unequal() -> None:
    urls = [
        "http://a.example/", "http://a.example/b", "http://a.example/B", "http://a.example/b?c",
        "http://a.example/b?d", "http://a.example/b/c", "http://a.example/b%2Fc",
        "http://a.example:8080/b", "http://b.a.example/b", "http://straße.example/",
        "http://strasse.example/", "http://www.example/", "http://example/",
    ]  # fmt: skip
    assert len({plain_url(url) for url in urls}) == len(urls)


@given(
    st.sampled_from(["a.example", "xn--mnchen-3ya.example", "b.c.example:8080"]),
    st.lists(st.text("aZ09-._~!$&'()*+,;=:@äß漢 ", min_size=1, max_size=5), max_size=3),
    st.text("ab=&/?ä", max_size=5),
)
def test_scheme_www_port_fragment_and_final_slash_never_matter(
    host: str, path: list[str], query: str
) -> None:
    name = "".join(f"/{part}" for part in path)
    asked = f"?{query}" if query else ""
    plain = plain_url(f"http://{host}{name}{asked}")
    starts = ["http://", "HTTPS://", "//", "http://www.", "https://user@"]
    for start, slash, fragment in itertools.product(starts, ["", "/"], ["", "#", "#f/?"]):
        assert plain_url(f"{start}{host.upper()}{name}{slash}{asked}{fragment}") == plain


@pytest.mark.parametrize(
    "name",
    [
        "bücher.example", "Bücher.Example", "straße.example", "пример.рф", "例え.jp", "日本語。jp",
        "ελλάδα.gr", "한국.kr", "ﬁsh.example", "example.org", "Example.ORG",
    ],
)  # fmt: skip
def test_a_domain_has_the_ascii_form_that_browsers_give_it(name: str) -> None:
    assert plain_domain(name) == idna.encode(name, uts46=True).decode()
    assert host_of(f"http://{name}./x") == plain_domain(name)


@pytest.mark.parametrize(
    ("id_", "plain"),
    [
        ("<urn:uuid:0A0B0C0D-0000-5000-8000-00000000000F>", "0a0b0c0d-0000-5000-8000-00000000000f"),
        ("urn:uuid:0a0b0c0d-0000-5000-8000-00000000000f", "0a0b0c0d-0000-5000-8000-00000000000f"),
        ("0a0b0c0d-0000-5000-8000-00000000000f", "0a0b0c0d-0000-5000-8000-00000000000f"),
        ("<urn:x:Case>", "urn:x:Case"),
        ("<urn:uuid:1>", "urn:uuid:1"),
        ("other", "other"),
    ],
)
def test_an_id_compares_without_its_frame(id_: str, plain: str) -> None:
    assert plain_id(id_) == plain


@given(ANY_TEXT)
def test_no_string_is_too_odd(text: str) -> None:
    for form in (plain_url, host_of, plain_domain, plain_id):
        assert form(text) == form(text)
    assert plain_url(f"http://a.example/{text.partition('#')[0]}").startswith("a.example")
