"""One capture: what a crawler asked for, what came back, and what is true of it."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from layouts import render
from parts import View, paragraphs_html
from sites import SERVERS, Site
from texts import Article

FIRST_DAY = datetime(2026, 2, 9, 3, 12, 44, tzinfo=UTC)


@dataclass(frozen=True)
class Treatment:
    """How a page is sent: its bytes, what it says about them, what it forbids."""

    charset: str = "utf-8"
    header_charset: str | None = "utf-8"
    meta_charset: str | None = None
    transfer: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    meta: str = ""
    bad_byte: str = ""
    has_type: bool = True
    traits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Capture:
    """A request and its answer. `key` names it among all captures; its record id comes from it."""

    key: str
    url: str
    body: bytes
    headers: tuple[tuple[str, str], ...]
    address: str
    date: datetime
    status: str = "200 OK"
    identified: str = "text/html"
    transfer: tuple[str, ...] = ()
    record: str = "response"
    damage: str = ""
    language: str | None = None
    charset: str | None = None
    text: str | None = None
    expect: str = "reject"
    why: str = "article"
    copy_of: str | None = None
    copy_kind: str | None = None
    traits: tuple[str, ...] = field(default=())


PLAIN = Treatment()


def capture_date(key: str) -> datetime:
    """A moment within the three weeks of the crawl."""
    return FIRST_DAY + timedelta(seconds=random.Random(f"date/{key}").randrange(21 * 86400))


def published(slug: str) -> str:
    """The day on which a page was put on its site, in the years before the crawl."""
    number = sum(slug.encode())
    return (
        f"{2019 + len(slug) % 7}-{number % 12 + 1:02}-{number % 28 + 1:02}T06:{number % 60:02}:00Z"
    )


def page_url(site: Site, slug: str) -> str:
    """The address of a page in its site's own manner."""
    year, month, number = published(slug)[:4], published(slug)[5:7], sum(slug.encode())
    paths = {
        "news": f"/{year}/{month}/{slug}", "blog": f"/{year}/{slug}/",
        "soup": f"/story/{number}-{slug}.html", "magazine": f"/read/{slug}",
        "recipe": f"/{slug}/", "manual": f"/docs/{slug}.html", "wiki": f"/wiki/{slug.title()}",
        "forum": f"/questions/{number}/{slug}", "table": f"/page.asp?id={number}&t={slug}",
        "plain": f"/{slug}.htm",
    }  # fmt: skip
    return f"https://{site.host}{paths[site.layout]}"


def article_capture(
    key: str, site: Site, article: Article, library: list[Article], sent: Treatment = PLAIN
) -> Capture:
    """The page of an article, to be kept unless the caller says otherwise."""
    paragraphs = paragraphs_html(article.paragraphs, random.Random(f"links/{key}"))
    return page_capture(
        key, site, article.title, "\n".join(paragraphs), library, sent,
        slug=article.slug, text=article.text,
    )  # fmt: skip


def page_capture(
    key: str, site: Site, title: str, main: str, library: list[Article],
    sent: Treatment = PLAIN, *, slug: str, text: str | None,
) -> Capture:  # fmt: skip
    """Lay a page out, encode it and put the headers of its server around it."""
    url = page_url(site, slug)
    view = View(
        site, url, title, main, published(slug), _teasers(site, key, library), key,
        (f'<meta charset="{sent.meta_charset}">' if sent.meta_charset else "") + sent.meta,
    )  # fmt: skip
    banner = ("cookie_banner",) if site.banner else ()
    odd_charset = (sent.charset,) if sent.charset != "utf-8" else ()
    return Capture(
        key, url, _encode(render(view), sent), http_headers(site, key, _content_type(sent), sent),
        site.address, capture_date(key), transfer=sent.transfer, language=site.language,
        charset=sent.charset, text=text, expect="keep",
        traits=(*banner, *odd_charset, *sent.transfer, *sent.traits),
    )  # fmt: skip


def _teasers(site: Site, key: str, library: list[Article]) -> tuple[tuple[str, str, str], ...]:
    same_language = [a for a in library if a.language == site.language]
    pool = [a for a in same_language if a.section in site.sections] or same_language
    picked = random.Random(f"teasers/{key}").sample(pool, min(7, len(pool)))
    cards = [(a.title, page_url(site, a.slug), a.paragraphs[0][:60]) for a in picked]
    return tuple((cards * 7)[:7])


def _encode(page: str, sent: Treatment) -> bytes:
    if sent.charset == "utf-16":
        return b"\xff\xfe" + page.encode("utf-16-le")
    body = page.encode(sent.charset, errors="xmlcharrefreplace")
    mark = sent.bad_byte.encode()
    return body.replace(mark, mark + b" \xfe", 1) if mark else body


def _content_type(sent: Treatment) -> str | None:
    if not sent.has_type:
        return None
    return "text/html" + (f"; charset={sent.header_charset}" if sent.header_charset else "")


def http_headers(
    site: Site, key: str, content_type: str | None, sent: Treatment = PLAIN
) -> tuple[tuple[str, str], ...]:
    """The headers of the site's server, with date and type put in, and the page's own."""
    date = capture_date(key).strftime("%a, %d %b %Y %H:%M:%S GMT")
    filled = (
        (name, content_type if value == "@type" else date if value == "@date" else value)
        for name, value in SERVERS[site.server]
    )
    return (*((n, v) for n, v in filled if v is not None), *sent.headers)
