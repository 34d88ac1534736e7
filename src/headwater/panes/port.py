"""Panes: what the stream writes and a live answer reads.

Two kinds lie beside each other. A *live pane* is the whole state of a window. A *tail segment* holds, for every
window however old, the state of the events at log positions from `segment` up to the next segment (or the stream's
position): the archive commits whole segments, so that `lake up to P` plus `segments from P on` is every event once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headwater.model.pane import Pane, PaneKey


@dataclass(frozen=True)
class Cap:
    """A dimension set of a metric that had too many values in the hour `hour`: no panes for it from `from_hour` on."""

    project_id: str
    metric: str
    dimensions: tuple[str, ...]
    from_hour: int


@dataclass(frozen=True)
class StreamCommit:
    """Everything that one micro-batch changes; applied in one transaction.

    `first`, `next`: log positions [first, next) that it covers. `received_at`: receipt of the last event.
    `live`, `tail`: absolute panes (replacing). `segment`: where the open tail segment starts. `skipped`: positions
    decided to be copies or conflicts. `live_from`: metric key -> first window start whose live panes are whole.
    """

    first: int
    next: int
    received_at: int
    segment: int
    live: Sequence[Pane] = ()
    tail: Sequence[Pane] = ()
    skipped: Sequence[int] = ()
    live_from: dict[tuple[str, str], int] = field(default_factory=dict)
    caps: Sequence[Cap] = ()


@dataclass(frozen=True)
class StreamPosition:
    """Where the stream is: `next` position, receipt time of the last event before it (None: none yet), the first
    retained tail segment, and the start of the open one."""

    next: int
    received_at: int | None
    segments_from: int
    segment: int


class PanesView(Protocol):
    """One consistent moment of the panes. Closed after use (context manager)."""

    def position(self) -> StreamPosition: ...

    def live_from(self, project_id: str, metric: str) -> int | None:
        """First window start (microseconds) from which the live panes of a metric version are whole; None: not yet
        taken up by the stream."""
        ...

    def caps(self, project_id: str, metric: str) -> list[Cap]: ...

    def live(
        self, project_id: str, metric: str, dimensions: tuple[str, ...], width: int, start: int, end: int
    ) -> list[Pane]:
        """Live panes with start <= pane.start < end, by start then values."""
        ...

    def tail(
        self,
        project_id: str,
        metric: str,
        dimensions: tuple[str, ...],
        width: int,
        start: int,
        end: int,
        since: int,
    ) -> list[Pane]:
        """Tail panes of all segments that start at or after position `since`; the same key may come once a segment."""
        ...

    def skipped(self, start: int, end: int) -> list[int]:
        """Positions in [start, end) that count as copies, ascending; `start` at or after `segments_from`."""
        ...

    def __enter__(self) -> PanesView: ...

    def __exit__(self, *args: object) -> None: ...


class PanesReader(Protocol):
    def view(self) -> PanesView: ...

    def close(self) -> None: ...


class PanesWriter(Protocol):
    """The one writer. `commit` is atomic and idempotent: one with `first` below the stored position raises `Fenced`."""

    def commit(self, commit: StreamCommit) -> None: ...

    def position(self) -> StreamPosition: ...

    def load(self, keys: Sequence[PaneKey]) -> list[Pane]:
        """The stored live panes of `keys` (those that exist)."""
        ...

    def load_tail(self, segment: int) -> list[Pane]:
        """All panes of one tail segment, to go on with after a restart."""
        ...

    def skipped(self, start: int, end: int) -> list[int]: ...

    def live_from(self) -> dict[tuple[str, str], int]:
        """(project, metric key) -> first whole window start."""
        ...

    def caps(self) -> list[Cap]: ...

    def prune(self, windows_before: int, segments_before: int) -> None:
        """Drops live panes of windows that end at or before `windows_before` (microseconds) and tail segments, with
        their skipped positions, that start below position `segments_before`."""
        ...

    def close(self) -> None: ...
