"""What a model writes, on a terminal: as it comes, and without what a terminal would obey."""

from __future__ import annotations

import io
import sys

from schemas.printable import printable


class Screen:
    """Text on standard output, remarks on standard error, each remark on a line of its own."""

    def __init__(self) -> None:
        self._at_start = True  # of a line
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that has not all characters
                stream.reconfigure(errors="replace")

    def text(self, text: str) -> None:
        """Show text where the last ended."""
        if text:
            print(printable(text), end="", flush=True)
            self._at_start = text.endswith("\n")

    def line(self, text: str) -> None:
        """Show text on a line of its own."""
        self.end_line()
        self.text(f"{text}\n")

    def end_line(self) -> None:
        """Begin a new line, unless one has begun."""
        if not self._at_start:
            self.text("\n")

    def remark(self, text: str) -> None:
        """Say something that is not what the model wrote."""
        self.end_line()
        print(f"({printable(text)})", file=sys.stderr, flush=True)
