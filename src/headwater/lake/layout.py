"""Names in the lake: made of a project's internal root, event times, log positions and random text, never of a name
from outside.

    p<n>/events/year=2015/month=05/day=17/hour=10/part-<first position>-<token>.parquet
    p<n>/rollups/year=.../hour=10/chunk-<revision>-<token>.parquet
    p<n>/rejected/year=.../day=17/part-<after>-<last>.parquet
    p<n>/manifest/current.json
    incarnation

A token holds the time at which it was made, so that the age of a file nobody knows can be told on every object store.
"""

from __future__ import annotations

import re

from headwater.clock import to_datetime

INCARNATION = "incarnation"
_TOKEN = re.compile(r"-([0-9a-f]{11})([0-9a-f]{10})\.parquet$")


def token(now_us: int, entropy: bytes) -> str:
    """21 hex digits: milliseconds of `now_us`, then 5 bytes of `entropy` (`os.urandom(5)` outside tests)."""
    if len(entropy) != 5:
        raise ValueError("a token takes 5 bytes of entropy")
    return f"{now_us // 1000:011x}{entropy.hex()}"


def made_at(key: str) -> int | None:
    """When the token of `key` was made, in microseconds; None where the key has no token."""
    found = _TOKEN.search(key)
    return int(found[1], 16) * 1000 if found else None


def hour_folder(root: str, kind: str, hour: int) -> str:
    """`p1/events/year=2015/month=05/day=17/hour=10`; `kind` is `events` or `rollups`, `hour` in microseconds."""
    return f"{root}/{kind}/{to_datetime(hour):year=%Y/month=%m/day=%d/hour=%H}"


def events_key(root: str, hour: int, first_position: int, token: str) -> str:
    return f"{hour_folder(root, 'events', hour)}/part-{first_position}-{token}.parquet"


def chunk_key(root: str, hour: int, revision: int, token: str) -> str:
    return f"{hour_folder(root, 'rollups', hour)}/chunk-{revision}-{token}.parquet"


def is_chunk(key: str) -> bool:
    """Whether `key` is one of `chunk_key`."""
    return "/rollups/" in key


def rejected_key(root: str, received_at: int, after: int, last: int) -> str:
    """Of the rejections with numbers in (after, last]; the same for the same, so that a repeated copy is one file."""
    return f"{root}/rejected/{to_datetime(received_at):year=%Y/month=%m/day=%d}/part-{after}-{last}.parquet"


def current_key(root: str) -> str:
    return f"{root}/manifest/current.json"
