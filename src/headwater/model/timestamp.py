"""Client timestamps (docs/specs/values.md): one grammar, kept in microseconds, further digits cut.

`YYYY-MM-DD(T|t| )hh:mm:ss(.digits)?` with `Z`, `z`, `±hh:mm` or nothing (UTC), or a whole number of milliseconds since
the epoch. Second 60 is the second after. The years are 1970 to 9999.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headwater.clock import MINUTE, SECOND, from_datetime

LAST = from_datetime(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
_GRAMMAR = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))?", re.ASCII
)
_PLAIN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?Z$"


class InvalidTimestamp(ValueError):
    """The value is outside of the grammar above."""


def parse(value: Any) -> int:
    """Microseconds since the epoch. Raises `InvalidTimestamp`."""
    if isinstance(value, str):
        us = _parse_text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        us = value * 1000
    else:
        raise InvalidTimestamp("a timestamp is text or a whole number of milliseconds since 1970")
    if not 0 <= us <= LAST:
        raise InvalidTimestamp("a timestamp lies in the years 1970 to 9999, UTC")
    return us


def _parse_text(text: str) -> int:
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise InvalidTimestamp(
            "a timestamp is YYYY-MM-DDThh:mm:ss with an optional fraction and Z or ±hh:mm, or whole milliseconds"
        )
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    leap = second == 60
    try:
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
    except ValueError as error:
        raise InvalidTimestamp(f"no such date or time: {error}") from error
    us = from_datetime(moment) + (SECOND if leap else 0)
    if match[7]:
        us += int(match[7][:6].ljust(6, "0"))
    if match[9]:
        hours, minutes = int(match[10]), int(match[11])
        if hours > 23 or minutes > 59:
            raise InvalidTimestamp("an offset is at most ±23:59")
        us += (-1 if match[9] == "+" else 1) * (hours * 60 + minutes) * MINUTE
    return us


def parse_plain(texts: Sequence[Any]) -> list[int] | None:
    """All of `texts` at once where every one is plain `...Z` text of a valid moment; None where one is not, for the
    caller to go through them one by one."""
    try:
        column = pa.array(texts, pa.string())
    except (pa.ArrowTypeError, pa.ArrowInvalid, TypeError):
        return None
    if column.null_count or not pc.all(pc.match_substring_regex(column, _PLAIN)).as_py():
        return None
    try:
        epochs = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    low, high = pc.min_max(epochs).values()
    if low.as_py() < 0 or high.as_py() > LAST:
        return None
    parsed: list[int] = epochs.to_pylist()
    return parsed

