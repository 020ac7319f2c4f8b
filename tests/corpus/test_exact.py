"""What documents are compared by before MinHash."""

from __future__ import annotations

import pyarrow as pa
import pytest

from corpus.dedup.exact import Exact, payload_hashes, url_hashes


def test_a_fragment_is_no_part_of_an_address_and_all_else_is() -> None:
    urls = ["http://a.example/x", "http://a.example/x#part", "http://a.example/x?y", None]
    found = url_hashes(pa.array(urls)).to_pylist()
    assert found[0] == found[1]
    assert len(set(found[1:])) == 3
    assert found[3] is None


def test_digests_are_the_same_in_any_case() -> None:
    found = payload_hashes(pa.array(["sha1:ABC", "SHA1:abc", "sha1:ABD", None])).to_pylist()
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (("title",), r"by\[0\] = 'title': must be one of 'text', 'url', 'payload'"),
        (("url", "url"), "each at most once"),
    ],
)
def test_keys_that_make_no_sense_are_refused(by: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Exact(by)  # type: ignore[arg-type]
