"""Answers to metric questions: the plan's states, merged by window and group, and their values."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from headwater.catalog.port import LakeFile
from headwater.clock import HOUR, hour_of
from headwater.errors import Refused
from headwater.model.aggregate import EMPTY, State, merge, value
from headwater.model.batch import TIME
from headwater.model.metric import Metric
from headwater.query.cache import AnswerCache, Entry
from headwater.query.matching import holds
from headwater.query.plan import Facts, Part, Plan, Stretch, parts, plan
from headwater.query.question import Question
from headwater.query.reading import Reading, Readings
from headwater.query.services import Services
from headwater.warehouse.chunk import read_states
from headwater.warehouse.measure import Source, events_source, files_source, measure, names_for

MOST_ROWS = 200_000
CACHE_ROWS = 1_000_000
STALE_AFTER = 5_000_000  # microseconds behind at which an answer says that it is stale
ATTEMPTS = 3
Values = tuple[str | None, ...]


@dataclass(frozen=True)
class Row:
    """`timestamp`: start of the window; `values`: of the question's `dimensions`, in their (sorted) order."""

    timestamp: int
    values: Values
    value: Decimal | int | None


@dataclass(frozen=True)
class Counted:
    """What is cached: it depends on the question and on what the key names, not on when it was asked."""

    rows: tuple[Row, ...]
    not_numbers: int


@dataclass(frozen=True)
class Answer:
    """`complete_up_to`, `asked_at`, `made_at` in microseconds. `made_at` is when the rows were computed."""

    question: Question
    aggregate: str
    counted: Counted
    parts: tuple[Part, ...]
    complete_up_to: int | None
    asked_at: int
    hit: bool
    made_at: int

    @property
    def lag_us(self) -> int | None:
        return None if self.complete_up_to is None else max(0, self.asked_at - self.complete_up_to)

    @property
    def stale(self) -> bool:
        return (self.lag_us or 0) > STALE_AFTER


class States:
    """States by window and group, not merged yet."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self.held: dict[tuple[int, Values], list[State]] = {}

    def add(self, dimensions: tuple[str, ...], found: Iterable[tuple[int, Values, State]]) -> None:
        """Takes states of the declared set `dimensions`: filtered by their values, merged down to what is asked."""
        question = self._question
        at = [dimensions.index(name) for name in question.dimensions]
        for start, values, state in found:
            if question.filter is not None and not holds(question.filter, dict(zip(dimensions, values, strict=True))):
                continue
            self.take(start, tuple(values[i] for i in at), state)

    def take(self, start: int, values: Values, state: State) -> None:
        """Takes a state of a group as asked, in the window that holds `start`."""
        edges = self._question.edges
        window = edges[bisect_right(edges, start) - 1]
        self.held.setdefault((window, values), []).append(state)


@dataclass
class Gathered:
    """All that an answer needs of one reading; what follows reads immutable files only."""

    plan: Plan
    states: States
    tails: list[tuple[Stretch, pa.Table]] = field(default_factory=list)
    parts: tuple[Part, ...] = ()
    complete_up_to: int | None = None
    depends_on: bytes = b""
    promoted: Mapping[tuple[str, str], str] = field(default_factory=dict)


class Answers:
    """Answers metric questions over `services`. Used by many threads."""

    def __init__(self, services: Services, readings: Readings) -> None:
        self._services = services
        self._readings = readings
        self._cache: AnswerCache[Counted] = AnswerCache(CACHE_ROWS)

    def metric(self, metric: Metric, question: Question) -> Answer:
        """Raises `Refused` for what cannot be answered."""
        for attempt in range(ATTEMPTS):
            asked_at = self._services.clock.now_us()
            with self._readings.open() as reading:
                gathered = _gather(reading, metric, question)
            key = (metric.project_id, metric.key, question.canonical(), gathered.depends_on)
            try:
                entry, hit = self._cache.get(key, partial(self._count, metric, question, gathered))
            except (duckdb.IOException, FileNotFoundError):
                # a compaction moved files after the reading; the manifest names their successors
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            return Answer(
                question=question,
                aggregate=metric.definition.aggregate,
                counted=entry.value,
                parts=gathered.parts,
                complete_up_to=gathered.complete_up_to,
                asked_at=asked_at,
                hit=hit,
                made_at=entry.made_at,
            )
        raise AssertionError("the last attempt returns or raises")

    def _count(self, metric: Metric, question: Question, gathered: Gathered) -> Entry[Counted]:
        made_at = self._services.clock.now_us()
        states = gathered.states
        for stretch in gathered.plan.stretches:
            if stretch.chunks:
                assert gathered.plan.dimensions is not None
                assert stretch.grain is not None
                paths = self._services.local_paths([chunk.path for chunk in stretch.chunks])
                with self._services.analyst.connection() as connection:
                    settled = read_states(
                        connection,
                        paths,
                        metric.key,
                        stretch.grain,
                        gathered.plan.dimensions,
                        stretch.start,
                        stretch.end,
                    )
                states.add(gathered.plan.dimensions, ((held.bucket, held.values, held.state) for held in settled))
        names = names_for([metric], question.filter, question.dimensions)
        for stretch in gathered.plan.stretches:
            for alike, columns in _by_columns(stretch.files, gathered.promoted):
                paths = self._services.local_paths([file.path for file in alike])
                self._measure(states, metric, question, files_source(paths, names, columns), stretch)
        for stretch, table in gathered.tails:
            self._measure(states, metric, question, events_source(table, names), stretch)
        counted = _counted(metric, question, states)
        return Entry(counted, made_at, len(counted.rows) + 1)

    def _measure(self, states: States, metric: Metric, question: Question, source: Source, stretch: Stretch) -> None:
        with self._services.analyst.connection() as connection:
            found = measure(
                connection,
                source,
                [metric],
                bucket_us=list(question.edges),
                dimension_sets=[question.dimensions],
                extra_filter=question.filter,
                start=stretch.start,
                end=stretch.end,
            )
        for measured in found:
            states.take(measured.bucket, measured.values, measured.state)


def _gather(reading: Reading, metric: Metric, question: Question) -> Gathered:
    project = metric.project_id
    first_hour, last = hour_of(question.start), -(-question.end // HOUR) * HOUR
    live_from = reading.panes.live_from(project, metric.key) if reading.panes is not None else None
    caps = reading.panes.caps(project, metric.key) if reading.panes is not None else []
    facts = Facts(
        boundary=reading.boundary,
        live_from=live_from,
        archived_received_at=reading.archive.received_at,
        capped_from={cap.dimensions: cap.from_hour for cap in caps},
        files=reading.manifest.files(project, first_hour, last),
        chunks=reading.manifest.chunks(project, first_hour, last),
    )
    gathered = Gathered(plan(question, metric, facts), States(question), promoted=reading.manifest.promoted(project))
    used = []
    moving = False
    for stretch in gathered.plan.stretches:
        tail_used = False
        if stretch.live is not None:
            _add_panes(reading, metric, gathered, stretch, since=None)
            moving = True
        elif stretch.tail == "events":
            table = _within(reading.tail(project), stretch.start, stretch.end)
            if table.num_rows:
                gathered.tails.append((stretch, table))
                tail_used = True
        elif stretch.tail is not None:
            tail_used = _add_panes(reading, metric, gathered, stretch, since=reading.first)
        used.append((stretch, tail_used))
        moving = moving or tail_used
    gathered.parts = tuple(parts(used))
    gathered.complete_up_to = reading.complete_up_to()
    gathered.depends_on = _depends_on(gathered.plan, reading if moving else None)
    return gathered


def _add_panes(reading: Reading, metric: Metric, gathered: Gathered, stretch: Stretch, since: int | None) -> bool:
    """Takes live panes, or (with `since`) tail panes, of a stretch; whether there were any."""
    dimensions, panes = gathered.plan.dimensions, reading.panes
    assert dimensions is not None
    assert panes is not None
    span = (stretch.start, stretch.end)
    if since is None:
        assert stretch.live is not None
        found = panes.live(metric.project_id, metric.key, dimensions, stretch.live, *span)
    else:
        assert isinstance(stretch.tail, int)
        found = panes.tail(metric.project_id, metric.key, dimensions, stretch.tail, *span, since)
    gathered.states.add(dimensions, ((pane.key.start, pane.key.values, pane.state) for pane in found))
    return bool(found)


def _within(table: pa.Table, start: int, end: int) -> pa.Table:
    """Events whose time lies in [start, end)."""
    if not table.num_rows:
        return table
    times = table.column("timestamp").cast(pa.int64())
    return table.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end)))


def _depends_on(planned: Plan, moving: Reading | None) -> bytes:
    """What the rows depend on besides the question: files, chunks, and the positions where the tail or live panes had
    a share."""
    digest = hashlib.blake2b(digest_size=16)
    for stretch in planned.stretches:
        digest.update(f"|{stretch.start},{stretch.end},{stretch.live},{stretch.grain},{stretch.tail}".encode())
        for chunk in stretch.chunks:
            digest.update(f";{chunk.path}".encode())
        for file in stretch.files:
            digest.update(f",{file.id}".encode())
    if moving is not None:
        digest.update(f"@{moving.first},{moving.next}".encode())
    return digest.digest()


def _by_columns(
    files: Iterable[LakeFile], promoted: Mapping[tuple[str, str], str]
) -> list[tuple[list[LakeFile], dict[tuple[str, str], str]]]:
    """Files that have the same promoted columns together, and what those columns hold."""
    groups: dict[frozenset[str], list[LakeFile]] = {}
    for file in files:
        groups.setdefault(frozenset(file.promoted.values()), []).append(file)
    return [
        (alike, {what: column for what, column in promoted.items() if column in columns})
        for columns, alike in groups.items()
    ]


def _counted(metric: Metric, question: Question, states: States) -> Counted:
    aggregate = metric.definition.aggregate
    merged = {at: merge(held) for at, held in states.held.items()}
    if not question.group_by:
        for window in question.edges[:-1]:
            merged.setdefault((window, ()), EMPTY)
    if len(merged) > MOST_ROWS:
        raise Refused(
            "invalid_query",
            422,
            f"the answer has {len(merged)} rows of windows and groups, and at most {MOST_ROWS} are given; group by "
            "fewer names, filter, or ask for a shorter range or a coarser granularity",
        )
    ordered = sorted(merged.items(), key=lambda item: (item[0][0], [(v is None, v or "") for v in item[0][1]]))
    rows = tuple(Row(window, values, value(state, aggregate)) for (window, values), state in ordered)
    return Counted(rows, sum(state.not_numbers for state in merged.values()))


def arrow_table(answer: Answer) -> pa.Table:
    """The rows as Arrow columns: `timestamp`, the groups as asked, `value`."""
    rows = answer.counted.rows
    whole = answer.aggregate in ("count", "unique")
    columns: dict[str, pa.Array] = {"timestamp": pa.array([row.timestamp for row in rows], TIME)}
    for name in answer.question.group_by:
        at = answer.question.dimensions.index(name)
        columns[name] = pa.array([row.values[at] for row in rows], pa.string())
    held = [row.value if whole or row.value is None else Decimal(row.value) for row in rows]
    columns["value"] = pa.array(held, pa.int64() if whole else pa.decimal128(38, 9))
    return pa.table(columns)
