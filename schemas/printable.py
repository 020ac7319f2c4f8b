"""Text of unknown origin for a terminal: what would control it is replaced."""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1, line separators, marks that reorder text (Unicode TR 9), halves
# of surrogates, which no terminal can be sent, and the marks of ruby text.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)


def printable(text: str) -> str:
    """`text` with every character that controls a terminal or reorders text replaced by U+FFFD.

    Tab and newline stay, and so do joiners (U+200C, U+200D), which scripts and emoji need.
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
