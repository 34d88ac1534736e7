"""The audit: every accepted event accounted for, per project and hour of receipt.

    accepted = stored + copies + rejected later + in flight (+ erased + expired)

`accepted` was counted by ingest in the transaction that took the event in; `stored` is counted here from the rows of
the Parquet files themselves, so the two can differ. What is missing and what is too much are counted apart and never
cancel: a row that is there twice is one too many even where another is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import duckdb
import msgspec
import pyarrow as pa

from headwater.catalog.port import LakeFile, ManifestReader
from headwater.clock import DAY, HOUR, rfc3339
from headwater.eventlog.port import EventLogReader, sliced
from headwater.lake.objectstore.port import ObjectStore
from headwater.warehouse.dialect import DuckDB

_SQL = DuckDB()
_READ_BYTES = 8 << 20
Place = tuple[str, int]  # project, hour of receipt in microseconds


class AuditRow(msgspec.Struct, frozen=True, rename="camel"):
    """One project and hour of receipt. `erased` and `expired` are events that were removed on purpose."""

    project: str
    hour: str
    accepted: int
    stored: int
    copies: int
    rejected_later: int
    erased: int
    expired: int
    in_flight: int
    missing: int
    extra: int


class Unreadable(msgspec.Struct, frozen=True):
    """A lake file that the manifest names and that cannot be read; its rows are missing."""

    project: str
    file: str
    detail: str


class AuditReport(msgspec.Struct, frozen=True, rename="camel"):
    """`ok`: every file could be read, and nothing is missing or too much."""

    ok: bool
    projects: list[AuditRow]
    unreadable: list[Unreadable]

    @staticmethod
    def of(rows: list[AuditRow], unreadable: list[Unreadable]) -> AuditReport:
        return AuditReport(not unreadable and not any(r.missing or r.extra for r in rows), rows, unreadable)

    def of_project(self, project_id: str) -> AuditReport:
        """What one project may see of it."""
        rows = [row for row in self.projects if row.project == project_id]
        return AuditReport.of(rows, [file for file in self.unreadable if file.project == project_id])


def audit(
    log: EventLogReader, manifest: ManifestReader, objects: ObjectStore, con: duckdb.DuckDBPyConnection
) -> AuditReport:
    """Exact at any moment: the manifest's moment is fixed first, then the log's end and counters are read together.
    What lies in the log between the two is in flight, copies among it included."""
    with manifest.view() as view:
        position, files, skipped = view.position().next, view.files(), view.skipped()
    end, counted = log.snapshot()
    accepted = {(c.project_id, c.hour): c.events for c in counted}
    in_flight = _in_flight(log, position, end)
    stored, surplus, unreadable = _stored(files, position, objects, con)
    copies = {(s.project_id, s.hour): s.copies for s in skipped}
    rejected = {(s.project_id, s.hour): s.rejected for s in skipped}
    rows = []
    for place in sorted({*accepted, *in_flight, *stored, *surplus, *copies}):
        known = stored[place] + copies.get(place, 0) + rejected.get(place, 0) + in_flight[place]
        balance = accepted.get(place, 0) - known
        rows.append(
            AuditRow(
                project=place[0],
                hour=rfc3339(place[1]),
                accepted=accepted.get(place, 0),
                stored=stored[place],
                copies=copies.get(place, 0),
                rejected_later=rejected.get(place, 0),
                erased=0,
                expired=0,
                in_flight=in_flight[place],
                missing=max(0, balance),
                extra=max(0, -balance) + surplus[place],
            )
        )
    return AuditReport.of(rows, unreadable)


def _in_flight(log: EventLogReader, start: int, end: int) -> Counter[Place]:
    """Events at positions [start, end) of the log."""
    found: Counter[Place] = Counter()
    at = start
    while at < end:
        records = list(sliced(log.read(at, _READ_BYTES), at))
        if not records:
            break
        for record in records:
            batch = record.batch.slice(0, max(0, end - record.first))
            receipts = batch.column("received_at").cast(pa.int64()).to_numpy()
            hours = (receipts - receipts % HOUR).tolist()
            found.update(zip(batch.column("project_id").to_pylist(), hours, strict=True))
            at = record.next
    return found


def _stored(
    files: Sequence[LakeFile], position: int, objects: ObjectStore, con: duckdb.DuckDBPyConnection
) -> tuple[Counter[Place], Counter[Place], list[Unreadable]]:
    """Distinct events that lie where they belong; rows beyond them (doubled, in a file of another project or hour, or
    from a position that the archive has not reached); and files that cannot be read."""
    stored: Counter[Place] = Counter()
    surplus: Counter[Place] = Counter()
    unreadable: list[Unreadable] = []
    by_day: dict[tuple[str, int], list[LakeFile]] = {}
    for file in files:
        for day in _days(file, objects, con, unreadable):
            by_day.setdefault((file.project_id, day), []).append(file)
    # One day of receipt at a time: the ids of that day are held in memory to tell the distinct ones.
    for (project, day), touching in sorted(by_day.items(), key=lambda item: item[0]):
        for hour, rows, distinct in _count_day(touching, day * DAY, position, objects, con):
            stored[project, hour] += distinct
            surplus[project, hour] += rows - distinct
    return stored, surplus, unreadable


def _count_day(
    files: Sequence[LakeFile], day: int, position: int, objects: ObjectStore, con: duckdb.DuckDBPyConnection
) -> list[tuple[int, int, int]]:
    """(hour of receipt, rows, distinct events in their place) of a day of receipt."""
    # A file that the manifest names twice is read twice.
    parts = [
        f"SELECT event_id, epoch_us(received_at) AS receipt, project_id = {_SQL.literal(file.project_id)} "
        f"AND epoch_us(timestamp) >= {file.hour} AND epoch_us(timestamp) < {file.hour + HOUR} "
        f"AND log_position < {position} AS placed "
        f"FROM {_SQL.files([str(objects.local_path(file.path))])}"
        for file in files
    ]
    found: list[tuple[int, int, int]] = []
    counted = con.execute(
        f"SELECT receipt // {HOUR} * {HOUR}, count(*), count(DISTINCT event_id) FILTER (WHERE placed) "
        f"FROM ({' UNION ALL '.join(parts)}) WHERE receipt >= {day} AND receipt < {day + DAY} GROUP BY 1"
    ).fetchall()
    for hour, rows, distinct in counted:
        found.append((int(hour), int(rows), int(distinct)))
    return found


def _days(
    file: LakeFile, objects: ObjectStore, con: duckdb.DuckDBPyConnection, unreadable: list[Unreadable]
) -> list[int]:
    """Days of receipt (since the epoch) of a file's rows; none, and `unreadable` longer, where it cannot be read."""
    try:
        path = objects.local_path(file.path)
        if not path.exists():
            raise FileNotFoundError(file.path)
        # the ids are read along, so that damage in them shows here
        found = con.execute(
            f"SELECT epoch_us(received_at) // {DAY}, max(event_id), max(log_position) FROM {_SQL.files([str(path)])} "
            "GROUP BY 1"
        ).fetchall()
    except (FileNotFoundError, duckdb.Error) as error:
        detail = f"cannot be read ({type(error).__name__}); its {file.rows} rows are missing"
        unreadable.append(Unreadable(file.project_id, file.path, detail))
        return []
    return [int(row[0]) for row in found]
