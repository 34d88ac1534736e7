"""Cuts the body of a batch into the bytes of its events, so that each can be judged, and kept, by itself."""

from __future__ import annotations

import re

import msgspec

from headwater.errors import Refused
from headwater.model.event_checks import refuse


class _Wrapped(msgspec.Struct):
    events: list[msgspec.Raw]


_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_WRAPPED = msgspec.json.Decoder(_Wrapped)
_ANY = msgspec.json.Decoder()
# Up to the next bracket, or the next bracket or comma, texts skipped as a whole.
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+([\[\]{}])', re.DOTALL)
_TO_EDGE = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+([\[\]{},])', re.DOTALL)
_MEMBER = re.compile(rb'\s*("(?:[^"\\]++|\\.)*+")\s*:', re.DOTALL)
# Brackets are walked in Python here, about 0.2 us each.
_MOST_BRACKETS = 500_000


def split_events(body: bytes, shape: str) -> list[bytes]:
    """The bytes of each event of a batch, in order.

    An event with NaN, a lone surrogate or nesting beyond the decoder's reach is one piece like the others, to be
    refused alone. Raises `Refused`: `invalid_json` where the body does not even have the outline of a list of events,
    `missing_field` or `invalid_field` where it is JSON of another kind.
    """
    if shape == "ndjson":
        return [line.strip() for line in body.split(b"\n") if line and not line.isspace()]
    try:
        if body.lstrip()[:1] == b"{":
            return [bytes(raw) for raw in _WRAPPED.decode(body).events]
        return [bytes(raw) for raw in _ARRAY.decode(body)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        if (other := _other_kind(body)) is not None:
            raise other from None
        return _by_brackets(body, str(error))


def _other_kind(body: bytes) -> Refused | None:
    """The refusal for valid JSON that is no batch; None where it is not valid JSON."""
    try:
        value = _ANY.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return None
    if isinstance(value, dict) and "events" not in value:
        return refuse("missing_field", 'a batch is {"events":[...]} or a JSON array; one event goes to /v1/events')
    return refuse("invalid_field", 'a batch is {"events":[...]} or a JSON array of events')


def _by_brackets(body: bytes, problem: str) -> list[bytes]:
    refusal = refuse("invalid_json", f"the body is not valid JSON: {problem}")
    if body.count(b"{") + body.count(b"[") > _MOST_BRACKETS:
        raise refusal
    start = len(body) - len(body.lstrip())
    parts = _parts(body, start)
    if parts is None:
        raise refusal
    if body[start : start + 1] == b"[":
        return parts
    found: bytes | None = None
    for part in parts:
        member = _MEMBER.match(part)
        if member is None:
            raise refusal
        if member.group(1) == b'"events"':
            found = part[member.end() :].strip()
    if found is None or found[:1] != b"[":
        raise refusal
    parts = _parts(found, 0)
    if parts is None:
        raise refusal
    return parts


def _parts(text: bytes, start: int) -> list[bytes] | None:
    """What stands between the commas of the list or object that begins at `start` and is all the rest of the text."""
    if text[start : start + 1] not in (b"[", b"{"):
        return None
    parts: list[bytes] = []
    depth, begin, at = 0, start + 1, start + 1
    while True:
        match = (_TO_BRACKET if depth else _TO_EDGE).match(text, at)
        if match is None:
            return None
        at = match.end()
        edge = match.group(1)
        if edge in b"[{":
            depth += 1
        elif edge in b"]}" and depth:
            depth -= 1
        else:
            parts.append(text[begin : at - 1].strip())
            begin = at
            if edge != b",":
                break
    if text[at:].strip():
        return None
    if parts == [b""]:
        return []
    return None if b"" in parts else parts
