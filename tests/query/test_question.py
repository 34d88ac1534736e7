"""Parameters become exactly one question, or are refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.clock import DAY, HOUR, rfc3339
from headwater.errors import Refused
from headwater.model.metric import Condition, Filter
from headwater.query.matching import holds
from headwater.query.question import group_names, metric_question, parse_filter
from tests.warehouse import brute

NOW = 1_705_314_645_123_456  # 2024-01-15T10:30:45.123456Z


def asked(**parameters):
    return metric_question("m", parameters, NOW)


def span(**parameters):
    question = asked(**parameters)
    return rfc3339(question.start), rfc3339(question.end)


def test_the_last_day_is_asked_about_where_nothing_is_said():
    question = asked()
    assert question.granularity == "hour"
    assert (rfc3339(question.start), rfc3339(question.end)) == ("2024-01-14T10:00:00Z", "2024-01-15T11:00:00Z")
    assert question.end - question.start == 25 * HOUR


def test_the_last_day_as_one_window_ends_with_the_running_minute():
    question = asked(granularity="total")
    assert question.end % (60 * 1_000_000) == 0
    assert question.end - question.start == 24 * HOUR


def test_a_bare_end_date_means_the_whole_of_that_day():
    assert span(startTime="2024-01-01", endTime="2024-01-03") == ("2024-01-01T00:00:00Z", "2024-01-04T00:00:00Z")
    assert span(startTime="2024-01-01", endTime="2024-01-01", granularity="total") == (
        "2024-01-01T00:00:00Z",
        "2024-01-02T00:00:00Z",
    )


def test_times_without_an_offset_are_meant_in_the_zone():
    day = {"startTime": "2024-01-01", "endTime": "2024-01-01", "timezone": "Asia/Kathmandu", "granularity": "day"}
    assert span(**day) == ("2023-12-31T18:15:00Z", "2024-01-01T18:15:00Z")
    exact = {"startTime": "2024-01-01T00:00:00", "endTime": "2024-01-01T12:00Z", "timezone": "America/New_York"}
    assert span(granularity="total", **exact) == ("2024-01-01T05:00:00Z", "2024-01-01T12:00:00Z")


@pytest.mark.parametrize("zone_day_hours", [("2024-03-31", 23), ("2024-10-27", 25)])
def test_a_day_of_a_clock_change_is_as_long_as_it_is(zone_day_hours):
    day, hours = zone_day_hours
    question = asked(startTime=day, endTime=day, timezone="Europe/Berlin", granularity="hour")
    assert len(question.edges) == hours + 1
    assert question.end - question.start == hours * HOUR


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-15T10:30:00Z", "2024-01-15T10:30:00Z"),
        ("2024-01-15t10:30:00z", "2024-01-15T10:30:00Z"),
        ("2024-01-15 10:30", "2024-01-15T10:30:00Z"),
        ("2024-01-15T10:30:00.1234567Z", "2024-01-15T10:30:00.123456Z"),
        ("2024-01-15T10:30:00+05:30", "2024-01-15T05:00:00Z"),
        ("2024-01-15T10:30:00 05:30", "2024-01-15T05:00:00Z"),
        ("2024-01-15T10:30:00-0130", "2024-01-15T12:00:00Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
    ],
)
def test_every_way_to_write_a_time_is_understood(text, expected):
    assert span(startTime=text, endTime="2024-02-01", granularity="total")[0] == expected


def test_a_range_is_widened_to_whole_windows():
    given_ = {"startTime": "2024-01-15T10:31:00Z", "endTime": "2024-01-15T11:01:00Z"}
    assert span(granularity="hour", **given_) == ("2024-01-15T10:00:00Z", "2024-01-15T12:00:00Z")
    assert span(granularity="week", **given_) == ("2024-01-15T00:00:00Z", "2024-01-22T00:00:00Z")
    assert span(granularity="total", **given_) == ("2024-01-15T10:31:00Z", "2024-01-15T11:01:00Z")


names = st.text(min_size=1, max_size=6).filter(lambda name: not name.startswith("$"))


def escaped(text):
    return "".join("\\" + c if c in "\\,:" else c for c in text)


@given(st.lists(st.tuples(names, st.text(max_size=6)), min_size=1, max_size=4))
def test_the_short_filter_says_any_name_and_value(pairs):
    text = ",".join(f"{escaped(name)}:{escaped(value)}" for name, value in pairs)
    if text.strip() and text.lstrip()[0] != "{":
        assert parse_filter(text) == Filter(all=tuple(Condition(name, "eq", value) for name, value in pairs))


@given(st.lists(names, min_size=1, max_size=5, unique=True))
def test_any_names_can_be_grouped_by(given_):
    assert group_names(",".join(escaped(name) for name in given_)) == tuple(given_)


@given(
    st.dictionaries(
        st.sampled_from(["startTime", "endTime", "granularity", "timezone", "groupBy", "filter", "format", "x"]),
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(["2024-01-01", "day", "UTC", "a,b", "a:b", "json", "2024-02-30", "{}", "Europe/Berlin"]),
        ),
    )
)
def test_anything_is_a_question_or_an_invalid_query(parameters):
    try:
        question = asked(**parameters)
    except Refused as refused:
        assert refused.reason in ("invalid_query", "too_many_windows")  # noqa: PT017
        return
    assert list(question.edges) == sorted(set(question.edges))
    assert question.canonical() == asked(**parameters).canonical()


def test_the_order_of_groups_makes_no_other_question():
    day = {"startTime": "2024-01-01", "endTime": "2024-01-02"}
    assert asked(groupBy="a,b", **day).canonical() == asked(groupBy="b,a", **day).canonical()


texts = st.sampled_from(["US", "DE", "1", "true", ""])
conditions = st.one_of(
    st.builds(
        Condition, st.sampled_from("ab"), st.sampled_from(["eq", "ne"]), st.one_of(texts, st.just(1), st.just(True))
    ),
    st.builds(Condition, st.sampled_from("ab"), st.sampled_from(["in", "not_in"]), st.lists(texts, max_size=3)),
    st.builds(Condition, st.sampled_from("ab"), st.just("exists"), st.sampled_from([None, True, False])),
)
filters = st.recursive(
    st.builds(Filter, st.lists(conditions, max_size=2).map(tuple), st.lists(conditions, max_size=2).map(tuple)),
    lambda inner: st.builds(Filter, st.lists(inner, max_size=2).map(tuple), st.lists(inner, max_size=2).map(tuple)),
    max_leaves=4,
)


@given(filters, st.dictionaries(st.sampled_from("ab"), texts))
def test_a_filter_holds_for_groups_as_for_events(condition, properties):
    event = brute.event(0, properties=properties)
    assert holds(condition, {"a": properties.get("a"), "b": properties.get("b")}) == brute.holds(condition, event)
    assert parse_filter(msgspec.json.encode(condition).decode()) in (condition, None)


def test_the_width_of_the_range_chooses_the_granularity():
    for width, granularity in ((HOUR, "minute"), (6 * HOUR, "5m"), (2 * DAY, "hour"), (40 * DAY, "day")):
        times = {"startTime": rfc3339(NOW - width), "endTime": rfc3339(NOW)}
        assert asked(**times).granularity == granularity
