"""Several requests' events as one EventBatch v1, ready for the log."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from headwater.model.batch import SCHEMA, TIME
from headwater.model.event import Parsed

_PLAIN = ("event_id", "event_type", "user_id", "anonymous_id", "timestamp")


def to_batch(requests: list[Parsed]) -> pa.RecordBatch:
    """The events of `requests`, in the order given. Receipts never go back: a later request's is at least as late."""
    received: list[int] = []
    projects: list[str] = []
    latest = 0
    for request in requests:
        latest = max(latest, request.received_at)
        received += [latest] * request.accepted
        projects += [request.project_id] * request.accepted

    def column(name: str, kind: pa.DataType) -> pa.Array:
        if len(requests) == 1:
            return pa.array(getattr(requests[0].columns, name), kind)
        values: list[Any] = []
        for request in requests:
            values += getattr(request.columns, name)
        return pa.array(values, kind)

    columns = [column(name, SCHEMA.field(name).type) for name in _PLAIN]
    columns += [pa.array(received, TIME), pa.array(projects, pa.string()), pa.nulls(len(received), pa.int32())]
    columns += [column("properties", pa.string()), column("context", pa.string())]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
