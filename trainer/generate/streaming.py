"""Bytes of tokens to text as it can be shown: whole characters, and nothing of a stop text.

A token may end within a UTF-8 character, and a stop text may come in pieces: what could still
become either is held back. The text does not depend on how the bytes are cut into tokens.

What a model writes, on a terminal: as it comes, and without what a terminal would obey.
"""

from __future__ import annotations

import codecs
import io
import sys

from schemas.printing import printable


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


class TextStream:
    """Takes bytes and gives text, up to the first of `stops` that is complete."""

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self.stops, self.stopped = stops, False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def take(self, data: bytes, last: bool = False) -> str:
        """The text that `data` makes certain; bytes that are no UTF-8 become U+FFFD.

        With `last` nothing is held back any more. Nothing comes after a stop text.
        """
        if self.stopped:
            return ""
        self._held += self._decoder.decode(data, last)
        found = [(at + len(s), at) for s in self.stops if (at := self._held.find(s)) >= 0]
        self.stopped = bool(found)
        sure = min(found)[1] if found else len(self._held) - (0 if last else self._doubtful())
        text, self._held = self._held[:sure], self._held[sure:]
        return text

    def close(self) -> str:
        """What was held back."""
        return self.take(b"", last=True)

    def _doubtful(self) -> int:
        """How many of the last characters may be the beginning of a stop text."""
        longest = min(max(map(len, self.stops), default=1) - 1, len(self._held))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self.stops):
                return length
        return 0
