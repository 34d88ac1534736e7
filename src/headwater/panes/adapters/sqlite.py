"""Panes in one SQLite file: one writer (locked), many readers that each see one committed moment.

Rows are absolute values, replaced whole. A metric version's dimension set is one small number in every row.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from headwater.errors import Corrupt, Fenced, Locked, StoreFull, Unreachable
from headwater.model.pane import TOTAL_WIDTHS, Pane, PaneKey
from headwater.panes.codec import decode_state, decode_values, encode_state, encode_values
from headwater.panes.port import Cap, StreamCommit, StreamPosition

VERSION = 1
_SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE stream (one INTEGER PRIMARY KEY CHECK (one = 1), next INTEGER NOT NULL, received_at INTEGER,
    segment INTEGER NOT NULL);
INSERT INTO stream VALUES (1, 0, NULL, 0);
CREATE TABLE segments (segment INTEGER PRIMARY KEY);
INSERT INTO segments VALUES (0);
CREATE TABLE series (id INTEGER PRIMARY KEY, project TEXT NOT NULL, metric TEXT NOT NULL, dimensions TEXT NOT NULL,
    UNIQUE (project, metric, dimensions));
CREATE TABLE live (series INTEGER, width INTEGER, start INTEGER, vals BLOB, state BLOB NOT NULL,
    PRIMARY KEY (series, width, start, vals)) WITHOUT ROWID;
CREATE TABLE tail (segment INTEGER, series INTEGER, width INTEGER, start INTEGER, vals BLOB, state BLOB NOT NULL,
    PRIMARY KEY (segment, series, width, start, vals)) WITHOUT ROWID;
CREATE TABLE skipped (position INTEGER PRIMARY KEY);
CREATE TABLE live_from (project TEXT, metric TEXT, start INTEGER NOT NULL, PRIMARY KEY (project, metric)) WITHOUT ROWID;
CREATE TABLE caps (project TEXT, metric TEXT, dimensions TEXT, from_hour INTEGER NOT NULL,
    PRIMARY KEY (project, metric, dimensions)) WITHOUT ROWID;
"""
_POSITION = """SELECT next, received_at, (SELECT min(segment) FROM segments), segment FROM stream"""
_SKIPPED = "SELECT position FROM skipped WHERE position >= ? AND position < ? ORDER BY position"
_BUSY_MS = 5000


def open_writer(path: Path) -> SqlitePanesWriter:
    """Opens the panes at `path` for their one writer, made where missing. Raises `Locked` when there is one."""
    return SqlitePanesWriter(path)


def open_reader(path: Path) -> SqlitePanesReader:
    """A reader of the panes at `path`, which need not exist yet. May be shared by threads."""
    return SqlitePanesReader(path)


class SqlitePanesWriter:
    """The one writer; belongs to one thread at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise Locked(f"panes {path}: another process writes here; stop it, or use another data folder") from error
        try:
            self._db = apsw.Connection(str(path))
            self._db.set_busy_timeout(_BUSY_MS)
            self._db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
            self._prepare(path)
            rows = self._db.execute("SELECT id, project, metric, dimensions FROM series")
            self._series = {(project, metric, _names(names)): number for number, project, metric, names in rows}
        except apsw.NotADBError as error:
            self._release()
            raise Corrupt(f"panes {path}: not a database; move it away, the stream builds it anew") from error
        except BaseException:
            self._release()
            raise

    def commit(self, commit: StreamCommit) -> None:
        """Applies one micro-batch in one durable transaction.

        Raises `Fenced` when `commit.first` is below the stored position. One whose `first` lies beyond it does not
        connect to what is held: in the same transaction all that is dropped, and the panes begin at `first`.
        """
        with self._transaction():
            stored = self.position()
            if commit.first < stored.next:
                raise Fenced(f"panes: commit of [{commit.first}, {commit.next}) but the stream is at {stored.next}")
            if commit.first > stored.next:
                self._drop_all()
            execute = self._db.execute
            execute(
                "UPDATE stream SET next = ?, received_at = nullif(max(?, coalesce(received_at, 0)), 0), segment = ?",
                (commit.next, commit.received_at, commit.segment),
            )
            execute("INSERT OR IGNORE INTO segments VALUES (?)", (commit.segment,))
            self._many("INSERT OR REPLACE INTO live VALUES (?, ?, ?, ?, ?)", (self._row(p) for p in commit.live))
            self._many(
                "INSERT OR REPLACE INTO tail VALUES (?, ?, ?, ?, ?, ?)",
                ((commit.segment, *self._row(p)) for p in commit.tail),
            )
            self._many("INSERT OR IGNORE INTO skipped VALUES (?)", ((position,) for position in commit.skipped))
            self._many(
                "INSERT OR REPLACE INTO live_from VALUES (?, ?, ?)",
                ((project, metric, start) for (project, metric), start in commit.live_from.items()),
            )
            self._many(
                "INSERT INTO caps VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "from_hour = min(from_hour, excluded.from_hour)",
                ((c.project_id, c.metric, _text(c.dimensions), c.from_hour) for c in commit.caps),
            )

    def position(self) -> StreamPosition:
        return _position(self._db)

    def load(self, keys: Sequence[PaneKey]) -> list[Pane]:
        found = []
        for key in keys:
            series = self._series.get((key.project_id, key.metric, key.dimensions))
            if series is None:
                continue
            row = self._db.execute(
                "SELECT state FROM live WHERE series = ? AND width = ? AND start = ? AND vals = ?",
                (series, key.width, key.start, encode_values(key.values)),
            ).fetchone()
            if row is not None:
                found.append(Pane(key, decode_state(row[0])))
        return found

    def load_tail(self, segment: int) -> list[Pane]:
        names = {number: series for series, number in self._series.items()}
        rows = self._db.execute("SELECT series, width, start, vals, state FROM tail WHERE segment = ?", (segment,))
        return [
            Pane(_key(names[series], width, start, vals), decode_state(state))
            for series, width, start, vals, state in rows
        ]

    def skipped(self, start: int, end: int) -> list[int]:
        return [row[0] for row in self._db.execute(_SKIPPED, (start, end))]

    def live_from(self) -> dict[tuple[str, str], int]:
        rows = self._db.execute("SELECT project, metric, start FROM live_from")
        return {(project, metric): start for project, metric, start in rows}

    def caps(self) -> list[Cap]:
        rows = self._db.execute("SELECT project, metric, dimensions, from_hour FROM caps ORDER BY 1, 2, 3")
        return [Cap(project, metric, _names(names), from_hour) for project, metric, names, from_hour in rows]

    def prune(self, windows_before: int, segments_before: int) -> None:
        """Drops old live panes and tail segments, with skipped positions below the first segment that is left."""
        with self._transaction():
            self._many(
                "DELETE FROM live WHERE series = ? AND width = ? AND start <= ?",
                ((series, width, windows_before - width) for series in self._series.values() for width in TOTAL_WIDTHS),
            )
            self._db.execute(
                "DELETE FROM segments WHERE segment < ? AND segment <> (SELECT segment FROM stream)",
                (segments_before,),
            )
            (first,) = _one(self._db, "SELECT min(segment) FROM segments")
            self._db.execute("DELETE FROM tail WHERE segment < ?", (first,))
            self._db.execute("DELETE FROM skipped WHERE position < ?", (first,))

    def close(self) -> None:
        self._db.close()
        self._release()

    def _prepare(self, path: Path) -> None:
        (version,) = _one(self._db, "PRAGMA user_version")
        if version == 0:
            with self._transaction():
                self._db.execute(_SCHEMA)
        elif version != VERSION:
            raise Corrupt(f"panes {path}: format {version}, this Headwater reads {VERSION}; move the file away")

    def _drop_all(self) -> None:
        self._db.execute("DELETE FROM live; DELETE FROM tail; DELETE FROM skipped; DELETE FROM live_from; "
                         "DELETE FROM caps; DELETE FROM segments; UPDATE stream SET received_at = NULL")  # fmt: skip

    def _row(self, pane: Pane) -> tuple[int, int, int, bytes, bytes]:
        key = pane.key
        series = self._series.get((key.project_id, key.metric, key.dimensions))
        if series is None:
            series = self._new_series(key)
        return series, key.width, key.start, encode_values(key.values), encode_state(pane.state)

    def _new_series(self, key: PaneKey) -> int:
        self._db.execute(
            "INSERT INTO series (project, metric, dimensions) VALUES (?, ?, ?)",
            (key.project_id, key.metric, _text(key.dimensions)),
        )
        series = self._db.last_insert_rowid()
        self._series[(key.project_id, key.metric, key.dimensions)] = series
        return series

    def _many(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        # materialised first: making a row may itself insert a series
        self._db.executemany(statement, list(rows))

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        series = dict(self._series) if hasattr(self, "_series") else {}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._series = series
            if isinstance(error, apsw.FullError):
                raise StoreFull("panes: the disk is full; nothing was written; free some room") from error
            raise

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class SqlitePanesReader:
    """Keeps idle read-only connections; a view takes one for as long as it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[apsw.Connection] = []
        self._inode = -1
        self._guard = threading.Lock()

    def view(self) -> SqlitePanesView:
        """One consistent moment. Raises `Unreachable` while the stream has not made the panes yet."""
        db = self._take()
        try:
            db.execute("BEGIN")
            if db.execute("PRAGMA user_version").fetchone() != (VERSION,):
                raise Unreachable(f"panes {self._path}: not made yet; the stream makes them when it starts")
            return SqlitePanesView(db, self._give_back)
        except apsw.Error as error:
            db.close()
            raise Unreachable(f"panes {self._path}: cannot be read now ({error})") from error
        except BaseException:
            db.close()
            raise

    def close(self) -> None:
        with self._guard:
            for db in self._idle:
                db.close()
            self._idle.clear()

    def _take(self) -> apsw.Connection:
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError as error:
            raise Unreachable(
                f"panes {self._path}: do not exist yet; the stream makes them when it starts (headwater up, or "
                "headwater run work)"
            ) from error
        with self._guard:
            if inode != self._inode:
                self._idle.clear()
                self._inode = inode
            if self._idle:
                return self._idle.pop()
        try:
            db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            db.set_busy_timeout(_BUSY_MS)
            db.execute("PRAGMA wal_autocheckpoint = 0")
        except apsw.Error as error:
            raise Unreachable(f"panes {self._path}: cannot be opened ({error})") from error
        return db

    def _give_back(self, db: apsw.Connection) -> None:
        db.execute("ROLLBACK")
        with self._guard:
            self._idle.append(db)


class SqlitePanesView:
    """See `panes.port.PanesView`."""

    def __init__(self, db: apsw.Connection, give_back: Any) -> None:
        self._db = db
        self._give_back = give_back
        self._open = True

    def position(self) -> StreamPosition:
        return _position(self._db)

    def live_from(self, project_id: str, metric: str) -> int | None:
        row = self._db.execute(
            "SELECT start FROM live_from WHERE project = ? AND metric = ?", (project_id, metric)
        ).fetchone()
        return None if row is None else int(row[0])

    def caps(self, project_id: str, metric: str) -> list[Cap]:
        rows = self._db.execute(
            "SELECT dimensions, from_hour FROM caps WHERE project = ? AND metric = ? ORDER BY 1", (project_id, metric)
        )
        return [Cap(project_id, metric, _names(names), from_hour) for names, from_hour in rows]

    def live(
        self, project_id: str, metric: str, dimensions: tuple[str, ...], width: int, start: int, end: int
    ) -> list[Pane]:
        series = (project_id, metric, dimensions)
        rows = self._db.execute(
            "SELECT start, vals, state FROM live WHERE series = ? AND width = ? AND start >= ? AND start < ?",
            (self._number(series), width, start, end),
        )
        return _sorted(Pane(_key(series, width, at, vals), decode_state(state)) for at, vals, state in rows)

    def tail(
        self,
        project_id: str,
        metric: str,
        dimensions: tuple[str, ...],
        width: int,
        start: int,
        end: int,
        since: int,
    ) -> list[Pane]:
        series = (project_id, metric, dimensions)
        number = self._number(series)
        segments = self._db.execute("SELECT segment FROM segments WHERE segment >= ?", (since,)).fetchall()
        found: list[Pane] = []
        for (segment,) in segments:
            rows = self._db.execute(
                "SELECT start, vals, state FROM tail WHERE segment = ? AND series = ? AND width = ? AND start >= ? "
                "AND start < ?",
                (segment, number, width, start, end),
            )
            found += [Pane(_key(series, width, at, vals), decode_state(state)) for at, vals, state in rows]
        return _sorted(found)

    def skipped(self, start: int, end: int) -> list[int]:
        return [row[0] for row in self._db.execute(_SKIPPED, (start, end))]

    def __enter__(self) -> SqlitePanesView:
        return self

    def __exit__(self, *args: object) -> None:
        if self._open:
            self._open = False
            self._give_back(self._db)

    def _number(self, series: tuple[str, str, tuple[str, ...]]) -> int:
        row = self._db.execute(
            "SELECT id FROM series WHERE project = ? AND metric = ? AND dimensions = ?",
            (series[0], series[1], _text(series[2])),
        ).fetchone()
        return -1 if row is None else int(row[0])


def _position(db: apsw.Connection) -> StreamPosition:
    following, received_at, segments_from, segment = _one(db, _POSITION)
    return StreamPosition(following, received_at, segments_from, segment)


def _one(db: apsw.Connection, statement: str) -> tuple[Any, ...]:
    """The row of a statement that always has one."""
    row: tuple[Any, ...] | None = db.execute(statement).fetchone()
    assert row is not None
    return row


def _key(series: tuple[str, str, tuple[str, ...]], width: int, start: int, vals: bytes) -> PaneKey:
    project, metric, dimensions = series
    return PaneKey(project, metric, width, start, dimensions, decode_values(vals))


def _sorted(panes: Iterable[Pane]) -> list[Pane]:
    """By start, then values; an absent value before every text."""
    return sorted(panes, key=lambda p: (p.key.start, [(v is not None, v or "") for v in p.key.values]))


def _text(names: tuple[str, ...]) -> str:
    return msgspec.json.encode(names).decode()


def _names(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])
