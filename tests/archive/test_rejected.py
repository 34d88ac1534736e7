"""Refused input lies in the lake exactly once, wherever the copying is stopped."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.archive import rejected
from headwater.archive.rejected import archive_rejections
from headwater.catalog.adapters.manifest_sqlite import open_manifest
from headwater.model.rejection import KeptRejection, Rejection
from headwater.testing.faults import FailingObjectStore, MemoryObjectStore, Stopped

T0 = 1_700_000_000_000_000


class RejectedLog:
    """As much of a log reader as is needed: rejections of two projects, numbered together."""

    def __init__(self):
        self.held = []

    def refuse(self, count, project="shop"):
        for _ in range(count):
            number = len(self.held) + 1
            body = b"\xff%d" % number
            kept = Rejection(project, T0 + number, "ingest", "invalid_json", "line 1", body, None, number % 2 == 0)
            self.held.append(KeptRejection(f"i{number}", kept))

    def rejections(self, project_id, *, before=None, limit=100):
        below = int(before[1:]) if before else len(self.held) + 1
        found = [k for k in self.held if k.rejection.project_id == project_id and int(k.id[1:]) < below]
        return found[::-1][:limit]


@pytest.fixture
def manifest(tmp_path):
    made = open_manifest(tmp_path / "manifest.db")
    yield made
    made.close()


@pytest.fixture
def log():
    return RejectedLog()


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(rejected, "PAGE", 4)


def stored(objects, root="p1"):
    rows = []
    for key in objects.keys(f"{root}/rejected"):
        rows += pq.read_table(pa.BufferReader(objects.get(key))).to_pylist()
    return sorted(int(row["id"][1:]) for row in rows)


def test_everything_refused_is_copied_with_its_bytes(manifest, log):
    objects = MemoryObjectStore()
    log.refuse(3)
    log.refuse(2, "blog")
    log.refuse(7)
    assert archive_rejections(log, manifest, objects, {"shop": "p1", "blog": "p2"}) == 12
    assert stored(objects) == [1, 2, 3, *range(6, 13)]
    assert stored(objects, "p2") == [4, 5]
    row = pq.read_table(pa.BufferReader(objects.get(objects.keys("p2/rejected")[0]))).to_pylist()[0]
    assert (row["body"], row["reason"], row["stage"], row["cut"]) == (b"\xff4", "invalid_json", "ingest", True)


def test_what_was_copied_is_not_copied_again(manifest, log):
    objects = MemoryObjectStore()
    log.refuse(5)
    archive_rejections(log, manifest, objects, {"shop": "p1"})
    assert archive_rejections(log, manifest, objects, {"shop": "p1"}) == 0
    log.refuse(1)
    assert archive_rejections(log, manifest, objects, {"shop": "p1"}) == 1
    assert stored(objects) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("change", [1, 2, 3])
def test_a_stop_copies_each_one_once_even_when_more_came_meanwhile(manifest, log, change, where):
    objects = MemoryObjectStore()
    log.refuse(10)
    with pytest.raises(Stopped):
        archive_rejections(log, manifest, FailingObjectStore(objects, {change: where}), {"shop": "p1"})
    log.refuse(3)
    archive_rejections(log, manifest, objects, {"shop": "p1"})
    assert stored(objects) == list(range(1, 14))
