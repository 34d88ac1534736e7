"""EventBatch v1: the canonical form of events between processes (docs/specs/event-batch.md).

An Arrow record batch with `SCHEMA`; at rest one Arrow IPC stream in one LZ4 frame, followed by the CRC32C of the
frame. Canonical JSON v1 is its text image: one object an event, keys in the order of `CanonicalEvent`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime

import google_crc32c
import msgspec
import pyarrow as pa

from headwater.clock import from_datetime, rfc3339
from headwater.errors import Corrupt

TIME = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("anonymous_id", pa.string()),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("received_at", TIME, nullable=False),
        pa.field("project_id", pa.string(), nullable=False),
        pa.field("schema_version", pa.int32()),
        pa.field("properties", pa.string(), nullable=False),
        pa.field("context", pa.string(), nullable=False),
    ]
)

MAGIC = b"HWB1"
_TAIL = struct.Struct("<I")
_LZ4 = pa.Codec("lz4")
_SIZE = struct.Struct("<Q")


def encode(batch: pa.RecordBatch) -> bytes:
    """The stored bytes of a batch: magic, unpacked size, LZ4 frame of the Arrow stream, CRC32C of all before it."""
    if not batch.schema.equals(SCHEMA):
        raise ValueError(f"not an EventBatch v1: schema is {batch.schema}")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(batch)
    plain = sink.getvalue()
    body = MAGIC + _SIZE.pack(plain.size) + _LZ4.compress(plain, asbytes=True)
    return bytes(body + _TAIL.pack(google_crc32c.value(body)))


def decode(stored: bytes | memoryview) -> pa.RecordBatch:
    """The batch of `encode`. Raises `Corrupt` when the checksum, the magic or the stream does not hold."""
    raw = bytes(stored)
    if len(raw) < 16 or raw[:4] != MAGIC:
        raise Corrupt("event batch: the first bytes are not HWB1; the record is damaged or of another format")
    (expected,) = _TAIL.unpack_from(raw, len(raw) - 4)
    if google_crc32c.value(raw[:-4]) != expected:
        raise Corrupt("event batch: CRC32C does not match; the record is damaged on disk")
    (size,) = _SIZE.unpack_from(raw, 4)
    plain = _LZ4.decompress(raw[12:-4], decompressed_size=size)
    with pa.ipc.open_stream(plain) as reader:
        batch = reader.read_next_batch()
    if not batch.schema.equals(SCHEMA):
        raise Corrupt(f"event batch: schema is not EventBatch v1 but {batch.schema}")
    return batch


class CanonicalEvent(msgspec.Struct, omit_defaults=True, rename="camel"):
    """Canonical JSON v1 of one event; field order is the format's key order."""

    event_id: str
    event_type: str
    timestamp: str
    received_at: str
    project_id: str
    properties: msgspec.Raw
    context: msgspec.Raw
    user_id: str | None = None
    anonymous_id: str | None = None
    schema_version: int | None = None


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(CanonicalEvent)


def to_canonical_json(batch: pa.RecordBatch) -> list[bytes]:
    """Canonical JSON v1, one document a row, in row order."""
    times = batch.column("timestamp").cast(pa.int64()).to_pylist()
    received = batch.column("received_at").cast(pa.int64()).to_pylist()
    rows = []
    for i, row in enumerate(batch.drop_columns(["timestamp", "received_at"]).to_pylist()):
        row["properties"] = msgspec.Raw(row["properties"].encode())
        row["context"] = msgspec.Raw(row["context"].encode())
        rows.append(
            _ENCODER.encode(CanonicalEvent(**row, timestamp=rfc3339(times[i]), received_at=rfc3339(received[i])))
        )
    return rows


def from_canonical_json(documents: Sequence[bytes]) -> pa.RecordBatch:
    """The batch whose `to_canonical_json` is `documents`."""
    events = [_DECODER.decode(document) for document in documents]

    def epoch(text: str) -> int:
        return from_datetime(msgspec.convert(text, type=datetime))

    columns = [
        [e.event_id for e in events],
        [e.event_type for e in events],
        [e.user_id for e in events],
        [e.anonymous_id for e in events],
        [epoch(e.timestamp) for e in events],
        [epoch(e.received_at) for e in events],
        [e.project_id for e in events],
        [e.schema_version for e in events],
        [bytes(e.properties).decode() for e in events],
        [bytes(e.context).decode() for e in events],
    ]
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
