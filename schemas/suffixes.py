"""The public suffix list, as tldextract carries it: no day's and no network's list decides."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tldextract


@functools.cache
def parser() -> tldextract.TLDExtract:
    """Splits hosts and URLs at the suffix; made once, on first use: its import takes long."""
    import tldextract

    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def site(url: str) -> str:
    """Registered domain of a URL by the public suffix list.

    An IP address, or a host without a public suffix, is a site of its own.
    """
    host = parser()(url)
    registered = host.top_domain_under_public_suffix
    whole = ".".join(part for part in (host.subdomain, host.domain, host.suffix) if part)
    return (registered or whole).lower()
