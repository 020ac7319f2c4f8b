"""The parts of dedup.py on real pages: signatures, and whole deduplication beside datatrove's."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from common.bench import Bench, Figure, at_least, at_most, figures_table
from common.measured import Run, measured
from common.page_texts import page_texts
from corpus.dedup.minhash import MinHash, fingerprints, jaccard, shingle_hashes
from dedup_parts.judged_root import Root
from dedup_parts.runs import Int64s
from jobs.engine.dataset_io import ROWS_PER_REQUEST

FILES = 2  # of each system's input: a task a core
PEER = Path(__file__).parents[1] / "peers" / "datatrove_dedup.py"


def signatures(bench: Bench, arguments: Namespace) -> Table:
    """CPU of text hashes, signatures and bands a document, in batches as the job sends them."""
    texts = page_texts(arguments.crawl, bench.console)
    ours = min(_ours_seconds(texts) for _ in range(max(3, bench.repeat))) / len(texts) * 1e3
    rows = [at_most("ours, CPU ms a document", ours, 0.8)]
    if arguments.peer_python:
        seconds = _their_seconds(texts, arguments.peer_python)
        theirs = {name: value / len(texts) * 1e3 for name, value in seconds.items()}
        total = sum(theirs.values())
        rows.append(Figure("datatrove, CPU ms a document", "", f"{total:.2f}"))
        share = theirs["shingles"] / total
        rows.append(Figure("  of it words and shingles", "", f"{share:.0%}"))
        rows.append(Figure("  ratio", "", f"{total / ours:.1f}x"))
    size = sum(map(len, texts)) / len(texts)
    return figures_table(f"signatures: {len(texts):,} texts of {size:,.0f} characters", rows)


def versus(bench: Bench, arguments: Namespace) -> Table:
    """Whole deduplication, ours and datatrove's four phases, on the same texts."""
    texts = topped_up(page_texts(arguments.crawl, bench.console), arguments.texts)
    root = Root(bench.fresh("versus"))
    root.write(_chunks(texts))
    peer = Peer(root.folder / "datatrove", arguments.peer_python) if arguments.peer_python else None
    if peer:
        peer.write(texts)
    runs: dict[str, Run] = {}
    for _ in range(bench.repeat):
        for name, run in (("ours", root.run), ("datatrove", peer and peer.run)):
            if run:
                with bench.console.status(f"deduplicating {len(texts):,} texts: {name}"):
                    _keep_quicker(runs, name, run())
    rows = [figure for name, run in runs.items() for figure in _cost_figures(name, run)]
    rows += _ratio_figures(runs["ours"], runs["datatrove"]) if peer else []
    rows += list(_partition_figures(root, peer, texts))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    table = figures_table(f"versus datatrove: {len(texts):,} texts, {megabytes:.0f} MB", rows)
    bench.clear(root.folder)
    return table


def topped_up(texts: list[str], wanted: int, seed: int = 0) -> list[str]:
    """`texts` and copies of them, their lines in another order, until there are `wanted`."""
    found = texts[:wanted]
    for number in range(wanted - len(found)):
        lines = texts[number % len(texts)].split("\n")
        order = np.random.default_rng([seed, number]).permutation(len(lines))
        found.append("\n".join(lines[i] for i in order))
    return found


@dataclass(frozen=True)
class Peer:
    """datatrove's run in a folder; document number i of ours is the same text there."""

    folder: Path
    python: str

    def write(self, texts: list[str]) -> None:
        """The texts as JSON lines, a file a task."""
        (self.folder / "in").mkdir(parents=True)
        number = 0
        for file, chunk in enumerate(_chunks(texts)):
            with open(self.folder / "in" / f"{file:05}.jsonl", "w", encoding="utf-8") as lines:
                for text in chunk:
                    lines.write(json.dumps({"id": f"doc-{number}", "text": text}) + "\n")
                    number += 1

    def run(self) -> Run:
        """Its four phases, in one command."""
        with tempfile.TemporaryDirectory(dir=self.folder) as logs:
            command = [self.python, str(PEER), "phases", "--input", f"{self.folder}/in"]
            command += ["--output", f"{self.folder}/out", "--logs", f"{logs}/logs"]
            command += ["--tasks", str(FILES), "--workers", str(FILES)]
            return measured(command, self.folder / "log")

    def clusters(self, num_texts: int) -> Int64s:
        """The cluster (n,) of each document; those in none are alone."""
        found = np.arange(num_texts) + num_texts
        starts = np.cumsum([0, *map(len, _chunks(range(num_texts)))])
        for path in (self.folder / "out" / "clusters").glob("*.clusters"):
            pairs = np.fromfile(path, dtype="<u4").reshape(-1, 2).astype(np.int64)
            found[starts[int(path.stem)] + pairs[:, 0]] = pairs[:, 1]
        return found

    def kept(self) -> Int64s:
        """Numbers of the documents that stayed, ascending."""
        lines = (
            line
            for path in (self.folder / "out" / "kept").glob("*.jsonl")
            for line in path.open(encoding="utf-8")
        )
        return np.sort([int(json.loads(line)["id"].removeprefix("doc-")) for line in lines])


def _ours_seconds(texts: list[str]) -> float:
    settings = MinHash()
    start = time.process_time()
    for first in range(0, len(texts), ROWS_PER_REQUEST):
        fingerprints(texts[first : first + ROWS_PER_REQUEST], settings)
    return time.process_time() - start


def _their_seconds(texts: list[str], python: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "texts.parquet", Path(folder) / "result.json"
        pq.write_table(pa.table({"text": texts}), given)
        command = [python, str(PEER), "signatures", "--texts", str(given), "--result", str(result)]
        subprocess.run(command, check=True)
        return dict(json.loads(result.read_text()))


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    size = -(-len(rows) // FILES)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _keep_quicker(runs: dict[str, Run], name: str, run: Run) -> None:
    if name not in runs or run.cpu_seconds < runs[name].cpu_seconds:
        runs[name] = run


def _cost_figures(name: str, run: Run) -> Iterator[Figure]:
    yield Figure(f"{name}: wall", "", f"{run.wall_seconds:.1f} s")
    yield Figure(f"{name}: CPU", "", f"{run.cpu_seconds:.1f} s")
    sizes = (run.peak(run.pss, main=main) / 1e6 for main in (True, False))
    yield Figure(f"{name}: PSS of main, largest worker", "", "{:,.0f}, {:,.0f} MB".format(*sizes))


def _ratio_figures(ours: Run, theirs: Run) -> list[Figure]:
    return [
        at_least("wall, datatrove's by ours", theirs.wall_seconds / ours.wall_seconds, 6, "x"),
        at_least("CPU, datatrove's by ours", theirs.cpu_seconds / ours.cpu_seconds, 10, "x"),
    ]


def _partition_figures(root: Root, peer: Peer | None, texts: list[str]) -> Iterator[Figure]:
    """What each drops, and how far the two partitions agree."""
    ours = root.clusters()
    yield Figure("ours: dropped", "", f"{len(texts) - len(root.kept()):,}")
    if peer is None:
        return
    theirs, kept = peer.clusters(len(texts)), peer.kept()
    dropped = np.setdiff1d(np.arange(len(texts)), kept)
    yield Figure("datatrove: dropped", "", f"{len(dropped):,}")
    sizes = np.unique(ours, return_inverse=True, return_counts=True)
    also = int((sizes[2][sizes[1]][dropped] > 1).sum())
    yield Figure("  of these in a cluster of ours", "", f"{also:,}")
    yield Figure("pairs in one cluster, and their similarity", "", "least, median, most")
    mine, other = _pairs(ours), _pairs(theirs)
    for name, pairs in (
        ("both", mine & other), ("ours alone", mine - other), ("datatrove alone", other - mine)
    ):  # fmt: skip
        yield Figure(f"  {name}", "", f"{len(pairs):,}: {_similarities(pairs, texts)}")


def _pairs(clusters: Int64s) -> set[tuple[int, int]]:
    """Pairs of documents that are in one cluster."""
    order = np.argsort(clusters, kind="stable")
    ends = np.flatnonzero(np.diff(clusters[order])) + 1
    groups = np.split(order, ends)
    return {pair for group in groups for pair in combinations(group.tolist(), 2)}


def _similarities(pairs: set[tuple[int, int]], texts: list[str]) -> str:
    """The exact Jaccard similarity of pairs: the least, the median, the most."""
    settings = MinHash()
    shingles = {i: shingle_hashes(texts[i], settings) for i in {i for pair in pairs for i in pair}}
    found = [jaccard(shingles[one], shingles[other]) for one, other in pairs]
    return ", ".join(f"{x:.2f}" for x in np.percentile(found, [0, 50, 100])) if found else "none"
