"""Compaction changes no answer, and a sweep removes only what nobody can be reading."""

from dataclasses import replace

import pyarrow as pa
import pytest

from headwater.catalog.adapters.manifest_sqlite import open_manifest
from headwater.catalog.port import ArchiveCommit, Chunk
from headwater.clock import HOUR, SECOND
from headwater.errors import Corrupt, HeadwaterError, StoreFull
from headwater.lake import layout
from headwater.lake.compact import MOST_BYTES, TARGET_BYTES, compact_hour, to_merge
from headwater.lake.current import write_current
from headwater.lake.file import read
from headwater.lake.sweep import KEPT, sweep
from headwater.testing.conformance_manifest import lake_file
from headwater.testing.faults import FailingObjectStore, MemoryObjectStore, Stopped
from tests.lake.making import T0
from tests.lake.test_file import PROMOTED, places, table_of, written


def sized(*sizes):
    return [replace(lake_file(str(at)), id=at + 1, bytes=size) for at, size in enumerate(sizes)]


def ids(files):
    return [file.id for file in files]


def test_small_files_are_merged_and_those_of_target_size_never_again():
    assert ids(to_merge(sized(10, 20, TARGET_BYTES, 30))) == [1, 2, 4]
    assert to_merge(sized(10)) == []
    assert to_merge(sized(10, TARGET_BYTES, TARGET_BYTES + 1)) == []
    assert to_merge([]) == []


def test_a_merge_is_bounded_and_leaves_files_of_target_size():
    piece = TARGET_BYTES // 4
    chosen = to_merge(sized(*[piece] * 20))
    assert len(chosen) * piece == MOST_BYTES >= TARGET_BYTES


class Lake:
    """Three files of one hour in a manifest."""

    def __init__(self, folder):
        self.manifest = open_manifest(folder / "manifest.db")
        self.epoch = self.manifest.take_lease()
        self.objects = MemoryObjectStore()
        self.entropy = 0
        files = []
        for at, count in enumerate((40, 1, 25)):
            key = layout.events_key("p1", T0, 100 * at, layout.token(T0, self.random(5)))
            promoted = PROMOTED if at else {}
            table = table_of(count, first=100 * at, seed=at, promoted=promoted)
            data, facts = written(table, key=key, promoted={f"{k}:{n}": c for (n, k), c in promoted.items()})
            self.objects.put(key, data)
            files.append(facts)
        self.manifest.promote("shop", list(PROMOTED))
        self.files = self.manifest.commit(ArchiveCommit(0, 300, T0, self.epoch, files))

    def random(self, size):
        self.entropy += 1
        return self.entropy.to_bytes(size, "big")

    def live(self):
        with self.manifest.view() as view:
            return view.files()

    def compact(self, objects=None, now_us=T0):
        return compact_hour(
            self.manifest,
            objects or self.objects,
            self.epoch,
            lambda project: "p1",
            "shop",
            T0,
            now_us,
            random_bytes=self.random,
        )

    def rows(self):
        tables = [read(self.objects.get(file.path), file) for file in self.live()]
        return pa.concat_tables([table.select(table.schema.names[:13]) for table in tables])

    def sweep(self, now_us):
        return sweep(self.manifest, self.objects, self.epoch, now_us)


@pytest.fixture
def lake(tmp_path):
    made = Lake(tmp_path)
    yield made
    made.manifest.close()


def positions(table):
    return sorted(table.column("log_position").to_pylist())


def test_an_hour_ends_as_one_sorted_file_with_the_same_rows(lake):
    before = lake.rows()
    made = lake.compact()
    assert lake.live() == [made]
    after = lake.rows()
    by_position = [("log_position", "ascending")]
    assert after.sort_by(by_position).equals(before.sort_by(by_position).combine_chunks())
    assert places(after) == sorted(places(after))
    assert (made.first_position, made.next_position) == (0, 225)
    assert made.promoted == {}, "a column that one input lacks cannot be filled"
    assert lake.compact() is None


def test_a_column_that_all_inputs_have_stays(lake):
    lake.manifest.replace_files(lake.epoch, [lake.files[0].id], [], T0)
    made = lake.compact()
    assert made.promoted == {"number:amount": "p_1"}
    assert read(lake.objects.get(made.path), made).schema.names[-1] == "p_1"


@pytest.mark.parametrize(("change", "fault"), [(1, "before"), (1, "after"), (1, "full"), (2, "before"), (2, "after")])
def test_a_stop_or_a_full_disk_changes_no_answer(lake, change, fault):
    before = positions(lake.rows())
    with pytest.raises((Stopped, StoreFull)):
        lake.compact(FailingObjectStore(lake.objects, {change: fault}))
    assert positions(lake.rows()) == before
    lake.compact()
    assert positions(lake.rows()) == before
    assert len(lake.live()) == 1


def test_a_damaged_input_is_never_merged(lake):
    path = lake.files[0].path
    data = bytearray(lake.objects.get(path))
    data[100] ^= 1
    lake.objects.replace(path, bytes(data))
    with pytest.raises(Corrupt):
        lake.compact()
    assert lake.live() == lake.files


def test_inputs_stay_for_two_days(lake):
    lake.sweep(T0)
    lake.compact(now_us=T0 + HOUR)
    assert lake.sweep(T0 + HOUR + KEPT) == 0
    assert lake.sweep(T0 + HOUR + KEPT + 1) == 3
    assert lake.sweep(T0 + HOUR + KEPT + 1) == 0
    assert lake.objects.keys("p1/events") == [file.path for file in lake.live()]


def test_a_replaced_chunk_stays_for_two_days_after_a_sweep_has_met_it(lake):
    old, new = (layout.chunk_key("p1", T0, 1, layout.token(T0, lake.random(5))) for _ in range(2))
    for key in (old, new):
        lake.objects.put(key, b"chunk")
        lake.manifest.put_chunk(lake.epoch, Chunk("shop", T0, key, 1, (lake.files[0].id,), ()))
    later = T0 + 10 * KEPT
    assert lake.sweep(later) == 0
    assert lake.sweep(later + KEPT) == 0
    assert lake.objects.keys("p1/rollups") == sorted([old, new])
    assert lake.sweep(later + KEPT + 1) == 1
    assert lake.objects.keys("p1/rollups") == [new]


def test_a_file_that_is_being_written_now_is_no_orphan(lake):
    fresh = layout.events_key("p1", T0, 900, layout.token(T0 + KEPT, lake.random(5)))
    lake.objects.put(fresh, b"not committed yet")
    assert lake.sweep(T0 + KEPT + SECOND) == 0
    assert fresh in lake.objects.keys("p1/events")
    assert lake.sweep(T0 + 2 * KEPT + SECOND) == 1
    assert fresh not in lake.objects.keys("p1/events")


def test_a_sweep_with_a_catalog_that_is_not_the_lakes_removes_nothing(lake, tmp_path):
    lake.sweep(T0)
    held = lake.objects.keys("")
    stranger = open_manifest(tmp_path / "restored.db")
    with pytest.raises(HeadwaterError, match="not the one this lake was written with"):
        sweep(stranger, lake.objects, stranger.take_lease(), T0 + 10 * KEPT)
    assert lake.objects.keys("") == held
    stranger.close()


def test_a_sweep_with_an_older_copy_of_the_catalog_removes_nothing(lake):
    write_current(lake.manifest, lake.objects, {"shop": "p1"})
    unknown = layout.events_key("p1", T0, 900, layout.token(T0, lake.random(5)))
    lake.objects.put(unknown, b"of after the copy was made")
    ahead = lake.objects.get("p1/manifest/current.json").replace(b'"position":300', b'"position":301')
    lake.objects.replace("p1/manifest/current.json", ahead)
    with pytest.raises(HeadwaterError, match="position 301"):
        lake.sweep(T0 + 10 * KEPT)
    assert unknown in lake.objects.keys("p1/events")
