"""Metric definitions and filters: what is counted, of which events, along which dimensions (docs/specs/metric.md)."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from headwater.errors import Refused

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
Aggregate = Literal["count", "sum", "avg", "min", "max", "unique"]
Op = Literal["eq", "ne", "in", "not_in", "exists"]
FIELDS = ("$eventType", "$userId", "$anonymousId", "$eventId")
CONTEXT = "$context."
PERSON = "$person"  # userId, else anonymousId: what `unique` counts without a property


class Condition(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One test of one property's or field's text.

    `eq`, `ne` take a scalar, `in`, `not_in` a list of scalars, `exists` a boolean (default true). Scalars are
    compared by their text (`value.text_of`). An absent property is equal to nothing: `ne` and `not_in` hold for it.
    """

    property: str
    op: Op
    value: Any = None


class Filter(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """All of `all` hold, and at least one of `any` where `any` is given. Nested filters are allowed in both."""

    all: tuple[Condition | Filter, ...] = ()
    any: tuple[Condition | Filter, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.all or self.any)


class MetricDefinition(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    """What a user writes: a file in git or the body of `PUT /v1/metrics/{name}`."""

    aggregate: Aggregate
    event_type: str | None = None
    property: str | None = None
    filter: Filter | None = None
    dimensions: tuple[tuple[str, ...], ...] = ()
    description: str = ""
    unit: str = ""


class _Written(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`MetricDefinition` before its filter is understood: which kind a part of a filter is, is seen by its members,
    and msgspec tells structs apart by a tag only."""

    aggregate: Aggregate
    event_type: str | None = None
    property: str | None = None
    filter: Any = None
    dimensions: tuple[tuple[str, ...], ...] = ()
    description: str = ""
    unit: str = ""


def definition_from(written: Any) -> MetricDefinition:
    """The definition that decoded JSON or TOML stands for. Raises `Refused(invalid_field)`."""
    try:
        plain = msgspec.convert(written, _Written)
    except msgspec.ValidationError as error:
        raise Refused("invalid_field", 422, f"metric definition: {error}") from error
    fields = {name: getattr(plain, name) for name in plain.__struct_fields__}
    try:
        fields["filter"] = None if plain.filter is None else filter_from(plain.filter)
    except Refused as refused:
        raise Refused("invalid_field", 422, f"metric definition: {refused.detail}") from refused
    return MetricDefinition(**fields)


def filter_from(written: Any, depth: int = 0) -> Filter:
    """The filter that decoded JSON stands for: an object with `all`, `any`, or a single condition.
    Raises `Refused(invalid_query)`."""
    part = _part_from(written, depth)
    return part if isinstance(part, Filter) else Filter(all=(part,))


def _part_from(written: Any, depth: int) -> Condition | Filter:
    if depth > 9:
        raise Refused("invalid_query", 422, "filter: nested deeper than 8")
    if not isinstance(written, dict):
        raise Refused("invalid_query", 422, "filter: expected an object with 'all', 'any' or 'property', 'op', 'value'")
    if "property" in written or "op" in written:
        try:
            return msgspec.convert(written, Condition)
        except msgspec.ValidationError as error:
            raise Refused("invalid_query", 422, f"filter: {error}") from error
    unknown = sorted(set(written) - {"all", "any"})
    if unknown:
        raise Refused("invalid_query", 422, f"filter: {unknown[0]!r} is not known; allowed are 'all' and 'any'")
    lists = {name: written.get(name, []) for name in ("all", "any")}
    for name, parts in lists.items():
        if not isinstance(parts, list | tuple):
            raise Refused("invalid_query", 422, f"filter: {name!r} takes a list of conditions")
    return Filter(**{name: tuple(_part_from(p, depth + 1) for p in parts) for name, parts in lists.items()})


class Metric(msgspec.Struct, frozen=True, rename="camel"):
    """A definition as it is in force. A change of what is counted makes a new `version`."""

    project_id: str
    name: str
    version: int
    changed_at: int
    definition: MetricDefinition

    @property
    def key(self) -> str:
        """Names one version in panes, rollups and cache keys."""
        return f"{self.name}@{self.version}"

    @property
    def dimension_sets(self) -> tuple[tuple[str, ...], ...]:
        """The totals first, then every declared set, sorted within itself, each once."""
        declared = dict.fromkeys(tuple(sorted(d)) for d in self.definition.dimensions)
        return ((), *(d for d in declared if d))


BUILT_IN: dict[str, MetricDefinition] = {
    "events": MetricDefinition(aggregate="count", description="All events", unit="events"),
    "daily_active_users": MetricDefinition(
        aggregate="unique", description="People who sent at least one event", unit="people"
    ),
}


def built_in(project_id: str) -> list[Metric]:
    """The metrics that every project has without defining them; version 1, in force since ever."""
    return [Metric(project_id, name, 1, 0, definition) for name, definition in BUILT_IN.items()]


def counts_same(a: MetricDefinition, b: MetricDefinition) -> bool:
    """Whether two definitions differ at most in description and unit, so that stored states stay valid."""

    def bare(d: MetricDefinition) -> MetricDefinition:
        return msgspec.structs.replace(d, description="", unit="")

    return bare(a) == bare(b)


def check_definition(name: str, definition: MetricDefinition) -> None:
    """Raises `Refused(invalid_field)` naming the first thing that cannot be."""

    def refuse(what: str) -> Refused:
        return Refused("invalid_field", 422, f"metric {name!r}: {what}")

    if NAME.fullmatch(name) is None:
        raise refuse("a name is a letter and up to 99 more of A-Z a-z 0-9 _ -")
    if definition.aggregate in ("sum", "avg", "min", "max") and not definition.property:
        raise refuse(f"aggregate {definition.aggregate!r} needs 'property', the number to take")
    if definition.aggregate == "count" and definition.property:
        raise refuse("aggregate 'count' takes no 'property'; use a filter with op 'exists'")
    if len(definition.dimensions) > 20 or any(not 1 <= len(d) <= 5 for d in definition.dimensions):
        raise refuse("'dimensions' takes at most 20 sets of 1 to 5 names")
    for dimension_set in definition.dimensions:
        if len(set(dimension_set)) != len(dimension_set):
            raise refuse(f"dimension set {list(dimension_set)} names one property twice")
    if definition.filter is not None:
        check_filter(definition.filter)
    for used in names_used(definition):
        check_name(used)


def check_name(name: str) -> None:
    """Raises `Refused(invalid_query)` where a `$field` is unknown or a name is empty or too long."""
    if not 1 <= len(name) <= 255:
        raise Refused("invalid_query", 422, "a property name has 1 to 255 characters")
    if (
        name.startswith("$")
        and name not in (*FIELDS, PERSON)
        and not (name.startswith(CONTEXT) and len(name) > len(CONTEXT))
    ):
        raise Refused("invalid_query", 422, f"{name!r} is no field; fields are {', '.join(FIELDS)} and $context.NAME")


def check_filter(given: Filter, depth: int = 0) -> None:
    """Raises `Refused(invalid_query)` where a condition's value does not fit its op."""
    if depth > 8:
        raise Refused("invalid_query", 422, "filter: nested deeper than 8")
    for part in (*given.all, *given.any):
        if isinstance(part, Filter):
            check_filter(part, depth + 1)
            continue
        check_name(part.property)
        scalar = (str, int, float, bool)
        if part.op in ("in", "not_in"):
            fits = isinstance(part.value, list) and all(isinstance(v, scalar) for v in part.value)
        elif part.op == "exists":
            fits = part.value is None or isinstance(part.value, bool)
        else:
            fits = isinstance(part.value, scalar)
        if not fits:
            raise Refused(
                "invalid_query",
                422,
                f"filter on {part.property!r}: op {part.op!r} takes "
                + {"in": "a list of scalars", "not_in": "a list of scalars", "exists": "true or false"}.get(
                    part.op, "a string, number or boolean"
                ),
            )


def filter_names(given: Filter | None) -> list[str]:
    """Every property and field that a filter looks at."""
    if given is None:
        return []
    names: list[str] = []
    for part in (*given.all, *given.any):
        names += filter_names(part) if isinstance(part, Filter) else [part.property]
    return list(dict.fromkeys(names))


def names_used(definition: MetricDefinition) -> list[str]:
    """Every property and field that the definition needs of an event, each once, in a stable order."""
    names = [definition.property] if definition.property else []
    if definition.aggregate == "unique" and not definition.property:
        names.append(PERSON)
    names += filter_names(definition.filter)
    names += [name for dimension_set in definition.dimensions for name in dimension_set]
    return list(dict.fromkeys(names))
