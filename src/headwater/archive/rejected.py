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

PAGE = 200  # bodies have up to 1 MiB each
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
    """Copies what came since the last call; returns how many. Every rejection is copied into exactly one file.

    Order: (1) the marker `after:last` says which are about to be copied; (2) their file, durable; (3) the marker
    `last`. A stop in between copies the same ones again, under the same name, whatever else has come since.
    """
    total = 0
    for project, root in roots.items():
        with manifest.view() as view:
            marker = view.progress(f"rejected.{project}") or "0"
        done, _, intended = marker.partition(":")
        after = int(done)
        if intended:
            total += _copy(log, manifest, objects, (project, root), after, int(intended))
            after = int(intended)
        for last in _page_ends(log, project, after):
            manifest.set_progress(f"rejected.{project}", f"{after}:{last}")
            total += _copy(log, manifest, objects, (project, root), after, last)
            after = last
    return total


def _copy(
    log: EventLogReader, manifest: Manifest, objects: ObjectStore, of: tuple[str, str], after: int, last: int
) -> int:
    """Copies the rejections numbered in (after, last] of the project and root `of`."""
    project, root = of
    newest_first = log.rejections(project, before=f"i{last + 1}", limit=PAGE)
    page = [kept for kept in reversed(newest_first) if _number(kept) > after]
    if page:
        key = layout.rejected_key(root, page[0].rejection.received_at, after, last)
        with contextlib.suppress(UsageError):  # it was written before a stop, with the same rows
            objects.put(key, _parquet(page))
    manifest.set_progress(f"rejected.{project}", str(last))
    return len(page)


def _page_ends(log: EventLogReader, project: str, after: int) -> list[int]:
    """The last numbers of pages of at most `PAGE` rejections that hold all numbered above `after`, ascending."""
    numbers: list[int] = []
    before: str | None = None
    while True:
        page = [_number(kept) for kept in log.rejections(project, before=before, limit=PAGE)]
        numbers += [number for number in page if number > after]
        if len(page) < PAGE or page[-1] <= after:
            break
        before = f"i{page[-1]}"
    numbers.reverse()
    return [numbers[min(at + PAGE, len(numbers)) - 1] for at in range(0, len(numbers), PAGE)]


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
