"""Token rows of conversations on their way to shards: a file that is mapped, not read.

How many shards there are is known once all rows are, and a shard is a range of hashes, so its rows
come from everywhere. For each shard the keys of all rows are looked at and its own rows taken.
Cost: 8 bytes a row and shard, and every token read once; memory is that of one shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from corpus import conversations, shards
from corpus.conversations import Accepted
from corpus.shards import Shard
from corpus.splits import SPLITS
from jobs import chat_rows
from schemas.errors import UserError
from schemas.manifest import DataFile

ROWS_PER_BATCH = 1024
TOKENS_PER_BATCH = 1 << 20


def batches(accepted: Iterable[Accepted]) -> Iterator[list[Accepted]]:
    """Rows to be written together: so many, or so many tokens and those of one row more."""
    batch: list[Accepted] = []
    tokens = 0
    for one in accepted:
        batch.append(one)
        tokens += len(one.framed.tokens)
        if len(batch) == ROWS_PER_BATCH or tokens >= TOKENS_PER_BATCH:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch


def write_shards(spool: Path, folder: Path, settings: Shard) -> tuple[DataFile, ...]:
    """Take the rows of each shard from the file of all, and write it; in the shards' order.

    Raises `UserError` where a split is empty.
    """
    with pa.memory_map(str(spool)) as source, pa.ipc.open_file(source) as reader:
        num_shards = _num_shards(reader, settings)
        places = [(split, i) for split in SPLITS for i in range(num_shards[split])]
        return tuple(
            shards.write_shard(rows, folder, split, index, settings)
            for split, index in places
            if len(rows := _rows_of(reader, split, index, num_shards[split]))
        )


def write_rows(spool: Path, out: Path) -> None:
    """Write what each conversation was made of, in the order in which they were read."""
    with pa.memory_map(str(spool)) as source, pa.ipc.open_file(source) as reader:
        rows = reader.read_all().rename_columns({"token_count": "tokens", "tokens": "ids"})
        chat_rows.write_rows(rows.select(conversations.ROWS.names), out)


def _num_shards(reader: pa.RecordBatchFileReader, settings: Shard) -> dict[str, int]:
    """Split -> number of shards, from its total of tokens; an empty split is an error."""
    tokens: Counter[str] = Counter()
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        for split in SPLITS:
            here = pc.equal(batch.column("split"), split)
            tokens[split] += pc.sum(batch.column("token_count").filter(here)).as_py() or 0
    for split in SPLITS:
        if not tokens[split]:
            raise UserError(
                f"--validation-fraction {settings.validation_fraction}: no conversation falls "
                f"into the {split} split; use another fraction or more conversations"
            )
    return {split: shards.num_shards_for(tokens[split], settings) for split in SPLITS}


def _rows_of(reader: pa.RecordBatchFileReader, split: str, index: int, num_shards: int) -> pa.Table:
    found = []
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        keys = shards.to_unsigned(batch.column("order_key").to_numpy())
        here = pa.array(shards.shards_of(keys, num_shards) == index)
        found.append(batch.filter(pc.and_(here, pc.equal(batch.column("split"), split))))
    return pa.Table.from_batches(found, conversations.TOKENS)
