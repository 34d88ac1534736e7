"""Lake columns: what goes in as JSON comes out as it was, and other tools see plain texts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.lake.columns import event_from_log_row, from_lake, to_lake
from headwater.model.batch import SCHEMA
from tests.lake.making import events

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
odd_texts = st.sampled_from(
    ["true", "false", "null", "1", "-0", "1.50", "1e999", "01", "{}", "[1", '{"a":1}', "t", "-", "1 ", "", "٣", "1\n"]
)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts | odd_texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
known = st.sampled_from(["ip", "userAgent", "page", "campaign", "sessionId", "extra", "screen"])
objects = st.dictionaries(texts | known, values, max_size=5)


def exact(value: Any) -> Any:
    """Equality that tells true from 1 and 1 from 1.0."""
    if isinstance(value, dict):
        return {key: exact(member) for key, member in value.items()}
    if isinstance(value, list):
        return [exact(member) for member in value]
    return (type(value).__name__, repr(value))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(objects, objects), min_size=1, max_size=4))
def test_any_properties_and_context_come_back_as_they_were_sent(
    sent: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    batch = events([{"properties": properties, "context": context} for properties, context in sent])
    back = from_lake(to_lake(batch, np.arange(len(sent)), {}))
    for row, (properties, context) in enumerate(sent):
        assert exact(back[row]["properties"]) == exact(msgspec.json.decode(msgspec.json.encode(properties)))
        assert exact(back[row]["context"]) == exact(msgspec.json.decode(msgspec.json.encode(context)))
        assert exact(back[row]) == exact(event_from_log_row(batch, row))


def test_properties_are_texts_in_a_map_and_absent_for_null() -> None:
    batch = events([{"properties": {"s": "x", "n": 1.5, "b": True, "z": None, "o": {"a": [1, 2]}}}])
    table = to_lake(batch, np.array([7]), {})
    assert table["properties"].to_pylist() == [[("s", "x"), ("n", "1.5"), ("b", "true"), ("o", '{"a":[1,2]}')]]
    assert table["log_position"].to_pylist() == [7]


def test_raw_text_is_kept_only_where_reading_back_would_differ() -> None:
    sent = [{"a": "x", "b": 2, "c": "10.1.2.3"}, {"a": "2"}, {"a": None}, {"a": "true"}, {"a": "{not json"}, {}]
    table = to_lake(events([{"properties": p, "context": p} for p in sent]), np.arange(len(sent)), {})
    expected = [False, True, True, True, False, False]
    assert [raw is not None for raw in table["properties_raw"].to_pylist()] == expected
    assert [raw is not None for raw in table["context_raw"].to_pylist()] == expected


def test_known_context_is_in_the_struct_and_the_rest_in_extra() -> None:
    context = {"ip": "1.2.3.4", "page": {"url": "u"}, "screen": 3, "extra": {"ip": "other", "sanitized": True}}
    (row,) = to_lake(events([{"context": context}]), np.array([0]), {})["context"].to_pylist()
    assert row["ip"] == "1.2.3.4"
    assert row["page"] == '{"url":"u"}'
    assert dict(row["extra"]) == {"screen": "3", "sanitized": "true"}


def test_promoted_columns_are_typed_and_follow_the_rules_of_numbers() -> None:
    sent = [12.5, "7", "x", 1e21, None, True, -0.0000000005, "1e2", "1.23456789012"]
    batch = events([{"properties": {"amount": v}} for v in sent] + [{"properties": {}}])
    table = to_lake(batch, np.arange(10), {("amount", "number"): "p_1", ("amount", "text"): "p_2"})
    numbers_seen = [None if v is None else Decimal(v).normalize() for v in table["p_1"].to_pylist()]
    assert numbers_seen == [
        *map(Decimal, ("12.5", "7")), None, None, None, None,
        *(Decimal(v).normalize() for v in ("-0.000000001", "100", "1.234567890")), None,
    ]  # fmt: skip
    assert table["p_2"].to_pylist()[:4] == ["12.5", "7", "x", "1e21"]
    assert table.schema.field("p_1").type == pa.decimal128(38, 9)


def test_an_empty_batch_has_the_columns() -> None:
    empty = pa.RecordBatch.from_pylist([], schema=SCHEMA)
    assert to_lake(empty, np.empty(0, np.int64), {}).num_rows == 0
    assert from_lake(to_lake(empty, np.empty(0, np.int64), {})) == []
