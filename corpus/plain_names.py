"""URLs, domains and ids in one plain form each, so that two spellings of one thing compare equal.

Where forms are many, the broader one is taken: these names say what to remove, and a page too much
is a smaller harm there than one too few.

    url     without scheme, user, www., the scheme's usual port, fragment and final slashes; the
            host as a domain; escapes decoded where they need not be, else in capitals (RFC 3986, 6)
    domain  lowercase, in its ASCII form (RFC 3492), without a final dot
    id      as it is, without the <urn:uuid:...> of WARC-Record-ID

They never raise, whatever the string. Cost: some microseconds.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

_PARTS = re.compile(r"(?:(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?[/\\]{2})?([^/\\?]*)([^?]*)(.*)", re.DOTALL)
_BLANKS = " \t\r\n\f\v"
_PORT = re.compile(r":(\d*)\Z")
_USUAL_PORTS = ("", "80", "443")
_DOTS = re.compile("[.\u3002\uff0e\uff61]")  # what IDNA takes for a dot (UTS #46)
_MAX_HOST = 253  # characters of a DNS name (RFC 1035, 2.3.4, less the length bytes)
_ESCAPE = re.compile("%([0-9a-fA-F]{2})")
_ASCII = "".join(map(chr, range(33, 127)))
_UNRESERVED = re.compile("[A-Za-z0-9._~-]")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def plain_url(url: str) -> str:
    """The form in which URLs compare; never raises, whatever the string."""
    authority, path, query = _parts(url)
    host, port = _host_and_port(authority)
    rest = path.replace("\\", "/").rstrip("/" + _BLANKS) + (query if query != "?" else "")
    short = host[4:] if host.startswith("www.") and "." in host[4:] else host
    return short + port + _ESCAPE.sub(_unescaped, quote(rest, safe=_ASCII, errors="replace"))


def host_of(url: str) -> str:
    """The host of a URL, as domains compare."""
    return _host_and_port(_parts(url)[0])[0]


def plain_domain(name: str) -> str:
    """A host's lowercase ASCII form, without a final dot.

    Letters that IDNA 2003 replaced keep their own names, as in browsers: straße.example is not
    strasse.example.
    """
    if name.isascii() or len(name) > _MAX_HOST:
        return name.lower().strip(".")
    return ".".join(map(_ascii_label, _DOTS.split(name))).strip(".")


def plain_id(id_: str) -> str:
    """An id without the frame of a WARC-Record-ID; UUIDs in lowercase (RFC 9562, 4)."""
    bare = id_.removeprefix("<").removesuffix(">")
    name = bare.lower().removeprefix("urn:uuid:")
    return name if _UUID.fullmatch(name) else bare


def _parts(url: str) -> tuple[str, str, str]:
    """Authority, path and query, the query with its question mark."""
    found = _PARTS.match(url.partition("#")[0].strip(_BLANKS))
    assert found, "the pattern matches an empty string too"
    return found[1], found[2], found[3]


def _host_and_port(authority: str) -> tuple[str, str]:
    name = authority.rpartition("@")[2]
    found = _PORT.search(name)
    port = f":{found[1]}" if found and found[1] not in _USUAL_PORTS else ""
    return plain_domain(name[: found.start()] if found else name), port


def _ascii_label(label: str) -> str:
    name = unicodedata.normalize("NFKC", label.lower())
    return name if name.isascii() else f"xn--{name.encode('punycode').decode()}"


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()
