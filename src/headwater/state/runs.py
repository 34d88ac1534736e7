"""Sorted runs of the copy index: 24 bytes an id, in memory or mapped from a file (docs/specs/copies.md).

A run holds ids of events at log positions [first, next) as parallel columns sorted by the upper 64 bits of the hash;
among equals by position. A file is written once, under a temporary name, and never changed.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headwater.errors import Corrupt

Array = npt.NDArray[Any]

MAGIC = b"HWCI"
VERSION = 1
# magic, version, ids, receipt rows, first, next, complete_from (seconds), CRC-32 of the body; then CRC-32 of the header
_HEADER = struct.Struct("<4sIQQQQqI")
_CHECK = struct.Struct("<I")
HEADER_BYTES = 64
# The columns of one id, in file order: 8 + 4 + 4 + 4 + 2 + 2 = 24 bytes.
COLUMNS = (("hi", "<u8"), ("lo", "<u4"), ("pos_lo", "<u4"), ("fp_lo", "<u4"), ("pos_hi", "<u2"), ("fp_hi", "<u2"))
ID_BYTES = 24
RECEIPT_BYTES = 16
MERGED_IDS = 1 << 21  # a merge makes no run above this, so that merging takes at most ~130 MB of memory
GROWTH = 3  # a run is merged with what follows it once that is a third of it


@dataclass(frozen=True, eq=False)
class Run:
    """`seconds`, `starts`: receipt second -> first position in it, ascending. `complete_from`: every first event
    received from that second on, at a position in [first, next), is in the run. `path`: None in memory."""

    first: int
    next: int
    complete_from: int
    hi: Array
    lo: Array
    pos_lo: Array
    pos_hi: Array
    fp_lo: Array
    fp_hi: Array
    seconds: Array
    starts: Array
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.hi)

    @property
    def bytes_held(self) -> int:
        return HEADER_BYTES + len(self) * ID_BYTES + len(self.seconds) * RECEIPT_BYTES

    def positions(self, at: Any = slice(None)) -> Array:
        """Positions of the ids at `at`, as int64."""
        found: Array = self.pos_lo[at].astype(np.int64) | (self.pos_hi[at].astype(np.int64) << 32)
        return found

    def fingerprints(self, at: Any = slice(None)) -> Array:
        """48-bit fingerprints of the ids at `at`, as uint64."""
        found: Array = self.fp_lo[at].astype(np.uint64) | (self.fp_hi[at].astype(np.uint64) << np.uint64(32))
        return found


def make(
    span: tuple[int, int],
    complete_from: int,
    hashes: tuple[Array, Array],
    positions: Array,
    fingerprints: Array,
    receipts: tuple[Array, Array],
) -> Run:
    """A run in memory of ids in any order; of equal hashes the lower position comes first."""
    hi, lo = hashes
    by_position = np.argsort(positions, kind="stable")
    order = by_position[np.argsort(hi[by_position], kind="stable")]
    positions, fingerprints = positions[order], fingerprints[order]
    return Run(
        span[0],
        span[1],
        complete_from,
        hi[order],
        lo[order],
        (positions & 0xFFFFFFFF).astype(np.uint32),
        (positions >> 32).astype(np.uint16),
        (fingerprints & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        (fingerprints >> np.uint64(32)).astype(np.uint16),
        receipts[0].astype(np.int64),
        receipts[1].astype(np.int64),
    )


def merge(runs: Sequence[Run], drop_below: int = 0) -> Run:
    """One run of several that follow one another, without ids at positions below `drop_below`; an id at a position
    that is there twice is kept once."""
    hi = np.concatenate([r.hi for r in runs])
    order = np.argsort(hi, kind="stable")  # timsort: linear over runs that are sorted already
    columns: dict[str, Array] = {"hi": hi[order]}
    for name, _ in COLUMNS[1:]:
        columns[name] = np.concatenate([getattr(r, name) for r in runs])[order]
    position = columns["pos_lo"].astype(np.int64) | (columns["pos_hi"].astype(np.int64) << 32)
    keep = position >= drop_below
    twice = (columns["hi"][1:] == columns["hi"][:-1]) & (position[1:] == position[:-1])
    keep[1:] &= ~twice
    if not keep.all():
        columns = {name: column[keep] for name, column in columns.items()}
    seconds, starts = receipts([(r.seconds, r.starts) for r in runs])
    if drop_below and len(starts):
        kept = max(0, int(np.searchsorted(starts, drop_below, side="right")) - 1)
        seconds, starts = seconds[kept:], starts[kept:]
    span = min(r.first for r in runs), max(r.next for r in runs)
    return with_columns(span, max(r.complete_from for r in runs), columns, (seconds, starts))


def receipts(tables: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The receipt table of several parts: each second once, with the lowest position."""
    if not tables:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    seconds = np.concatenate([t[0] for t in tables]).astype(np.int64)
    starts = np.concatenate([t[1] for t in tables]).astype(np.int64)
    order = np.lexsort((starts, seconds))
    seconds, starts = seconds[order], starts[order]
    first = np.ones(len(seconds), bool)
    first[1:] = seconds[1:] != seconds[:-1]
    return seconds[first], starts[first]


def with_columns(
    span: tuple[int, int], complete_from: int, columns: dict[str, Array], table: tuple[Array, Array]
) -> Run:
    """A run in memory of columns by name that are sorted already."""
    c = columns
    return Run(
        *span, complete_from, c["hi"], c["lo"], c["pos_lo"], c["pos_hi"], c["fp_lo"], c["fp_hi"], table[0], table[1]
    )


def merge_point(files: Sequence[Run], span_seconds: int) -> int | None:
    """Index of the oldest file that is due to be merged with all after it; None where none is."""
    after = 0
    due = None
    for at in range(len(files) - 1, -1, -1):
        run = files[at]
        total = after + len(run)
        if at < len(files) - 1:
            times = [int(edge) for r in (run, files[-1]) if len(r.seconds) for edge in (r.seconds[0], r.seconds[-1])]
            if total > MERGED_IDS or (times and max(times) - min(times) > span_seconds):
                break
            if len(run) <= GROWTH * after:
                due = at
        after = total
    return due


def grown(memory: tuple[Run, ...]) -> tuple[Run, ...]:
    """Runs in memory, merged so that their number stays logarithmic."""
    while len(memory) > 1 and len(memory[-2]) <= GROWTH * len(memory[-1]):
        memory = (*memory[:-2], merge(memory[-2:]))
    return memory


def split(run: Run, position: int) -> tuple[Run | None, Run | None]:
    """`run` in memory as the parts below and from `position`; None for a part that covers no position."""
    if position >= run.next:
        return run, None
    if position <= run.first:
        return None, run
    below = run.positions() < position
    in_second = max(0, int(np.searchsorted(run.starts, position, side="right")) - 1)
    lower_receipts = run.starts < position
    upper_starts = np.maximum(run.starts[in_second:], position)

    def part(rows: Array, span: tuple[int, int], seconds: Array, starts: Array) -> Run:
        columns = {name: getattr(run, name)[rows] for name, _ in COLUMNS}
        return with_columns(span, run.complete_from, columns, (seconds, starts))

    return (
        part(below, (run.first, position), run.seconds[lower_receipts], run.starts[lower_receipts]),
        part(~below, (position, run.next), run.seconds[in_second:], upper_starts),
    )


def write(run: Run, folder: Path) -> Run:
    """Writes `run` durably into `folder` and returns it mapped. The name is final only when the bytes are on disk."""
    parts = [np.ascontiguousarray(run.seconds, "<i8"), np.ascontiguousarray(run.starts, "<i8")]
    parts += [np.ascontiguousarray(getattr(run, name), kind) for name, kind in COLUMNS]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part.data, crc)
    head = _HEADER.pack(MAGIC, VERSION, len(run), len(run.seconds), run.first, run.next, run.complete_from, crc)
    head += _CHECK.pack(zlib.crc32(head))
    path = folder / f"{run.first:015d}-{run.next:015d}.run"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as out:
        out.write(head.ljust(HEADER_BYTES, b"\0"))
        for part in parts:
            out.write(part.data)
        out.flush()
        os.fsync(out.fileno())
    temporary.rename(path)
    sync_folder(folder)
    return read(path, check=False)


def read(path: Path, *, check: bool = True) -> Run:
    """Maps a run file. Raises `Corrupt` when its length, header or checksum does not hold."""
    with path.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        if size < HEADER_BYTES:
            raise Corrupt(f"copy index: {path.name} is shorter than its header")
        mapped = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
    magic, version, ids, rows, first, following, complete_from, crc = _HEADER.unpack_from(mapped)
    (head_crc,) = _CHECK.unpack_from(mapped, _HEADER.size)
    if magic != MAGIC or version != VERSION or head_crc != zlib.crc32(mapped[: _HEADER.size]):
        raise Corrupt(f"copy index: {path.name} has no valid header of version {VERSION}")
    if size != HEADER_BYTES + ids * ID_BYTES + rows * RECEIPT_BYTES:
        raise Corrupt(f"copy index: {path.name} has {size} bytes, not as many as its header says")
    if check and zlib.crc32(memoryview(mapped)[HEADER_BYTES:]) != crc:
        raise Corrupt(f"copy index: {path.name} does not match its checksum")
    offset = HEADER_BYTES

    def column(kind: str, count: int) -> Array:
        nonlocal offset
        found = np.frombuffer(mapped, kind, count, offset)
        offset += found.nbytes
        return found

    seconds, starts = column("<i8", rows), column("<i8", rows)
    columns = {name: column(kind, ids) for name, kind in COLUMNS}
    return replace(with_columns((first, following), complete_from, columns, (seconds, starts)), path=path)


def sync_folder(folder: Path) -> None:
    """Makes names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
