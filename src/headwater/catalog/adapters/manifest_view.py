"""Reading the SQLite manifest: views of one moment, on read-only connections that are used again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from headwater.catalog.port import ArchivePosition, Chunk, LakeFile, Skipped
from headwater.errors import Unreachable
from headwater.model.rejection import KeptRejection, Rejection

SCHEMA = """
CREATE TABLE IF NOT EXISTS state(one INTEGER PRIMARY KEY CHECK(one = 1), next INTEGER NOT NULL, received_at INTEGER,
  epoch INTEGER NOT NULL, incarnation TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS file(id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, project TEXT NOT NULL,
  hour INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
  min_timestamp INTEGER NOT NULL, max_timestamp INTEGER NOT NULL,
  min_received_at INTEGER NOT NULL, max_received_at INTEGER NOT NULL,
  first_position INTEGER NOT NULL, next_position INTEGER NOT NULL,
  checksum TEXT NOT NULL, epoch INTEGER NOT NULL, promoted TEXT NOT NULL, trashed_at INTEGER);
CREATE INDEX IF NOT EXISTS file_live ON file(project, hour, id) WHERE trashed_at IS NULL;
CREATE INDEX IF NOT EXISTS file_trash ON file(trashed_at) WHERE trashed_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS revision(project TEXT, hour INTEGER, revision INTEGER NOT NULL, PRIMARY KEY(project, hour))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunk(project TEXT, hour INTEGER, path TEXT NOT NULL, revision INTEGER NOT NULL,
  files TEXT NOT NULL, metrics TEXT NOT NULL, PRIMARY KEY(project, hour)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS skipped(project TEXT, hour INTEGER, copies INTEGER NOT NULL, rejected INTEGER NOT NULL,
  PRIMARY KEY(project, hour)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejection(id INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL,
  received_at INTEGER NOT NULL, hour INTEGER NOT NULL, reason TEXT NOT NULL, event_id TEXT, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS rejection_by_project ON rejection(project, id);
CREATE INDEX IF NOT EXISTS rejection_by_event ON rejection(project, event_id, hour);
CREATE TABLE IF NOT EXISTS promoted(project TEXT, name TEXT, kind TEXT, number INTEGER NOT NULL, column TEXT NOT NULL,
  PRIMARY KEY(project, name, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS job(id INTEGER PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS progress(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_EMPTY_STATE = "INSERT OR IGNORE INTO state VALUES(1, 0, NULL, 0, '')"
_FILE = (
    "path, project, hour, rows, bytes, min_timestamp, max_timestamp, min_received_at, max_received_at,"
    " first_position, next_position, checksum, epoch, promoted, id"
)
_MIN, _MAX = -(1 << 63), (1 << 63) - 1
_rejection = msgspec.msgpack.Decoder(Rejection)


class SqliteManifestReader:
    """See `ManifestReader`. Threads may share it; each view has a connection to itself while it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[apsw.Connection] = []
        self._idle_lock = threading.Lock()

    def view(self) -> SqliteManifestView:
        with self._idle_lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._open()
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT next FROM state").fetchall()  # the moment is fixed by the first read
        except apsw.Error as error:
            connection.close()
            raise Unreachable(f"manifest {self._path}: {error}") from error
        return SqliteManifestView(connection, self._give_back)

    def close(self) -> None:
        with self._idle_lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def _give_back(self, connection: apsw.Connection) -> None:
        connection.execute("ROLLBACK")
        if connection.filename and len(self._idle) < 8:
            with self._idle_lock:
                self._idle.append(connection)
        else:
            connection.close()

    def _open(self) -> apsw.Connection:
        if self._path.exists():
            try:
                connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
                connection.set_busy_timeout(5_000)
                connection.execute("PRAGMA wal_autocheckpoint=0")
                if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'state'").fetchall():
                    return connection
            except apsw.Error as error:
                raise Unreachable(f"manifest {self._path}: {error}") from error
            connection.close()
        # the writer has not made it yet: an empty manifest
        empty = apsw.Connection(":memory:")
        empty.execute(SCHEMA)
        empty.execute(_EMPTY_STATE)
        return empty


class SqliteManifestView:
    """See `ManifestView`."""

    def __init__(self, connection: apsw.Connection, give_back: Any) -> None:
        self._db = connection
        self._give_back = give_back
        self._open = True

    def __enter__(self) -> SqliteManifestView:
        return self

    def __exit__(self, *args: object) -> None:
        if self._open:
            self._open = False
            self._give_back(self._db)

    def position(self) -> ArchivePosition:
        return ArchivePosition(*self._rows("SELECT next, received_at FROM state")[0])

    def files(self, project_id: str | None = None, start: int | None = None, end: int | None = None) -> list[LakeFile]:
        span = (_MIN if start is None else start, _MAX if end is None else end)
        live = f"SELECT {_FILE} FROM file WHERE trashed_at IS NULL AND hour >= ? AND hour < ?"
        if project_id is None:
            return [_file(row) for row in self._rows(live + " ORDER BY hour, id", span)]
        return [_file(row) for row in self._rows(live + " AND project = ? ORDER BY hour, id", (*span, project_id))]

    def trashed(self, before_us: int) -> list[LakeFile]:
        """Files that were replaced before that time."""
        return [_file(row) for row in self._rows(f"SELECT {_FILE} FROM file WHERE trashed_at < ?", (before_us,))]

    def revisions(self, project_id: str, start: int, end: int) -> dict[int, int]:
        sql = "SELECT hour, revision FROM revision WHERE project = ? AND hour >= ? AND hour < ? ORDER BY hour"
        return dict(self._rows(sql, (project_id, start, end)))

    def chunks(self, project_id: str, start: int, end: int) -> list[Chunk]:
        rows = self._rows(
            "SELECT project, hour, path, revision, files, metrics FROM chunk WHERE project = ? AND hour >= ?"
            " AND hour < ? ORDER BY hour",
            (project_id, start, end),
        )
        return [
            Chunk(project, hour, path, revision, tuple(msgspec.json.decode(files)), tuple(msgspec.json.decode(metrics)))
            for project, hour, path, revision, files, metrics in rows
        ]

    def skipped(self) -> list[Skipped]:
        return [
            Skipped(*row)
            for row in self._rows("SELECT project, hour, copies, rejected FROM skipped ORDER BY project, hour")
        ]

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
            "SELECT id, body FROM rejection WHERE project = ?1 AND received_at >= ?2 AND (?3 IS NULL OR reason = ?3)"
            " AND id < ?4 ORDER BY id DESC LIMIT ?5",
            (project_id, since, reason, _MAX if before is None else _number(before), limit),
        )
        return [KeptRejection(f"m{number}", _rejection.decode(body)) for number, body in rows]

    def rejection(self, project_id: str, rejection_id: str) -> KeptRejection | None:
        rows = self._rows(
            "SELECT body FROM rejection WHERE project = ? AND id = ?", (project_id, _number(rejection_id))
        )
        return KeptRejection(rejection_id, _rejection.decode(rows[0][0])) if rows else None

    def jobs_done(self) -> dict[int, str]:
        return dict(self._rows("SELECT id, state FROM job"))

    def progress(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM progress WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def promoted(self, project_id: str) -> dict[tuple[str, str], str]:
        """(property, `number` or `text`) -> column."""
        rows = self._rows("SELECT name, kind, column FROM promoted WHERE project = ? ORDER BY number", (project_id,))
        return {(name, kind): column for name, kind, column in rows}

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, tuple(parameters)).fetchall()
        except apsw.Error as error:
            raise Unreachable(f"manifest: {error}") from error


def _file(row: tuple[Any, ...]) -> LakeFile:
    *plain, promoted, number = row
    fields: list[Any] = [*plain, msgspec.json.decode(promoted), number]
    return LakeFile(*fields)


def _number(rejection_id: str) -> int:
    """The sequence number of `m<seq>`; 0, which no rejection has, for any other id."""
    digits = rejection_id[1:]
    return int(digits) if rejection_id[:1] == "m" and digits.isascii() and digits.isdigit() and len(digits) < 19 else 0
