"""What ingest refused, copied into the lake under `rejected/`, so that it outlives the log."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.catalog.port import Manifest
from headwater.errors import UsageError
from headwater.eventlog.port import EventLogReader
from headwater.lake import layout
from headwater.lake.objectstore.port import ObjectStore
from headwater.model.rejection import KeptRejection

PAGE = 1_000
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("received_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("event_id", pa.string()),
        pa.field("body", pa.binary(), nullable=False),
        pa.field("cut", pa.bool_(), nullable=False),
    ]
)


def archive_rejections(log: EventLogReader, manifest: Manifest, objects: ObjectStore, roots: Mapping[str, str]) -> int:
    """Copies what came since the last call; returns how many. Idempotent: a repeated copy has the same name.

    Order: (1) the file, durable; (2) the marker of how far it went. A stop in between writes the same file again.
    """
    total = 0
    for project, root in roots.items():
        marker = f"rejected.{project}"
        with manifest.view() as view:
            after = int(view.progress(marker) or 0)
        new = _newer(log, project, after)
        for at in range(0, len(new), PAGE):
            page = new[at : at + PAGE]
            last = _number(page[-1])
            key = layout.rejected_key(root, page[0].rejection.received_at, after, last)
            with contextlib.suppress(UsageError):  # it was written before a stop, with the same rows
                objects.put(key, _parquet(page))
            manifest.set_progress(marker, str(last))
            after = last
            total += len(page)
    return total


def _newer(log: EventLogReader, project: str, after: int) -> list[KeptRejection]:
    """Rejections numbered above `after`, oldest first."""
    found: list[KeptRejection] = []
    before: str | None = None
    while True:
        page = log.rejections(project, before=before, limit=PAGE)
        found += [kept for kept in page if _number(kept) > after]
        if len(page) < PAGE or _number(page[-1]) <= after:
            return found[::-1]
        before = page[-1].id


def _number(kept: KeptRejection) -> int:
    return int(kept.id[1:])


def _parquet(page: list[KeptRejection]) -> memoryview:
    held = [kept.rejection for kept in page]
    columns = [
        [kept.id for kept in page],
        [r.received_at for r in held],
        [r.stage for r in held],
        [r.reason for r in held],
        [r.detail for r in held],
        [r.event_id for r in held],
        [r.body for r in held],
        [r.cut for r in held],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), sink, compression="zstd")
    return memoryview(sink.getvalue())
