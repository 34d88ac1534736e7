"""The stream: takes decided events in log order and keeps the panes (docs/specs/pane.md).

Driven by the loop that reads the log: `take` whatever was decided, `commit` at most 200 ms later, `roll_segment` when
the archive closes its tail. One thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from headwater.catalog.port import ControlReader
from headwater.clock import DAY, HOUR, MINUTE, hour_of
from headwater.errors import Corrupt, UsageError
from headwater.model.pane import widths
from headwater.panes.port import Cap, PanesWriter
from headwater.state.decision import DecidedBatch
from headwater.stream.commit import Pending, Step, commit_stream, no_step
from headwater.stream.engine import Delta
from headwater.stream.job import StreamJob, compile_job
from headwater.stream.windows import Series, Window, Windows, load_missing

MICRO_BATCH = 20_000  # events that are measured together
AHEAD = 5 * MINUTE  # a timestamp lies at most this far after receipt (ingest sees to it)
SEGMENTS_KEPT = MINUTE  # a reader may hold the manifest from before an archive commit for this long
CACHED = 2 * HOUR  # windows that ended this long before the newest event are dropped from memory
MAX_GROUPS = 1_000  # live groups of one series in an hour; with more it is capped from the next hour
MOST_GROUPS = 20_000  # groups of one series in an hour, live or tail, that memory is spent on; with more: from this one

# Stored beside the metrics' first whole windows: the one of projects first seen from now on; a project that had events.
ANY_PROJECT = ("", "")


class StreamEngine(Protocol):
    """What `engine.EmbeddedEngine` is."""

    def apply(self, job: StreamJob, events: pa.Table, capped: set[Series]) -> Sequence[Delta]: ...


class Stream:
    """The one stream over `panes`. `start` tells from which log position on it takes events in."""

    def __init__(
        self,
        panes: PanesWriter,
        control: ControlReader,
        engine: StreamEngine,
        *,
        archived: int,
        archived_received_at: int | None,
        step: Step = no_step,
    ) -> None:
        """Goes on where `panes` is. `archived`, `archived_received_at`: the archive's position and the receipt of the
        last event before it; panes that do not reach it are begun anew there."""
        self._panes, self._control, self._engine, self._step = panes, control, engine, step
        self._live, self._tail = Windows(), Windows()
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._job = StreamJob()
        self._archived: deque[tuple[int, int]] = deque()  # (when, position), of the last minute
        self._archive_news: deque[tuple[int, int, int]] = deque()  # (when, position, received at), not looked at yet
        self._forgotten = 0
        self._archive_hour = hour_of(archived_received_at or 0)
        self._last_received = archived_received_at or 0
        stored = panes.position()
        if stored.segment < archived < stored.next:
            raise Corrupt(
                f"panes: the archive is at {archived}, inside the tail segment [{stored.segment}, {stored.next}); the "
                "two are not of one data folder. Move the panes away; they are made anew"
            )
        if archived > stored.next:
            origin = _first_whole(self._last_received)
            self._live_from: dict[tuple[str, str], int] = {ANY_PROJECT: origin}
            self._caps: dict[Series, int] = {}
            self._pending = Pending(archived, archived, self._last_received, archived)
            self._pending.live_from[ANY_PROJECT] = origin
        else:
            self._live_from = panes.live_from()
            self._caps = {(c.project_id, c.metric, c.dimensions): c.from_hour for c in panes.caps()}
            self._last_received = max(self._last_received, stored.received_at or 0)
            self._pending = Pending(stored.next, stored.next, self._last_received, stored.segment)
            self._tail.put(panes.load_tail(stored.segment))
        self._floor = 0
        self._raise_floor()
        self.poll()

    @property
    def start(self) -> int:
        """The position of the next event that is taken in; what lies below is in the panes or on the way there."""
        return self._pending.next

    @property
    def committed(self) -> int:
        """Everything below this position is in the panes."""
        return self._pending.first

    @property
    def segment(self) -> int:
        """Where the open tail segment starts."""
        return self._pending.segment

    def poll(self) -> bool:
        """Takes up metrics that changed since the last call; cheap when none did. True when some did."""
        if self._control.revision() == self._job.revision:
            return False
        self._job = compile_job(self._control)
        for project, metrics in self._job.metrics.items():
            begun = (project, "") in self._live_from
            whole = _first_whole(self._last_received) if begun else self._live_from.get(ANY_PROJECT, 0)
            for metric in metrics:
                if (project, metric.key) not in self._live_from:
                    self._set_live_from(project, metric.key, whole)
        return True

    def take(self, decided: DecidedBatch) -> None:
        """Takes a decided batch in. What lies below `start` is in the panes and is left out; a gap is refused."""
        if decided.first > self.start:
            raise UsageError(f"stream: next is position {self.start}, given was {decided.first}; read from there")
        new = decided.since(self.start)
        if not new.events.num_rows:
            return
        kept = new.kept()
        self._begin_projects(new.events)
        self._last_received = max(self._last_received, new.events.column("received_at")[-1].value)
        self._pending.skipped += new.skipped()
        self._pending.next = new.next
        self._pending.received_at = self._last_received
        if kept.num_rows:
            self._waiting.append(kept)
            self._rows += kept.num_rows
        if self._rows >= MICRO_BATCH:
            self._apply()

    def commit(self, now_us: int) -> bool:
        """Stores everything that was taken, in one transaction; False when there was nothing. Raises what the store
        raises; then nothing is lost, and the next commit stores it."""
        self._apply()
        pending = self._pending
        if pending.first == pending.next and not pending.live_from and not pending.caps:
            self._prune(now_us)
            return False
        commit_stream(self._panes, pending, self._live, self._tail, self._step)
        if self._last_received - self._forgotten >= MINUTE:
            self._live.forget(hour_of(self._last_received) - CACHED)
            self._forgotten = self._last_received
        self._prune(now_us)
        return True

    def roll_segment(self, position: int, now_us: int) -> None:
        """Closes the tail segment at `position`, which must be where the stream is (`start`), and opens the next one,
        durably. To be called before the archive commits what lies before `position`."""
        if position != self.start:
            raise UsageError(f"stream: a segment ends where the stream is, at {self.start}, not at {position}")
        self.commit(now_us)
        if position == self._pending.segment:
            return
        self._tail.clear()
        self._pending.segment = position
        commit_stream(self._panes, self._pending, self._live, self._tail, self._step)

    def archived(self, position: int, received_at: int, now_us: int) -> None:
        """The archive has committed everything below `position`, the last of it received at `received_at`. Old windows
        and segments are dropped by a later `commit`, those segments after a minute (readers may be at the position
        before). May be called from another thread."""
        self._archive_news.append((now_us, position, received_at))

    # -- inside --------------------------------------------------------------------------------------------------

    def _begin_projects(self, events: pa.RecordBatch) -> None:
        """Notes which projects have events now; a new one's metrics are looked up before its first event counts."""
        for project in events.column("project_id").unique().to_pylist():
            if (project, "") in self._live_from:
                continue
            self.poll()
            self._set_live_from(project, "", 0)

    def _set_live_from(self, project: str, metric: str, start: int) -> None:
        self._live_from[project, metric] = self._pending.live_from[project, metric] = start

    def _apply(self) -> None:
        """Adds what waits to the windows in memory."""
        if not self._waiting:
            return
        events = pa.Table.from_batches(self._waiting)
        self._raise_floor()
        earliest = pc.min(events.column("timestamp")).value
        capped = {series for series, hour in self._caps.items() if hour <= earliest}
        deltas = self._engine.apply(self._job, events, capped)
        deltas = [d for d in deltas if d.bucket < self._caps.get(d.series, d.bucket + 1)]
        recent = [d for d in deltas if d.bucket >= self._floor]
        load_missing(self._live, (at for d in recent for at in _targets(d)), self._panes.load)
        # From here to the end nothing reaches outside: the events are added once, or not at all.
        self._waiting, self._rows = [], 0
        for windows, added in ((self._live, recent), (self._tail, deltas)):
            for delta in added:
                windows.add(delta.series, widths(delta.series[2]), delta.bucket, delta.values, delta.state)
        self._cap(deltas)

    def _cap(self, deltas: Sequence[Delta]) -> None:
        """Ends the panes of series that have too many groups; questions are answered from lake and log then."""
        touched = {(d.series, hour_of(d.bucket)) for d in deltas if d.series[2]}
        for series, hour in touched:
            most = max(self._live.groups(series, hour), self._tail.groups(series, hour))
            if most > MOST_GROUPS:
                from_hour = hour
            elif self._live.groups(series, hour) > MAX_GROUPS:
                from_hour = hour + HOUR
            else:
                continue
            if from_hour < self._caps.get(series, from_hour + 1):
                self._caps[series] = from_hour
                self._pending.caps.append(Cap(*series, from_hour))

    def _raise_floor(self) -> None:
        """Live panes are kept of windows from the floor on; the archive's hour, where they begin to be asked for,
        never lies below it."""
        self._floor = max(self._floor, min(hour_of(self._last_received) - DAY, self._archive_hour))

    def _prune(self, now_us: int) -> None:
        """Drops live windows below the floor, and segments whose archive commit is a minute old."""
        news = len(self._archive_news)
        for _ in range(news):
            when, position, received_at = self._archive_news.popleft()
            self._archived.append((when, position))
            self._archive_hour = max(self._archive_hour, hour_of(received_at))
        self._raise_floor()
        due = 0
        while self._archived and self._archived[0][0] <= now_us - SEGMENTS_KEPT:
            due = self._archived.popleft()[1]
        if due or news:
            self._panes.prune(self._floor, due)


def _first_whole(received_at: int) -> int:
    """Start of the first hour of which no event was received up to `received_at`."""
    return -(-(received_at + AHEAD) // HOUR) * HOUR


def _targets(delta: Delta) -> list[tuple[Series, Window]]:
    return [
        (delta.series, (width, delta.bucket - delta.bucket % width, delta.values)) for width in widths(delta.series[2])
    ]
