"""Text from a model as it is generated: from bytes to complete characters, and to the terminal.

A token may end within a UTF-8 character, and a stop text may span tokens: bytes and characters that
could still become either are held back, so text does not depend on where tokens end. On the screen,
characters that control a terminal are replaced.
"""

from __future__ import annotations

import codecs
import io
import sys

from schemas.printing import printable


class TextStream:
    """Turns bytes into text, up to the first of `stops` that is complete."""

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self.stops, self.stopped = stops, False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def take(self, data: bytes, last: bool = False) -> str:
        """The text that `data` completes; bytes that are not UTF-8 become U+FFFD.

        With `last`, nothing is held back. After a stop text there is no more text.
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
        """The text that was held back."""
        return self.take(b"", last=True)

    def _doubtful(self) -> int:
        """How many of the last characters may begin a stop text."""
        longest = min(max(map(len, self.stops), default=1) - 1, len(self._held))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self.stops):
                return length
        return 0


class Screen:
    """Writes text to standard output, and remarks to standard error, one per line."""

    def __init__(self) -> None:
        self._at_start = True  # of a line
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters
                stream.reconfigure(errors="replace")

    def text(self, text: str) -> None:
        """Append text to the current line."""
        if text:
            print(printable(text), end="", flush=True)
            self._at_start = text.endswith("\n")

    def line(self, text: str) -> None:
        """Print text on a line of its own."""
        self.end_line()
        self.text(f"{text}\n")

    def end_line(self) -> None:
        """Begin a new line, unless at the start of one."""
        if not self._at_start:
            self.text("\n")

    def remark(self, text: str) -> None:
        """Print something that the model did not write."""
        self.end_line()
        print(f"({printable(text)})", file=sys.stderr, flush=True)
