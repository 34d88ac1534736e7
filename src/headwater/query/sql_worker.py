"""The process that runs one SQL statement of a user: `python -m headwater.query.sql_worker`.

Reads one job from stdin and writes one outcome to stdout, each as 4 bytes of length and MessagePack. It sees the
project's files and nothing else: no other paths, no settings, no extensions, no environment. Whoever started it kills
it at its deadline or when it takes too much memory (`query.sql`).
"""

from __future__ import annotations

import base64
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import duckdb
import msgspec
import pyarrow as pa

from headwater.clock import rfc3339
from headwater.query.csv_text import csv_bytes

LENGTH = struct.Struct("<I")
ADDRESS_SPACE = 2 << 30
EXACT = 1 << 53  # integers beyond it are not exact in JSON's doubles
BATCH_ROWS = 2048


class Job(msgspec.Struct):
    """`events`, `aggregates`: local Parquet files behind the two tables; where there are none the table is empty, with
    the columns of `empty_events`, `empty_aggregates` (Arrow schemas, serialised). `parameters`: by position or name."""

    sql: str
    parameters: list[Any] | dict[str, Any]
    limit: int
    format: Literal["json", "csv", "arrow"]
    events: list[str]
    aggregates: list[str]
    empty_events: bytes
    empty_aggregates: bytes
    memory_mb: int
    seconds: float
    project_id: str


class Outcome(msgspec.Struct):
    """`error` is a text for the user, or None; `late`: time was up. `body`: the rows as JSON, else the answer."""

    error: str | None = None
    late: bool = False
    columns: list[dict[str, str]] = []
    body: bytes = b""
    truncated: bool = False


class Unfit(Exception):
    """The statement will not be run."""


EVENT_COLUMNS = (
    "event_id", "user_id", "anonymous_id", "event_type", "project_id", "timestamp", "received_at", "properties",
    "context", "schema_version",
)  # fmt: skip
AGGREGATE_COLUMNS = (
    "project_id", "metric_name", "metric_type", "time_granularity", "timestamp", "value", "dimensions", "created_at",
)  # fmt: skip


def prepare(job: Job) -> duckdb.DuckDBPyConnection:
    """A fresh database with the two tables, locked before the user's text is looked at."""
    con = duckdb.connect(":memory:", config={"threads": 2, "python_enable_replacements": False})
    con.execute(
        f"SET memory_limit = '{job.memory_mb}MB'; SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false;"
        " SET autoload_known_extensions = false; SET temp_directory = ''; SET enable_progress_bar = false;"
        f" SET max_execution_time = {max(1, round(job.seconds * 1000))};"
    )
    files = [*job.events, *job.aggregates]
    if files:
        con.execute("SET allowed_paths = [" + ", ".join(_literal(path) for path in files) + "]")
    con.execute("SET enable_external_access = false")
    for view, columns, paths, empty in (
        ("events", EVENT_COLUMNS, job.events, job.empty_events),
        ("metric_aggregates", AGGREGATE_COLUMNS, job.aggregates, job.empty_aggregates),
    ):
        names = ", ".join(columns)
        if paths:
            listed = "[" + ", ".join(_literal(path) for path in paths) + "]"
            source = f"read_parquet({listed}, union_by_name = true, hive_partitioning = false)"
            con.execute(f"CREATE VIEW {view} AS SELECT {names} FROM {source}")
        else:
            with pa.ipc.open_stream(empty) as reader:
                con.register("empty_rows", reader.read_all())
            con.execute(f"CREATE TABLE {view} AS SELECT {names} FROM empty_rows")
            con.unregister("empty_rows")
    con.execute("SET lock_configuration = true")
    return con


def checked(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The one SELECT that `sql` is. Raises `Unfit`."""
    statements = con.extract_statements(sql)
    if len(statements) != 1:
        raise Unfit(f"sql: exactly one statement is run at a time; {len(statements)} were given")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise Unfit(f"sql: only SELECT is run here, not {statements[0].type.name}; nothing can be changed by SQL")
    return statements[0]


def run(job: Job) -> Outcome:
    """The outcome of a job; every error of the statement is a text in it."""
    con = prepare(job)
    try:
        statement = checked(con, job.sql)
        relation = con.sql(statement, params=job.parameters or None)
        types = [{"name": n, "type": str(t)} for n, t in zip(relation.columns, relation.types, strict=True)]
        rows, truncated = _capped(relation.to_arrow_reader(BATCH_ROWS), job.limit)
        if job.format == "arrow":
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows.schema) as writer:
                writer.write_table(rows)
            return Outcome(columns=types, body=bytes(sink.getvalue()), truncated=truncated)
        columns = [_shown_column(column, kind["type"]) for column, kind in zip(rows.columns, types, strict=True)]
        values = list(zip(*columns, strict=True))
        if job.format == "csv":
            body = csv_bytes([c["name"] for c in types], map(_flat, values))
            return Outcome(columns=types, body=body, truncated=truncated)
        return Outcome(columns=types, body=msgspec.json.encode(values), truncated=truncated)
    except Unfit as error:
        return Outcome(error=str(error))
    except duckdb.InterruptException as error:
        return Outcome(error=str(error), late=True)
    except (duckdb.Error, pa.ArrowException, ValueError, OverflowError) as error:
        return Outcome(error=f"sql: {_plain(str(error))}")
    except MemoryError:
        return Outcome(error="sql: the statement needs more memory than one question may take; ask for less at a time")


def _capped(reader: pa.RecordBatchReader, limit: int) -> tuple[pa.Table, bool]:
    batches, held = [], 0
    for batch in reader:
        batches.append(batch)
        held += batch.num_rows
        if held > limit:
            break
    return pa.Table.from_batches(batches, reader.schema).slice(0, limit), held > limit


def _shown_column(column: pa.ChunkedArray, declared: str) -> Iterator[Any]:
    kind = column.type
    show = _integer if declared in ("HUGEINT", "UHUGEINT") else shower(kind)
    if pa.types.is_timestamp(kind):
        # whole microseconds: finer digits are cut, and a datetime would not hold them either
        column = column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    return (None if value is None else show(value) for value in column.to_pylist())


def _integer(value: Any) -> Any:
    return int(value) if -EXACT <= value <= EXACT else format(value, "f")


def shower(kind: pa.DataType) -> Callable[[Any], Any]:
    """How values of a type are shown in JSON; called with values that are there."""
    types = pa.types
    if types.is_timestamp(kind):
        zoned = kind.tz is not None
        return lambda v: _time(v, zoned)
    if types.is_integer(kind):
        return lambda v: v if -EXACT <= v <= EXACT else str(v)
    if types.is_floating(kind):
        return lambda v: v if v - v == 0 else str(v)
    if types.is_boolean(kind):
        return lambda v: v
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return lambda v: base64.b64encode(v).decode()
    if types.is_map(kind):
        keys, items = shower(kind.key_type), shower(kind.item_type)
        return lambda v: {str(keys(k)): None if x is None else items(x) for k, x in v}
    if types.is_struct(kind):
        inner = {field.name: shower(field.type) for field in kind}
        return lambda v: {name: None if v[name] is None else show(v[name]) for name, show in inner.items()}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        element = shower(kind.value_type)
        return lambda v: [None if x is None else element(x) for x in v]
    if types.is_decimal(kind):
        return lambda v: format(v, "f")
    if types.is_interval(kind):
        return lambda v: f"P{v.months}M{v.days}DT{v.nanoseconds / 1e9:.6f}".rstrip("0").rstrip(".") + "S"
    return str


def _time(value: Any, zoned: bool) -> str:
    if isinstance(value, int):
        text = rfc3339(value)
        return text if zoned else text[:-1]
    return str(value.isoformat()).replace("+00:00", "Z")


def _flat(row: tuple[Any, ...]) -> list[Any]:
    return [
        msgspec.json.encode(v).decode() if isinstance(v, dict | list) else str(v).lower() if isinstance(v, bool) else v
        for v in row
    ]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _plain(text: str) -> str:
    """What was wrong, without advice for those who run the database."""
    return text.split("\nDatabase is launched")[0].strip()


def limit_address_space() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    limit_address_space()
    sys.stdout.buffer.write(b"R")  # ready: everything is imported
    sys.stdout.buffer.flush()
    head = sys.stdin.buffer.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(LENGTH.unpack(head)[0]), type=Job)
    try:
        outcome = msgspec.msgpack.encode(run(job))
    except MemoryError:
        outcome = msgspec.msgpack.encode(Outcome(error="sql: the answer needs more memory than one question may take"))
    sys.stdout.buffer.write(LENGTH.pack(len(outcome)))
    sys.stdout.buffer.write(outcome)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
