"""One lake file: a Parquet file of one project and event hour, and what the manifest says of it (docs/specs/lake.md).

Rows are sorted by (event type, timestamp), so that a question about one type reads few pages. Ids carry
a Bloom filter, times and positions delta encoding. Written by pyarrow, readable by anything that reads Parquet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import google_crc32c
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.catalog.port import LakeFile
from headwater.errors import Corrupt

Compression = Literal["snappy", "zstd"]

FORMAT = "1"
ROW_GROUP = 120_000
BLOOM_FALSE_POSITIVES = 0.01
_PIECE = 1 << 20
_DELTA = ("timestamp", "received_at", "log_position")


def sort_order(
    event_types: pa.Array, times: npt.NDArray[np.int64], *leading: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Row numbers by (the `leading` columns, event type by code point, time); equal rows in their given order."""
    encoded = event_types.dictionary_encode()
    ranks = np.argsort(np.argsort(np.array(encoded.dictionary.to_pylist(), object)))
    types = ranks[encoded.indices.to_numpy()] if len(ranks) else np.empty(0, np.int64)
    order: npt.NDArray[np.int64] = np.lexsort((times, types, *reversed(leading)))
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

    `promoted`: `kind:property` -> column, as far as `table` has them. Nothing is stored here.
    """
    return write_stream(
        [table],
        table.schema,
        table.num_rows,
        key=key,
        project_id=project_id,
        hour=hour,
        epoch=epoch,
        promoted=promoted,
        compression=compression,
    )


def write_stream(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    rows: int,
    *,
    key: str,
    project_id: str,
    hour: int,
    epoch: int,
    promoted: Mapping[str, str],
    compression: Compression = "snappy",
) -> tuple[memoryview, LakeFile]:
    """Like `write`, of tables that come one after the other, `rows` in all. One row group is held at a time."""
    sink = pa.BufferOutputStream()
    bounds: dict[str, tuple[int, int]] = {}
    written = 0
    with _writer(sink, schema, min(rows, ROW_GROUP), compression) as writer:
        for group in _row_groups(tables):
            writer.write_table(group, row_group_size=ROW_GROUP)
            written += group.num_rows
            for name in _DELTA:
                low, high = _bounds(group.column(name))
                held = bounds.get(name, (low, high))
                bounds[name] = min(low, held[0]), max(high, held[1])
        if written != rows or not rows:
            raise ValueError(f"a lake file of {rows} rows got {written}")
        first, last = bounds["log_position"]
        writer.add_key_value_metadata(
            {
                "headwater.format": FORMAT,
                "headwater.project": project_id,
                "headwater.hour": str(hour),
                "headwater.first": str(first),
                "headwater.next": str(last + 1),
                "headwater.epoch": str(epoch),
                "headwater.promoted": msgspec.json.encode(dict(promoted)).decode(),
            }
        )
    data = memoryview(sink.getvalue())
    return data, _facts(key, project_id, hour, epoch, promoted, rows, data, bounds, (first, last + 1))


def _facts(
    key: str,
    project_id: str,
    hour: int,
    epoch: int,
    promoted: Mapping[str, str],
    rows: int,
    data: bytes | memoryview,
    bounds: Mapping[str, tuple[int, int]],
    positions: tuple[int, int],
) -> LakeFile:
    return LakeFile(
        path=key,
        project_id=project_id,
        hour=hour,
        rows=rows,
        bytes=len(data),
        min_timestamp=bounds["timestamp"][0],
        max_timestamp=bounds["timestamp"][1],
        min_received_at=bounds["received_at"][0],
        max_received_at=bounds["received_at"][1],
        first_position=positions[0],
        next_position=positions[1],
        checksum=checksum(data),
        epoch=epoch,
        promoted=dict(promoted),
    )


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """`tables` cut into pieces of `ROW_GROUP` rows, the last one shorter."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(part.num_rows for part in held) >= ROW_GROUP:
            whole = pa.concat_tables(held)
            yield whole.slice(0, ROW_GROUP)
            held = [whole.slice(ROW_GROUP)]
    rest = pa.concat_tables(held) if held else None
    if rest is not None and rest.num_rows:
        yield rest


def _writer(sink: Any, schema: pa.Schema, group_rows: int, compression: Compression) -> pq.ParquetWriter:
    plain = ("event_id", *_DELTA)
    return pq.ParquetWriter(
        sink,
        schema,
        compression=compression,
        compression_level=3 if compression == "zstd" else None,
        use_dictionary=[path for path in _leaf_paths(schema) if path not in plain],
        column_encoding=dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED"),
        bloom_filter_options={"event_id": {"ndv": max(1, group_rows), "fpp": BLOOM_FALSE_POSITIVES}},
        write_page_index=True,
        store_decimal_as_integer=True,
    )


def _leaf_paths(schema: pa.Schema) -> list[str]:
    """Parquet's dotted names of all columns that hold values."""
    empty = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), empty)
    leaves = pq.ParquetFile(pa.BufferReader(empty.getvalue())).schema
    return [leaves.column(i).path for i in range(len(leaves))]


def checksum(data: bytes | memoryview) -> str:
    """CRC32C of a whole file, 8 hex digits."""
    view = memoryview(data)
    crc = 0
    for at in range(0, len(view), _PIECE):  # the library takes nothing but `bytes`: a small copy at a time
        crc = google_crc32c.extend(crc, bytes(view[at : at + _PIECE]))
    return f"{crc:08x}"


def read(data: bytes, file: LakeFile) -> pa.Table:
    """All rows of a file. Raises `Corrupt` where the bytes are not those that the manifest names."""
    return checked(data, file).read()


def checked(data: bytes | memoryview, file: LakeFile) -> pq.ParquetFile:
    """The opened file. Raises `Corrupt` where the bytes are not those that the manifest names."""
    if checksum(data) != file.checksum:
        raise Corrupt(f"lake file {file.path}: CRC32C does not match the manifest; the file is damaged on disk")
    return pq.ParquetFile(pa.BufferReader(data))


def facts_of(key: str, data: bytes) -> LakeFile:
    """The manifest row of a file from its footer and rows alone, to rebuild a catalog. Raises `Corrupt`."""
    try:
        source = pq.ParquetFile(pa.BufferReader(data))
        footer = {k.decode(): v.decode() for k, v in (source.metadata.metadata or {}).items() if k[:9] == b"headwater"}
        if footer.get("headwater.format") != FORMAT:
            raise Corrupt(f"{key}: no lake file of format {FORMAT}; its footer says {footer.get('headwater.format')!r}")
        times = source.read(columns=list(_DELTA))
    except pa.ArrowException as error:
        raise Corrupt(f"{key}: cannot be read as Parquet: {error}") from error
    return _facts(
        key,
        footer["headwater.project"],
        int(footer["headwater.hour"]),
        int(footer["headwater.epoch"]),
        msgspec.json.decode(footer["headwater.promoted"], type=dict[str, str]),
        times.num_rows,
        data,
        {name: _bounds(times.column(name)) for name in _DELTA},
        (int(footer["headwater.first"]), int(footer["headwater.next"])),
    )


def _bounds(column: pa.ChunkedArray) -> tuple[int, int]:
    values = column.cast(pa.int64()).to_numpy()
    return int(values.min()), int(values.max())
