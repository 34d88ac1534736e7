"""One consistent moment of manifest, panes and log: the lake up to P and the tail [P, S) hold every event once.

The manifest is opened first, then the panes: the archive commits only what the stream has committed, so P <= S. Where
the panes no longer keep the tail segments from P on, the manifest has moved meanwhile, and both are opened again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.catalog.port import ArchivePosition, ManifestView
from headwater.clock import hour_of
from headwater.errors import Refused, Unreachable
from headwater.eventlog.port import EventLogReader, sliced
from headwater.model.batch import SCHEMA
from headwater.panes.port import PanesView, StreamPosition
from headwater.query.services import Services

POSITION = "position"
TAIL_SCHEMA = pa.schema([*SCHEMA, pa.field(POSITION, pa.int64(), nullable=False)])
_READ_BYTES = 16 << 20
_ATTEMPTS = 20
_KEPT_SELECTIONS = 8


@dataclass
class Reading:
    """`archive` names P; `stream` S, or is None where the panes cannot be used; `end` is the log's end E, read before
    both, at the clock's `asked_at`. Valid inside `Readings.open`."""

    asked_at: int
    end: int
    archive: ArchivePosition
    stream: StreamPosition | None
    manifest: ManifestView
    panes: PanesView | None
    _tails: TailCache

    @property
    def first(self) -> int:
        """P: where the tail begins."""
        return self.archive.next

    @property
    def next(self) -> int:
        """Where the tail ends: S, or P where there are no panes to tell what counts."""
        return self.stream.next if self.stream is not None else self.archive.next

    @property
    def boundary(self) -> int:
        """First hour (microseconds) whose live panes are kept whole, whatever the archive has of it."""
        return hour_of(self.archive.received_at) if self.archive.received_at is not None else 0

    def complete_up_to(self, *, tail: bool = True) -> int | None:
        """Receipt time: every event acknowledged before it is seen by this reading; None before the first event.
        `tail=False`: by the lake alone."""
        if not self.end and not self.next:
            return None
        if (self.next if tail else self.first) >= self.end:
            return self.asked_at
        position = self.stream if tail and self.stream is not None else self.archive
        # where nothing was read yet, what is complete ends before the first event
        return position.received_at or 0

    def tail(self, project_id: str) -> pa.Table:
        """Events of a project at positions [P, S) that count, EventBatch v1 and `position`, by position."""
        if self.panes is None or self.next <= self.first:
            return TAIL_SCHEMA.empty_table()
        return self._tails.events(project_id, self.first, self.next, self.panes.skipped)


class Readings:
    """Opens readings; keeps decoded tails between them. Used by many threads."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tails = TailCache(services.reading_log)

    @contextmanager
    def open(self) -> Iterator[Reading]:
        """Raises `Refused(unavailable)` when the stores do not come to one moment."""
        services = self._services
        asked_at = services.clock.now_us()
        with services.reading_log() as log:
            end = log.end()
        for _ in range(_ATTEMPTS):
            with services.manifest.view() as manifest:
                archive = manifest.position()
                try:
                    opened = services.panes.view()
                except Unreachable:
                    yield Reading(asked_at, end, archive, None, manifest, None, self._tails)
                    return
                with opened as panes:
                    stream = panes.position()
                    if stream.next < archive.next:  # panes that were lost and are being made again
                        yield Reading(asked_at, end, archive, None, manifest, None, self._tails)
                        return
                    if archive.next >= stream.segments_from:
                        yield Reading(asked_at, end, archive, stream, manifest, panes, self._tails)
                        return
            services.clock.sleep(0.01)
        raise Refused(
            "unavailable", 503, "the stores are moving too fast to be read together; try again", retry_after=1
        )


@dataclass
class TailCache:
    """Decoded events of the newest stretch of the log, without those that do not count. What was decoded once is kept
    until the archive has passed it."""

    reading_log: Callable[[], AbstractContextManager[EventLogReader]]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _begin: int = 0
    _end: int = 0
    _blocks: list[pa.Table] = field(default_factory=list)
    _starts: tuple[int, int] = (0, 0)
    _selected: OrderedDict[tuple[str, int, int], pa.Table] = field(default_factory=OrderedDict)

    def events(self, project_id: str, start: int, end: int, skipped: Callable[[int, int], list[int]]) -> pa.Table:
        """Events of a project at positions [start, end) that are not `skipped`."""
        with self._lock:
            key = (project_id, start, end)
            if key in self._selected:
                self._selected.move_to_end(key)
                return self._selected[key]
            self._extend(start, end, skipped)
            found = [_between(block, start, end, project_id) for block in self._blocks]
            table = pa.concat_tables(found) if found else TAIL_SCHEMA.empty_table()
            self._selected[key] = table
            while len(self._selected) > _KEPT_SELECTIONS:
                self._selected.popitem(last=False)
            return table

    def _extend(self, start: int, end: int, skipped: Callable[[int, int], list[int]]) -> None:
        if start < self._begin or start > self._end:
            self._blocks, self._begin, self._end = [], start, start
            self._selected.clear()
        if start > self._starts[1]:
            # readings of the position before may still be open: what lies before that one is dropped
            self._starts = (self._starts[1], start)
            self._drop_before(self._starts[0])
        if end > self._end:
            with self.reading_log() as log:
                self._blocks += _decoded(log, self._end, end, skipped(self._end, end))
            self._end = end

    def _drop_before(self, position: int) -> None:
        if position <= self._begin:
            return
        self._blocks = [b for b in self._blocks if b.num_rows and b.column(POSITION)[-1].as_py() >= position]
        self._begin = min(position, self._end)


def _decoded(log: EventLogReader, start: int, end: int, skipped: list[int]) -> list[pa.Table]:
    """Blocks of the events at [start, end) without the skipped positions."""
    blocks = []
    out = np.array(skipped, dtype=np.int64)
    at = start
    while at < end:
        records = list(sliced(log.read(at, _READ_BYTES), at))
        if not records:
            raise Refused("unavailable", 503, f"event log: nothing at position {at} though {end} was reached")
        parts = []
        for record in records:
            batch = record.batch.slice(0, max(0, end - record.first))
            positions = np.arange(record.first, record.first + batch.num_rows)
            parts.append(pa.RecordBatch.from_arrays([*batch.columns, pa.array(positions)], schema=TAIL_SCHEMA))
            at = record.first + batch.num_rows
            if at >= end:
                break
        block = pa.Table.from_batches(parts, TAIL_SCHEMA).combine_chunks()
        if len(out):
            keep = ~np.isin(block.column(POSITION).to_numpy(), out, assume_unique=True)
            block = block.filter(pa.array(keep))
        blocks.append(block)
    return blocks


def _between(block: pa.Table, start: int, end: int, project_id: str) -> pa.Table:
    positions = block.column(POSITION).to_numpy()
    low, high = np.searchsorted(positions, [start, end])
    part = block.slice(low, high - low)
    return part.filter(pc.equal(part.column("project_id"), project_id))
