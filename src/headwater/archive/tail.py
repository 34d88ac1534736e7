"""The tail: decided events that are in the log and in the panes, and not yet in the lake."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from headwater.clock import SECOND
from headwater.state.decision import DecidedBatch

QUIET = 10 * SECOND  # after the last event
AGE = 60 * SECOND  # after the first
BYTES = 128 << 20


@dataclass(frozen=True)
class Segment:
    """A closed part of the tail: log positions [first, next), decided. `received_at`: receipt of the last event."""

    first: int
    next: int
    received_at: int
    batches: tuple[DecidedBatch, ...]


class Tail:
    """Gathers decided batches, in log order and without gaps, from position `first` on. One thread."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._batches: list[DecidedBatch] = []
        self._began = 0
        self._latest = 0
        self.next = first
        self.rows = 0
        self.bytes = 0

    def add(self, decided: DecidedBatch, now_us: int) -> None:
        """Takes what comes next. Raises `ValueError` for a gap or a repetition."""
        if decided.first != self.next:
            raise ValueError(f"tail: next is position {self.next}, given was {decided.first}")
        if not decided.events.num_rows:
            return
        if not self._batches:
            self._began = now_us
        self._batches.append(decided)
        self._latest = now_us
        self.next = decided.next
        self.rows += decided.events.num_rows
        self.bytes += decided.events.nbytes

    def due(self, now_us: int) -> bool:
        """Whether it is time to archive: 10 s of quiet, 60 s of age, or 128 MB."""
        if not self._batches:
            return False
        return self.bytes >= BYTES or now_us - self._latest >= QUIET or now_us - self._began >= AGE

    def close(self) -> Segment:
        """Everything gathered; the tail begins anew behind it."""
        received = self._batches[-1].events.column("received_at")[-1].cast(pa.int64()).as_py()
        segment = Segment(self._first, self.next, received, tuple(self._batches))
        self._first = self.next
        self._batches = []
        self.rows = self.bytes = 0
        return segment
