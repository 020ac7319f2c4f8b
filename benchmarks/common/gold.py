"""Human gold for real pages, and how well a text agrees with it.

Agreement is counted in words, each as often as it occurs (a bag of words): precision is the share
of the text's words that the gold has, recall the share of the gold's words that the text has, F1
their harmonic mean. The order of words counts for nothing. Case is ignored, and a character of a
script without spaces is a word, as for MinHash.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import regex

from corpus.dedup.word_hashes import SPACELESS
from corpus.text.charset import decode
from corpus.warc.http import decode_body, parse_response
from corpus.warc.records import read_records

SHARED = Path(__file__).parents[3] / "shared"
GOLD = SHARED / "gold" / "gold.jsonl.gz"
CRAWL = str(SHARED / "crawl" / "REALWEB-public-*.warc.gz")
_MAX_HTML_BYTES = 8 << 20  # as Extract.max_html_bytes
_WORD = regex.compile(rf"{SPACELESS.pattern}|(?:(?!{SPACELESS.pattern})\w)+")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';,]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Page:
    """A captured page; `payload_sha1` (hex) is that of the HTTP body's bytes as they are stored."""

    url: str
    payload_sha1: str
    html: str


@dataclass(frozen=True)
class Gold:
    """What a person said of a page: its full text, or snippets that must and must not be in it."""

    source: str
    kind: str  # of the page: its type or its language, "" where the source tells neither
    text: str | None
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """Shares, 0 to 1."""

    precision: float
    recall: float
    f1: float


def read_gold(path: Path) -> dict[str, Gold]:
    """Payload SHA-1 (hex) -> its gold; dates, which say nothing of a text, are left out."""
    if not path.is_file():
        raise SystemExit(f"--gold {path}: no such file")
    found: dict[str, Gold] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["kind"] != "date":
                found[row["payload_sha1"]] = Gold(
                    row["source"],
                    row.get("page_type") or row.get("language") or "",
                    row.get("text"),
                    tuple(row.get("with", ())),
                    tuple(row.get("without", ())),
                )
    return found


def read_pages(pattern: str) -> Iterator[Page]:
    """The HTTP responses in the WARC files that `pattern` names, decoded as extract does."""
    paths = sorted(glob.glob(pattern))  # noqa: PTH207
    if not paths:
        raise SystemExit(f"--crawl {pattern}: no such files")
    for path in paths:
        for record in read_records(path):
            response = parse_response(record.content)
            if response is None:
                continue
            label = _CHARSET.search(response.headers.get("content-type") or "")
            body = decode_body(response, _MAX_HTML_BYTES).content
            yield Page(
                record.headers.get("warc-target-uri") or "",
                hashlib.sha1(response.body, usedforsecurity=False).hexdigest(),
                decode(body, label[1] if label else None).text,
            )


def words(text: str) -> Counter[str]:
    """How often each word occurs in `text`, in lower case."""
    return Counter(_WORD.findall(text.lower()))


def agreement(text: str, gold: str) -> Agreement:
    """How well `text` agrees with `gold`; perfectly where both are empty, else not if one is."""
    mine, theirs = words(text), words(gold)
    if not mine and not theirs:
        return Agreement(1.0, 1.0, 1.0)
    common = (mine & theirs).total()
    precision = common / mine.total() if mine else 0.0
    recall = common / theirs.total() if theirs else 0.0
    f1 = 2 * common / (mine.total() + theirs.total())
    return Agreement(precision, recall, f1)


def mean(agreements: Sequence[Agreement]) -> Agreement | None:
    """The mean over pages of each share, or None of no page: F1 is not that of the other two."""
    if not agreements:
        return None
    precision = fmean(one.precision for one in agreements)
    recall = fmean(one.recall for one in agreements)
    return Agreement(precision, recall, fmean(one.f1 for one in agreements))


def num_found(snippets: Sequence[str], text: str) -> int:
    """How many of `snippets` are in `text`; any white space is as good as another."""
    whole = " ".join(text.split())
    return sum(" ".join(snippet.split()) in whole for snippet in snippets)
