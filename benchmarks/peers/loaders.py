"""Peers of loader.py on the same tokens, in an environment that has them: one JSON line each.

    PEER_PYTHON benchmarks/peers/loaders.py TOKENS.bin WORK

Each peer stores blocks of 1,025 tokens in its own format, and reads them in order, without workers,
into (32, 1024) int64 batches. The best of three rounds by CPU time of the process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

SEQ_LEN, ROWS = 1024, 32


def main() -> None:
    """Every peer that is installed."""
    raw, work = np.memmap(sys.argv[1], "<u4", "r"), Path(sys.argv[2])
    blocks = raw[: len(raw) // (SEQ_LEN + 1) * (SEQ_LEN + 1)].reshape(-1, SEQ_LEN + 1)
    for name, peer in (("litData", _litdata), ("mosaicml-streaming", _streaming)):
        try:
            read = peer(blocks, work / name)
        except ImportError as error:
            print(f"{name}: not installed ({error})", file=sys.stderr)
            continue
        print(json.dumps({"name": name, "rate": max(_rate(read) for _ in range(3))}))


def _rate(read: Callable[[], Iterable[np.ndarray]]) -> float:
    """Tokens a CPU second."""
    began, total, rows = time.process_time(), 0, []
    for row in read():
        rows.append(np.asarray(row))
        if len(rows) == ROWS:
            total += np.stack(rows).astype(np.int64)[:, :-1].size
            rows = []
    return total / (time.process_time() - began)


def _litdata(blocks: np.ndarray, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
    """litData's TokensLoader over chunks of its binary format."""
    import torch
    from litdata import StreamingDataset, TokensLoader
    from litdata.streaming.writer import BinaryWriter

    loader = TokensLoader(block_size=SEQ_LEN + 1)
    writer = BinaryWriter(str(folder), chunk_size=4096 * (SEQ_LEN + 1), item_loader=loader)
    for i, block in enumerate(blocks):
        writer[i] = torch.from_numpy(block.astype(np.int32))
    writer.done()
    writer.merge()
    return lambda: StreamingDataset(
        str(folder), item_loader=TokensLoader(block_size=SEQ_LEN + 1), shuffle=False
    )


def _streaming(blocks: np.ndarray, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
    """MDS shards of mosaicml-streaming, a row a sample."""
    from streaming import MDSWriter, StreamingDataset

    columns = {"tokens": f"ndarray:uint32:{SEQ_LEN + 1}"}
    with MDSWriter(out=str(folder), columns=columns, compression=None) as writer:
        for block in blocks:
            writer.write({"tokens": np.asarray(block)})
    data = StreamingDataset(local=str(folder), shuffle=False, batch_size=ROWS)
    return lambda: (sample["tokens"] for sample in data)


if __name__ == "__main__":
    main()
