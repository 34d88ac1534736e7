"""What a client may send and what becomes of it: limits, fields and edges of one event (docs/specs/values.md).

A body is decoded once, whole, into typed structs; only when something is out of the ordinary (an unknown field, a
wrong type, an escape that cannot be stored) its events are taken one by one, and each gets a verdict of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec
import pyarrow as pa

from headwater.clock import MINUTE, rfc3339
from headwater.errors import Refused
from headwater.model import timestamp
from headwater.model.batch import SCHEMA, TIME
from headwater.model.rejection import REASONS

EVENT_BYTES = 1 << 20
BATCH_BYTES = 10 << 20
BATCH_EVENTS = 10_000
DEPTH = 32
KEYS = 1_000
AHEAD = 5 * MINUTE
LENGTHS = {"eventId": 200, "eventType": 100, "userId": 255, "anonymousId": 255}
KNOWN = frozenset(("eventId", "eventType", "userId", "anonymousId", "timestamp", "properties", "context"))

# An escaped backslash; a valid surrogate pair; NUL; a lone surrogate. The first two stay as they are.
_ESCAPES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u0000|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class EventIn(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """The ordinary event; whatever does not fit is looked at field by field."""

    event_type: str
    event_id: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    timestamp: str | int | None = None
    properties: dict[str, Any] | None = None
    context: dict[str, Any] | None = None


class _Envelope(msgspec.Struct):
    events: list[EventIn]


class _RawEnvelope(msgspec.Struct):
    events: list[msgspec.Raw]


_one = msgspec.json.Decoder(EventIn).decode
_many = msgspec.json.Decoder(list[EventIn]).decode
_enveloped = msgspec.json.Decoder(_Envelope).decode
_raw_many = msgspec.json.Decoder(list[msgspec.Raw]).decode
_raw_enveloped = msgspec.json.Decoder(_RawEnvelope).decode


@dataclass(frozen=True)
class Verdict:
    """Why the event at `index` of its batch was refused. `body` is the event as sent."""

    index: int
    reason: str
    detail: str
    body: bytes
    event_id: str | None = None


@dataclass
class Columns:
    """Accepted events of one project, column by column, in the order they were sent; times in microseconds.

    `properties` and `context` are compact JSON as bytes. `context` is what reading the event back gives.
    """

    project_id: str
    received_at: int
    event_id: list[str] = field(default_factory=list)
    event_type: list[str] = field(default_factory=list)
    user_id: list[str | None] = field(default_factory=list)
    anonymous_id: list[str | None] = field(default_factory=list)
    timestamp: list[int] = field(default_factory=list)
    properties: list[bytes] = field(default_factory=list)
    context: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.event_id)


@dataclass
class Parsed:
    """A body taken apart: the accepted events and the verdicts over the others; `total` of both."""

    columns: Columns
    rejected: list[Verdict] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.columns) + len(self.rejected)


@dataclass(frozen=True)
class Rules:
    """What parsing needs to know besides the bytes: `new_id` makes an event id, `oldest` (microseconds, None: any) is
    the start of the raw retention."""

    project_id: str
    received_at: int
    new_id: Callable[[], str]
    oldest: int | None = None


def parse_single(body: bytes, rules: Rules) -> Parsed:
    """One event. Raises `Refused` with the reason where it cannot be one."""
    if len(body) > EVENT_BYTES:
        raise Refused("event_too_large", 413, f"the event has {len(body)} bytes; at most {EVENT_BYTES} are taken")
    body = _text(body)
    if not _SUSPECT.search(body):
        try:
            parsed = _parse_fast([_one(body)], rules, len(body))
        except Exception:  # whatever the decoder says, the careful way finds the reason
            parsed = None
        if parsed is not None:
            return parsed
    parsed = Parsed(Columns(rules.project_id, rules.received_at))
    _take(parsed, 0, body, rules)
    if parsed.rejected:
        verdict = parsed.rejected[0]
        raise Refused(verdict.reason, REASONS[verdict.reason], verdict.detail, eventId=verdict.event_id)
    return parsed


def parse_batch(body: bytes, rules: Rules) -> Parsed:
    """`{"events": [...]}` or a JSON array. Raises `Refused` where the body as a whole cannot be read."""
    body = _text(body)
    array = body.lstrip(b" \t\r\n")[:1] == b"["
    if not _SUSPECT.search(body):
        try:
            events = _many(body) if array else _enveloped(body).events
            parsed = _parse_fast(events, rules, len(body)) if len(events) <= BATCH_EVENTS else None
        except Exception:  # as above
            parsed = None
        if parsed is not None:
            return parsed
    return _parse_each([bytes(raw) for raw in _split(body, array)], rules)


def parse_ndjson(body: bytes, rules: Rules) -> Parsed:
    """One event a line; empty lines are passed over."""
    body = _text(body)
    lines = [line for line in body.split(b"\n") if line.strip()]
    return _parse_each(lines, rules)


def _parse_each(raws: list[bytes], rules: Rules) -> Parsed:
    if len(raws) > BATCH_EVENTS:
        raise Refused("too_many_events", 413, f"the batch has {len(raws)} events; at most {BATCH_EVENTS} are taken")
    parsed = Parsed(Columns(rules.project_id, rules.received_at))
    for index, raw in enumerate(raws):
        _take(parsed, index, raw, rules)
    return parsed


def _text(body: bytes) -> bytes:
    """The body without a byte order mark. Raises `Refused(unsupported_type)` for UTF-16 and UTF-32."""
    if body[:3] == b"\xef\xbb\xbf":
        body = body[3:]
    head = body[:4]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(head) > 1 and 0 in head[:2]):
        raise Refused("unsupported_type", 415, "the body is UTF-16 or UTF-32; send JSON in UTF-8")
    return body


def _split(body: bytes, array: bool) -> list[msgspec.Raw]:
    try:
        return _raw_many(body) if array else _raw_enveloped(body).events
    except msgspec.ValidationError as error:
        missing = "missing required field" in str(error)
        raise Refused(
            "missing_field" if missing else "invalid_field",
            422,
            'a batch is {"events": [...]} or a JSON array of events' + (": 'events' is missing" if missing else ""),
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("invalid_json", 400, f"the body is not JSON: {error}") from error


def _parse_fast(events: list[EventIn], rules: Rules, size: int) -> Parsed | None:
    """All events at once where none of them is out of the ordinary; None where one is."""
    if size > EVENT_BYTES and len(events) > 1:
        return None
    columns = Columns(rules.project_id, rules.received_at)
    limit = rules.received_at + AHEAD
    stamps = [e.timestamp for e in events]
    times = timestamp.parse_plain(stamps) if len(events) > 8 else None
    if times is None:
        times = [rules.received_at if s is None else timestamp.parse(s) for s in stamps]
    if times and (max(times) > limit or (rules.oldest is not None and min(times) < rules.oldest)):
        return None
    for event in events:
        properties = _encode(event.properties) if event.properties else b"{}"
        context = _encode(event.context) if event.context else b"{}"
        if properties.count(b"{") + properties.count(b"[") > 30 or context.count(b"{") + context.count(b"[") > 30:
            return None
        if properties.count(b":") + context.count(b":") > KEYS - len(KNOWN):
            return None
        kind, event_id, user, anonymous = event.event_type, event.event_id, event.user_id, event.anonymous_id
        if not (0 < len(kind) <= 100 and _clean(kind)):
            return None
        if not event_id:
            event_id = rules.new_id()
        elif len(event_id) > 200 or not _clean(event_id):
            return None
        if user and (len(user) > 255 or not _clean(user)):
            return None
        if anonymous and (len(anonymous) > 255 or not _clean(anonymous)):
            return None
        columns.event_id.append(event_id)
        columns.event_type.append(kind)
        columns.user_id.append(user or None)
        columns.anonymous_id.append(anonymous or None)
        columns.properties.append(properties)
        columns.context.append(context)
    columns.timestamp = times
    return Parsed(columns)


def _clean(text: str) -> bool:
    return (text.isascii() and text.isprintable()) or _CONTROL.search(text) is None


class _Bad(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def _bad(reason: str, detail: str) -> NoReturn:
    raise _Bad(reason, detail)


def _take(parsed: Parsed, index: int, raw: bytes, rules: Rules) -> None:
    """Takes one event as sent: into the columns, or a verdict. Never raises for what a client can send."""
    event_id: str | None = None
    try:
        if len(raw) > EVENT_BYTES:
            _bad("event_too_large", f"the event has {len(raw)} bytes; at most {EVENT_BYTES} are taken")
        event, sanitized = _decoded(raw)
        if not isinstance(event, dict):
            _bad("invalid_field", "an event is a JSON object")
        _measure(event)
        given = event.get("eventId")
        event_id = given if isinstance(given, str) and len(given) <= 200 else None
        _append(parsed.columns, event, sanitized, rules)
    except _Bad as bad:
        parsed.rejected.append(Verdict(index, bad.reason, bad.detail, raw, event_id))


def _decoded(raw: bytes) -> tuple[Any, bool]:
    """The event and whether something in it had to be replaced by U+FFFD."""
    stored = _ESCAPES.sub(_replacement, raw)
    try:
        event = _decode(stored)
        if stored == raw:
            return event, False
        # ids are judged as sent: a NUL in one is refused, not replaced
        asked = _decode(_ESCAPES.sub(_surrogate_only, raw))
        if isinstance(event, dict) and isinstance(asked, dict):
            event.update({name: asked[name] for name in LENGTHS if name in asked})
        return event, True
    except RecursionError:
        _bad("too_deep", f"the event is nested deeper than {DEPTH}")
    except Exception as error:
        _bad("invalid_json", f"the event is not JSON: {error}")


def _replacement(match: re.Match[bytes]) -> bytes:
    found = match[0]
    return found if found == b"\\\\" or len(found) == 12 else b"\\ufffd"


def _surrogate_only(match: re.Match[bytes]) -> bytes:
    return match[0] if match[0] == b"\\u0000" else _replacement(match)


def _measure(event: dict[str, Any]) -> None:
    """Refuses what is nested deeper than `DEPTH` or has more than `KEYS` keys, all levels together."""
    level: list[Any] = [event]
    depth = keys = 0
    while level:
        depth += 1
        if depth > DEPTH:
            _bad("too_deep", f"the event is nested deeper than {DEPTH}")
        deeper: list[Any] = []
        for part in level:
            values = part.values() if isinstance(part, dict) else part
            keys += len(part) if isinstance(part, dict) else 0
            deeper += [v for v in values if isinstance(v, (dict, list))]
        if keys > KEYS:
            _bad("too_many_keys", f"the event has more than {KEYS} keys")
        level = deeper


def _append(columns: Columns, event: dict[str, Any], sanitized: bool, rules: Rules) -> None:
    ids = {name: _identifier(event, name) for name in LENGTHS}
    if ids["eventType"] is None:
        reason = "missing_field" if event.get("eventType") is None else "invalid_field"
        _bad(reason, "'eventType' is needed: text of 1 to 100 characters")
    additions = {name: value for name, value in event.items() if name not in KNOWN}
    if sanitized:
        additions["sanitized"] = True
    at = _timestamp(event, rules, additions)
    properties = _object(event, "properties")
    context = _with_additions(_object(event, "context"), additions)
    columns.event_id.append(ids["eventId"] or rules.new_id())
    columns.event_type.append(str(ids["eventType"]))
    columns.user_id.append(ids["userId"])
    columns.anonymous_id.append(ids["anonymousId"])
    columns.timestamp.append(at)
    columns.properties.append(_encode(properties))
    columns.context.append(_encode(context))


def _identifier(event: dict[str, Any], name: str) -> str | None:
    """The text of an id field; None where it is absent, null or empty."""
    given = event.get(name)
    if given is None:
        return None
    if not isinstance(given, str):
        _bad("invalid_field", f"{name!r} is text, not {type(given).__name__}")
    if len(given) > LENGTHS[name]:
        _bad("invalid_field", f"{name!r} has {len(given)} characters; at most {LENGTHS[name]} are taken")
    if not _clean(given):
        _bad("invalid_field", f"{name!r} has a control character")
    return given or None


def _timestamp(event: dict[str, Any], rules: Rules, additions: dict[str, Any]) -> int:
    given = event.get("timestamp")
    if given is None:
        return rules.received_at
    try:
        at = timestamp.parse(given)
    except timestamp.InvalidTimestamp as error:
        _bad("invalid_timestamp", f"'timestamp': {error}")
    if at > rules.received_at + AHEAD:
        additions["originalTimestamp"] = given if isinstance(given, str) else rfc3339(at)
        return rules.received_at
    if rules.oldest is not None and at < rules.oldest:
        _bad("too_old", f"'timestamp' lies before {rfc3339(rules.oldest)}, where the retention of this project begins")
    return at


def _object(event: dict[str, Any], name: str) -> dict[str, Any]:
    given = event.get(name)
    if given is None:
        return {}
    if not isinstance(given, dict):
        _bad("invalid_field", f"{name!r} is an object, not {type(given).__name__}")
    return given


def _with_additions(context: dict[str, Any], additions: dict[str, Any]) -> dict[str, Any]:
    """The context with what came from elsewhere under `extra`; a field of the context wins over one from outside."""
    added = {name: value for name, value in additions.items() if name not in context}
    if not added:
        return context
    own = context.get("extra")
    if own is not None and not isinstance(own, dict):
        own = {"extra": own}
    return {**context, "extra": {**added, **(own or {})}}


def to_batch(groups: list[Columns]) -> pa.RecordBatch:
    """One EventBatch v1 of the events of several requests, in the order given.

    Receipts never go back within the batch: `received_at` of a group is raised to that of the one before.
    """
    received: list[int] = []
    latest = 0
    for group in groups:
        latest = max(latest, group.received_at)
        received += [latest] * len(group)

    def column(name: str, kind: pa.DataType) -> pa.Array:
        values: list[Any] = []
        for group in groups:
            values += getattr(group, name)
        return pa.array(values, kind)

    projects: list[str] = []
    for group in groups:
        projects += [group.project_id] * len(group)
    return pa.RecordBatch.from_arrays(
        [
            column("event_id", pa.string()),
            column("event_type", pa.string()),
            column("user_id", pa.string()),
            column("anonymous_id", pa.string()),
            column("timestamp", TIME),
            pa.array(received, TIME),
            pa.array(projects, pa.string()),
            pa.nulls(len(received), pa.int32()),
            column("properties", pa.string()),
            column("context", pa.string()),
        ],
        schema=SCHEMA,
    )
