"""Which split a document is in: a hash of where it comes from, the same in every root.

The salts are fixed and independent of the shuffle's seed, so that no corpus trains on what another
holds out. Pages are split by site, because the pages of a site share text and authors.
Conversations have no site and are split by the id in their source. Cost: parsing the URL and one
hash per document.
"""

from __future__ import annotations

import xxhash

from schemas.manifest import SPLITS as SPLITS
from schemas.manifest import Split
from schemas.suffixes import site

SITE_SALT = "gristmill-split-1"  # never changed: documents would move between splits
ID_SALT = "gristmill-split-id-1"
HASHES = 1 << 64  # the number of 64-bit hashes


def split_of(url: str | None, fraction: float) -> Split:
    """The split of a page's site, the same for all of its subdomains and for every seed.

    `fraction` of the sites are validation. A page without a URL is in train.
    """
    return "train" if url is None else _split(SITE_SALT, site(url), fraction)


def split_of_id(source_id: str, fraction: float) -> Split:
    """The split of a conversation by its id in its source: `fraction` of them are validation."""
    return _split(ID_SALT, source_id, fraction)


def _split(salt: str, name: str, fraction: float) -> Split:
    found = xxhash.xxh3_64_intdigest(f"{salt}:{name}".encode())
    return "validation" if found < int(fraction * HASHES) else "train"
