"""A rich console for text of unknown origin: no markup, nothing that controls a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from schemas.printable import printable


class PlainConsole(Console):
    """A console that shows every string as it is, `[red]` and `:smile:` included.

    What is printed, in tables and in `Text` too, passes `printable`; only rich's own styles and
    its moves of the cursor reach the terminal.
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
