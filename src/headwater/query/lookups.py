"""Single events: newest first, or by id, out of the lake and the tail."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headwater.catalog.port import LakeFile, Project
from headwater.clock import HOUR
from headwater.lake.columns import SCHEMA, event_from_log_row, from_lake
from headwater.lake.find import find_events
from headwater.query.question import invalid, only, optional_time
from headwater.query.reading import POSITION, Reading, Readings
from headwater.query.services import Services

PARAMETERS = ("eventType", "userId", "startTime", "endTime", "limit", "cursor")
MOST = 1_000
USUAL = 100
HOURS_AT_ONCE = 24
FILES_AT_FIRST, MOST_FILES = 32, 2_000
LAST = 1 << 62


@dataclass(frozen=True)
class Found:
    """An event as the API shows it, and where it lies: `file` None while it is in the tail."""

    event: dict[str, Any]
    timestamp: int
    position: int
    file: LakeFile | None = None


@dataclass(frozen=True)
class Wanted:
    """What to list: events with start <= timestamp < end that come before (timestamp, position) `before`."""

    start: int
    end: int
    before: tuple[int, int]
    event_type: str | None
    user_id: str | None
    limit: int


def wanted(parameters: Mapping[str, str]) -> Wanted:
    """Raises `Refused(invalid_query)`."""
    only(parameters, PARAMETERS)
    start = optional_time("startTime", parameters.get("startTime"))
    end = optional_time("endTime", parameters.get("endTime"), whole_day=True)
    return Wanted(
        start=0 if start is None else start,
        end=LAST if end is None else end,
        before=_before(parameters.get("cursor")),
        event_type=parameters.get("eventType"),
        user_id=parameters.get("userId"),
        limit=limit_of(parameters, USUAL, MOST),
    )


def limit_of(parameters: Mapping[str, str], usual: int, most: int) -> int:
    """The `limit` of a listing. Raises `Refused(invalid_query)`."""
    text = parameters.get("limit", str(usual))
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or not 1 <= int(text) <= most:
        raise invalid(f"limit: {text!r} is not a whole number from 1 to {most}")
    return int(text)


class LookUps:
    """Finds events of a project. Used by many threads."""

    def __init__(self, services: Services, readings: Readings) -> None:
        self._services = services
        self._readings = readings

    def page(self, project: Project, asked: Wanted) -> tuple[list[dict[str, Any]], str | None]:
        """Events by (timestamp, log position), newest first, and the cursor of the next page."""
        with self._readings.open() as reading:
            files = reading.manifest.files(project.id, None, None)
            tail = _matching(reading.tail(project.id), asked)
            found = list(itertools.islice(self._newest(files, tail, asked), asked.limit + 1))
        page = found[: asked.limit]
        cursor = _cursor(page[-1]) if len(found) > asked.limit else None
        return [one.event for one in page], cursor

    def by_id(self, project: Project, event_id: str) -> Found | None:
        """The event with that id that counts; of several (far apart in time) the latest received."""
        with self._readings.open() as reading:
            held = self._in_tail(reading, project, event_id)
            return held or self._in_lake(reading, project, event_id)

    def _in_tail(self, reading: Reading, project: Project, event_id: str) -> Found | None:
        tail = reading.tail(project.id)
        tail = tail.filter(pc.equal(tail.column("event_id"), event_id))
        rows = _tail_rows(tail)
        return rows[-1] if rows else None

    def _in_lake(self, reading: Reading, project: Project, event_id: str) -> Found | None:
        """The newest files first, in ever larger groups: most look-ups are about what was sent lately."""
        files = sorted(reading.manifest.files(project.id), key=lambda f: -f.max_received_at)
        at, group = 0, FILES_AT_FIRST
        while at < len(files):
            chosen = files[at : at + group]
            table = find_events(self._services.local_paths([file.path for file in chosen]), [event_id])
            if table.num_rows:
                found = _lake_rows(table, None)[-1]
                return replace(found, file=next(file for file in chosen if _holds(file, found)))
            at, group = at + group, min(4 * group, MOST_FILES)
        return None

    def _newest(self, files: list[LakeFile], tail: list[Found], asked: Wanted) -> Iterator[Found]:
        """Hour by hour backwards, a day of hours at a time; a file's rows lie within its hour."""
        last = min(asked.end, asked.before[0] + 1)
        hours = {file.hour for file in files if file.hour < last and file.hour + HOUR > asked.start}
        hours |= {one.timestamp - one.timestamp % HOUR for one in tail}
        ordered = sorted(hours, reverse=True)
        for at in range(0, len(ordered), HOURS_AT_ONCE):
            chosen = set(ordered[at : at + HOURS_AT_ONCE])
            found = self._from_files([file for file in files if file.hour in chosen], asked)
            found += [one for one in tail if one.timestamp - one.timestamp % HOUR in chosen]
            yield from sorted(found, key=lambda one: (-one.timestamp, -one.position))

    def _from_files(self, files: list[LakeFile], asked: Wanted) -> list[Found]:
        if not files:
            return []
        conditions = ["epoch_us(timestamp) >= ?", "epoch_us(timestamp) < ?"]
        values: list[Any] = [asked.start, asked.end]
        conditions.append("(epoch_us(timestamp), log_position) < (?, ?)")
        values += asked.before
        for column, value in (("event_type", asked.event_type), ("user_id", asked.user_id)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        statement = (
            f"SELECT {', '.join(SCHEMA.names)} FROM read_parquet(?, union_by_name=true, hive_partitioning=false)"
            f" WHERE {' AND '.join(conditions)} ORDER BY timestamp DESC, log_position DESC LIMIT {asked.limit + 1}"
        )
        paths = self._services.local_paths([file.path for file in files])
        with self._services.analyst.connection() as connection:
            table = connection.sql(statement, params=[paths, *values]).to_arrow_table()
        return _lake_rows(pa.table(table).cast(SCHEMA), None)


def _holds(file: LakeFile, found: Found) -> bool:
    """Whether an event of one of several files is of this one: its hour and its position say so."""
    return (
        file.hour == found.timestamp - found.timestamp % HOUR
        and file.first_position <= found.position < file.next_position
    )


def _matching(tail: pa.Table, asked: Wanted) -> list[Found]:
    for column, value in (("event_type", asked.event_type), ("user_id", asked.user_id)):
        if value is not None:
            tail = tail.filter(pc.equal(tail.column(column), value))
    times = tail.column("timestamp").cast(pa.int64())
    tail = tail.filter(pc.and_(pc.greater_equal(times, asked.start), pc.less(times, asked.end)))
    return [one for one in _tail_rows(tail) if (one.timestamp, one.position) < asked.before]


def _tail_rows(tail: pa.Table) -> list[Found]:
    times = tail.column("timestamp").cast(pa.int64()).to_pylist()
    positions = tail.column(POSITION).to_pylist()
    batches = tail.drop_columns([POSITION]).combine_chunks().to_batches()
    events = [event_from_log_row(batch, row) for batch in batches for row in range(batch.num_rows)]
    return [Found(event, t, p) for event, t, p in zip(events, times, positions, strict=True)]


def _lake_rows(table: pa.Table, file: LakeFile | None) -> list[Found]:
    times = table.column("timestamp").cast(pa.int64()).to_pylist()
    positions = table.column("log_position").to_pylist()
    return [Found(event, t, p, file) for event, t, p in zip(from_lake(table), times, positions, strict=True)]


def _cursor(last: Found) -> str:
    return base64.urlsafe_b64encode(f"{last.timestamp}:{last.position}".encode()).decode().rstrip("=")


def _before(cursor: str | None) -> tuple[int, int]:
    if not cursor:
        return (LAST, LAST)
    try:
        time, position = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(":")
        before = (int(time), int(position))
        if max(map(abs, before)) > LAST:
            raise ValueError(cursor)
        return before
    except (ValueError, UnicodeDecodeError) as error:
        raise invalid("cursor: not one that was given out as 'next'") from error
