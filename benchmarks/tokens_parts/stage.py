"""The part of tokens.py on tokenizing: texts to token rows, and to shards, beside tiktoken alone.

tiktoken alone is `encode_ordinary` on every text, in one process a core, each with its share of
the texts in memory: no Parquet, no order, no split. Ours is measured in two ways. The stage is
what the engine's tasks do: batches of `canonical` through the children, one a core, and back. The
job is the whole command `gristmill shard` less the same command on `START_TEXTS` texts: also
reading, the working dataset, the shuffle, sorting, hashing, compressing and writing the shards.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from rich.table import Table

from common.bench import Bench, Figure, at_least, engine, figures_table
from common.measured import measured
from common.page_texts import page_texts
from corpus import recipe, worker
from corpus.tokens.shards import CANONICAL_COLUMNS
from jobs.engine import dataset_io
from schemas import config, manifest, tokenizer
from schemas.datasets import CANONICAL
from schemas.manifest import DataFile, Manifest

TARGET = 80  # percent of tiktoken alone
START_TEXTS = 300  # enough for both splits
RECIPE = """\
name = "bench-tokens"
filters = []
[tokenizer]
name = "{name}"
[shard]
validation_fraction = 0.05
"""


class Cost(NamedTuple):
    """Seconds of the clock and of CPU in all processes."""

    wall: float
    cpu: float


def stage(bench: Bench, arguments: Namespace) -> Table:
    """Tokens a second of the tokenizing stage and of the whole job, beside tiktoken alone."""
    texts = page_texts(arguments.crawl, bench.console)
    # The stage in children: what they use counts here once they are waited for.
    sides: dict[str, Callable[[], Cost]] = {
        "tiktoken": lambda: _tiktoken(texts, arguments.tokenizer, arguments.cores),
        "stage": lambda: _stage(texts, arguments.tokenizer, arguments.cores),
    }
    costs: dict[str, Cost] = {}
    for _ in range(bench.repeat):
        for name, run in sides.items():
            with bench.console.status(f"tokenizing: {name}"):
                found = run()
            costs[name] = min(costs.get(name, found), found, key=lambda cost: cost.cpu)
    num_tokens = _count(texts, arguments.tokenizer)
    alone, (cpu, wall) = costs["tiktoken"], _shares(costs["stage"], costs["tiktoken"], 1)
    rows = [
        _rate("tiktoken alone", num_tokens, alone),
        _rate("stage", num_tokens, costs["stage"]),
        at_least("  its speed by tiktoken's, CPU", cpu, TARGET, "%"),
        Figure("  its speed by tiktoken's, clock", "", f"{wall:.2f}%"),
    ]
    for master in [None, *([arguments.master] if arguments.master else [])]:
        rows += _job_figures(bench, arguments, texts, num_tokens, alone, master)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    title = f"{arguments.tokenizer}, {arguments.cores} cores: {len(texts):,} texts"
    return figures_table(f"{title}, {megabytes:.0f} MB, {num_tokens:,} tokens", rows)


def _rate(name: str, num_tokens: int, cost: Cost) -> Figure:
    wall, cpu = (num_tokens / seconds / 1e6 for seconds in cost)
    return Figure(f"{name}: M tokens a CPU second, a second", "", f"{cpu:.2f}, {wall:.2f}")


def _shares(ours: Cost, alone: Cost, times: float) -> tuple[float, float]:
    """Our speed by tiktoken's on `times` as many tokens, percent: of CPU, of the clock."""
    return 100 * times * alone.cpu / ours.cpu, 100 * times * alone.wall / ours.wall


def _count(texts: Sequence[str], name: str) -> int:
    known = tokenizer.named(name)
    return sum(len(known.encode(text)) for text in texts)


def _tiktoken(texts: list[str], name: str, cores: int) -> Cost:
    """Every process says what its own encoding took, so that no start is counted."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, context) as pool:
        shares = [texts[core::cores] for core in range(cores)]
        found = list(pool.map(_encode_alone, shares, [name] * cores))
    return Cost(max(cost.wall for cost in found), sum(cost.cpu for cost in found))


def _encode_alone(texts: list[str], name: str) -> Cost:
    encoding = tokenizer.named(name).encoding
    encoding.encode_ordinary("warm")
    wall, cpu = time.perf_counter(), time.process_time()
    for text in texts:
        encoding.encode_ordinary(text)
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def _stage(texts: list[str], name: str, cores: int) -> Cost:
    """Batches through the children as a task sends them; a run without work is taken off."""
    batch, values = _canonical(texts).to_batches()[0], _values(name)
    batches = [
        batch.slice(start, dataset_io.ROWS_PER_REQUEST)
        for start in range(0, len(batch), dataset_io.ROWS_PER_REQUEST)
    ]
    idle = _through_children([batch.slice(0, 1)] * cores, values, cores)
    busy = _through_children(batches, values, cores, warm=[batch.slice(0, 1)] * cores)
    return Cost(busy.wall, busy.cpu - idle.cpu)


def _through_children(
    batches: list[pa.RecordBatch],
    values: dict[str, Any],
    cores: int,
    warm: Sequence[pa.RecordBatch] = (),
) -> Cost:
    def send(one: pa.RecordBatch) -> int:
        return sum(answer.num_rows for answer in worker.map_batch("encode", values, one))

    before = _cpu()
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(send, warm))
        start = time.perf_counter()
        rows = sum(pool.map(send, batches))
        wall = time.perf_counter() - start
    assert rows == sum(one.num_rows for one in batches)
    worker.stop_idle()
    return Cost(wall, _cpu() - before)


def _cpu() -> float:
    """Of this process and of all children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


def _job_figures(
    bench: Bench, arguments: Namespace, texts: list[str], num_tokens: int, alone: Cost,
    master: str | None,
) -> list[Figure]:  # fmt: skip
    costs: dict[int, Cost] = {}
    sizes = {0: texts[:START_TEXTS], arguments.copies: texts * arguments.copies}
    for copies, wanted in sizes.items():
        folder = bench.fresh(f"shard-{copies}")
        _write_root(folder, wanted, arguments.tokenizer)
        for _ in range(bench.repeat):
            with bench.console.status(f"sharding {len(wanted):,} texts on {engine(master)}"):
                found = _run(folder, master)
            costs[copies] = min(costs.get(copies, found), found, key=lambda cost: cost.cpu)
        bench.clear(folder)
    less, more = costs[0], costs[arguments.copies]
    share = sum(map(len, texts[:START_TEXTS])) / sum(map(len, texts))
    cost = Cost(more.wall - less.wall, more.cpu - less.cpu)
    times = arguments.copies - share
    by_cpu, by_wall = _shares(cost, alone, times)
    return [
        _rate(f"whole job on {engine(master)}, less its start", int(num_tokens * times), cost),
        Figure("  its speed by tiktoken's, CPU, clock", "", f"{by_cpu:.2f}%, {by_wall:.2f}%"),
        Figure("  its start, s of CPU, of the clock", "", f"{less.cpu:.1f}, {less.wall:.1f}"),
    ]


def _run(folder: Path, master: str | None) -> Cost:
    shutil.rmtree(folder / "root" / "shards", ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "jobs.submit",
        "shard",
        "--recipe",
        str(folder / "recipe.toml"),
    ]
    command += ["--root", str(folder / "root"), *(["--master", master] if master else [])]
    run = measured(command, folder / "log")
    return Cost(run.wall_seconds, run.cpu_seconds)


def _write_root(folder: Path, texts: list[str], name: str) -> None:
    """A root whose `canonical` holds the texts, in files such as the job before writes."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE.format(name=name), encoding="utf-8")
    loaded, root = recipe.load(folder / "recipe.toml"), folder / "root"
    table = _canonical(texts)
    half = -(-len(table) // 2)
    parts = [table.slice(start, half) for start in range(0, len(table), half)]
    files = tuple(dataset_io.write_table(root / "canonical", part) for part in parts)
    _commit(root, loaded.name, files)


def _commit(root: Path, name: str, files: tuple[DataFile, ...]) -> None:
    """Manifests of all that a report follows back from shards; only `canonical` has rows here."""
    made, source = {"engine": "none", "seconds": 0.0}, Manifest("none", name, {}, {}, (), {})
    for dataset in ("documents", "judged", "bands", "canonical"):
        counts = {"repeated_ids": 0} if dataset == "bands" else {}
        inputs = {source.dataset: source.fingerprint}
        listed = files if dataset == "canonical" else ()
        source = Manifest(dataset, name, {}, inputs, listed, counts, made=made)
        manifest.write(root / dataset, source)


def _values(name: str) -> dict[str, Any]:
    return dict(config.to_json({"tokenizer": {"name": name}}))


def _canonical(texts: list[str]) -> pa.Table:
    """Rows of `canonical` with these texts, a site for every tenth; the rest is null."""
    numbers = range(len(texts))
    known = {
        "text": texts,
        "id": [f"<urn:uuid:{number:08}>" for number in numbers],
        "url": [
            f"https://www.site{number % (len(texts) // 10 + 1)}.example/{number}"
            for number in numbers
        ],
        "file_path": ["bench.warc.gz"] * len(texts),
        "record_offset": list(numbers),
    }
    assert set(known) == set(CANONICAL_COLUMNS)
    columns = [
        pa.array(known[field.name], field.type)
        if field.name in known
        else pa.nulls(len(texts), field.type)
        for field in CANONICAL
    ]
    return pa.table(columns, schema=CANONICAL)
