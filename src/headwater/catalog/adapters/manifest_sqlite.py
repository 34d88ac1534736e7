"""The manifest in one SQLite file (WAL, `synchronous=FULL`): what is in the lake, and up to where
(docs/specs/manifest.md).

One process writes, through one connection; every call is one transaction. Views are read transactions on connections
of their own, so that they see one moment and never wait for a commit.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import msgspec

from headwater.catalog.adapters.manifest_view import SCHEMA, SqliteManifestReader
from headwater.catalog.port import ArchiveCommit, Chunk, LakeFile
from headwater.clock import hour_of
from headwater.errors import Fenced, Locked, StoreFull, UsageError

PROMOTED_MAX = 64
CONFLICTS_KEPT = 10  # of one event id and receipt hour; the rest is only counted
_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_FILE_COLUMNS = (
    "path, project, hour, rows, bytes, min_timestamp, max_timestamp, min_received_at, max_received_at,"
    " first_position, next_position, checksum, epoch, promoted"
)


class SqliteManifest(SqliteManifestReader):
    """See `Manifest`. Threads may share it: writes take turns."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises `Locked` when another process writes it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = open(path.with_name(path.name + ".lock"), "wb")  # noqa: SIM115
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            raise Locked(f"manifest: another process already writes {path}; stop it first") from error
        self._turn = threading.Lock()
        self._db = apsw.Connection(str(path))
        self._db.set_busy_timeout(10_000)
        self._db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
        with self._transaction():
            self._db.execute(SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO state VALUES(1, 0, NULL, 0, ?)", (os.urandom(16).hex(),))
        super().__init__(path)

    def take_lease(self) -> int:
        with self._transaction():
            return int(self._one("UPDATE state SET epoch = epoch + 1 RETURNING epoch"))

    def incarnation(self) -> str:
        with self._turn:
            return str(self._one("SELECT incarnation FROM state"))

    def commit(self, commit: ArchiveCommit) -> list[LakeFile]:
        if commit.next < commit.first:
            raise ValueError(f"archive commit ends before it starts: [{commit.first}, {commit.next})")
        with self._transaction():
            moved = self._db.execute(
                "UPDATE state SET next = ?, received_at = ? WHERE next = ? AND epoch = ? RETURNING 1",
                (commit.next, commit.received_at, commit.first, commit.epoch),
            ).fetchall()
            if len(moved) != 1:
                held = self._db.execute("SELECT next, epoch FROM state").fetchall()[0]
                raise Fenced(
                    f"manifest: a commit of positions [{commit.first}, {commit.next}) by epoch {commit.epoch} came, "
                    f"but the archive is at {held[0]} with epoch {held[1]}; another owner has gone on"
                )
            added = self._add(commit.files)
            self._raise_revisions(added)
            self._db.executemany(
                "INSERT INTO skipped VALUES(?,?,?,?) ON CONFLICT DO UPDATE SET copies = copies + excluded.copies,"
                " rejected = rejected + excluded.rejected",
                [(s.project_id, s.hour, s.copies, s.rejected) for s in commit.skipped],
            )
            self._keep_rejections(commit)
        return added

    def replace_files(
        self, epoch: int, removed: Sequence[int], added: Sequence[LakeFile], now_us: int
    ) -> list[LakeFile]:
        with self._transaction(epoch):
            out = [self._live(file_id, "compaction") for file_id in removed]
            self._db.executemany("UPDATE file SET trashed_at = ? WHERE id = ?", [(now_us, i) for i in removed])
            made = self._add(added)
            touched = sorted({(project, hour) for _, project, hour in out} | {(f.project_id, f.hour) for f in made})
            self._raise(touched)
            for project, hour in touched:
                gone = {file_id for file_id, *place in out if place == [project, hour]}
                new = {f.id for f in made if (f.project_id, f.hour) == (project, hour)}
                self._remap_chunk(project, hour, gone, new)
        return made

    def put_chunk(self, epoch: int, chunk: Chunk) -> str | None:
        with self._transaction(epoch):
            for file_id in chunk.files:
                if self._live(file_id, "chunk")[1:] != (chunk.project_id, chunk.hour):
                    raise UsageError(f"manifest: file {file_id} is not of the chunk's project and hour")
            place = (chunk.project_id, chunk.hour)
            before = self._db.execute("SELECT path FROM chunk WHERE project = ? AND hour = ?", place).fetchone()
            self._db.execute(
                "INSERT OR REPLACE INTO chunk VALUES(?,?,?,?,?,?)",
                (*place, chunk.path, chunk.revision, _text(chunk.files), _text(chunk.metrics)),
            )
        return str(before[0]) if before and before[0] != chunk.path else None

    def trash(self, before_us: int) -> list[LakeFile]:
        with self.view() as view:
            return view.trashed(before_us)

    def forget_trash(self, epoch: int, ids: Sequence[int]) -> None:
        with self._transaction(epoch):
            self._db.executemany("DELETE FROM file WHERE id = ? AND trashed_at IS NOT NULL", [(i,) for i in ids])

    def promoted(self, project_id: str) -> dict[tuple[str, str], str]:
        with self._turn:
            return self._promoted(project_id)

    def promote(self, project_id: str, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        for _, kind in wanted:
            if kind not in ("number", "text"):
                raise UsageError(f"manifest: a promoted column is 'number' or 'text', not {kind!r}")
        with self._transaction():
            held = self._promoted(project_id)
            for name, kind in dict.fromkeys(wanted):
                if (name, kind) not in held and len(held) < PROMOTED_MAX:
                    held[name, kind] = f"p_{len(held) + 1}"
                    self._db.execute(
                        "INSERT INTO promoted VALUES(?,?,?,?,?)", (project_id, name, kind, len(held), held[name, kind])
                    )
        return held

    def set_job(self, epoch: int, job_id: int, state: str) -> None:
        with self._transaction(epoch):
            self._db.execute("INSERT OR REPLACE INTO job VALUES(?,?)", (job_id, state))

    def set_progress(self, name: str, value: str) -> None:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO progress VALUES(?,?)", (name, value))

    def close(self) -> None:
        super().close()
        with self._turn:
            self._db.close()
            self._lock_file.close()

    # -- inside a transaction --------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, epoch: int | None = None) -> Iterator[None]:
        """All or nothing; with `epoch` only for its owner."""
        with self._turn:
            try:
                with self._db:
                    if epoch is not None and (owner := self._one("SELECT epoch FROM state")) != epoch:
                        raise Fenced(f"manifest: epoch {epoch} has ended; {owner} is the owner now")
                    yield
            except (apsw.FullError, apsw.IOError) as error:
                raise StoreFull(f"manifest: the disk took no more ({error}); nothing was changed") from error

    def _one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._db.execute(sql, tuple(parameters)).fetchall()[0][0]

    def _add(self, files: Sequence[LakeFile]) -> list[LakeFile]:
        added = []
        for f in files:
            number = self._one(
                f"INSERT INTO file({_FILE_COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?) RETURNING id",
                (
                    *(f.path, f.project_id, f.hour, f.rows, f.bytes, f.min_timestamp, f.max_timestamp),
                    *(f.min_received_at, f.max_received_at, f.first_position, f.next_position),
                    *(f.checksum, f.epoch, _text(f.promoted)),
                ),
            )
            added.append(replace(f, id=number))
        return added

    def _raise_revisions(self, files: Sequence[LakeFile]) -> None:
        self._raise(sorted({(f.project_id, f.hour) for f in files}))

    def _raise(self, places: Sequence[tuple[str, int]]) -> None:
        self._db.executemany(
            "INSERT INTO revision VALUES(?,?,1) ON CONFLICT DO UPDATE SET revision = revision + 1", places
        )

    def _keep_rejections(self, commit: ArchiveCommit) -> None:
        for r in commit.rejections:
            hour = hour_of(r.received_at)
            held = self._one(
                "SELECT count(*) FROM rejection WHERE project = ? AND event_id = ? AND hour = ?",
                (r.project_id, r.event_id, hour),
            )
            if r.event_id is None or held < CONFLICTS_KEPT:
                self._db.execute(
                    "INSERT INTO rejection(project, received_at, hour, reason, event_id, body) VALUES(?,?,?,?,?,?)",
                    (r.project_id, r.received_at, hour, r.reason, r.event_id, _msgpack.encode(r)),
                )

    def _live(self, file_id: int, what: str) -> tuple[int, str, int]:
        row = self._db.execute(
            "SELECT id, project, hour FROM file WHERE id = ? AND trashed_at IS NULL", (file_id,)
        ).fetchone()
        if row is None:
            raise Fenced(f"manifest: file {file_id} of this {what} is not live any more; plan anew")
        return int(row[0]), str(row[1]), int(row[2])

    def _remap_chunk(self, project: str, hour: int, gone: set[int], made: set[int]) -> None:
        row = self._db.execute("SELECT files FROM chunk WHERE project = ? AND hour = ?", (project, hour)).fetchone()
        held = set(msgspec.json.decode(row[0])) if row else set()
        if not held & gone:
            return
        if gone <= held:
            files = _text(sorted(held - gone | made))
            self._db.execute("UPDATE chunk SET files = ? WHERE project = ? AND hour = ?", (files, project, hour))
        else:
            # a chunk of half a file would count rows twice or not at all: raw answers until it is made anew
            self._db.execute("DELETE FROM chunk WHERE project = ? AND hour = ?", (project, hour))

    def _promoted(self, project_id: str) -> dict[tuple[str, str], str]:
        rows = self._db.execute(
            "SELECT name, kind, column FROM promoted WHERE project = ? ORDER BY number", (project_id,)
        )
        return {(name, kind): column for name, kind, column in rows}


def _text(value: Any) -> str:
    return _json.encode(value).decode()


def open_manifest(path: Path) -> SqliteManifest:
    """The one writer of the manifest at `path`, which is made where missing. Raises `Locked`."""
    return SqliteManifest(path)


def open_manifest_reader(path: Path) -> SqliteManifestReader:
    """A reader of the manifest at `path`, which need not exist yet: until it does, it is empty."""
    return SqliteManifestReader(path)
