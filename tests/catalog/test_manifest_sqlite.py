"""The manifest on SQLite."""

import threading

import apsw
import pytest

from headwater.catalog.adapters.manifest_sqlite import open_manifest, open_manifest_reader
from headwater.catalog.port import ArchiveCommit
from headwater.errors import StoreFull
from headwater.testing.conformance_manifest import T0, ManifestConformance, Stores, lake_file


class TestSqliteManifest(ManifestConformance):
    @pytest.fixture
    def stores(self, tmp_path):
        path = tmp_path / "manifest.db"
        return Stores(writer=lambda: open_manifest(path), reader=lambda: open_manifest_reader(path))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "manifest.db"


def test_writes_are_synced_before_they_return(path):
    manifest = open_manifest(path)
    (mode,) = manifest._db.execute("PRAGMA journal_mode").fetchall()
    (level,) = manifest._db.execute("PRAGMA synchronous").fetchall()
    assert (mode, level) == (("wal",), (2,))
    manifest.close()


def test_a_full_disk_changes_nothing_and_the_next_commit_goes_on(path):
    manifest = open_manifest(path)
    epoch = manifest.take_lease()
    pages = manifest._db.execute("PRAGMA page_count").fetchall()[0][0]
    manifest._db.execute(f"PRAGMA max_page_count={pages}")
    many = [lake_file(f"{n:0200}") for n in range(500)]
    with pytest.raises(StoreFull):
        manifest.commit(ArchiveCommit(0, 10, T0, epoch, many))
    with manifest.view() as view:
        assert view.files() == []
        assert view.position().next == 0
    manifest._db.execute("PRAGMA max_page_count=1000000")
    manifest.commit(ArchiveCommit(0, 10, T0, epoch, many))
    with manifest.view() as view:
        assert len(view.files()) == 500
    manifest.close()


def test_views_of_many_threads_never_disturb_commits(path):
    manifest, reader = open_manifest(path), open_manifest_reader(path)
    epoch = manifest.take_lease()
    broken, done = [], threading.Event()

    def look():
        while not done.is_set():
            with reader.view() as view:
                if len(view.files()) * 10 != view.position().next:
                    broken.append(view.position())

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for at in range(0, 300, 10):
        manifest.commit(ArchiveCommit(at, at + 10, T0, epoch, [lake_file(str(at))]))
    done.set()
    for thread in threads:
        thread.join()
    assert broken == []
    reader.close()
    manifest.close()


def test_readers_cannot_write(path):
    manifest, reader = open_manifest(path), open_manifest_reader(path)
    with reader.view() as view, pytest.raises(apsw.ReadOnlyError):
        view._db.execute("DELETE FROM state")
    reader.close()
    manifest.close()
