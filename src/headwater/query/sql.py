"""Ad-hoc SQL of a project over its own lake files, in a process that can be killed.

A worker runs one statement and ends. One spare is kept warm, so that a statement does not wait for imports. The worker
limits itself (`query.sql_worker`); this side kills it at the deadline or when it takes too much memory.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from headwater.catalog.port import Project
from headwater.errors import Refused, Unreachable
from headwater.lake.columns import SCHEMA as EVENTS
from headwater.query.question import invalid, one_of
from headwater.query.reading import Readings
from headwater.query.services import Services
from headwater.query.sql_worker import LENGTH, Job, Outcome

MOST_ROWS = 10_000
AT_ONCE = 2
MEMORY_SPARE_MB = 128  # above DuckDB's own limit: the interpreter, Arrow, the answer
GRACE_SECONDS = 1.0
PERIOD_SECONDS = 0.1
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)

# The columns of `metric_aggregates` as they are shown where there is no chunk yet (docs/specs/metric.md).
AGGREGATES = pa.schema(
    [
        ("project_id", pa.string()), ("metric_name", pa.string()), ("metric_type", pa.string()),
        ("time_granularity", pa.string()), ("timestamp", pa.timestamp("us", "UTC")),
        ("value", pa.decimal128(20, 2)), ("dimensions", pa.string()), ("created_at", pa.timestamp("us", "UTC")),
    ]
)  # fmt: skip


class Statement(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/query`."""

    sql: str
    parameters: list[Any] | dict[str, Any] = []
    limit: int = MOST_ROWS
    format: str = "json"


class SqlAnswer(msgspec.Struct):
    """`body`: the rows as JSON, or the whole answer as CSV or Arrow."""

    columns: list[dict[str, str]]
    body: bytes
    truncated: bool
    format: str
    complete_up_to: int | None


class SqlDesk:
    """Runs statements; used by many threads."""

    def __init__(self, services: Services, readings: Readings) -> None:
        self._services = services
        self._readings = readings
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._spare: Worker | None = None
        self._closed = False

    def run(self, project: Project, statement: Statement) -> SqlAnswer:
        """Raises `Refused`: `invalid_query`, `query_timeout`, `overloaded`."""
        if not 1 <= statement.limit <= MOST_ROWS:
            raise invalid(f"limit: {statement.limit} is not between 1 and {MOST_ROWS}")
        one_of("format", statement.format, ("json", "csv", "arrow"))
        with self._slot(project.id):
            with self._readings.open() as reading:
                files = reading.manifest.files(project.id)
                chunks = reading.manifest.chunks(project.id, -(1 << 62), 1 << 62)
                complete = reading.complete_up_to(tail=False)
            job = Job(
                sql=statement.sql,
                parameters=statement.parameters,
                limit=statement.limit,
                format=statement.format,  # type: ignore[arg-type]
                events=self._services.local_paths([file.path for file in files]),
                aggregates=self._services.local_paths([chunk.path for chunk in chunks]),
                empty_events=_empty(EVENTS),
                empty_aggregates=_empty(AGGREGATES),
                memory_mb=self._services.sql_memory_mb,
                seconds=self._services.sql_seconds,
                project_id=project.id,
            )
            outcome = self._perform(job)
        if outcome.late:
            raise _timed_out(self._services.sql_seconds)
        if outcome.error is not None:
            raise invalid(outcome.error)
        return SqlAnswer(outcome.columns, outcome.body, outcome.truncated, statement.format, complete)

    def warm(self) -> None:
        """Starts the spare worker, where there is none."""
        with self._lock:
            if self._spare is None and not self._closed:
                self._spare = Worker()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._spare is not None:
                self._spare.kill()
                self._spare = None

    def _perform(self, job: Job) -> Outcome:
        with self._lock:
            worker, self._spare = self._spare, None
        if worker is None or not worker.alive():
            worker = Worker()
        try:
            return worker.perform(job, self._services.sql_memory_mb + MEMORY_SPARE_MB, self._services.sql_seconds)
        finally:
            worker.kill()
            self.warm()

    @contextmanager
    def _slot(self, project_id: str) -> Iterator[None]:
        with self._lock:
            if self._running[project_id] >= AT_ONCE:
                raise Refused(
                    "overloaded",
                    503,
                    f"{AT_ONCE} statements of this project are running, which is the most at a time; try again",
                    retry_after=1,
                )
            self._running[project_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[project_id] -= 1


class Worker:
    """One worker process, for one job."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "headwater.query.sql_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            close_fds=True,
        )

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Ends the process, whatever it is doing; may be called again."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def perform(self, job: Job, memory_mb: int, seconds: float) -> Outcome:
        """Raises `Refused` when the process was killed for time or memory, `Unreachable` when it died by itself."""
        packed = msgspec.msgpack.encode(job)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(LENGTH.pack(len(packed)) + packed)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Unreachable("the SQL worker ended before it began; try again") from error
        return self._receive(memory_mb, seconds + GRACE_SECONDS)

    def _receive(self, memory_mb: int, seconds: float) -> Outcome:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        received = bytearray()
        waited = 0.0
        while True:
            ready, _, _ = select.select([descriptor], [], [], PERIOD_SECONDS)
            if ready:
                piece = os.read(descriptor, 1 << 20)
                if not piece:
                    break
                received += piece
                if len(received) >= 5 and len(received) >= 5 + LENGTH.unpack_from(received, 1)[0]:
                    return msgspec.msgpack.decode(received[5:], type=Outcome)
                continue
            waited += PERIOD_SECONDS
            if self._resident_mb() > memory_mb:
                raise invalid(f"sql: the statement took more than {memory_mb} MB of memory and was ended")
            if waited >= seconds:
                raise _timed_out(seconds - GRACE_SECONDS)
        # the limit on the address space may end it where it can no longer say so
        raise invalid("sql: the statement took more memory than one question may take, and was ended")

    def _resident_mb(self) -> float:
        try:
            return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE_MB
        except (OSError, IndexError, ValueError):
            return 0.0


def _timed_out(seconds: float) -> Refused:
    return Refused(
        "query_timeout",
        503,
        f"sql: no answer within {seconds:g} s; ask for a shorter range or fewer columns",
        retry_after=1,
    )


def _empty(schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema):
        pass
    return bytes(sink.getvalue())
