"""Deduplication of a whole dump on a cluster, on paper: from measured constants to a bill.

    python benchmarks/whole_dump.py
    python benchmarks/whole_dump.py --signature-ms 0.3 --rest-ms 0.4 --cores 2048 --price 0.05

The defaults are constants that `benchmarks/dedup.py` printed (--signature-ms: signatures; --rest-ms
and the two sizes: scale and growth with --master), and prices that are assumptions. Formulas:
docs/explanation/scale.md. Shuffles are counted before compression, as Apache Spark stores a row:
8 bytes of null bits, 8 bytes per column, and the bytes of strings.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field, fields
from typing import Any

from rich.console import Console
from rich.table import Table

WORD = 8  # bytes of a column, and of a row's null bits
PARTITION_BYTES = 128 << 20
ID_BYTES = 47  # <urn:uuid:...>


def constant(default: float, text: str) -> Any:
    """A field of `Constants`: what it is by default, and what the flag says of it."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Constants:
    """What the paper counts with."""

    pages: float = constant(2.6e9, "captured pages")
    files: float = constant(90_000, "WARC files, as many as files of judged and of bands")
    kept: float = constant(0.226, "share that FineWeb's recipe keeps (make bench-datatrove)")
    text_bytes: float = constant(5_900, "a text")
    compression: float = constant(2.5, "text by its size in Parquet")
    signature_ms: float = constant(0.21, "CPU of hashes and bands of a text")
    rest_ms: float = constant(0.24, "CPU of all else in bands and dedup, a document")
    bands_bytes: float = constant(240, "a document in bands, in Parquet")
    links: float = constant(2.7, "near links a document")
    duplicates: float = constant(0.4, "share of documents that are dropped")
    key_bytes: float = constant(190, "id and file path of a document")
    edges_here: float = constant(20e6, "edges that the driver solves alone")
    edge_bytes: float = constant(60, "memory of the driver, an edge of these")
    bands: float = constant(14, "bands of a signature")
    cores: float = constant(1_024, "cores of the cluster")
    executor_cores: float = constant(4, "cores of an executor")
    child_bytes: float = constant(165e6, "a child process")
    busy: float = constant(0.6, "share of the time in which a core works")
    shuffle_mb: float = constant(100, "MB/s that a core sorts, writes and reads: an assumption")
    network_mb: float = constant(39, "MB/s of the network a core: 10 Gbit/s for 32")
    price: float = constant(0.04, "dollars a core-hour: an assumption")


@dataclass(frozen=True)
class Estimate:
    """A dump of `documents` that reach deduplication; bytes, seconds and dollars follow."""

    documents: float
    constants: Constants

    @property
    def core_hours(self) -> float:
        """CPU of both stages and of the shuffles, and the time that cores wait."""
        c = self.constants
        documents = self.documents * (c.signature_ms + c.rest_ms) / 1e3
        shuffles = self.shuffled / (c.shuffle_mb * 1e6)
        return (documents + shuffles) / 3600 / c.busy

    @property
    def shuffles(self) -> dict[str, float]:
        """Step -> bytes that it shuffles."""
        c, n = self.constants, self.documents
        stay = n * (1 - c.duplicates)
        edges = n * c.links
        return {
            "nodes and ids counted": n * (8 * WORD + ID_BYTES),
            "exact": n * (3 * WORD + 4 * WORD + c.key_bytes),
            "memberships": n * c.bands * (5 * WORD + 4 * WORD),
            "links": edges * 3 * WORD,
            "components": 2 * edges * 3 * 4 * WORD,
            "clusters": 2 * n * (4 * WORD + c.key_bytes),
            "canonical: texts": n * (c.text_bytes + c.key_bytes) + stay * (4 * WORD + c.key_bytes),
        }

    @property
    def shuffled(self) -> float:
        """Bytes of all shuffles."""
        return sum(self.shuffles.values())

    @property
    def rounds(self) -> int:
        """At most: a round halves the edges, until the driver takes the rest."""
        edges = self.documents * self.constants.links
        return max(0, math.ceil(math.log2(edges / self.constants.edges_here)))

    @property
    def partitions(self) -> float:
        """Of the largest shuffle, so that one is PARTITION_BYTES."""
        return math.ceil(max(self.shuffles.values()) / PARTITION_BYTES)

    @property
    def executor_bytes(self) -> float:
        """A core sorts a partition, and holds another while it writes; beside it stands a child."""
        c = self.constants
        return c.executor_cores * (3 * PARTITION_BYTES + c.child_bytes)

    @property
    def driver_bytes(self) -> float:
        """The edges that it solves, or a receipt of 300 bytes a file, three times over."""
        c = self.constants
        return max(c.edges_here * c.edge_bytes, 3 * 300 * max(c.files, self.partitions))


def rows(one: Estimate) -> dict[str, str]:
    """The table's column."""
    c, n = one.constants, one.documents
    passes = c.bands * (1 + c.bands) * WORD  # nodes and hashes are read for each band
    read = n * (2 * c.text_bytes / c.compression + passes + 2 * c.bands_bytes)
    written = n * (c.bands_bytes + c.key_bytes)
    written += n * (1 - c.duplicates) * c.text_bytes / c.compression
    found = {
        "documents": f"{n / 1e9:,.2f} billion",
        "core-hours": f"{one.core_hours:,.0f}",
        f"hours on {c.cores:,.0f} cores": f"{one.core_hours / c.cores:,.1f}",
        f"dollars at {c.price:g} a core-hour": f"{one.core_hours * c.price:,.0f}",
        "read": _terabytes(read),
        "written": _terabytes(written),
        "shuffled": _terabytes(one.shuffled),
    }
    found |= {f"  {name}": _terabytes(size) for name, size in one.shuffles.items()}
    return found | {
        "rounds of components, at most": f"{one.rounds}",
        "network for the shuffles": f"{one.shuffled / c.cores / c.network_mb / 1e6 / 60:,.0f} min",
        "disk a core for the largest": f"{max(one.shuffles.values()) / c.cores / 1e9:,.1f} GB",
        "partitions of the largest": f"{one.partitions:,.0f}",
        f"memory of an executor of {c.executor_cores:.0f}": f"{one.executor_bytes / 1e9:.1f} GB",
        "memory of the driver": f"{one.driver_bytes / 1e9:.1f} GB",
    }


def _terabytes(size: float) -> str:
    return f"{size / 1e12:,.2f} TB"


def main() -> None:
    """Print the table: every page, and what FineWeb's recipe keeps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for one in fields(Constants):
        flag, text = f"--{one.name.replace('_', '-')}", one.metadata["help"]
        parser.add_argument(
            flag, type=float, default=one.default, metavar="X", help=f"{text} (%(default)g)"
        )
    constants = Constants(**vars(parser.parse_args()))
    every = rows(Estimate(constants.pages, constants))
    kept = rows(Estimate(constants.pages * constants.kept, constants))
    table = Table("", title="deduplication of a whole dump", title_justify="left")
    for name in ("every page", "what FineWeb's recipe keeps"):
        table.add_column(name, justify="right")
    for name, value in every.items():
        table.add_row(name, value, kept[name])
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
