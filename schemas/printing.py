"""Print untrusted text on a terminal: nothing in it is markup or controls the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# C0 except tab and newline, DEL, C1, line separators, marks that reorder text (Unicode TR 9), lone
# surrogates, which cannot be encoded, and ruby marks.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)


def printable(text: str) -> str:
    """`text` with every character that controls a terminal or reorders text replaced by U+FFFD.

    Tab and newline stay, and so do joiners (U+200C, U+200D), which scripts and emoji need.
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """Printable text in which newlines and tabs are spaces."""
    return printable(text).translate({9: " ", 10: " "})


class PlainConsole(Console):
    """A rich console that prints every string as it is, `[red]` and `:smile:` included.

    All text, in tables too, goes through `printable`; only rich's own styles and cursor movements
    reach the terminal.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Segments of `renderable`, their text made printable."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
