"""Filters over the values of a group, as `warehouse.dialect` applies them to events (docs/specs/metric.md)."""

from __future__ import annotations

from collections.abc import Mapping

from headwater.model.metric import Condition, Filter
from headwater.model.value import text_of


def holds(given: Filter, texts: Mapping[str, str | None]) -> bool:
    """Whether a filter holds for a group whose names have these texts (None: absent)."""
    if not all(_part_holds(part, texts) for part in given.all):
        return False
    return not given.any or any(_part_holds(part, texts) for part in given.any)


def _part_holds(part: Condition | Filter, texts: Mapping[str, str | None]) -> bool:
    if isinstance(part, Filter):
        return holds(part, texts)
    text = texts[part.property]
    if part.op == "exists":
        return (text is not None) is (part.value is not False)
    if part.op in ("in", "not_in"):
        found = text is not None and text in [text_of(value) for value in part.value]
        return found is (part.op == "in")
    return (text is not None and text == text_of(part.value)) is (part.op == "eq")
