"""Single events out of lake files, by id: row groups are skipped by the Bloom filter of `event_id`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from headwater.lake.columns import SCHEMA


def find_events(paths: Sequence[Path | str], event_ids: Sequence[str]) -> pa.Table:
    """All rows of `paths` with one of `event_ids`, with the columns of `lake.columns.SCHEMA`, by log position.

    Rows are as `from_lake` takes them. Ids are compared byte for byte, within whatever project the files are of.
    """
    if not paths or not event_ids:
        return SCHEMA.empty_table()
    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    try:
        found: pa.Table = connection.sql(
            f"SELECT {', '.join(SCHEMA.names)} FROM read_parquet(?, union_by_name=true, hive_partitioning=false)"
            f" WHERE event_id IN ({', '.join('?' * len(event_ids))}) ORDER BY log_position",
            params=[[str(path) for path in paths], *event_ids],
        ).to_arrow_table()
    finally:
        connection.close()
    return found.cast(SCHEMA)
