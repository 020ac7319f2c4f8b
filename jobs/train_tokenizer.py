"""`gristmill train-tokenizer`: a sample of `canonical` -> a byte-level BPE, saved as JSON.

The sample is the one that the shard stage trains on if the recipe says `name = "bpe"`: texts
ordered by a hash of their id, up to `sample_bytes`. So both give the same ids, whatever the engine
and the partitions. The documents that follow in that order are held out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from corpus import recipe
from corpus.tokens import bpe
from jobs import shard
from jobs.engine.progress import Tally, track
from jobs.engine.roots import locked, refuse_unfinished
from jobs.engine.session import add_engine_flags, open_engine
from jobs.engine.stage import Job
from schemas import hf_export
from schemas.errors import UserError
from schemas.hf_tokenizer import NUM_BYTES
from schemas.manifest import atomic_path
from schemas.printing import PlainConsole
from schemas.tokenizer import Tokenizer

MEASURED_BYTES = 5_000_000  # of each part: enough for three digits of bytes per token
NOTED_BYTES = 1_000_000  # read between two updates of the progress bar

_EXAMPLES = """\
Reads vocab_size and sample_bytes of the recipe's [tokenizer]. Ids are the 256 bytes, the merges,
the document boundary and the chat tokens. Equal documents give an equal file. To use it for shards,
name it in a recipe: [tokenizer] name = "out/bpe.json".

examples:
  gristmill train-tokenizer --recipe r.toml --root out --output out/bpe.json
  gristmill train-tokenizer --recipe r.toml --root out --output out/bpe.json --export-hf out/hf
  gristmill run --recipe with-bpe.toml --input 'crawl/*.warc.gz' --root other   # uses out/bpe.json
"""


@dataclass
class Part:
    """The number and bytes of the texts of one part, and the first 5 MB to measure on."""

    documents: int = 0
    size: int = 0
    kept: list[str] = field(default_factory=list)

    def add(self, text: str, size: int) -> None:
        """Count a text of `size` UTF-8 bytes."""
        if self.size < MEASURED_BYTES:
            self.kept.append(text)
        self.documents += 1
        self.size += size

    def bytes_per_token(self, known: Tokenizer) -> float:
        """UTF-8 bytes of the kept texts per token."""
        tokens = sum(len(known.encode(text)) for text in self.kept)
        return sum(len(text.encode()) for text in self.kept) / max(1, tokens)


@dataclass(frozen=True)
class Trained:
    """A trained tokenizer, its two parts, and the seconds for reading and merging."""

    tokenizer: Tokenizer
    sample: Part
    held_out: Part
    seconds: float


def train(job: Job) -> Trained:
    """Train a BPE of the recipe's size on the root's sample; `UserError` on too little text."""
    settings, started = job.recipe.tokenizer, time.monotonic()
    sample, held_out, rows = Part(), Part(), shard.texts(job)
    with track(job.root, "tokenizer: train", settings.sample_bytes, "bytes") as tallies:
        texts = _noted(_take(rows, settings.sample_bytes, sample), sample, Tally(tallies))
        known = bpe.train(texts, settings.vocab_size, f"bpe-{settings.vocab_size}")
    seconds = time.monotonic() - started
    for _ in _take(rows, MEASURED_BYTES, held_out):
        pass
    return Trained(known, sample, held_out, seconds)


def _take(rows: Iterable[Any], limit: int, part: Part) -> Iterator[str]:
    """Texts up to `limit` bytes, counted in `part`; later rows are left in the iterator."""
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
    text = "train a byte-level BPE on the documents of `canonical`"
    parser = commands.add_parser("train-tokenizer", help=text, description=text, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--recipe", required=True, metavar="FILE", help="TOML file of all settings")
    parser.add_argument("--root", required=True, metavar="DIR", help="corpus directory")
    text = "write the tokenizer here, *.json; gristmill and trainer read it"
    parser.add_argument("--output", required=True, metavar="FILE", type=Path, help=text)
    text = "also write a Hugging Face tokenizer.json: a file (*.json), or a folder for it"
    parser.add_argument("--export-hf", metavar="PATH", type=Path, help=text)
    add_engine_flags(parser)
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
    """Refuse bad flags before the sample is read."""
    if output.suffix != ".json":
        raise UserError(f"--output {output}: must end in .json, as recipes require")
    if exported and hf_export.model_path(exported).absolute() == output.absolute():
        raise UserError(f"--export-hf {exported}: is --output itself; choose another file")


def _table(trained: Trained) -> Table:
    known, sample, held_out = trained.tokenizer, trained.sample, trained.held_out
    merges = len(known.token_bytes) - NUM_BYTES
    table = Table(show_header=False, title=f"tokenizer {known.name}", title_justify="left")
    ids = f"{known.vocab_size:,} ids: {NUM_BYTES} bytes, {merges:,} merges"
    table.add_row("vocabulary", f"{ids}, {bpe.NUM_CONTROL_IDS} control tokens")
    table.add_row("trained on", f"{sample.documents:,} documents, {sample.size:,} bytes")
    table.add_row("bytes per token there", f"{sample.bytes_per_token(known):.2f}")
    table.add_row("bytes per token held out", _held_out(held_out, known))
    table.add_row("time", f"{trained.seconds:.1f} s for reading and merging")
    return table


def _held_out(part: Part, known: Tokenizer) -> str:
    if not part.documents:
        return "- (the sample took all documents; a smaller tokenizer.sample_bytes leaves some)"
    return f"{part.bytes_per_token(known):.2f} on {part.documents:,} documents"
