"""Faults on purpose: an object store in memory, and one that fails where a test wants it to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from headwater.errors import StoreFull, UsageError
from headwater.lake.objectstore.port import ObjectStore


class Stopped(BaseException):
    """Stands for the end of the process: nothing that handles errors catches it."""


class MemoryObjectStore:
    """See `ObjectStore`. Everything is gone with the object."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="headwater-objects-")

    def put(self, key: str, data: bytes | memoryview) -> None:
        if key in self._held:
            raise UsageError(f"lake: {key} exists already; a file of the lake is written once")
        self._held[key] = bytes(data)

    def adopt(self, key: str, file: Path) -> None:
        self.put(key, file.read_bytes())
        file.unlink()

    def get(self, key: str) -> bytes:
        if key not in self._held:
            raise FileNotFoundError(key)
        return self._held[key]

    def local_path(self, key: str) -> Path:
        path = Path(self._folder.name) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.get(key))
        return path

    def replace(self, key: str, data: bytes) -> None:
        self._held[key] = bytes(data)

    def move(self, key: str, to: str) -> None:
        if key not in self._held and to in self._held:
            return
        data = self.get(key)
        self.put(to, data)
        del self._held[key]

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._held.pop(key, None)

    def keys(self, prefix: str) -> list[str]:
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        return sorted(key for key in self._held if key.startswith(start))


class FailingObjectStore:
    """Another object store whose changes fail on command.

    Changes (`put`, `adopt`, `replace`, `move`, `delete`) are counted from 1. `fail_at` maps the number of a change to
    what happens there: `full` raises `StoreFull` and changes nothing, `before` raises `Stopped` before the change and
    `after` right behind it.
    """

    def __init__(self, inner: ObjectStore, fail_at: dict[int, str] | None = None) -> None:
        self._inner = inner
        self.fail_at = dict(fail_at or {})
        self.changes = 0

    def _change(self, key: str, change: Callable[[], None]) -> None:
        self.changes += 1
        fault = self.fail_at.get(self.changes)
        if fault == "full":
            raise StoreFull(f"lake: no room on the disk for {key}; nothing of it was kept")
        if fault == "before":
            raise Stopped(key)
        change()
        if fault == "after":
            raise Stopped(key)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._change(key, lambda: self._inner.put(key, data))

    def adopt(self, key: str, file: Path) -> None:
        self._change(key, lambda: self._inner.adopt(key, file))

    def replace(self, key: str, data: bytes) -> None:
        self._change(key, lambda: self._inner.replace(key, data))

    def move(self, key: str, to: str) -> None:
        self._change(key, lambda: self._inner.move(key, to))

    def delete(self, keys: Iterable[str]) -> None:
        held = list(keys)
        self._change(" ".join(held), lambda: self._inner.delete(held))

    def get(self, key: str) -> bytes:
        return self._inner.get(key)

    def local_path(self, key: str) -> Path:
        return self._inner.local_path(key)

    def keys(self, prefix: str) -> list[str]:
        return self._inner.keys(prefix)
