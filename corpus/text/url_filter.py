"""URL rules: pages that lists of domains, URLs and words keep out before they are looked into.

FineWeb's (Penedo et al. 2024, arXiv 2406.17557, section 3.3; datatrove's URLFilter), which took
them from RefinedWeb (arXiv 2306.01116). The lists are files of others, named in the
recipe; none is shipped. In order, and the first that matches rejects:

    domain       the registered domain is listed          (example.co.uk of a.b.example.co.uk)
    host         the host is listed
    url          the URL is listed                        (with or without https:// and www.)
    hard_word    one of the URL's words is listed; words are what non-alphanumerics separate
    soft_words   at least `min_soft_words` of another list are among the URL's words
    substring    an entry occurs in the URL's letters and digits, lowercased

Words are compared as the URL writes them, the lists lowercased: `CASINO` is not `casino`, as there.
It differs from datatrove in two points. A host is compared lowercased, in its ASCII form, without a
final dot, and also where it is an address or has no public suffix. URLs are compared without scheme
and `www.`, as UT1 writes its own: datatrove compares whole URLs, which none of UT1's entries is.

Cost: some microseconds a URL; one file of 37 MB for 4.6 million domains, shared by all processes.

Lists of domains, URLs and words in files: one entry a line, `#` before a comment.

A list is a text file (UTF-8), the same compressed (`.gz`), or what the University of Toulouse
publishes (UT1, https://dsi.ut-capitole.fr/blacklists/): a folder a category with files `domains`
and `urls`, as a folder or a `.tar`, `.tar.gz` or `.tgz`. Of a folder or an archive all files of the
wanted name are read, at any depth; archives are read as streams and never unpacked to disk.

A list is an input of somebody else's: what it may unpack to, and the length of a line, are bounded.

A read-only set of strings, kept as a sorted array of 64-bit hashes that processes share.

The file is mapped, not read: opening it takes a millisecond whatever its size, and its pages are
in memory once for all processes. Cost: 8 bytes an entry, about a microsecond a look-up.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from schemas import config, json_text, manifest, suffixes
from schemas.config import check_range
from schemas.errors import UserError


@dataclass(frozen=True, eq=False)
class HashedSet:
    """Strings known by their xxh3_64 hashes alone.

    A string that is not in a set of n is found in it with probability n / 2^64. With 4.6 million
    entries that is 2.5e-13: one page in 700 crawls of three billion pages, two look-ups a page.
    """

    hashes: NDArray[np.uint64]  # ascending, each once

    @classmethod
    def of(cls, entries: Iterable[str]) -> HashedSet:
        """The set of `entries`, in memory; they are hashed one by one and never held together."""
        hashes = np.fromiter(map(_hash, entries), np.uint64)
        hashes.sort()
        # np.unique takes 4 s for 4.6 million; the last of each run of equals takes none.
        return cls(hashes[np.append(hashes[1:] != hashes[:-1], True)[: len(hashes)]])

    @classmethod
    def open(cls, path: Path) -> HashedSet:
        """The set that `save` wrote to `path`, mapped; raises `UserError` for another file."""
        try:
            hashes = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path}: not a readable set of hashes: {error}") from None
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise UserError(f"{path}: not a set of hashes: {hashes.ndim}-d array of {hashes.dtype}")
        # Without the class of memmap, whose every slice costs microseconds.
        return cls(hashes.view(np.ndarray))

    def save(self, path: Path) -> None:
        """Put the set at `path` in one step (NumPy's .npy)."""
        with manifest.atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, self.hashes, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, text: str) -> bool:
        wanted = np.uint64(_hash(text))
        at = int(self.hashes.searchsorted(wanted))
        return at < len(self.hashes) and bool(self.hashes[at] == wanted)


def _hash(text: str) -> int:
    # A lone surrogate, which UTF-8 cannot hold, may stand in a URL and is no reason to stop.
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


_ARCHIVES = (".tar", ".tar.gz", ".tgz")
# UT1's largest list, 4.6 million domains, has 100 MB; URLs longer than this are in no list.
MAX_LIST_BYTES = 2 << 30
MAX_LINE_CHARS = 1 << 16
_MAX_READ = 1 << 20  # at once: tarfile reads a member's extended headers whole
_GZIP = b"\x1f\x8b"

# An entry in another encoding can match nothing; it is no reason to refuse a million others.
_ENCODING, _ERRORS = "utf-8-sig", "replace"


def entries(path: str, name: str) -> Iterator[str]:
    """The entries of the list at `path`, stripped, in the files' order.

    `name` is the setting that names the list, and the name of the wanted files in a folder or an
    archive. Raises `UserError` naming both where the list cannot be read or is not text.
    """
    found = False
    with _named_errors(path, name):
        for file in _texts(Path(path), name):
            found = True
            yield from _entries_of(file)
        if not found:
            raise ValueError(f"it holds no file called {name!r}")


def sha256(path: str, name: str) -> str:
    """SHA-256 (hex) of the list's bytes on disk; of a folder, of its files called `name`."""
    digest = hashlib.sha256()
    with _named_errors(path, name):
        for file in _files(Path(path), name):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


@contextmanager
def _named_errors(path: str, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"url.{name} = {path!r}: not a readable list: {reason}") from None


def _files(path: Path, name: str) -> list[Path]:
    return sorted(p for p in path.rglob(name) if p.is_file()) if path.is_dir() else [path]


def _texts(path: Path, name: str) -> Iterator[TextIO]:
    if path.name.endswith(_ARCHIVES):
        yield from _members(path, name)
        return
    for file in _files(path, name):
        with _open(file, unpack=file.suffix == ".gz") as stream:
            yield _text(stream)


def _members(path: Path, name: str) -> Iterator[TextIO]:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    with _open(path, packed) as stream, _archive(stream) as archive:
        for member in archive:
            if member.size < 0:  # tarfile would look for the next one before it, again and again
                raise ValueError(f"its member {member.name!r} has {member.size} bytes")
            wanted = member.isfile() and PurePosixPath(member.name).name == name
            content = archive.extractfile(member) if wanted else None
            if content:
                yield _text(cast(BinaryIO, content))
            cast(Any, archive).members.clear()  # tarfile would remember all of them


def _archive(stream: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:")
    except tarfile.ReadError as error:
        raise ValueError(f"it could not be opened as an archive: {error}") from None


def _open(path: Path, unpack: bool) -> BinaryIO:
    return cast(BinaryIO, _Bounded(gzip.GzipFile(path) if unpack else path.open("rb")))


def _text(stream: BinaryIO) -> TextIO:
    return io.TextIOWrapper(stream, encoding=_ENCODING, errors=_ERRORS)


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more than `MAX_LIST_BYTES`, or very much at once."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise ValueError(f"it has a header of {size} bytes, at most {_MAX_READ} are read")
        found = self._stream.read(size)
        self._check(self._stream.tell())
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(min(len(buffer), _MAX_READ))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._check(offset)  # before a packed stream is read as far
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _check(self, end: int) -> None:
        if end > MAX_LIST_BYTES:
            raise ValueError(f"it unpacks to over {MAX_LIST_BYTES} bytes")


def _entries_of(file: TextIO) -> Iterator[str]:
    begun, at_end = "", False
    while not at_end:
        piece = file.read(MAX_LINE_CHARS)
        if "\0" in piece:
            raise ValueError("it holds a NUL, so it is not text")
        *lines, begun = (begun + piece).split("\n")
        if len(begun) > MAX_LINE_CHARS:
            raise ValueError(f"it has a line of over {MAX_LINE_CHARS} characters")
        if at_end := not piece:
            lines.append(begun)
        for entry in map(str.strip, lines):
            if entry and not entry.startswith("#"):
                yield entry


FORMAT = 1  # of a compiled folder: another number, another folder
LISTS = ("domains", "urls", "hard_words", "soft_words", "substrings")
_DESCRIPTION = "rules.json"

_NOT_ALNUM = re.compile("[^a-zA-Z0-9]+")
# RFC 3986, 3.2, scheme optional; a backslash is a slash to browsers (WHATWG URL).
_AUTHORITY = re.compile(r"\s*(?:(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?[/\\]{2})?([^/\\?#]*)")
_SCHEME_AND_WWW = re.compile(r"\A\s*(?:[a-zA-Z][a-zA-Z0-9+.-]*://)?(?:[wW]{3}\.)?")
_MAX_HOST = 253  # characters of a DNS name (RFC 1035, 2.3.4, less the length bytes)


@dataclass(frozen=True)
class UrlRules:
    """Settings, section [url] of the recipe: paths of lists, in the forms of `url_lists`.

    With no list no URL is rejected. `min_soft_words` counts different words.
    """

    domains: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    hard_words: tuple[str, ...] = ()
    soft_words: tuple[str, ...] = ()
    substrings: tuple[str, ...] = ()
    min_soft_words: int = 2

    def __post_init__(self) -> None:
        if self.min_soft_words < 1:
            raise ValueError(f"min_soft_words = {self.min_soft_words}: must be 1 or more")
        check_range(self, 1, 1000, "min_soft_words")
        for name in LISTS:
            if not all(getattr(self, name)):
                raise ValueError(f"{name} = {list(getattr(self, name))}: must be paths of lists")


@dataclass(frozen=True)
class UrlFault:
    """Why a URL is kept out: the rule's name, such as "domain", and the entry that matched."""

    rule: str
    entry: str


@dataclass(frozen=True)
class CompiledRules:
    """Lists ready to judge with."""

    domains: HashedSet
    urls: HashedSet
    hard_words: frozenset[str]
    soft_words: frozenset[str]
    substrings: tuple[str, ...]
    min_soft_words: int

    def fault(self, url: str) -> UrlFault | None:
        """The first rule that `url` breaks, or None; never raises, whatever the string."""
        return self._listed(url) or self._worded(url)

    def _listed(self, url: str) -> UrlFault | None:
        if len(self.domains):
            host = host_of(url)
            for rule, name in (("domain", registered_domain(host)), ("host", host)):
                if name in self.domains:
                    return UrlFault(rule, name)
        if len(self.urls):
            bare = bare_url(url)
            return UrlFault("url", bare) if bare in self.urls else None
        return None

    def _worded(self, url: str) -> UrlFault | None:
        words = _NOT_ALNUM.split(url)
        if not self.hard_words.isdisjoint(words):
            return UrlFault("hard_word", next(w for w in words if w in self.hard_words))
        soft = self.soft_words.intersection(words)
        if len(soft) >= self.min_soft_words:
            return UrlFault("soft_words", " ".join(sorted(soft)))
        squeezed = "".join(words).lower()
        # `in` beats an alternation of as many entries.
        for entry in self.substrings:
            if entry in squeezed:
                return UrlFault("substring", entry)
        return None


def host_of(url: str) -> str:
    """The host as lists write it: no user, port, brackets or outer dots, lowercase, ASCII.

    A label that has no ASCII form (IDNA 2003) leaves the whole host as it stands.
    """
    found = _AUTHORITY.match(url)
    assert found, "the pattern matches an empty string too"
    authority = found[1].rpartition("@")[2]
    bracketed = authority.startswith("[")
    return ascii_host(authority[1:].partition("]")[0] if bracketed else authority.partition(":")[0])


def ascii_host(host: str) -> str:
    """A host's lowercase ASCII form without outer dots and blanks."""
    host = host.strip().lower()
    if not host.isascii() and len(host) <= _MAX_HOST:
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return host
    return host.strip(".")


def registered_domain(host: str) -> str:
    """What stands directly under the public suffix; "" for an address or a name without one."""
    parts = suffixes.parser().extract_str(host)
    return f"{parts.domain}.{parts.suffix}" if parts.domain and parts.suffix else ""


def bare_url(url: str) -> str:
    """The URL as UT1 writes it: without its scheme and `www.`."""
    return _SCHEME_AND_WWW.sub("", url)


def squeeze(entry: str) -> str:
    """Letters and digits alone, lowercased."""
    return _NOT_ALNUM.sub("", entry).lower()


def list_hashes(rules: UrlRules) -> dict[str, str]:
    """Setting -> SHA-256 (hex) of its lists' bytes, whatever their names and order.

    Only settings that name a list. Raises `UserError` for a list that cannot be read.
    """
    named = {name: getattr(rules, name) for name in LISTS if getattr(rules, name)}
    return {
        name: config.json_hash(sorted(sha256(path, name) for path in paths))
        for name, paths in named.items()
    }


def build(rules: UrlRules, folder: Path) -> Path:
    """Compile the lists into a folder inside `folder`, unless it is there already; its path.

    The name is made of the lists' contents, the settings and the format. What gives the folder its
    validity is written last, so that a build that was killed is done again; two at once are equal.
    """
    made_from = [FORMAT, rules.min_soft_words, list_hashes(rules)]
    target = folder / f".url_rules-{config.json_hash(made_from)[:16]}"
    if not (target / _DESCRIPTION).exists():
        _save(compile_rules(rules), target)
    return target


def compile_rules(rules: UrlRules) -> CompiledRules:
    """Read the lists into memory: seconds for millions of domains."""
    return CompiledRules(
        domains=HashedSet.of(_entries(rules, "domains", ascii_host)),
        urls=HashedSet.of(_entries(rules, "urls", bare_url)),
        hard_words=frozenset(_entries(rules, "hard_words", squeeze)),
        soft_words=frozenset(_entries(rules, "soft_words", squeeze)),
        substrings=tuple(sorted(set(_entries(rules, "substrings", squeeze)))),
        min_soft_words=rules.min_soft_words,
    )


def _entries(rules: UrlRules, name: str, form: Callable[[str], str]) -> Iterator[str]:
    for path in getattr(rules, name):
        yield from filter(None, map(form, entries(path, name)))


def _save(rules: CompiledRules, target: Path) -> None:
    rules.domains.save(target / "domains.npy")
    rules.urls.save(target / "urls.npy")
    described = {name: sorted(getattr(rules, name)) for name in LISTS[2:]}
    text = config.canonical_json({**described, "min_soft_words": rules.min_soft_words})
    with manifest.atomic_path(target / _DESCRIPTION) as path:
        path.write_text(text + "\n", encoding="utf-8")


@functools.lru_cache(maxsize=2)
def load(compiled: Path) -> CompiledRules:
    """Open what `build` left at the path it gave, in milliseconds; the same object a second time.

    Raises `UserError` where it is missing or damaged.
    """
    path = compiled / _DESCRIPTION
    try:
        described: dict[str, Any] = json_text.load(path)
        return CompiledRules(
            domains=HashedSet.open(compiled / "domains.npy"),
            urls=HashedSet.open(compiled / "urls.npy"),
            hard_words=frozenset(described["hard_words"]),
            soft_words=frozenset(described["soft_words"]),
            substrings=tuple(described["substrings"]),
            min_soft_words=described["min_soft_words"],
        )
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not readable: {error}; delete the folder") from None
