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
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import url_lists
from corpus.hashed_set import HashedSet
from schemas import config, json_text, manifest, suffixes
from schemas.config import check_range
from schemas.errors import UserError

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
        name: config.json_hash(sorted(url_lists.sha256(path, name) for path in paths))
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
        yield from filter(None, map(form, url_lists.entries(path, name)))


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
