"""Answers as bytes: JSON, CSV, Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa

from headwater.clock import rfc3339
from headwater.model.value import decimal_text
from headwater.query.answer import Answer, arrow_table
from headwater.query.csv_text import csv_bytes

MEDIA = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}
_NULL = msgspec.Raw(b"null")


def number(value: Decimal | int | None) -> msgspec.Raw:
    """A JSON number without exponent, or null."""
    return _NULL if value is None else msgspec.Raw(number_text(value).encode())


def number_text(value: Decimal | int) -> str:
    return decimal_text(value) if isinstance(value, Decimal) else str(value)


def answer_bytes(answer: Answer, elapsed_us: int) -> bytes:
    """An answer in the format that its question asks for."""
    if answer.question.format == "csv":
        return _answer_csv(answer)
    if answer.question.format == "arrow":
        return table_bytes(arrow_table(answer))
    return msgspec.json.encode(answer_document(answer, elapsed_us))


def answer_document(answer: Answer, elapsed_us: int) -> dict[str, Any]:
    """The JSON form of CONTRACT 3."""
    question = answer.question
    order = [question.dimensions.index(name) for name in question.group_by]
    data = [
        {
            "timestamp": rfc3339(row.timestamp),
            "value": number(row.value),
            "dimensions": {name: row.values[at] for name, at in zip(question.group_by, order, strict=True)},
        }
        for row in answer.counted.rows
    ]
    return {
        "metric": question.metric,
        "granularity": question.granularity,
        "timezone": question.timezone,
        "data": data,
        "meta": {
            "from": rfc3339(question.start),
            "to": rfc3339(question.end),
            "completeUpTo": time_or_none(answer.complete_up_to),
            "lagMs": None if answer.lag_us is None else answer.lag_us // 1000,
            "stale": answer.stale,
            "parts": [
                {
                    "from": rfc3339(part.start),
                    "to": rfc3339(part.end),
                    "store": part.store,
                    "exact": answer.aggregate != "unique",
                }
                for part in answer.parts
            ],
            "notNumbers": answer.counted.not_numbers,
            "cache": {
                "hit": answer.hit,
                "ageMs": max(0, answer.asked_at - answer.made_at) // 1000 if answer.hit else 0,
            },
            "elapsedMs": round(elapsed_us / 1000, 3),
        },
    }


def time_or_none(us: int | None) -> str | None:
    return None if us is None else rfc3339(us)


def _answer_csv(answer: Answer) -> bytes:
    question = answer.question
    order = [question.dimensions.index(name) for name in question.group_by]
    rows = (
        [
            rfc3339(row.timestamp),
            *(row.values[at] for at in order),
            None if row.value is None else number_text(row.value),
        ]
        for row in answer.counted.rows
    )
    return csv_bytes(["timestamp", *question.group_by, "value"], rows)


def table_bytes(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """One Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    if metadata:
        table = table.replace_schema_metadata(dict(metadata))
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
