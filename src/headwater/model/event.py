"""What an event is, and how a request body becomes events: parsing and validation, pure (CONTRACT 3, "Sending").

A body is decoded in one piece and checked in columns. Where anything is out of the ordinary, the same body is read
again event by event (`model.event_checks`), which decides the verdicts. Both ways give the same columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec.structs import astuple

from headwater.clock import MINUTE
from headwater.errors import Refused
from headwater.model.event_checks import (
    BODY_LIMITS,
    EVENT_BYTES,
    EVENT_ID_CHARACTERS,
    EVENT_TYPE_CHARACTERS,
    MAX_EVENTS,
    MAX_KEYS,
    MAX_NESTING,
    USER_CHARACTERS,
    Row,
    check_event,
    decode_event,
    has_control,
    with_extra,
)
from headwater.model.event_split import split_events
from headwater.model.timestamp import parse_timestamps

Shape = Literal["single", "batch", "ndjson"]

FUTURE = 5 * MINUTE
_BOM = b"\xef\xbb\xbf"
# Above this many brackets a body is decoded event by event, so that empty objects cannot fill the memory.
_BRACKETS_AT_ONCE = 200_000


class EventIn(msgspec.Struct, forbid_unknown_fields=True, rename="camel", gc=False):
    """An event as most are sent. Field order is that of `Columns`."""

    event_type: str
    event_id: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    timestamp: str | int | None = None
    properties: dict[str, Any] | None = None
    context: dict[str, Any] | None = None


class _Wrapped(msgspec.Struct, gc=False):
    events: list[EventIn]


class Columns(msgspec.Struct, gc=False):
    """Good events, one list a field, in the order sent. `timestamp` in microseconds; `properties` and `context` are
    compact JSON, the context in read-back form: as sent, plus an object `extra` with what came from elsewhere."""

    event_id: list[str]
    event_type: list[str]
    user_id: list[str | None]
    anonymous_id: list[str | None]
    timestamp: list[int]
    properties: list[bytes]
    context: list[bytes]


class Verdict(msgspec.Struct, frozen=True):
    """Why the event at `index` (from 0, of all in the body) was refused; `body` is the event's own bytes as sent."""

    index: int
    event_id: str | None
    reason: str
    detail: str
    body: bytes


class Parsed(msgspec.Struct, gc=False):
    """What a body holds. All good events share `received_at` (microseconds) and `project_id`."""

    project_id: str
    received_at: int
    columns: Columns
    verdicts: list[Verdict]

    @property
    def event_ids(self) -> list[str]:
        return self.columns.event_id

    @property
    def accepted(self) -> int:
        return len(self.columns.event_id)


_ENCODER = msgspec.json.Encoder()
_SINGLE = msgspec.json.Decoder(EventIn)
_ARRAY = msgspec.json.Decoder(list[EventIn])
_WRAPPED = msgspec.json.Decoder(_Wrapped)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])


def parse_body(
    body: bytes,
    shape: Shape,
    *,
    received_at: int,
    project_id: str,
    new_id: Callable[[], str],
    oldest: int | None = None,
) -> Parsed:
    """The events and verdicts of an unpacked body.

    `new_id` makes the id of an event that has none. Events with a timestamp before `oldest` (microseconds) are
    refused as `too_old`; None: none is. Raises `Refused` where the body as a whole cannot be read: `invalid_json`,
    `unsupported_encoding`, `body_too_large`, `too_many_events`, `missing_field`, `invalid_field`. A body of shape
    `single` always gives one event or one verdict.
    """
    if shape != "single" and len(body) > BODY_LIMITS[shape]:
        raise Refused("body_too_large", 413, f"the body is larger than {BODY_LIMITS[shape]} bytes unpacked; send less")
    plain = _utf8_of(body)
    if shape == "single" and len(body) > EVENT_BYTES:
        verdict = Verdict(0, None, "event_too_large", f"the event is larger than {EVENT_BYTES} bytes", body)
        return Parsed(project_id, received_at, _empty(), [verdict])
    brackets = _brackets(plain)
    events = _decode(plain, shape) if brackets <= _BRACKETS_AT_ONCE else None
    if events is not None:
        if len(events) > MAX_EVENTS:
            raise too_many(len(events))
        columns = _in_columns(plain, brackets, events, received_at, new_id, oldest) if events else _empty()
        if columns is not None:
            return Parsed(project_id, received_at, columns, [])
    pieces = [plain] if shape == "single" else split_events(plain, shape)
    if len(pieces) > MAX_EVENTS:
        raise too_many(len(pieces))
    return _one_by_one(pieces, received_at, project_id, new_id, oldest)


def too_many(count: int) -> Refused:
    return Refused("too_many_events", 413, f"the batch has {count} events; at most {MAX_EVENTS} are taken at once")


def _empty() -> Columns:
    return Columns([], [], [], [], [], [], [])


def _utf8_of(body: bytes) -> bytes:
    """`body` without a byte order mark. UTF-16 and UTF-32 show in the first two bytes of any JSON text."""
    if body.startswith(_BOM):
        return body[3:]
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in body[:2]:
        raise Refused("unsupported_encoding", 415, "the body is not UTF-8 (it looks like UTF-16); send JSON in UTF-8")
    return body


def _brackets(body: bytes) -> int:
    """How many objects and lists begin in `body`, those in texts counted too."""
    if len(body) < 4096:
        return body.count(b"{") + body.count(b"[")
    # the two differ in one bit; numpy counts ten times as fast as bytes.count
    return int(np.count_nonzero(np.bitwise_and(np.frombuffer(body, np.uint8), 0xDF) == 0x5B))


def _decode(body: bytes, shape: Shape) -> list[EventIn] | None:
    """All events in one call; None where one is out of the ordinary."""
    try:
        if shape == "single":
            return [_SINGLE.decode(body)]
        if shape == "ndjson":
            lines = [line for line in body.split(b"\n") if line and not line.isspace()]
            if len(body) > EVENT_BYTES and max(map(len, lines)) > EVENT_BYTES:
                return None
            return _each_line(body, lines)
        wrapped = body.lstrip()[:1] == b"{"
        if len(body) > EVENT_BYTES and not wrapped and any(len(bytes(r)) > EVENT_BYTES for r in _RAWS.decode(body)):
            return None
        if wrapped:
            return None if len(body) > EVENT_BYTES and _has_large(body) else _WRAPPED.decode(body).events
        return _ARRAY.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return None


def _has_large(body: bytes) -> bool:
    return any(len(piece) > EVENT_BYTES for piece in split_events(body, "batch"))


def _each_line(body: bytes, lines: Sequence[bytes]) -> list[EventIn] | None:
    """A line is an event: two on a line, or one over several, are left to the careful way."""
    events = _SINGLE.decode_lines(body)
    return events if len(events) == len(lines) else None


def _in_columns(
    body: bytes,
    brackets: int,
    events: list[EventIn],
    received_at: int,
    new_id: Callable[[], str],
    oldest: int | None,
) -> Columns | None:
    """The columns of ordinary events; None where an event needs a closer look."""
    types, ids, users, anonymous, stamps, properties, contexts = map(list, zip(*map(astuple, events), strict=True))
    if not all(types) or max(map(len, types)) > EVENT_TYPE_CHARACTERS:
        return None
    if not all(ids):
        ids = [event_id or new_id() for event_id in ids]
    if max(map(len, ids)) > EVENT_ID_CHARACTERS:
        return None
    users, anonymous = _people(users), _people(anonymous)
    people = [person for person in users + anonymous if person is not None]
    if people and max(map(len, people)) > USER_CHARACTERS:
        return None
    # Control characters can only come as an escape, as DEL, or as a C1 character beyond ASCII.
    escaped = b"\\" in body
    if (escaped or b"\x7f" in body or not body.isascii()) and has_control("".join(ids + types + people)):
        return None
    if escaped and b"\\u0000" in body:
        return None
    times = parse_timestamps(stamps, received_at)
    if times is None or (oldest is not None and min(times) < oldest):
        return None
    property_texts, context_texts = _texts(properties), _texts(contexts)
    nested = brackets - 3 * len(events) + properties.count(None) + contexts.count(None)
    if not _shallow(nested, property_texts, context_texts):
        return None
    if max(times) > received_at + FUTURE:
        for i, time in enumerate(times):
            if time > received_at + FUTURE:
                times[i] = received_at
                context_texts[i] = with_extra(contexts[i] or {}, {"originalTimestamp": stamps[i]})
    return Columns(ids, types, users, anonymous, times, property_texts, context_texts)


def _people(values: list[str | None]) -> list[str | None]:
    """An empty user is no user."""
    return [value or None for value in values] if "" in values else values


def _texts(objects: list[dict[str, Any] | None]) -> list[bytes]:
    """Compact JSON of each in one call; compact JSON has no line breaks of its own."""
    if None in objects:
        objects = [value or {} for value in objects]
    texts = bytes(_ENCODER.encode_lines(objects)).split(b"\n")
    texts.pop()
    return texts


def _shallow(nested: int, property_texts: list[bytes], context_texts: list[bytes]) -> bool:
    """False where an event may have too many levels or keys. `nested`: brackets of the whole body beyond the three
    of each event. Counts can only be too high (brackets in texts), and what is then looked at closely is decided
    exactly."""
    if nested > MAX_NESTING - 2:
        for text in property_texts + context_texts:
            if text.count(b"{") + text.count(b"[") >= MAX_NESTING:
                return False
    # A key takes at least five bytes ("":0,), so short events cannot have too many.
    if max(map(len, property_texts)) + max(map(len, context_texts)) < 5 * (MAX_KEYS - 7):
        return True
    return all(
        a.count(b":") + b.count(b":") <= MAX_KEYS - 7 for a, b in zip(property_texts, context_texts, strict=True)
    )


def _one_by_one(
    pieces: Sequence[bytes], received_at: int, project_id: str, new_id: Callable[[], str], oldest: int | None
) -> Parsed:
    """Every event by itself: what is wrong with one does not touch the others."""
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    for index, piece in enumerate(pieces):
        event_id = None
        try:
            fields, replaced = decode_event(piece)
            sent_id = fields.get("eventId")
            event_id = sent_id[:EVENT_ID_CHARACTERS] if isinstance(sent_id, str) and sent_id else None
            rows.append(check_event(fields, replaced, piece, received_at, received_at + FUTURE, new_id, oldest))
        except Refused as refused:
            verdicts.append(Verdict(index, _storable(event_id), refused.reason, refused.detail, piece))
    columns = Columns(*map(list, zip(*rows, strict=True))) if rows else _empty()
    return Parsed(project_id, received_at, columns, verdicts)


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def _storable(event_id: str | None) -> str | None:
    return None if event_id is None else _UNSTORABLE.sub("\ufffd", event_id)
