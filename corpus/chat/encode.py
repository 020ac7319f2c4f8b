"""A conversation -> token ids and loss mask, and rows of shards from them.

The grammar is in `schemas.chat`. Targets are what an assistant says: its texts, its calls with both
their control tokens, and the end of its turn; its name is given.

Cost: that of encoding the texts that are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from corpus.arrays import Int64s
from corpus.chat import files, formats
from corpus.chat.formats import Conversation, RowError
from corpus.tokens import shards
from corpus.tokens.shards import Shard
from corpus.tokens.splits import split_of_id
from schemas import json_text
from schemas.chat import Framed
from schemas.config import settings
from schemas.datasets import LOSS_MASK
from schemas.manifest import FormCounts, ShardsExtra
from schemas.tokenizer import Tokenizer

COUNTS = tuple(field.name for field in fields(FormCounts) if field.name != "form")
NO_FORM = "unknown"  # the form of rows in which none was recognised
GRAMMAR = 1  # changes with what a row becomes: the forms, the framing, the mask, the cut

# A file beside the shards: what each conversation contributed to the counts, should it be removed.
ROWS = pa.schema(
    [
        ("file_path", pa.string()),
        ("record_offset", pa.int64()),
        ("form", pa.string()),
        ("turns", pa.int32()),
        ("tokens", pa.int64()),
        ("target_tokens", pa.int64()),
        ("turns_cut", pa.int32()),
    ]
)
_COUNTED = [ROWS.field(name) for name in ("form", "turns", "target_tokens", "turns_cut")]
TOKENS = pa.schema([*shards.TOKENS, pa.field(LOSS_MASK.name, pa.list_(pa.uint8())), *_COUNTED])


@settings
class Conversations:
    """`context`: tokens that a conversation may have, the document boundary included."""

    context: Annotated[int, Field(ge=2, le=2**24)] = 4096


def frame(conversation: Conversation, tokenizer: Tokenizer, context: int) -> Framed:
    """The conversation as tokens; `num_turns` is smaller than its turns where it was cut.

    A conversation of more than `context` tokens ends with the last turn to be learned that fits as
    a whole. Raises `RowError` (`too_long`) where not even the first does.
    """
    framed = Framed()
    framed.control(tokenizer.boundary, False)
    fits: tuple[int, int, int] | None = None
    for number, turn in enumerate(conversation.turns, 1):
        framed.turn(turn, tokenizer)
        if len(framed.tokens) > context:
            return _cut(framed, fits, context)
        framed.num_turns = number
        if turn.learned:
            fits = (len(framed.tokens), number, framed.text_bytes)
    return framed


def _cut(framed: Framed, fits: tuple[int, int, int] | None, context: int) -> Framed:
    if fits is None:
        raise RowError(
            "too_long", f"its first exchange has over {context} tokens (context = {context})"
        )
    length, num_turns, text_bytes = fits
    return Framed(framed.tokens[:length], framed.mask[:length], num_turns, text_bytes)


@dataclass(frozen=True)
class Accepted:
    """A conversation for a shard: its place, its tokens, and the number of turns cut off."""

    form: str
    id: str
    url: str | None
    file_path: str
    record_offset: int
    framed: Framed
    num_cut: int

    @property
    def source_id(self) -> str:
        """The id by which a removal request names it."""
        return self.id


@dataclass(frozen=True)
class Rejected:
    """A row without a usable conversation. `form` is null where none was recognised."""

    file_path: str
    line: int
    record_offset: int
    id: str | None
    url: str | None
    form: str | None
    reason: str
    detail: str

    @property
    def source_id(self) -> str:
        """The id by which a removal request names it."""
        return self.id or row_name(self.file_path, self.line)


def row_name(file_path: str, line: int) -> str:
    """The id of a row that has none of its own."""
    return f"{file_path}:{line}"


def read_file(
    path: Path, tokenizer: Tokenizer, settings: Conversations
) -> Iterator[Accepted | Rejected]:
    """Yield the outcome of each row of a file, in order; `UserError` as `read_rows` raises it."""
    for row in files.read_rows(path):
        yield _read(path.name, row, tokenizer, settings.context)


def _read(
    file_path: str, row: files.RawRow, tokenizer: Tokenizer, context: int
) -> Accepted | Rejected:
    value: Any = None
    form: str | None = None
    try:
        value = _parsed(row.data)
        form = formats.form_of(value)
        conversation = formats.read_row(value)
        framed = frame(conversation, tokenizer, context)
    except RowError as error:
        named = (formats.row_id(value), formats.row_url(value))
        place = (file_path, row.line, row.offset)
        return Rejected(*place, *named, form, error.reason, error.detail)
    return Accepted(
        form=conversation.form,
        id=conversation.id or row_name(file_path, row.line),
        url=conversation.url,
        file_path=file_path,
        record_offset=row.offset,
        framed=framed,
        num_cut=len(conversation.turns) - framed.num_turns,
    )


def _parsed(data: bytes) -> Any:
    try:
        return json_text.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError("not_utf8", str(error)) from None
    except ValueError as error:
        raise RowError("invalid_json", str(error)) from None


def token_rows(accepted: Sequence[Accepted], settings: Shard) -> pa.RecordBatch:
    """Rows of `TOKENS` for `shards.write_shard`, in the order given."""
    framed = [one.framed for one in accepted]
    lengths = np.array([len(one.tokens) for one in framed], dtype=np.int64)
    ids = [one.id for one in accepted]
    columns = {
        "tokens": _lists(b"".join(one.tokens.tobytes() for one in framed), lengths, pa.int32()),
        "loss_mask": _lists(b"".join(one.mask for one in framed), lengths, pa.uint8()),
        "token_count": pa.array(lengths),
        "id": pa.array(ids, pa.string()),
        "url": pa.array([one.url for one in accepted], pa.string()),
        "file_path": pa.array([one.file_path for one in accepted], pa.string()),
        "record_offset": pa.array([one.record_offset for one in accepted], pa.int64()),
        "split": pa.array([split_of_id(i, settings.validation_fraction) for i in ids], pa.string()),
        "order_key": pa.array(shards.to_signed(shards.order_keys(ids, settings.seed))),
        "text_bytes": pa.array([one.text_bytes for one in framed], pa.int64()),
        "form": pa.array([one.form for one in accepted], pa.string()),
        "turns": pa.array([one.num_turns for one in framed], pa.int32()),
        "target_tokens": pa.array([one.mask.count(1) for one in framed], pa.int64()),
        "turns_cut": pa.array([one.num_cut for one in accepted], pa.int32()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in TOKENS.names], schema=TOKENS)


def _lists(values: bytes, lengths: Int64s, type_: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = pa.Array.from_buffers(type_, int(offsets[-1]), [None, pa.py_buffer(values)])
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


@dataclass
class ChatCounts:
    """Rows by form and outcome (`COUNTS`), and rejected rows by reason.

    `forgotten` rows were removed by takedown requests: they are in no form and have no reason.
    """

    forms: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    forgotten: int = 0

    def add(self, row: Accepted | Rejected) -> None:
        """Count one row."""
        if isinstance(row, Rejected):
            self.add_rejected(row.form, row.reason)
        else:
            framed = row.framed
            self.add_conversations(
                row.form, 1, turns=framed.num_turns, tokens=len(framed.tokens),
                target_tokens=framed.mask.count(1), cut=int(row.num_cut > 0), turns_cut=row.num_cut,
            )  # fmt: skip

    def add_rejected(self, form: str | None, reason: str) -> None:
        """Count one rejected row."""
        self.forms.setdefault(form or NO_FORM, Counter()).update(rows=1, rejected=1)
        self.reasons[reason] += 1

    def add_conversations(self, form: str, number: int, **counts: int) -> None:
        """Count conversations of one form."""
        self.forms.setdefault(form, Counter()).update(rows=number, conversations=number, **counts)

    def remove(self, gone: ChatCounts) -> None:
        """Take off what a takedown removed."""
        for form, counts in self.forms.items():
            counts.subtract(gone.forms.get(form, {}))
        self.reasons -= gone.reasons
        self.forgotten += gone.forgotten

    def total(self, count: str) -> int:
        """Sum of a count over all forms."""
        return sum(form[count] for form in self.forms.values())

    def to_extra(self, extra: ShardsExtra) -> ShardsExtra:
        """`extra` of a manifest with these counts."""
        return replace(
            extra,
            target_tokens=self.total("target_tokens"),
            forms=tuple(
                FormCounts(name, **{count: self.forms[name][count] for count in COUNTS})
                for name in sorted(self.forms)
                if self.forms[name]["rows"]
            ),
            reasons=dict(sorted(self.reasons.items())),
            forgotten=self.forgotten,
        )

    @staticmethod
    def from_extra(extra: ShardsExtra) -> ChatCounts:
        """What `to_extra` gave; shards of earlier versions lack `forgotten`."""
        forms = {
            one.form: Counter({n: getattr(one, n) for n in COUNTS}) for one in extra.forms or ()
        }
        return ChatCounts(forms, Counter(extra.reasons), extra.forgotten or 0)
