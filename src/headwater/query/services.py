"""What the query process works with: the stores, a clock, a source of random bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from headwater.catalog.port import Control, ManifestReader
from headwater.clock import Clock
from headwater.eventlog.port import EventLogReader
from headwater.lake.objectstore.port import ObjectStore
from headwater.panes.port import PanesReader


class Analyst:
    """DuckDB as a library, in this process, for our own statements only; what users write runs elsewhere
    (`query.sql`). Threads share the memory limit and each take a connection of their own."""

    def __init__(self, threads: int = 2, memory: str = "512MB") -> None:
        self._settings: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "memory_limit": memory,
        }
        self._idle: list[duckdb.DuckDBPyConnection] = []
        self._lock = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to an in-memory database that nobody else uses meanwhile."""
        with self._lock:
            taken = self._idle.pop() if self._idle else None
        taken = taken or self._connect()
        try:
            yield taken
        except BaseException:
            taken.close()
            raise
        with self._lock:
            self._idle.append(taken)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        made = duckdb.connect(":memory:", config=self._settings)
        made.execute("SET TimeZone = 'UTC'")  # not taken as a setting of `connect`
        return made

    def close(self) -> None:
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()


@dataclass
class Services:
    """`data` is the data folder (for `status` and `run/`); everything else is reached through ports.

    `sql_memory_mb`, `sql_seconds`: limits of one ad-hoc statement (the process around it may use 128 MB more).
    `settle_seconds`: how long a change of control waits before it is answered, so that every process has it in force
    (ingest looks every 50 ms).
    """

    clock: Clock
    control: Control
    log: EventLogReader
    manifest: ManifestReader
    panes: PanesReader
    objects: ObjectStore
    data: Path
    random_bytes: Callable[[int], bytes]
    sql_memory_mb: int = 512
    sql_seconds: float = 30.0
    settle_seconds: float = 0.06
    analyst: Analyst = field(default_factory=Analyst)
    _log_lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def reading_log(self) -> Iterator[EventLogReader]:
        """The log, for one thread at a time."""
        with self._log_lock:
            yield self.log

    def local_paths(self, keys: list[str]) -> list[str]:
        """Local files with the content of lake keys, in the same order."""
        return [str(self.objects.local_path(key)) for key in keys]

    def close(self) -> None:
        self.analyst.close()
        for store in (self.log, self.manifest, self.panes, self.control):
            store.close()
