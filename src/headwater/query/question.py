"""What is asked: parameters of a request as one checked, canonical value.

Everything that is not understood is refused with `invalid_query`, naming the parameter, what was given and what is
allowed; nothing is guessed and nothing ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from headwater.clock import DAY, EPOCH, MINUTE, from_datetime
from headwater.errors import Refused
from headwater.model.interval import (
    GRANULARITIES,
    Interval,
    choose_granularity,
    start_of_day,
    window_edges,
    zone_of,
)
from headwater.model.metric import Condition, Filter, check_filter, check_name, filter_from

FORMATS = ("json", "csv", "arrow")
METRIC_PARAMETERS = ("startTime", "endTime", "granularity", "timezone", "groupBy", "filter", "format")
MOST_GROUP_NAMES = 5
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d+))?)?([Zz]|[+-]\d{2}:?\d{2})?")


@dataclass(frozen=True)
class Question:
    """A metric over a range. `edges`: of its windows, ascending; the range is [edges[0], edges[-1]).
    `group_by`: in the order asked, each once."""

    metric: str
    edges: tuple[int, ...]
    granularity: str
    timezone: str
    group_by: tuple[str, ...] = ()
    filter: Filter | None = None
    format: str = "json"

    @property
    def start(self) -> int:
        return self.edges[0]

    @property
    def end(self) -> int:
        return self.edges[-1]

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names grouped by, sorted: how dimension sets are kept."""
        return tuple(sorted(self.group_by))

    def canonical(self) -> bytes:
        """Equal for questions with equal answers, whatever the order or form in which they were asked."""
        return msgspec.json.encode(
            (self.metric, self.start, self.end, self.granularity, self.timezone, self.dimensions, self.filter)
        )


def invalid(detail: str) -> Refused:
    return Refused("invalid_query", 422, detail)


def only(parameters: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    """Refuses parameters that are not known."""
    for name in parameters:
        if name not in allowed:
            raise invalid(f"{name!r} is no parameter of this call; allowed are {', '.join(allowed)}")


def metric_question(metric: str, parameters: Mapping[str, str], now_us: int) -> Question:
    """The question of `GET /v1/metrics/{metric}`. Raises `Refused`: `invalid_query`, `too_many_windows`."""
    only(parameters, METRIC_PARAMETERS)
    timezone = parameters.get("timezone") or "UTC"
    zone = zone_of(timezone)
    interval = time_range(parameters, zone, now_us)
    granularity = parameters.get("granularity") or choose_granularity(interval)
    if granularity not in GRANULARITIES:
        raise invalid(f"granularity: {granularity!r} is not one of {', '.join(GRANULARITIES)}")
    try:
        edges = window_edges(interval, granularity, zone)
    except (OverflowError, ValueError) as error:
        raise invalid("startTime, endTime: windows of this range end outside the years 1970 to 9999") from error
    return Question(
        metric=metric,
        edges=tuple(edges),
        granularity=granularity,
        timezone=timezone,
        group_by=group_names(parameters.get("groupBy")),
        filter=parse_filter(parameters.get("filter")),
        format=one_of("format", parameters.get("format") or "json", FORMATS),
    )


def one_of(name: str, given: str, allowed: tuple[str, ...]) -> str:
    if given not in allowed:
        raise invalid(f"{name}: {given!r} is not one of {', '.join(allowed)}")
    return given


def group_names(text: str | None) -> tuple[str, ...]:
    """Comma-separated names, `\\` before a comma that belongs to a name."""
    if not text:
        return ()
    names = _split(text, ",")
    if len(set(names)) != len(names):
        raise invalid(f"groupBy: {text!r} names one property twice")
    if len(names) > MOST_GROUP_NAMES:
        raise invalid(f"groupBy: at most {MOST_GROUP_NAMES} names; {len(names)} were given")
    for name in names:
        check_name(name)
    return tuple(names)


def parse_filter(text: str | None) -> Filter | None:
    """The filter of a parameter: JSON, or `country:US,device:mobile` (all must hold; `\\` escapes)."""
    if text is None or not text.strip():
        return None
    if text.lstrip()[:1] == "{":
        try:
            written = msgspec.json.decode(text.encode())
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise invalid(f"filter: not JSON ({error})") from error
        found = filter_from(written)
    else:
        found = Filter(all=tuple(_pair(part) for part in _split(text, ",", keep_escapes=True)))
    check_filter(found)
    return found if found else None


def _pair(text: str) -> Condition:
    parts = _split(text, ":", keep_escapes=True, most=1)
    if len(parts) != 2 or not parts[0]:
        raise invalid(f"filter: {text!r} is not NAME:VALUE; write country:US,device:mobile or the JSON form")
    return Condition(_unescaped(parts[0]), "eq", _unescaped(parts[1]))


def _split(text: str, separator: str, *, keep_escapes: bool = False, most: int | None = None) -> list[str]:
    """Parts between separators that no `\\` precedes; at most `most` cuts."""
    parts: list[str] = []
    part, at = "", 0
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text):
            part += text[at : at + 2] if keep_escapes else text[at + 1]
            at += 2
        elif text[at] == separator and (most is None or len(parts) < most):
            parts.append(part)
            part, at = "", at + 1
        else:
            part += text[at]
            at += 1
    return [*parts, part]


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def time_range(parameters: Mapping[str, str], zone: ZoneInfo, now_us: int) -> Interval:
    """[startTime, endTime) as asked; the last 24 hours where neither is given. A bare date as `endTime` is the whole
    of that day; one of the two missing is taken 24 hours from the other, or now. Now is the end of the running minute:
    live windows are whole minutes, so that the usual question is answered from them alone."""
    start = _bound("startTime", parameters.get("startTime"), zone, whole_day=False)
    end = _bound("endTime", parameters.get("endTime"), zone, whole_day=True)
    if end is None:
        end = now_us - now_us % MINUTE + MINUTE if start is None or start < now_us else start + DAY
    if start is None:
        start = max(0, end - DAY)
    if end <= start:
        raise invalid("endTime: must be after startTime; a range holds its start and not its end")
    return Interval(start, end)


def optional_time(name: str, text: str | None, *, whole_day: bool = False) -> int | None:
    """A single time parameter in UTC."""
    return _bound(name, text, zone_of("UTC"), whole_day=whole_day)


def _bound(name: str, text: str | None, zone: ZoneInfo, *, whole_day: bool) -> int | None:
    if not text:
        return None
    try:
        found = _moment(text.strip(), zone, whole_day=whole_day)
    except (ValueError, OverflowError) as error:
        raise invalid(f"{name}: {text!r} is no time ({error})") from error
    if found is None:
        raise invalid(f"{name}: {text!r} is no time; write 2024-01-15, 2024-01-15T10:30 or 2024-01-15T10:30:00Z")
    if found < 0:
        raise invalid(f"{name}: {text!r} lies before 1970")
    return found


def _moment(text: str, zone: ZoneInfo, *, whole_day: bool) -> int | None:
    if _DATE.fullmatch(text):
        asked = date.fromisoformat(text)
        return start_of_day(asked + timedelta(days=1) if whole_day else asked, zone)
    match = _TIME.fullmatch(text)
    if match is None:
        # a "+" of an offset that was not URL-encoded arrives as a space
        match = _TIME.fullmatch(re.sub(r" (\d{2}:?\d{2})$", r"+\1", text))
        if match is None:
            return None
    day, hour, minute, second, digits, offset = match.groups()
    extra = 0
    if second == "60":  # a leap second counts as the second after
        second, extra = "59", 1_000_000
    moment = datetime.fromisoformat(f"{day}T{hour}:{minute}:{second or '00'}")
    micros = int((digits or "0")[:6].ljust(6, "0")) + extra
    if offset is None:
        local = moment.replace(tzinfo=zone)
        return (local - EPOCH) // timedelta(microseconds=1) + micros
    plain = offset.replace(":", "")
    aware = moment.replace(tzinfo=EPOCH.tzinfo)
    if plain.upper() == "Z":
        return from_datetime(aware) + micros
    hours, minutes = int(plain[1:3]), int(plain[3:5])
    if hours > 23 or minutes > 59:
        return None
    shift = timedelta(hours=hours, minutes=minutes) * (-1 if plain[0] == "-" else 1)
    return from_datetime(aware - shift) + micros
