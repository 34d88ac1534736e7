"""The audit finds a loss, a double and a shift, each where it is, and nothing where there is nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.catalog.port import ArchiveCommit, Skipped
from headwater.clock import HOUR, MINUTE
from headwater.eventlog.adapters.sqlite import open_reader, open_writer
from headwater.lake.columns import to_lake
from headwater.query.audit import AuditReport, audit
from tests.batch.world import T0, World
from tests.warehouse.brute import Event, batch, event


class Audited(World):
    """A world whose events went through a log."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.log = open_writer(folder / "log")
        self.reading = open_reader(folder / "log")

    def send(self, events: list[Event]) -> None:
        self.log.append(batch(events))

    def audit(self, manifest: Any = None) -> AuditReport:
        with duckdb.connect() as con:
            return audit(self.reading, manifest or self.manifest, self.objects, con)

    def findings(self, manifest: Any = None) -> dict[str, tuple[int, int]]:
        """hour of receipt -> (missing, extra), where there is any."""
        rows = self.audit(manifest).projects
        return {row.hour[11:13]: (row.missing, row.extra) for row in rows if row.missing or row.extra}

    def rewrite(self, change: Any) -> None:
        """Replaces the rows of the first file behind everyone's back."""
        path = self.objects.local_path(self.files()[0].path)
        table = change(pq.read_table(path))
        path.chmod(0o600)
        pq.write_table(table, path)


def received(start: int, count: int, first: int = 0) -> list[Event]:
    return [
        event(T0 + i * MINUTE, event_id=f"e{first + i}", received_at=start + i * MINUTE, project_id="default")
        for i in range(count)
    ]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Audited]:
    made = Audited(tmp_path)
    for start, first in ((T0, 0), (T0 + HOUR, 30)):
        made.send(received(start, 30, first))
        made.archive(received(start, 30, first))
    yield made
    made.log.close()
    made.reading.close()
    made.manifest.close()
    made.control.close()


def test_all_is_accounted_for(world: Audited) -> None:
    report = world.audit()
    assert report.ok
    assert [(row.accepted, row.stored) for row in report.projects] == [(30, 30), (30, 30)]


def test_what_the_archive_has_not_reached_is_in_flight(world: Audited) -> None:
    world.send(received(T0 + HOUR + 40 * MINUTE, 5, 60))
    report = world.audit()
    assert report.ok
    assert report.projects[1].in_flight == 5


def test_copies_and_what_was_rejected_later_are_accounted_for(world: Audited) -> None:
    world.send(received(T0 + 2 * HOUR, 5, 0))
    skipped = [Skipped("default", T0 + 2 * HOUR, copies=3, rejected=2)]
    world.manifest.commit(ArchiveCommit(60, 65, T0 + 3 * HOUR, world.epoch, skipped=skipped))
    report = world.audit()
    assert report.ok
    assert (report.projects[2].copies, report.projects[2].rejected_later) == (3, 2)


def test_a_lost_row_is_missing(world: Audited) -> None:
    world.rewrite(lambda table: table.slice(1))
    assert world.findings() == {"10": (1, 0)}


def test_a_doubled_row_is_extra(world: Audited) -> None:
    world.rewrite(lambda table: pa.concat_tables([table, table.slice(3, 2)]))
    assert world.findings() == {"10": (0, 2)}


def test_a_loss_and_a_double_do_not_cancel(world: Audited) -> None:
    world.rewrite(lambda table: pa.concat_tables([table.slice(1), table.slice(3, 1)]))
    assert world.findings() == {"10": (1, 1)}


def test_a_row_shifted_to_another_hour_of_receipt_is_missing_there_and_extra_here(world: Audited) -> None:
    def shift(table: pa.Table) -> pa.Table:
        times = table["received_at"].cast(pa.int64()).to_pylist()
        times[0] += HOUR
        moved = pa.array(times, pa.int64()).cast(table.schema.field("received_at").type)
        return table.set_column(table.schema.get_field_index("received_at"), "received_at", moved)

    world.rewrite(shift)
    assert world.findings() == {"10": (1, 0), "11": (0, 1)}


def test_a_row_in_the_file_of_another_event_hour_is_lost_where_it_belongs(world: Audited) -> None:
    def shift(table: pa.Table) -> pa.Table:
        times = table["timestamp"].cast(pa.int64()).to_pylist()
        times[0] += HOUR
        moved = pa.array(times, pa.int64()).cast(table.schema.field("timestamp").type)
        return table.set_column(table.schema.get_field_index("timestamp"), "timestamp", moved)

    world.rewrite(shift)
    assert world.findings() == {"10": (1, 1)}


def test_a_file_registered_twice_is_extra(world: Audited) -> None:
    rows = batch(received(T0, 30))
    copy = world.store(to_lake(rows, world_positions(30), {}), T0)
    world.manifest.commit(ArchiveCommit(60, 60, T0 + 2 * HOUR, world.epoch, files=[copy]))
    assert world.findings() == {"10": (0, 30)}


def test_a_file_named_twice_is_extra(world: Audited) -> None:
    class Twice:
        def view(self) -> Any:
            view = world.manifest.view()
            files = view.files
            view.files = lambda *args: [*files(*args), *files(*args)[:1]]  # type: ignore[method-assign]
            return view

    assert world.findings(Twice()) == {"10": (0, 30)}


def test_a_file_that_is_gone_is_missing_and_named(world: Audited) -> None:
    file = world.files()[0]
    world.objects.local_path(file.path).unlink()
    report = world.audit()
    assert not report.ok
    assert world.findings() == {"10": (30, 0)}
    assert [(found.project, found.file) for found in report.unreadable] == [("default", file.path)]
    assert report.of_project("default") == report
    assert report.of_project("other").ok


def test_a_damaged_file_is_missing_and_named(world: Audited) -> None:
    path = world.objects.local_path(world.files()[0].path)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-20])
    assert world.findings() == {"10": (30, 0)}
    assert len(world.audit().unreadable) == 1


def test_the_same_id_again_in_another_hour_of_receipt_is_an_event_of_its_own(world: Audited) -> None:
    again = received(T0 + 30 * HOUR, 3, 0)
    world.send(again)
    world.archive(again)
    assert world.audit().ok


def world_positions(count: int) -> Any:
    import numpy as np

    return np.arange(count)
