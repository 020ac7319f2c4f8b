"""datatrove's filters on given texts, run by filters.py in datatrove's own environment.

In FineWeb's order and settings (its examples/fineweb.py). A text that a filter rejects goes no
further, as in datatrove's pipeline. Writes JSON: by filter the CPU seconds and how many texts
reached it, and by text the filter that rejected it, or null.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

FILTERS = {
    "gopher_repetition": GopherRepetitionFilter(),
    "gopher_quality": GopherQualityFilter(),
    "c4": C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb_quality": FineWebQualityFilter(),
}


def judge(text: str, seconds: dict[str, float], reached: dict[str, int]) -> str | None:
    """The filter that rejects `text`, or None; adds to `seconds` and `reached`."""
    document = Document(text=text, id="")
    for name, filter_ in FILTERS.items():
        start = time.process_time()
        kept = filter_.filter(document)
        seconds[name] += time.process_time() - start
        reached[name] += 1
        if kept is not True:
            return name
    return None


def main(texts_file: str, warm_up: int, output: str) -> None:
    """Judge the texts of a Parquet file; the first `warm_up` are judged once more before."""
    texts = pq.read_table(texts_file, columns=["text"])["text"].to_pylist()
    for counted in (texts[:warm_up], texts):
        seconds, reached = dict.fromkeys(FILTERS, 0.0), dict.fromkeys(FILTERS, 0)
        verdicts = [judge(text, seconds, reached) for text in counted]
    result = {"seconds": seconds, "reached": reached, "verdicts": verdicts}
    Path(output).write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
