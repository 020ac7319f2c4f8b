"""A fastText model's opinion of a page: the probability that it is of the wanted kind.

Supervised fastText (Joulin et al. 2016, arXiv 1607.01759) is how DCLM chose its 10% best pages
(Li et al. 2024, arXiv 2406.11794, section 4.4). Any model of the library's format does; `gristmill
train-classifier` makes one of two folders of texts. One model a process; 0.2 ms a page.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from corpus.filters.rules import Document, Rule, Signals, check_thresholds, first_fault, too_low
from schemas.errors import UserError

_PREFIX = "__label__"


@dataclass(frozen=True)
class QualityClassifier:
    """Keep pages that `model` gives at least `min_score` as the probability of `label`."""

    model: str = ""  # a fastText file; it must be set where the filter is used
    label: str = "hq"  # with or without __label__
    min_score: float = 0.5

    MEASURING: ClassVar[tuple[str, ...]] = ("model", "label")
    SIGNALS: ClassVar[pa.StructType] = pa.struct([("score", pa.float64())])
    RULES: ClassVar[tuple[Rule, ...]] = (too_low("low_score", "score", "min_score"),)

    def __post_init__(self) -> None:
        check_thresholds(self, self.RULES)
        if not self.min_score <= 1:
            raise ValueError(f"min_score = {self.min_score}: must be at most 1")

    def measure(self, doc: Document) -> Signals:
        """The probability of the label, 0 to 1. Raises `UserError` for a model that has none."""
        return {"score": probability(doc.text, self.model, self.label)}

    def fault(self, signals: Mapping[str, Any]) -> str | None:
        """The first rule broken, or None."""
        return first_fault(self.RULES, signals, self)


def model_sha256(path: str) -> str:
    """SHA-256 (hex) of the model file, for manifests. Raises `UserError` without such a file."""
    with open(_found(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_model(settings: QualityClassifier) -> None:
    """Raise `UserError` unless the model can be read and has the label: said before work starts."""
    _load(settings.model, settings.label.removeprefix(_PREFIX))


def probability(text: str, path: str, label: str) -> float:
    """The probability, by the model at `path`, that `text` has `label`."""
    name = label.removeprefix(_PREFIX)
    labels, scores = _model(path, name).predict(one_line(text), k=-1)
    found = dict(zip(labels, scores, strict=True))
    return min(1.0, float(found.get(_PREFIX + name, 0.0)))


def one_line(text: str) -> str:
    """`text` as fastText reads it: one line, its ends of lines spaces."""
    return " ".join(text.strip().splitlines())


def _found(path: str) -> Path:
    if not path:
        raise UserError("quality_classifier.model = '': must name a fastText model file")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such classifier model")
    return Path(path)


@functools.lru_cache(maxsize=2)
def _model(path: str, label: str) -> Any:
    return _load(path, label)


def _load(path: str, label: str) -> Any:
    """The model, which has `label`. Raises `UserError`."""
    import fasttext

    try:
        model = fasttext.load_model(str(_found(path)))
        labels, _ = model.predict("", k=-1)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a fastText classifier: {error}") from None
    names = sorted(name.removeprefix(_PREFIX) for name in labels)
    if label not in names:
        raise UserError(f"{path}: has no label '{label}'; its labels are {', '.join(names)}")
    return model
