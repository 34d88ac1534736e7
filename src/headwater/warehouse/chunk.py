"""Chunks: the settled rollups of one project and UTC hour, one Parquet file each (docs/specs/rollup.md).

A row is the state of one metric version, window (`15m` or `hour`) and group. The columns are those that users see as
the table `metric_aggregates`; the exact state lies beside the displayed `value`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.clock import HOUR, MINUTE
from headwater.model import aggregate
from headwater.model.aggregate import State
from headwater.model.batch import TIME
from headwater.model.metric import Metric
from headwater.warehouse.dialect import DuckDB

GRANULARITIES = {"15m": 15 * MINUTE, "hour": HOUR}
FINEST = "15m"
FORMAT = "1"
_EXACT = pa.decimal128(38, 9)
_SHOWN = pa.decimal128(20, 2)
SCHEMA = pa.schema(
    [
        pa.field("project_id", pa.string(), nullable=False),
        pa.field("metric_name", pa.string(), nullable=False),
        pa.field("metric_type", pa.string(), nullable=False),
        pa.field("time_granularity", pa.string(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("value", _SHOWN),
        pa.field("dimensions", pa.string(), nullable=False),
        pa.field("created_at", TIME, nullable=False),
        pa.field("metric_key", pa.string(), nullable=False),
        pa.field("dimension_set", pa.string(), nullable=False),
        pa.field("revision", pa.int64(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("numbers", pa.int64(), nullable=False),
        pa.field("not_numbers", pa.int64(), nullable=False),
        pa.field("sum", _EXACT),
        pa.field("min", _EXACT),
        pa.field("max", _EXACT),
        pa.field("sketch", pa.binary()),
    ],
    metadata={"headwater.format": FORMAT},
)
_STATE = "count, numbers, not_numbers, sum, min, max, sketch"
_SQL = DuckDB()
Values = tuple[str | None, ...]


class Cell(msgspec.Struct, frozen=True):
    """What a row is of: `bucket` is the start of the window in microseconds, `dimensions` the sorted names of the set,
    `values` theirs in that order (None: absent)."""

    metric_key: str
    granularity: str
    dimensions: tuple[str, ...]
    bucket: int
    values: Values


@dataclass(frozen=True)
class SettledState:
    """One state that was read from chunks. The same window and group may come once from each chunk."""

    bucket: int
    values: Values
    state: State


def with_hours(finest: dict[Cell, State]) -> dict[Cell, State]:
    """The 15-minute states and, merged from them, those of the hours."""
    parts: dict[Cell, list[State]] = {}
    for cell, state in finest.items():
        hour = msgspec.structs.replace(cell, granularity="hour", bucket=cell.bucket - cell.bucket % HOUR)
        parts.setdefault(hour, []).append(state)
    return finest | {cell: aggregate.merge(states) for cell, states in parts.items()}


def merge_cells(parts: Sequence[dict[Cell, State]]) -> dict[Cell, State]:
    """The states over the events of all parts."""
    filled = [part for part in parts if part]
    if len(filled) <= 1:
        return dict(filled[0]) if filled else {}
    held: dict[Cell, list[State]] = {}
    for part in filled:
        for cell, state in part.items():
            held.setdefault(cell, []).append(state)
    return {cell: aggregate.merge(states) for cell, states in held.items()}


def write_chunk(cells: dict[Cell, State], metrics: Iterable[Metric], *, revision: int, now_us: int) -> bytes:
    """The Parquet bytes of a chunk; the same cells give the same rows in the same order.

    `metrics` are the definitions of all keys in `cells`, of one project. `revision` is the hour's when its files were
    read, `now_us` becomes `created_at`.
    """
    known = {metric.key: metric for metric in metrics}
    ordered = sorted(cells, key=lambda c: (c.metric_key, c.granularity, c.dimensions, c.bucket, _sortable(c.values)))
    states = [cells[cell] for cell in ordered]
    of = [known[cell.metric_key] for cell in ordered]
    rows = len(ordered)
    columns: list[list[Any]] = [
        [metric.project_id for metric in of],
        [metric.name for metric in of],
        [metric.definition.aggregate for metric in of],
        [cell.granularity for cell in ordered],
        [cell.bucket for cell in ordered],
        [_shown(state, metric) for state, metric in zip(states, of, strict=True)],
        [dimensions_text(cell.dimensions, cell.values) for cell in ordered],
        [now_us] * rows,
        [cell.metric_key for cell in ordered],
        [set_text(cell.dimensions) for cell in ordered],
        [revision] * rows,
        [state.count for state in states],
        [state.numbers for state in states],
        [state.not_numbers for state in states],
        [state.sum for state in states],
        [state.min for state in states],
        [state.max for state in states],
        [state.sketch for state in states],
    ]
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=SCHEMA),
        sink,
        compression="zstd",
        row_group_size=10_000,
        use_dictionary=[f.name for f in SCHEMA if f.name not in ("sketch", "sum", "min", "max")],
        store_decimal_as_integer=True,
    )
    return bytes(sink.getvalue())


def read_chunk(
    con: duckdb.DuckDBPyConnection, path: str, metric_keys: Iterable[str], granularity: str = FINEST
) -> dict[Cell, State]:
    """The states of the named metrics in one chunk, by default of 15 minutes each."""
    keys = ", ".join(_SQL.literal(key) for key in metric_keys)
    if not keys:
        return {}
    rows = con.execute(
        f"SELECT metric_key, dimension_set, epoch_us(timestamp), dimensions, {_STATE} FROM {_SQL.files([path])} "
        f"WHERE time_granularity = {_SQL.literal(granularity)} AND metric_key IN ({keys})"
    ).fetchall()
    found = {}
    for key, names, bucket, dimensions, *state in rows:
        of_set = tuple(json.loads(names))
        found[Cell(key, granularity, of_set, bucket, _values(of_set, dimensions))] = State(*state)
    return found


def read_states(
    con: duckdb.DuckDBPyConnection,
    paths: str | Sequence[str],
    metric_key: str,
    granularity: str,
    dimensions: tuple[str, ...],
    start: int,
    end: int,
) -> list[SettledState]:
    """The states of one metric version and dimension set in any number of chunks, with start <= bucket < end, by
    bucket. `granularity` is `15m` or `hour`. Windows and groups without events have no row."""
    listed = [paths] if isinstance(paths, str) else list(paths)
    if not listed or start >= end:
        return []
    rows = con.execute(
        f"SELECT epoch_us(timestamp), dimensions, {_STATE} FROM {_SQL.files(listed)} "
        f"WHERE metric_key = {_SQL.literal(metric_key)} AND time_granularity = {_SQL.literal(granularity)} "
        f"AND dimension_set = {_SQL.literal(set_text(dimensions))} "
        f"AND timestamp >= make_timestamptz({start}) AND timestamp < make_timestamptz({end}) ORDER BY 1"
    ).fetchall()
    return [SettledState(row[0], _values(dimensions, row[1]), State(*row[2:])) for row in rows]


def set_text(dimensions: tuple[str, ...]) -> str:
    """How a dimension set is written: a JSON list of its sorted names."""
    return msgspec.json.encode(sorted(dimensions)).decode()


def dimensions_text(dimensions: tuple[str, ...], values: Values) -> str:
    """How a group is written: a JSON object, keys sorted; null where an event has no such property."""
    return msgspec.json.encode(dict(sorted(zip(dimensions, values, strict=True)))).decode()


def _values(dimensions: tuple[str, ...], text: str) -> Values:
    if not dimensions:
        return ()
    found = msgspec.json.decode(text)
    return tuple(found[name] for name in dimensions)


def _shown(state: State, metric: Metric) -> Decimal | None:
    """The value to two places as the spec's column has it; null where there is none or it has too many digits."""
    value = aggregate.value(state, metric.definition.aggregate)
    if value is None:
        return None
    with localcontext() as context:
        context.prec = 60
        rounded = Decimal(value).quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)
    return rounded if abs(rounded) < Decimal(10) ** 18 else None


def _sortable(values: Values) -> tuple[tuple[bool, str], ...]:
    return tuple((value is not None, value or "") for value in values)
