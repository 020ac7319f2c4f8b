"""Text from bytes: whole characters, as soon as they are, and no stop text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from trainer.generate.streaming import TextStream


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """`data` cut at places."""
    ends = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[a:b] for a, b in itertools.pairwise(ends))


SMALL_TEXTS = st.text(st.sampled_from("ab \n€𝄞é"), max_size=12)


@given(
    st.one_of(SMALL_TEXTS.map(str.encode), st.binary(max_size=12)),
    st.lists(st.integers(0, 99), max_size=6),
    st.lists(st.text(st.sampled_from("ab€"), min_size=1, max_size=3), max_size=3).map(tuple),
)
def test_text_does_not_depend_on_how_its_bytes_come(
    data: bytes, cuts: list[int], stops: tuple[str, ...]
) -> None:
    text = data.decode("utf-8", errors="replace")
    ended = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    reader = TextStream(stops)
    shown = [reader.take(piece) for piece in pieces(data, cuts)]
    assert "".join([*shown, reader.close()]) == text[: min(ended)[1] if ended else None]
    assert reader.stopped == bool(ended)


@given(SMALL_TEXTS, st.lists(st.integers(0, 99), max_size=6))
def test_only_whole_characters_are_shown_and_each_as_soon_as_it_is_whole(
    text: str, cuts: list[int]
) -> None:
    reader, data, shown = TextStream(), b"", ""
    for piece in pieces(text.encode(), cuts):
        data += piece
        shown += reader.take(piece)
        assert shown == data.decode("utf-8", errors="ignore")


def test_what_may_begin_a_stop_text_waits_until_it_does_not() -> None:
    reader = TextStream(("User:",))
    assert [reader.take(piece) for piece in (b"Hi. ", b"Us", b"e", b"ful. U", b"ser:", b" x")] == [
        "Hi. ", "", "", "Useful. ", "", "",
    ]  # fmt: skip
    assert reader.close() == ""
