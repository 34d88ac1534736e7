"""A metric over events, the one implementation: live windows, settled rollups and direct answers all come from here.

A `Source` is a relation of events of one project; `measure` gives the aggregate states of metrics over it, by window
and dimension values. The answer depends on the events alone, never on how they are stored or split
(docs/specs/metric.md).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from headwater.errors import UsageError
from headwater.model import sketch
from headwater.model.aggregate import State
from headwater.model.metric import PERSON, Filter, Metric, filter_names, names_used
from headwater.model.value import number_of
from headwater.warehouse.dialect import NUMBER_FUNCTION, DuckDB, event_field
from headwater.warehouse.extract import context_columns, context_name, property_columns

SQL = DuckDB()
TIME = "headwater_time"
# Window edges on a regular grid of at most this many slots are found by a hash join; others by an ordered one.
_MOST_SLOTS = 400_000
_unique_names = itertools.count()


@dataclass(frozen=True)
class Source:
    """A relation of events of one project.

    `relation`: SQL text after FROM. `texts`: name of a property or field -> SQL text expression. `numbers`: the same
    for properties that are there as DECIMAL(38,9) already. `time`: SQL expression of the event time in microseconds.
    `objects`: name -> Arrow table to register while the relation is read.
    """

    relation: str
    texts: Mapping[str, str]
    time: str
    numbers: Mapping[str, str] = field(default_factory=dict)
    objects: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """The text expression of `name`. Raises `UsageError` when the source was made without it."""
        if name not in self.texts:
            raise UsageError(f"the source of events was made without {name!r}; it has {sorted(self.texts)}")
        return self.texts[name]

    @contextmanager
    def registered(self, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Makes `objects` known to the connection for a while, and the function for unusual numbers for good."""
        _offer_number_function(con)
        for name, table in self.objects.items():
            con.register(name, table)
        try:
            yield
        finally:
            for name in self.objects:
                con.unregister(name)


@dataclass(frozen=True)
class Measured:
    """The state of one metric version, window and group. `dimensions` are the sorted names of the set, `values` theirs
    in that order (None: absent); `bucket` is the start of the window in microseconds."""

    metric_key: str
    dimensions: tuple[str, ...]
    values: tuple[str | None, ...]
    bucket: int
    state: State


def names_for(metrics: Sequence[Metric], extra: Filter | None = None, more: Sequence[str] = ()) -> list[str]:
    """Every property and field that measuring `metrics` needs, each once."""
    names = [name for metric in metrics for name in names_used(metric.definition)]
    return list(dict.fromkeys([*names, *filter_names(extra), *more]))


def events_source(table: pa.RecordBatch | pa.Table, names: Sequence[str]) -> Source:
    """Events in memory (EventBatch v1, of one project): only `names` are taken out of the JSON columns."""
    whole = table.combine_chunks() if isinstance(table, pa.Table) else table

    def column(name: str) -> pa.Array:
        found = whole.column(name)
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found

    columns: dict[str, pa.Array] = {TIME: column("timestamp").cast(pa.int64()), "event_type": column("event_type")}
    texts: dict[str, str] = {}
    properties = [name for name in names if not name.startswith("$")]
    contexts = [name for name in names if context_name(name) is not None]
    for name in names:
        if name == PERSON:
            columns["user_id"], columns["anonymous_id"] = column("user_id"), column("anonymous_id")
            texts[name] = SQL.person()
        elif name.startswith("$") and name not in contexts:
            texts[name] = event_field(name)
            columns[texts[name]] = column(texts[name])
    if properties:
        for i, texts_of in enumerate(property_columns(column("properties"), properties)):
            columns[f"property_{i}"], texts[properties[i]] = texts_of, f"property_{i}"
    if contexts:
        fields = [name.partition(".")[2] for name in contexts]
        for i, texts_of in enumerate(context_columns(column("context"), fields)):
            columns[f"context_{i}"], texts[contexts[i]] = texts_of, f"context_{i}"
    relation = f"headwater_events_{next(_unique_names)}"
    return Source(relation, texts, TIME, objects={relation: pa.table(columns)})


def files_source(
    paths: Sequence[str], names: Sequence[str], promoted: Mapping[tuple[str, str], str] | None = None
) -> Source:
    """Events in lake files. `promoted`: (property, `text` or `number`) -> column, for columns that every one of these
    files has. Raises `UsageError` without a path."""
    if not paths:
        raise UsageError("files_source needs at least one file")
    promoted = promoted or {}
    texts: dict[str, str] = {}
    for name in names:
        context = context_name(name)
        if context is not None:
            texts[name] = SQL.context_text(context)
        elif name == PERSON:
            texts[name] = SQL.person()
        elif name.startswith("$"):
            texts[name] = event_field(name)
        elif (name, "text") in promoted:
            texts[name] = SQL.quoted(promoted[name, "text"])
        else:
            texts[name] = SQL.property_text(name)
    numbers = {
        name: f"CAST({SQL.quoted(promoted[name, 'number'])} AS DECIMAL(38,9))"
        for name in names
        if (name, "number") in promoted
    }
    return Source(SQL.files(paths), texts, SQL.micros("timestamp"), numbers=numbers)


def measure(
    con: duckdb.DuckDBPyConnection,
    source: Source,
    metrics: Sequence[Metric],
    *,
    bucket_us: int | Sequence[int],
    dimension_sets: Sequence[tuple[str, ...]] | None = None,
    extra_filter: Filter | None = None,
    start: int | None = None,
    end: int | None = None,
) -> list[Measured]:
    """The states of `metrics` over the events of `source`, by window and group; windows and groups without a matching
    event are left out. Order: dimension set, window, then as it comes.

    `bucket_us`: width of the windows, which start at multiples of it, or their ascending edges (n + 1 for n windows;
    events outside are left out). `dimension_sets` replaces the metrics' own; names within a set are sorted.
    `start` inclusive and `end` exclusive bound the event time. The connection is used by one thread at a time.
    """
    if not metrics:
        return []
    windows = _Windows.of(bucket_us)
    if windows.bounds is not None:
        low, high = windows.bounds
        start, end = (low if start is None else max(start, low)), (high if end is None else min(end, high))
    wanted: dict[tuple[str, ...], list[Metric]] = {}
    for metric in metrics:
        for dimensions in metric.dimension_sets if dimension_sets is None else dimension_sets:
            wanted.setdefault(tuple(sorted(dimensions)), []).append(metric)
    found: list[Measured] = []
    with source.registered(con), windows.registered(con):
        relation = _Prepared(source, extra_filter, start, end)
        for dimensions, of_set in wanted.items():
            found += relation.query(of_set, dimensions, windows).run(con)
    return found


@dataclass(frozen=True)
class MetricQuery:
    """One statement for all metrics that share a dimension set. `columns`: for each metric where in a row its parts
    lie: part of the state -> index."""

    sql: str
    dimensions: tuple[str, ...]
    metrics: tuple[Metric, ...]
    columns: tuple[dict[str, int], ...]

    def run(self, con: duckdb.DuckDBPyConnection) -> list[Measured]:
        found = []
        groups = len(self.dimensions)
        for row in con.execute(self.sql).fetchall():
            for metric, columns in zip(self.metrics, self.columns, strict=True):
                if row[columns["count"]]:
                    found.append(
                        Measured(metric.key, self.dimensions, row[1 : 1 + groups], row[0], _state(row, columns))
                    )
        return found


def query_for(
    source: Source,
    metrics: Sequence[Metric],
    dimensions: tuple[str, ...],
    bucket_us: int,
    *,
    extra_filter: Filter | None = None,
    start: int | None = None,
    end: int | None = None,
) -> MetricQuery:
    """The statement that `measure` runs for one dimension set; to show it, and to hold it still in a test."""
    return _Prepared(source, extra_filter, start, end).query(list(metrics), dimensions, _Windows.of(bucket_us))


@dataclass(frozen=True)
class _Windows:
    """How an event time becomes the start of its window: a width, a grid of slots or a table of starts."""

    width: int = 0
    origin: int = 0
    table: pa.Table | None = None
    name: str = ""
    bounds: tuple[int, int] | None = None

    @staticmethod
    def of(given: int | Sequence[int]) -> _Windows:
        if isinstance(given, int):
            if given <= 0:
                raise UsageError(f"a window is {given} us wide; it must be wider than 0")
            return _Windows(width=given)
        edges = list(given)
        if len(edges) < 2 or any(b <= a for a, b in itertools.pairwise(edges)):
            raise UsageError("window edges: at least two, each above the one before")
        first, name = edges[0], f"headwater_windows_{next(_unique_names)}"
        grid = math.gcd(*(edge - first for edge in edges))
        bounds = (first, edges[-1])
        slots = (edges[-1] - first) // grid
        if slots > _MOST_SLOTS:
            return _Windows(0, first, pa.table({"opens": pa.array(edges[:-1], pa.int64())}), name, bounds)
        starts = [edge for edge, after in itertools.pairwise(edges) for _ in range((after - edge) // grid)]
        columns = {"slot": pa.array(range(slots), pa.int64()), "opens": pa.array(starts, pa.int64())}
        return _Windows(grid, first, pa.table(columns), name, bounds)

    def relation(self, events: str) -> tuple[str, str]:
        """What to read from, and the expression of the window start in it."""
        if self.table is None:
            return events, SQL.bucket("t", self.width)
        if not self.width:
            return f"{events} ASOF JOIN {self.name} ON t >= opens", "opens"
        return f"{events} JOIN {self.name} ON (t - {self.origin}) // {self.width} = slot", "opens"

    @contextmanager
    def registered(self, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
        if self.table is None:
            yield
            return
        con.register(self.name, self.table)
        try:
            yield
        finally:
            con.unregister(self.name)


@dataclass(frozen=True)
class _Prepared:
    """A source with the bounds that hold for every metric."""

    source: Source
    extra: Filter | None
    start: int | None
    end: int | None

    def query(self, metrics: list[Metric], dimensions: tuple[str, ...], windows: _Windows) -> MetricQuery:
        inner = _Expressions()  # of single events
        outer = _Expressions()  # of groups
        groups = [inner.column(self.source.text(name)) for name in dimensions]
        columns = []
        for metric in metrics:
            matches = inner.column(self._matches(metric))
            columns.append({part: outer.index(sql) for part, sql in self._parts(metric, matches, inner).items()})
        relation, opens = windows.relation("events")
        keys = [f"{opens} AS bucket", *(f"{e} AS d{i}" for i, e in enumerate(groups))]
        grouped = ", ".join(str(i + 1) for i in range(len(keys)))
        offset = len(keys)
        sql = (
            f"WITH events AS (SELECT {self.source.time} AS t"
            + "".join(f", {text} AS e{i}" for i, text in enumerate(inner.texts))
            + f" FROM {self.source.relation}{self._bounds(metrics)})\n"
            + f"SELECT {', '.join(keys)}, {', '.join(outer.texts)}\nFROM {relation} GROUP BY {grouped} ORDER BY 1"
        )
        placed = tuple({part: offset + at for part, at in held.items()} for held in columns)
        return MetricQuery(sql, dimensions, tuple(metrics), placed)

    def _matches(self, metric: Metric) -> str:
        definition = metric.definition
        parts = [] if definition.event_type is None else [f"event_type = {SQL.literal(definition.event_type)}"]
        parts += [SQL.filter(f, self.source.text) for f in (definition.filter, self.extra) if f]
        return " AND ".join(parts) or "TRUE"

    def _parts(self, metric: Metric, matches: str, inner: _Expressions) -> dict[str, str]:
        definition = metric.definition
        only = f"FILTER (WHERE {matches})"
        parts = {"count": f"count(*) {only}"}
        if definition.aggregate == "unique":
            text = inner.column(self.source.text(definition.property or PERSON))
            parts["distinct"] = f"{SQL.distinct(text)} FILTER (WHERE {matches} AND {text} IS NOT NULL)"
        elif definition.aggregate != "count":
            assert definition.property is not None
            text = self.source.text(definition.property)
            number = inner.column(self.source.numbers.get(definition.property) or SQL.number(text))
            present = inner.column(f"{text} IS NOT NULL")
            taken = "sum" if definition.aggregate == "avg" else definition.aggregate
            parts["numbers"] = f"count({number}) {only}"
            parts["present"] = f"count(*) FILTER (WHERE {matches} AND {present})"
            parts[taken] = f"{taken}({number}) {only}"
        return parts

    def _bounds(self, metrics: list[Metric]) -> str:
        parts = [] if self.start is None else [f"{self.source.time} >= {self.start}"]
        parts += [] if self.end is None else [f"{self.source.time} < {self.end}"]
        types = [metric.definition.event_type for metric in metrics]
        named = list(dict.fromkeys(name for name in types if name is not None))
        if None not in types:
            parts.append(f"event_type IN ({', '.join(SQL.literal(name) for name in named)})")
        return f" WHERE {' AND '.join(parts)}" if parts else ""


class _Expressions:
    """Expressions, each once, by where they stand."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def index(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text)

    def column(self, text: str) -> str:
        """The name of the column that holds the expression."""
        return f"e{self.index(text)}"


def _state(row: tuple[Any, ...], columns: dict[str, int]) -> State:
    numbers = row[columns["numbers"]] if "numbers" in columns else 0
    distinct = row[columns["distinct"]] if "distinct" in columns else None
    return State(
        count=row[columns["count"]],
        numbers=numbers,
        not_numbers=row[columns["present"]] - numbers if "present" in columns else 0,
        sum=row[columns["sum"]] if "sum" in columns else None,
        min=row[columns["min"]] if "min" in columns else None,
        max=row[columns["max"]] if "max" in columns else None,
        sketch=sketch.sketch_of(distinct) if distinct else None,
    )


def _offer_number_function(con: duckdb.DuckDBPyConnection) -> None:
    with contextlib.suppress(duckdb.Error):  # an earlier use of this connection has made it
        con.create_function(  # type: ignore[call-overload]
            NUMBER_FUNCTION, _number, ["VARCHAR"], "DECIMAL(38,9)", null_handling="special"
        )


def _number(text: str | None) -> Any:
    return None if text is None else number_of(text)
