"""Windows lie on the calendar of their zone, without gap and without overlap."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.clock import DAY, HOUR, MINUTE, from_datetime, rfc3339, to_datetime
from headwater.errors import Refused
from headwater.model.interval import Interval, choose_granularity, window_edges, window_start, zone_of

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Africa/Cairo",
]


def us(*parts: int) -> int:
    return from_datetime(datetime(*parts, tzinfo=UTC))


@given(
    st.integers(us(1971, 1, 1), us(2099, 1, 1)),
    st.sampled_from(ZONES),
    st.sampled_from(["minute", "5m", "hour", "day", "week", "month"]),
)
def test_windows_of_a_range_touch_each_other_and_hold_their_first_moment(at, zone_name, granularity):
    zone = zone_of(zone_name)
    edges = window_edges(Interval(at, at + 3 * DAY if granularity != "minute" else at + HOUR), granularity, zone)
    assert edges == sorted(set(edges))
    assert edges[0] <= at < edges[1]
    for start, end in pairwise(edges):
        assert window_start(start, granularity, zone) == start
        assert window_start(end - 1, granularity, zone) == start


@given(st.integers(us(1971, 1, 1), us(2037, 1, 1)), st.sampled_from(ZONES))
def test_a_day_holds_exactly_the_moments_of_its_local_date(at, zone_name):
    zone = zone_of(zone_name)
    start = window_start(at, "day", zone)
    date = to_datetime(at).astimezone(zone).date()
    assert to_datetime(start).astimezone(zone).date() == date
    assert to_datetime(start - 1).astimezone(zone).date() < date


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", (2024, 3, 31), 23),
        ("Europe/Berlin", (2024, 10, 27), 25),
        ("Australia/Lord_Howe", (2024, 4, 7), 24.5),
        ("Australia/Lord_Howe", (2024, 10, 6), 23.5),
        ("Asia/Kathmandu", (2024, 3, 31), 24),
    ],
)
def test_days_are_as_long_as_the_clocks_make_them(zone, day, hours):
    noon = datetime(*day, 12, tzinfo=zone_of(zone))
    start = window_start(from_datetime(noon.astimezone(UTC)), "day", zone_of(zone))
    following = window_start(from_datetime((noon + timedelta(days=1)).astimezone(UTC)), "day", zone_of(zone))
    assert (following - start) / HOUR == hours


def test_a_day_without_a_midnight_starts_when_the_clock_jumps():
    start = window_start(us(2024, 4, 26, 12), "day", zone_of("Africa/Cairo"))
    assert rfc3339(start) == "2024-04-25T22:00:00Z"


def test_a_clock_change_inside_an_hour_ends_the_window():
    edges = window_edges(Interval(us(2024, 4, 6, 14), us(2024, 4, 6, 17)), "hour", zone_of("Australia/Lord_Howe"))
    assert [rfc3339(e)[11:16] for e in edges] == ["14:00", "15:00", "15:30", "16:30", "17:30"]


def test_a_week_starts_on_monday_and_a_month_on_its_first():
    zone = zone_of("UTC")
    assert rfc3339(window_start(us(2024, 1, 14, 5), "week", zone)) == "2024-01-08T00:00:00Z"
    assert rfc3339(window_start(us(2024, 2, 29, 5), "month", zone)) == "2024-02-01T00:00:00Z"


def test_more_than_ten_thousand_windows_are_refused():
    with pytest.raises(Refused) as refusal:
        window_edges(Interval(0, 10_001 * MINUTE), "minute", zone_of("UTC"))
    assert refusal.value.reason == "too_many_windows"
    assert len(window_edges(Interval(0, 10_000 * MINUTE), "minute", zone_of("UTC"))) == 10_001


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "UTC\0"])
def test_an_unknown_zone_is_refused(name):
    with pytest.raises(Refused):
        zone_of(name)


def test_the_granularity_follows_the_range():
    assert [choose_granularity(Interval(0, w)) for w in (HOUR, 3 * HOUR, DAY, 30 * DAY, 365 * DAY, 2000 * DAY)] == [
        "minute", "5m", "hour", "day", "week", "month",
    ]  # fmt: skip
