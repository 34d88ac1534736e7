"""The object store: immutable files under keys such as `p1/events/year=2015/.../part-0-ab12.parquet`.

A key is made of internal ids, times and random parts only, never of a name from outside. A file is written once,
whole; readers never list folders to find data (the manifest says what is there).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class ObjectStore(Protocol):
    def put(self, key: str, data: bytes | memoryview) -> None:
        """Stores `data` durably under `key`: after the return it survives a power cut, before it the key does not
        exist. Raises `UsageError` when the key exists, `StoreFull` when there is no room."""
        ...

    def adopt(self, key: str, file: Path) -> None:
        """Like `put`, from a finished local file, which is consumed."""
        ...

    def get(self, key: str) -> bytes:
        """Raises `FileNotFoundError` for an unknown key."""
        ...

    def local_path(self, key: str) -> Path:
        """A local file with the content of `key`, to read with a Parquet reader; not to be changed."""
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Like `put`, but replaces atomically; only for pointers such as `manifest/current.json`."""
        ...

    def move(self, key: str, to: str) -> None:
        """Renames; a missing `key` whose `to` exists is done already."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Removes; missing ones are no error."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted; for sweeps and rebuilds only."""
        ...
