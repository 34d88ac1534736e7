"""Control in one SQLite file: projects, keys, metric definitions, job requests, the audit log.

One process writes (a lock file says which); any number read, read-only and without holding a transaction open. Every
change raises `revision` in its own transaction, so a reader that sees the number sees the change.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

from headwater.catalog.keys import hash_of, make_secret, prefix_of
from headwater.catalog.port import Control, JobRequest, Key, Project, Role
from headwater.errors import Locked, Refused, StoreFull, Unreachable
from headwater.model.metric import (
    BUILT_IN,
    Metric,
    MetricDefinition,
    built_in,
    check_definition,
    counts_same,
    definition_from,
)

DEFAULT_PROJECT = "default"
FIRST_ROLES: tuple[Role, ...] = ("write", "read", "admin")
_PROJECT_ID = re.compile(r"[a-z0-9-]{1,50}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO state VALUES (1, 0);
CREATE TABLE IF NOT EXISTS project (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS key (
    hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE, project_id TEXT NOT NULL, role TEXT NOT NULL, prefix TEXT NOT NULL,
    created_at INTEGER NOT NULL, revoked_at INTEGER, operator INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS metric (
    project_id TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, changed_at INTEGER NOT NULL,
    definition BLOB NOT NULL, PRIMARY KEY (project_id, name, version)) STRICT;
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, project_id TEXT, parameters BLOB NOT NULL,
    created_at INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
    subject TEXT NOT NULL, origin TEXT NOT NULL) STRICT;
"""
_KEY_COLUMNS = "id, project_id, role, prefix, created_at, revoked_at, operator"
_parameters = msgspec.json.Decoder(dict[str, str])


class SqliteControlReader:
    """See `ControlReader`. Usable from several threads; each call is one short read."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise Unreachable(f"control: {path} does not exist yet; start `headwater up` (or `run query`) first")
        self._db = _connect(path, apsw.SQLITE_OPEN_READONLY)
        self._lock = threading.RLock()
        self._seen: tuple[int, int] | None = None

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(sql, tuple(parameters)).fetchall()
            except (apsw.SQLError, apsw.BusyError, apsw.IOError, apsw.CantOpenError) as error:
                raise Unreachable(f"control: cannot be read now ({error}); trying again may help") from error

    def revision(self) -> int:
        # `data_version` changes when another connection commits, and is answered from shared memory alone
        version = int(self._rows("PRAGMA data_version")[0][0])
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, int(self._rows("SELECT revision FROM state")[0][0]))
        return self._seen[1]

    def projects(self) -> list[Project]:
        return [Project(i, n, c) for i, n, c in self._rows("SELECT id, number, created_at FROM project ORDER BY id")]

    def project(self, project_id: str) -> Project | None:
        rows = self._rows("SELECT id, number, created_at FROM project WHERE id = ?", (project_id,))
        return Project(*rows[0]) if rows else None

    def key_by_hash(self, secret_sha256: bytes) -> Key | None:
        rows = self._rows(f"SELECT {_KEY_COLUMNS} FROM key WHERE hash = ?", (secret_sha256,))
        return _key(rows[0]) if rows else None

    def keys(self, project_id: str) -> list[Key]:
        rows = self._rows(f"SELECT {_KEY_COLUMNS} FROM key WHERE project_id = ? ORDER BY created_at, id", (project_id,))
        return [_key(row) for row in rows]

    def metrics(self, project_id: str) -> list[Metric]:
        rows = self._rows(
            "SELECT name, max(version), changed_at, definition FROM metric WHERE project_id = ? GROUP BY name"
            " ORDER BY name",
            (project_id,),
        )
        defined = [Metric(project_id, n, v, at, definition_from(msgspec.json.decode(body))) for n, v, at, body in rows]
        hidden = {metric.name for metric in defined}
        return [m for m in built_in(project_id) if m.name not in hidden] + defined

    def jobs(self, after: int = 0) -> list[JobRequest]:
        rows = self._rows(
            "SELECT id, kind, project_id, parameters, created_at FROM job WHERE id > ? ORDER BY id", (after,)
        )
        return [JobRequest(i, k, p, _parameters.decode(body), at) for i, k, p, body, at in rows]

    def close(self) -> None:
        self._db.close()


class SqliteControl(SqliteControlReader):
    """See `Control`: the one writer, usable from several threads; changes are durable when a call returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._held = open(path.with_name(path.name + ".lock"), "wb")  # noqa: SIM115
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._held.close()
            raise Locked(f"control: another process already writes {path}; stop it first") from error
        db = _connect(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        db.execute("PRAGMA journal_mode=WAL").fetchall()
        db.execute("PRAGMA synchronous=FULL")
        db.execute(_SCHEMA)
        db.close()
        super().__init__(path)
        self._db.close()
        self._db = _connect(path, apsw.SQLITE_OPEN_READWRITE)
        self._db.execute("PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=1000")

    def revision(self) -> int:
        # the connection's own commits do not change its `data_version`
        return int(self._rows("SELECT revision FROM state")[0][0])

    def create_project(self, project_id: str, now_us: int) -> Project:
        if _PROJECT_ID.fullmatch(project_id) is None:
            raise Refused("invalid_field", 422, f"project id {project_id!r}: 1 to 50 characters of a-z, 0-9 and -")
        with self._transaction():
            if self.project(project_id) is not None:
                raise Refused("conflict", 409, f"project {project_id!r} exists already; choose another id")
            self._change("INSERT INTO project (id, created_at) VALUES (?, ?)", (project_id, now_us))
        made = self.project(project_id)
        assert made is not None
        return made

    def create_key(self, project_id: str, role: Role, secret: str, now_us: int, *, operator: bool = False) -> Key:
        """Raises `Refused(not_found)` for an unknown project. The id is taken from the hash, so the same secret cannot
        become two keys: repeating the call returns the key that there is."""
        hashed = hash_of(secret)
        key = Key(f"k_{hashed.hex()[:12]}", project_id, role, prefix_of(secret), now_us, None, operator)
        with self._transaction():
            if self.project(project_id) is None:
                raise Refused("not_found", 404, f"project {project_id!r} does not exist")
            known = self.key_by_hash(hashed)
            if known is not None:
                return known
            self._change(
                f"INSERT INTO key (hash, {_KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (hashed, key.id, project_id, role, key.prefix, now_us, None, int(operator)),
            )
        return key

    def revoke_key(self, project_id: str, key_id: str, now_us: int) -> bool:
        with self._transaction():
            rows = self._rows("SELECT 1 FROM key WHERE project_id = ? AND id = ?", (project_id, key_id))
            if rows:
                self._change(
                    "UPDATE key SET revoked_at = ifnull(revoked_at, ?) WHERE project_id = ? AND id = ?",
                    (now_us, project_id, key_id),
                )
        return bool(rows)

    def define_metric(
        self, project_id: str, name: str, definition: MetricDefinition, now_us: int
    ) -> tuple[Metric, Literal["new", "changed", "same"]]:
        check_definition(name, definition)
        with self._transaction():
            if self.project(project_id) is None:
                raise Refused("not_found", 404, f"project {project_id!r} does not exist")
            known = next((m for m in self.metrics(project_id) if m.name == name), None)
            if known is not None and known.definition == definition:
                return known, "same"
            # version 1 of a built-in name is the built-in definition itself, so its states are never mixed up
            version = known.version + 1 if known else 1
            if known is not None and counts_same(known.definition, definition):
                version = known.version
            metric = Metric(project_id, name, version, now_us, definition)
            self._change(
                "INSERT OR REPLACE INTO metric VALUES (?, ?, ?, ?, ?)",
                (project_id, name, version, now_us, msgspec.json.encode(definition)),
            )
        return metric, "changed" if known is not None and not _untouched(known) else "new"

    def request_job(self, kind: str, project_id: str | None, parameters: dict[str, str], now_us: int) -> JobRequest:
        with self._transaction():
            self._change(
                "INSERT INTO job (kind, project_id, parameters, created_at) VALUES (?, ?, ?, ?)",
                (kind, project_id, msgspec.json.encode(parameters), now_us),
            )
            return JobRequest(self._db.last_insert_rowid(), kind, project_id, parameters, now_us)

    def record_audit(self, now_us: int, actor: str, action: str, subject: str, origin: str) -> None:
        with self._transaction():
            self._db.execute(
                "INSERT INTO audit (at, actor, action, subject, origin) VALUES (?, ?, ?, ?, ?)",
                (now_us, actor, action, subject, origin),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, one thread at a time."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, apsw.FullError | apsw.IOError):
                    raise StoreFull(f"control: the disk took no more ({error}); nothing was changed") from error
                raise

    def _change(self, sql: str, parameters: Sequence[Any]) -> None:
        """One changing statement and the new revision, inside the caller's transaction."""
        self._db.execute("UPDATE state SET revision = revision + 1")
        self._db.execute(sql, tuple(parameters))

    def close(self) -> None:
        super().close()
        self._held.close()


def open_control(path: Path | str) -> SqliteControl:
    """The one writer. Raises `Locked` where another process has it."""
    return SqliteControl(Path(path))


def open_control_reader(path: Path | str) -> SqliteControlReader:
    """A reader. Raises `Unreachable` while the file does not exist."""
    return SqliteControlReader(Path(path))


def bootstrap(control: Control, keys_dir: Path | str, now_us: int, random_bytes: Callable[[int], bytes]) -> None:
    """Makes the project `default` and its first three keys, as far as they are missing; the admin key is the
    operator's. Secrets lie in `keys_dir`, mode 0600. Idempotent, and safe to break off anywhere: the file comes before
    the key, and a file whose key is not known is taken up."""
    folder = Path(keys_dir)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if control.project(DEFAULT_PROJECT) is None:
        control.create_project(DEFAULT_PROJECT, now_us)
    for role in FIRST_ROLES:
        file = folder / role
        if not file.exists():
            _write_secret(file, make_secret(role, random_bytes))
        secret = file.read_text().strip()
        if control.key_by_hash(hash_of(secret)) is None:
            control.create_key(DEFAULT_PROJECT, role, secret, now_us, operator=role == "admin")


def _write_secret(file: Path, secret: str) -> None:
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(secret + "\n")
        out.flush()
        os.fsync(out.fileno())
    part.rename(file)


def _untouched(metric: Metric) -> bool:
    """Whether a metric is built in and nobody has defined it yet."""
    return metric.changed_at == 0 and BUILT_IN.get(metric.name) == metric.definition


def _key(row: tuple[Any, ...]) -> Key:
    key_id, project_id, role, prefix, created_at, revoked_at, operator = row
    return Key(key_id, project_id, role, prefix, created_at, revoked_at, bool(operator))


def _connect(path: Path, flags: int) -> apsw.Connection:
    try:
        db = apsw.Connection(str(path), flags=flags)
    except (apsw.CantOpenError, apsw.IOError) as error:
        raise Unreachable(f"control: {path} cannot be opened ({error})") from error
    db.set_busy_timeout(5_000)
    if flags == apsw.SQLITE_OPEN_READONLY:
        db.execute("PRAGMA wal_autocheckpoint=0")
    return db
