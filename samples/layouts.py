"""Ten page layouts, from a newspaper with semantic tags to a page of nested tables."""

from collections.abc import Callable
from html import escape

import parts
from parts import View


def news(view: View) -> str:
    """Semantic tags throughout: header, nav, main, article, aside, footer."""
    return (
        f'<!DOCTYPE html>\n<html lang="{view.site.language}">\n{parts.head(view)}<body>\n'
        f'{parts.banner(view)}<header class="site-header"><a href="/" class="logo">'
        f"{escape(view.site.name)}</a><nav><ul>{parts.links(view)}</ul></nav></header>\n"
        f"{parts.advert(view, 1)}<main>{parts.crumbs(view)}"
        f'<article itemscope itemtype="https://schema.org/NewsArticle"><header>'
        f"<h1>{escape(view.title)}</h1>{parts.byline(view)}</header>"
        f'<div class="article-body" itemprop="articleBody">\n{view.main}\n</div>'
        f"{parts.share(view)}</article>{parts.comments(view)}</main>\n"
        f'<aside class="sidebar">{parts.teasers(view, view.words.latest, 0, 5)}'
        f"{parts.newsletter(view)}{parts.advert(view, 2)}</aside>\n"
        f"<footer>{parts.footer_text(view)}</footer></body></html>\n"
    )


def blog(view: View) -> str:
    """What the common blog software writes."""
    return (
        f'<!DOCTYPE html>\n<html lang="{view.site.language}">{parts.head(view)}'
        f'<body class="post-template-default single single-post">\n<div id="page" class="site">'
        f'<div id="masthead" class="site-header"><p class="site-title"><a href="/">'
        f'{escape(view.site.name)}</a></p><div class="main-navigation"><ul class="menu">'
        f'{parts.links(view)}</ul></div></div>\n<div id="content" class="site-content">'
        f'<div id="primary" class="content-area">\n<div class="post type-post hentry">'
        f'<h1 class="entry-title">{escape(view.title)}</h1>{parts.byline(view)}'
        f'<div class="entry-content">\n{view.main}\n</div>{parts.share(view)}</div>\n'
        f"{parts.teasers(view, view.words.related, 0, 3)}{parts.comments(view)}</div>\n"
        f'<div id="secondary" class="widget-area sidebar">{parts.newsletter(view)}'
        f"{parts.teasers(view, view.words.latest, 3, 7)}</div></div>\n"
        f'<div id="colophon" class="site-footer">{parts.footer_text(view)}</div></div>'
        f"{parts.banner(view)}</body></html>\n"
    )


def soup(view: View) -> str:
    """Nothing but div elements, told apart by their class names."""
    return (
        f'<!DOCTYPE html>\n<html>{parts.head(view)}<body><div class="wrapper">\n'
        f"{parts.banner(view)}"
        f'<div class="topbar"><div class="brand">{escape(view.site.name)}</div>'
        f'<div class="navbar">{parts.links(view, "div")}</div></div>{parts.crumbs(view)}'
        f'<div class="columns"><div class="col-left sidebar">'
        f"{parts.teasers(view, view.words.latest, 0, 4)}{parts.advert(view, 1)}</div>\n"
        f'<div class="col-main"><div class="story-head"><h1>{escape(view.title)}</h1>'
        f'{parts.byline(view)}</div>\n<div class="story-body article-text">{view.main}</div>\n'
        f"{parts.share(view)}{parts.teasers(view, view.words.related, 4, 7)}{parts.comments(view)}"
        f'</div><div class="col-right sidebar">{parts.newsletter(view)}'
        f"{parts.advert(view, 2)}</div>"
        f'</div>\n<div class="footer">{parts.footer_text(view)}</div></div></body></html>\n'
    )


def magazine(view: View) -> str:
    """Class names as a bundler writes them, and a box in the middle of the story."""
    mark = f"{sum(view.site.host.encode()):x}"
    before, _, after = view.main.partition("</p>")
    inset = (
        f'<aside class="Inset_box__{mark}"><h4>{escape(view.words.related)}</h4>'
        f'<a href="{escape(view.teasers[0][1])}">{escape(view.teasers[0][0])}</a></aside>'
    )
    closing = "</p>" if after else ""
    return (
        f'<!doctype html><html lang="{view.site.language}">{parts.head(view)}'
        f'<body><div id="__root"><header class="Header_top__{mark}"><a href="/">'
        f'{escape(view.site.name)}</a><nav class="Nav_list__{mark}">{parts.links(view, "span")}'
        f'</nav><form role="search"><input placeholder="{escape(view.words.search)}"></form>'
        f'</header><main class="Layout_main__{mark}"><h1 class="Title_big__{mark}">'
        f'{escape(view.title)}</h1>{parts.byline(view)}<article class="Body_text__{mark}">'
        f"{before}{closing}{inset}{after}</article>{parts.share(view)}"
        f'<section class="related">{parts.teasers(view, view.words.related, 1, 7)}</section></main>'
        f'<footer class="Footer_all__{mark}">{parts.newsletter(view)}{parts.footer_text(view)}'
        f"</footer></div>{parts.banner(view)}{parts.script(view)}</body></html>"
    )


def recipe(view: View) -> str:
    """A cook's page with ratings and a button that jumps over the story."""
    stars = '<span class="star">&#9733;</span>' * 4
    return (
        f'<!DOCTYPE html>\n<html lang="{view.site.language}">{parts.head(view)}<body>\n'
        f"{parts.banner(view)}<header><a href='/'>{escape(view.site.name)}</a><nav><ul>"
        f"{parts.links(view)}</ul></nav></header>\n<main><article class='recipe-post'>"
        f"<h1>{escape(view.title)}</h1><div class='jump-link'><a href='#card'>Jump to recipe</a>"
        f"</div>{parts.byline(view)}<div class='entry-content'>{view.main}</div>"
        f"<div class='rating'>{stars} 4.2 ({view.rng('stars').randrange(9, 400)})</div></article>\n"
        f"{parts.teasers(view, view.words.related, 0, 6)}{parts.comments(view)}</main>"
        f"<footer>{parts.newsletter(view)}{parts.footer_text(view)}</footer></body></html>"
    )


def manual(view: View) -> str:
    """Documentation software: a tree of pages on the left, previous and next below."""
    tree = "".join(f'<li><a href="{escape(u)}">{escape(t)}</a></li>' for t, u, _ in view.teasers)
    return (
        f'<!DOCTYPE html>\n<html lang="{view.site.language}">{parts.head(view)}<body>'
        f'<div class="navbar"><a href="/">{escape(view.site.name)}</a><input type="search"></div>\n'
        f'<div class="container"><nav class="menu sidebar"><ul>{tree}</ul></nav>'
        f'<main class="doc-main">{parts.crumbs(view)}<article class="markdown-body">'
        f"<h1>{escape(view.title)}</h1>\n{view.main}\n</article>"
        f'<nav class="pagination-nav"><a href="/p">Previous</a> <a href="/n">Next</a></nav></main>'
        f"</div><footer>{parts.footer_text(view)}</footer>{parts.banner(view)}</body></html>\n"
    )


def wiki(view: View) -> str:
    """An encyclopaedia's page: contents, fact box, references, categories."""
    facts = (("Kind", "general entry"), ("Revised", view.date[:10]), ("See also", "Index"))
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts)
    others = [f"<li><a href='{escape(u)}'>{escape(t)}</a></li>" for t, u, _ in view.teasers]
    refs = "".join(others[:4])
    return (
        f'<!DOCTYPE html>\n<html lang="{view.site.language}">{parts.head(view)}'
        f'<body class="mediawiki"><div id="content" class="mw-body" role="main">'
        f'<h1 id="firstHeading" class="firstHeading">{escape(view.title)}</h1>'
        f'<div id="siteSub">From {escape(view.site.name)}</div><div id="mw-content-text">'
        f'<div class="mw-parser-output"><table class="infobox">{rows}</table>\n{view.main}\n'
        f'<h2>References</h2><ol class="references">{refs}</ol></div></div>'
        f'<div id="catlinks" class="catlinks">Categories: <a href="/c">Crafts</a></div></div>\n'
        f'<div id="mw-navigation"><ul>{parts.links(view)}</ul></div>'
        f'<div id="footer">{parts.footer_text(view)}</div></body></html>\n'
    )


def forum(view: View) -> str:
    """A question and its answers, one post each."""
    rng = view.rng("posts")
    question, _, answers = view.main.partition("</p>")
    side = f'<div class="votes">{rng.randrange(2, 90)}</div>'
    return (
        f'<!DOCTYPE html><html lang="{view.site.language}">{parts.head(view)}<body>\n'
        f"{parts.banner(view)}<header><a href='/'>{escape(view.site.name)}</a>"
        f"<nav>{parts.links(view, 'span')}</nav></header>\n<main id='mainbar'>"
        f'<div class="thread"><h1>{escape(view.title)}</h1>'
        f'<div class="question post-layout">{side}<div class="post-body">{question}</p></div></div>'
        f'<div class="answer accepted-answer">{side}<div class="post-body">{answers}</div></div>'
        f"</div></main>\n<aside id='sidebar'>{parts.teasers(view, view.words.related, 0, 7)}"
        "</aside>"
        f"<footer>{parts.footer_text(view)}</footer></body></html>"
    )


def table(view: View) -> str:
    """A page from the time when tables made the columns."""
    menu = parts.links(view, "p").replace("<p>", "<TR><TD><FONT SIZE=2>").replace("</p>", "</TD>")
    main = view.main.replace("<p>", '<P ALIGN="justify">').replace("</p>", "</P>")
    return (
        f'<HTML>{parts.head(view)}<BODY BGCOLOR="#fffff0" TEXT="#222222">\n'
        f'<TABLE WIDTH="100%" CELLPADDING=6><TR><TD BGCOLOR="#ddddcc">'
        f"<FONT SIZE=5>{escape(view.site.name)}</FONT></TD></TR></TABLE>\n"
        f'<TABLE ALIGN=left WIDTH=150 BGCOLOR="#eeeedd">{menu}</TABLE>\n'
        f"<DIV ID=content ALIGN=justify><H1>{escape(view.title)}</H1>\n{main}\n</DIV>\n"
        f"<BR CLEAR=all><HR><CENTER><FONT SIZE=1>{escape(view.words.rights)} Best viewed at "
        f"800 x 600.</FONT></CENTER></BODY></HTML>\n"
    )


def plain(view: View) -> str:
    """A page that somebody wrote in a text editor."""
    others = " | ".join(f"<a href='{escape(u)}'>{escape(t)}</a>" for t, u, _ in view.teasers[:3])
    return (
        f"<html>\n{parts.head(view)}<body>\n<h1>{escape(view.title)}</h1>\n{view.main}\n<hr>\n"
        f"<p><small>{others}</small></p><address>{escape(view.site.name)}</address></body></html>\n"
    )


LAYOUTS: dict[str, Callable[[View], str]] = {
    "news": news, "blog": blog, "soup": soup, "magazine": magazine, "recipe": recipe,
    "manual": manual, "wiki": wiki, "forum": forum, "table": table, "plain": plain,
}  # fmt: skip


def render(view: View) -> str:
    """Return the page as the view's site lays it out."""
    return LAYOUTS[view.site.layout](view)
