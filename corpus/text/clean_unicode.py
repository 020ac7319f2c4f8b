"""Removes invisible characters that have no use in a text.

Some hide a message from people but not from a model. Tag characters and variation selectors can
carry any text (Unicode UTS #51, annex C, gives tags one use, flags; "Smuggling arbitrary data
through an emoji", P. Butler 2025); bidirectional controls reorder what is shown ("Trojan Source",
Boucher and Anderson 2021, arXiv 2111.00169; UAX #9). Joiners stay where a script or an emoji
sequence needs them; soft hyphens (U+00AD) stay, since authors set them.

Cost: one pass of one expression over a text without any of these, else a few; linear.
"""

from __future__ import annotations

import re

import regex

_TAGS = "\U000e0000-\U000e007f"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_ZERO_WIDTH = "\u200b-\u200d"
# Never needed in running text:
_USELESS = (
    "\x00-\x08\x0e-\x1f\x7f"  # C0 controls
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u2060-\u2065\u206a-\u206f"  # word joiner, invisible operators, deprecated controls
    "\ufeff\ufff9-\ufffb"  # byte order mark, interlinear annotation (TUS 23.8: not for interchange)
    "\U000e0080-\U000e00ff\U000e01f0-\U000e0fff"  # unassigned and ignored when shown (UAX #44)
)
_BREAKS = "\x0b\x0c"  # line and page tabulation: lines end there (UAX #14, class BK)
_C1 = "\x80-\x9f"

_SUSPECT = re.compile(f"[{_USELESS}{_BREAKS}{_C1}{_TAGS}{_SELECTORS}{_ZERO_WIDTH}]")
_USELESS_CHARACTERS = re.compile(f"[{_USELESS}]+")
_BREAK_CHARACTERS = re.compile(f"[{_BREAKS}]")
_C1_CHARACTERS = re.compile(f"[{_C1}]+")

# The flags of England, Scotland and Wales: all tag sequences recommended for general interchange
# (Unicode, emoji-sequences.txt, RGI_Emoji_Tag_Sequence).
_FLAGS = "|".join(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in region) + "\U000e007f"
    for region in ("gbeng", "gbsct", "gbwls")
)
_FLAG_OR_TAGS = re.compile(f"({_FLAGS})|[{_TAGS}]")

# What a variation selector can follow (TUS 23.4; StandardizedVariants.txt, emoji-variation-
# sequences.txt and the Ideographic Variation Database hold the sequences that mean something).
_SELECTOR_RUN = re.compile(f"[{_SELECTORS}]+")
_BASES = {
    "\ufe0e\ufe0f": regex.compile(r"\p{Emoji}"),
    "\ufe00\ufe01\ufe02\ufe03\ufe04\ufe05\ufe06": regex.compile(
        r"[0\p{Sm}\p{So}\p{Po}\p{Pi}\p{Pf}\p{Han}\p{Myanmar}\p{Phags_Pa}\p{Manichaean}"
        "\\p{Egyptian_Hieroglyphs}\U0001d49c-\U0001d4cf]"
    ),
}
_IDEOGRAPH = regex.compile(r"\p{Han}")

# Scripts whose letters join or form conjuncts, so that ZWJ and ZWNJ change what is read (TUS 23.2;
# RFC 5892, appendix A, has the same use in mind, but Persian also joins endings to Latin words).
_JOINING = regex.compile(
    r"[\p{Arabic}\p{Syriac}\p{Mandaic}\p{Nko}\p{Mongolian}\p{Phags_Pa}\p{Manichaean}\p{Adlam}"
    r"\p{Hanifi_Rohingya}\p{Sogdian}\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}\p{Oriya}"
    r"\p{Tamil}\p{Telugu}\p{Kannada}\p{Malayalam}\p{Sinhala}\p{Tibetan}\p{Myanmar}\p{Khmer}"
    r"\p{Balinese}\p{Javanese}\p{Sundanese}\p{Meetei_Mayek}\p{Syloti_Nagri}\p{Grantha}\p{Brahmi}]"
)
# Scripts that are written without spaces: lines may break at ZWSP (UAX #14, classes SA and ID).
_UNSPACED = regex.compile(
    r"[\p{Line_Break=Complex_Context}\p{Han}\p{Hiragana}\p{Katakana}\p{Tibetan}\p{Javanese}"
    r"\p{Balinese}]"
)
_ZERO_WIDTH_RUN = re.compile(f"[{_ZERO_WIDTH}]+")
_BEFORE_EMOJI_JOINER = regex.compile(r"[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f]")
_PICTOGRAPH = regex.compile(r"\p{Extended_Pictographic}")


def clean(text: str) -> str:
    """`text` without invisible characters that have no use where they are; idempotent.

    Tabs and line ends stay; vertical tabs and form feeds become newlines. C1 controls are bytes of
    Windows-1252 on the web and are decoded as such, as HTML does with numeric references (WHATWG,
    13.2.5.80): don\\x92t becomes don’t.
    """
    if not _SUSPECT.search(text):
        return text
    text = _BREAK_CHARACTERS.sub("\n", _USELESS_CHARACTERS.sub("", text))
    text = _C1_CHARACTERS.sub(  # five of them mean nothing in Windows-1252 either
        lambda run: run[0].encode("latin-1").decode("windows-1252", "ignore"), text
    )
    text = _FLAG_OR_TAGS.sub(lambda match: match[1] or "", text)
    text = _SELECTOR_RUN.sub(_needed_selector, text)
    return _ZERO_WIDTH_RUN.sub(_needed_joiner, text)


def _needed_selector(run: re.Match[str]) -> str:
    """The first of a run of variation selectors if it can vary the character before it."""
    selector, base = run[0][0], run.string[max(0, run.start() - 1) : run.start()]
    if selector >= "\U000e0100":
        return selector if _IDEOGRAPH.match(base) else ""
    for selectors, bases in _BASES.items():
        if selector in selectors and bases.match(base):
            return selector
    return ""


def _needed_joiner(run: re.Match[str]) -> str:
    """The first of a run of ZWSP, ZWNJ and ZWJ if a script or an emoji sequence needs it there."""
    character = run[0][0]
    before = run.string[max(0, run.start() - 1) : run.start()]
    after = run.string[run.end() : run.end() + 1]
    if character == "\u200b":
        needed = _UNSPACED.match(before) or _UNSPACED.match(after)
    else:
        needed = _JOINING.match(before) or _JOINING.match(after)
    joins = character == "\u200d" and _BEFORE_EMOJI_JOINER.match(before)
    return character if needed or (joins and _PICTOGRAPH.match(after)) else ""
