"""ARC framing: one line of fields before each block (Internet Archive, 1996; Common Crawl to 2012).

    URL IP-address Archive-date Content-type [more fields] Archive-length

The length counts from behind that line; a line end stands between records. URLs and types may
hold spaces, so a line is taken apart from its date. What a line says is given under the names of
WARC, so that nothing behind the reader knows two formats. Source: Burner and Kahle, ARC File Format
1.0, archive.org/web/researcher/ArcFileFormat.php, which also has the longer lines of version 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from corpus.members import text_of

MAX_LINE_BYTES = 64 << 10
# A line that was cut within "http" must not pass for one of "ttp://" or "p://".
_SCHEME = r"(?!t?tps?:)[A-Za-z][A-Za-z0-9+.\-]{2,31}:"
# Length first: it is what most lines lack, and where it is there, the date is sought only once.
_LINE = (
    _SCHEME.encode() + rb"(?=[^\r\n]{0,%d} [0-9]{1,18} *\r?\n)"
    rb"[^\r\n]*? [^ \r\n]+ [0-9]{12,18} [^\r\n]" % MAX_LINE_BYTES
)
# Where other bytes run into a line: a URL without spaces or marks of HTML, and an IPv4 address.
_LINE_INSIDE = (
    rb"(?:https?|ftp|dns|filedesc):[^ \r\n\0\"<>]{1,500}+ [0-9]{1,3}(?:\.[0-9]{1,3}){3} [0-9]{14} "
    rb"[^\r\n]{0,200}?[0-9]{1,18} *\r?\n"
)
_PREFIX = re.compile(_SCHEME.encode() + rb"|[A-Za-z][A-Za-z0-9+.\-]{0,31}\Z")
_URL = re.compile(_SCHEME)
_DATE = re.compile(r"[0-9]{12,18}")

Lines = list[tuple[str, str]]


class Arc:
    """How the records of an ARC file are told apart; see `corpus.members.Framing`."""

    length_name = "Archive-length"
    separator = b"\n"
    boundary = re.compile(rb"[\n\0](" + _LINE + rb")")
    reach = MAX_LINE_BYTES + 128
    _start = re.compile(boundary.pattern + rb"|(" + _LINE_INSIDE + rb")")
    _version = b"filedesc://"
    _line = re.compile(_LINE)

    def is_start(self, head: bytes) -> bool:
        """As a version block does, or as much of one as there is; else, as a record does."""
        version = head[: len(self._version)]
        torn_or_whole = version != b"" and self._version.startswith(version)
        return torn_or_whole or self._line.match(head) is not None

    def opens(self, head: bytes) -> bool:
        """A line of fields with a date, or as much of a URL as there is."""
        line, end, _ = head.partition(b"\n")
        return bool(_fields(text_of(line)) if end else _PREFIX.match(head))

    def starts(self, block: bytes | bytearray, at: int, end: int) -> Iterator[int]:
        """Such a line behind a line end or a NUL; inside a line, only what cannot be much else."""
        found = self._start.finditer(block, max(0, at - 1), end)
        starts = (match.start(match.lastindex or 0) for match in found)
        return (start for start in starts if start >= at)

    def header_end(self, block: bytes) -> int | None:
        """Behind the first line end."""
        return block.find(b"\n") + 1 or None

    def parse(self, header: bytes) -> Lines:
        """The line's fields as header lines of WARC; empty where it is no such line."""
        fields = _fields(text_of(header))
        return _as_warc(*fields) if fields else []

    def ends(self, tail: bytes) -> bool:
        """A line end, the end, or the next record at once (lengths that count the line end)."""
        return tail[:1] in (b"", b"\r", b"\n") or self._line.match(tail) is not None

    def ends_well(self, tail: bytes) -> bool:
        """A line end, and then the next record or nothing."""
        rest = tail.lstrip(b"\r\n")
        return rest != tail and (rest == b"" or self._line.match(rest) is not None)


def _fields(line: str) -> tuple[str, str, str, str, str] | None:
    """URL, IP address, date, type and length of a header line, or None if it is none.

    The last date is the line's: a URL with spaces may hold what looks like one. All fields but
    the length may be a dash.
    """
    words = line.rstrip(" \r\n").split(" ")
    inner = range(2, len(words) - 1)
    dates = [i for i in inner if _DATE.fullmatch(words[i])]
    dashes = [i for i in inner if words[i - 1] == words[i] == "-"]
    if not _URL.match(words[0]) or not (dates or dashes):
        return None
    at = dates[-1] if dates else dashes[0]
    url, content_type = " ".join(words[: at - 1]), " ".join(words[at + 1 : -1])
    return url.strip(), words[at - 1], words[at], content_type.strip(), words[-1]


def _as_warc(url: str, address: str, date: str, content_type: str, length: str) -> Lines:
    kind = _kind(url)
    if kind == "response":
        content_type = "application/http; msgtype=response"
    lines = [
        ("warc-type", kind),
        ("warc-target-uri", url),
        ("warc-date", _iso_date(date)),
        ("warc-ip-address", address),
        ("content-type", content_type),
        ("content-length", length),
    ]
    return [(name, value) for name, value in lines if value not in ("", "-")]


def _kind(url: str) -> str:
    """The WARC-Type of a record: what came by HTTP is a response, the rest gives no row."""
    scheme = url.partition(":")[0].lower()
    kinds = {"http": "response", "https": "response", "filedesc": "warcinfo"}
    return kinds.get(scheme, "metadata" if scheme == "metadata" else "resource")


def _iso_date(digits: str) -> str:
    """YYYYMMDDhhmmss in ISO 8601; seconds may be missing, fractions are dropped; "" if no date."""
    try:
        moment = datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return ""
    return moment.isoformat().removesuffix("+00:00") + "Z"
