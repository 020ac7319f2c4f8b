"""Score a page with a fastText model: the probability that it has the wanted label.

Supervised fastText (Joulin et al. 2016, arXiv 1607.01759) is how DCLM selected its best 10% of
pages (Li et al. 2024, arXiv 2406.11794, section 4.4). Any fastText model file works; `gristmill
train-classifier` makes one. 0.2 ms per page.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import Field

from corpus.filters.rules import Document, Filter, Rule, Signals
from schemas.config import settings
from schemas.errors import UserError

LABEL_PREFIX = "__label__"


@settings
class QualityClassifier(Filter):
    """Keep pages whose probability of `label`, by `model`, is at least `min_score`."""

    model: str = ""  # a fastText file; required where the filter is used
    label: str = "hq"  # with or without __label__
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.5

    SIGNALS: ClassVar[pa.StructType] = pa.struct([("score", pa.float64())])
    RULES: ClassVar[tuple[Rule, ...]] = (Rule("low_score", "score", ">=", "min_score"),)

    def measure(self, doc: Document) -> Signals:
        """The probability of the label. Raises `UserError` for a model without the label."""
        return {"score": probability(doc.text, self.model, self.label)}


def probability(text: str, path: str, label: str) -> float:
    """The probability of `label` for `text`, by the model at `path`."""
    name = label.removeprefix(LABEL_PREFIX)
    labels, scores = _cached_model(path, name).predict(one_line(text), k=-1)
    found = dict(zip(labels, scores, strict=True))
    return min(1.0, float(found.get(LABEL_PREFIX + name, 0.0)))


def one_line(text: str) -> str:
    """`text` as one line, which is all that fastText reads."""
    return " ".join(text.strip().splitlines())


def model_sha256(path: str) -> str:
    """SHA-256 (hex) of the model file, for manifests. Raises `UserError` for a missing file."""
    with open(_existing(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_model(settings: QualityClassifier) -> None:
    """Raise `UserError` unless the model can be read and has the label."""
    _load(settings.model, settings.label.removeprefix(LABEL_PREFIX))


def _load(path: str, label: str) -> Any:
    import fasttext

    try:
        model = fasttext.load_model(str(_existing(path)))
        labels, _ = model.predict("", k=-1)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a fastText classifier: {error}") from None
    names = sorted(name.removeprefix(LABEL_PREFIX) for name in labels)
    if label not in names:
        raise UserError(f"{path}: has no label '{label}'; its labels are {', '.join(names)}")
    return model


_cached_model = functools.lru_cache(maxsize=2)(_load)


def _existing(path: str) -> Path:
    if not path:
        raise UserError("quality_classifier.model = '': must name a fastText model file")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such classifier model")
    return Path(path)
