"""One lake file: a Parquet file of one project and event hour, and what the manifest says of it (docs/specs/lake.md).

Rows are sorted by (event type, timestamp, log position), so that a question about one type reads few pages. Ids carry
a Bloom filter, times and positions delta encoding. Written by pyarrow, readable by anything that reads Parquet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.catalog.port import LakeFile
from headwater.errors import Corrupt
from headwater.lake.columns import SCHEMA

Compression = Literal["snappy", "zstd"]

FORMAT = "1"
ROW_GROUP = 120_000
BLOOM_FALSE_POSITIVES = 0.01
_DELTA = ("timestamp", "received_at", "log_position")


def sort_order(event_types: pa.Array, times: npt.NDArray[np.int64], leading: Any = None) -> npt.NDArray[np.int64]:
    """Row numbers by (`leading`, event type, time), rows that are equal in their given order; types by code point."""
    encoded = event_types.dictionary_encode()
    ranks = np.argsort(np.argsort(np.array(encoded.dictionary.to_pylist(), object)))
    types = ranks[encoded.indices.to_numpy()] if len(ranks) else np.empty(0, np.int64)
    order: npt.NDArray[np.int64] = np.lexsort((times, types) if leading is None else (times, types, leading))
    return order


def write(
    table: pa.Table,
    *,
    key: str,
    project_id: str,
    hour: int,
    epoch: int,
    promoted: Mapping[str, str],
    compression: Compression = "snappy",
) -> tuple[memoryview, LakeFile]:
    """The bytes of a file with the rows of `table`, which are sorted already, and its manifest row (id 0).

    `promoted`: property -> column, as far as `table` has them. Nothing is stored here.
    """
    if not table.num_rows:
        raise ValueError("a lake file has rows")
    bounds = {name: _bounds(table.column(name)) for name in _DELTA}
    first, last = bounds["log_position"]
    metadata = {
        "headwater.format": FORMAT,
        "headwater.project": project_id,
        "headwater.hour": str(hour),
        "headwater.first": str(first),
        "headwater.next": str(last + 1),
        "headwater.epoch": str(epoch),
    }
    data = _parquet(table.replace_schema_metadata(metadata), compression)
    facts = LakeFile(
        path=key,
        project_id=project_id,
        hour=hour,
        rows=table.num_rows,
        bytes=len(data),
        min_timestamp=bounds["timestamp"][0],
        max_timestamp=bounds["timestamp"][1],
        min_received_at=bounds["received_at"][0],
        max_received_at=bounds["received_at"][1],
        first_position=first,
        next_position=last + 1,
        checksum=checksum(data),
        epoch=epoch,
        promoted=dict(promoted),
    )
    return data, facts


def _parquet(table: pa.Table, compression: Compression) -> memoryview:
    sink = pa.BufferOutputStream()
    plain = ("event_id", *_DELTA)
    paths = [path for path in _leaf_paths(table.schema) if path not in plain]
    rows = min(table.num_rows, ROW_GROUP)
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression=compression,
        compression_level=3 if compression == "zstd" else None,
        use_dictionary=paths,
        column_encoding=dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED"),
        bloom_filter_options={"event_id": {"ndv": rows, "fpp": BLOOM_FALSE_POSITIVES}},
        write_page_index=True,
        store_decimal_as_integer=True,
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
    return memoryview(sink.getvalue())


def _leaf_paths(schema: pa.Schema) -> list[str]:
    """Parquet's dotted names of all columns that hold values."""
    empty = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), empty)
    leaves = pq.ParquetFile(pa.BufferReader(empty.getvalue())).schema
    return [leaves.column(i).path for i in range(len(leaves))]


def checksum(data: bytes | memoryview) -> str:
    """CRC32C of a whole file, 8 hex digits."""
    return f"{google_crc32c.value(bytes(data)):08x}"


def read(data: bytes, file: LakeFile) -> pa.Table:
    """All rows of a file. Raises `Corrupt` where the bytes are not those that the manifest names."""
    if checksum(data) != file.checksum:
        raise Corrupt(f"lake file {file.path}: CRC32C does not match the manifest; the file is damaged on disk")
    return pq.read_table(pa.BufferReader(data))


def facts_of(key: str, data: bytes) -> LakeFile:
    """The manifest row of a file from its footer and rows alone, to rebuild a catalog. Raises `Corrupt`."""
    try:
        source = pq.ParquetFile(pa.BufferReader(data))
        footer = {k.decode(): v.decode() for k, v in (source.schema_arrow.metadata or {}).items()}
        if footer.get("headwater.format") != FORMAT:
            raise Corrupt(f"{key}: no lake file of format {FORMAT}; its footer says {footer.get('headwater.format')!r}")
        times = source.read(columns=list(_DELTA))
    except pa.ArrowException as error:
        raise Corrupt(f"{key}: cannot be read as Parquet: {error}") from error
    bounds = {name: _bounds(times.column(name)) for name in _DELTA}
    names = source.schema_arrow.names
    return LakeFile(
        path=key,
        project_id=footer["headwater.project"],
        hour=int(footer["headwater.hour"]),
        rows=times.num_rows,
        bytes=len(data),
        min_timestamp=bounds["timestamp"][0],
        max_timestamp=bounds["timestamp"][1],
        min_received_at=bounds["received_at"][0],
        max_received_at=bounds["received_at"][1],
        first_position=int(footer["headwater.first"]),
        next_position=int(footer["headwater.next"]),
        checksum=checksum(data),
        epoch=int(footer["headwater.epoch"]),
        promoted={name: name for name in names if name not in SCHEMA.names},
    )


def _bounds(column: pa.ChunkedArray) -> tuple[int, int]:
    values = column.cast(pa.int64()).to_numpy()
    return int(values.min()), int(values.max())
