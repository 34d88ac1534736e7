"""The copy index: which events are copies, decided once, as a pure function of the log (docs/specs/copies.md).

An event is a copy of the latest *first* event of the same project and id at a lower log position that was received
at most W (whole seconds) before it. An event whose timestamp is so old that its first may have been received before
the window is also looked up, by id and timestamp, among the stored events. Only firsts are entered. A stored position
at or above the event's own is ignored, so a replay decides as the first time did.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headwater.clock import HOUR, MINUTE, SECOND
from headwater.errors import Corrupt
from headwater.state import runs as runs_of
from headwater.state.decision import (
    CONFLICT,
    COPY,
    DecidedBatch,
    event_at,
    fingerprints,
    id_hashes,
    same_event,
    same_ids,
)
from headwater.state.runs import Array, Run

# (project, [(event id, timestamp)], received before) -> {(event id, timestamp): (position, event)}
FindStored = Callable[[str, Sequence[tuple[str, int]], int], dict[tuple[str, int], tuple[int, dict[str, Any]]]]
# position -> the event there as `event_at` gives it, None when it is gone
LoadEvent = Callable[[int], "dict[str, Any] | None"]

AHEAD = 5 * MINUTE  # a timestamp lies at most this far after receipt (ingest sees to it)
REBUILD_ROWS = 1 << 18


class CopyIndex:
    """The index in `folder`. `decide` belongs to one thread, `flush` to one (another or the same)."""

    def __init__(
        self, folder: Path, *, window_us: int = 24 * HOUR, find_stored: FindStored, load_event: LoadEvent
    ) -> None:
        """Maps the runs in `folder` (made where missing). Runs that are damaged, or do not connect to newer ones, are
        left out: then `covered` or `window_from()` show it, and `rebuild` mends it."""
        self._folder = folder
        self._window = window_us // SECOND
        self._find_stored = find_stored
        self._load_event = load_event
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._files: tuple[Run, ...] = tuple(self._load())
        self._memory: tuple[Run, ...] = ()
        self._next = self._files[-1].next if self._files else 0
        self._complete_from = max((run.complete_from for run in self._files), default=0)
        self._seconds, self._starts = runs_of.receipts([(r.seconds, r.starts) for r in self._files])

    @property
    def covered(self) -> int:
        """Every first below this position is in a durable run. The log is decided anew from here after a restart."""
        return self._files[-1].next if self._files else 0

    @property
    def bytes_held(self) -> int:
        """Bytes of all runs, on disk and in memory."""
        with self._lock:
            return sum(run.bytes_held for run in (*self._files, *self._memory))

    def window_from(self) -> int | None:
        """Receipt time (microseconds) from which the index knows every first; None before the first event."""
        with self._lock:
            if not len(self._seconds):
                return None
            return max(self._complete_from, int(self._seconds[0])) * SECOND

    def decide(self, first: int, batch: pa.RecordBatch) -> DecidedBatch:
        """Decides about the events at positions [first, first + rows) and enters the firsts among them.

        Called in log order. A batch that was decided before, in whole or in part, gets the same verdicts and enters
        nothing twice. Events must be in the log durably before they come here.
        """
        count = batch.num_rows
        verdict = np.zeros(count, np.uint8)
        if not count:
            return DecidedBatch(first, batch, verdict)
        hashes = id_hashes(batch.column("project_id"), batch.column("event_id"))
        prints = fingerprints(batch)
        seconds = batch.column("received_at").cast(pa.int64()).to_numpy() // SECOND
        self._note_receipts(first, seconds)
        oldest = self._oldest_positions(seconds)
        best, best_print, known = self._look_up(first, hashes, oldest)
        stored = self._look_up_old(batch, first, seconds, (best < 0) & ~known)
        decided = DecidedBatch(first, batch, verdict)
        groups = same_ids(hashes)
        alone = np.ones(count, bool)
        alone[[row for group in groups for row in group]] = False
        copies = np.flatnonzero((best >= 0) & alone & (best_print == prints))
        verdict[copies] = COPY
        decided.originals.update(zip(copies.tolist(), best[copies].tolist(), strict=True))
        for row in np.flatnonzero((best >= 0) & alone & (best_print != prints)).tolist():
            self._compare(decided, row, int(best[row]), None)
        for row in [row for row in stored if alone[row]]:
            self._compare(decided, row, *stored[row])
        for group in groups:
            firsts: list[int] = []
            for row in group:
                near = [f for f in firsts if first + f >= oldest[row]]
                position = first + near[-1] if near else int(best[row])
                if position >= 0:
                    self._compare(decided, row, position, None)
                elif row in stored:
                    self._compare(decided, row, *stored[row])
                else:
                    firsts.append(row)
        self._enter(first, hashes, prints, verdict, seconds)
        return decided

    def flush(self, up_to: int) -> None:
        """Makes the entries below position `up_to` durable, merges runs and drops those out of the window.

        Idempotent; may be called before or after the archive's commit of `up_to`, as long as a replay begins at most
        an hour of receipt before `up_to`. What is not flushed at a crash is decided anew from `covered`.
        """
        with self._lock:
            lower = [part for run in self._memory if (part := runs_of.split(run, up_to)[0]) is not None]
        if lower:
            written = runs_of.write(runs_of.merge(lower), self._folder)
            with self._lock:
                self._files = (*self._files, written)
                upper = [runs_of.split(run, written.next)[1] for run in self._memory]
                self._memory = tuple(run for run in upper if run is not None)
        self._expire()
        self._merge_files()

    def rebuild(
        self, entries: Iterable[tuple[str, str, int, int, int | None]], following: int, complete_from_us: int
    ) -> None:
        """Starts over from `entries`: (project, event id, position, received at, fingerprint or None) of every first
        at positions below `following` that was received from `complete_from_us` on, in any order."""
        parts: list[Run] = []
        source = iter(entries)
        while rows := list(islice(source, REBUILD_ROWS)):
            positions = np.array([row[2] for row in rows], np.int64)
            seconds = np.array([row[3] // SECOND for row in rows], np.int64)
            parts.append(
                runs_of.make(
                    (0, following),
                    complete_from_us // SECOND,
                    id_hashes(pa.array([row[0] for row in rows]), pa.array([row[1] for row in rows])),
                    positions,
                    np.array([row[4] or 0 for row in rows], np.uint64),
                    runs_of.receipts([(seconds, positions)]),
                )
            )
        empty = np.empty(0, np.int64)
        whole = parts or [
            runs_of.make(
                (0, following),
                complete_from_us // SECOND,
                (empty.astype(np.uint64), empty.astype(np.uint32)),
                empty,
                empty.astype(np.uint64),
                (empty, empty),
            )
        ]
        old = list(self._folder.glob("*.run"))
        merged = runs_of.merge(whole)
        written = runs_of.write(merged, self._folder)
        for path in old:
            if path != written.path:
                path.unlink(missing_ok=True)
        with self._lock:
            self._files, self._memory = (written,), ()
            self._next, self._complete_from = following, written.complete_from
            self._seconds, self._starts = written.seconds.copy(), written.starts.copy()

    # -- deciding ------------------------------------------------------------------------------------------------

    def _note_receipts(self, first: int, seconds: Array) -> None:
        last = int(self._seconds[-1]) if len(self._seconds) else -1
        new = np.flatnonzero(np.diff(seconds, prepend=min(last, int(seconds[0]) - 1)) > 0)
        new = new[seconds[new] > last]
        if len(new):
            with self._lock:
                self._seconds = np.concatenate([self._seconds, seconds[new]])
                self._starts = np.concatenate([self._starts, first + new])

    def _oldest_positions(self, seconds: Array) -> Array:
        """For each row the lowest position that is within the window before it."""
        with self._lock:
            at = np.searchsorted(self._seconds, seconds - self._window, side="left")
            found: Array = self._starts[np.minimum(at, len(self._starts) - 1)]
        return found

    def _look_up(self, first: int, hashes: tuple[Array, Array], oldest: Array) -> tuple[Array, Array, Array]:
        """For each row the highest position of its id in the window and below its own (-1: none), the fingerprint
        there, and whether the row itself is entered already."""
        hi, lo = hashes
        prints = np.zeros(len(hi), np.uint64)
        best = np.full(len(hi), -1, np.int64)
        known = np.zeros(len(hi), bool)
        order = np.argsort(hi)
        asked = hi[order]
        with self._lock:
            held = (*self._files, *self._memory)
        lowest = int(oldest.min())
        for run in held:
            if not len(run) or run.next <= lowest:
                continue
            at = np.searchsorted(run.hi, asked)
            hit = run.hi[np.minimum(at, len(run) - 1)] == asked
            rows, at = order[hit & (at < len(run))], at[hit & (at < len(run))]
            while len(rows):
                position = run.positions(at)
                same = run.lo[at] == lo[rows]
                known[rows[same & (position == rows + first)]] = True
                good = same & (position < rows + first) & (position >= oldest[rows]) & (position > best[rows])
                best[rows[good]] = position[good]
                prints[rows[good]] = run.fingerprints(at[good])
                at = at + 1
                more = (at < len(run)) & (run.hi[np.minimum(at, len(run) - 1)] == hi[rows])
                rows, at = rows[more], at[more]
        return best, prints, known

    def _look_up_old(
        self, batch: pa.RecordBatch, first: int, seconds: Array, wanted: Array
    ) -> dict[int, tuple[int, dict[str, Any]]]:
        """row -> (position, event) of the stored first, for events too old for the window to know of theirs."""
        from_us = np.maximum(seconds - self._window, self._complete_from) * SECOND
        times = batch.column("timestamp").cast(pa.int64()).to_numpy()
        rows = np.flatnonzero(wanted & (times < from_us + AHEAD))
        if not len(rows):
            return {}
        asked: dict[str, list[int]] = {}
        for row, project in zip(
            rows.tolist(), batch.column("project_id").take(pa.array(rows)).to_pylist(), strict=True
        ):
            asked.setdefault(project, []).append(row)
        found: dict[int, tuple[int, dict[str, Any]]] = {}
        for project, members in asked.items():
            ids = batch.column("event_id").take(pa.array(members)).to_pylist()
            keys = [(event_id, int(times[row])) for event_id, row in zip(ids, members, strict=True)]
            stored = self._find_stored(project, keys, int(from_us[members].max()))
            if stored:
                for key, row in zip(keys, members, strict=True):
                    if key in stored and stored[key][0] < first + row:
                        found[row] = stored[key]
        return found

    def _compare(self, decided: DecidedBatch, row: int, position: int, theirs: dict[str, Any] | None) -> None:
        """Row `row` has a first at `position` (`theirs`, where it is at hand): a copy, or a conflict if they differ.

        A first that cannot be read any more cannot be shown to be equal: the event is kept, as a conflict.
        """
        if theirs is None:
            inside = position >= decided.first
            theirs = event_at(decided.events, position - decided.first) if inside else self._load_event(position)
        same = theirs is not None and same_event(event_at(decided.events, row), theirs)
        decided.verdict[row] = COPY if same else CONFLICT
        decided.originals[row] = position

    def _enter(self, first: int, hashes: tuple[Array, Array], prints: Array, verdict: Array, seconds: Array) -> None:
        skip = max(0, self._next - first)
        if skip >= len(verdict):
            return
        if first > self._next:
            self._complete_from = int(seconds[0])  # positions are missing before this one
        rows = skip + np.flatnonzero(verdict[skip:] == 0)
        changes = skip + np.flatnonzero(np.diff(seconds[skip:], prepend=-1))
        run = runs_of.make(
            (first + skip, first + len(verdict)),
            self._complete_from,
            (hashes[0][rows], hashes[1][rows]),
            first + rows,
            prints[rows],
            (seconds[changes], first + changes),
        )
        with self._lock:
            self._memory = runs_of.grown((*self._memory, run))
            self._next = run.next

    # -- files ---------------------------------------------------------------------------------------------------

    def _load(self) -> Iterator[Run]:
        """The newest unbroken chain of sound runs, oldest first. Runs that a larger one replaces are deleted."""
        found: list[Run] = []
        for leftover in self._folder.glob("*.tmp"):
            leftover.unlink(missing_ok=True)
        for path in self._folder.glob("*.run"):
            with contextlib.suppress(Corrupt):
                found.append(runs_of.read(path))
        found.sort(key=lambda run: (run.first, -run.next))
        chain: list[Run] = []
        for run in found:
            if chain and run.next <= chain[-1].next:
                if run.path is not None:
                    run.path.unlink(missing_ok=True)
                continue
            if chain and run.first != chain[-1].next:
                for lost in chain:  # a hole: what lies before it cannot make the window longer
                    if lost.path is not None:
                        lost.path.unlink(missing_ok=True)
                chain = []
            chain.append(run)
        if chain and chain[0].first > 0 and len(chain[0].seconds):
            # runs before it are gone, expired or lost: firsts of its own first second may be among them
            chain[0] = replace(chain[0], complete_from=max(chain[0].complete_from, int(chain[0].seconds[0]) + 1))
        yield from chain

    def _expire(self) -> None:
        """Drops runs that end before the window with an hour to spare (a replay may begin a little earlier)."""
        with self._lock:
            if not self._files:
                return
            cutoff = self._cutoff_second()
            starts_at = self._position_of(cutoff)
            gone = [run for run in self._files[:-1] if run.next <= starts_at]
            if not gone:
                return
            self._files = self._files[len(gone) :]
            self._complete_from = max(self._complete_from, cutoff)
            self._forget_receipts(starts_at)
        for run in gone:
            if run.path is not None:
                run.path.unlink(missing_ok=True)

    def _cutoff_second(self) -> int:
        covered = self._files[-1].next
        at = max(0, int(np.searchsorted(self._starts, covered)) - 1)
        return int(self._seconds[at]) - self._window - HOUR // SECOND if len(self._seconds) else 0

    def _position_of(self, second: int) -> int:
        """The first position received in `second` or later; 0 where that is not in the table any more."""
        at = int(np.searchsorted(self._seconds, second))
        return int(self._starts[at]) if 0 < at < len(self._starts) else 0

    def _forget_receipts(self, position: int) -> None:
        kept = max(0, int(np.searchsorted(self._starts, position, side="right")) - 1)
        self._seconds, self._starts = self._seconds[kept:], self._starts[kept:]

    def _merge_files(self) -> None:
        """Merges the newest files so that there are few; each id is written about log3(ids / ids a flush) times."""
        while (begin := runs_of.merge_point(self._files, self._window // 4)) is not None:
            inputs = self._files[begin:]
            with self._lock:
                cutoff = self._cutoff_second()
                floor = self._position_of(cutoff)
            merged = runs_of.merge(inputs, drop_below=floor)
            if inputs[0].first < floor:
                merged = replace(merged, complete_from=max(merged.complete_from, cutoff))
            written = runs_of.write(merged, self._folder)
            with self._lock:
                self._files = (*self._files[:begin], written)
                self._complete_from = max(self._complete_from, written.complete_from)
            for run in inputs:
                if run.path is not None and run.path != written.path:
                    run.path.unlink(missing_ok=True)
