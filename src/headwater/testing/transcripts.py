"""Window transcripts: events in, panes and answers out, as data that every stream engine replays.

A transcript is a TOML file (docs/specs/pane.md, section "Transcripts"). `load` reads it strictly, `events_of` gives
its log, `differences` compares panes with it. Nothing here knows an engine or an adapter.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from datetime import date, datetime
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal

import msgspec
import pyarrow as pa

from headwater.clock import HOUR, MINUTE, from_datetime, rfc3339
from headwater.model.aggregate import State, merge, value
from headwater.model.batch import SCHEMA
from headwater.model.interval import Interval, next_window, start_of_day, window_edges, zone_of
from headwater.model.metric import Aggregate, Metric, MetricDefinition
from headwater.model.value import decimal_text
from headwater.panes.port import PanesView

WIDTHS = {"minute": MINUTE, "5m": 5 * MINUTE, "hour": HOUR}
PROJECT = "transcript"


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event of the log, as ingest leaves it. `at`: event time, receipt where absent."""

    received: datetime
    id: str
    type: str
    at: datetime | None = None
    user: str | None = None
    anonymous: str | None = None
    properties: dict[str, Any] = {}


class GivenMetric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A metric definition without a filter."""

    aggregate: Aggregate
    event_type: str | None = None
    property: str | None = None
    dimensions: list[tuple[str, ...]] = []


class ExpectedPane(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of a pane; `none` where there must not be one. `dimensions`: [name, value], or [name] for absent."""

    metric: str
    width: Literal["minute", "5m", "hour"]
    start: datetime
    value: str
    dimensions: list[list[str]] = []
    store: Literal["live", "tail"] = "live"
    not_numbers: int = 0


class ExpectedDays(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values of consecutive local days, merged from the live hours: `values` and `hours` a day."""

    metric: str
    zone: str
    first: date
    values: list[str]
    hours: list[int]


class Transcript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`skipped`: which events (by place in the list) are copies or conflicts. Receipt must not go back."""

    description: str
    metrics: dict[str, GivenMetric]
    events: list[Given]
    skipped: list[int] = []
    panes: list[ExpectedPane] = []
    days: list[ExpectedDays] = []


def shipped() -> list[Traversable]:
    """The transcripts that come with Headwater, by name."""
    folder = resources.files("headwater.testing") / "window_transcripts"
    return sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)


def load(text: str) -> Transcript:
    """Reads a transcript. Raises `msgspec.ValidationError` for unknown fields, ValueError for receipts that go back."""
    transcript = msgspec.convert(tomllib.loads(text), Transcript)
    received = [event.received for event in transcript.events]
    if received != sorted(received):
        raise ValueError(f"transcript {transcript.description!r}: receipt goes back")
    return transcript


def metrics_of(transcript: Transcript) -> list[Metric]:
    """Its metrics, all of version 1 and of project `PROJECT`."""
    return [
        Metric(PROJECT, name, 1, 0, MetricDefinition(m.aggregate, m.event_type, m.property, None, tuple(m.dimensions)))
        for name, m in transcript.metrics.items()
    ]


def events_of(transcript: Transcript) -> pa.RecordBatch:
    """Its log from position 0 on, as one EventBatch v1."""
    rows = [
        (
            e.id,
            e.type,
            e.user,
            e.anonymous,
            from_datetime(e.at or e.received),
            from_datetime(e.received),
            PROJECT,
            None,
            msgspec.json.encode(e.properties).decode(),
            "{}",
        )
        for e in transcript.events
    ]
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(list(c), type=f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def differences(transcript: Transcript, view: PanesView) -> list[str]:
    """What the panes hold otherwise than the transcript says, a line each; [] where they agree."""
    skipped = view.skipped(0, len(transcript.events))
    found = [] if skipped == transcript.skipped else [f"skipped: {skipped}, not {transcript.skipped}"]
    aggregates = {m.name: m.definition.aggregate for m in metrics_of(transcript)}
    for pane in transcript.panes:
        state = _state(view, pane)
        shown = "none" if state is None else _shown(state, aggregates[pane.metric])
        not_numbers = 0 if state is None else state.not_numbers
        if (shown, not_numbers) != (pane.value, pane.not_numbers):
            found.append(
                f"{pane.store} {pane.metric} {pane.width} {rfc3339(from_datetime(pane.start))} {pane.dimensions}: "
                f"{shown} with {not_numbers} not numbers, not {pane.value} with {pane.not_numbers}"
            )
    for days in transcript.days:
        got = list(_days(view, days, aggregates[days.metric]))
        if got != list(zip(days.values, days.hours, strict=True)):
            found.append(f"days of {days.metric} in {days.zone} from {days.first}: {got}")
    return found


def _state(view: PanesView, pane: ExpectedPane) -> State | None:
    pairs = sorted((pair[0], pair[1] if len(pair) > 1 else None) for pair in pane.dimensions)
    names, values = tuple(name for name, _ in pairs), tuple(v for _, v in pairs)
    start, width = from_datetime(pane.start), WIDTHS[pane.width]
    series = (PROJECT, f"{pane.metric}@1", names, width, start, start + 1)
    panes = view.live(*series) if pane.store == "live" else view.tail(*series, since=0)
    states = [p.state for p in panes if p.key.values == values]
    return merge(states) if states else None


def _days(view: PanesView, expected: ExpectedDays, aggregate: str) -> Iterator[tuple[str, int]]:
    zone = zone_of(expected.zone)
    start = end = start_of_day(expected.first, zone)
    for _ in expected.values:
        end = next_window(end, "day", zone)
    edges = window_edges(Interval(start, end), "day", zone)
    for begin, close in itertools.pairwise(edges):
        panes = view.live(PROJECT, f"{expected.metric}@1", (), HOUR, begin, close)
        yield _shown(merge(p.state for p in panes), aggregate), (close - begin) // HOUR


def _shown(state: State, aggregate: str) -> str:
    shown = value(state, aggregate)
    return "none" if shown is None else str(shown) if isinstance(shown, int) else decimal_text(shown)
