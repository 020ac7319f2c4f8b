"""`gristmill train-tokenizer`: a sample of `canonical` -> a byte-level BPE, saved as JSON.

The sample is what the shard stage learns from where the recipe says `name = "bpe"`: texts by a
hash of their id, up to `sample_bytes`, so that both give the same ids, whatever the engine and the
partitions. The documents that come next in that order are the held-out part.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyspark.sql import functions as F
from rich.table import Table

from corpus import recipe
from corpus.tokens import bpe
from jobs import decontaminate
from jobs.engine.progress import Tally, track
from jobs.engine.roots import locked, refuse_unfinished
from jobs.engine.session import open_engine
from jobs.engine.stage import Job
from schemas import hf_export
from schemas.datasets import KEY
from schemas.errors import UserError
from schemas.hf_tokenizer import NUM_BYTES
from schemas.manifest import atomic_path
from schemas.printing import PlainConsole
from schemas.tokenizer import Tokenizer

MEASURED_BYTES = 5_000_000  # of each part: enough for three digits of bytes a token
NOTED_BYTES = 1_000_000  # read between two notes of progress

_EXAMPLES = """\
Reads [tokenizer] vocab_size and sample_bytes of the recipe; its name does not matter here. Ids are
the 256 bytes, the merges, the document boundary, the chat tokens. Equal documents give an equal
file. To make shards with it, name it in a recipe: [tokenizer] name = "out/bpe.json".

examples:
  gristmill train-tokenizer --recipe r.toml --root out --output out/bpe.json
  gristmill train-tokenizer --recipe r.toml --root out --output out/bpe.json --export-hf out/hf
  gristmill run --recipe with-bpe.toml --input 'crawl/*.warc.gz' --root other   # uses out/bpe.json
"""


@dataclass
class Part:
    """Texts of one part: how many there were, and the first 5 MB of them to measure on."""

    documents: int = 0
    size: int = 0
    kept: list[str] = field(default_factory=list)

    def add(self, text: str, size: int) -> None:
        """Count a text of `size` UTF-8 bytes."""
        if self.size < MEASURED_BYTES:
            self.kept.append(text)
        self.documents += 1
        self.size += size

    def bytes_a_token(self, known: Tokenizer) -> float:
        """UTF-8 bytes of the kept texts over their tokens."""
        tokens = sum(len(known.encode(text)) for text in self.kept)
        return sum(len(text.encode()) for text in self.kept) / max(1, tokens)


@dataclass(frozen=True)
class Trained:
    """What came of a training: the tokenizer, its two parts, seconds for reading and merging."""

    tokenizer: Tokenizer
    sample: Part
    held_out: Part
    seconds: float


def train(job: Job) -> Trained:
    """Learn a BPE of the recipe's size from the root's sample; `UserError` on too little text."""
    settings, started = job.recipe.tokenizer, time.monotonic()
    sample, held_out, rows = Part(), Part(), _texts(job)
    with track(job.root, "tokenizer: train", settings.sample_bytes, "bytes") as tallies:
        texts = _noted(_take(rows, settings.sample_bytes, sample), sample, Tally(tallies))
        known = bpe.train(texts, settings.vocab_size, f"bpe-{settings.vocab_size}")
    seconds = time.monotonic() - started
    for _ in _take(rows, MEASURED_BYTES, held_out):
        pass
    return Trained(known, sample, held_out, seconds)


def _texts(job: Job) -> Iterator[Any]:
    """Rows of `text` and `bytes`, its size in UTF-8, in the order of a hash of the id."""
    columns = decontaminate.clean(job).select("id", *KEY, "text")
    order = [F.xxhash64("id"), *map(F.col, ("id", *KEY))]
    sized = columns.withColumn("bytes", F.octet_length("text"))
    rows: Iterator[Any] = iter(sized.orderBy(*order).toLocalIterator())
    return rows


def _take(rows: Iterable[Any], limit: int, part: Part) -> Iterator[str]:
    """Texts into `part` until they hold `limit` bytes; the rows that follow stay where they are."""
    for row in rows:
        part.add(row["text"], row["bytes"])
        yield row["text"]
        if part.size >= limit:
            return


def _noted(texts: Iterable[str], part: Part, tally: Tally) -> Iterator[str]:
    noted = 0
    for text in texts:
        yield text
        if part.size - noted >= NOTED_BYTES:
            tally.add(part.size - noted)
            noted = part.size


def add_parser(commands) -> None:  # type: ignore[no-untyped-def]
    """Add the command to those of `gristmill`."""
    text = "learn a byte-level BPE from the documents that were kept"
    parser = commands.add_parser("train-tokenizer", help=text, description=text, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--recipe", required=True, metavar="FILE", help="TOML file of all settings")
    parser.add_argument("--root", required=True, metavar="DIR", help="where the datasets are")
    text = "the tokenizer, *.json; gristmill and trainer read it"
    parser.add_argument("--output", required=True, metavar="FILE", type=Path, help=text)
    text = "also as Hugging Face tokenizer.json: a file (*.json), or a folder for it"
    parser.add_argument("--export-hf", metavar="PATH", type=Path, help=text)
    parser.add_argument(
        "--master", metavar="URL", help="run on Apache Spark, e.g. local[2] or yarn (needs Java 17)"
    )
    parser.add_argument("--remote", metavar="URL", help="run on a Spark Connect service, sc://HOST")
    parser.add_argument("--verbose", action="store_true", help="show the engine's own log")
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    loaded, root = recipe.load(arguments.recipe), Path(arguments.root)
    _check_targets(arguments.output, arguments.export_hf)
    with locked(root), open_engine(arguments.master, arguments.remote, arguments.verbose) as engine:
        refuse_unfinished(root)
        trained = train(Job(loaded, root, engine))
    with atomic_path(arguments.output) as path:
        trained.tokenizer.save(path)
    PlainConsole().print(_table(trained))
    print(f'{arguments.output}: to use it, set name = "{arguments.output}" under [tokenizer]')
    if arguments.export_hf:
        exported = hf_export.export(trained.tokenizer, arguments.export_hf)
        print(f"{exported}: equal ids on every character")
    return 0


def _check_targets(output: Path, exported: Path | None) -> None:
    """What is wrong with the flags is said before the sample is read."""
    if output.suffix != ".json":
        raise UserError(f"--output {output}: must end in .json, by which recipes know a file")
    if exported and hf_export.model_path(exported).absolute() == output.absolute():
        raise UserError(f"--export-hf {exported}: is --output itself; choose another file")


def _table(trained: Trained) -> Table:
    known, sample, held_out = trained.tokenizer, trained.sample, trained.held_out
    merges = len(known.token_bytes) - NUM_BYTES
    table = Table(show_header=False, title=f"tokenizer {known.name}", title_justify="left")
    ids = f"{known.vocab_size:,} ids: {NUM_BYTES} bytes, {merges:,} merges"
    table.add_row("vocabulary", f"{ids}, {bpe.NUM_CONTROL_IDS} control tokens")
    table.add_row("learned from", f"{sample.documents:,} documents, {sample.size:,} bytes")
    table.add_row("bytes a token there", f"{sample.bytes_a_token(known):.2f}")
    table.add_row("bytes a token held out", _held_out(held_out, known))
    table.add_row("time", f"{trained.seconds:.1f} s for reading and merging")
    return table


def _held_out(part: Part, known: Tokenizer) -> str:
    if not part.documents:
        return "- (the sample took all documents; a smaller tokenizer.sample_bytes leaves some)"
    return f"{part.bytes_a_token(known):.2f} on {part.documents:,} documents"
