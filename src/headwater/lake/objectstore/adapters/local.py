"""Objects as files in a local folder.

A put writes a temporary file under `.incoming/`, syncs it, links it to its name (which fails where the name is taken)
and syncs every folder that got a new name. A crash leaves at most a file in `.incoming/`, which the next process that
writes drops before its first put.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.errors import StoreFull, UsageError

INCOMING = ".incoming"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def _room(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFull(f"lake: no room on the disk for {key}; nothing of it was kept") from error
        raise


class LocalObjectStore:
    """See `ObjectStore`. One process writes below `root`; its threads may use one store together."""

    def __init__(self, root: Path) -> None:
        """Makes `root` where it is missing."""
        self._root = root.absolute()
        self._numbers = itertools.count()
        self._first_write = threading.Lock()
        self._wrote = False
        _make_folder(self._root)

    def put(self, key: str, data: bytes | memoryview) -> None:
        target = self._path(key)
        with _room(key), self._written(data) as temporary:
            _make_folder(target.parent)
            _link(temporary, target, key)
            sync_folder(target.parent)

    def adopt(self, key: str, file: Path) -> None:
        target = self._path(key)
        with _room(key):
            with file.open("rb") as source:
                os.fsync(source.fileno())
            _make_folder(target.parent)
            _link(file, target, key)
            sync_folder(target.parent)
        file.unlink()

    def get(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def local_path(self, key: str) -> Path:
        return self._path(key)

    def replace(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with _room(key), self._written(data) as temporary:
            _make_folder(target.parent)
            temporary.replace(target)
            sync_folder(target.parent)

    def move(self, key: str, to: str) -> None:
        source, target = self._path(key), self._path(to)
        if not source.exists() and target.exists():
            return
        with _room(to):
            _make_folder(target.parent)
            _link(source, target, to)
            sync_folder(target.parent)
        source.unlink()
        sync_folder(source.parent)

    def delete(self, keys: Iterable[str]) -> None:
        folders = set()
        for key in keys:
            path = self._path(key)
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                sync_folder(folder)

    def keys(self, prefix: str) -> list[str]:
        found = []
        start = self._path(prefix) if prefix else self._root
        for folder, folders, names in os.walk(start):
            folders[:] = [name for name in folders if name != INCOMING]
            found += [str((Path(folder) / name).relative_to(self._root)) for name in names]
        return sorted(found)

    def _path(self, key: str) -> Path:
        path = self._root / key
        if ".." in path.parts or not path.is_relative_to(self._root):
            raise UsageError(f"lake: {key!r} is no key; a key is a relative path without '..'")
        return path

    @contextmanager
    def _written(self, data: bytes | memoryview) -> Iterator[Path]:
        """A synced temporary file with `data`; gone afterwards, whatever happens."""
        folder = self._root / INCOMING
        with self._first_write:
            if not self._wrote:
                self._wrote = True
                folder.mkdir(exist_ok=True)
                for left in folder.iterdir():  # of a process that was stopped; there is one writer
                    left.unlink()
        temporary = folder / f"{os.getpid()}-{next(self._numbers)}"
        try:
            with temporary.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _link(source: Path, target: Path, key: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError as error:
        raise UsageError(f"lake: {key} exists already; a file of the lake is written once") from error


def _make_folder(folder: Path) -> None:
    """Makes `folder` and its parents durably."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
