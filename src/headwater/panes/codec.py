"""Compact bytes of aggregate states and of group values, as pane stores keep them (docs/specs/pane.md)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from headwater.model.aggregate import State

_ENCODE = msgspec.msgpack.Encoder(decimal_format="string").encode
_STATE = msgspec.msgpack.Decoder(list[Any])
_VALUES = msgspec.msgpack.Decoder(tuple[str | None, ...])
_NO_VALUES = b""


def encode_state(state: State) -> bytes:
    """MessagePack list of count, numbers, not_numbers, sum, min, max (decimals as text), sketch; without the empty
    tail of it."""
    if state.sketch is not None:
        return _ENCODE([state.count, state.numbers, state.not_numbers, state.sum, state.min, state.max, state.sketch])
    if state.sum is not None or state.min is not None or state.max is not None:
        return _ENCODE([state.count, state.numbers, state.not_numbers, state.sum, state.min, state.max])
    if state.numbers or state.not_numbers:
        return _ENCODE([state.count, state.numbers, state.not_numbers])
    return _ENCODE([state.count])


def decode_state(stored: bytes) -> State:
    """The state of `encode_state`."""
    fields = _STATE.decode(stored)
    if len(fields) <= 3:
        return State(*fields)
    decimals = [None if text is None else Decimal(text) for text in fields[3:6]]
    return State(*fields[:3], *decimals, *fields[6:])


def encode_values(values: tuple[str | None, ...]) -> bytes:
    """MessagePack list of the values of a group; nothing for totals."""
    return _ENCODE(values) if values else _NO_VALUES


def decode_values(stored: bytes) -> tuple[str | None, ...]:
    """The values of `encode_values`."""
    return _VALUES.decode(stored) if stored else ()
