"""Train the model of `quality_classifier`: a fastText classifier of wanted and other texts.

The trainer is floret, a fastText with wheels for current Python versions. In its mode "fasttext",
its files differ from fastText's by two numbers in the header, which `to_fasttext` removes. On one
thread, the same texts, settings and seed give the same bytes.
"""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import zstandard
from numpy.typing import NDArray
from pydantic import Field
from zstandard import ZstdError

from corpus.filters.classifier import LABEL_PREFIX, one_line, probability
from schemas import json_text
from schemas.config import settings
from schemas.errors import UserError

KEPT_OTHERS = (0.01, 0.05, 0.1, 0.2, 0.5)  # shares for which a threshold is reported

# floret's header: magic, version, 11 numbers, then its own mode and number of hashes (int32 each).
_HEADER = struct.Struct("<15i")
_MAGIC, _VERSION = 793712314, 12
_MODE_FASTTEXT, _ONE_HASH = 1, 1

_JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_KINDS = (".txt", *_JSON_LINES, ".parquet")


@settings
class Training:
    """fastText's settings, with the defaults of DCLM's script (mlfoundations/dclm)."""

    label: str = "hq"
    other_label: str = "cc"
    dim: Annotated[int, Field(ge=1, le=10**5)] = 100
    epochs: Annotated[int, Field(ge=1, le=10**5)] = 5
    word_ngrams: Annotated[int, Field(ge=1, le=10**5)] = (
        1  # 2: also pairs of words, in a table of `buckets` rows
    )
    buckets: Annotated[int, Field(ge=1, le=2**31 - 1)] = 2_000_000
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 0.1
    min_count: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1  # rarer words are ignored
    threads: Annotated[int, Field(ge=1, le=10**5)] = 1  # more: faster, but not reproducible
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    held_out: Annotated[float, Field(gt=0, lt=1)] = (
        0.1  # share of the texts to measure, not train, on
    )

    def __post_init__(self) -> None:
        for name in ("label", "other_label"):
            if len(getattr(self, name).split()) != 1:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be one word")
        if self.label == self.other_label:
            raise ValueError(f"other_label = {self.other_label}: must differ from label")


@dataclass(frozen=True)
class Point:
    """The effect of a threshold on the held-out texts."""

    min_score: float
    kept_others: float  # share of the other texts that it keeps
    recall: float  # share of the wanted texts that it keeps
    precision: float  # share of the wanted among all it keeps


@dataclass(frozen=True)
class Trained:
    """The number of texts that the model learned from, and its results on those held out."""

    num_trained: int
    num_wanted: int  # held out
    num_others: int  # held out
    auc: float  # probability that a wanted text scores above another one
    points: tuple[Point, ...]  # one per share in KEPT_OTHERS

    def min_score_for(self, kept_others: float) -> float:
        """The threshold that keeps about this share, one of KEPT_OTHERS, of the other texts."""
        return self.points[KEPT_OTHERS.index(kept_others)].min_score


def train(positive: Path, negative: Path, output: Path, settings: Training) -> Trained:
    """Train a model on two folders of texts and write it to `output`.

    Raises `UserError` for a folder without texts, or for texts that give no model.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".train-") as folder:
        lines, held_out, raw = (Path(folder) / name for name in ("train", "held_out", "model"))
        num_trained = _write_lines(positive, negative, lines, held_out, settings)
        _run_floret(lines, raw, settings)
        converted = raw.with_suffix(".bin")
        with open(raw, "rb") as source, open(converted, "wb") as target:
            to_fasttext(source, target)
        measured = _evaluate(held_out, converted, num_trained, settings)
        converted.replace(output)
    return measured


def _write_lines(
    positive: Path, negative: Path, lines: Path, held_out: Path, settings: Training
) -> int:
    """Write all texts, one per line, in random order; return how many are trained on.

    fastText learns in file order, so wanted and other texts must be mixed. A text's place, and
    whether it is held out, depend on its hash alone: copies of a text are on the same side.
    """
    places: list[tuple[int, int]] = []  # hash, offset
    unsorted = lines.with_suffix(".unsorted")
    with open(unsorted, "wb") as file:
        for label, folder in ((settings.label, positive), (settings.other_label, negative)):
            before = len(places)
            for text in read_texts(folder):
                # fastText would take a word of the text that starts like a label for one.
                unlabelled = one_line(text).replace(LABEL_PREFIX, "__ label__")
                line = unlabelled.encode("utf-8", "replace")
                if line:
                    places.append((xxhash.xxh64_intdigest(line, settings.seed), file.tell()))
                    file.write(f"{LABEL_PREFIX}{label} ".encode() + line + b"\n")
            if len(places) == before:
                raise UserError(f"{folder}: its documents hold no text")
    limit = round(settings.held_out * 2**64)
    num_trained = 0
    with open(unsorted, "rb") as file, open(lines, "wb") as out, open(held_out, "wb") as held:
        for hashed, offset in sorted(places):
            file.seek(offset)
            (held if hashed < limit else out).write(file.readline())
            num_trained += hashed >= limit
    return num_trained


def _run_floret(lines: Path, model: Path, settings: Training) -> None:
    import floret

    try:
        trained = floret.train_supervised(
            input=str(lines),
            dim=settings.dim,
            epoch=settings.epochs,
            wordNgrams=settings.word_ngrams,
            bucket=settings.buckets,
            lr=settings.learning_rate,
            minCount=settings.min_count,
            thread=settings.threads,
            seed=settings.seed,
            verbose=0,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(f"fastText could not train on these texts: {error}") from None
    trained.save_model(str(model))


def to_fasttext(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a model that floret made in mode "fasttext" in fastText's own format."""
    head = source.read(_HEADER.size)
    header = _HEADER.unpack(head) if len(head) == _HEADER.size else ()
    if header[:2] != (_MAGIC, _VERSION) or header[-2:] != (_MODE_FASTTEXT, _ONE_HASH):
        raise ValueError("must be a model of floret in mode 'fasttext'")
    target.write(struct.pack("<13i", *header[:-2]))
    shutil.copyfileobj(source, target)


def _evaluate(held_out: Path, model: Path, num_trained: int, settings: Training) -> Trained:
    wanted: list[float] = []
    others: list[float] = []
    with open(held_out, encoding="utf-8", newline="\n") as file:
        for line in file:
            label, _, text = line.partition(" ")
            score = probability(text, str(model), settings.label)
            is_wanted = label.removeprefix(LABEL_PREFIX) == settings.label
            (wanted if is_wanted else others).append(score)
    if not wanted or not others:
        raise UserError(
            f"held_out = {settings.held_out}: holds out {len(wanted)} wanted and {len(others)} "
            "other texts; use a larger share or more texts"
        )
    scores = np.array(wanted), np.array(others)
    points = tuple(point(*scores, share) for share in KEPT_OTHERS)
    return Trained(num_trained, len(wanted), len(others), auc(*scores), points)


def point(wanted: NDArray[np.float64], others: NDArray[np.float64], share: float) -> Point:
    """The threshold that keeps about `share` of the other texts, and its effect."""
    min_score = float(np.quantile(others, 1 - share, method="higher"))
    kept_wanted, kept_others = int((wanted >= min_score).sum()), int((others >= min_score).sum())
    return Point(
        min_score,
        kept_others / len(others),
        kept_wanted / len(wanted),
        kept_wanted / (kept_wanted + kept_others),
    )


def auc(wanted: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Area under the ROC curve; ties count half (Mann and Whitney)."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, wanted, "left")
    up_to = np.searchsorted(ordered, wanted, "right")
    return float((below + up_to).mean() / 2 / len(others))


def read_texts(folder: Path) -> Iterator[str]:
    """Yield the texts of all files under `folder`, in the order of their names.

    A *.txt file is one text; *.jsonl (also .gz, .zst) and *.parquet hold texts in `text`. Other
    files are ignored. Raises `UserError` naming the file that is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.name.endswith(_KINDS))
    if not paths:
        raise UserError(f"{folder}: holds no {', '.join('*' + kind for kind in _KINDS)}")
    for path in paths:
        try:
            if path.suffix == ".txt":
                yield path.read_text("utf-8")
            elif path.suffix == ".parquet":
                yield from _read_parquet(path)
            else:
                yield from _read_json_lines(path)
        except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException, ZstdError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from None


def _read_parquet(path: Path) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        if "text" not in file.schema_arrow.names:
            raise UserError(f"{path}: must have a column 'text'")
        for batch in file.iter_batches(batch_size=256, columns=["text"]):
            yield from (text for text in batch["text"].to_pylist() if text is not None)


def _read_json_lines(path: Path) -> Iterator[str]:
    with _open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = json_text.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise UserError(f"{path}:{number}: must be a JSON object with a string 'text'")
            yield text


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".zst":
        return io.TextIOWrapper(zstandard.open(path, "rb"), encoding="utf-8")
    return open(path, encoding="utf-8")
