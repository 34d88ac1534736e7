"""The embedded event log: one SQLite file in WAL mode, one row per append.

The writer holds a file lock. A checkpoint runs on a thread of its own, so that no append waits for one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pyarrow as pa
import pyarrow.compute as pc

from headwater.clock import DAY, HOUR, SECOND
from headwater.errors import Corrupt, Locked, StoreFull, Unreachable, UsageError
from headwater.eventlog.port import Accepted, LogCapabilities, LogRecord
from headwater.model import batch as event_batch
from headwater.model.rejection import KEPT_BYTES, KeptRejection, Rejection

CAPABILITIES = LogCapabilities(partitions=1, durable=True)
FORMAT = 1
FILE = "log.db"
GIB = 1 << 30

# `body` comes last so that the columns before it are read without its overflow pages.
_SCHEMA = """
CREATE TABLE records (
    first INTEGER PRIMARY KEY, next INTEGER NOT NULL, last_received_at INTEGER NOT NULL, bytes INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE rejected (
    id INTEGER PRIMARY KEY AUTOINCREMENT, project_id TEXT NOT NULL, received_at INTEGER NOT NULL, stage TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, event_id TEXT, cut INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX rejected_by_project ON rejected (project_id, id);
CREATE TABLE accepted (
    project_id TEXT NOT NULL, hour INTEGER NOT NULL, events INTEGER NOT NULL, PRIMARY KEY (project_id, hour)
) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
INSERT INTO meta VALUES ('next', 0), ('last_received_at', NULL), ('bytes', 0);
"""
_REJECTION_COLUMNS = "id, project_id, received_at, stage, reason, detail, body, event_id, cut"
_TRIM_ROWS = 500
_CHECKPOINT_SECONDS = 1.0
_WAL_WORTH_A_CHECKPOINT = 4 << 20
# Under constant writes a passive checkpoint never lets the WAL start again; above this size the writer waits for one.
_WAL_TOO_LARGE = 128 << 20


def open_writer(folder: Path, *, cap_bytes: int = 10 * GIB, keep_seconds: int = 7 * DAY // SECOND) -> SqliteLogWriter:
    """The one writer of the log under `folder`, which is made where it is missing.

    What was read is kept `keep_seconds` or up to `cap_bytes`, whichever is less; above `cap_bytes` of what was not
    read, `append` raises `StoreFull`. Raises `Locked` when another writer is at work.
    """
    return SqliteLogWriter(folder, cap_bytes, keep_seconds)


def open_reader(folder: Path) -> SqliteLogReader:
    """A reader of the log under `folder`; empty as long as no writer has made one."""
    return SqliteLogReader(folder)


class SqliteLogReader:
    """Implements `EventLogReader`. May be shared among threads."""

    capabilities = CAPABILITIES

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._connection: apsw.Connection | None = None
        self._lock = threading.Lock()

    def read(self, position: int, max_bytes: int) -> list[LogRecord]:
        """See the port. Stored bytes are counted compressed."""
        stored: list[tuple[int, int, bytes]] = []
        with self._reading() as connection:
            if connection is None:
                return []
            begin, end = _bounds(connection)
            if position < begin:
                raise UsageError(f"event log: position {position} was trimmed away; the log begins at {begin}")
            if position >= end:
                return []
            held = 0
            rows = connection.execute(
                "SELECT first, next, body FROM records "
                "WHERE first >= (SELECT max(first) FROM records WHERE first <= ?) ORDER BY first",
                (position,),
            )
            for first, following, body in rows:
                stored.append((first, following, body))
                held += len(body)
                if held >= max_bytes:
                    break
            rows.close(True)
        return [_record(first, following, body) for first, following, body in stored]

    def begin(self) -> int:
        with self._reading() as connection:
            return _bounds(connection)[0] if connection else 0

    def end(self) -> int:
        with self._reading() as connection:
            return int(_meta(connection, "next") or 0) if connection else 0

    def last_received_at(self) -> int | None:
        with self._reading() as connection:
            return _meta(connection, "last_received_at") if connection else None

    def accepted(self) -> list[Accepted]:
        return self.snapshot()[1]

    def snapshot(self) -> tuple[int, list[Accepted]]:
        with self._reading() as connection:
            if connection is None:
                return 0, []
            counts = connection.execute("SELECT project_id, hour, events FROM accepted ORDER BY project_id, hour")
            return int(_meta(connection, "next") or 0), [Accepted(*row) for row in counts]

    def rejections(
        self,
        project_id: str,
        *,
        since: int = 0,
        reason: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[KeptRejection]:
        number = None if before is None else _rejection_number(before)
        with self._reading() as connection:
            if connection is None or (before is not None and number is None):
                return []
            rows = connection.execute(
                f"SELECT {_REJECTION_COLUMNS} FROM rejected WHERE project_id = :project AND id < :before "
                "AND received_at >= :since AND (:reason IS NULL OR reason = :reason) ORDER BY id DESC LIMIT :limit",
                {
                    "project": project_id,
                    "before": 1 << 62 if number is None else number,
                    "since": since,
                    "reason": reason,
                    "limit": limit,
                },
            )
            return [_kept(row) for row in rows]

    def rejection(self, project_id: str, rejection_id: str) -> KeptRejection | None:
        number = _rejection_number(rejection_id)
        with self._reading() as connection:
            if connection is None or number is None:
                return None
            rows = connection.execute(
                f"SELECT {_REJECTION_COLUMNS} FROM rejected WHERE project_id = ? AND id = ?", (project_id, number)
            )
            return next((_kept(row) for row in rows), None)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection | None]:
        """A read transaction over one moment of the log; None before there is one."""
        with self._lock:
            if self._connection is None:
                self._connection = _open_existing(self._path)
            connection = self._connection
            if connection is None:
                yield None
                return
            try:
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    connection.execute("ROLLBACK")
            except apsw.CorruptError as error:
                raise Corrupt(f"event log: {self._path} is damaged: {error}") from error
            except apsw.Error as error:
                raise Unreachable(f"event log: {self._path} cannot be read: {error}") from error


class SqliteLogWriter:
    """Implements `EventLogWriter`. Calls must not overlap, but may come from different threads."""

    capabilities = CAPABILITIES

    def __init__(self, folder: Path, cap_bytes: int, keep_seconds: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)
        self._cap, self._keep = cap_bytes, keep_seconds * SECOND
        self._lock_file = _take_lock(folder / "writer.lock")
        self._read_up_to = 0
        try:
            self._connection = _create(folder / FILE)
        except BaseException:
            os.close(self._lock_file)
            raise
        self._next = int(_meta(self._connection, "next") or 0)
        self._bytes = int(_meta(self._connection, "bytes") or 0)
        self._last_received_at = _meta(self._connection, "last_received_at")
        self._checkpoints = _Checkpoints(folder / FILE)

    def append(self, batch: pa.RecordBatch | None, rejections: Sequence[Rejection] = ()) -> int:
        """See the port."""
        events = 0 if batch is None else batch.num_rows
        if events == 0 and not rejections:
            return self._next
        body = b"" if batch is None or events == 0 else event_batch.encode(batch)
        if body and self._bytes + len(body) > self._cap:
            self._make_room(len(body))
        first, last = self._next, self._last_received_at
        with self._transaction() as connection:
            if batch is not None and events:
                last = batch.column("received_at")[events - 1].value
                connection.execute(
                    "INSERT INTO records VALUES (?, ?, ?, ?, ?)", (first, first + events, last, len(body), body)
                )
                connection.executemany(
                    "INSERT INTO accepted VALUES (?, ?, ?) "
                    "ON CONFLICT (project_id, hour) DO UPDATE SET events = events + excluded.events",
                    _counts(batch),
                )
                self._set_meta(connection, first + events, last, self._bytes + len(body))
            if rejections:
                connection.executemany(
                    "INSERT INTO rejected (project_id, received_at, stage, reason, detail, event_id, cut, body) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [_rejection_row(rejection) for rejection in rejections],
                )
        self._next, self._last_received_at, self._bytes = first + events, last, self._bytes + len(body)
        return first

    def trim(self, read_up_to: int, now_us: int) -> int:
        """See the port. Deletes in small transactions, oldest first."""
        self._read_up_to = max(self._read_up_to, min(read_up_to, self._next))
        freed = 0
        while True:
            gone = self._droppable(now_us)
            if not gone:
                return freed
            size = sum(row[1] for row in gone)
            with self._transaction() as connection:
                connection.execute("DELETE FROM records WHERE first <= ?", (gone[-1][0],))
                self._set_meta(connection, self._next, self._last_received_at, self._bytes - size)
            self._bytes -= size
            freed += size

    def last_received_at(self) -> int | None:
        """Receipt time of the newest event ever appended; None before the first."""
        return self._last_received_at

    def bytes_held(self) -> int:
        return self._bytes

    def close(self) -> None:
        """Stops the checkpoints, closes the file, gives the lock back. Closing again does nothing."""
        if self._lock_file < 0:
            return
        self._checkpoints.close()
        self._connection.close()
        os.close(self._lock_file)
        self._lock_file = -1

    def _droppable(self, now_us: int) -> list[tuple[int, int]]:
        """(first, bytes) of the oldest records that were read and are too old or too many."""
        rows: list[Any] = self._connection.execute(
            "SELECT first, bytes, last_received_at FROM records WHERE next <= ? ORDER BY first LIMIT ?",
            (self._read_up_to, _TRIM_ROWS),
        ).fetchall()
        held, gone = self._bytes, []
        for first, size, last_received_at in rows:
            if last_received_at >= now_us - self._keep and held <= self._cap:
                break
            held -= size
            gone.append((first, size))
        return gone

    def _make_room(self, wanted: int) -> None:
        """Drops what was read, oldest first, until `wanted` bytes fit; raises `StoreFull` where they do not."""
        kept, self._cap = self._cap, max(0, self._cap - wanted)
        try:
            self.trim(self._read_up_to, self._last_received_at or 0)
        finally:
            self._cap = kept
        if self._bytes + wanted > self._cap:
            raise StoreFull(
                f"event log: {self._bytes} bytes have not been read yet and the cap is {self._cap}; "
                "it takes more once work has caught up"
            )

    def _set_meta(self, connection: apsw.Connection, following: int, last: int | None, size: int) -> None:
        connection.executemany(
            "UPDATE meta SET value = ? WHERE name = ?",
            [(following, "next"), (last, "last_received_at"), (size, "bytes")],
        )

    @contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        """All or nothing. A full disk is `StoreFull`, any other failure `Unreachable`; both leave nothing behind."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            full = isinstance(error, apsw.FullError) or (
                isinstance(error, apsw.IOError) and connection.system_errno in (errno.ENOSPC, errno.EDQUOT)
            )
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if full:
                raise StoreFull("event log: the disk is full; nothing of this write was kept") from error
            if isinstance(error, apsw.Error):
                raise Unreachable(f"event log: writing failed: {error}") from error
            raise


class _Checkpoints:
    """Moves the WAL into the file, off the path of the commits, on a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._stop = threading.Event()
        self._done = 0
        self._thread = threading.Thread(target=self._run, name="log-checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(1000)
        while not self._stop.wait(_CHECKPOINT_SECONDS):
            try:
                self._once(connection)
            except (apsw.Error, OSError):
                continue  # a full disk or a busy writer; the WAL keeps everything until the next attempt
        connection.close()

    def _once(self, connection: apsw.Connection) -> None:
        stat = self._wal.stat()
        if stat.st_size < _WAL_WORTH_A_CHECKPOINT or stat.st_mtime_ns == self._done:
            return
        too_large = stat.st_size > _WAL_TOO_LARGE
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE if too_large else apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._done = stat.st_mtime_ns

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def _take_lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise Locked(f"event log: another process writes to {path.parent} already; stop it first") from error
    return handle


def _sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable; SQLite does so for its own files when it first syncs the WAL."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _create(path: Path) -> apsw.Connection:
    """The writing connection; makes the file and its tables where they are missing."""
    try:
        connection = apsw.Connection(str(path))
        connection.set_busy_timeout(30_000)
        connection.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0")
        version = _one(connection, "PRAGMA user_version")
        if version == 0:
            connection.execute(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={FORMAT}; COMMIT")
        elif version != FORMAT:
            raise Corrupt(f"event log: {path} has format {version}; this version reads and writes {FORMAT}")
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Corrupt(f"event log: {path} is damaged: {error}") from error
    except apsw.FullError as error:
        raise StoreFull(f"event log: no room to make {path}") from error
    except apsw.Error as error:
        raise Unreachable(f"event log: {path} cannot be opened: {error}") from error
    return connection


def _open_existing(path: Path) -> apsw.Connection | None:
    if not path.exists():
        return None
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(5_000)
        if _one(connection, "PRAGMA user_version") != FORMAT:
            connection.close()  # being made at this moment
            return None
    except apsw.CantOpenError:
        return None
    except apsw.Error as error:
        raise Unreachable(f"event log: {path} cannot be opened: {error}") from error
    return connection


def _meta(connection: apsw.Connection, name: str) -> int | None:
    return _one(connection, "SELECT value FROM meta WHERE name = ?", name)


def _one(connection: apsw.Connection, sql: str, *values: Any) -> int | None:
    """The number in the one row and column that `sql` gives."""
    row: Any = connection.execute(sql, values).fetchone()
    value: int | None = row[0]
    return value


def _bounds(connection: apsw.Connection) -> tuple[int, int]:
    end = int(_meta(connection, "next") or 0)
    begin = _one(connection, "SELECT min(first) FROM records")
    return (end if begin is None else begin), end


def _record(first: int, following: int, body: bytes) -> LogRecord:
    try:
        record = LogRecord(first, event_batch.decode(body))
    except (Corrupt, pa.ArrowInvalid, OSError) as error:
        raise Corrupt(f"event log: the record at position {first} is damaged: {error}") from error
    if record.next != following:
        raise Corrupt(f"event log: the record at position {first} ends at {record.next}, not {following}")
    return record


def _counts(batch: pa.RecordBatch) -> list[tuple[str, int, int]]:
    """(project, receipt hour, events). `received_at` never goes back, so hours lie one after the other."""
    received = batch.column("received_at").cast(pa.int64())
    first, last = received[0].as_py() // HOUR, received[len(received) - 1].as_py() // HOUR
    counts: list[tuple[str, int, int]] = []
    for hour in range(first, last + 1):
        projects = batch.column("project_id")
        if first != last:
            inside = pc.and_(pc.greater_equal(received, hour * HOUR), pc.less(received, (hour + 1) * HOUR))
            projects = projects.filter(inside)
        for count in pc.value_counts(projects).to_pylist():
            counts.append((count["values"], hour * HOUR, count["counts"]))
    return counts


def _rejection_row(rejection: Rejection) -> tuple[Any, ...]:
    r = rejection
    body, cut = r.body[:KEPT_BYTES], r.cut or len(r.body) > KEPT_BYTES
    return r.project_id, r.received_at, r.stage, r.reason, r.detail, r.event_id, int(cut), body


def _kept(row: Any) -> KeptRejection:
    number, project, received_at, stage, reason, detail, body, event_id, cut = row
    return KeptRejection(
        f"i{number:012d}", Rejection(project, received_at, stage, reason, detail, body, event_id, bool(cut))
    )


def _rejection_number(rejection_id: str) -> int | None:
    """The row of a rejection that ingest kept; ids of other stages have none."""
    digits = rejection_id[1:]
    if rejection_id[:1] != "i" or not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        return None
    return int(digits)
