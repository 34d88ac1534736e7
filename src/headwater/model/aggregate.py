"""Aggregate states: what is kept of the events of one window and group, with a merge law.

`merge` is associative and commutative and `EMPTY` is its identity, so any split of the events into parts gives the
same state and the same value. Sums are exact decimals, so order never matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal, localcontext

import msgspec

from headwater.model import sketch

NINE_PLACES = Decimal("0.000000001")


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """`count`: events that matched. `numbers`: of those, the ones whose property is a number (`not_numbers`: is there
    but is not one). `sum`, `min`, `max` over the numbers. `sketch`: HLL bytes, for `unique` only."""

    count: int = 0
    numbers: int = 0
    not_numbers: int = 0
    sum: Decimal | None = None
    min: Decimal | None = None
    max: Decimal | None = None
    sketch: bytes | None = None


EMPTY = State()


def merge(states: Iterable[State]) -> State:
    """The state of all events of all `states`."""
    held = list(states)
    if len(held) == 1:
        return held[0]
    sketches = [s.sketch for s in held if s.sketch is not None]
    sums = [s.sum for s in held if s.sum is not None]
    with localcontext() as context:
        context.prec = 60
        total = sum(sums[1:], sums[0]) if sums else None
    return State(
        count=sum(s.count for s in held),
        numbers=sum(s.numbers for s in held),
        not_numbers=sum(s.not_numbers for s in held),
        sum=total,
        min=min((s.min for s in held if s.min is not None), default=None),
        max=max((s.max for s in held if s.max is not None), default=None),
        sketch=sketch.merge(sketches) if len(sketches) > 1 else (sketches[0] if sketches else None),
    )


def value(state: State, aggregate: str) -> Decimal | int | None:
    """What a user sees: 0 for an empty count, sum or unique, None for an empty avg, min or max.

    `avg` is the sum over the count of numbers, to 9 places, half away from zero.
    """
    if aggregate == "count":
        return state.count
    if aggregate == "unique":
        return sketch.estimate(state.sketch) if state.sketch is not None else 0
    if aggregate == "sum":
        return state.sum if state.sum is not None else 0
    if aggregate == "min":
        return state.min
    if aggregate == "max":
        return state.max
    if not state.numbers or state.sum is None:
        return None
    with localcontext() as context:
        context.prec = 60
        return (state.sum / state.numbers).quantize(NINE_PLACES, rounding=ROUND_HALF_UP)
