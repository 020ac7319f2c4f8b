"""Pages that a corpus should not take: spam, thin pages, lists, code, walls, templates."""

import random
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Reject:
    """A page with its main part as HTML and as text, and the reason it should go."""

    slug: str
    host: str
    title: str
    main: str
    text: str | None
    why: str


SPAM_HOST = "cheap-lamps-best-lamps-deals.shop"
LINKS_HOST = "best-link-directory-4u.top"
CODE_HOST = "cloudbarn-software.dev"


def _page(slug: str, host: str, title: str, lines: list[str], why: str) -> Reject:
    main = "\n".join(f"<p>{escape(line)}</p>" for line in lines)
    return Reject(slug, host, title, main, "\n".join((title, *lines)), why)


def rejects() -> list[Reject]:
    """Return all pages to be rejected for what they say."""
    return [*_spam(), *_thin(), *_link_lists(), *_code(), *_others(), *_bare_templates()]


def _spam() -> list[Reject]:
    rng = random.Random("spam")
    words = ["cheap", "lamp", "lamps", "buy", "best", "deal", "discount", "online", "sale", "led"]
    stuffed = [" ".join(rng.choices(words, k=70)) + "." for _ in range(5)]
    again = "Click here for the best lamp deals of the year and save money today."
    towns = ["Wick", "Millrace", "Ashcombe", "Brindle", "Deepdale", "Hempstead", "Tollgate"]
    local = [
        f"Are you looking for a lamp shop in {t}? Our lamp shop in {t} is the best lamp shop in "
        f"{t}, and customers in {t} love our lamp shop in {t} for lamps in {t}."
        for t in towns
    ]
    loans = [
        "Fast loan, instant loan, easy loan, best loan, quick cash loan, no credit check loan. " * 6
    ] * 3
    return [
        _page("cheap-lamps", SPAM_HOST, "Cheap lamps best lamps buy lamps", stuffed, "spam"),
        _page("save-today", SPAM_HOST, "Best lamp deals", [again] * 24, "spam"),
        _page("lamp-shop-near-me", SPAM_HOST, "Lamp shop near me", local, "spam"),
        _page("instant-loan", SPAM_HOST, "Instant loan", loans, "spam"),
        _page("tags", SPAM_HOST, "Lamp tags", [", ".join(words * 12)], "spam"),
    ]


def _thin() -> list[Reject]:
    notes = (
        ("closed-today", "www.copper-ladle-and-spoon.net", "Closed today",
         "We are closed today because the oven is being repaired. See you on Thursday."),
        ("photo-of-the-week", "www.harbourlight-gazette.co.uk", "Picture of the week",
         "Fog over the harbour on Tuesday morning, seen from the lifeboat station."),
        ("draft", "paperboat-fiction.online", "Untitled",
         "Notes to come. The second chapter will be put here when it has been typed."),
        ("video-14", "thirdshelf-verdicts.ca", "Video: the five best kettles",
         "Watch our new film above. Subscribe for more."),
        ("contact-us", "fixit-by-the-bench.info", "Contact",
         "Write to us or ring the workshop on weekdays between nine and four."),
        ("stub-weir", "almanac-of-small-things.org", "Weir",
         "A weir is a low dam across a river. This article is a stub. Please add to it."),
    )  # fmt: skip
    return [_page(slug, host, title, [line], "thin") for slug, host, title, line in notes]


def _link_lists() -> list[Reject]:
    rng = random.Random("links")
    goods = ["Garden", "Lamps", "Shoes", "Hotels", "Loans", "Poker", "Tyres", "Phones", "Cruises"]
    pages = []
    for number in range(1, 5):
        names = [f"{rng.choice(goods)} {rng.choice(goods)} {n}" for n in range(60)]
        items = "".join(f'<li><a href="http://out.example/{n}">{n}</a></li>' for n in names)
        title = f"Directory page {number}"
        main = f"<ul>{items}</ul>"
        pages.append(Reject(f"directory-{number}", LINKS_HOST, title, main, None, "link_list"))
    return pages


def _code() -> list[Reject]:
    lines = [
        "export function parseEntry(line) {",
        "  const fields = line.split(';').map((f) => f.trim());",
        "  if (fields.length !== 4) { throw new Error(`bad line: ${line}`); }",
        "  return { id: Number(fields[0]), name: fields[1], tags: fields[2].split(',') };",
        "}",
        "for (const entry of entries) { if (!seen.has(entry.id)) { seen.add(entry.id); } }",
        "class Store { constructor(path) { this.path = path; this.rows = []; } }",
    ] * 4
    settings = [f'{{"name": "worker-{n}", "limits": {{"cpu": {n}}}}},' for n in range(40)]
    return [
        Reject(slug, CODE_HOST, title, f"<pre><code>{escape(chr(10).join(rows))}</code></pre>",
               "\n".join((title, *rows)), "code")
        for slug, title, rows in (
            ("parse-entry", "parse_entry.mjs", lines),
            ("workers", "workers.json explained", settings),
        )
    ]  # fmt: skip


def _others() -> list[Reject]:
    lorem = (
        "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor "
        "incididunt ut labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud "
        "exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat."
    )
    login = (
        '<form action="/session"><label>E-mail <input name="e"></label><label>Password <input '
        'type="password"></label><button>Sign in</button></form><p><a href="/r">Forgot?</a></p>'
    )
    bullets = [
        "Sturdy steel frame", "Height adjustable", "Two year guarantee", "Colour: graphite",
        "Assembly needed", "Weight 14 kg", "Load up to 90 kg", "Packed in one box",
    ] * 2  # fmt: skip
    bullet_html = "<ul>" + "".join(f"<li>{b} {i}</li>" for i, b in enumerate(bullets)) + "</ul>"
    shout = ["#WIN #WIN #BIG >>> !!! $$$ *** BUY NOW !!! *** $$$ <<< #SALE #SALE #NOW ~~~"] * 9
    stubs = [f"The committee met again on the {n}th and discussed the matter of..." for n in
             range(4, 20)]  # fmt: skip
    cart = ["Your basket is empty.", "Please enable JavaScript to view this page."]
    host = "www.daily-reprint-digest.biz"
    return [
        _page("demo-theme", "mirror-of-good-articles.xyz", "Sample page", [lorem] * 4,
              "lorem_ipsum"),
        Reject("sign-in", "askbench-answers.io", "Sign in", login, None, "login"),
        Reject("desk-specification", "honest-gear-notebook.ie", "Specification", bullet_html,
               "\n".join(f"{b} {i}" for i, b in enumerate(bullets)), "bullets"),
        _page("basket", SPAM_HOST, "Basket", cart, "javascript_wall"),
        _page("mega-sale", SPAM_HOST, "!!! MEGA $$$ SALE !!!", shout, "shouting"),
        _page("archive-of-briefs", host, "Briefs", stubs, "ellipsis"),
    ]  # fmt: skip


def _bare_templates() -> list[Reject]:
    hosts = ("www.harbourlight-gazette.co.uk", "www.copper-ladle-and-spoon.net",
             "www.why-the-sky-explainer.science", "el-diario-de-puerto-ceniza.es")  # fmt: skip
    return [Reject("index", host, "Archive", "", None, "template_only") for host in hosts]
