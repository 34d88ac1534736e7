"""The event log: what `ingest` writes and everything else reads.

A *position* numbers events from 0 upwards without gaps, in the order in which they were appended; positions never
restart, not even over an emptied log. An interval of positions is half-open; *next* always means the position that
the next event will get. One append is one record: all its events are durable together or none is. `received_at`
never goes back from one event to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from headwater.model.rejection import KeptRejection, Rejection


@dataclass(frozen=True)
class LogRecord:
    """One append as it is read back: `batch` (EventBatch v1) holds positions [first, next)."""

    first: int
    batch: pa.RecordBatch

    @property
    def next(self) -> int:
        return int(self.first + self.batch.num_rows)


@dataclass(frozen=True)
class Accepted:
    """How many events of a project were accepted in a UTC hour of receipt; counted in the append's own transaction."""

    project_id: str
    hour: int
    events: int


@dataclass(frozen=True)
class LogCapabilities:
    """Facts about an adapter. `partitions`: how many independent orders it keeps. `durable`: survives power loss."""

    partitions: int
    durable: bool


class EventLogReader(Protocol):
    """Reads what was appended. Many readers may be open; none of them ever writes or blocks the writer."""

    def read(self, position: int, max_bytes: int) -> list[LogRecord]:
        """Records from the one that holds `position` on, in order, about `max_bytes` of stored bytes and at least one
        record where there is one; [] at the end. The first record may begin before `position`: slice it. Raises
        `Corrupt` for a damaged record, `UsageError` for a position that was trimmed away."""
        ...

    def begin(self) -> int:
        """The first position that can still be read (== `end()` in an empty log)."""
        ...

    def end(self) -> int:
        """The next position: everything acknowledged before this call lies below it."""
        ...

    def last_received_at(self) -> int | None:
        """Receipt time of the newest event ever appended, in microseconds; None before the first."""
        ...

    def accepted(self) -> list[Accepted]:
        """The counters, for all time. Trimming does not change them."""
        ...

    def snapshot(self) -> tuple[int, list[Accepted]]:
        """`end()` and `accepted()` of one and the same moment."""
        ...

    def rejections(
        self,
        project_id: str,
        *,
        since: int = 0,
        reason: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[KeptRejection]:
        """What ingest refused for a project, newest first; `before` is the id to go on after (exclusive)."""
        ...

    def rejection(self, project_id: str, rejection_id: str) -> KeptRejection | None: ...

    def close(self) -> None: ...


class EventLogWriter(Protocol):
    """The one writer of a log. A second one raises `Locked`."""

    def append(self, batch: pa.RecordBatch | None, rejections: Sequence[Rejection] = ()) -> int:
        """Appends the batch (None: no events) and keeps the rejections, durably, in one transaction; returns the first
        position of the batch. When it returns, a power cut loses nothing of it. Raises `StoreFull` when the disk or
        the cap is full; then nothing was written and the log goes on working once there is room."""
        ...

    def trim(self, read_up_to: int, now_us: int) -> int:
        """Drops records below position `read_up_to` that are older or larger in sum than the log's retention;
        returns how many bytes were freed. What was not read is never dropped."""
        ...

    def bytes_held(self) -> int: ...

    def close(self) -> None: ...


def sliced(records: Sequence[LogRecord], position: int) -> Iterator[LogRecord]:
    """`records` without what lies before `position`."""
    for record in records:
        if record.next <= position:
            continue
        skip = max(0, position - record.first)
        yield LogRecord(record.first + skip, record.batch.slice(skip))
