"""The loader: how fast it makes batches, packs and starts, each beside its target.

    python benchmarks/loader.py speed                  # needs ../shared/crawl
    python benchmarks/loader.py speed --peer-python .venv-loaders/bin/python
    python benchmarks/loader.py packing
    python benchmarks/loader.py start --shards 1000
    python benchmarks/loader.py memory
    python benchmarks/loader.py all

Every part prints a table. Tokens are cl100k_base's of the crawl's main texts, in shards that
corpus/tokens/shards.py wrote; T is 1,024. Times are CPU time of one thread from the page cache, the
best of several rounds; variants alternate, so that a busy machine slows them alike. A peer's
environment needs `litdata` or `mosaicml-streaming`, beside numpy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from common.bench import Figure, at_least, at_most, figures_table
from common.gold import CRAWL
from common.measured import work_folder
from loader_parts.crawl_shards import corpus, crawl_shard, lengths
from schemas.manifest import DataFile
from trainer.data.loader import Loader
from trainer.data.packing import best_fit, concat

SEQ_LEN, ROWS = 1024, 32
MILLION = 1_000_000


class Bench:
    """One shard of the crawl's tokens, and a folder to work in."""

    def __init__(self, work: Path, arguments: argparse.Namespace) -> None:
        self.work, self.arguments = work, arguments
        self.console = Console(stderr=True)
        self.source = work / "source"
        self.file: DataFile = crawl_shard(
            self.source, arguments.crawl, arguments.copies, self.console
        )
        self.tokens: int = self.file.shard.tokens

    def corpus(self, name: str, count: int) -> Path:
        """A folder of so many links to the shard."""
        return corpus(self.work / name, self.file, self.source, count)

    def loader(self, folder: Path, **settings: Any) -> Loader:
        """A loader of T 1,024, its plans in the work folder."""
        values = {"seq_len": SEQ_LEN, "rows": ROWS, "cache": self.work / "plans", **settings}
        return Loader([folder], **values)


def speed(bench: Bench) -> Table:
    """Batches of a whole epoch, one thread, beside plain pyarrow and a memory map."""
    folder = bench.corpus("speed", 1)
    raw = bench.work / "tokens.bin"
    _write_raw(bench, raw)
    warm = {packing: bench.loader(folder, packing=packing) for packing in ("concat", "best_fit")}
    for loader in warm.values():
        _epoch(loader)
    ways: dict[str, Callable[[], int]] = {
        "pyarrow": lambda: _plain_pyarrow(bench.source / bench.file.name),
        "memmap": lambda: _memmap(raw),
        "concat": lambda: _epoch(warm["concat"]),
        "best_fit": lambda: _epoch(warm["best_fit"]),
        "first": lambda: _epoch(bench.loader(folder)),
        "files": lambda: _epoch(bench.loader(folder, check_files=True)),
        "open": lambda: _open(bench, folder),
    }
    rates = _rates(ways, bench.arguments.repeat)
    open_seconds = 1 / rates.pop("open")
    for name in ("first", "files"):  # what opening takes is no part of an epoch's reading
        tokens = ways[name]()
        rates[name] = tokens / (tokens / rates[name] - open_seconds)
    figures = [
        Figure("plain pyarrow, the same column", "", f"{rates['pyarrow'] / MILLION:,.1f}"),
        at_least("loader, concat", rates["concat"] / MILLION, 60),
        at_least("loader, concat, of pyarrow's", 100 * rates["concat"] / rates["pyarrow"], 70, "%"),
        at_least("loader, best_fit", rates["best_fit"] / MILLION, 60),
        at_least(
            "loader, best_fit, of pyarrow's", 100 * rates["best_fit"] / rates["pyarrow"], 70, "%"
        ),
        Figure("loader, first epoch: row groups checked", "", f"{rates['first'] / MILLION:,.1f}"),
        Figure("the check's part of it", "", f"{_part(rates, 'first'):.1f}%"),
        Figure("loader, first epoch: files checked too", "", f"{rates['files'] / MILLION:,.1f}"),
        Figure("the checks' part of it", "", f"{_part(rates, 'files'):.1f}%"),
        at_most("check in later epochs", _later_check(warm["concat"]), 1, "%"),
        Figure("NumPy memory map, uint32", "", f"{rates['memmap'] / MILLION:,.1f}"),
        *_peers(bench, raw),
    ]
    title = f"(B, T) int64 batches, T 1,024, million tokens a CPU second; {bench.tokens:,} tokens"
    return figures_table(title, figures)


def packing(bench: Bench) -> Table:
    """Planning: tokens a second, and what is dropped or padded."""
    documents = lengths(bench.source, bench.file)
    window = 1 << 22
    ends = np.searchsorted(np.cumsum(documents, dtype=np.int64), np.arange(1, 99) * window)
    windows = [w for w in np.split(documents, np.unique(ends)) if len(w)]
    figures = []
    for name, pack in (("best_fit", best_fit), ("concat", concat)):
        seconds, packed = _best(lambda pack=pack: [pack(w, SEQ_LEN).shuffled(1) for w in windows])
        rate = documents.sum() / seconds / MILLION
        dropped = 100 * sum(rows.dropped for rows in packed) / documents.sum()
        places = sum(len(rows.row_ends) for rows in packed) * (SEQ_LEN + 1)
        padding = 100 * sum(rows.padding for rows in packed) / places
        figures += [
            at_least(f"{name}: million tokens a second", rate, 100),
            at_most(f"{name}: tokens dropped", dropped, 3, "%"),
            Figure(f"{name}: places padded", "", f"{padding:.2f}%"),
        ]
    return figures_table(f"Packing {len(documents):,} documents, T 1,024", figures)


def start(bench: Bench) -> Table:
    """The first batch at step 1,000,000 of a manifest of many shards."""
    folder = bench.corpus("start", bench.arguments.shards)
    rows = max(1, bench.arguments.shards * bench.tokens * 9 // 10 // SEQ_LEN // MILLION)
    figures = []
    for name in ("concat", "best_fit"):
        loader = bench.loader(folder, rows=rows, packing=name)
        began = time.perf_counter()
        plan = loader.sources[0].plan(0)
        built = time.perf_counter() - began
        size = sum(p.stat().st_size for p in (bench.work / "plans").rglob("*.npy"))
        again = _run_start(bench, folder, rows, name)
        figures += [
            Figure(f"{name}: building the plan, s", "", f"{built:.1f}"),
            Figure(f"{name}: million tokens a second", "", f"{plan.tokens / built / MILLION:,.0f}"),
            Figure(f"{name}: plans so far on disk, MB", "", f"{size / MILLION:,.0f}"),
            at_most(f"{name}: start to first batch, s", again["seconds"], 1),
            Figure(f"{name}: its CPU time, s", "", f"{again['cpu']:.2f}"),
            Figure(f"{name}: of that opening, tokenizer's ranks too", "", f"{again['open']:.2f}"),
            Figure(f"{name}: row groups read, of", "", f"{again['read']} of {again['groups']:,}"),
        ]
    total = bench.arguments.shards * bench.tokens
    return figures_table(f"Step 1,000,000 of {rows} rows, {total:,} tokens", figures)


def memory(bench: Bench) -> Table:
    """Peak memory of a process that reads many batches of a small and a large corpus."""
    figures, peaks, held = [], [], []
    for count in (40, 200):  # more shards than are kept open, both
        folder = bench.corpus(f"memory-{count}", count)
        found = _child("memory", bench, folder, ROWS, "best_fit", bench.arguments.batches)
        peaks.append(found["peak"] / MILLION)
        held.append(_child("held", bench, folder, ROWS, "best_fit", 0))
        tokens = count * bench.tokens
        figures.append(Figure(f"peak MB, corpus of {tokens:,} tokens", "", f"{peaks[-1]:,.0f}"))
    figures.append(at_most("the large corpus's by the small one's", peaks[1] / peaks[0], 1.1))
    grown, groups = (held[1][name] - held[0][name] for name in ("held", "groups"))
    figures.append(
        Figure("bytes that the manifest keeps, a row group", "", f"{grown / groups:,.0f}")
    )
    return figures_table(f"Resident memory after {bench.arguments.batches:,} batches", figures)


def _epoch(loader: Loader) -> int:
    """Read the first epoch; tokens of its inputs."""
    steps = loader.sources[0].plan(0).num_rows // loader.spec.rows
    return sum(loader.batch(step).inputs.size for step in range(steps))


def _open(bench: Bench, folder: Path) -> int:
    """One opening, as if it were a token."""
    bench.loader(folder).sources[0].plan(0)
    return 1


def _plain_pyarrow(path: Path) -> int:
    """Every row group's column, to one NumPy array."""
    file, total = pq.ParquetFile(path), 0
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=["tokens"], use_threads=False).column("tokens")
        total += sum(len(chunk.flatten().to_numpy()) for chunk in rows.chunks)
    return total


def _write_raw(bench: Bench, path: Path) -> None:
    with open(path, "wb") as out:
        file = pq.ParquetFile(bench.source / bench.file.name)
        for group in range(file.num_row_groups):
            for chunk in file.read_row_group(group, columns=["tokens"]).column("tokens").chunks:
                out.write(chunk.flatten().to_numpy().astype("<u4").tobytes())


def _memmap(path: Path) -> int:
    """Consecutive rows of a memory map as int64 batches, as nanoGPT reads."""
    tokens, total = np.memmap(path, "<u4", "r"), 0
    rows = len(tokens) // (SEQ_LEN + 1)
    whole = tokens[: rows * (SEQ_LEN + 1)].reshape(rows, -1)
    for first in range(0, rows - ROWS, ROWS):
        batch = whole[first : first + ROWS].astype(np.int64)
        total += batch[:, :-1].size
    return total


def _rates(ways: dict[str, Callable[[], int]], repeat: int) -> dict[str, float]:
    """Tokens a CPU second of each way, the best of `repeat` alternating rounds."""
    found = dict.fromkeys(ways, 0.0)
    for _ in range(repeat):
        for name, way in ways.items():
            began = time.process_time()
            tokens = way()
            found[name] = max(found[name], tokens / (time.process_time() - began))
    return found


def _best(way: Callable[[], Any], rounds: int = 5) -> tuple[float, Any]:
    seconds = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        result = way()
        seconds = min(seconds, time.process_time() - began)
    return seconds, result


def _part(rates: dict[str, float], name: str) -> float:
    """What share of a first epoch's time goes beyond a later one's."""
    return 100 * max(0.0, 1 - rates[name] / rates["concat"])


def _later_check(loader: Loader) -> float:
    """The share of an epoch's time that checks take, in percent, once all is checked."""
    groups, spent = loader.sources[0].row_groups, 0.0
    original = groups._check

    def timed(*arguments: Any) -> None:
        nonlocal spent
        began = time.process_time()
        original(*arguments)
        spent += time.process_time() - began

    groups._check = timed  # type: ignore[method-assign]
    began = time.process_time()
    _epoch(loader)
    return 100 * spent / (time.process_time() - began)


def _peers(bench: Bench, raw: Path) -> Iterator[Figure]:
    """Peers on the same tokens, each in its environment."""
    if bench.arguments.peer_python is None:
        return
    script = Path(__file__).parent / "peers" / "loaders.py"
    command = [bench.arguments.peer_python, str(script), str(raw), str(bench.work / "peers")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found = json.loads(line)
            yield Figure(found["name"], "", f"{found['rate'] / MILLION:,.1f}")


def _run_start(bench: Bench, folder: Path, rows: int, name: str) -> dict[str, Any]:
    return _child("start", bench, folder, rows, name, MILLION)


def _child(part: str, bench: Bench, folder: Path, rows: int, name: str, step: int) -> Any:
    """Run `loader_parts/child.py`, so that nothing is warm; its JSON."""
    script = Path(__file__).parent / "loader_parts" / "child.py"
    arguments = [part, folder, bench.work / "plans", SEQ_LEN, rows, name, step]
    command = [sys.executable, str(script), *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


PARTS: dict[str, Callable[[Bench], Table]] = {
    "speed": speed,
    "packing": packing,
    "start": start,
    "memory": memory,
}


def main() -> None:
    """Run one part, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=[*PARTS, "all"], help="what to measure")
    parser.add_argument("--crawl", default=CRAWL, metavar="GLOB", help="WARC files of real pages")
    parser.add_argument("--copies", type=int, default=4, help="of the texts (default 4)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the best counts")
    parser.add_argument("--shards", type=int, default=1000, help="of the start (default 1,000)")
    parser.add_argument("--batches", type=int, default=1000, help="of memory (default 1,000)")
    parser.add_argument("--peer-python", metavar="PYTHON", help="the peers' environment")
    parser.add_argument("--work", metavar="DIR", help="keep what is written, here")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = work_folder(stack, arguments.work)
        bench = Bench(work, arguments)
        for name in PARTS if arguments.part == "all" else [arguments.part]:
            Console(width=100).print(PARTS[name](bench))


if __name__ == "__main__":
    main()
