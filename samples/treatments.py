"""Which pages are sent in a special way, and which ones are copied. Keys are `language/slug`."""

from captures import Treatment

LEGACY: dict[str, Treatment] = {
    # charset, then what the header says, then what the page says
    key: Treatment(charset, header, meta, traits=traits)
    for key, charset, header, meta, traits in (
        ("de/fahrradschlauch", "windows-1252", "windows-1252", None, ("header_charset",)),
        ("de/leuchtturm", "iso-8859-1", None, "iso-8859-1", ("meta_charset",)),
        ("de/wanderung", "windows-1252", None, None, ("no_charset",)),
        ("de/kaffeemuehle", "windows-1252", "utf-8", None, ("wrong_charset",)),
        ("fr/soupe-oignon", "iso-8859-1", "ISO-8859-1", None, ("header_charset",)),
        ("fr/reparer-chaise", "windows-1252", None, "windows-1252", ("meta_charset",)),
        ("fr/bibliotheque", "windows-1252", None, None, ("no_charset",)),
        ("it/rifugio", "windows-1252", None, "windows-1252", ("meta_charset",)),
        ("es/gazpacho", "iso-8859-1", "iso-8859-1", "iso-8859-1", ("header_charset",)),
        ("nl/gierzwaluw", "windows-1252", "iso-8859-1", None, ("header_charset",)),
        ("pl/zupa", "iso-8859-2", "iso-8859-2", None, ("header_charset",)),
        ("pl/torfowisko", "iso-8859-2", None, "iso-8859-2", ("meta_charset",)),
        ("ru/poezd", "windows-1251", "windows-1251", None, ("header_charset",)),
        ("ru/led", "windows-1251", None, "windows-1251", ("meta_charset",)),
        ("ru/mayak", "windows-1251", None, None, ("no_charset",)),
        ("ru/khleb", "koi8-r", "koi8-r", None, ("header_charset",)),
        ("ru/rynok", "koi8-r", None, "koi8-r", ("meta_charset",)),
        ("ja/densha", "shift_jis", "Shift_JIS", None, ("header_charset",)),
        ("ja/koori", "shift_jis", None, "Shift_JIS", ("meta_charset",)),
        ("ja/toshokan", "euc-jp", "EUC-JP", None, ("header_charset",)),
        ("ja/misoshiru", "euc-jp", None, "euc-jp", ("meta_charset",)),
        ("el/fakes", "windows-1253", "windows-1253", None, ("header_charset",)),
        ("el/faros", "windows-1253", None, "windows-1253", ("meta_charset",)),
        ("en/abacus", "utf-16", None, None, ("bom", "no_charset")),
        ("es/hielo-flota", "utf-16", "utf-16", None, ("bom", "header_charset")),
    )
}

ROBOTS = '<meta name="robots" content="noai, noimageai">'
TDM = '<meta name="tdm-reservation" content="1">'

SENT: dict[str, Treatment] = LEGACY | {
    "fr/randonnee": Treatment(bad_byte="gardienne", traits=("bad_byte",)),
    "es/isla-bicicleta": Treatment(bad_byte="Todos los derechos", traits=("bad_byte",)),
    "en/novel-review": Treatment(meta=ROBOTS, traits=("noai", "robots_meta")),
    "en/winter-piano": Treatment(
        headers=(("X-Robots-Tag", "noai, noimageai"),), traits=("noai", "x_robots_tag")
    ),
    "en/map-problem": Treatment(meta=TDM, traits=("tdm_reservation",)),
    "fr/velo-critique": Treatment(
        headers=(("TDM-Reservation", "1"),), traits=("tdm_reservation",)
    ),
    "en/drystone": Treatment(has_type=False, traits=("no_content_type",)),
    **{
        key: Treatment(transfer=("chunked",))
        for key in ("en/ferry-timetable", "en/peat", "en/hill-town-winter", "en/squeaky-floor",
                    "de/nachtzug", "it/terme", "en/match-2")
    },
    **{
        key: Treatment(transfer=("gzip",))
        for key in ("en/bean-stew", "en/soap-bubbles", "en/river-walk", "en/canal-lock",
                    "fr/sel", "es/riada", "en/fair-3")
    },
    **{
        key: Treatment(transfer=("gzip", "chunked"))
        for key in ("en/rust-explained", "en/compost-heap", "de/bibliothek", "en/walk-4")
    },
    "en/budget-envelopes": Treatment(transfer=("deflate",)),
}  # fmt: skip

# Added to the end of an article; telephone numbers come from ranges kept free for fiction.
PERSONAL: dict[str, str] = {
    "en/school-orchard": "Anyone who has cuttings of an old variety to give away can write to "
    "Priya Lamb at orchard.lamb@quillmere-evening-post.org.uk or ring the school on "
    "01632 960 114 during term.",
    "en/reservoir-village": "Former residents who would like to share their photographs may "
    "send them to carrow.memories@harbourlight-gazette.co.uk before the end of October.",
    "en/prune-apple": "If you get stuck, send a picture of the whole tree to "
    "ask.the.bench@fixit-by-the-bench.info and somebody will answer within the week.",
    "en/noisy-fridge": "One more thing from me as a moderator. Whoever keeps posting adverts from "
    "185.46.212.77 has been blocked, and complaints go to moderator_jill@askbench-answers.io "
    "as always.",
    "en/clean-keyboard": "Our own spare keys are listed by a small server at 91.203.67.14, which "
    "an apprentice keeps alive, and she can be reached at +44 20 7946 0018 in the evening.",
    "en/mountain-hut": "Beds must be reserved with the warden, Frau Lechthaler, either by mail "
    "to huette@kraehenstein-alm.at or by telephone on +43 5550 123 987 after six.",
    "en/school-log": "The log book may be seen by appointment with the keeper of the archive, "
    "Harold Minns, at h.minns@millrace-parish-archive.info or on (01632) 960872.",
    "en/radio-review": "The maker answered my questions within a day from "
    "service@tamworth-receivers.co.uk and did not know that I was writing a review.",
    "en/otter-count": "Sightings can be reported to Femi Adair at "
    "femi.adair@marl-canal-otters.org or by text message to 07700 900 461.",
    "de/apfelsorten": "Wer einen alten Baum kennt, erreicht den Verein unter "
    "georg.amthor@streuobst-haselbach.de oder telefonisch unter 030 23125 418.",
    "fr/marche-nuit": "Les candidatures sont à adresser avant la fin du mois à "
    "place.marche@saint-aubrac-mairie.fr ou par téléphone au 01 99 00 47 12.",
}

OTTERS = "en/otter-count"
# (original, kind, another headline or "", number of words changed)
COPIES: tuple[tuple[str, str, str, int], ...] = (
    (OTTERS, "near", "Otters are back along the whole Marl Canal", 0),
    (OTTERS, "near", "", 1),
    (OTTERS, "near", "", 2),
    (OTTERS, "near", "Clean water brings otters home", 0),
    (OTTERS, "near", "The black ditch has otters again", 1),
    ("en/library-roof", "near", "Neighbours save library's history books", 0),
    ("en/library-roof", "near", "", 2),
    ("en/how-bees-decide", "near", "", 2),
    ("en/how-bees-decide", "near", "Democracy in the beehive", 0),
    ("en/slow-train-coast", "near", "", 1),
    ("en/slow-train-coast", "near", "The slow train north", 0),
    ("en/glassworks-fire", "near", "Brindle Glassworks lights its furnace again", 1),
    ("en/why-ice-floats", "near", "", 2),
    ("en/tomato-leaves", "near", "Yellow leaves on tomatoes", 0),
    ("en/sharpen-chisel", "near", "", 1),
    ("en/damp-cellar", "near", "", 2),
    ("de/moor", "near", "", 1),
    ("fr/abeilles", "near", "", 1),
    ("en/bell-foundry", "exact", "", 0),
    ("en/rain-jacket-test", "exact", "", 0),
    ("es/relojero", "exact", "", 0),
    ("en/choir-record", "exact", "", 0),
    ("en/lemon-curd", "exact", "", 0),
    ("en/tides-twice", "exact", "", 0),
    ("en/spa-town", "exact", "", 0),
    ("en/telephone-exchange", "exact", "", 0),
    ("en/chess-plateau", "exact", "", 0),
    ("it/bolle", "exact", "", 0),
    ("de/gezeiten", "exact", "", 0),
)
# These exact copies are the same address, captured again.
CAPTURED_TWICE = {"en/bell-foundry", "en/rain-jacket-test", "es/relojero"}
# Articles that stand in damaged records and are therefore kept nowhere.
DAMAGED = {"en/weather-8": "bytes", "en/fair-8": "length", "en/cook-8": "torn"}
