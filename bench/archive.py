"""Archive: CPU per event to make lake files of decided events, and bytes per event, for both compressions.

    python -m bench.archive [--events 100000]

Measures convert + sort + Parquet write + checksum on one thread, without the disk.
"""

from __future__ import annotations

import argparse
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa

from bench.events import event
from headwater.clock import from_datetime
from headwater.lake.columns import to_lake
from headwater.lake.file import Compression, sort_order, write
from headwater.model.batch import SCHEMA


def batch_of(count: int, seed: int = 1) -> pa.RecordBatch:
    """`count` events as the log holds them, received within two minutes."""
    chance = random.Random(seed)
    start = datetime(2026, 1, 5, 10, tzinfo=UTC)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        at = start + timedelta(seconds=120 * i / count)
        sent: dict[str, Any] = event(chance, at)
        rows.append(
            {
                "event_id": sent["eventId"],
                "event_type": sent["eventType"],
                "user_id": sent["userId"],
                "timestamp": from_datetime(at) // 1000 * 1000,
                "received_at": from_datetime(at) + 40_000,
                "project_id": "default",
                "properties": msgspec.json.encode(sent["properties"]).decode(),
                "context": msgspec.json.encode(sent["context"]).decode(),
            }
        )
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def file_of(batch: pa.RecordBatch, compression: Compression) -> tuple[float, float, int]:
    """CPU seconds of converting and of writing, and the bytes of one file with all rows of `batch`."""
    begin = time.process_time()
    times = batch.column("timestamp").cast(pa.int64()).to_numpy()
    order = sort_order(batch.column("event_type"), times)
    ordered = batch.take(pa.array(order))
    table = to_lake(ordered, order, {})
    converted = time.process_time()
    data, _ = write(table, key="k", project_id="default", hour=0, epoch=1, promoted={}, compression=compression)
    return converted - begin, time.process_time() - converted, len(data)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=100_000)
    count = arguments.parse_args().events
    pa.set_cpu_count(1)
    batch = batch_of(count)
    file_of(batch.slice(0, 1_000), "snappy")
    compressions: tuple[Compression, ...] = ("snappy", "zstd")
    for compression in compressions:
        convert, writing, size = min(file_of(batch, compression) for _ in range(3))
        print(
            f"archive {compression}: {(convert + writing) / count * 1e6:.2f} us CPU per event"
            f" (convert {convert / count * 1e6:.2f}, write {writing / count * 1e6:.2f}),"
            f" {size / count:.1f} bytes per event"
        )


if __name__ == "__main__":
    main()
