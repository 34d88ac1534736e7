"""What every adapter of the object store does.

class TestMyStore(ObjectStoreConformance):
    @pytest.fixture
    def objects(self, tmp_path):
        return MyObjectStore(tmp_path / "lake")
"""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.errors import UsageError
from headwater.lake.objectstore.port import ObjectStore

KEY = "p1/events/year=2024/month=01/day=15/hour=10/part-0-ab12.parquet"


class ObjectStoreConformance:
    """Each test is one promise of `lake.objectstore.port`."""

    def test_what_was_put_is_read_back(self, objects: ObjectStore) -> None:
        objects.put(KEY, b"first")
        objects.put("p1/other", memoryview(b"second"))
        assert objects.get(KEY) == b"first"
        assert objects.get("p1/other") == b"second"
        assert objects.local_path(KEY).read_bytes() == b"first"

    def test_a_key_is_written_once(self, objects: ObjectStore) -> None:
        objects.put(KEY, b"first")
        with pytest.raises(UsageError):
            objects.put(KEY, b"second")
        assert objects.get(KEY) == b"first"
        assert objects.keys("") == [KEY]

    def test_an_unknown_key_is_not_found(self, objects: ObjectStore) -> None:
        with pytest.raises(FileNotFoundError):
            objects.get(KEY)

    def test_a_finished_file_is_adopted_and_consumed(self, objects: ObjectStore, tmp_path: Path) -> None:
        file = tmp_path / "made"
        file.write_bytes(b"content")
        objects.adopt(KEY, file)
        assert objects.get(KEY) == b"content"
        assert not file.exists()
        file.write_bytes(b"other")
        with pytest.raises(UsageError):
            objects.adopt(KEY, file)
        assert objects.get(KEY) == b"content"

    def test_a_pointer_is_replaced(self, objects: ObjectStore) -> None:
        objects.replace("p1/manifest/current.json", b"{}")
        objects.replace("p1/manifest/current.json", b'{"a":1}')
        assert objects.get("p1/manifest/current.json") == b'{"a":1}'

    def test_a_move_renames_and_can_be_repeated(self, objects: ObjectStore) -> None:
        objects.put(KEY, b"content")
        objects.move(KEY, "p1/trash/a")
        objects.move(KEY, "p1/trash/a")
        assert objects.keys("") == ["p1/trash/a"]
        assert objects.get("p1/trash/a") == b"content"

    def test_a_move_never_replaces(self, objects: ObjectStore) -> None:
        objects.put(KEY, b"content")
        objects.put("p1/trash/a", b"other")
        with pytest.raises(UsageError):
            objects.move(KEY, "p1/trash/a")
        assert objects.get(KEY) == b"content"
        assert objects.get("p1/trash/a") == b"other"

    def test_a_move_of_nothing_to_nowhere_is_not_found(self, objects: ObjectStore) -> None:
        with pytest.raises(FileNotFoundError):
            objects.move(KEY, "p1/trash/a")

    def test_deleting_removes_and_can_be_repeated(self, objects: ObjectStore) -> None:
        objects.put(KEY, b"content")
        objects.put("p1/kept", b"kept")
        objects.delete([KEY, "p1/never"])
        objects.delete([KEY])
        assert objects.keys("") == ["p1/kept"]

    def test_keys_below_a_prefix_are_sorted(self, objects: ObjectStore) -> None:
        for key in ("p1/events/b", "p1/events/a", "p10/events/a", "p1/rollups/a"):
            objects.put(key, b"x")
        assert objects.keys("p1/events") == ["p1/events/a", "p1/events/b"]
        assert objects.keys("p1") == ["p1/events/a", "p1/events/b", "p1/rollups/a"]
        assert objects.keys("") == ["p1/events/a", "p1/events/b", "p1/rollups/a", "p10/events/a"]
        assert objects.keys("p2") == []
