"""Takedown requests by URL, domain or id, and the rows that they mean.

Requests are stored in the root's dataset `forgotten`, one per row, next to a row for every document
that one matched; no text is there. Extract asks `RemovalRequests.reason` of every record before it
parses it, so that no document comes back from its archive.

A URL means all its captures, a domain all pages of its host and of the hosts below it, an id all
documents that have it. Each is compared in a plain form, so that two spellings of one thing are
equal. Where spellings are many, the broader meaning is taken: here a page too many is a smaller
harm than one too few.

    url     without scheme, user, www., the scheme's usual port, fragment and trailing slashes; the
            host as a domain; unreserved escapes decoded, others in capitals (RFC 3986, 6)
    domain  lowercase, in its ASCII form (RFC 3492), without a trailing dot
    id      as it is, without the <urn:uuid:...> of WARC-Record-ID

Plain forms never raise, whatever the string. Cost: microseconds and a few look-ups per row; the
requests are held in memory by every process.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas import manifest, suffixes
from schemas.datasets import KEY
from schemas.errors import UserError

By = Literal["url", "domain", "id"]
KINDS: tuple[By, ...] = get_args(By)
REASON = "forgotten"  # `rejected_by` of blanked rows
# Columns that a blanked row keeps; the others come from the page.
REMAINS = ("id", "dump", "url", "date", *KEY, "record_length", "truncated")
UNSET = ("noai", "tdm_reservation")

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
_CONTROLS = re.compile("[\0-\x1f\x7f]")


# --- Plain forms ---------------------------------------------------------------------------------


def plain_url(url: str) -> str:
    """The form in which URLs are compared."""
    authority, path, query = _parts(url)
    host, port = _host_and_port(authority)
    rest = path.replace("\\", "/").rstrip("/" + _BLANKS) + (query if query != "?" else "")
    short = host[4:] if host.startswith("www.") and "." in host[4:] else host
    return short + port + _ESCAPE.sub(_unescaped, quote(rest, safe=_ASCII, errors="replace"))


def host_of(url: str) -> str:
    """The host of a URL, in the form in which domains are compared."""
    return _host_and_port(_parts(url)[0])[0]


def plain_domain(name: str) -> str:
    """A host's lowercase ASCII form, without a trailing dot.

    Letters that IDNA 2003 replaced are encoded, as in browsers: straße.example is not
    strasse.example.
    """
    if name.isascii() or len(name) > _MAX_HOST:
        return name.lower().strip(".")
    return ".".join(map(_ascii_label, _DOTS.split(name))).strip(".")


def plain_id(id_: str) -> str:
    """An id without the <urn:uuid:> of a WARC-Record-ID; UUIDs in lowercase (RFC 9562, 4)."""
    bare = id_.removeprefix("<").removesuffix(">")
    name = bare.lower().removeprefix("urn:uuid:")
    return name if _UUID.fullmatch(name) else bare


def _parts(url: str) -> tuple[str, str, str]:
    """Authority, path, and query with its question mark."""
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


# --- Requests ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemovalRequest:
    """One entry of a list: its kind, and its text as it was written."""

    by: By
    value: str


class RemovalRequests:
    """Requests by their plain form, the first of those that mean the same."""

    def __init__(self, requests: Iterable[RemovalRequest]) -> None:
        self._known: dict[By, dict[str, RemovalRequest]] = {by: {} for by in KINDS}
        for request in requests:
            self._known[request.by].setdefault(_FORMS[request.by].plain(request.value), request)

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def listed(self) -> list[RemovalRequest]:
        """All requests, by kind, in the order in which they came."""
        return [request for known in self._known.values() for request in known.values()]

    def find(self, request: RemovalRequest) -> RemovalRequest | None:
        """The request among these that means the same, if there is one."""
        return self._known[request.by].get(_FORMS[request.by].plain(request.value))

    def matching(self, id_: str | None, url: str | None) -> list[RemovalRequest]:
        """All requests that mean the document: by URL, by domain from its host up, by id."""
        return [
            known[name]
            for by, known in self._known.items()
            if known
            for name in _FORMS[by].of_document(id_, url)
            if name in known
        ]

    def reason(self, id_: str | None, url: str | None) -> str | None:
        """Why the document has to be removed, e.g. "by domain"; None where it has not."""
        matching = self.matching(id_, url)
        return f"by {matching[0].by}" if matching else None


def read_list(path: Path, by: By) -> list[RemovalRequest]:
    """The requests in a file: one per line, `#` before a comment; `UserError` names a bad line."""
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
            found.append(RemovalRequest(by, text))
            if problem := _FORMS[by].problem(text):
                raise UserError(f"{flag}, line {number}: {text!r}: {problem}")
    if not found:
        raise UserError(f"{flag}: names nothing; write one {by} per line")
    return found


def _domains_of(_: str | None, url: str | None) -> Iterator[str]:
    """The host and all domains above it."""
    name = host_of(url) if url else ""
    while name:
        yield name
        name = name.partition(".")[2]


def _url_problem(text: str) -> str:
    host = host_of(text)
    named = "." in host or (host and "//" in text)
    fits = named and " " not in host and not _CONTROLS.search(text)
    return "" if fits else "must be a URL, such as https://example.org/page"


def _domain_problem(text: str) -> str:
    name = plain_domain(text)
    if re.search(r"[\s/\\:@*?#%]|\.\.", name) or not name or _is_bad_address(name):
        return "must be a domain, such as example.org"
    parts = suffixes.parser().extract_str(name)
    if parts.suffix and not parts.domain:
        return "is a public suffix; name domains below it"
    return ""


def _is_bad_address(name: str) -> bool:
    """Whether a name ends as an IP address does, and is none."""
    if not name.rpartition(".")[2].isdigit():
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return True
    return False


def _id_problem(text: str) -> str:
    fits = not re.search(r"\s", text) and not _CONTROLS.search(text)
    return "" if fits else "must be the id of a document, such as <urn:uuid:...>"


class _Form(NamedTuple):
    """The plain form of a value, those by which a document is meant, and what a value lacks."""

    plain: Callable[[str], str]
    of_document: Callable[[str | None, str | None], Iterable[str]]  # of its id and URL
    problem: Callable[[str], str]


_FORMS: dict[By, _Form] = {
    "url": _Form(plain_url, lambda _, url: [plain_url(url)] if url else [], _url_problem),
    "domain": _Form(plain_domain, _domains_of, _domain_problem),
    "id": _Form(plain_id, lambda id_, _: [plain_id(id_)] if id_ else [], _id_problem),
}


# --- The dataset `forgotten` ---------------------------------------------------------------------


def load(folder: Path) -> RemovalRequests:
    """The requests in a dataset `forgotten`; none where there is no such dataset."""
    return _load(_listed_paths(folder, "requests"))


def load_keys(folder: Path) -> DocumentKeys:
    """The keys of all documents that requests matched."""
    return _load_keys(_listed_paths(folder, "matches"))


def _listed_paths(folder: Path, count: str) -> tuple[str, ...]:
    listed = manifest.read(folder)
    files = listed.files if listed else ()
    return tuple(str(folder / file.name) for file in files if file.counts.get(count))


# Files have unique names and never change: equal paths, equal contents.
@functools.lru_cache(maxsize=2)
def _load(paths: tuple[str, ...]) -> RemovalRequests:
    tables = [pq.read_table(path, columns=["by", "value", "file_path"]) for path in paths]
    rows = (row for table in tables for row in table.to_pylist())
    return RemovalRequests(
        RemovalRequest(row["by"], row["value"]) for row in rows if row["file_path"] is None
    )


@functools.lru_cache(maxsize=2)
def _load_keys(paths: tuple[str, ...]) -> DocumentKeys:
    empty = pa.schema([(KEY[0], pa.string()), (KEY[1], pa.int64())]).empty_table()
    read = [pq.read_table(path, columns=list(KEY)).cast(empty.schema) for path in paths]
    return DocumentKeys(pa.concat_tables([empty, *read]))


class DocumentKeys:
    """An exact set of documents' keys, at 8 bytes each and the names of their WARC files."""

    def __init__(self, rows: pa.Table) -> None:
        names, codes, offsets = _columns(rows)
        order = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[order], np.arange(len(names)), side="right")
        groups = np.split(offsets[order], ends[:-1]) if len(ends) else []
        self._offsets = dict(zip(names, groups, strict=True))

    def mask(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Which of `rows` have one of these keys, bool (n,)."""
        found = np.zeros(rows.num_rows, bool)
        names, codes, offsets = _columns(rows)
        for code, name in enumerate(names):
            if name in self._offsets:
                here = codes == code
                found[here] = np.isin(offsets[here], self._offsets[name])
        return found


def _columns(rows: pa.Table) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]]:
    """Different file names, the number of each row's among them, and record offsets."""
    names = rows["file_path"].combine_chunks().dictionary_encode()
    return names.dictionary.to_pylist(), names.indices.to_numpy(), rows["record_offset"].to_numpy()


# --- Rows of `documents` and `judged` ------------------------------------------------------------


def blank(rows: pa.Table, requests: RemovalRequests) -> pa.Table:
    """Rows as extract writes them of a document that was removed: names and place, no content."""
    pairs = zip(rows["id"].to_pylist(), rows["url"].to_pylist(), strict=True)
    columns: dict[str, Any] = {name: rows[name] for name in REMAINS}
    columns |= {name: pa.array([False] * rows.num_rows) for name in UNSET}
    columns["rejected_by"] = pa.array([REASON] * rows.num_rows, pa.string())
    columns["detail"] = pa.array([requests.reason(*pair) for pair in pairs], pa.string())
    nothing = {f.name: pa.nulls(rows.num_rows, f.type) for f in rows.schema}
    return pa.table([(nothing | columns)[name] for name in rows.schema.names], schema=rows.schema)


def is_blank(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows were blanked already, bool (n,)."""
    return np.asarray(pc.equal(rows["rejected_by"].fill_null(""), REASON).to_numpy(), bool)


def replace(rows: pa.Table, mask: NDArray[np.bool_], changed: pa.Table) -> pa.Table:
    """`rows`, those that `mask` names replaced by the rows of `changed`, in the same order."""
    order = np.empty(rows.num_rows, np.int64)
    order[~mask] = np.arange(rows.num_rows - changed.num_rows)
    order[mask] = np.arange(rows.num_rows - changed.num_rows, rows.num_rows)
    kept = rows.filter(pa.array(~mask))
    return pa.concat_tables([kept, changed]).take(pa.array(order))
