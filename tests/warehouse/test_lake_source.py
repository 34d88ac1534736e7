"""A metric is the same over events in memory and over lake files of them, with and without promoted columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from headwater.clock import HOUR
from headwater.lake.columns import to_lake
from headwater.lake.file import write
from headwater.model.value import number_of, text_of
from headwater.warehouse.measure import events_source, files_source, measure, names_for, query_for
from tests.warehouse.brute import batch, comparable, event, metric
from tests.warehouse.test_measure import EVENTS, METRICS, T0

ODD = [("amount", "number"), ("amount", "text"), ("country", "text"), ("it's \" odd", "text")]
PROMOTED = {what: f"p_{i}" for i, what in enumerate(ODD)}
FORMATS = Path(__file__).parent.parent / "formats" / "v1"
CONTEXTS = [
    metric("ip", aggregate="unique", property="$context.ip", dimensions=[["$context.custom"], ["$context.extra"]]),
    metric("set", aggregate="count", filter={"property": "$context.ip", "op": "exists"}),
    metric("ids", aggregate="unique", property="$eventId", dimensions=[["$anonymousId", "$userId"]]),
]


@pytest.fixture(scope="module")
def con() -> Any:
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        yield connection


def over(con: Any, source: Any) -> dict[Any, str]:
    found = measure(con, source, METRICS + CONTEXTS, bucket_us=HOUR)
    return {(m.metric_key, m.dimensions, m.bucket, m.values): comparable(m.state) for m in found}


def lake_file(path: Path, events: list[Any], promoted: dict[tuple[str, str], str]) -> str:
    table = to_lake(batch(events), np.arange(len(events)), promoted)
    data, _ = write(table, key="k", project_id="default", hour=T0, epoch=1, promoted={})
    path.write_bytes(data)
    return str(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS.filter(bool), EVENTS.filter(bool))
def test_lake_files_give_the_states_of_their_events(con: Any, tmp_path: Path, some: list[Any], more: list[Any]) -> None:
    names = names_for(METRICS + CONTEXTS)
    expected = over(con, events_source(batch([*some, *more]), names))
    plain = [lake_file(tmp_path / f"{i}.parquet", part, {}) for i, part in enumerate((some, more))]
    assert over(con, files_source(plain, names)) == expected
    columns = [lake_file(tmp_path / f"p{i}.parquet", part, PROMOTED) for i, part in enumerate((some, more))]
    assert over(con, files_source(columns, names, PROMOTED)) == expected


def test_files_of_different_columns_are_read_together_through_the_map(con: Any, tmp_path: Path) -> None:
    events = [event(T0 + i, amount=i, country="US") for i in range(4)]
    mixed = [lake_file(tmp_path / "a", events, PROMOTED), lake_file(tmp_path / "b", events, {})]
    names = names_for(METRICS)
    assert over_metrics(con, files_source(mixed, names)) == over_metrics(con, events_source(batch(events * 2), names))
    assert over_metrics(con, files_source(mixed[::-1], names)) == over_metrics(con, files_source(mixed, names))


def over_metrics(con: Any, source: Any) -> dict[Any, str]:
    found = measure(con, source, METRICS, bucket_us=HOUR)
    return {(m.metric_key, m.dimensions, m.bucket, m.values): comparable(m.state) for m in found}


def test_the_golden_file_of_odd_values_holds(con: Any, tmp_path: Path) -> None:
    """Each line: the value as sent, its text, and its number (null: it is none)."""
    rows = msgspec.json.decode((FORMATS / "odd-values.json").read_bytes())
    values = [msgspec.json.decode(row["sent"].encode()) for row in rows]
    assert [text_of(value) for value in values] == [row["text"] for row in rows]
    numbers = [None if row["text"] is None else number_of(row["text"]) for row in rows]
    assert [None if n is None else format(n + 0, "f") for n in numbers] == [row["number"] for row in rows]
    events = [event(T0 + i, amount=value) for i, value in enumerate(values)]
    wanted = [
        metric("sum", aggregate="sum", property="amount"),
        metric("by", aggregate="count", dimensions=[["amount"]]),
    ]
    path = lake_file(tmp_path / "odd.parquet", events, {})
    for source in (events_source(batch(events), ["amount"]), files_source([path], ["amount"])):
        found = measure(con, source, wanted, bucket_us=1)
        sums = {m.bucket - T0: m.state for m in found if m.metric_key == "sum@1"}
        texts = {m.bucket - T0: m.values[0] for m in found if m.dimensions}
        for i, row in enumerate(rows):
            assert texts[i] == row["text"], row
            assert (None if sums[i].sum is None else format(sums[i].sum + 0, "f")) == row["number"], row
            assert sums[i].not_numbers == (row["text"] is not None and row["number"] is None), row


def test_the_sql_of_a_metric_is_the_golden_one() -> None:
    """To accept a change on purpose: write what the failed assertion shows into the file."""
    revenue = metric(
        "revenue",
        aggregate="avg",
        eventType="purchase",
        property="amount",
        filter={
            "any": [
                {"property": "country", "op": "in", "value": ["US", "O'x"]},
                {"property": "n", "op": "ne", "value": 1},
            ]
        },
        dimensions=[["country"]],
    )
    people = metric("people", aggregate="unique", eventType="view")
    names = [*names_for([revenue, people]), "$context.campaign", "$context.custom"]
    source = files_source(["/lake/a.parquet", "/lake/b.parquet"], names, {("amount", "number"): "p_1"})
    totals = query_for(source, [revenue, people], (), HOUR, start=T0, end=T0 + HOUR)
    groups = query_for(source, [revenue], ("$context.campaign", "$context.custom", "country"), HOUR)
    assert f"{totals.sql}\n\n{groups.sql}\n" == (FORMATS / "metric-duckdb.sql").read_text()
