"""One event looked at closely: every rule of CONTRACT 3, "Sending", with the verdict where one does not hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from headwater.errors import Refused
from headwater.model.rejection import REASONS
from headwater.model.timestamp import parse_timestamp

EVENT_BYTES = 1 << 20
BODY_LIMITS = {"single": EVENT_BYTES, "batch": 10 << 20, "ndjson": 10 << 20}
MAX_EVENTS = 10_000
MAX_NESTING = 32
MAX_KEYS = 1_000
EVENT_ID_CHARACTERS = 200
EVENT_TYPE_CHARACTERS = 100
USER_CHARACTERS = 255

FIELDS = ("eventId", "eventType", "userId", "anonymousId", "timestamp", "properties", "context")
_FIELDS = frozenset(FIELDS)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# From the left, each escape sequence once: a valid pair, half of one, or anything else.
_ESCAPE = re.compile(
    rb"\\(?:(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_DECODER = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()


class Row(NamedTuple):
    """One good event, in the order of `model.event.Columns`."""

    event_id: str
    event_type: str
    user_id: str | None
    anonymous_id: str | None
    timestamp: int
    properties: bytes
    context: bytes


def refuse(reason: str, detail: str) -> Refused:
    """A refusal with the status that goes with its reason."""
    return Refused(reason, REASONS[reason], detail)


def has_control(text: str) -> bool:
    """Whether there is a control character (C0, DEL, C1) in it."""
    return not text.isprintable() and _CONTROL.search(text) is not None


def decode_event(piece: bytes) -> tuple[dict[str, Any], bool]:
    """The fields of an event, and whether lone surrogates were replaced. Raises `Refused` where it is no JSON object,
    too large, or what the decoder will not take: NaN, 1e999, invalid UTF-8, nesting beyond all measure."""
    if len(piece) > EVENT_BYTES:
        raise refuse("event_too_large", f"the event is larger than {EVENT_BYTES} bytes; send less in one event")
    replaced = False
    try:
        try:
            fields = _DECODER.decode(piece)
        except msgspec.DecodeError:
            whole = _without_lone_surrogates(piece)
            if whole == piece:
                raise
            fields, replaced = _DECODER.decode(whole), True
    except RecursionError:
        raise refuse("invalid_json", f"nested too deeply to be read; at most {MAX_NESTING} levels") from None
    except (msgspec.MsgspecError, UnicodeError, ValueError) as error:
        raise refuse("invalid_json", f"the event is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise refuse("invalid_field", "an event is a JSON object with at least eventType")
    return fields, replaced


def _without_lone_surrogates(piece: bytes) -> bytes:
    return _ESCAPE.sub(lambda m: rb"\ufffd" if m.group(2) else m.group(0), piece)


def check_event(
    fields: dict[str, Any],
    replaced: bool,
    piece: bytes,
    received_at: int,
    latest: int,
    new_id: Callable[[], str],
    oldest: int | None,
) -> Row:
    """The row of an event, or `Refused` with the first rule that it breaks. `replaced`: lone surrogates were. A time
    after `latest` becomes `received_at`; one before `oldest` is refused (None: never)."""
    _check_size(fields)
    event_type = _text(fields, "eventType", EVENT_TYPE_CHARACTERS)
    if event_type is None:
        raise refuse("missing_field", "eventType is missing; it names what happened, 1 to 100 characters")
    if not event_type:
        raise refuse("invalid_field", "eventType is empty; it names what happened, 1 to 100 characters")
    event_id = _text(fields, "eventId", EVENT_ID_CHARACTERS) or new_id()
    user_id = _text(fields, "userId", USER_CHARACTERS) or None
    anonymous_id = _text(fields, "anonymousId", USER_CHARACTERS) or None
    properties, context = _object(fields, "properties"), _object(fields, "context")
    additions = {name: value for name, value in fields.items() if name not in _FIELDS}
    stamp = fields.get("timestamp")
    timestamp = _time(stamp, received_at, oldest)
    if timestamp > latest:
        timestamp = received_at
        additions["originalTimestamp"] = stamp
    if b"\\u0000" in piece:
        cleaned = [_without_nul(part) for part in (properties, context, additions)]
        replaced = replaced or cleaned != [properties, context, additions]
        properties, context, additions = cleaned
    if replaced:
        additions["sanitized"] = True
    text = with_extra(context, additions) if additions else _ENCODER.encode(context)
    return Row(event_id, event_type, user_id, anonymous_id, timestamp, _ENCODER.encode(properties), text)


def with_extra(context: dict[str, Any], additions: dict[str, Any]) -> bytes:
    """Compact JSON of a context with `additions` under `extra`. What the client put there itself stays and wins; where
    that is no object it becomes `extra.extra`, so that nothing is lost."""
    own = context.get("extra", {})
    if not isinstance(own, dict):
        own = {"extra": own}
    return _ENCODER.encode({**context, "extra": {**additions, **own}})


def _check_size(fields: dict[str, Any]) -> None:
    """Counts levels (the event is 1) and keys, level by level."""
    depth = keys = 0
    level: list[Any] = [fields]
    while level:
        depth += 1
        below: list[Any] = []
        for holder in level:
            if isinstance(holder, dict):
                keys += len(holder)
                holder = holder.values()
            below += [value for value in holder if isinstance(value, dict | list)]
        level = below
        if depth > MAX_NESTING:
            raise refuse("too_deep", f"the event has more than {MAX_NESTING} levels of objects and lists")
    if keys > MAX_KEYS:
        raise refuse("too_many_keys", f"the event has {keys} keys, all levels together; at most {MAX_KEYS}")


def _text(fields: dict[str, Any], name: str, characters: int) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise refuse("invalid_field", f"{name} must be text, at most {characters} characters")
    if len(value) > characters:
        raise refuse("invalid_field", f"{name} has {len(value)} characters; at most {characters}")
    if has_control(value):
        raise refuse("invalid_field", f"{name} has a control character in it")
    return value


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refuse("invalid_field", f"{name} must be a JSON object")
    return value


def _time(stamp: object, received_at: int, oldest: int | None) -> int:
    if stamp is None:
        return received_at
    try:
        timestamp = parse_timestamp(stamp)
    except (ValueError, OverflowError) as error:
        raise refuse("invalid_timestamp", f"timestamp: {error}") from None
    if oldest is not None and timestamp < oldest:
        raise refuse("too_old", "the timestamp is older than events are kept; an import key may send it")
    return timestamp


def _without_nul(value: Any) -> Any:
    """U+FFFD for NUL in every text and key. At most `MAX_NESTING` levels are left when this is called."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {key.replace("\x00", "\ufffd"): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return value
