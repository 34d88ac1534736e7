"""The embedded event log: one SQLite file in WAL mode, one compressed blob a group commit.

An append is one transaction with `synchronous=FULL`, so its return means that the pages are on disk. The order of an
append, all inside the transaction: (1) the record, (2) the counters of accepted events, (3) the rejected input, (4) the
next position. A crash before COMMIT leaves none of them, after it all. Only the writer checkpoints, and never inside
an append.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pyarrow as pa

from headwater.clock import DAY, SECOND, hour_of
from headwater.errors import Locked, StoreFull, Unreachable, UsageError
from headwater.eventlog.port import Accepted, LogCapabilities, LogRecord
from headwater.model import batch as event_batch
from headwater.model.rejection import KeptRejection, Rejection

CAPABILITIES = LogCapabilities(partitions=1, durable=True)
FILE = "log.db"
CHECKPOINT_PAGES = 8_000
SCHEMA = """
CREATE TABLE IF NOT EXISTS record(first INTEGER PRIMARY KEY, next INTEGER NOT NULL, received_at INTEGER NOT NULL,
  bytes INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS accepted(project TEXT, hour INTEGER, events INTEGER NOT NULL, PRIMARY KEY(project, hour))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejected(id INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL,
  received_at INTEGER NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS rejected_by_project ON rejected(project, id);
CREATE TABLE IF NOT EXISTS state(one INTEGER PRIMARY KEY CHECK(one = 1), next INTEGER NOT NULL, begin INTEGER NOT NULL,
  received_at INTEGER, bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO state VALUES(1, 0, 0, NULL, 0);
"""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Rejection)


@contextmanager
def _room() -> Iterator[None]:
    """Turns "there is no room" of any kind into `StoreFull`; the transaction has been rolled back by then."""
    try:
        yield
    except (apsw.FullError, apsw.IOError) as error:
        raise StoreFull(f"event log: the disk took no more ({error}); nothing of this append was kept") from error


class SqliteLogWriter:
    """See `EventLogWriter`. `cap_bytes` and `keep_us` bound what was read; what was not read only ever refuses."""

    def __init__(self, folder: Path, *, cap_bytes: int, keep_us: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(folder / "log.lock", "wb")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Locked(f"event log: another process already writes {folder / FILE}; stop it first") from error
        self._cap_bytes = cap_bytes
        self._keep_us = keep_us
        self._db = apsw.Connection(str(folder / FILE))
        self._db.set_busy_timeout(10_000)
        self._db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA auto_vacuum=INCREMENTAL;")
        self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self._db.execute(SCHEMA)
        _sync_folder(folder)
        self._next, self._received_at, self._bytes = next(
            self._db.execute("SELECT next, ifnull(received_at, 0), bytes FROM state")
        )

    def append(self, batch: pa.RecordBatch | None, rejections: Sequence[Rejection] = ()) -> int:
        first = self._next
        rows = batch.num_rows if batch is not None else 0
        body = event_batch.encode(batch) if rows else b""
        if self._bytes + len(body) > self._cap_bytes:
            raise StoreFull(
                f"event log: {self._bytes} bytes of events wait to be archived and the cap is {self._cap_bytes}; "
                "see `headwater status` for what holds the archive up"
            )
        received_at = self._received_at
        with _room(), self._db:
            if batch is not None and rows:
                received = batch.column("received_at").cast(pa.int64())
                received_at = int(received[rows - 1].as_py())
                self._db.execute(
                    "INSERT INTO record VALUES(?,?,?,?,?)", (first, first + rows, received_at, len(body), body)
                )
                self._db.executemany(
                    "INSERT INTO accepted VALUES(?,?,?) ON CONFLICT DO UPDATE SET events = events + excluded.events",
                    [(p, h, n) for (p, h), n in _accepted(batch, received).items()],
                )
            if rejections:
                self._db.executemany(
                    "INSERT INTO rejected(project, received_at, reason, body) VALUES(?,?,?,?)",
                    [(r.project_id, r.received_at, r.reason, _encoder.encode(r)) for r in rejections],
                )
            self._db.execute(
                "UPDATE state SET next=?, received_at=?, bytes=bytes+?",
                (first + rows, received_at or None, len(body)),
            )
        self._next, self._received_at, self._bytes = first + rows, received_at, self._bytes + len(body)
        return int(first)

    def trim(self, read_up_to: int, now_us: int) -> int:
        freed = 0
        while True:
            oldest = "SELECT first, next, received_at, bytes FROM record ORDER BY first LIMIT 1"
            row = self._db.execute(oldest).fetchone()
            if row is None or row[1] > read_up_to:
                break
            if row[2] >= now_us - self._keep_us and self._bytes <= self._cap_bytes * 9 // 10:
                break
            with _room(), self._db:
                self._db.execute("DELETE FROM record WHERE first=?", (row[0],))
                self._db.execute("UPDATE state SET begin=?, bytes=bytes-?", (row[1], row[3]))
            self._bytes -= row[3]
            freed += row[3]
        if freed:
            self._db.execute("PRAGMA incremental_vacuum(2000)").fetchall()
        return freed

    def bytes_held(self) -> int:
        return int(self._bytes)

    def last_received_at(self) -> int:
        """Receipt of the newest event, 0 before the first: what the next receipt may not fall behind."""
        return int(self._received_at)

    def close(self) -> None:
        self._db.close()
        self._lock.close()


class SqliteLogReader:
    """See `EventLogReader`. Opens the file when it is there; before that the log is empty."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._connection: apsw.Connection | None = None

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self._connection is None:
            if not self._path.exists():
                return []
            self._connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            self._connection.set_busy_timeout(5_000)
        try:
            return self._connection.execute(sql, tuple(parameters)).fetchall()
        except apsw.SQLError as error:
            if "no such table" in str(error):  # the writer is about to make them
                return []
            raise Unreachable(f"event log {self._path}: {error}") from error

    def read(self, position: int, max_bytes: int) -> list[LogRecord]:
        begin, end = self._state()
        if position < begin:
            raise UsageError(f"event log: position {position} was trimmed away; the log begins at {begin}")
        if position >= end:
            return []
        start = self._rows("SELECT max(first) FROM record WHERE first <= ?", (position,))[0][0]
        records: list[LogRecord] = []
        size = 0
        while size < max_bytes:
            rows = self._rows(
                "SELECT first, next, bytes, body FROM record WHERE first >= ? ORDER BY first LIMIT 64", (start,)
            )
            for first, following, held, body in rows:
                if size and size + held > max_bytes:
                    return records
                records.append(LogRecord(first, event_batch.decode(body)))
                size += held
                start = following
            if len(rows) < 64:
                break
        return records

    def begin(self) -> int:
        return self._state()[0]

    def end(self) -> int:
        return self._state()[1]

    def _state(self) -> tuple[int, int]:
        rows = self._rows("SELECT begin, next FROM state")
        return (rows[0][0], rows[0][1]) if rows else (0, 0)

    def last_received_at(self) -> int | None:
        rows = self._rows("SELECT received_at FROM state")
        return rows[0][0] if rows else None

    def accepted(self) -> list[Accepted]:
        return self.snapshot()[1]

    def snapshot(self) -> tuple[int, list[Accepted]]:
        rows = self._rows(
            "SELECT s.next, a.project, a.hour, a.events FROM state s LEFT JOIN accepted a ORDER BY a.project, a.hour"
        )
        end = rows[0][0] if rows else 0
        return end, [Accepted(p, h, n) for _, p, h, n in rows if p is not None]

    def rejections(
        self,
        project_id: str,
        *,
        since: int = 0,
        reason: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[KeptRejection]:
        rows = self._rows(
            "SELECT id, body FROM rejected WHERE project = ? AND received_at >= ? AND (?3 IS NULL OR reason = ?3)"
            " AND (?4 IS NULL OR id < ?4) ORDER BY id DESC LIMIT ?5",
            (project_id, since, reason, _number(before), limit),
        )
        return [KeptRejection(f"i{number}", _decoder.decode(body)) for number, body in rows]

    def rejection(self, project_id: str, rejection_id: str) -> KeptRejection | None:
        rows = self._rows(
            "SELECT id, body FROM rejected WHERE project = ? AND id = ?", (project_id, _number(rejection_id) or 0)
        )
        return KeptRejection(f"i{rows[0][0]}", _decoder.decode(rows[0][1])) if rows else None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _accepted(batch: pa.RecordBatch, received: pa.Array) -> Counter[tuple[str, int]]:
    hours = [hour_of(us) for us in received.to_pylist()]
    return Counter(zip(batch.column("project_id").to_pylist(), hours, strict=True))


def _number(rejection_id: str | None) -> int | None:
    if rejection_id is None:
        return None
    digits = rejection_id[1:]
    return int(digits) if rejection_id[:1] == "i" and digits.isdigit() else 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_writer(folder: Path, *, cap_bytes: int = 10 << 30, keep_seconds: int = 7 * DAY // SECOND) -> SqliteLogWriter:
    """The one writer of the log in `folder`. Raises `Locked` where there is one already."""
    return SqliteLogWriter(folder, cap_bytes=cap_bytes, keep_us=keep_seconds * SECOND)


def open_reader(folder: Path) -> SqliteLogReader:
    """A reader of the log in `folder`, which need not exist yet."""
    return SqliteLogReader(folder)
