"""Our filters against datatrove's on the same extracted texts: speed, and whether they agree.

    make bench-datatrove        # once: datatrove's environment, .venv-datatrove
    python benchmarks/filters.py --documents root/documents --peer-python .venv-datatrove/bin/python

Each judges every text in one process, filter by filter in FineWeb's order, with its own tokenizer.
datatrove stops at the first filter that rejects a text; ours measures all signals of all texts. So
a filter's speed is counted in the texts that reached it, and the last row in the texts given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from rich import print as show
from rich.table import Table

from corpus.filters.registry import FILTERS, FINEWEB_FILTERS
from corpus.filters.rules import Document

NAMES = [name for name in FINEWEB_FILTERS if name != "language"]  # extract has measured it
WARM_UP = 50  # texts judged before the clock runs


@dataclass
class Result:
    """CPU seconds and texts reached by filter; by text the filter that rejected it, or None."""

    seconds: dict[str, float]
    reached: dict[str, int]
    verdicts: list[str | None]

    def speed(self, name: str) -> float:
        """Texts a CPU second of one filter."""
        return self.reached[name] / self.seconds[name]

    def chain_speed(self) -> float:
        """Texts a CPU second of all filters together."""
        return len(self.verdicts) / sum(self.seconds.values())


def read_texts(documents: str, language: str, limit: int) -> list[str]:
    """Up to `limit` texts in `language` of a `documents` dataset, in the order of its files."""
    chosen = ds.field("text").is_valid() & (ds.field("language") == language)
    table = ds.dataset(documents, exclude_invalid_files=True).head(
        limit, columns=["text"], filter=chosen
    )
    if not table.num_rows:
        raise SystemExit(f"{documents}: holds no text in '{language}'")
    return list(table["text"].to_pylist())


def judge(text: str, result: Result) -> str | None:
    """The filter that rejects `text`, or None; every filter measures it."""
    document, rejected_by = Document(text), None
    for name in NAMES:
        filter_ = FILTERS[name]()
        start = time.process_time()
        fault = filter_.fault(filter_.measure(document))
        document = filter_.rewrite(document)
        result.seconds[name] += time.process_time() - start
        result.reached[name] += 1
        rejected_by = rejected_by or (name if fault else None)
    return rejected_by


def run_ours(texts: list[str]) -> Result:
    """Judge all texts in this process."""
    for counted in (texts[:WARM_UP], texts):
        result = Result(dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0), [])
        result.verdicts = [judge(text, result) for text in counted]
    return result


def run_datatrove(texts: list[str], python: str) -> Result:
    """Judge all texts in a process of datatrove's environment."""
    script = Path(__file__).parent / "peers" / "datatrove_filters.py"
    with tempfile.TemporaryDirectory() as folder:
        texts_file, output = Path(folder) / "texts.parquet", Path(folder) / "result.json"
        pq.write_table(pa.table({"text": texts}), texts_file)
        command = [python, str(script), str(texts_file), str(WARM_UP), str(output)]
        subprocess.run(command, check=True)
        return Result(**json.loads(output.read_text()))


def speed_table(ours: Result, theirs: Result | None) -> Table:
    """Texts a CPU second by filter, and in all."""
    table = Table("filter", "ours", "datatrove", "ratio", title="texts a CPU second")
    rows = [(name, lambda r, name=name: r.speed(name)) for name in NAMES]
    for name, speed in [*rows, ("all", Result.chain_speed)]:
        cells = [f"{speed(ours):,.0f}"]
        if theirs:
            cells += [f"{speed(theirs):,.0f}", f"{speed(ours) / speed(theirs):.1f}"]
        table.add_row(name, *cells)
    return table


def agreement_table(ours: Result, theirs: Result) -> Table:
    """How often which filter of ours and which of datatrove's decided."""
    pairs = Counter(zip(ours.verdicts, theirs.verdicts, strict=True))
    same = sum(count for (a, b), count in pairs.items() if a == b)
    kept = sum(count for (a, b), count in pairs.items() if (a is None) == (b is None))
    total = len(ours.verdicts)
    title = (
        f"{total} texts: {kept / total:.2%} same decision, {same / total:.2%} by the same filter"
    )
    table = Table("ours", "datatrove", "texts", title=title)
    for (mine, peer), count in pairs.most_common():
        table.add_row(mine or "kept", peer or "kept", str(count))
    return table


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", required=True, help="a root's folder `documents`")
    parser.add_argument("--peer-python", help="interpreter of datatrove's environment")
    parser.add_argument("--language", default="en")
    parser.add_argument("--limit", type=int, default=1000, help="texts")
    arguments = parser.parse_args()
    texts = read_texts(arguments.documents, arguments.language, arguments.limit)
    ours = run_ours(texts)
    theirs = run_datatrove(texts, arguments.peer_python) if arguments.peer_python else None
    show(f"{len(texts):,} texts of {sum(map(len, texts)) / len(texts):,.0f} characters")
    show(speed_table(ours, theirs))
    if theirs:
        show(agreement_table(ours, theirs))


if __name__ == "__main__":
    main()
