"""Events as lake columns, and back (docs/specs/lake.md).

Each property becomes an entry text -> text of a map; what a map cannot give back exactly is kept beside it as JSON
text (`properties_raw`, `context_raw`). Everything is done over whole columns: the texts of a block of events are
decoded as one JSON array and its keys and values laid out flat, so that the work per event in Python is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headwater.clock import rfc3339
from headwater.model.batch import TIME
from headwater.model.value import NUMBER_GRAMMAR, number_of, read_back

Array = npt.NDArray[Any]

CONTEXT_FIELDS = ("ip", "userAgent", "page", "referrer", "library", "locale", "timezone", "campaign", "sessionId")
TEXTS = pa.map_(pa.string(), pa.string())
CONTEXT = pa.struct([*(pa.field(name, pa.string()) for name in CONTEXT_FIELDS), pa.field("extra", TEXTS)])
SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("anonymous_id", pa.string()),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("project_id", pa.string(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("received_at", TIME, nullable=False),
        pa.field("log_position", pa.int64(), nullable=False),
        pa.field("properties", TEXTS, nullable=False),
        pa.field("properties_raw", pa.string()),
        pa.field("context", CONTEXT, nullable=False),
        pa.field("context_raw", pa.string()),
        pa.field("schema_version", pa.int32()),
    ]
)
NUMBER = pa.decimal128(38, 9)
PROMOTED_TYPES = {"number": NUMBER, "text": pa.string()}
# (property, `number` or `text`) -> column `p_<n>`
Promoted = Mapping[tuple[str, str], str]

BLOCK_ROWS = 16_384  # decoded at once: bounds the memory that Python objects take
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[dict[str, Any]])
_PLAIN_NUMBER = r"^-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,9})?$"
_FULL_NUMBER = f"^({NUMBER_GRAMMAR})$"


@dataclass(frozen=True)
class _Entries:
    """The members of a block of JSON objects, flat: entry `i` belongs to row `rows[i]`. `raw`: rows that the entries
    alone would not give back as they were."""

    rows: Array
    keys: pa.DictionaryArray
    items: pa.StringArray
    raw: Array

    def select(self, mask: Array) -> _Entries:
        chosen = pa.array(mask)
        return _Entries(self.rows[mask], self.keys.filter(chosen), self.items.filter(chosen), self.raw)

    def code(self, key: str) -> int:
        """The dictionary code of a key; -1 where no entry has it."""
        return int(pc.index(self.keys.dictionary, key).as_py())

    def codes(self) -> Array:
        codes: Array = self.keys.indices.to_numpy()
        return codes

    def column(self, key: str) -> pa.StringArray:
        """One text a row: the entry of that key, null where there is none."""
        count = len(self.raw)
        code = self.code(key)
        if code < 0:
            return pa.nulls(count, pa.string())
        at = np.flatnonzero(self.codes() == code)
        if len(at) == count:  # every row has it, and rows ascend
            return self.items.take(pa.array(at))
        where = np.full(count, -1, np.int64)
        where[self.rows[at]] = at
        return self.items.take(pa.array(where, mask=where < 0))

    def texts(self) -> pa.MapArray:
        """The entries as one map a row."""
        counts = np.bincount(self.rows, minlength=len(self.raw))
        offsets = np.zeros(len(self.raw) + 1, np.int32)
        np.cumsum(counts, out=offsets[1:])
        return pa.MapArray.from_arrays(pa.array(offsets), self.keys.dictionary_decode(), self.items)


def to_lake(batch: pa.RecordBatch, positions: npt.NDArray[np.int64], promoted: Promoted) -> pa.Table:
    """The lake columns of EventBatch rows, in their order; `positions` are their log positions.

    `promoted` names the typed columns to add: `number` is DECIMAL(38,9), null where the text is no number; `text` the
    text as in the map.
    """
    schema = schema_with(promoted)
    blocks = [
        _block(batch.slice(at, BLOCK_ROWS), positions[at : at + BLOCK_ROWS], promoted, schema)
        for at in range(0, batch.num_rows, BLOCK_ROWS)
    ]
    return pa.Table.from_batches(blocks, schema=schema)


def schema_with(promoted: Promoted) -> pa.Schema:
    """The columns of a file with these promoted columns."""
    return pa.schema([*SCHEMA, *(pa.field(name, PROMOTED_TYPES[kind]) for (_, kind), name in promoted.items())])


def _block(batch: pa.RecordBatch, positions: Array, promoted: Promoted, schema: pa.Schema) -> pa.RecordBatch:
    properties = _entries(batch.column("properties"), spread_extra=False)
    context = _entries(batch.column("context"), spread_extra=True)
    known = [context.column(name) for name in CONTEXT_FIELDS]
    codes = [code for name in CONTEXT_FIELDS if (code := context.code(name)) >= 0]
    extra = context.select(~np.isin(context.codes(), codes)).texts()
    columns = {
        **{name: batch.column(name) for name in batch.schema.names},
        "log_position": pa.array(positions, pa.int64()),
        "properties": properties.texts(),
        "properties_raw": _kept(batch.column("properties"), properties.raw),
        "context": pa.StructArray.from_arrays([*known, extra], fields=list(CONTEXT)),
        "context_raw": _kept(batch.column("context"), context.raw),
    }
    for (name, kind), column in promoted.items():
        texts = properties.column(name)
        columns[column] = numbers(texts) if kind == "number" else texts
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _kept(texts: pa.StringArray, mask: Array) -> pa.StringArray:
    if not mask.any():
        return pa.nulls(len(texts), pa.string())
    return pc.if_else(pa.array(mask), texts, pa.scalar(None, pa.string()))


def _entries(texts: pa.StringArray, *, spread_extra: bool) -> _Entries:
    """The entries of a column of JSON objects. With `spread_extra` the members of an object `extra` become entries of
    their own, where the object around has no such member itself."""
    count = len(texts)
    objects = _decoded(texts)
    raw = np.zeros(count, bool)
    if spread_extra:
        for row in [row for row, found in enumerate(objects) if type(found.get("extra")) is dict]:
            objects[row] = objects[row]["extra"] | {k: v for k, v in objects[row].items() if k != "extra"}
            raw[row] = True
    rows = np.repeat(np.arange(count), np.fromiter(map(len, objects), np.int64, count))
    keys = pa.array(list(chain.from_iterable(objects)), pa.string()).dictionary_encode()
    values = list(chain.from_iterable(map(dict.values, objects)))
    others = [at for at, value in enumerate(values) if type(value) is not str]
    for at, text in zip(others, _rendered([values[at] for at in others]), strict=True):
        values[at] = text
    items = pa.array(values, pa.string())
    strings = np.ones(len(values), bool)
    strings[others] = False
    raw[rows[_misread(items, strings)]] = True
    entries = _Entries(rows, keys, items, raw)
    if not items.null_count:
        return entries
    raw[rows[items.is_null().to_numpy(zero_copy_only=False)]] = True
    return entries.select(items.is_valid().to_numpy(zero_copy_only=False))


def _decoded(texts: pa.StringArray) -> list[dict[str, Any]]:
    whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    joined = pc.binary_join(whole, ",")[0].as_buffer()
    return _DECODER.decode(b"".join((b"[", memoryview(joined), b"]")))


def _rendered(values: list[Any]) -> list[str | None]:
    """`value.text_of` of values that are no strings; one encoding for all of them where none holds a comma."""
    if not values:
        return []
    parts: list[str | None] = list(_ENCODER.encode(values).decode()[1:-1].split(","))
    if len(parts) != len(values):
        parts = [_ENCODER.encode(value).decode() for value in values]
    return [None if part == "null" else part for part in parts] if None in values else parts


def _by_byte(chosen: bytes) -> npt.NDArray[np.bool_]:
    table = np.zeros(256, bool)
    table[list(chosen)] = True
    return table


_STARTS_NUMBER, _ENDS_NUMBER, _OPENS = _by_byte(b"-0123456789"), _by_byte(b"0123456789"), _by_byte(b"{[")
_TRUE, _FALSE = ord("t"), ord("f")


def _misread(items: pa.StringArray, strings: npt.NDArray[np.bool_]) -> Array:
    """Indices of strings that `value.read_back` would take for something else. First and last bytes tell almost
    always; only the few candidates are looked at in full."""
    if not len(items):
        return np.empty(0, np.int64)
    _, offsets_buffer, data = items.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[: len(items) + 1]
    if data is None or not data.size:
        return np.empty(0, np.int64)
    held = np.frombuffer(data, np.uint8)
    lengths = np.diff(offsets)
    at = np.flatnonzero(strings & (lengths > 0))
    first, last, lengths = held[offsets[at]], held[offsets[at + 1] - 1], lengths[at]
    odd = at[_OPENS[first] | ((first == _TRUE) & (lengths == 4)) | ((first == _FALSE) & (lengths == 5))]
    misread = [int(i) for i in odd if not isinstance(read_back(items[int(i)].as_py()), str)]
    digits = at[_STARTS_NUMBER[first] & _ENDS_NUMBER[last]]
    if len(digits):
        texts = items.take(pa.array(digits))
        misread += digits[
            pc.match_substring_regex(texts, _FULL_NUMBER).to_numpy(zero_copy_only=False).astype(bool)
        ].tolist()
    return np.array(misread, np.int64)


def numbers(texts: pa.StringArray) -> pa.Array:
    """`value.number_of` of every text, as DECIMAL(38,9); null where the text is absent or no number."""
    plain = pc.match_substring_regex(texts, _PLAIN_NUMBER)
    cast = pc.if_else(plain, texts, pa.scalar(None, pa.string())).cast(NUMBER)
    rest = np.flatnonzero(pc.fill_null(pc.invert(plain), False).to_numpy(zero_copy_only=False))
    if not len(rest):
        return cast
    found = [number_of(text) for text in texts.take(pa.array(rest)).to_pylist()]
    mask = np.zeros(len(texts), bool)
    mask[rest] = True
    return pc.replace_with_mask(cast, pa.array(mask), pa.array(found, NUMBER))


# -- reading back ----------------------------------------------------------------------------------------------------


def from_lake(table: pa.Table) -> list[dict[str, Any]]:
    """Events as the API shows them, in row order: `properties` as sent, `context` as sent with what was added to it in
    `extra`, times as RFC 3339."""
    times = table.column("timestamp").cast(pa.int64()).to_pylist()
    received = table.column("received_at").cast(pa.int64()).to_pylist()
    wanted = [name for name in SCHEMA.names if name not in ("timestamp", "received_at", "log_position")]
    return [
        _shown(
            row,
            time,
            receipt,
            _object(row["properties"], row["properties_raw"]),
            _context(row["context"], row["context_raw"]),
        )
        for row, time, receipt in zip(table.select(wanted).to_pylist(), times, received, strict=True)
    ]


def event_from_log_row(batch: pa.RecordBatch, row: int) -> dict[str, Any]:
    """The same shape from row `row` of an EventBatch: what is not in the lake yet is shown no differently."""
    values = batch.slice(row, 1)
    time, receipt = (values.column(name).cast(pa.int64())[0].as_py() for name in ("timestamp", "received_at"))
    fields = values.drop_columns(["timestamp", "received_at"]).to_pylist()[0]
    properties, context = (msgspec.json.decode(fields[name]) for name in ("properties", "context"))
    return _shown(fields, time, receipt, properties, context)


def _shown(
    row: Mapping[str, Any], time: int, receipt: int, properties: dict[str, Any], context: dict[str, Any]
) -> dict[str, Any]:
    return {
        "eventId": row["event_id"],
        "eventType": row["event_type"],
        "userId": row["user_id"],
        "anonymousId": row["anonymous_id"],
        "timestamp": rfc3339(time),
        "receivedAt": rfc3339(receipt),
        "properties": properties,
        "context": context,
        "schemaVersion": row["schema_version"],
    }


def _object(entries: list[tuple[str, str]], raw: str | None) -> dict[str, Any]:
    if raw is not None:
        decoded: dict[str, Any] = msgspec.json.decode(raw)
        return decoded
    return {key: read_back(text) for key, text in entries}


def _context(fields: Mapping[str, Any], raw: str | None) -> dict[str, Any]:
    if raw is not None:
        return _object([], raw)
    known = {name: read_back(fields[name]) for name in CONTEXT_FIELDS if fields[name] is not None}
    return known | _object(fields["extra"] or [], None)
