"""Metrics over events: the same states as plain Python gives, whatever the values, windows and filters are."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.clock import HOUR, MINUTE
from headwater.errors import UsageError
from headwater.model.interval import Interval, window_edges
from headwater.model.metric import Condition, Filter
from headwater.model.value import number_of
from headwater.warehouse.measure import events_source, measure, names_for
from tests.warehouse.brute import batch, comparable, event, metric, states

T0 = 1_705_312_800_000_000  # 2024-01-15T10:00:00Z


@pytest.fixture(scope="module")
def con() -> Any:
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        yield connection


def measured(con: Any, events: list[Any], metrics: list[Any], bucket: Any = HOUR, **more: Any) -> dict[Any, Any]:
    names = names_for(metrics, more.get("extra_filter"), [n for d in more.get("dimension_sets") or () for n in d])
    found = measure(con, events_source(batch(events), names), metrics, bucket_us=bucket, **more)
    keyed = {(m.metric_key, m.dimensions, m.bucket, m.values): m.state for m in found}
    assert len(keyed) == len(found), "one group came twice"
    return keyed


def expected(events: list[Any], metrics: list[Any], edges: list[int], sets: Any = None) -> dict[Any, Any]:
    return {
        (m.key, d, bucket, values): state
        for m in metrics
        for d in (m.dimension_sets if sets is None else sets)
        for (bucket, values), state in states(events, m, d, edges).items()
    }


def same(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    return {k: comparable(v) for k, v in a.items()} == {k: comparable(v) for k, v in b.items()}


TEXTS = st.sampled_from(["US", "DE", "", "null", "true", "1.0", "1", "Ünïcode 💧", "it's", 'a"b', "a\\b", "\u2028"])
NUMBERS = st.one_of(
    st.integers(-(10**25), 10**25),
    st.integers(-1000, 1000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-1000, 1000, places=4).map(str),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?\Z"),
)
VALUES = st.one_of(TEXTS, NUMBERS, st.booleans(), st.none(), st.just({"a": [1, {"b": None}]}), st.just([]))
EVENTS = st.lists(
    st.builds(
        lambda offset, kind, properties, context, user, anonymous: event(
            T0 + offset, kind, properties=properties, context=context, user_id=user, anonymous_id=anonymous
        ),
        st.integers(-HOUR, 3 * HOUR),
        st.sampled_from(["purchase", "view", "O'Brien"]),
        st.dictionaries(st.sampled_from(["amount", "country", "it's \" odd", "$x"]), VALUES, max_size=4),
        st.dictionaries(st.sampled_from(["ip", "custom"]), VALUES, max_size=2)
        | st.fixed_dictionaries({"ip": VALUES, "extra": st.dictionaries(st.sampled_from(["ip", "custom"]), VALUES)}),
        st.sampled_from([None, "", "u1", "u2", "ü"]),
        st.sampled_from([None, "a1"]),
    ),
    max_size=12,
)
CONDITIONS = st.one_of(
    st.builds(Condition, st.sampled_from(["amount", "country"]), st.sampled_from(["eq", "ne"]), TEXTS | st.integers()),
    st.builds(Condition, st.just("country"), st.sampled_from(["in", "not_in"]), st.lists(TEXTS, max_size=2)),
    st.builds(Condition, st.just("$context.ip"), st.just("exists"), st.sampled_from([None, True, False])),
)
FILTERS = st.recursive(
    st.builds(Filter, st.lists(CONDITIONS, max_size=2).map(tuple), st.lists(CONDITIONS, max_size=2).map(tuple)),
    lambda inner: st.builds(Filter, st.tuples(inner), st.tuples(inner)),
    max_leaves=3,
)
METRICS = [
    metric("count", aggregate="count", dimensions=[["country"], ["$context.custom", "it's \" odd"]]),
    metric("people", aggregate="unique", dimensions=[["country"]]),
    metric("countries", aggregate="unique", property="country", eventType="view"),
    *(
        metric(a, aggregate=a, property="amount", eventType="purchase", dimensions=[["country"], ["$eventType"]])
        for a in ("sum", "avg", "min", "max")
    ),
]


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.sampled_from([MINUTE, HOUR, 15 * MINUTE]))
def test_every_aggregate_is_what_plain_python_gives(con: Any, events: list[Any], width: int) -> None:
    edges = list(range(T0 - HOUR, T0 + 3 * HOUR + 2 * width, width))
    assert same(measured(con, events, METRICS, width), expected(events, METRICS, edges))


@settings(max_examples=100, deadline=None)
@given(EVENTS, FILTERS, FILTERS)
def test_filters_mean_what_plain_python_says(con: Any, events: list[Any], own: Filter, extra: Filter) -> None:
    edges = [T0 - HOUR, T0, T0 + 5 * HOUR]
    filtered = [metric("f", aggregate="count", filter=None)]
    definition = type(filtered[0].definition)(aggregate="count", filter=own)
    filtered = [type(filtered[0])("default", "f", 1, 0, definition)]
    both = type(definition)(aggregate="count", filter=Filter(all=(own, extra)))
    wanted = expected(events, [type(filtered[0])("default", "f", 1, 0, both)], edges)
    assert same(measured(con, events, filtered, edges, extra_filter=extra), wanted)


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=8))
def test_numbers_are_the_numbers_of_the_value_rules(con: Any, values: list[Any]) -> None:
    events = [event(T0 + i, amount=value) for i, value in enumerate(values)]
    assert same(measured(con, events, METRICS[3:]), expected(events, METRICS[3:], [T0, T0 + HOUR]))


def test_windows_of_a_zone_with_a_clock_change_are_found(con: Any) -> None:
    zone = ZoneInfo("Australia/Lord_Howe")  # half an hour forward in October
    edges = window_edges(Interval(T0 + 263 * 24 * HOUR, T0 + 266 * 24 * HOUR), "day", zone)
    events = [event(edges[0] + i * 7 * MINUTE) for i in range(-3, 700)]
    counted = [metric("c", aggregate="count")]
    assert same(measured(con, events, counted, edges), expected(events, counted, edges))


def test_edges_on_no_common_grid_are_found_too(con: Any) -> None:
    edges = [T0 + 1, T0 + 3, T0 + HOUR + 17, T0 + 2 * HOUR]
    events = [event(T0 + offset) for offset in (0, 1, 2, 3, HOUR, HOUR + 16, HOUR + 17, 2 * HOUR - 1, 2 * HOUR)]
    counted = [metric("c", aggregate="count")]
    assert same(measured(con, events, counted, edges), expected(events, counted, edges))


def test_bounds_are_inclusive_and_exclusive(con: Any) -> None:
    events = [event(T0 + i) for i in range(5)]
    found = measured(con, events, [metric("c", aggregate="count")], start=T0 + 1, end=T0 + 4)
    assert [state.count for state in found.values()] == [3]


def test_a_tenth_added_ten_thousand_times_is_a_thousand(con: Any) -> None:
    found = measured(con, [event(T0 + i, amount=0.1) for i in range(10_000)], METRICS[3:4], dimension_sets=[()])
    assert [state.sum for state in found.values()] == [Decimal(1000)]


def test_an_exponent_beyond_every_range_is_zero_or_no_number(con: Any) -> None:
    huge = "9" * 30
    assert number_of(f"1e{huge}") is None
    assert number_of(f"1e-{huge}") == 0
    assert number_of(f"0e{huge}") == 0
    events = [event(T0, amount=f"1e{huge}"), event(T0, amount=f"-1e-{huge}"), event(T0, amount=f"0.0e{huge}")]
    assert same(measured(con, events, METRICS[3:]), expected(events, METRICS[3:], [T0, T0 + HOUR]))


def test_other_dimension_sets_replace_the_metrics_own(con: Any) -> None:
    events = [event(T0, user_id="u1", country="US"), event(T0, user_id="u2")]
    found = measured(con, events, METRICS[:1], dimension_sets=[("$userId", "country")])
    assert {(d, v) for _, d, _, v in found} == {
        (("$userId", "country"), ("u1", "US")),
        (("$userId", "country"), ("u2", None)),
    }


def test_no_events_and_no_metrics_give_nothing(con: Any) -> None:
    assert measured(con, [], METRICS) == {}
    assert measured(con, [event(T0)], []) == {}


def test_a_name_that_was_not_taken_along_is_refused(con: Any) -> None:
    with pytest.raises(UsageError, match="country"):
        measure(con, events_source(batch([event(T0)]), []), METRICS[:1], bucket_us=HOUR)
