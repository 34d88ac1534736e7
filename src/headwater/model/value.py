"""Property values: the text of a value, what counts as a number, and how text is read back (docs/specs/values.md)."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation, localcontext
from typing import Any

import msgspec

# JSON's number grammar in full. Text that matches is a number where its magnitude is below 10^20.
NUMBER_GRAMMAR = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_NUMBER = re.compile(NUMBER_GRAMMAR)
SCALE = Decimal(1).scaleb(-9)
LIMIT = Decimal(10) ** 20


def text_of(value: Any) -> str | None:
    """The text of a decoded JSON value: strings as they are, null absent, the rest as compact canonical JSON.

    Idempotent over `msgspec.json`: the text of a number decoded from its own text is the same text.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def looks_typed(text: str) -> bool:
    """Whether `read_back(text)` is something else than the string `text` itself."""
    return text in ("true", "false") or text[:1] in ("{", "[") or _NUMBER.fullmatch(text) is not None


def read_back(text: str) -> Any:
    """The JSON value that a stored text stands for, where `properties_raw` is not set."""
    if not looks_typed(text):
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def number_of(text: str) -> Decimal | None:
    """The number of a text in DECIMAL(38,9), rounded half away from zero; None where the text is not a number."""
    if _NUMBER.fullmatch(text) is None:
        return None
    with localcontext() as context:
        context.prec = 60
        try:
            exact = Decimal(text)
        except InvalidOperation:  # an exponent beyond what Decimal holds: nothing, or far too much
            mantissa, exponent = text.lower().split("e")
            return SCALE * 0 if exponent.startswith("-") or not mantissa.strip("-0.") else None
        if abs(exact) >= LIMIT:
            return None
        return exact.quantize(SCALE, rounding=ROUND_HALF_UP)


def decimal_text(value: Decimal) -> str:
    """A JSON number without an exponent and without trailing zeros."""
    return format(value.normalize(), "f") if value else "0"
