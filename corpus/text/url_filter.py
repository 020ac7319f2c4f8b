"""URL rules: reject pages by lists of domains, URLs and words before they are decoded.

FineWeb's rules (Penedo et al. 2024, arXiv 2406.17557, section 3.3; datatrove's URLFilter), which
come from RefinedWeb (arXiv 2306.01116). The recipe names the lists; none is shipped. In order, and
the first that matches rejects:

    domain       the registered domain is listed          (example.co.uk of a.b.example.co.uk)
    host         the host is listed
    url          the URL is listed                        (with or without https:// and www.)
    hard_word    one of the URL's words is listed; words are what non-alphanumerics separate
    soft_words   at least `min_soft_words` of another list are among the URL's words
    substring    an entry occurs in the URL's letters and digits, lowercased

Words are compared as the URL has them with lowercased lists, as datatrove does: `CASINO` is not
`casino`. Two points differ from datatrove. A host is compared lowercased, in its ASCII form,
without a final dot, and also if it is an address or has no public suffix. URLs are compared without
scheme and `www.`, as in UT1's lists: datatrove compares whole URLs, which none of its entries is.

A list is a text file (UTF-8, one entry per line, `#` before a comment), plain or `.gz`, or what the
University of Toulouse publishes (UT1, https://dsi.ut-capitole.fr/blacklists/): a folder per
category with files `domains` and `urls`, as a folder or a `.tar`, `.tar.gz` or `.tgz`. All files of
the wanted name are read, at any depth; archives are read as streams. Lists come from others, so
their decompressed size and the length of their lines are bounded.

Cost: a few microseconds per URL; 37 MB for 4.6 million domains, shared by all processes.
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
from typing import Annotated, Any, BinaryIO, TextIO, cast

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from schemas import config, json_text, manifest, suffixes
from schemas.config import settings
from schemas.errors import UserError

FORMAT = 1  # of a compiled folder; part of its name
LISTS = ("domains", "urls", "hard_words", "soft_words", "substrings")
RULES = ("domain", "host", "url", "hard_word", "soft_words", "substring")  # in the order checked
_DESCRIPTION = "rules.json"

_NOT_ALNUM = re.compile("[^a-zA-Z0-9]+")
# RFC 3986, 3.2, scheme optional; a backslash is a slash to browsers (WHATWG URL).
_AUTHORITY = re.compile(r"\s*(?:(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?[/\\]{2})?([^/\\?#]*)")
_SCHEME_AND_WWW = re.compile(r"\A\s*(?:[a-zA-Z][a-zA-Z0-9+.-]*://)?(?:[wW]{3}\.)?")
_MAX_HOST = 253  # characters of a DNS name (RFC 1035, 2.3.4, less the length bytes)
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
MAX_LIST_BYTES = 2 << 30  # UT1's largest list, 4.6 million domains, has 100 MB
MAX_LINE_CHARS = 1 << 16  # no list has longer URLs
_MAX_READ = 1 << 20  # at once: tarfile reads all of a member's extended headers
_GZIP = b"\x1f\x8b"

# An entry in another encoding matches nothing; a million others are still good.
_ENCODING, _ERRORS = "utf-8-sig", "replace"


@settings
class UrlRules:
    """Settings, section [url] of the recipe: paths of lists, and the soft words that reject a URL.

    Without lists no URL is rejected. `min_soft_words` counts different words.
    """

    domains: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    hard_words: tuple[str, ...] = ()
    soft_words: tuple[str, ...] = ()
    substrings: tuple[str, ...] = ()
    min_soft_words: Annotated[int, Field(ge=1, le=1000)] = 2

    def __post_init__(self) -> None:
        for name in LISTS:
            if not all(getattr(self, name)):
                raise ValueError(f"{name} = {list(getattr(self, name))}: must be paths of lists")


@dataclass(frozen=True)
class UrlFault:
    """Why a URL is rejected: one of `RULES` and the entry that matched."""

    rule: str
    entry: str


@dataclass(frozen=True)
class CompiledRules:
    """The lists in the form in which URLs are compared with them."""

    domains: HashedSet
    urls: HashedSet
    hard_words: frozenset[str]
    soft_words: frozenset[str]
    substrings: tuple[str, ...]
    min_soft_words: int

    def fault(self, url: str) -> UrlFault | None:
        """The first rule that `url` breaks, or None; never raises, whatever the string."""
        if len(self.domains):
            host = host_of(url)
            for rule, name in (("domain", registered_domain(host)), ("host", host)):
                if name in self.domains:
                    return UrlFault(rule, name)
        if len(self.urls) and (bare := bare_url(url)) in self.urls:
            return UrlFault("url", bare)
        words = _NOT_ALNUM.split(url)
        if not self.hard_words.isdisjoint(words):
            return UrlFault("hard_word", next(w for w in words if w in self.hard_words))
        soft = self.soft_words.intersection(words)
        if len(soft) >= self.min_soft_words:
            return UrlFault("soft_words", " ".join(sorted(soft)))
        squeezed = "".join(words).lower()
        for entry in self.substrings:  # faster than a pattern with as many alternatives
            if entry in squeezed:
                return UrlFault("substring", entry)
        return None


def list_hashes(rules: UrlRules) -> dict[str, str]:
    """Setting -> SHA-256 (hex) of its lists' bytes, independent of their names and order.

    Only settings that name a list. Raises `UserError` for a list that cannot be read.
    """
    return {
        name: config.json_hash(sorted(sha256(path, name) for path in paths))
        for name in LISTS
        if (paths := getattr(rules, name))
    }


def build(rules: UrlRules, folder: Path) -> Path:
    """Compile the lists into a folder inside `folder`, unless it exists already; its path.

    The name is a hash of the lists' contents, the settings and the format. The file that makes the
    folder valid is written last, so a build that was killed is repeated; concurrent builds write
    the same files.
    """
    made_from = [FORMAT, rules.min_soft_words, list_hashes(rules)]
    target = folder / f".url_rules-{config.json_hash(made_from)[:16]}"
    if not (target / _DESCRIPTION).exists():
        compiled = compile_rules(rules)
        compiled.domains.save(target / "domains.npy")
        compiled.urls.save(target / "urls.npy")
        words = {name: sorted(getattr(compiled, name)) for name in LISTS[2:]}
        text = config.canonical_json({**words, "min_soft_words": rules.min_soft_words})
        with manifest.atomic_path(target / _DESCRIPTION) as path:
            path.write_text(text + "\n", encoding="utf-8")
    return target


def compile_rules(rules: UrlRules) -> CompiledRules:
    """Read the lists into memory: seconds for millions of domains."""

    def entries_as(form: Callable[[str], str], name: str) -> Iterator[str]:
        for path in getattr(rules, name):
            yield from filter(None, map(form, entries(path, name)))

    return CompiledRules(
        domains=HashedSet.of(entries_as(ascii_host, "domains")),
        urls=HashedSet.of(entries_as(bare_url, "urls")),
        hard_words=frozenset(entries_as(squeeze, "hard_words")),
        soft_words=frozenset(entries_as(squeeze, "soft_words")),
        substrings=tuple(sorted(set(entries_as(squeeze, "substrings")))),
        min_soft_words=rules.min_soft_words,
    )


@functools.lru_cache(maxsize=2)
def load(compiled: Path) -> CompiledRules:
    """Open the folder that `build` returned, in milliseconds; cached.

    Raises `UserError` if it is missing or damaged.
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


def host_of(url: str) -> str:
    """The host as lists write it: no user, port, brackets or outer dots, lowercase, ASCII.

    A host with a label that has no ASCII form (IDNA 2003) is only lowercased.
    """
    found = _AUTHORITY.match(url)
    assert found, "the pattern matches an empty string too"
    authority = found[1].rpartition("@")[2]
    bracketed = authority.startswith("[")
    return ascii_host(authority[1:].partition("]")[0] if bracketed else authority.partition(":")[0])


def ascii_host(host: str) -> str:
    """A host in lowercase ASCII, without outer dots and blanks."""
    host = host.strip().lower()
    if not host.isascii() and len(host) <= _MAX_HOST:
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return host
    return host.strip(".")


def registered_domain(host: str) -> str:
    """The public suffix and the label before it; "" for an address or a name without one."""
    parts = suffixes.parser().extract_str(host)
    return f"{parts.domain}.{parts.suffix}" if parts.domain and parts.suffix else ""


def bare_url(url: str) -> str:
    """The URL as UT1 writes it: without scheme and `www.`."""
    return _SCHEME_AND_WWW.sub("", url)


def squeeze(entry: str) -> str:
    """Letters and digits alone, lowercased."""
    return _NOT_ALNUM.sub("", entry).lower()


def entries(path: str, name: str) -> Iterator[str]:
    """The entries of the list at `path`, stripped, in the order of the files.

    `name` is the setting that names the list, and the name of the wanted files in a folder or an
    archive. Raises `UserError` naming both if the list cannot be read or is not text.
    """
    found = False
    with _named_errors(path, name):
        for stream in _streams(Path(path), name):
            found = True
            yield from _entries_of(io.TextIOWrapper(stream, encoding=_ENCODING, errors=_ERRORS))
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


def _streams(path: Path, name: str) -> Iterator[BinaryIO]:
    """The wanted files, decompressed."""
    if not path.name.endswith(_ARCHIVES):
        for file in _files(path, name):
            with _open(file, unpack=file.suffix == ".gz") as stream:
                yield stream
        return
    with path.open("rb") as packed:
        unpack = packed.read(2) == _GZIP
    with _open(path, unpack) as stream:
        try:
            archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115
        except tarfile.ReadError as error:
            raise ValueError(f"it could not be opened as an archive: {error}") from None
        with archive:
            for member in archive:
                if member.size < 0:  # tarfile would search for the next one before it, for ever
                    raise ValueError(f"its member {member.name!r} has {member.size} bytes")
                wanted = member.isfile() and PurePosixPath(member.name).name == name
                content = archive.extractfile(member) if wanted else None
                if content:
                    yield cast(BinaryIO, content)
                cast(Any, archive).members.clear()  # tarfile would keep all of them


def _open(path: Path, unpack: bool) -> BinaryIO:
    return cast(BinaryIO, _Bounded(gzip.GzipFile(path) if unpack else path.open("rb")))


class _Bounded(io.RawIOBase):
    """A stream that raises beyond `MAX_LIST_BYTES`, or if very much is read at once."""

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
            self._check(offset)  # before a compressed stream is read that far
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
        text = file.read(MAX_LINE_CHARS)
        if "\0" in text:
            raise ValueError("it holds a NUL, so it is not text")
        *lines, begun = (begun + text).split("\n")
        if len(begun) > MAX_LINE_CHARS:
            raise ValueError(f"it has a line of over {MAX_LINE_CHARS} characters")
        if at_end := not text:
            lines.append(begun)
        for entry in map(str.strip, lines):
            if entry and not entry.startswith("#"):
                yield entry


@dataclass(frozen=True, eq=False)
class HashedSet:
    """A read-only set of strings, as a sorted array of their xxh3_64 hashes.

    8 bytes per entry and about a microsecond per look-up. A saved set is memory-mapped: opening it
    takes a millisecond whatever its size, and processes share its pages. A string that is not in a
    set of n entries is found in it with probability n / 2^64. With 4.6 million entries that is
    2.5e-13: one page in 700 crawls of three billion pages, at two look-ups per page.
    """

    hashes: NDArray[np.uint64]  # ascending, each once

    @classmethod
    def of(cls, entries: Iterable[str]) -> HashedSet:
        """The set of `entries`, which are hashed one by one and not kept."""
        hashes = np.fromiter(map(_hash, entries), np.uint64)
        hashes.sort()
        # Keeping the last of each run of equals is instant; np.unique takes 4 s for 4.6 million.
        return cls(hashes[np.append(hashes[1:] != hashes[:-1], True)[: len(hashes)]])

    @classmethod
    def open(cls, path: Path) -> HashedSet:
        """The set that `save` wrote to `path`, memory-mapped; else raises `UserError`."""
        try:
            hashes = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path}: not a readable set of hashes: {error}") from None
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise UserError(f"{path}: not a set of hashes: {hashes.ndim}-d array of {hashes.dtype}")
        # As a plain array: each slice of a memmap costs microseconds.
        return cls(hashes.view(np.ndarray))

    def save(self, path: Path) -> None:
        """Write the set to `path` atomically (NumPy's .npy)."""
        with manifest.atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, self.hashes, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, text: str) -> bool:
        wanted = np.uint64(_hash(text))
        at = int(self.hashes.searchsorted(wanted))
        return at < len(self.hashes) and bool(self.hashes[at] == wanted)


def _hash(text: str) -> int:
    # A URL may hold a lone surrogate, which UTF-8 cannot.
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
