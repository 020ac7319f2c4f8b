"""The public suffix list bundled with tldextract, so that results do not change by download."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tldextract


@functools.cache
def parser() -> tldextract.TLDExtract:
    """Splits hosts and URLs at the public suffix. Imported on first use, because that is slow."""
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
