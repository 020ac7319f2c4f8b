"""Bytes of tokens to text as it can be shown: whole characters, and nothing of a stop text.

A token may end within a UTF-8 character, and a stop text may come in pieces: what could still
become either is held back. The text does not depend on how the bytes are cut into tokens.
"""

from __future__ import annotations

import codecs


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
