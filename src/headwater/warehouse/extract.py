"""Text columns of the properties that a question needs, out of the JSON columns of an event batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET

from headwater.model.metric import CONTEXT
from headwater.model.value import text_of

# Names that a struct's members cannot have in msgspec; such members are looked up in whole objects.
_NO_FIELD_NAME = re.compile(r'[\\"\x00-\x1f]')
_PLAIN = {int, float, bool, type(None)}


def property_columns(documents: pa.Array, names: Sequence[str]) -> list[pa.Array]:
    """For each property name the column of its texts (null: absent), one parse for all of them."""
    return [_texts(values) for values in _members(documents, names)]


def context_columns(documents: pa.Array, fields: Sequence[str]) -> list[pa.Array]:
    """The same for fields of `context` in read-back form: a field of its own (null too) wins over one in `extra`."""
    names = [field for field in fields if field != "extra"]
    *found, extras = _members(documents, [*names, "extra"], UNSET)
    columns: dict[str, pa.Array] = {"extra": pa.nulls(len(documents), pa.string())}
    for name, values in zip(names, found, strict=True):
        columns[name] = _texts(
            [
                value if value is not UNSET else extra.get(name) if extra.__class__ is dict else None
                for value, extra in zip(values, extras, strict=True)
            ]
        )
    return [columns[field] for field in fields]


def context_name(name: str) -> str | None:
    """`campaign` of `$context.campaign`; None for anything else."""
    return name[len(CONTEXT) :] if name.startswith(CONTEXT) else None


def _members(documents: pa.Array, names: Sequence[str], absent: Any = None) -> list[list[Any]]:
    """For each name its decoded value in every document."""
    if not len(documents):
        return [[] for _ in names]
    whole = pa.ListArray.from_arrays(pa.array([0, len(documents)], pa.int32()), documents)
    joined = b"".join((b"[", pc.binary_join(whole, ",")[0].as_buffer(), b"]"))
    if _NO_FIELD_NAME.search("".join(names)):
        objects = msgspec.json.Decoder(list[dict[str, Any]]).decode(joined)
        return [[found.get(name, absent) for found in objects] for name in names]
    fields = [f"f{i}" for i in range(len(names))]
    row = msgspec.defstruct(
        "Row", [(f, Any, absent) for f in fields], rename=dict(zip(fields, names, strict=True)), gc=False
    )
    rows = msgspec.json.Decoder(list[row]).decode(joined)  # type: ignore[valid-type]
    return [[getattr(found, f) for found in rows] for f in fields]


def _texts(values: list[Any]) -> pa.Array:
    """The texts of decoded values; the common cases, all strings or all numbers, without a call a value."""
    kinds = set(map(type, values))
    if kinds <= {str, type(None)}:
        return pa.array(values, pa.string())
    if kinds <= _PLAIN:
        texts = pa.array(msgspec.json.encode(values)[1:-1].split(b","), pa.binary()).cast(pa.string())
        if type(None) not in kinds:
            return texts
        return pc.if_else(pc.equal(texts, "null"), pa.scalar(None, pa.string()), texts)
    return pa.array([value if value.__class__ is str else text_of(value) for value in values], pa.string())
