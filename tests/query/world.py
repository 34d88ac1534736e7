"""The whole way of the data with real stores in one process, moved step by step: a test says what has happened."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwater.archive.flush import Archive
from headwater.archive.tail import Tail
from headwater.assembly.build import Build
from headwater.assembly.settings import Settings
from headwater.assembly.stored import StoredEvents
from headwater.assembly.work import make_batch, roots_of
from headwater.batch.job import promotions_wanted
from headwater.catalog.adapters.control_sqlite import bootstrap
from headwater.clock import HOUR
from headwater.eventlog.port import sliced
from headwater.model.metric import Metric, definition_from
from headwater.query.answer import Answer, Answers
from headwater.query.question import metric_question
from headwater.query.reading import Readings
from headwater.query.services import Services
from headwater.state.copies import CopyIndex
from headwater.stream.engine import EmbeddedEngine
from headwater.stream.process import Stream
from tests.warehouse.brute import Event, batch

T0 = 1_705_312_800_000_000  # 2024-01-15T10:00:00Z


class ManualClock:
    """Stands still until it is moved; a sleep moves it."""

    def __init__(self, now_us: int = T0) -> None:
        self.now = now_us

    def now_us(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e6)


class World:
    """A data folder with the projects `default` and whatever a test makes. Receipt is the clock's time."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.folder = folder
        settings = Settings(data=str(folder))
        self.build = Build(settings)
        self.log = self.build.log_writer()
        self.control = self.build.control()
        random = itertools.count(1)
        self.random_bytes = lambda n: next(random).to_bytes(n, "big")
        bootstrap(self.control, folder / "keys", T0, self.random_bytes)
        self.manifest = self.build.manifest()
        self.epoch = self.manifest.take_lease()
        self.objects = self.build.objects()
        self.panes = self.build.panes_writer()
        self._reader = self.build.log_reader()
        stored = StoredEvents(self.manifest, self.objects, self.build.log_reader())
        self._index = CopyIndex(
            folder / "state" / "copies", window_us=24 * HOUR, find_stored=stored.find, load_event=stored.load
        )
        self._stream = Stream(self.panes, self.control, EmbeddedEngine(), archived=0, archived_received_at=None)
        self._tail = Tail(0)
        self._position = 0
        self._archive = Archive(
            self.manifest, self.objects, self.epoch, roots_of(self.control), self.random_bytes, "snappy", lambda _: None
        )
        self._batch = make_batch(self.build, self.manifest, self.objects, self.epoch, lambda _: None)
        self.services = Services(
            clock=self.clock,
            control=self.control,
            log=self.build.log_reader(),
            manifest=self.build.manifest_reader(),
            panes=self.build.panes_reader(),
            objects=self.objects,
            data=folder,
            random_bytes=self.random_bytes,
            sql_seconds=5.0,
            settle_seconds=0.0,
        )
        self.answers = Answers(self.services, Readings(self.services))
        self.sent: list[Event] = []

    # -- the way of the data -----------------------------------------------------------------------------------------

    def send(self, events: Sequence[Event]) -> None:
        """What ingest does with an accepted batch: receipt now, durable in the log."""
        received = [{**event, "received_at": self.clock.now} for event in events]
        if received:
            self.log.append(batch(received))
            self.sent += received

    def stream(self) -> None:
        """Everything in the log is decided and in the panes."""
        self._stream.poll()
        while records := list(sliced(self._reader.read(self._position, 1 << 20), self._position)):
            for record in records:
                decided = self._index.decide(record.first, record.batch)
                self._stream.take(decided)
                self._tail.add(decided, self.clock.now)
                self._position = decided.next
        self._stream.commit(self.clock.now)

    def archive(self) -> None:
        """Everything in the panes is in the lake too."""
        if not self._tail.rows:
            return
        self._stream.roll_segment(self._stream.start, self.clock.now)
        segment = self._tail.close()
        for project in self.control.projects():
            self.manifest.promote(project.id, promotions_wanted(self.control.metrics(project.id)))
        self._archive.flush(segment, self.clock.now)
        self._index.flush(segment.next)
        self._stream.archived(segment.next, segment.received_at, self.clock.now)

    def settle(self) -> None:
        """Past hours are rolled up, and small files compacted."""
        assert self._batch.run_once(self.clock.now)

    # -- asking ------------------------------------------------------------------------------------------------------

    def define(self, name: str, **definition: Any) -> Metric:
        return self.control.define_metric("default", name, definition_from(definition), self.clock.now)[0]

    def metric(self, name: str) -> Metric:
        return next(m for m in self.control.metrics("default") if m.name == name)

    def ask(self, name: str, **parameters: str) -> Answer:
        return self.answers.metric(self.metric(name), metric_question(name, parameters, self.clock.now))

    def values(self, name: str, **parameters: str) -> list[Any]:
        """The values alone, of all windows."""
        return [row.value for row in self.ask(name, **parameters).counted.rows]

    def stores(self, name: str, **parameters: str) -> list[str]:
        return [part.store for part in self.ask(name, **parameters).parts]

    def close(self) -> None:
        self._batch.close()
        self.services.close()
        for store in (self.panes, self.log):
            store.close()
