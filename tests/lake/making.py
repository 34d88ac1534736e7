"""Events for tests of the lake and the archive."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

from headwater.model.batch import SCHEMA

T0 = 1_700_000_000_000_000 - 1_700_000_000_000_000 % 3_600_000_000


def events(rows: list[dict[str, Any]], first_id: int = 0) -> pa.RecordBatch:
    """EventBatch v1 of rows that say only what matters; ids are `e<n>`, times one second apart from `T0`."""
    full = []
    for at, row in enumerate(rows):
        defaults = {
            "event_id": f"e{first_id + at}",
            "event_type": "page_view",
            "user_id": "u1",
            "anonymous_id": None,
            "timestamp": T0 + at * 1_000_000,
            "received_at": T0 + at * 1_000_000,
            "project_id": "default",
            "schema_version": None,
            "properties": {},
            "context": {},
        }
        made = defaults | row
        for name in ("properties", "context"):
            made[name] = msgspec.json.encode(made[name]).decode()
        full.append(made)
    return pa.RecordBatch.from_pylist(full, schema=SCHEMA)
