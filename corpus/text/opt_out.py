"""What a page says about being used for training: noai and TDM reservation.

`noai` and `noimageai` are directives of the robots meta tag and of the X-Robots-Tag header
(DeviantArt, 2022). TDMRep (W3C Community Group report, 2024): header or meta `tdm-reservation`
with the value 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from corpus.text.charset import meta_tags
from corpus.warc.records import Headers

HEAD_CHARS = 64 << 10
_WORDS = (b"noai", b"noimageai", b"tdm-reservation")  # without one, meta tags are not parsed
_NOAI = re.compile(r"\b(?:noai|noimageai)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Rights:
    """What header and meta tags say."""

    noai: bool
    tdm_reservation: bool


def rights_of(headers: Headers, text: str) -> Rights:
    """Read the HTTP headers, and the meta tags in the first 64 Ki characters of `text`."""
    noai = bool(_NOAI.search(headers.joined("x-robots-tag") or ""))
    reserved = (headers.get("tdm-reservation") or "").strip() == "1"
    head = text[:HEAD_CHARS]
    lowered = head.encode("utf-8", "replace").lower()  # faster than str.lower
    for tag in meta_tags(head) if any(word in lowered for word in _WORDS) else ():
        name, content = tag.get("name", "").lower(), tag.get("content", "")
        noai = noai or (name == "robots" and bool(_NOAI.search(content)))
        reserved = reserved or (name == "tdm-reservation" and content.strip() == "1")
    return Rights(noai, reserved)
