"""An epoch's plan: its row groups in shuffled order, packed window by window into rows.

(seed, epoch) determine the order of the row groups. Consecutive row groups form a window of up to
`window_tokens` tokens, which is packed separately (`trainer.data.packing`) and its rows shuffled.
The plan is built once, from document lengths only, before rows are split over ranks. It is stored
in a cache folder as memory-mapped arrays:

    CACHE/<hash>/plan.json     settings; sizes of all files, SHA-256 of groups.npy and windows.npy
    CACHE/<hash>/groups.npy    int64 (row groups,): the epoch's order
    CACHE/<hash>/windows.npy   int64 (windows, 7): row groups, rows and segments up to the window's
                               end; its own tokens, dropped tokens and padding; CRC-32 of its
                               segments and row ends
    CACHE/<hash>/starts.npy, lengths.npy, kinds.npy    per segment, see `packing.Rows`
    CACHE/<hash>/row_ends.npy  int64 (rows,): segments up to the row's end

The folder is renamed into place when complete. It can be deleted at any time and is then rebuilt.
Building holds one window in memory; finding a row is a binary search.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas import json_text
from schemas.config import json_hash
from schemas.errors import UserError
from trainer.data.packing import Int32s, Int64s, Rows, UInt8s, best_fit, concat, permutation
from trainer.data.shards import RowGroups
from trainer.data.spec import FORMAT, DataSpec
from trainer.durable import flush, sha256

PLAN_FILE = "plan.json"
PLAN_FORMAT = 2  # of the files; `FORMAT` is that of the batches
_HEADER_BYTES = 128
_SEGMENTS: dict[str, str] = {"starts": "<i4", "lengths": "<i4", "kinds": "|u1", "row_ends": "<i8"}
_HASHED = ("groups.npy", "windows.npy")
_FILES = (*_HASHED, *(f"{name}.npy" for name in _SEGMENTS))


class PackedWindow(NamedTuple):
    """Row groups that were packed together, and their rows in the epoch."""

    groups: Int64s
    rows: range
    tokens: int
    dropped: int
    padding: int


@dataclass(frozen=True)
class EpochPlan:
    """An epoch of one source; the arrays are mapped from the files of `folder`."""

    folder: Path
    groups: Int64s
    windows: Int64s
    starts: Int32s
    lengths: Int32s
    kinds: UInt8s
    row_ends: Int64s

    @property
    def num_rows(self) -> int:
        """Rows of the epoch."""
        return len(self.row_ends)

    @property
    def tokens(self) -> int:
        """Tokens of all row groups."""
        return int(self.windows[:, 3].sum())

    @property
    def dropped(self) -> int:
        """Tokens that are in no row."""
        return int(self.windows[:, 4].sum())

    @property
    def padding(self) -> int:
        """Positions in rows that hold no token."""
        return int(self.windows[:, 5].sum())

    def window_of(self, row: int) -> int:
        """The window that a row of the epoch is in."""
        return int(self.windows[:, 1].searchsorted(row, side="right"))

    def window(self, index: int) -> PackedWindow:
        """A window's row groups, rows and counts."""
        before, here = self._ends(index)
        groups = self.groups[before[0] : here[0]]
        return PackedWindow(groups, range(int(before[1]), int(here[1])), *map(int, here[3:6]))

    def check(self, index: int) -> None:
        """`UserError` if a window's rows do not match its CRC-32."""
        before, here = self._ends(index)
        of_segments = slice(before[2], here[2])
        parts = [array[of_segments] for array in (self.starts, self.lengths, self.kinds)]
        if _crc([*parts, self.row_ends[before[1] : here[1]]]) != here[6]:
            raise UserError(f"{self.folder}: altered: remove this folder; it will be rebuilt")

    def _ends(self, index: int) -> tuple[Int64s, Int64s]:
        """The rows of `windows` before this window (zeros for the first) and of it."""
        return self.windows[index - 1] if index else np.zeros(7, np.int64), self.windows[index]

    def segments(self, first: int, end: int) -> Rows:
        """The segments of rows `first` to `end` - 1, all of one window."""
        begin = int(self.row_ends[first - 1]) if first else 0
        ends = self.row_ends[first:end] - begin
        here = slice(begin, begin + (int(ends[-1]) if len(ends) else 0))
        return Rows(self.starts[here], self.lengths[here], self.kinds[here], ends, 0, 0)


def plan_hash(row_groups: RowGroups, spec: DataSpec, content_hash: str, epoch: int) -> str:
    """SHA-256 of what a plan depends on: not batch size or weights, but the files of lengths."""
    return json_hash(
        {
            "format": [FORMAT, PLAN_FORMAT],
            "content_hash": content_hash,
            "epoch": epoch,
            "lengths": row_groups.lengths_hashes,
            **{k: getattr(spec, k) for k in ("split", "seq_len", "packing", "seed")},
            "window_tokens": spec.window_tokens,
        }
    )


def load_or_build(
    row_groups: RowGroups, spec: DataSpec, content_hash: str, epoch: int, cache: Path
) -> EpochPlan:
    """The plan from `cache`, built first if it is missing; `UserError` if it has no rows."""
    folder = cache / plan_hash(row_groups, spec, content_hash, epoch)
    plan = _load(folder)
    if plan is None:
        _build_folder(folder, row_groups, spec, epoch)
        plan = _load(folder)
    if plan is None:
        raise UserError(f"{folder}: the plan cannot be kept here; use another cache folder")
    if not plan.num_rows:
        found = f"{row_groups.folder}: {plan.tokens} tokens in split '{spec.split}'"
        if row_groups.masked and spec.packing == "best_fit":
            raise UserError(f"{found}, none of them a target (loss_mask = 1)")
        raise UserError(f"{found}, data.seq_len = {spec.seq_len} needs at least {spec.seq_len + 1}")
    return plan


def epoch_windows(
    row_groups: RowGroups, spec: DataSpec, epoch: int
) -> Iterator[tuple[Int64s, Rows]]:
    """Each window's row groups and rows, in the epoch's order."""
    order = permutation(len(row_groups.tokens), _seed(spec.seed, epoch))
    for number, groups in enumerate(_windows(order, row_groups.tokens, spec.window_tokens)):
        lengths = np.concatenate([row_groups.lengths(int(group)) for group in groups])
        rows = _pack(row_groups, groups, lengths, spec)
        yield groups, rows.shuffled(_seed(spec.seed, epoch, number))


def _pack(row_groups: RowGroups, groups: Int64s, lengths: Int32s, spec: DataSpec) -> Rows:
    if not row_groups.masked:
        return (concat if spec.packing == "concat" else best_fit)(lengths, spec.seq_len)
    if spec.packing != "best_fit":
        raise UserError(
            f"packing = '{spec.packing}': {row_groups.folder} holds conversations, which need "
            "'best_fit'"
        )
    mask = np.concatenate([row_groups.mask(int(group)) for group in groups])
    return best_fit(lengths, spec.seq_len, mask)


def _windows(order: Int64s, tokens: Int64s, window_tokens: int) -> Iterator[Int64s]:
    """Split `order` into windows of at most `window_tokens` tokens, or of one larger row group."""
    ends = np.concatenate([[0], np.cumsum(tokens[order])])
    first = 0
    while first < len(order):
        end = int(np.searchsorted(ends, ends[first] + window_tokens, side="right")) - 1
        end = max(end, first + 1)
        yield order[first:end]
        first = end


def _seed(*numbers: int) -> int:
    """The first 64 bits of SHA-256 of these numbers."""
    text = ",".join(map(str, numbers))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _build_folder(folder: Path, row_groups: RowGroups, spec: DataSpec, epoch: int) -> None:
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        _build(temporary, row_groups, spec, epoch)
        if _load(folder) is None:  # else another process was faster
            _remove(folder)
            with contextlib.suppress(OSError):
                temporary.rename(folder)
    except OSError as error:
        raise UserError(f"{folder.parent}: plans cannot be written here: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Delete an incomplete plan, but no folder that holds any other file."""
    with contextlib.suppress(OSError):
        if folder.is_symlink() or {p.name for p in folder.iterdir()} - {*_FILES, PLAN_FILE}:
            return
        shutil.rmtree(folder)


def _build(folder: Path, row_groups: RowGroups, spec: DataSpec, epoch: int) -> None:
    """Write all files of a plan, one window at a time."""
    windows, order, row_end = [], [], np.zeros(3, dtype=np.int64)
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(_ArrayFile(folder / f"{name}.npy", dtype))
            for name, dtype in _SEGMENTS.items()
        }
        for groups, rows in epoch_windows(row_groups, spec, epoch):
            stored = rows._replace(row_ends=rows.row_ends + row_end[2])
            parts = [getattr(stored, name).astype(dtype) for name, dtype in _SEGMENTS.items()]
            for file, part in zip(files.values(), parts, strict=True):
                file.append(part)
            row_end += (len(groups), len(rows.row_ends), len(rows.starts))
            tokens = int(row_groups.tokens[groups].sum())
            counts = tokens, rows.dropped, rows.padding
            windows.append([*row_end.tolist(), *counts, _crc(parts)])
            order.append(groups)
    ordered = np.concatenate(order) if order else np.empty(0, np.int64)
    np.save(folder / "windows.npy", np.array(windows, np.int64).reshape(-1, 7), allow_pickle=False)
    np.save(folder / "groups.npy", ordered, allow_pickle=False)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    hashes = {name: sha256(folder / name) for name in _HASHED}
    settings = {"seq_len": spec.seq_len, "packing": spec.packing, "seed": spec.seed}
    (folder / PLAN_FILE).write_text(
        json.dumps({**settings, "epoch": epoch, "bytes": sizes, "sha256": hashes}, indent=1) + "\n"
    )
    for path in folder.iterdir():
        flush(path)


def _load(folder: Path) -> EpochPlan | None:
    """The plan in `folder`; None if it is missing, incomplete or not valid."""
    try:
        listed = json_text.load(folder / PLAN_FILE)
        if any((folder / name).stat().st_size != listed["bytes"][name] for name in _FILES):
            return None
        if any(sha256(folder / name) != listed["sha256"][name] for name in _HASHED):
            return None
        plan = EpochPlan(folder, *(_mapped(folder / name) for name in _FILES))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plan if _is_valid(plan) else None


def _is_valid(plan: EpochPlan) -> bool:
    """Whether types, shapes and order are right, and the windows' ends match the arrays' sizes."""
    segments: list[npt.NDArray[Any]] = [getattr(plan, name) for name in _SEGMENTS]
    arrays = [plan.groups, plan.windows, *segments]
    if [a.dtype for a in arrays] != ["<i8", "<i8", *_SEGMENTS.values()]:
        return False
    if [a.ndim for a in arrays] != [1, 2, 1, 1, 1, 1] or plan.windows.shape[1] != 7:
        return False
    if not np.array_equal(np.sort(plan.groups), np.arange(len(plan.groups))):
        return False
    ends = plan.windows[:, :3]
    rising = bool((np.diff(ends, axis=0, prepend=0) >= 0).all())
    last = ends[-1].tolist() if len(ends) else [0, 0, 0]
    counts = [len(plan.starts), len(plan.lengths), len(plan.kinds)]
    return rising and last[:2] == [len(plan.groups), plan.num_rows] and counts == [last[2]] * 3


def _crc(parts: list[npt.NDArray[Any]]) -> int:
    """CRC-32 of a window's starts, lengths, kinds and row ends, one after the other."""
    found = 0
    for part in parts:
        found = zlib.crc32(np.ascontiguousarray(part).data, found)
    return found


def _mapped(path: Path) -> npt.NDArray[Any]:
    """A stored array, mapped as a plain ndarray: slicing np.memmap takes several times as long."""
    mode: Literal["r"] | None = "r" if path.stat().st_size > _HEADER_BYTES else None  # not if empty
    return np.asarray(np.load(path, mmap_mode=mode, allow_pickle=False)).view(np.ndarray)


class _ArrayFile:
    """A one-dimensional .npy file written in parts; its length is put into the header last."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path, self.dtype, self.count = path, np.dtype(dtype), 0

    def __enter__(self) -> _ArrayFile:
        self.file: BinaryIO = open(self.path, "wb")
        self.file.write(bytes(_HEADER_BYTES))
        return self

    def append(self, values: npt.NDArray[Any]) -> None:
        self.file.write(values.astype(self.dtype, copy=False).data)
        self.count += len(values)

    def __exit__(self, *_: object) -> None:
        self.file.seek(0)
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self.file, described)
        assert self.file.tell() == _HEADER_BYTES
        self.file.close()
