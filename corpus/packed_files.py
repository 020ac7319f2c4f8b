"""Files of a user's that may be packed by gzip or zstd, told by their ending; read in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpus.compression import Codec, Gzip, Plain, Source, Zstd

CODECS: dict[str, Codec] = {"": Plain, ".gz": Gzip, ".zst": Zstd}
_STEP = 1 << 20


def unpacked(path: Path) -> Iterator[bytes]:
    """What the file holds, in pieces; raises `DamageError` where it is torn or altered."""
    codec, offset = CODECS.get(path.suffix, Plain), 0
    with Source(str(path)) as source:
        while offset < source.size:
            member = codec(source, offset)
            while piece := member.read(_STEP):
                yield piece
            offset = member.end
