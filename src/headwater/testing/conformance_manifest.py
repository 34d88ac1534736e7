"""What every adapter of the catalog's manifest half does.

class TestMyManifest(ManifestConformance):
    @pytest.fixture
    def stores(self, tmp_path):
        return Stores(writer=lambda: open_manifest(tmp_path / "m"), reader=lambda: open_reader(tmp_path / "m"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from headwater.catalog.port import ArchiveCommit, Chunk, LakeFile, Manifest, ManifestReader, Skipped
from headwater.clock import HOUR, SECOND
from headwater.errors import Fenced, Locked, UsageError
from headwater.model.rejection import Rejection

T0 = 472_222 * HOUR


@dataclass(frozen=True)
class Stores:
    """Open the writer and a reader of one and the same store, which does not exist before the first writer."""

    writer: Callable[[], Manifest]
    reader: Callable[[], ManifestReader]


def lake_file(name: str, *, hour: int = T0, project: str = "shop", epoch: int = 1) -> LakeFile:
    """A row for a file that nobody opens."""
    return LakeFile(
        path=f"p1/events/{name}.parquet",
        project_id=project,
        hour=hour,
        rows=10,
        bytes=600,
        min_timestamp=hour + SECOND,
        max_timestamp=hour + 9 * SECOND,
        min_received_at=hour + 2 * SECOND,
        max_received_at=hour + 10 * SECOND,
        first_position=0,
        next_position=10,
        checksum="00c0ffee",
        epoch=epoch,
        promoted={"number:amount": "p_1"},
    )


def conflict(event_id: str = "e1", at: int = T0) -> Rejection:
    return Rejection("shop", at, "archive", "conflict", "differs from the first", b"{}", event_id)


class ManifestConformance:
    """Each test is one promise of `catalog.port`."""

    @pytest.fixture
    def manifest(self, stores: Stores) -> Iterator[Manifest]:
        manifest = stores.writer()
        yield manifest
        manifest.close()

    @pytest.fixture
    def epoch(self, manifest: Manifest) -> int:
        return manifest.take_lease()

    def commit(self, manifest: Manifest, epoch: int, names: Sequence[str], first: int = 0) -> list[LakeFile]:
        files = [lake_file(name) for name in names]
        return manifest.commit(ArchiveCommit(first, first + 10, T0 + SECOND, epoch, files))

    # -- committing ------------------------------------------------------------------------------------------------

    def test_a_commit_adds_files_and_moves_the_position(self, manifest: Manifest, epoch: int) -> None:
        added = self.commit(manifest, epoch, ["a", "b"])
        with manifest.view() as view:
            assert view.files() == added
            assert [replace(f, id=0) for f in added] == [lake_file("a"), lake_file("b")]
            assert len({f.id for f in added}) == 2
            assert (view.position().next, view.position().received_at) == (10, T0 + SECOND)

    def test_a_new_manifest_is_at_the_beginning(self, manifest: Manifest) -> None:
        with manifest.view() as view:
            assert (view.position().next, view.position().received_at) == (0, None)
            assert view.files() == []
            assert view.skipped() == []

    def test_a_commit_that_does_not_connect_changes_nothing(self, manifest: Manifest, epoch: int) -> None:
        self.commit(manifest, epoch, ["a"])
        for first in (0, 9, 11):
            with pytest.raises(Fenced):
                self.commit(manifest, epoch, ["b"], first)
        with manifest.view() as view:
            assert [f.path for f in view.files()] == ["p1/events/a.parquet"]
            assert view.revisions("shop", T0, T0 + HOUR) == {T0: 1}
            assert view.position().next == 10

    def test_an_owner_that_was_replaced_changes_nothing(self, manifest: Manifest, epoch: int) -> None:
        (a,) = self.commit(manifest, epoch, ["a"])
        assert manifest.take_lease() > epoch
        chunk = Chunk("shop", T0, "p1/rollups/c", 1, (a.id,), ("events@1",))
        for act in (
            lambda: self.commit(manifest, epoch, ["b"], 10),
            lambda: manifest.replace_files(epoch, [a.id], [lake_file("b")], T0),
            lambda: manifest.put_chunk(epoch, chunk),
            lambda: manifest.forget_trash(epoch, [a.id]),
            lambda: manifest.set_job(epoch, 1, "done"),
        ):
            with pytest.raises(Fenced):
                act()
        with manifest.view() as view:
            assert view.files() == [a]
            assert view.chunks("shop", T0, T0 + HOUR) == []
            assert view.jobs_done() == {}

    def test_a_failing_commit_leaves_nothing_behind(self, manifest: Manifest, epoch: int) -> None:
        with pytest.raises(Exception):  # noqa: B017 - which error a path taken twice is, is the adapter's
            self.commit(manifest, epoch, ["a", "a"])
        with manifest.view() as view:
            assert view.files() == []
            assert view.position().next == 0

    # -- what a view shows ---------------------------------------------------------------------------------------------

    def test_files_are_found_by_project_and_hour(self, manifest: Manifest, epoch: int) -> None:
        files = [
            lake_file("late", hour=T0 + HOUR),
            lake_file("a"),
            lake_file("other", project="blog"),
            lake_file("b"),
        ]
        manifest.commit(ArchiveCommit(0, 10, T0, epoch, files))
        with manifest.view() as view:
            names = [f.path[len("p1/events/") : -len(".parquet")] for f in view.files("shop")]
            assert names == ["a", "b", "late"]
            assert len(view.files("shop", T0, T0 + HOUR)) == 2
            assert len(view.files("shop", T0 + 1)) == 1
            assert len(view.files(None, None, T0 + HOUR)) == 3
            assert view.files("nobody") == []

    def test_revisions_rise_with_every_change_of_the_hour(self, manifest: Manifest, epoch: int) -> None:
        (a,) = self.commit(manifest, epoch, ["a"])
        (b,) = self.commit(manifest, epoch, ["b"], 10)
        manifest.replace_files(epoch, [a.id, b.id], [lake_file("c")], T0)
        manifest.commit(ArchiveCommit(20, 30, T0, epoch, [lake_file("d", hour=T0 + HOUR)]))
        with manifest.view() as view:
            assert view.revisions("shop", T0, T0 + 2 * HOUR) == {T0: 3, T0 + HOUR: 1}
            assert view.revisions("shop", T0 + 1, T0 + HOUR) == {}

    def test_a_view_sees_one_moment(self, stores: Stores, manifest: Manifest, epoch: int) -> None:
        reader = stores.reader()
        self.commit(manifest, epoch, ["a"])
        with reader.view() as view:
            self.commit(manifest, epoch, ["b"], 10)
            assert (len(view.files()), view.position().next) == (1, 10)
        with reader.view() as view:
            assert (len(view.files()), view.position().next) == (2, 20)
        reader.close()

    def test_a_reader_may_come_before_the_writer(self, stores: Stores) -> None:
        reader = stores.reader()
        with reader.view() as view:
            assert view.files() == []
            assert view.position().next == 0
        manifest = stores.writer()
        self.commit(manifest, manifest.take_lease(), ["a"])
        with reader.view() as view:
            assert len(view.files()) == 1
        reader.close()
        manifest.close()

    def test_skipped_events_add_up(self, manifest: Manifest, epoch: int) -> None:
        manifest.commit(ArchiveCommit(0, 5, T0, epoch, skipped=[Skipped("shop", T0, 2, 1), Skipped("blog", T0, 1, 0)]))
        manifest.commit(ArchiveCommit(5, 9, T0, epoch, skipped=[Skipped("shop", T0, 3, 1)]))
        with manifest.view() as view:
            assert sorted(view.skipped(), key=lambda s: s.project_id) == [
                Skipped("blog", T0, 1, 0),
                Skipped("shop", T0, 5, 2),
            ]

    # -- rejections ----------------------------------------------------------------------------------------------------

    def test_rejections_are_listed_newest_first_in_pages(self, manifest: Manifest, epoch: int) -> None:
        held = [conflict(f"e{i}", T0 + i * SECOND) for i in range(5)]
        manifest.commit(ArchiveCommit(0, 5, T0, epoch, rejections=held))
        with manifest.view() as view:
            page = view.rejections("shop", limit=2)
            assert [k.rejection.event_id for k in page] == ["e4", "e3"]
            assert all(k.id.startswith("m") and k.status == "open" for k in page)
            rest = view.rejections("shop", before=page[-1].id)
            assert [k.rejection.event_id for k in rest] == ["e2", "e1", "e0"]
            assert len(view.rejections("shop", since=T0 + 3 * SECOND)) == 2
            assert view.rejections("shop", reason="too_old") == []
            assert view.rejections("blog") == []
            assert view.rejections("shop", before="i3") == []

    def test_a_rejection_is_had_by_its_id_in_its_project_only(self, manifest: Manifest, epoch: int) -> None:
        manifest.commit(ArchiveCommit(0, 1, T0, epoch, rejections=[conflict()]))
        with manifest.view() as view:
            (kept,) = view.rejections("shop")
            assert view.rejection("shop", kept.id) == kept
            assert view.rejection("blog", kept.id) is None
            assert view.rejection("shop", "m999") is None
            assert view.rejection("shop", "nonsense") is None
            assert view.rejection("shop", "i" + kept.id[1:]) is None

    def test_ten_conflicts_of_an_id_and_hour_are_kept(self, manifest: Manifest, epoch: int) -> None:
        manifest.commit(ArchiveCommit(0, 8, T0, epoch, rejections=[conflict() for _ in range(8)]))
        more = [*(conflict() for _ in range(8)), conflict("e2"), conflict(at=T0 + HOUR)]
        manifest.commit(ArchiveCommit(8, 18, T0, epoch, rejections=more))
        with manifest.view() as view:
            assert len(view.rejections("shop")) == 12

    # -- compaction and chunks -----------------------------------------------------------------------------------------

    def test_replaced_files_become_trash_and_are_forgotten(self, manifest: Manifest, epoch: int) -> None:
        a, b = self.commit(manifest, epoch, ["a", "b"])
        (c,) = manifest.replace_files(epoch, [a.id, b.id], [lake_file("c")], T0)
        with manifest.view() as view:
            assert view.files() == [c]
        assert manifest.trash(T0) == []
        assert manifest.trash(T0 + 1) == [a, b]
        manifest.forget_trash(epoch, [a.id, c.id])
        assert manifest.trash(T0 + 1) == [b]
        with manifest.view() as view:
            assert view.files() == [c], "a live file is no trash"

    def test_a_file_is_replaced_once(self, manifest: Manifest, epoch: int) -> None:
        a, b = self.commit(manifest, epoch, ["a", "b"])
        manifest.replace_files(epoch, [a.id], [lake_file("c")], T0)
        with pytest.raises(Fenced):
            manifest.replace_files(epoch, [a.id, b.id], [lake_file("d")], T0)
        with manifest.view() as view:
            assert [f.path for f in view.files()] == ["p1/events/b.parquet", "p1/events/c.parquet"]

    def test_a_chunk_replaces_the_one_of_its_hour(self, manifest: Manifest, epoch: int) -> None:
        a, b = self.commit(manifest, epoch, ["a", "b"])
        one = Chunk("shop", T0, "p1/rollups/1", 1, (a.id,), ("events@1",))
        two = Chunk("shop", T0, "p1/rollups/2", 1, (a.id, b.id), ("events@1", "sales@2"))
        assert manifest.put_chunk(epoch, one) is None
        assert manifest.put_chunk(epoch, two) == "p1/rollups/1"
        with manifest.view() as view:
            assert view.chunks("shop", T0, T0 + HOUR) == [two]
            assert view.chunks("shop", T0 + HOUR, T0 + 2 * HOUR) == []
            assert view.revisions("shop", T0, T0 + HOUR) == {T0: 1}, "a chunk changes no number"

    def test_a_chunk_of_a_file_that_is_gone_is_refused(self, manifest: Manifest, epoch: int) -> None:
        a, b = self.commit(manifest, epoch, ["a", "b"])
        manifest.replace_files(epoch, [a.id], [lake_file("c")], T0)
        with pytest.raises(Fenced):
            manifest.put_chunk(epoch, Chunk("shop", T0, "p1/rollups/1", 1, (a.id, b.id), ()))

    def test_compaction_of_files_in_a_chunk_keeps_the_chunk(self, manifest: Manifest, epoch: int) -> None:
        a, b, c = self.commit(manifest, epoch, ["a", "b", "c"])
        manifest.put_chunk(epoch, Chunk("shop", T0, "p1/rollups/1", 1, (a.id, b.id, c.id), ("events@1",)))
        (d,) = manifest.replace_files(epoch, [a.id, b.id], [lake_file("d")], T0)
        with manifest.view() as view:
            (chunk,) = view.chunks("shop", T0, T0 + HOUR)
        assert chunk == Chunk("shop", T0, "p1/rollups/1", 1, (c.id, d.id), ("events@1",))

    def test_compaction_across_the_edge_of_a_chunk_drops_the_chunk(self, manifest: Manifest, epoch: int) -> None:
        a, b = self.commit(manifest, epoch, ["a", "b"])
        manifest.put_chunk(epoch, Chunk("shop", T0, "p1/rollups/1", 1, (a.id,), ("events@1",)))
        manifest.replace_files(epoch, [a.id, b.id], [lake_file("c")], T0)
        with manifest.view() as view:
            assert view.chunks("shop", T0, T0 + HOUR) == []

    # -- the rest -----------------------------------------------------------------------------------------------------

    def test_promoted_columns_never_change_and_end_at_64(self, manifest: Manifest) -> None:
        first = manifest.promote("shop", [("amount", "number"), ("amount", "text"), ("amount", "number")])
        assert first == {("amount", "number"): "p_1", ("amount", "text"): "p_2"}
        full = manifest.promote("shop", [(f"x{i}", "text") for i in range(100)])
        assert len(full) == 64
        assert full | first == full
        assert manifest.promoted("shop") == full
        assert manifest.promote("blog", [("amount", "text")]) == {("amount", "text"): "p_1"}
        with manifest.view() as view:
            assert view.promoted("shop") == full
        with pytest.raises(UsageError):
            manifest.promote("shop", [("amount", "date")])

    def test_jobs_and_markers_are_kept(self, manifest: Manifest, epoch: int) -> None:
        manifest.set_job(epoch, 1, "running")
        manifest.set_job(epoch, 1, "done")
        manifest.set_job(epoch, 2, "failed: why")
        manifest.set_progress("batch.last_run", "1")
        manifest.set_progress("batch.last_run", "2")
        with manifest.view() as view:
            assert view.jobs_done() == {1: "done", 2: "failed: why"}
            assert view.progress("batch.last_run") == "2"
            assert view.progress("unknown") is None

    def test_everything_survives_a_restart(self, stores: Stores) -> None:
        manifest = stores.writer()
        epoch, incarnation = manifest.take_lease(), manifest.incarnation()
        added = self.commit(manifest, epoch, ["a"])
        manifest.close()
        again = stores.writer()
        assert again.incarnation() == incarnation
        assert again.take_lease() == epoch + 1
        with again.view() as view:
            assert view.files() == added
        again.close()

    def test_there_is_one_writer(self, stores: Stores, manifest: Manifest) -> None:
        with pytest.raises(Locked):
            stores.writer()
