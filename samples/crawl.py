"""Decide what the crawl holds: every capture, and the file that it goes to."""

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

from captures import PLAIN, Capture, article_capture, page_capture
from oddities import HOSTS, oddities
from rejects import Reject, rejects
from sites import Site, sites_for
from texts import (
    Article,
    english_articles,
    read_articles,
    with_last_paragraph,
    with_other_words,
)
from treatments import CAPTURED_TWICE, COPIES, DAMAGED, PERSONAL, SENT

KEPT = ("de", "fr", "es", "it")
OTHER_LANGUAGES = ("pl", "ja", "ru", "nl", "el")
NUM_FILES = 4


def files() -> list[list[Capture]]:
    """Return the captures of each WARC file. Damage is in the last file, its torn record last."""
    library = _library()
    pages = {c.key: c for c in _articles(library) if c.key not in DAMAGED}
    copies = _copies(library)
    revisited = pages["en/bell-foundry"]
    whole = [*pages.values(), *copies, *_rejects(library), *oddities(library, revisited)]
    random.Random("order").shuffle(whole)
    cuts = [len(whole) * i // NUM_FILES for i in range(NUM_FILES + 1)]
    out = [whole[a:b] for a, b in pairwise(cuts)]
    damaged = {c.damage: c for c in _damaged(library)}
    out[-1].insert(len(out[-1]) // 3, damaged["bytes"])
    out[-1].insert(2 * len(out[-1]) // 3, damaged["length"])
    out[-1].append(damaged["torn"])
    return out


def _library() -> list[Article]:
    """All articles, those with personal data already in their final form."""
    foreign = [a for code in (*KEPT, *OTHER_LANGUAGES) for a in read_articles(code, code, code)]
    articles = [*english_articles(), *foreign]
    extra = {article_key(a): PERSONAL.get(article_key(a)) for a in articles}
    return [
        with_last_paragraph(a, line) if (line := extra[article_key(a)]) else a for a in articles
    ]


def article_key(article: Article) -> str:
    """The name of an article among all."""
    return f"{article.language}/{article.slug}"


def _articles(library: list[Article]) -> list[Capture]:
    """One page for each article, on the sites of its section in turn."""
    seen: Counter[str] = Counter()
    out = []
    for article in library:
        sites = sites_for(article.section)
        site = sites[seen[article.section] % len(sites)]
        seen[article.section] += 1
        out.append(_article(article, site, library))
    return out


def _article(article: Article, site: Site, library: list[Article]) -> Capture:
    key = article_key(article)
    capture = article_capture(key, site, article, library, SENT.get(key, PLAIN))
    if key in PERSONAL:
        capture = replace(capture, traits=(*capture.traits, "pii"))
    if article.language in OTHER_LANGUAGES:
        return replace(capture, expect="reject", why="language")
    return capture


def _copies(library: list[Article]) -> list[Capture]:
    by_key = {article_key(a): a for a in library}
    homes = {c.key: c.url for c in _articles(library)}
    out = []
    for number, (key, kind, title, num_words) in enumerate(COPIES):
        article = with_other_words(by_key[key], num_words, f"copy/{number}")
        article = replace(article, title=title or article.title)
        site = _copy_site(key, article, homes[key], number)
        copy = article_capture(f"copy/{number}/{key}", site, article, library)
        traits = (*copy.traits, f"{kind}_duplicate", *(("pii",) if key in PERSONAL else ()))
        out.append(
            replace(copy, expect="duplicate", why=f"{kind}_duplicate", copy_of=key, copy_kind=kind,
                    traits=traits)
        )  # fmt: skip
    return out


def _copy_site(key: str, article: Article, home: str, number: int) -> Site:
    """The site itself for a second capture, otherwise another one of the same language."""
    candidates = sites_for("copies" if article.language == "en" else article.section)
    if key in CAPTURED_TWICE:
        return HOSTS[home.split("/")[2]]
    others = [s for s in candidates if s.host not in home]
    return others[number % len(others)]


def _rejects(library: list[Article]) -> list[Capture]:
    return [_reject(page, library) for page in rejects()]


def _reject(page: Reject, library: list[Article]) -> Capture:
    capture = page_capture(
        f"reject/{page.host}/{page.slug}", HOSTS[page.host], page.title, page.main, library,
        slug=page.slug, text=page.text,
    )  # fmt: skip
    traits = (*capture.traits, "template" if page.why == "template_only" else page.why)
    return replace(capture, expect="reject", why=page.why, traits=traits)


def _damaged(library: list[Article]) -> list[Capture]:
    names = {"bytes": "damaged", "length": "broken_length", "torn": "torn"}
    return [
        replace(c, damage=DAMAGED[c.key], expect="reject", why=names[DAMAGED[c.key]],
                text=None, traits=(names[DAMAGED[c.key]],))
        for c in _articles(library)
        if c.key in DAMAGED
    ]  # fmt: skip
