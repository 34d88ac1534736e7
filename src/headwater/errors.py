"""Every error that Headwater raises on purpose.

    HeadwaterError
    ├── UsageError           the caller asked for something that cannot be (exit code 2)
    │   └── SettingsError    a setting is unknown, missing or out of range
    ├── Unreachable          a store, process or lock that is needed cannot be had (exit code 3)
    │   └── Locked           another process writes here already
    ├── Refused              an input that will not be taken; carries a closed `reason` and an HTTP status
    ├── StoreFull            a store has no room; nothing was written; worth trying again later
    ├── Corrupt              stored bytes do not match their checksum or format; never served as data
    └── Fenced               another owner has taken over; this one must stop and change nothing more

Messages say what failed, on what, what is allowed, and what to do next.
"""

from __future__ import annotations

from typing import Any


class HeadwaterError(Exception):
    """Root of the tree above."""


class UsageError(HeadwaterError):
    """The request itself is wrong; repeating it unchanged cannot help."""


class SettingsError(UsageError):
    """A setting is unknown, missing or out of range."""


class Unreachable(HeadwaterError):
    """Something that is needed cannot be reached now; trying later may help."""


class Locked(Unreachable):
    """Another process holds the lock of this data folder or file."""


class Refused(HeadwaterError):
    """An input that will not be taken.

    `reason` is one of `model.rejection.REASONS`, `status` the HTTP status that goes with it, `detail` what, where,
    what is allowed and what to do. `extra` holds further members of the problem document.
    """

    def __init__(self, reason: str, status: int, detail: str, *, retry_after: int | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.reason = reason
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.extra = extra


class StoreFull(HeadwaterError):
    """No room: nothing of the write was kept. Callers answer 503 and try again when there is room."""


class Corrupt(HeadwaterError):
    """Stored bytes fail their checksum or cannot be read as their format."""


class Fenced(HeadwaterError):
    """Another owner holds the lease now. The holder of the old epoch stops without writing."""
