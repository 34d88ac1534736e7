"""Half-open UTC intervals, granularities and window edges in any IANA zone.

All times are whole microseconds since the epoch. Edges are built on the calendar of the zone, never by adding 24 h.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from headwater.clock import DAY, HOUR, MINUTE, from_datetime, to_datetime
from headwater.errors import Refused

GRANULARITIES = ("minute", "5m", "hour", "day", "week", "month", "total")
MAX_WINDOWS = 10_000
FIXED = {"minute": MINUTE, "5m": 5 * MINUTE}


class Interval(msgspec.Struct, frozen=True, order=True):
    """`start` inclusive, `end` exclusive, in microseconds."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"interval ends before it starts: [{self.start}, {self.end})")

    def __bool__(self) -> bool:
        return self.end > self.start

    def __contains__(self, us: object) -> bool:
        return isinstance(us, int) and self.start <= us < self.end

    def intersect(self, other: Interval) -> Interval:
        """The common part; empty (start == end) where there is none."""
        start = max(self.start, other.start)
        return Interval(start, max(start, min(self.end, other.end)))

    def hours(self) -> range:
        """Starts of the UTC hours that the interval touches."""
        return range(self.start - self.start % HOUR, self.end, HOUR)


def zone_of(name: str) -> ZoneInfo:
    """The IANA zone `name`. Raises `Refused(invalid_query)` for an unknown one."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Refused(
            "invalid_query", 422, f"timezone: {name!r} is not an IANA zone such as Europe/Berlin or UTC"
        ) from error


def window_start(us: int, granularity: str, zone: ZoneInfo) -> int:
    """Start of the window that holds `us`.

    `minute`, `5m` and `hour` are windows of local clock time; a repeated local hour (end of summer time) is two
    windows, and a clock change inside a window ends it. `day`, `week` (from Monday) and `month` start at the first
    moment of their local date.
    """
    local = to_datetime(us).astimezone(zone)
    if granularity in ("minute", "5m", "hour"):
        offset = _offset(local)
        floor = us - (us + offset) % FIXED.get(granularity, HOUR)
        return floor if _offset_at(floor, zone) == offset else _change_between(floor, us, zone)
    day = local.date()
    if granularity == "week":
        day -= timedelta(days=day.weekday())
    elif granularity == "month":
        day = day.replace(day=1)
    return start_of_day(day, zone)


def next_window(start: int, granularity: str, zone: ZoneInfo) -> int:
    """Start of the window after the one that starts at `start`."""
    if granularity in ("minute", "5m", "hour"):
        width, offset = FIXED.get(granularity, HOUR), _offset_at(start, zone)
        full = start + width - (start + offset) % width
        return full if _offset_at(full - 1, zone) == offset else _change_between(start, full - 1, zone)
    day = to_datetime(start).astimezone(zone).date()
    if granularity == "day":
        following = day + timedelta(days=1)
    elif granularity == "week":
        following = day + timedelta(days=7)
    else:
        following = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    edge = start_of_day(following, zone)
    while edge <= start:  # a date that the zone skipped altogether
        following += timedelta(days=1)
        edge = start_of_day(following, zone)
    return edge


def window_edges(interval: Interval, granularity: str, zone: ZoneInfo) -> list[int]:
    """Edges of all windows that touch `interval`, ascending; n windows have n + 1 edges.

    Raises `Refused(too_many_windows)` above `MAX_WINDOWS`.
    """
    if granularity == "total":
        return [interval.start, interval.end]
    edges = [window_start(interval.start, granularity, zone)]
    while edges[-1] < interval.end:
        if len(edges) > MAX_WINDOWS:
            raise Refused(
                "too_many_windows",
                422,
                f"the range holds more than {MAX_WINDOWS} windows of {granularity}; ask for a shorter range or a "
                "coarser granularity",
            )
        edges.append(next_window(edges[-1], granularity, zone))
    return edges


def start_of_day(day: date, zone: ZoneInfo) -> int:
    """First moment of a local date; where midnight does not exist, the moment the clock jumps to."""
    local = datetime(day.year, day.month, day.day, tzinfo=zone)
    first = from_datetime(local.astimezone(UTC))
    if to_datetime(first).astimezone(zone).date() == day:
        # of an ambiguous midnight `fold=0` is the earlier one; of a missing one it is before the jump
        return first
    low, high = first - DAY // 8, first + DAY // 8
    while high - low > 1:
        middle = (low + high) // 2
        if to_datetime(middle).astimezone(zone).date() >= day:
            high = middle
        else:
            low = middle
    return high


def choose_granularity(interval: Interval) -> str:
    """The granularity of an answer for which none was asked."""
    width = interval.end - interval.start
    if width <= 2 * HOUR:
        return "minute"
    if width <= 12 * HOUR:
        return "5m"
    if width <= 7 * DAY:
        return "hour"
    if width <= 180 * DAY:
        return "day"
    return "month" if width > 3 * 366 * DAY else "week"


def _offset(local: datetime) -> int:
    offset = local.utcoffset()
    assert offset is not None
    return offset // timedelta(microseconds=1)


def _offset_at(us: int, zone: ZoneInfo) -> int:
    return _offset(to_datetime(us).astimezone(zone))


def _change_between(low: int, high: int, zone: ZoneInfo) -> int:
    """The first moment in (low, high] whose offset is not that of `low`: a clock change by part of a window."""
    offset = _offset_at(low, zone)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_at(middle, zone) == offset:
            low = middle
        else:
            high = middle
    return high
