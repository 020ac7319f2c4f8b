"""datatrove's MinHash deduplication, run by dedup.py in datatrove's own environment.

`phases` runs the four of its examples/fineweb.py (5-grams, 14 buckets of 8 hashes, 64 bits) on a
folder of JSON lines, a task a file where a phase allows it, each phase's tasks side by side; its
token counter, which is no part of deduplication, is left out. Also keeps which cluster a document
is in. `signatures` measures the CPU seconds of the first phase's work in one process, without
reading and writing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

CONFIG = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
WARM_UP = 50  # texts before the clock runs


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(required=True)
    phases = parts.add_parser("phases")
    for name in ("--input", "--output", "--logs"):
        phases.add_argument(name, required=True)
    for name in ("--workers", "--tasks"):
        phases.add_argument(name, type=int, required=True)
    phases.set_defaults(command=run_phases)
    signatures = parts.add_parser("signatures")
    for name in ("--texts", "--result"):
        signatures.add_argument(name, required=True)
    signatures.set_defaults(command=measure_signatures)
    arguments = parser.parse_args()
    arguments.command(arguments)


def run_phases(arguments: argparse.Namespace) -> None:
    """Signatures, buckets, clusters, filter, one after the other."""
    out = arguments.output

    def run(phase: str, tasks: int, *pipeline) -> None:
        LocalPipelineExecutor(
            list(pipeline),
            tasks=tasks,
            workers=min(tasks, arguments.workers),
            logging_dir=f"{arguments.logs}/{phase}",
        ).run()

    def read() -> JsonlReader:
        return JsonlReader(arguments.input, compression=None)

    run("signatures", arguments.tasks, read(), MinhashDedupSignature(f"{out}/sig", config=CONFIG))
    buckets = MinhashDedupBuckets(f"{out}/sig", f"{out}/buckets", config=CONFIG)
    run("buckets", CONFIG.num_buckets, buckets)
    clusters = MinhashDedupCluster(
        f"{out}/buckets", f"{out}/clusters", config=CONFIG, save_cluster_id=True
    )
    run("clusters", 1, clusters)
    removed = JsonlWriter(f"{out}/removed", compression=None)
    kept = JsonlWriter(f"{out}/kept", compression=None)
    chosen = MinhashDedupFilter(f"{out}/clusters", exclusion_writer=removed)
    run("filter", arguments.tasks, read(), chosen, kept)


def measure_signatures(arguments: argparse.Namespace) -> None:
    """Write the CPU seconds of shingles and of signatures over all texts of a Parquet file."""
    texts = pq.read_table(arguments.texts, columns=["text"])["text"].to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder, config=CONFIG)
        for counted in (texts[:WARM_UP], texts):
            seconds = {"shingles": 0.0, "signatures": 0.0}
            for text in counted:
                start = time.process_time()
                shingles = step.get_shingles(text)
                middle = time.process_time()
                if shingles.size:
                    step.get_signature(shingles)
                seconds["signatures"] += time.process_time() - middle
                seconds["shingles"] += middle - start
    Path(arguments.result).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
