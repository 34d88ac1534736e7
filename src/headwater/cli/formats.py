"""Files of events: NDJSON, CSV, Parquet and web server access logs, read as a stream of (line number, event).

A line that has no id of its own gets one from the file: SHA-256 of its first 4 KiB unpacked, and the line number. So
the same file loaded again, whole or in part, counts nothing twice, and equal lines are events of their own.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from headwater.errors import UsageError

FORMATS = ("ndjson", "csv", "parquet", "combined")
HEAD = 4096
FIELDS = ("eventId", "eventType", "userId", "anonymousId", "timestamp")
# Host, identity, user, [time], "request", status, bytes, "referrer", "user agent"; the last quote may be missing.
_COMBINED = re.compile(
    r'(\S+) \S+ (\S+) \[([^\]]+)\] "((?:[^"\\]|\\.)*)" (\d{3}) (\d+|-)'
    r'(?: "((?:[^"\\]|\\.)*)")?(?: "((?:[^"\\]|\\.)*)"?)?\s*'
)
_MONTHS = dict(
    zip(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], range(1, 13), strict=True)
)


class BadLine(ValueError):
    """A line that is no event; the message says why."""


class Source:
    """An input file. `size` in bytes as it lies on disk (0: unknown), `read` how many of them were read so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        if name == "-":
            self._raw: IO[bytes] = cast(IO[bytes], sys.stdin.buffer)
            self.size = 0
        else:
            try:
                self._raw = open(name, "rb")  # noqa: SIM115 - closed with the source
            except OSError as error:
                raise UsageError(f"{name} cannot be read: {error.strerror}") from error
            self.size = Path(name).stat().st_size
        buffered = io.BufferedReader(cast(io.RawIOBase, self._raw), 1 << 20)
        packed = buffered.peek(2)[:2] == b"\x1f\x8b"
        self.plain = io.BufferedReader(
            cast(io.RawIOBase, gzip.GzipFile(fileobj=buffered)) if packed else buffered, 1 << 20
        )
        head = self.plain.peek(HEAD)
        while len(head) < HEAD:
            more = self.plain.peek(HEAD)
            if len(more) <= len(head):
                break
            head = more
        self.digest = hashlib.sha256(head[:HEAD]).hexdigest()

    def line_id(self, number: int) -> str:
        return f"{self.digest}-{number}"

    def read(self) -> int:
        try:
            return self._raw.tell()
        except (OSError, ValueError):
            return 0

    def close(self) -> None:
        if self.name != "-":
            self._raw.close()


def events(source: Source, kind: str) -> Iterator[tuple[int, bytes | BadLine]]:
    """(line number from 1, event as JSON bytes or why there is none) for every line of the file that is not empty."""
    reader = {"ndjson": _ndjson, "csv": _csv, "parquet": _parquet, "combined": _combined}[kind]
    return reader(source)


def _ndjson(source: Source) -> Iterator[tuple[int, bytes | BadLine]]:
    for number, line in enumerate(source.plain, 1):
        text = line.strip()
        if not text:
            continue
        if b'"eventId"' not in text:
            try:
                event = msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield number, text  # the server says what is wrong with it
                continue
            if isinstance(event, dict):
                text = msgspec.json.encode({"eventId": source.line_id(number), **event})
        yield number, text


def _csv(source: Source) -> Iterator[tuple[int, bytes | BadLine]]:
    """A heading line names the columns: those of `FIELDS` are fields, every other one is a property (empty: absent)."""
    rows = csv.DictReader(io.TextIOWrapper(source.plain, "utf-8", errors="replace", newline=""))
    if "eventType" not in (rows.fieldnames or ()):
        raise UsageError(f"{source.name}: the heading line of a CSV file needs a column 'eventType'")
    for row in rows:
        number = rows.line_num
        if None in row:
            yield number, BadLine("more cells than the heading has columns")
            continue
        yield number, _event(source, number, {name: cell for name, cell in row.items() if cell})


def _parquet(source: Source) -> Iterator[tuple[int, bytes | BadLine]]:
    """Columns as in CSV, typed; `properties` and `context` may be structs. The line number is the row's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source.name == "-":
        raise UsageError("a Parquet file cannot be read from stdin; name the file")
    try:
        file = pq.ParquetFile(source.name)
    except pa.ArrowException as error:
        raise UsageError(f"{source.name} is no Parquet file: {error}") from error
    if "eventType" not in file.schema_arrow.names:
        raise UsageError(f"{source.name}: a Parquet file of events needs a column 'eventType'")
    number = 0
    for batch in file.iter_batches(5_000):
        for row in batch.to_pylist():
            number += 1
            yield number, _event(source, number, {n: v for n, v in row.items() if v is not None})


def _event(source: Source, number: int, cells: dict[str, Any]) -> bytes:
    own = {name: cells.pop(name) for name in (*FIELDS, "context") if name in cells}
    own.setdefault("eventId", source.line_id(number))
    if isinstance(own.get("timestamp"), datetime):
        moment = own["timestamp"]
        own["timestamp"] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    nested = cells.pop("properties", None)
    if nested is not None and not isinstance(nested, dict):
        cells["properties"] = nested
        nested = None
    properties = {**(nested or {}), **cells}
    return msgspec.json.encode({**own, "properties": properties}, enc_hook=_plain)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


def _combined(source: Source) -> Iterator[tuple[int, bytes | BadLine]]:
    for number, raw in enumerate(source.plain, 1):
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            continue
        try:
            yield number, msgspec.json.encode({"eventId": source.line_id(number), **access(line)})
        except BadLine as bad:
            yield number, bad


def access(line: str) -> dict[str, Any]:
    """The event of one line of the combined log format. Raises `BadLine`."""
    match = _COMBINED.fullmatch(line)
    if match is None:
        raise BadLine("not a line of the combined log format")
    address, _, when, request, status, size, referrer, agent = match.groups()
    words = request.split(" ")
    properties: dict[str, Any] = {"method": words[0]}
    if len(words) > 1:
        properties["path"] = " ".join(words[1:-1]) if len(words) > 2 else words[1]
    if len(words) > 2:
        properties["protocol"] = words[-1]
    properties["status"] = int(status)
    if size != "-":
        properties["bytes"] = int(size)
    if referrer and referrer != "-":
        properties["referrer"] = referrer
    context = {"ip": address}
    if agent and agent != "-":
        context["userAgent"] = agent
    return {
        "eventType": "request",
        "userId": address,
        "timestamp": _time(when),
        "properties": properties,
        "context": context,
    }


def _time(text: str) -> str:
    """`17/May/2015:10:05:03 +0000` as RFC 3339."""
    match = re.fullmatch(r"(\d\d)/(\w{3})/(\d{4}):(\d\d:\d\d:\d\d) ([+-]\d\d)(\d\d)", text)
    if match is None or match[2] not in _MONTHS:
        raise BadLine(f"no time of an access log: {text!r}")
    return f"{match[3]}-{_MONTHS[match[2]]:02d}-{match[1]}T{match[4]}{match[5]}:{match[6]}"
