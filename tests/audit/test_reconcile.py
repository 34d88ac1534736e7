"""Live, settled and raw agree over the real stream and batch; each planted difference is found where it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.catalog.port import ArchiveCommit
from headwater.clock import DAY, HOUR, MINUTE
from headwater.lake.columns import to_lake
from headwater.model import sketch
from headwater.model.aggregate import State
from headwater.panes.adapters.sqlite import open_reader, open_writer
from headwater.query.reconcile import Moment, Reconciliation, reconcile, same
from headwater.state.decision import DecidedBatch
from headwater.stream.engine import EmbeddedEngine
from headwater.stream.process import Stream
from tests.batch.world import T0, World
from tests.warehouse.brute import Event, batch, event


class Whole(World):
    """A world with a stream before the archive."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.panes = open_writer(folder / "panes.db")
        self.reader = open_reader(folder / "panes.db")
        self.define("revenue", aggregate="sum", property="amount", dimensions=[["country"], ["country", "device"]])
        self.define("slow", aggregate="max", property="amount", eventType="view")
        self.stream = Stream(self.panes, self.control, EmbeddedEngine(), archived=0, archived_received_at=None)
        self.waiting: list[Event] = []
        self.next = 0

    def send(self, events: list[Event]) -> None:
        """Through the stream; not archived yet."""
        self.stream.take(DecidedBatch(self.next, batch(events), np.zeros(len(events), np.uint8)))
        self.stream.commit(0)
        self.next += len(events)
        self.waiting += events

    def flush(self) -> None:
        """Into the lake, as the archive does it."""
        self.stream.roll_segment(self.next, 0)
        self.archive(self.waiting)
        self.stream.archived(self.next, self.waiting[-1]["received_at"], 0)
        self.stream.commit(0)
        self.waiting = []

    def settle(self) -> None:
        rolling = self.batch(settles_after=0)
        while rolling.tick(T0 + DAY):
            pass
        rolling.close()

    def reconcile(self, start: int | None = None, end: int | None = None) -> Reconciliation:
        with self.manifest.view() as manifest, self.reader.view() as panes, duckdb.connect() as con:
            tails = {"default": pa.Table.from_batches([batch(self.waiting)])} if self.waiting else {}
            metrics = self.control.metrics("default")
            return reconcile(Moment(manifest, panes, self.objects, con), tails, metrics, start, end)

    def found(self) -> set[tuple[str, str, tuple[Any, ...]]]:
        """(metric, hour, what live, settled and raw say) of the totals that differ."""
        differences = self.reconcile().differences
        totals = [msgspec.json.decode(msgspec.json.encode(d)) for d in differences if not d.dimensions]
        return {(d["metric"], d["hour"][11:13], (d["live"], d["settled"], d["raw"])) for d in totals}


def sent(start: int, count: int, received: int | None = None) -> list[Event]:
    return [
        event(
            start + i * 3 * MINUTE,
            ["purchase", "view"][i % 2],
            event_id=f"{start}-{i}-{received}",
            user_id=f"u{i % 5}",
            amount=[1.5, "2.25", "n/a", None, -0.000000001][i % 5],
            country=["DE", "US", None][i % 3],
            device=["mobile", None][i % 2],
            received_at=(start + i * 3 * MINUTE) if received is None else received,
        )
        for i in range(count)
    ]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Whole]:
    made = Whole(tmp_path)
    made.send(sent(T0, 60))
    made.flush()
    made.send(sent(T0 + 3 * HOUR, 30))
    made.flush()
    made.settle()
    yield made
    made.reader.close()
    made.panes.close()
    made.manifest.close()
    made.control.close()


def test_all_sides_agree_and_nothing_is_left_open(world: Whole) -> None:
    report = world.reconcile()
    assert (report.ok, report.open, report.differences) == (True, 0, [])
    assert report.checked > 5 * 4


def test_late_events_that_are_only_in_the_tail_agree_too(world: Whole) -> None:
    world.send(sent(T0 + 10 * MINUTE, 12, received=T0 + 5 * HOUR))
    report = world.reconcile()
    assert (report.ok, report.open, report.differences) == (True, 0, [])


def test_an_hour_whose_chunk_lacks_a_file_is_compared_by_its_live_panes_or_open(world: Whole) -> None:
    world.send(sent(T0 - 40 * HOUR, 4, received=T0 + 5 * HOUR))
    world.flush()
    report = world.reconcile()
    assert report.ok
    assert report.open > 0
    world.settle()
    assert world.reconcile().open == 0


def test_a_metric_that_was_defined_later_is_open_where_nobody_has_it(world: Whole) -> None:
    world.define("orders", aggregate="count", eventType="purchase")
    world.stream.poll()
    world.stream.commit(0)
    assert world.reconcile().open > 0
    world.settle()
    report = world.reconcile()
    assert report.ok
    assert report.open == 1, "the hour at the boundary has neither whole panes nor a chunk"


def test_only_the_range_that_was_asked_for_is_compared(world: Whole) -> None:
    whole, part = world.reconcile(), world.reconcile(T0, T0 + HOUR)
    assert 0 < part.checked < whole.checked


def test_a_planted_loss_in_the_lake_is_found(world: Whole) -> None:
    path = world.objects.local_path(world.files()[0].path)
    path.chmod(0o600)
    pq.write_table(pq.read_table(path).slice(1), path)
    assert ("events", "10", (20, 20, 19)) in world.found()


def test_a_planted_double_in_the_lake_is_found(world: Whole) -> None:
    rows = batch(sent(T0, 2))
    copy = world.store(to_lake(rows, np.arange(2), {}), T0)
    world.manifest.commit(ArchiveCommit(90, 90, T0 + 4 * HOUR, world.epoch, files=[copy]))
    assert ("events", "10", (20, None, 22)) in world.found()
    world.settle()
    assert ("events", "10", (20, 22, 22)) in world.found()


def test_a_chunk_that_counts_a_file_twice_is_found(world: Whole) -> None:
    hour = next(c for c in world.chunks() if c.hour == T0)
    path = world.objects.local_path(hour.path)
    table = pq.read_table(path)
    at = table.schema.get_field_index("count")
    path.chmod(0o600)
    doubled = [2 * count for count in table["count"].to_pylist()]
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(doubled, pa.int64())), path)
    assert ("events", "10", (20, 40, 20)) in world.found()


def test_a_shift_of_a_chunk_to_another_hour_is_found(world: Whole) -> None:
    one, other = (next(c for c in world.chunks() if c.hour == hour) for hour in (T0, T0 + 4 * HOUR - HOUR))
    world.manifest.put_chunk(world.epoch, replace(one, path=other.path, revision=9))
    assert {hour for metric, hour, _ in world.found() if metric == "events"} >= {"10"}


@pytest.mark.parametrize("width", [HOUR, MINUTE])
def test_a_lost_live_pane_is_found_at_every_width(world: Whole, width: int) -> None:
    db = apsw.Connection(str(world.folder / "panes.db"))
    db.set_busy_timeout(5000)
    at = T0 + 4 * HOUR + 3 * MINUTE if width == MINUTE else T0 + 4 * HOUR
    number = db.execute("SELECT id FROM series WHERE metric = 'events@1' AND dimensions = '[]'").fetchall()
    db.execute("DELETE FROM live WHERE series = ? AND width = ? AND start = ?", (number[0][0], width, at))
    assert db.changes() == 1
    db.close()
    assert ("events", "14", (9 if width == MINUTE else 0, None, 10)) in world.found()


def test_sketches_are_the_same_by_what_they_know_not_by_their_bytes() -> None:
    for size in (3, 100, 5000):
        names = [f"n{i}" for i in range(size)]
        straight = sketch.sketch_of(names)
        halves = [sketch.sketch_of(names[: size // 2 + 1]), sketch.sketch_of(names[size // 3 :])]
        merged = sketch.merge(reversed(halves))
        assert same(State(count=1, sketch=straight), State(count=1, sketch=merged))
        assert not same(
            State(count=1, sketch=straight),
            State(count=1, sketch=sketch.sketch_of([*names, *(f"m{i}" for i in range(size))])),
        )
