"""The same states by plain Python over decoded events: slow, obvious, and independent of DuckDB."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from headwater.model import aggregate, sketch
from headwater.model.aggregate import State
from headwater.model.batch import SCHEMA
from headwater.model.metric import Condition, Filter, Metric, MetricDefinition, definition_from
from headwater.model.value import number_of, text_of

Event = dict[str, Any]


def event(timestamp: int, event_type: str = "purchase", /, **given: Any) -> Event:
    """An event as ingest leaves it; keywords beyond the fields are properties."""
    fields = {"event_id", "user_id", "anonymous_id", "context", "properties", "project_id", "received_at"}
    properties = given.pop("properties", {}) | {k: v for k, v in given.items() if k not in fields}
    return {
        "event_id": given.get("event_id", f"e{timestamp}"),
        "event_type": event_type,
        "user_id": given.get("user_id"),
        "anonymous_id": given.get("anonymous_id"),
        "timestamp": timestamp,
        "received_at": given.get("received_at", timestamp),
        "project_id": given.get("project_id", "default"),
        "schema_version": None,
        "properties": properties,
        "context": given.get("context", {}),
    }


def batch(events: Sequence[Event]) -> pa.RecordBatch:
    """EventBatch v1 of events."""

    def texts(name: str) -> list[Any]:
        return [msgspec.json.encode(e[name]).decode() for e in events]

    columns = [
        pa.array(texts(f.name) if f.name in ("properties", "context") else [e[f.name] for e in events], type=f.type)
        for f in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def metric(name: str = "m", **definition: Any) -> Metric:
    return Metric("default", name, 1, 0, definition_from(definition))


def text(found: Event, name: str) -> str | None:
    if name == "$person":
        return found["user_id"] or found["anonymous_id"] or None
    if name.startswith("$context."):
        context, field = found["context"], name[len("$context.") :]
        if field == "extra":
            return None
        extra = context.get("extra")
        return text_of(context[field] if field in context else extra.get(field) if isinstance(extra, dict) else None)
    fields = {"$eventType": "event_type", "$userId": "user_id", "$anonymousId": "anonymous_id", "$eventId": "event_id"}
    if name in fields:
        return found[fields[name]]  # type: ignore[no-any-return]
    return text_of(found["properties"].get(name))


def holds(given: Condition | Filter, found: Event) -> bool:
    if isinstance(given, Filter):
        return all(holds(p, found) for p in given.all) and (not given.any or any(holds(p, found) for p in given.any))
    has = text(found, given.property)
    if given.op == "exists":
        return (has is not None) == (given.value is not False)
    values = [text_of(v) for v in (given.value if given.op in ("in", "not_in") else [given.value])]
    return (has is not None and has in values) == (given.op in ("eq", "in"))


def states(
    events: Sequence[Event], of: Metric, dimensions: tuple[str, ...], edges: Sequence[int]
) -> dict[tuple[int, tuple[str | None, ...]], State]:
    """(window start, values) -> state."""
    definition = of.definition
    found: dict[tuple[int, tuple[str | None, ...]], list[State]] = {}
    for e in events:
        opens = max((edge for edge in edges[:-1] if edge <= e["timestamp"]), default=None)
        if opens is None or e["timestamp"] >= edges[-1]:
            continue
        if definition.event_type not in (None, e["event_type"]) or not holds(definition.filter or Filter(), e):
            continue
        key = (opens, tuple(text(e, name) for name in dimensions))
        found.setdefault(key, []).append(_one(e, definition))
    return {key: aggregate.merge(parts) for key, parts in found.items()}


def _one(found: Event, definition: MetricDefinition) -> State:
    if definition.aggregate == "count":
        return State(count=1)
    has = text(found, definition.property or "$person")
    if definition.aggregate == "unique":
        return State(count=1, sketch=None if has is None else sketch.sketch_of([has]))
    number = None if has is None else number_of(has)
    taken = "sum" if definition.aggregate == "avg" else definition.aggregate
    return State(
        count=1,
        numbers=int(number is not None),
        not_numbers=int(has is not None and number is None),
        **({} if number is None else {taken: number}),  # type: ignore[arg-type]
    )


def comparable(state: State) -> Any:
    """A state whose sketch is compared by its estimate and size, not by the order of its bytes."""
    known = None if state.sketch is None else sketch.estimate(state.sketch)
    return json.dumps(
        [state.count, state.numbers, state.not_numbers]
        + [None if v is None else f"{v + 0:f}" for v in (state.sum, state.min, state.max)]
        + [known]
    )
