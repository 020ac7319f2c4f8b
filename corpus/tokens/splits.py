"""Which split a document is in: a hash of where it comes from, the same in every root.

The salts are fixed and the shuffle's seed has no part in it, so that what one corpus holds out no
other one trains on. Pages go by their site: a site's pages share their furniture, authors and
reprints. Conversations have no site and go by the id that their source gives them. Cost: a hash a
document, beside parsing its URL.
"""

from __future__ import annotations

from typing import Literal

import xxhash

from schemas.suffixes import site

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

SITE_SALT = "gristmill-split-1"  # never changed: a site would change sides
ID_SALT = "gristmill-split-id-1"
HASHES = 1 << 64  # how many 64-bit hashes there are


def split_of(url: str | None, fraction: float) -> Split:
    """The split of a page's site, the same for all of its subdomains and for every seed.

    `fraction` of the sites are validation. A page without a URL is train.
    """
    return "train" if url is None else _split(SITE_SALT, site(url), fraction)


def split_of_id(source_id: str, fraction: float) -> Split:
    """The split of a conversation by its id in its source: `fraction` of them are validation."""
    return _split(ID_SALT, source_id, fraction)


def _split(salt: str, name: str, fraction: float) -> Split:
    found = xxhash.xxh3_64_intdigest(f"{salt}:{name}".encode())
    return "validation" if found < int(fraction * HASHES) else "train"
