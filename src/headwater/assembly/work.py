"""The `work` process: stream, archive and batch over one reader of the log.

Three threads. *read*: log -> decision -> panes, at most 200 ms after the append; what was decided waits in the tail.
*archive*: a closed tail segment -> lake files -> manifest. *batch*: rollups, compaction, the daily run. Everything that
outlives this process is in the stores; where one of the threads fails, the process ends and is started again.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from headwater.archive.flush import Archive
from headwater.archive.rejected import archive_rejections
from headwater.archive.tail import Segment, Tail
from headwater.assembly.build import Build
from headwater.assembly.processes import stop_event
from headwater.assembly.settings import Settings
from headwater.assembly.steps import stopping_step
from headwater.assembly.stored import StoredEvents
from headwater.batch.job import promotions_wanted
from headwater.batch.process import Batch
from headwater.catalog.port import ControlReader, Manifest
from headwater.clock import HOUR, Clock, SystemClock, rfc3339
from headwater.errors import HeadwaterError
from headwater.eventlog.port import EventLogReader, LogRecord, sliced
from headwater.lake.compact import compact_hour
from headwater.lake.objectstore.port import ObjectStore
from headwater.lake.sweep import sweep
from headwater.state.copies import CopyIndex
from headwater.stream.engine import EmbeddedEngine
from headwater.stream.process import Stream
from headwater.telemetry import metrics
from headwater.telemetry.log import configure

READ_BYTES = 4 << 20
IDLE_SECONDS = 0.02
COMMIT_US = 150_000
POLL_US = 200_000
TAIL_BYTES = 256 << 20
BATCH_SECONDS = 1.0
REJECTED_SECONDS = 30.0

_log = structlog.get_logger("work")


class Work:
    """All that `work` holds, and its threads."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        build = Build(settings)
        self._clock = clock
        self._folder = build.folder
        step = stopping_step(build.folder / "stopped-at")
        self._log: EventLogReader = build.log_reader()
        self._reader = build.log_reader()  # of the archive thread
        self._control = build.control_reader()
        self._projects = build.control_reader()
        self._manifest = build.manifest()
        self._epoch = self._manifest.take_lease()
        self._objects = build.objects()
        self._panes = build.panes_writer()
        with self._manifest.view() as view:
            archived = view.position()
        stored = StoredEvents(self._manifest, self._objects, build.log_reader())
        window = settings.copies_window_hours * HOUR
        self._index = CopyIndex(
            build.folder / "state" / "copies", window_us=window, find_stored=stored.find, load_event=stored.load
        )
        self._mend_index(archived.next, window)
        self._stream = Stream(
            self._panes,
            self._control,
            EmbeddedEngine(),
            archived=archived.next,
            archived_received_at=archived.received_at,
            step=step,
        )
        self._tail = Tail(archived.next)
        self._archive = Archive(
            self._manifest,
            self._objects,
            self._epoch,
            roots_of(build.control_reader()),
            os.urandom,
            settings.lake_compression,
            step,
        )
        self._batch = make_batch(build, self._manifest, self._objects, self._epoch, step)
        self._position = min(archived.next, self._index.covered)
        self._archived = archived.next
        self._segments: queue.Queue[Segment | None] = queue.Queue()
        self._flushing = threading.Event()
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._control_revision = -1
        self._last_commit = 0
        self._last_poll = 0

    # -- starting and stopping ---------------------------------------------------------------------------------------

    def run(self, stopping: threading.Event) -> None:
        """Runs until `stopping` is set or a thread fails (then its error is raised)."""
        threads = [
            threading.Thread(target=self._guarded, args=(body, name), name=name)
            for name, body in (
                ("stream", self._read_loop),
                ("archive", self._archive_loop),
                ("batch", self._batch_loop),
            )
        ]
        for thread in threads:
            thread.start()
        while not stopping.wait(1.0) and not self._stop.is_set():
            self._heartbeat()
        self._stop.set()
        threads[0].join()
        self._segments.put(None)
        for thread in threads[1:]:
            thread.join()
        if self._failed is not None:
            raise self._failed
        self._batch.close()
        self._panes.close()

    def _guarded(self, body: Callable[[], None], name: str) -> None:
        try:
            body()
            if name != "batch":
                self._manifest.set_progress(f"{name}.error", "")
        except BaseException as error:
            self._failed = self._failed or error
            self._stop.set()
            _log.error("a part of work failed; the process ends and is started again", part=name, exc_info=error)
            self._report(name, error)

    def _report(self, name: str, error: BaseException) -> None:
        """Leaves the error where `status` shows it; the store may be what failed."""
        try:
            self._manifest.set_progress(f"{name}.error", f"{type(error).__name__}: {error}")
        except HeadwaterError:
            _log.error("the error could not be stored either", part=name)

    def _heartbeat(self) -> None:
        path = self._folder / "run" / "work.json"
        held = self._index.window_from()
        beat = {
            "pid": os.getpid(),
            "at": rfc3339(self._clock.now_us()),
            "stream": self._stream.committed,
            "archive": self._archived,
            "dedupe": {"from": None if held is None else rfc3339(held), "bytes": self._index.bytes_held},
        }
        path.parent.mkdir(exist_ok=True)
        Path(f"{path}.new").write_text(json.dumps(beat))
        Path(f"{path}.new").replace(path)
        metrics.STREAM_POSITION.set(self._stream.committed)
        metrics.ARCHIVE_POSITION.set(self._archived)

    # -- read: log -> decision -> panes ------------------------------------------------------------------------------

    def _read_loop(self) -> None:
        idle = threading.Event()
        while True:
            stopping = self._stop.is_set()
            read = self._read_some()
            now = self._clock.now_us()
            if now - self._last_poll >= POLL_US:
                self._stream.poll()
                self._last_poll = now
            if not read or now - self._last_commit >= COMMIT_US:
                self._stream.commit(now)
                self._last_commit = now
            self._close_tail(now, stopping and not read)
            if stopping and not read:
                return
            if not read:
                idle.wait(IDLE_SECONDS)

    def _read_some(self) -> bool:
        """Reads, decides and hands on what the log has next; False where there is nothing, or no room for it."""
        if self._tail.bytes >= TAIL_BYTES:
            return False
        records = list(sliced(self._log.read(self._position, READ_BYTES), self._position))
        if not records:
            return False
        decided = self._index.decide(records[0].first, _one_batch(records))
        if decided.next > self._stream.start:
            self._stream.take(decided)
        if decided.next > self._tail.next:
            self._tail.add(decided.since(self._tail.next), self._clock.now_us())
        metrics.COPIES.inc(int((decided.verdict == 1).sum()))
        self._position = decided.next
        return True

    def _close_tail(self, now_us: int, stopping: bool) -> None:
        """Closes the tail where the stream is, when it is due and the archive is free."""
        due = self._tail.due(now_us) or stopping
        if not due or not self._tail.rows or self._flushing.is_set() or self._tail.next != self._stream.start:
            return
        self._stream.roll_segment(self._stream.start, now_us)
        self._flushing.set()
        self._segments.put(self._tail.close())

    # -- archive: segment -> lake ------------------------------------------------------------------------------------

    def _archive_loop(self) -> None:
        while True:
            try:
                segment = self._segments.get(timeout=REJECTED_SECONDS)
            except queue.Empty:
                self._archive_rejected()
                continue
            if segment is None:
                self._archive_rejected()
                return
            self._promote()
            self._archive.flush(segment, self._clock.now_us())
            self._archived = segment.next
            self._index.flush(segment.next)
            self._stream.archived(segment.next, segment.received_at, self._clock.now_us())
            self._flushing.clear()

    def _archive_rejected(self) -> None:
        roots = {project.id: project.root for project in self._projects.projects()}
        archive_rejections(self._reader, self._manifest, self._objects, roots)

    def _promote(self) -> None:
        """Gives columns of their own to the properties that metrics use, before files are written."""
        revision = self._projects.revision()
        if revision == self._control_revision:
            return
        for project in self._projects.projects():
            self._manifest.promote(project.id, promotions_wanted(self._projects.metrics(project.id)))
        self._control_revision = revision

    # -- batch: lake -> rollups --------------------------------------------------------------------------------------

    def _batch_loop(self) -> None:
        while not self._stop.is_set():
            if not self._batch.tick(self._clock.now_us()):
                self._stop.wait(BATCH_SECONDS)

    # -- the copy index ----------------------------------------------------------------------------------------------

    def _mend_index(self, archived: int, window: int) -> None:
        """Builds the index again where it was lost and the log no longer reaches back to where it ends."""
        if self._index.covered >= min(archived, self._log.begin()) and (self._index.covered or not archived):
            return
        last = self._log.last_received_at() or self._clock.now_us()
        since = last - window - HOUR
        _log.warning("the index of copies is rebuilt from the lake", received_from=rfc3339(max(0, since)))
        self._index.rebuild(self._stored_entries(since), archived, max(0, since))

    def _stored_entries(self, since: int) -> Iterator[tuple[str, str, int, int, int | None]]:
        with self._manifest.view() as view:
            files = [file for file in view.files() if file.max_received_at >= since]
        for file in files:
            columns = ["event_id", "log_position", "received_at"]
            table = pq.ParquetFile(self._objects.local_path(file.path)).read(columns)
            received = table.column("received_at").cast(pa.int64()).to_pylist()
            rows = zip(
                table.column("event_id").to_pylist(), table.column("log_position").to_pylist(), received, strict=True
            )
            yield from ((file.project_id, i, p, r, None) for i, p, r in rows if r >= since)


def _one_batch(records: list[LogRecord]) -> pa.RecordBatch:
    """The events of consecutive records as one batch."""
    if len(records) == 1:
        return records[0].batch
    return pa.concat_batches([record.batch for record in records])


def roots_of(control: ControlReader) -> Callable[[str], str]:
    """project id -> its root in the lake."""
    known: dict[str, str] = {}

    def root(project_id: str) -> str:
        if project_id not in known:
            known.update((project.id, project.root) for project in control.projects())
        return known[project_id]

    return root


def make_batch(
    build: Build, manifest: Manifest, objects: ObjectStore, epoch: int, step: Callable[[str], None]
) -> Batch:
    """The batch process over opened stores."""
    roots = roots_of(build.control_reader())

    def compact(project: str, hour: int, now_us: int) -> None:
        compression = build.settings.lake_compression
        compact_hour(manifest, objects, epoch, roots, project, hour, now_us, compression=compression)

    def swept(now_us: int) -> None:
        sweep(manifest, objects, epoch, now_us)

    return Batch(
        manifest,
        build.control_reader(),
        objects,
        epoch,
        compact=compact,
        sweep=swept,
        random_bytes=os.urandom,
        step=step,
    )


def run_work(settings: Settings, name: str) -> None:
    """Runs until SIGTERM; then commits the stream, archives the tail, and returns."""
    configure()
    stopping = stop_event()
    Work(settings, SystemClock()).run(stopping)


@contextmanager
def _batch_alone(settings: Settings) -> Iterator[Batch]:
    """The batch process while nothing else runs over the folder."""
    build = Build(settings)
    manifest = build.manifest()
    batch = make_batch(build, manifest, build.objects(), manifest.take_lease(), lambda name: None)
    try:
        yield batch
    finally:
        batch.close()
        manifest.close()


def run_batch(settings: Settings) -> None:
    """What the batch process has to do, done once, while nothing else runs over the folder."""
    with _batch_alone(settings) as batch:
        if not batch.run_once(SystemClock().now_us()):
            raise HeadwaterError("not everything could be rolled up; see `headwater status`")


def run_jobs(settings: Settings) -> None:
    """What was asked of the batch process (its jobs say how it went), while nothing else runs over the folder."""
    clock = SystemClock()
    with _batch_alone(settings) as batch:
        while batch.tick(clock.now_us()):
            pass
