"""Input that cannot become an event: a value with a closed reason, kept, listed and shown."""

from __future__ import annotations

import msgspec

# The closed list of CONTRACT 3: what a problem document's or a verdict's `reason` may be, with its HTTP status.
REASONS: dict[str, int] = {
    "invalid_json": 400,
    "invalid_encoding": 400,
    "bad_request": 400,
    "unsupported_type": 415,
    "unsupported_encoding": 415,
    "body_too_large": 413,
    "event_too_large": 413,
    "too_many_events": 413,
    "too_deep": 422,
    "too_many_keys": 422,
    "missing_field": 422,
    "invalid_field": 422,
    "invalid_timestamp": 422,
    "too_old": 422,
    "schema_violation": 422,
    "unknown_event_type": 422,
    "conflict": 409,
    "incompatible": 409,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "invalid_query": 422,
    "too_many_windows": 422,
    "query_timeout": 503,
    "over_limit": 429,
    "overloaded": 503,
    "unavailable": 503,
}

# Longest stretch of the original that is kept; a longer one is cut and marked.
KEPT_BYTES = 1 << 20


class Rejection(msgspec.Struct, frozen=True):
    """One refused input as it is kept.

    `received_at` is the receipt in microseconds; `stage` is `ingest` or `archive`; `body` the event as sent (the
    whole body where it could not be split into events), at most `KEPT_BYTES` with `cut` set when there was more.
    """

    project_id: str
    received_at: int
    stage: str
    reason: str
    detail: str
    body: bytes
    event_id: str | None = None
    cut: bool = False


class KeptRejection(msgspec.Struct, frozen=True):
    """A rejection with the id it got when it was stored. Ids sort by time of receipt within a stage."""

    id: str
    rejection: Rejection
    status: str = "open"
