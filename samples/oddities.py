"""Answers that are no page: redirects, errors, pictures, documents, a revisit."""

import json
import random
import struct
import zlib
from dataclasses import replace
from typing import Any

from captures import Capture, Treatment, capture_date, http_headers, page_capture
from sites import SITES, Site
from texts import Article

HOSTS = {site.host: site for site in SITES}
NEWS = HOSTS["www.harbourlight-gazette.co.uk"]
SOFTWARE = HOSTS["cloudbarn-software.dev"]


def oddities(library: list[Article], earlier: Capture) -> list[Capture]:
    """Return all of them; `earlier` is the capture that the revisit refers to."""
    return [*_redirects(), *_errors(library), *_files(), *_empty(), _revisit(earlier)]


def _answer(
    site: Site, path: str, body: bytes, content_type: str, why: str, **more: Any
) -> Capture:
    """An answer that isn't laid out by a site's template."""
    key = f"odd{path}"
    location = (("Location", f"https://{site.host}/"),) if why == "redirect" else ()
    sent = Treatment(headers=location)
    capture = Capture(
        key, f"https://{site.host}{path}", body, http_headers(site, key, content_type, sent),
        site.address, capture_date(key), why=why,
    )  # fmt: skip
    return replace(capture, **more)


def _redirects() -> list[Capture]:
    page = b"<html><head><title>%s</title></head><body><h1>%s</h1><a href='/'>here</a></body>"
    kinds = ((NEWS, "/old/front", "301 Moved Permanently"), (SOFTWARE, "/go/7", "302 Found"),
             (HOSTS["askbench-answers.io"], "/q/17", "301 Moved Permanently"))  # fmt: skip
    return [
        _answer(site, path, page % (status.encode(), status.encode()), "text/html", "redirect",
                status=status, language="en", charset="utf-8", traits=("redirect",))
        for site, path, status in kinds
    ]  # fmt: skip


def _errors(library: list[Article]) -> list[Capture]:
    faults = (
        (NEWS, "404 Not Found", "not_found", "This page has sailed. It may have been moved."),
        (HOSTS["carnets-du-littoral-lent.fr"], "404 Not Found", "not_found",
         "Cette page n'existe pas ou n'existe plus."),
        (HOSTS["almanac-of-small-things.org"], "410 Gone", "not_found", "Deleted by its author."),
        (HOSTS["smallquestions-laboratory.edu.au"], "500 Internal Server Error", "server_error",
         "Something went wrong on our side. Please try again in a few minutes."),
        (SOFTWARE, "503 Service Unavailable", "server_error", "Back after maintenance."),
    )  # fmt: skip
    return [
        replace(
            page_capture(f"error/{i}", site, status, f"<p>{line}</p>", library,
                         slug=f"missing-{i}", text=None),
            status=status, expect="reject", why=why, traits=(why,),
        )
        for i, (site, status, why, line) in enumerate(faults)
    ]  # fmt: skip


def _files() -> list[Capture]:
    notes = json.dumps({"items": [{"id": n, "name": f"entry {n}"} for n in range(60)]}).encode()
    text = b"Changes in this release\n\n* The parser is faster.\n* The manual has an index.\n" * 8
    css = b".page { margin: 0 auto; max-width: 60rem }\n" * 30
    kinds = (
        ("/media/harbour.png", png("a"), "image/png", "image/png", "png"),
        ("/files/leaflet.pdf", pdf(), "application/pdf", "application/pdf", "pdf"),
        ("/api/items.json", notes, "application/json", "application/json", "json"),
        ("/CHANGES.txt", text, "text/plain; charset=utf-8", "text/plain", "plain_text"),
        ("/assets/site.css", css, "text/css", "text/css", "css"),
        ("/photo/77", png("b"), "text/html; charset=utf-8", "image/png", "wrong_content_type"),
    )
    return [
        _answer(SOFTWARE, path, body, kind, "not_html", identified=identified, traits=(trait,))
        for path, body, kind, identified, trait in kinds
    ]


def _empty() -> list[Capture]:
    shell = b"<!DOCTYPE html><html><head><title></title></head><body></body></html>"
    wall = (
        b"<!DOCTYPE html><html><head><title>App</title></head><body><noscript>You need to enable "
        b"JavaScript to run this app.</noscript><div id='root'></div></body></html>"
    )
    kinds = (
        ("/blank", b"", "empty"), ("/shell", shell, "empty"), ("/app", wall, "javascript_wall"),
    )  # fmt: skip
    return [
        _answer(SOFTWARE, path, body, "text/html; charset=utf-8", why, traits=(why,),
                language="en", charset="utf-8")
        for path, body, why in kinds
    ]  # fmt: skip


def _revisit(earlier: Capture) -> Capture:
    return replace(
        earlier, key=f"revisit/{earlier.key}", record="revisit", transfer=(), text=None,
        status="304 Not Modified", date=capture_date("revisit"), expect="reject", why="revisit",
        traits=("revisit",),
    )  # fmt: skip


def png(seed: str) -> bytes:
    """A grey picture of 48 by 48 noisy points."""
    rng = random.Random(f"png/{seed}")
    rows = b"".join(b"\0" + rng.randbytes(48) for _ in range(48))
    size = struct.pack(">IIBBBBB", 48, 48, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", size), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def pdf() -> bytes:
    """A document of one empty page."""
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj\n"
        b"trailer<</Root 1 0 R>>\n%%EOF\n"
    )
