"""The only reader of time. Everything else is given a `Clock` or a time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Clock(Protocol):
    """Tells the time in whole microseconds since 1970-01-01T00:00:00Z, and waits."""

    def now_us(self) -> int: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def to_datetime(us: int) -> datetime:
    """Aware UTC datetime of an epoch in microseconds."""
    return EPOCH + timedelta(microseconds=us)


def from_datetime(moment: datetime) -> int:
    """Epoch in microseconds of an aware datetime, exact."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def rfc3339(us: int) -> str:
    """`2024-01-15T10:30:00Z`, with a fraction of 3 or 6 digits only where there is one."""
    moment = to_datetime(us)
    if us % SECOND == 0:
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    if us % 1000 == 0:
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{us % SECOND // 1000:03d}Z"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{us % SECOND:06d}Z"


def hour_of(us: int) -> int:
    """Start of the UTC hour that holds `us`."""
    return us - us % HOUR
