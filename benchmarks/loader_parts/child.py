"""What loader.py measures in a process of its own: a cold start, or memory; prints JSON."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from pathlib import Path

from trainer.data.loader import Loader


def main() -> None:
    """PART FOLDER CACHE SEQ_LEN ROWS PACKING STEP."""
    part, folder, cache, *numbers, packing, step = sys.argv[1:]
    seq_len, rows = map(int, numbers)
    if part == "held":
        tracemalloc.start()
    began, cpu = time.perf_counter(), time.process_time()
    loader = Loader([Path(folder)], seq_len=seq_len, rows=rows, packing=packing, cache=Path(cache))
    opened = time.perf_counter()
    if part == "held":
        held, _ = tracemalloc.get_traced_memory()
        print(json.dumps({"held": held, "groups": len(loader.sources[0].row_groups.tokens)}))
        return
    if part == "start":
        loader.batch(int(step))
        ended, groups = time.perf_counter(), loader.sources[0].row_groups
        cpu = time.process_time() - cpu
        found = {"seconds": ended - began, "open": opened - began, "cpu": cpu}
        read = int(groups._checked.sum())
        print(json.dumps({**found, "read": read, "groups": len(groups.tokens)}))
        return
    for _ in loader.batches(0, int(step)):
        pass
    # not getrusage, whose peak starts with that of the process that started this one
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()
    print(json.dumps({"peak": int(status[0]) * 1024}))


if __name__ == "__main__":
    main()
