"""Client timestamps: one grammar, read one by one or many at once (docs/specs/values.md).

    YYYY-MM-DD(T|t| )hh:mm:ss(.digits)? with Z, z, ±hh:mm or nothing (= UTC); a whole number is epoch milliseconds

Microseconds are kept, further digits cut. Second 60 counts as the second after. Years 1970 to 9999.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

import pyarrow as pa

from headwater.clock import MINUTE, SECOND

LAST = 253_402_300_799_999_999
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_GRAMMAR = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.(\d+))?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))?",
    re.ASCII,
)
# What Arrow's reader and the grammar above understand alike; dates that do not exist are Arrow's to refuse.
_PLAIN = re.compile(
    r"(?:(?:19[7-9]\d|[2-9]\d{3})-\d\d-\d\d[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|\+00:00)\n)++",
    re.ASCII,
)
_TIME = pa.timestamp("us", tz="UTC")
# Below this number one by one is faster.
_MANY = 6


def parse_timestamp(value: object) -> int:
    """Microseconds of one timestamp. Raises `ValueError` with what is wrong."""
    if isinstance(value, str):
        us = _parse_text(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be text or a whole number of milliseconds")
    elif isinstance(value, float) and not value.is_integer():
        raise ValueError("a number must be whole: milliseconds since 1970")
    else:
        us = int(value) * 1000
    if not 0 <= us <= LAST:
        raise ValueError("must lie in the years 1970 to 9999")
    return us


def _parse_text(text: str) -> int:
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise ValueError("must look like 2024-01-15T10:30:00.123Z or 2024-01-15T10:30:00+01:00")
    year, month, day, hour, minute, second, digits, sign, offset_hour, offset_minute = match.groups()
    days = date(int(year), int(month), int(day)).toordinal() - _EPOCH_DAY
    us = (((days * 24 + int(hour)) * 60 + int(minute)) * 60 + int(second)) * SECOND
    if digits:
        us += int(digits[:6].ljust(6, "0"))
    if sign:
        offset = (int(offset_hour) * 60 + int(offset_minute)) * MINUTE
        us += offset if sign == "-" else -offset
    return us


def parse_timestamps(values: Sequence[object], absent: int) -> list[int] | None:
    """`parse_timestamp` of each, `absent` for None; None where one of them is not a timestamp."""
    if len(values) > _MANY:
        try:
            if _PLAIN.fullmatch("\n".join(values) + "\n"):  # type: ignore[arg-type]
                times: list[int] = pa.array(values, pa.string()).cast(_TIME).view(pa.int64()).to_numpy().tolist()
                return times
        except (TypeError, pa.ArrowInvalid):
            pass  # numbers or None among them, or a date that does not exist: one by one
    try:
        return [absent if value is None else parse_timestamp(value) for value in values]
    except (ValueError, OverflowError):
        return None
