"""The pieces that page layouts are put together from: head, navigation, boxes, footer.

Style rules and scripts are made from a seed, so that pages weigh what real ones do and no two
sites share their code.
"""

import json
import random
from dataclasses import dataclass
from html import escape

from furniture import FURNITURE, Furniture
from sites import Site

CSS_NAMES = (
    "wrap", "col", "row", "box", "card", "hero", "grid", "item", "head", "foot", "menu", "logo",
)  # fmt: skip
CSS_RULES = (
    "margin:0 auto {n}px", "padding:{n}px", "color:#{h}", "background:#{h}", "font-size:{n}px",
    "border-bottom:1px solid #{h}", "display:flex", "line-height:1.{n}", "max-width:{n}0px",
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """Everything that a layout shows. `main` is the main text as HTML already."""

    site: Site
    url: str
    title: str
    main: str
    date: str
    teasers: tuple[tuple[str, str, str], ...]
    seed: str
    meta: str = ""

    @property
    def words(self) -> Furniture:
        """The site's fixed words."""
        return FURNITURE[self.site.language]

    def rng(self, part: str) -> random.Random:
        """A random stream for one part of this page."""
        return random.Random(f"{self.seed}/{part}")


def paragraphs_html(paragraphs: tuple[str, ...], rng: random.Random) -> list[str]:
    """Each paragraph in a `p`, some with a link or emphasis on one word."""
    return [f"<p>{_decorate(p, rng)}</p>" for p in paragraphs]


def _decorate(paragraph: str, rng: random.Random) -> str:
    words = [escape(w, quote=False) for w in paragraph.split(" ")]
    place = rng.randrange(len(words))
    if words[place].isalpha() and len(words[place]) > 4:
        link = f'<a href="/topic/{rng.randrange(9000)}">{words[place]}</a>'
        words[place] = rng.choice((link, f"<em>{words[place]}</em>", words[place]))
    return " ".join(words)


def head(view: View, extra: str = "") -> str:
    """The head element with metadata, JSON-LD and the site's style rules."""
    title = escape(f"{view.title} - {view.site.name}")
    facts = {
        "@context": "https://schema.org", "@type": "WebPage", "headline": view.title,
        "datePublished": view.date, "publisher": {"@type": "Organization", "name": view.site.name},
        "url": view.url, "identifier": _hex(view.rng("id"), 32),
    }  # fmt: skip
    return (
        f"<head>{view.meta}<title>{title}</title>\n"
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="canonical" href="{escape(view.url)}">\n'
        f'<meta property="og:title" content="{escape(view.title)}">\n'
        f'<meta property="og:image" content="/media/{_hex(view.rng("og"), 40)}.jpg">\n'
        f'<script type="application/ld+json">{json.dumps(facts, ensure_ascii=False)}</script>\n'
        f"<style>{_style(view.site)}</style>\n{script(view)}{extra}</head>\n"
    )


def _style(site: Site) -> str:
    rng = random.Random(site.host)
    rules = []
    for _ in range(rng.randrange(40, 110)):
        name = f"{site.host[:3].strip('w.')}-{rng.choice(CSS_NAMES)}-{rng.choice(CSS_NAMES)}"
        body = rng.choice(CSS_RULES).format(n=rng.randrange(2, 99), h=_hex(rng, 6))
        rules.append(f".{name}{{{body};{rng.choice(CSS_RULES).format(n=4, h=_hex(rng, 6))}}}")
    return "\n".join(rules)


def script(view: View) -> str:
    """An inline script as advertising and statistics services leave them."""
    rng = view.rng("script")
    slots = [{"slot": _hex(rng, 12), "size": [300, rng.randrange(90, 600)]} for _ in range(9)]
    return (
        "<script>window.dataLayer=window.dataLayer||[];function track(){dataLayer.push(arguments);}"
        f"track('config','G-{_hex(rng, 10).upper()}');var pageSettings="
        f"{json.dumps({'page': _hex(rng, 32), 'slots': slots, 'ab': rng.random() < 0.5})};"
        "document.documentElement.className+=' has-script';</script>\n"
    )


def _hex(rng: random.Random, length: int) -> str:
    return "".join(rng.choices("0123456789abcdef", k=length))


def links(view: View, tag: str = "li") -> str:
    """The entries of the navigation."""
    return "".join(
        f'<{tag}><a href="/{number}/">{escape(word)}</a></{tag}>'
        for number, word in enumerate(view.words.nav)
    )


def banner(view: View) -> str:
    """The consent banner, where the site has one."""
    if not view.site.banner:
        return ""
    buttons = "".join(f"<button>{b}</button>" for b in view.words.accept.split("|"))
    return (
        '<div id="cookie-consent" class="cookie-banner" role="dialog">'
        f"<p>{escape(view.words.cookie)}</p>{buttons}</div>\n"
    )


def crumbs(view: View) -> str:
    """The path to this page."""
    nav = view.words.nav
    return (
        f'<div class="breadcrumb"><a href="/">{nav[0]}</a> &raquo; <a href="/1/">{nav[1]}</a>'
        f" &raquo; <span>{escape(view.title[:24])}</span></div>\n"
    )


def newsletter(view: View) -> str:
    """A box that asks for an address."""
    return (
        f'<div class="newsletter-signup"><p>{escape(view.words.newsletter)}</p>'
        f'<form action="/subscribe"><input type="email" name="e"><button>OK</button></form></div>\n'
    )


def teasers(view: View, heading: str, first: int, last: int) -> str:
    """Other pages of the site, each with a picture and the start of its text."""
    rng = view.rng(f"teasers{first}")
    cards = "".join(
        f'<div class="teaser"><a href="{escape(url)}"><img src="/media/{_hex(rng, 24)}.jpg" '
        f'alt=""> {escape(title)}</a><span>{escape(start)}...</span></div>\n'
        for title, url, start in view.teasers[first:last]
    )
    return f'<div class="related-posts widget"><h3>{escape(heading)}</h3>{cards}</div>\n'


def comments(view: View) -> str:
    """A few readers' remarks."""
    rng = view.rng("comments")
    picked = rng.sample(view.words.comments, rng.randrange(1, len(view.words.comments) // 2 + 2))
    items = "".join(
        f'<li class="comment" id="comment-{rng.randrange(99999)}"><cite>user{rng.randrange(999)}'
        f'</cite><div class="comment-text"><p>{escape(text)}</p></div></li>\n'
        for text in picked
    )
    return (
        f'<div id="comments" class="comments-area"><h3>{escape(view.words.comments_title)} '
        f'({len(picked)})</h3><ol class="comment-list">{items}</ol></div>\n'
    )


def advert(view: View, number: int) -> str:
    """An empty place for an advertisement."""
    slot = _hex(view.rng(f"ad{number}"), 16)
    return f'<div class="ad-slot advertisement" data-slot="{slot}"><ins></ins></div>\n'


def share(view: View) -> str:
    """Buttons that pass the page on."""
    items = "".join(f'<a href="/share/{n}" rel="nofollow">{n}</a> ' for n in ("mail", "print"))
    return f'<div class="social-share">{escape(view.words.share)}: {items}</div>\n'


def byline(view: View) -> str:
    """The author and the date."""
    author = view.rng("author").choice(view.words.authors)
    return (
        f'<div class="byline meta"><span class="author">{escape(author)}</span> '
        f'<time datetime="{view.date}">{view.date[:10]}</time></div>\n'
    )


def footer_text(view: View) -> str:
    """The lines at the foot of a page."""
    return (
        f"<p>&copy; 2026 {escape(view.site.name)}. {escape(view.words.rights)}</p>"
        f"<ul>{links(view)}</ul>"
    )
