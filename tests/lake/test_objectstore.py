"""The local object store, and the one in memory that tests use."""

import errno
import os

import pytest

from headwater.errors import StoreFull, UsageError
from headwater.lake.objectstore.adapters.local import LocalObjectStore
from headwater.testing.conformance_objectstore import KEY, ObjectStoreConformance
from headwater.testing.faults import FailingObjectStore, MemoryObjectStore, Stopped


class TestLocalObjectStore(ObjectStoreConformance):
    @pytest.fixture
    def objects(self, tmp_path):
        return LocalObjectStore(tmp_path / "lake")


class TestMemoryObjectStore(ObjectStoreConformance):
    @pytest.fixture
    def objects(self):
        return MemoryObjectStore()


class TestFailingObjectStoreWithoutFaults(ObjectStoreConformance):
    @pytest.fixture
    def objects(self):
        return FailingObjectStore(MemoryObjectStore())


def test_a_full_disk_keeps_nothing_and_says_so(tmp_path, monkeypatch):
    objects = LocalObjectStore(tmp_path / "lake")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreFull, match="no room"):
            objects.put(KEY, b"content")
    assert objects.keys("") == []
    objects.put(KEY, b"content")
    assert objects.get(KEY) == b"content"


def test_a_stop_in_the_middle_of_a_put_leaves_no_key_and_the_next_writer_drops_the_rest(tmp_path):
    objects = LocalObjectStore(tmp_path / "lake")
    left = tmp_path / "lake" / ".incoming" / "1-0"
    left.parent.mkdir()
    left.write_bytes(b"half")
    assert objects.keys("") == []
    objects.put(KEY, b"content")
    assert objects.keys("") == [KEY]
    assert list(left.parent.iterdir()) == []


def test_every_folder_that_got_a_name_is_synced(tmp_path, monkeypatch):
    objects = LocalObjectStore(tmp_path / "lake")
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    objects.put("p1/events/x", b"content")
    root = str(tmp_path / "lake")
    assert synced[0].startswith(f"{root}/.incoming/")
    assert synced[1:] == [root, f"{root}/p1", f"{root}/p1/events"]


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "p1/../../x"])
def test_a_key_never_leaves_the_root(tmp_path, key):
    with pytest.raises(UsageError):
        LocalObjectStore(tmp_path / "lake").put(key, b"x")


def test_faults_come_at_the_change_that_was_named():
    objects = FailingObjectStore(MemoryObjectStore(), {2: "full", 3: "before", 4: "after"})
    objects.put("a", b"1")
    with pytest.raises(StoreFull):
        objects.put("b", b"1")
    with pytest.raises(Stopped):
        objects.put("c", b"1")
    with pytest.raises(Stopped):
        objects.put("d", b"1")
    assert objects.keys("") == ["a", "d"]
