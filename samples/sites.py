"""The invented sites: who they are, how their pages are laid out, what answers for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One site. `sections` name the subject areas whose articles it carries."""

    host: str
    name: str
    language: str
    layout: str
    server: str
    sections: tuple[str, ...]
    banner: bool = True

    @property
    def address(self) -> str:
        """A stable IPv4 address from a block reserved for documentation."""
        return f"203.0.113.{sum(self.host.encode()) % 250 + 2}"


def _site(host: str, name: str, language: str, layout: str, server: str, sections: str) -> Site:
    # Old and small sites ask nobody for consent; it keeps pages without a banner in the crawl.
    banner = layout not in ("table", "plain", "wiki")
    return Site(host, name, language, layout, server, tuple(sections.split()), banner)


SITES: tuple[Site, ...] = tuple(
    _site(*fields)
    for fields in (
        ("www.harbourlight-gazette.co.uk", "Harbourlight Gazette", "en", "news", "nginx",
         "news match fair"),
        ("tollgate-valley-courier.com", "Tollgate Valley Courier", "en", "soup", "apache",
         "news match"),
        ("www.quillmere-evening-post.org.uk", "Quillmere Evening Post", "en", "magazine", "cdn",
         "news fair weather"),
        ("larkspur-kitchen-notes.com", "Larkspur Kitchen Notes", "en", "recipe", "litespeed",
         "recipes cook"),
        ("www.copper-ladle-and-spoon.net", "The Copper Ladle", "en", "blog", "apache",
         "recipes cook"),
        ("fixit-by-the-bench.info", "Fix It by the Bench", "en", "manual", "cdn", "howto"),
        ("www.plainspoken-repairs.us", "Plainspoken Repairs", "en", "blog", "nginx", "howto"),
        ("almanac-of-small-things.org", "Almanac of Small Things", "en", "wiki", "apache",
         "reference"),
        ("wendlebury-open-reference.example", "Wendlebury Open Reference", "en", "wiki", "varnish",
         "reference"),
        ("askbench-answers.io", "Askbench", "en", "forum", "cdn", "forum"),
        ("forum.hedge-and-border-growers.co.nz", "Hedge and Border", "en", "forum", "nginx",
         "forum"),
        ("slow-roads-and-ferries.travel", "Slow Roads and Ferries", "en", "magazine", "cdn",
         "travel walk"),
        ("www.two-tickets-one-map.blog", "Two Tickets, One Map", "en", "blog", "litespeed",
         "travel"),
        ("honest-gear-notebook.ie", "Honest Gear Notebook", "en", "soup", "nginx", "reviews walk"),
        ("thirdshelf-verdicts.ca", "Third Shelf", "en", "news", "varnish", "reviews"),
        ("www.why-the-sky-explainer.science", "Why the Sky", "en", "magazine", "cdn", "science"),
        ("smallquestions-laboratory.edu.au", "Small Questions", "en", "manual", "iis", "science"),
        ("ashcombe-local-history.org.au", "Ashcombe History Circle", "en", "table", "apache",
         "history"),
        ("millrace-parish-archive.info", "Millrace Parish Archive", "en", "plain", "apache",
         "history"),
        ("lantern-and-inkwell-stories.press", "Lantern and Inkwell", "en", "plain", "nginx",
         "fiction"),
        ("paperboat-fiction.online", "Paper Boat", "en", "blog", "litespeed", "fiction"),
        ("sundayleague-ledger.club", "Sunday League Ledger", "en", "soup", "iis", "match"),
        ("coastweather-bulletin.scot", "Coast Weather Bulletin", "en", "news", "varnish",
         "weather"),
        ("www.longstride-rambles.test", "Longstride Rambles", "en", "table", "iis", "walk fair"),
        ("www.odertal-anzeiger-online.de", "Odertal-Anzeiger", "de", "news", "nginx", "de"),
        ("haselbacher-landbote.at", "Haselbacher Landbote", "de", "soup", "apache", "de"),
        ("wissensfenster-lindenau.ch", "Wissensfenster", "de", "magazine", "cdn", "de"),
        ("alte-schulstube-niederwies.de", "Alte Schulstube", "de", "table", "iis", "de"),
        ("www.le-courrier-de-saint-aubrac.fr", "Le Courrier de Saint-Aubrac", "fr", "news",
         "varnish", "fr"),
        ("carnets-du-littoral-lent.fr", "Carnets du littoral", "fr", "blog", "litespeed", "fr"),
        ("petite-encyclopedie-montclar.be", "Petite encyclopédie", "fr", "magazine", "nginx", "fr"),
        ("el-diario-de-puerto-ceniza.es", "El Diario de Puerto Ceniza", "es", "news", "cdn", "es"),
        ("www.cuadernos-de-valdemar.mx", "Cuadernos de Valdemar", "es", "blog", "apache", "es"),
        ("rincon-del-relojero.com.ar", "El rincón del relojero", "es", "soup", "nginx", "es"),
        ("www.gazzettino-di-porto-sereno.it", "Gazzettino di Porto Sereno", "it", "soup", "apache",
         "it"),
        ("quaderni-di-borgo-ticello.it", "Quaderni di Borgo Ticello", "it", "news", "iis", "it"),
        ("pietre-e-pane.eu", "Pietre e pane", "it", "blog", "litespeed", "it"),
        ("wiadomosci-zarzecze-dolne.pl", "Wiadomości Zarzecze", "pl", "news", "nginx", "pl"),
        ("www.umizoi-dayori.jp", "海沿い便り", "ja", "blog", "apache", "ja"),
        ("pribrezhny-listok-novosti.ru", "Прибрежный листок", "ru", "soup", "nginx", "ru"),
        ("www.oudewaalse-streekkrant.nl", "Oudewaalse Streekkrant", "nl", "news", "cdn", "nl"),
        ("palios-mylos-nea.gr", "Παλιός Μύλος", "el", "news", "litespeed", "el"),
        ("syndicated-reading-desk.co", "Syndicated Reading Desk", "en", "soup", "cdn", "copies"),
        ("mirror-of-good-articles.xyz", "Mirror of Good Articles", "en", "blog", "litespeed",
         "copies"),
        ("www.daily-reprint-digest.biz", "Daily Reprint Digest", "en", "news", "nginx", "copies"),
        ("cheap-lamps-best-lamps-deals.shop", "Lamp Deals", "en", "soup", "litespeed", "spam"),
        ("best-link-directory-4u.top", "Link Directory", "en", "table", "apache", "links"),
        ("cloudbarn-software.dev", "Cloudbarn", "en", "manual", "cdn", "odd"),
    )
)  # fmt: skip

SERVERS: dict[str, tuple[tuple[str, str], ...]] = {
    "nginx": (
        ("Server", "nginx/1.24.0"), ("Date", "@date"), ("Content-Type", "@type"),
        ("Connection", "close"), ("Vary", "Accept-Encoding"), ("X-Frame-Options", "SAMEORIGIN"),
    ),
    "apache": (
        ("Date", "@date"), ("Server", "Apache/2.4.57 (Debian)"), ("Content-Type", "@type"),
        ("Last-Modified", "@date"), ("Accept-Ranges", "bytes"),
    ),
    "cdn": (
        ("date", "@date"), ("content-type", "@type"), ("server", "edgefront"),
        ("cache-control", "public, max-age=300"), ("x-cache", "HIT"),
        ("strict-transport-security", "max-age=31536000"),
    ),
    "litespeed": (
        ("x-powered-by", "PHP/8.2.12"), ("content-type", "@type"), ("date", "@date"),
        ("server", "LiteSpeed"), ("link", '</wp-json/>; rel="https://api.w.org/"'),
    ),
    "iis": (
        ("Cache-Control", "private"), ("Content-Type", "@type"), ("Server", "Microsoft-IIS/10.0"),
        ("X-AspNet-Version", "4.0.30319"), ("X-Powered-By", "ASP.NET"), ("Date", "@date"),
    ),
    "varnish": (
        ("Content-Type", "@type"), ("Age", "114"), ("Via", "1.1 varnish (Varnish/6.6)"),
        ("X-Varnish", "32770 19"), ("Date", "@date"), ("Etag", 'W/"5f1c-61a"'),
    ),
}  # fmt: skip


def sites_for(section: str) -> list[Site]:
    """Return the sites that carry a subject area."""
    return [site for site in SITES if section in site.sections]
