"""A segment is in the lake once or not at all, wherever the archive is stopped."""

import json

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from headwater.archive.flush import Archive
from headwater.archive.tail import Tail
from headwater.catalog.adapters.manifest_sqlite import open_manifest
from headwater.clock import HOUR, SECOND
from headwater.errors import Fenced, HeadwaterError, StoreFull
from headwater.lake.compact import compact_hour
from headwater.lake.objectstore.adapters.local import LocalObjectStore
from headwater.lake.sweep import KEPT, sweep
from headwater.model.batch import SCHEMA
from headwater.state.decision import CONFLICT, COPY, DecidedBatch
from headwater.testing.faults import FailingObjectStore, Stopped

START = 1_700_000_000 * SECOND - 1_700_000_000 * SECOND % HOUR
STEPS = ("archive.1.group", "archive.2.write", "archive.3.commit", "archive.4.current")


def decided(first: int, rows: int, verdicts: dict[int, int] | None = None) -> DecidedBatch:
    events = pa.RecordBatch.from_pylist(
        [
            {
                "event_id": f"e{first + i}",
                "event_type": "view" if i % 2 else "click",
                "timestamp": START + (first + i) * HOUR // 7,
                "received_at": START + (first + i) * SECOND,
                "project_id": "default" if i % 3 else "shop",
                "properties": json.dumps({"n": first + i}),
                "context": "{}",
            }
            for i in range(rows)
        ],
        schema=SCHEMA,
    )
    verdict = np.zeros(rows, np.uint8)
    for row, given in (verdicts or {}).items():
        verdict[row] = given
    return DecidedBatch(first, events, verdict, dict.fromkeys(verdicts or {}, 0))


class World:
    def __init__(self, folder):
        self.folder = folder
        self.manifest = open_manifest(folder / "manifest.db")
        self.objects = LocalObjectStore(folder / "lake")
        self.entropy = 0

    def archive(self, at=lambda name: None) -> Archive:
        def random_bytes(size: int) -> bytes:
            self.entropy += 1
            return self.entropy.to_bytes(size, "big")

        roots = {"default": "p1", "shop": "p2"}.__getitem__
        return Archive(self.manifest, self.objects, self.manifest.take_lease(), roots, random_bytes, at=at)

    def rows(self, column="event_id") -> list:
        with self.manifest.view() as view:
            paths = [str(self.objects.local_path(f.path)) for f in view.files()]
        if not paths:
            return []
        found = duckdb.sql(
            f"SELECT {column} FROM read_parquet({paths!r}, hive_partitioning=false) ORDER BY log_position"
        )
        return [row[0] for row in found.fetchall()]

    def position(self) -> int:
        with self.manifest.view() as view:
            return view.position().next


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.manifest.close()


def segment(*batches):
    tail = Tail(batches[0].first)
    for batch in batches:
        tail.add(batch, START)
    return tail.close()


def test_what_counts_lies_in_files_of_its_project_and_hour(world):
    world.archive().flush(segment(decided(0, 40), decided(40, 30)), START)
    with world.manifest.view() as view:
        files = view.files()
    assert sum(file.rows for file in files) == 70
    assert world.rows("log_position") == list(range(70))
    for file in files:
        assert file.hour <= file.min_timestamp <= file.max_timestamp < file.hour + HOUR
        assert file.path.startswith({"default": "p1", "shop": "p2"}[file.project_id] + "/events/year=")
    assert world.position() == 70


def test_copies_and_conflicts_are_counted_and_conflicts_are_kept(world):
    world.archive().flush(segment(decided(0, 10, {2: COPY, 4: COPY, 5: CONFLICT})), START)
    assert len(world.rows()) == 7
    with world.manifest.view() as view:
        assert sum(s.copies for s in view.skipped()) == 2
        assert sum(s.rejected for s in view.skipped()) == 1
        (kept,) = view.rejections("default")
    assert (kept.rejection.reason, kept.rejection.event_id, kept.rejection.stage) == ("conflict", "e5", "archive")
    assert json.loads(kept.rejection.body)["properties"] == {"n": 5}


@pytest.mark.parametrize("step", STEPS)
def test_a_stop_at_any_step_loses_nothing_and_doubles_nothing(world, step):
    class Stopped(Exception):
        pass

    def stop(name: str) -> None:
        if name == step:
            raise Stopped

    part = segment(decided(0, 50, {7: COPY}))
    with pytest.raises(Stopped):
        world.archive(stop).flush(part, START)
    restarted = world.archive()
    if world.position() == 0:
        restarted.flush(part, START)
    assert world.rows("log_position") == [i for i in range(50) if i != 7]
    assert world.position() == 50
    with world.manifest.view() as view:
        assert sum(s.copies for s in view.skipped()) == 1


@pytest.mark.parametrize("fault", ["before", "after", "full"])
@pytest.mark.parametrize("change", [1, 2, 9, 16, 17, 18])
def test_a_fault_at_any_change_of_the_lake_loses_nothing_and_doubles_nothing(world, change, fault):
    """Change 1 is the incarnation, 2 to 16 are files, 17 and 18 pointers."""
    part = segment(decided(0, 50, {7: COPY}))
    lake = world.objects
    world.objects = FailingObjectStore(lake, {change: fault})
    with pytest.raises((Stopped, StoreFull)):
        world.archive().flush(part, START)
    assert world.position() == (50 if change > 16 else 0)
    assert len(world.rows()) == (49 if change > 16 else 0)
    world.objects = lake
    if world.position() == 0:
        world.archive().flush(part, START)
    assert world.rows("log_position") == [i for i in range(50) if i != 7]


def test_a_lake_of_another_catalog_is_not_written_to(world, tmp_path):
    world.archive().flush(segment(decided(0, 10)), START)
    held = world.objects.keys("")
    world.manifest.close()
    world.manifest = open_manifest(tmp_path / "new.db")
    with pytest.raises(HeadwaterError, match="not the one this lake was written with"):
        world.archive().flush(segment(decided(0, 10)), START)
    assert world.objects.keys("") == held


def test_a_replaced_owner_changes_nothing(world):
    old = world.archive()
    world.archive().flush(segment(decided(0, 10)), START)
    with pytest.raises(Fenced):
        old.flush(segment(decided(10, 10)), START)
    with pytest.raises(Fenced):
        world.archive().flush(segment(decided(0, 10)), START)
    assert world.rows("log_position") == list(range(10))


def test_the_pointer_for_outsiders_names_the_live_files(world):
    world.archive().flush(segment(decided(0, 30)), START)
    document = json.loads(world.objects.get("p1/manifest/current.json"))
    with world.manifest.view() as view:
        assert [f["path"] for f in document["files"]] == [f.path for f in view.files("default")]
    assert document["position"] == 30


def test_a_pointer_that_a_stop_left_behind_is_made_by_the_next_flush(world):
    def stop(name: str) -> None:
        if name == "archive.4.current":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        world.archive(stop).flush(segment(decided(0, 30)), START)
    world.archive().flush(segment(decided(30, 1)), START)
    for project, root in (("default", "p1"), ("shop", "p2")):
        document = json.loads(world.objects.get(f"{root}/manifest/current.json"))
        with world.manifest.view() as view:
            assert [f["path"] for f in document["files"]] == [f.path for f in view.files(project)]


def test_compaction_makes_one_file_of_an_hour_and_the_sweep_removes_its_inputs_later(world):
    archive = world.archive()
    for first in range(0, 6, 2):
        archive.flush(segment(decided(first, 2)), START)
    before = sorted(world.rows())
    roots = {"default": "p1", "shop": "p2"}.__getitem__
    for project in ("default", "shop"):
        compact_hour(world.manifest, world.objects, archive.epoch, roots, project, START, START)
    with world.manifest.view() as view:
        assert [len(view.files(p)) for p in ("default", "shop")] == [1, 1]
    assert sorted(world.rows()) == before
    on_disk = len(world.objects.keys("p1/events"))
    assert sweep(world.manifest, world.objects, archive.epoch, START + KEPT // 2) == 0
    assert sweep(world.manifest, world.objects, archive.epoch, START + KEPT + SECOND) > 0
    assert len(world.objects.keys("p1/events")) < on_disk
    assert sorted(world.rows()) == before


def test_orphans_of_a_stopped_archive_are_swept_and_live_files_never(world):
    def stop(name: str) -> None:
        if name == "archive.3.commit":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        world.archive(stop).flush(segment(decided(0, 20)), START)
    orphans = world.objects.keys("p1/events")
    assert orphans
    archive = world.archive()
    archive.flush(segment(decided(0, 20)), START)
    sweep(world.manifest, world.objects, archive.epoch, START + KEPT + SECOND)
    left = world.objects.keys("p1/events") + world.objects.keys("p2/events")
    assert not set(orphans) & set(left)
    assert world.rows("log_position") == list(range(20))


def test_the_sweep_refuses_a_lake_of_another_catalog(world, tmp_path):
    archive = world.archive()
    sweep(world.manifest, world.objects, archive.epoch, START)
    other = open_manifest(tmp_path / "other.db")
    with pytest.raises(Exception, match="not the one this lake was written with"):
        sweep(other, world.objects, other.take_lease(), START + 2 * KEPT)
    other.close()


def test_the_tail_is_due_after_quiet_age_or_size():
    tail = Tail(0)
    assert not tail.due(START)
    tail.add(decided(0, 1), START)
    assert not tail.due(START + 9 * SECOND)
    assert tail.due(START + 10 * SECOND)
    for i in range(1, 8):
        tail.add(decided(i, 1), START + i * 8 * SECOND)
    assert not tail.due(START + 59 * SECOND)
    assert tail.due(START + 60 * SECOND)
    with pytest.raises(ValueError, match="next is position 8"):
        tail.add(decided(9, 1), START)
