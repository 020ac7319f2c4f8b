"""What has to be forgotten: lists of URLs, domains and ids, and the rows that they mean.

The requests stand in the root's dataset `forgotten`, each in a row of its own, beside a row for
every document that one matched; no text is there. Extract asks `Requests.reason` of every record
before it looks into it, so that what was forgotten does not come back from the archive.

A URL means all captures of it, a domain all pages of its host and of the hosts below, an id the
documents that have it; all three compare in the forms of `corpus.clean.removals`.

Cost: a few look-ups a row; the requests are held in memory, in every process.

URLs, domains and ids in one plain form each, so that two spellings of one thing compare equal.

Where forms are many, the broader one is taken: these names say what to remove, and a page too much
is a smaller harm there than one too few.

    url     without scheme, user, www., the scheme's usual port, fragment and final slashes; the
            host as a domain; escapes decoded where they need not be, else in capitals (RFC 3986, 6)
    domain  lowercase, in its ASCII form (RFC 3492), without a final dot
    id      as it is, without the <urn:uuid:...> of WARC-Record-ID

They never raise, whatever the string. Cost: some microseconds.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas import manifest, suffixes
from schemas.datasets import KEY
from schemas.errors import UserError

_PARTS = re.compile(r"(?:(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?[/\\]{2})?([^/\\?]*)([^?]*)(.*)", re.DOTALL)
_BLANKS = " \t\r\n\f\v"
_PORT = re.compile(r":(\d*)\Z")
_USUAL_PORTS = ("", "80", "443")
_DOTS = re.compile("[.\u3002\uff0e\uff61]")  # what IDNA takes for a dot (UTS #46)
_MAX_HOST = 253  # characters of a DNS name (RFC 1035, 2.3.4, less the length bytes)
_ESCAPE = re.compile("%([0-9a-fA-F]{2})")
_ASCII = "".join(map(chr, range(33, 127)))
_UNRESERVED = re.compile("[A-Za-z0-9._~-]")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def plain_url(url: str) -> str:
    """The form in which URLs compare; never raises, whatever the string."""
    authority, path, query = _parts(url)
    host, port = _host_and_port(authority)
    rest = path.replace("\\", "/").rstrip("/" + _BLANKS) + (query if query != "?" else "")
    short = host[4:] if host.startswith("www.") and "." in host[4:] else host
    return short + port + _ESCAPE.sub(_unescaped, quote(rest, safe=_ASCII, errors="replace"))


def host_of(url: str) -> str:
    """The host of a URL, as domains compare."""
    return _host_and_port(_parts(url)[0])[0]


def plain_domain(name: str) -> str:
    """A host's lowercase ASCII form, without a final dot.

    Letters that IDNA 2003 replaced keep their own names, as in browsers: straße.example is not
    strasse.example.
    """
    if name.isascii() or len(name) > _MAX_HOST:
        return name.lower().strip(".")
    return ".".join(map(_ascii_label, _DOTS.split(name))).strip(".")


def plain_id(id_: str) -> str:
    """An id without the frame of a WARC-Record-ID; UUIDs in lowercase (RFC 9562, 4)."""
    bare = id_.removeprefix("<").removesuffix(">")
    name = bare.lower().removeprefix("urn:uuid:")
    return name if _UUID.fullmatch(name) else bare


def _parts(url: str) -> tuple[str, str, str]:
    """Authority, path and query, the query with its question mark."""
    found = _PARTS.match(url.partition("#")[0].strip(_BLANKS))
    assert found, "the pattern matches an empty string too"
    return found[1], found[2], found[3]


def _host_and_port(authority: str) -> tuple[str, str]:
    name = authority.rpartition("@")[2]
    found = _PORT.search(name)
    port = f":{found[1]}" if found and found[1] not in _USUAL_PORTS else ""
    return plain_domain(name[: found.start()] if found else name), port


def _ascii_label(label: str) -> str:
    name = unicodedata.normalize("NFKC", label.lower())
    return name if name.isascii() else f"xn--{name.encode('punycode').decode()}"


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()


By = Literal["url", "domain", "id"]
KINDS: tuple[By, ...] = get_args(By)
REASON = "forgotten"  # `rejected_by` of such rows
# What stays of a row: its place in the archive and what names it. The rest comes from the page.
REMAINS = ("id", "dump", "url", "date", *KEY, "record_length", "truncated")
UNSET = ("noai", "tdm_reservation")

_CONTROLS = re.compile("[\0-\x1f\x7f]")


@dataclass(frozen=True)
class Request:
    """One line of a list: what kind it is of, and what it says."""

    by: By
    value: str


class Requests:
    """Requests by their plain form, the first of those that mean the same."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._known: dict[By, dict[str, Request]] = {kind: {} for kind in KINDS}
        for request in requests:
            self._known[request.by].setdefault(_PLAIN[request.by](request.value), request)

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def listed(self) -> list[Request]:
        """All, by kind, in the order in which they came."""
        return [request for known in self._known.values() for request in known.values()]

    def find(self, request: Request) -> Request | None:
        """The request among these that means the same, if there is one."""
        return self._known[request.by].get(_PLAIN[request.by](request.value))

    def matching(self, id_: str | None, url: str | None) -> list[Request]:
        """All requests that mean the document; the narrower ones first, but ids last."""
        names = {"url": _urls(url), "domain": _domains(url), "id": _ids(id_)}  # made when asked for
        asked = ((self._known[by], names[by]) for by in KINDS if self._known[by])
        return [known[name] for known, forms in asked for name in forms if name in known]

    def reason(self, id_: str | None, url: str | None) -> str | None:
        """Why the document has to be forgotten, e.g. "by domain"; None where it has not."""
        matching = self.matching(id_, url)
        return f"by {matching[0].by}" if matching else None


def _urls(url: str | None) -> Iterator[str]:
    if url:
        yield plain_url(url)


def _domains(url: str | None) -> Iterator[str]:
    """The host and all domains above it."""
    name = host_of(url) if url else ""
    while name:
        yield name
        name = name.partition(".")[2]


def _ids(id_: str | None) -> Iterator[str]:
    if id_:
        yield plain_id(id_)


_PLAIN: dict[By, Callable[[str], str]] = {
    "url": plain_url,
    "domain": plain_domain,
    "id": plain_id,
}


def read_list(path: Path, by: By) -> list[Request]:
    """The requests in a file: one a line, `#` before a comment; `UserError` names a bad line."""
    flag = f"--{by}s {path}"
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{flag}: cannot be read: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise UserError(f"{flag}, line {number}: is not text in UTF-8") from None
        if text and not text.startswith("#"):
            found.append(Request(by, text))
            if wrong := _CHECKS[by](text):
                raise UserError(f"{flag}, line {number}: {text!r}: {wrong}")
    if not found:
        raise UserError(f"{flag}: names nothing; one {by} a line is wanted")
    return found


def _wrong_url(text: str) -> str:
    host = host_of(text)
    named = "." in host or (host and "//" in text)
    fits = named and " " not in host and not _CONTROLS.search(text)
    return "" if fits else "must be a URL, such as https://example.org/page"


def _wrong_domain(text: str) -> str:
    name = plain_domain(text)
    if re.search(r"[\s/\\:@*?#%]|\.\.", name) or not name or _is_bad_address(name):
        return "must be a domain, such as example.org"
    parts = suffixes.parser().extract_str(name)
    if parts.suffix and not parts.domain:
        return "is a public suffix, under which everybody has sites: name domains below it"
    return ""


def _is_bad_address(name: str) -> bool:
    """Ends as an IP address does, and is none."""
    if not name.rpartition(".")[2].isdigit():
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return True
    return False


def _wrong_id(text: str) -> str:
    fits = not re.search(r"\s", text) and not _CONTROLS.search(text)
    return "" if fits else "must be the id of a document, such as <urn:uuid:...>"


_CHECKS: dict[By, Callable[[str], str]] = {
    "url": _wrong_url,
    "domain": _wrong_domain,
    "id": _wrong_id,
}


def load(folder: Path) -> Requests:
    """The requests that a dataset `forgotten` holds; none where there is no such dataset."""
    listed = manifest.read(folder)
    files = listed.files if listed else ()
    return _load(tuple(str(folder / f.name) for f in files if f.counts.get("requests")))


@functools.lru_cache(maxsize=2)
def _load(paths: tuple[str, ...]) -> Requests:
    # Files get names of their own and never change: equal paths, equal requests.
    tables = [pq.read_table(path, columns=["by", "value", "file_path"]) for path in paths]
    rows = (row for table in tables for row in table.to_pylist())
    return Requests(Request(row["by"], row["value"]) for row in rows if row["file_path"] is None)


class Keys:
    """Keys of documents, 8 bytes each beside the names of their WARC files; exact."""

    def __init__(self, rows: pa.Table) -> None:
        names = rows["file_path"].combine_chunks().dictionary_encode()
        codes, offsets = names.indices.to_numpy(), rows["record_offset"].to_numpy()
        order = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[order], np.arange(len(names.dictionary)), side="right")
        groups = np.split(offsets[order], ends[:-1]) if len(ends) else []
        self._offsets = dict(zip(names.dictionary.to_pylist(), groups, strict=True))

    def mask(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Which of `rows` have one of these keys, bool (n,)."""
        found = np.zeros(rows.num_rows, bool)
        names = rows["file_path"].combine_chunks().dictionary_encode()
        codes, offsets = names.indices.to_numpy(), rows["record_offset"].to_numpy()
        for code, name in enumerate(names.dictionary.to_pylist()):
            if name in self._offsets:
                here = codes == code
                found[here] = np.isin(offsets[here], self._offsets[name])
        return found


def load_keys(folder: Path) -> Keys:
    """The keys of all documents that requests matched."""
    listed = manifest.read(folder)
    files = listed.files if listed else ()
    return _load_keys(tuple(str(folder / f.name) for f in files if f.counts.get("matches")))


@functools.lru_cache(maxsize=2)
def _load_keys(paths: tuple[str, ...]) -> Keys:
    empty = pa.schema([(KEY[0], pa.string()), (KEY[1], pa.int64())]).empty_table()
    read = [pq.read_table(path, columns=list(KEY)).cast(empty.schema) for path in paths]
    return Keys(pa.concat_tables([empty, *read]))


def blank(rows: pa.Table, requests: Requests) -> pa.Table:
    """Rows of `documents` or `judged` as extract writes them of a document that is forgotten."""
    pairs = zip(rows["id"].to_pylist(), rows["url"].to_pylist(), strict=True)
    columns: dict[str, Any] = {name: rows[name] for name in REMAINS}
    columns |= {name: pa.array([False] * rows.num_rows) for name in UNSET}
    columns["rejected_by"] = pa.array([REASON] * rows.num_rows, pa.string())
    columns["detail"] = pa.array([requests.reason(*pair) for pair in pairs], pa.string())
    nothing = {f.name: pa.nulls(rows.num_rows, f.type) for f in rows.schema}
    return pa.table([(nothing | columns)[name] for name in rows.schema.names], schema=rows.schema)


def replace(rows: pa.Table, mask: NDArray[np.bool_], changed: pa.Table) -> pa.Table:
    """`rows`, where `mask` says so from `changed`, in the order of `rows`."""
    order = np.empty(rows.num_rows, np.int64)
    order[~mask] = np.arange(rows.num_rows - changed.num_rows)
    order[mask] = np.arange(rows.num_rows - changed.num_rows, rows.num_rows)
    kept = rows.filter(pa.array(~mask))
    return pa.concat_tables([kept, changed]).take(pa.array(order))


def is_blank(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows of `documents` or `judged` are forgotten already, bool (n,)."""
    return np.asarray(pc.equal(rows["rejected_by"].fill_null(""), REASON).to_numpy(), bool)
